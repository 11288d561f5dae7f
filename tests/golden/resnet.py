"""Makes resnet.npz: transformers' ResNet, small and with seeded weights: maps and embeddings, and a training run.

python tests/golden/resnet.py     (torch 2, transformers 5)
"""

import pathlib
import re

import numpy as np
import torch
from seeded import uniform, values
from transformers import ResNetConfig, ResNetModel

DEPTHS, WIDTHS = (1, 2, 1, 1), (4, 6, 8, 10)
SIZES = [(101, 64), (70, 33)]
STEPS, BATCH, RATE, SIZE = 20, 4, 0.002, (64, 40)
NAMES = {
    r"embedder\.embedder\.convolution": "stem",
    r"embedder\.embedder\.normalization": "norm",
    r"encoder\.stages\.(\d+)\.layers\.": r"stages.\1.",
    r"shortcut\.convolution": "shortcut.conv",
    r"shortcut\.normalization": "shortcut.norm",
    r"layer\.(\d)\.convolution": lambda match: f"conv{int(match[1]) + 1}",
    r"layer\.(\d)\.normalization": lambda match: f"norm{int(match[1]) + 1}",
}


def seeded(config):
    """transformers' model; a 1x1 convolution is a dense layer in ours."""
    model = ResNetModel(config)
    for name, tensor in model.state_dict().items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        shape = tuple(tensor.shape)
        if shape[2:] == (1, 1):
            array = values(name, shape[:2])[:, :, None, None]
        elif len(shape) == 4:
            array = values(name, (*shape[2:], shape[1], shape[0])).transpose(3, 2, 0, 1)
        elif not name.endswith("num_batches_tracked"):
            array = values(name, shape)
        else:
            continue
        tensor.copy_(torch.from_numpy(array.copy()))
    return model


def main():
    arrays = {}
    for kind, factor in (("basic", 1), ("bottleneck", 4)):
        config = ResNetConfig(
            num_channels=1,
            embedding_size=WIDTHS[0],
            hidden_sizes=[factor * width for width in WIDTHS],
            depths=list(DEPTHS),
            layer_type=kind,
        )
        model = seeded(config).eval()
        for size in SIZES:
            x = 2 * uniform("x", size)
            with torch.no_grad():
                y = model(torch.from_numpy(x.astype(np.float32))[None, None])
            arrays[f"{kind}/{size[0]}/features"] = y.last_hidden_state[0].permute(1, 2, 0).numpy()
            arrays[f"{kind}/{size[0]}/embedding"] = y.pooler_output[0, :, 0, 0].numpy()
        if kind == "basic":
            arrays |= trained(model.train())
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


def trained(model):
    """SGD on half the squared distance of embedding @ probe from a target."""
    x, probe, target = (
        torch.from_numpy(uniform(name, shape).astype(np.float32))
        for name, shape in (("batch", (BATCH, 1, *SIZE)), ("probe", (WIDTHS[-1], 3)), ("target", (BATCH, 3)))
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = 0.5 * (model(2 * x).pooler_output[:, :, 0, 0] @ probe - target).square().sum(dim=1).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    arrays = {"trained/losses": np.asarray(losses, np.float32)}
    for name, tensor in model.state_dict().items():
        if "running" in name:
            for pattern, replacement in NAMES.items():
                name = re.sub(pattern, replacement, name)
            arrays[f"trained/{name}"] = tensor.clone().numpy()
    with torch.no_grad():
        arrays["trained/embedding"] = model.eval()(2 * x).pooler_output[:, :, 0, 0].numpy()
    return arrays


if __name__ == "__main__":
    main()
