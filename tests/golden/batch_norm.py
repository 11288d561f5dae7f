"""Makes batch_norm.npz: torch's BatchNorm2d trained by SGD for 20 steps, each with another size of map.

python tests/golden/batch_norm.py     (torch 2)
"""

import pathlib

import numpy as np
import torch

STEPS, BATCH, CHANNELS, RATE = 20, 4, 5, 0.01
SIZES = [(3, 4), (1, 1), (7, 2), (1, 6), (5, 5)]


def main():
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    layer = torch.nn.BatchNorm2d(CHANNELS)
    optimiser = torch.optim.SGD(layer.parameters(), lr=RATE)
    arrays = {}
    for step in range(STEPS):
        shape = (BATCH, *SIZES[step % len(SIZES)], CHANNELS)
        offset, spread = np.arange(CHANNELS), 0.3 + np.arange(CHANNELS)
        x = (generator.standard_normal(shape) * spread + offset).astype(np.float32)
        probe = generator.standard_normal(shape).astype(np.float32)  # the loss is the sum of the output times this
        leaf = torch.from_numpy(x).requires_grad_()
        y = layer(leaf.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        optimiser.zero_grad()
        (y * torch.from_numpy(probe)).sum().backward()
        optimiser.step()
        tensors = {
            "output": y,
            "gradient": leaf.grad,
            "weight": layer.weight,
            "bias": layer.bias,
            "mean": layer.running_mean,
            "var": layer.running_var,
        }
        arrays |= {f"x_{step}": x, f"probe_{step}": probe}
        arrays |= {f"{name}_{step}": tensor.detach().clone().numpy() for name, tensor in tensors.items()}
    layer.eval()
    with torch.no_grad():
        y = layer(torch.from_numpy(arrays["x_0"]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), inference=y.numpy(), **arrays)


if __name__ == "__main__":
    main()
