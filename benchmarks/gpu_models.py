"""The frontends, networks, shapes and targets that `gpu.py` measures. With `--small` they are tiny, for CPU."""

import sys

LOG_MEL = {
    "type": "LogMel", "sample_rate": 16000, "bins": 64, "n_fft": 1024, "win_length": 400, "hop_length": 160,
    "f_min": 60.0, "f_max": 7800.0, "log": "natural", "floor": 1e-8,
}  # fmt: skip
LEAF, SINCNET = ({"type": name, "sample_rate": 16000, "bins": 64} for name in ("LEAF", "SincNet"))
TRAIN = {  # frontend, network, audax's samples/s on a TPU v3-8
    "train resnet18": (LOG_MEL, {"type": "resnet18"}, 7500),
    "train efficientnet_b0": (LOG_MEL, {"type": "efficientnet_b0"}, 7250),
    "train convnext_tiny": (LOG_MEL, {"type": "convnext_tiny"}, 4450),
    "train ast_base": (LOG_MEL | {"bins": 128}, {"type": "ast_base"}, None),
    "train wav2vec2_base": ({"type": "Wav2Vec", "sample_rate": 16000}, {"type": "wav2vec2_base"}, None),
    "train efficientnet_b0 + LEAF": (LEAF, {"type": "efficientnet_b0"}, 2048),
    "train efficientnet_b0 + SincNet": (SINCNET, {"type": "efficientnet_b0"}, 4100),
}
SHAPES = dict.fromkeys(("resnet18", "efficientnet_b0", "convnext_tiny"), (501, 64))
SHAPES |= {"ast_base": (1024, 128), "wav2vec2_base": (80000,)}  # wav2vec2 takes waves, because its frontend learns
COMPARISONS = {
    f"{work} {name}": ({"type": name}, shape) for work in ("forward", "step") for name, shape in SHAPES.items()
}
FRONTENDS = {"frontend LogMel": LOG_MEL, "frontend LEAF": LEAF, "frontend SincNet": SINCNET}
DEPTHWISE = ("EfficientNet-B0 stage 2", *(f"ConvNeXt-Tiny stage {stage}" for stage in range(4)))
FRONTENDS |= {"frontend direct convolution": None}  # LEAF's filters, 128 of 401 taps, as one convolution
CLIP, CLASSES, BATCH, MAX_BATCH, ROUNDS = 5.0, 527, 256, 8192, 5  # the clip in seconds
SMALL = {"type": "ResNet", "depths": (1,), "widths": (8,)}
SMALL_MEL = LOG_MEL | {"sample_rate": 8000, "bins": 16, "n_fft": 256, "win_length": 200, "f_max": 3900.0}
if "--small" in sys.argv:
    TRAIN = {"train small": (SMALL_MEL, SMALL, None)}
    COMPARISONS = {f"{work} small": (SMALL, (64, 16)) for work in ("forward", "step")}
    DEPTHWISE = ("depthwise small",)
    FRONTENDS = {"frontend LogMel": SMALL_MEL}
    CLIP, CLASSES, BATCH, MAX_BATCH, ROUNDS = 0.25, 7, 4, 4, 2


def batch_of(name: str, batch: int) -> int:
    """The batch with which a row begins: for Transformers a fourth of `batch`, so that a step takes as long."""
    return max(1, batch // 4) if name.endswith(("ast_base", "wav2vec2_base")) else batch
