"""Makes convnext.npz: timm's ConvNeXt, small and with seeded weights, on one map of frames x bins.

python tests/golden/convnext.py     (torch 2, timm 1)
"""

import pathlib

import numpy as np
import timm
import torch

DEPTHS, WIDTHS = (1, 1, 2, 1), (8, 16, 24, 32)


def main():
    generator = np.random.default_rng(0)
    network, tanh = (
        timm.models.convnext.ConvNeXt(in_chans=1, num_classes=0, depths=DEPTHS, dims=WIDTHS, act_layer=name).eval()
        for name in ("gelu", "gelu_tanh")
    )
    arrays = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            centre = {"weight": 1.0, "gamma": 0.5}.get(name.rsplit(".")[-1], 0.0) if parameter.ndim == 1 else 0.0
            values = centre + gain * generator.standard_normal(parameter.shape)
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
            arrays[f"weights/{name}"] = parameter.numpy()
        x = generator.standard_normal((101, 64)).astype(np.float32)
        maps = network.forward_features(torch.from_numpy(x)[None, None])
        tanh.load_state_dict(network.state_dict())
        arrays |= {
            "x": x,
            "features": maps[0].permute(1, 2, 0).numpy(),
            "embedding": network.forward_head(maps)[0].numpy(),
            "embedding_tanh": tanh(torch.from_numpy(x)[None, None])[0].numpy(),
        }
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
