"""Makes efficientnet.npz: torchvision's EfficientNet, which pads as torch does, and transformers', which pads as
TensorFlow does where sizes are even; small and with seeded weights.

python tests/golden/efficientnet.py     (torch 2, torchvision 0.26, transformers 5)
"""

import pathlib
import re
from functools import partial

import numpy as np
import torch
import transformers
from seeded import uniform, values
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

STAGES = (  # expansion, kernel, stride, inputs, outputs, blocks
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
SIZES = {"symmetric": [(101, 64), (70, 33)], "same": [(96, 64)]}
TORCHVISION = {
    r"features\.0\.0": "stem",
    r"features\.0\.1": "stem_norm",
    r"features\.8\.0": "end",
    r"features\.8\.1": "end_norm",
    r"features\.1\.(\d+)\.block\.": r"stages.0.\1.1.",
    r"features\.(\d)\.(\d+)\.block\.": lambda match: f"stages.{int(match[1]) - 1}.{match[2]}.",
    r"^(stages\.0\.\d+\.)1\.(\d)\.": lambda match: f"{match[1]}{int(match[2]) + 1}.",
    r"^(stages\.\d\.\d+\.)0\.0": r"\1expand",
    r"^(stages\.\d\.\d+\.)0\.1": r"\1expand_norm",
    r"^(stages\.\d\.\d+\.)1\.0": r"\1depthwise",
    r"^(stages\.\d\.\d+\.)1\.1": r"\1depthwise_norm",
    r"^(stages\.\d\.\d+\.)2\.fc1": r"\1excite.reduce",
    r"^(stages\.\d\.\d+\.)2\.fc2": r"\1excite.expand",
    r"^(stages\.\d\.\d+\.)3\.0": r"\1project",
    r"^(stages\.\d\.\d+\.)3\.1": r"\1project_norm",
}
TRANSFORMERS = {
    r"embeddings\.convolution": "stem",
    r"embeddings\.batchnorm": "stem_norm",
    r"encoder\.top_conv": "end",
    r"encoder\.top_bn": "end_norm",
    r"encoder\.blocks\.(\d)\.": r"stages.\1.0.",
    r"expansion\.expand_conv": "expand",
    r"expansion\.expand_bn": "expand_norm",
    r"depthwise_conv\.depthwise_conv": "depthwise",
    r"depthwise_conv\.depthwise_norm": "depthwise_norm",
    r"squeeze_excite": "excite",
    r"projection\.project_conv": "project",
    r"projection\.project_bn": "project_norm",
}


def seed(model, names):
    for name, tensor in model.state_dict().items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        shape = tuple(tensor.shape)
        if name.startswith("classifier") or name.endswith("num_batches_tracked"):
            continue
        if shape[2:] == (1, 1):
            array = values(name, shape[:2])[:, :, None, None]
        elif len(shape) == 4:
            array = values(name, (*shape[2:], shape[1], shape[0])).transpose(3, 2, 0, 1)
        else:
            array = values(name, shape)
        tensor.copy_(torch.from_numpy(array.copy()))
    return model.eval()


def symmetric():
    """Width 0.25 and depth 0.5 of B0."""
    model = EfficientNet([partial(MBConvConfig, width_mult=0.25, depth_mult=0.5)(*stage) for stage in STAGES], 0.0)
    model.features[0][0] = torch.nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    return seed(model, TORCHVISION).features


def same():
    """Width 0.25 of B0 to multiples of 4, one block a stage."""
    config = transformers.EfficientNetConfig(
        num_channels=1,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        depth_divisor=4,
        hidden_dim=320,
    )
    model = seed(transformers.EfficientNetModel(config), TRANSFORMERS)
    return lambda x: model(x).last_hidden_state


def main():
    arrays = {}
    with torch.no_grad():
        for padding, model in (("symmetric", symmetric()), ("same", same())):
            for size in SIZES[padding]:
                x = torch.from_numpy(2 * uniform("x", size).astype(np.float32))[None, None]
                arrays[f"{padding}/{size[0]}"] = model(x)[0].permute(1, 2, 0).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
