"""A small model of each family: all its kinds of layers, in few channels."""

import zoo

MEL = {"type": "LogMel", "sample_rate": 16000}
FBANK = {"type": "KaldiFbank", "sample_rate": 16000, "bins": 32}
BLOCKS = (1, 1, 1, 1)
RESNET = {"type": "ResNet", "depths": BLOCKS, "widths": (4,) * 4}
SPEECH = {
    "type": "Wav2Vec",
    "sample_rate": 16000,
    "widths": (8, 8, 8),
    "kernels": (10, 3, 3),
    "strides": (10, 4, 4),
}
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2}
HTSAT = {
    "type": "HTSAT",
    "depths": (2, 2),
    "heads": (2, 4),
    "embedding": 8,
    "bins": 16,
    "frames": 33,
    "image": 32,
    "window": 4,
}


def entry(name, frontend, network, classes=5, window=0.5, **fields):
    """The entry of a classifier, or with `classes=0` of an encoder."""
    if not classes:
        fields = {"model": {"type": "Encoder"}, "task": "embedding"} | fields
    fields = {"task": "multilabel"} | fields
    return zoo.Entry(name=name, frontend=frontend, network=network, classes=classes, window=window, **fields)


def speech(name, classes=0, frontend=None, **options):
    network = {"type": "Wav2Vec2", **TRANSFORMER, "bins": 8, "kernel": 8, "groups": 2} | options
    return entry(name, SPEECH | (frontend or {}), network, classes)


NETWORKS = (
    entry("convnext", MEL, {"type": "ConvNeXt", "depths": BLOCKS, "widths": (4, 8, 8, 8), "layer_scale": 0.5}),
    entry("resnet", MEL, {"type": "ResNet", "depths": BLOCKS, "widths": (4, 8, 8, 8)}),
    entry("efficientnet", MEL, {"type": "EfficientNet", "depths": (1,) * 7, "widths": (8,) * 8}),
    entry(
        "perch",
        {"type": "PerchLogMel", "sample_rate": 32000},
        {"type": "EfficientNet", "depths": (1,) * 7, "widths": (8,) * 8, "padding": "same", "activation": "silu"},
        model={"type": "Classifier", "prototypes": 2},
    ),
    entry("cnn", MEL, {"type": "CNN", "widths": (4, 8, 8, 8), "pools": (2, 2, 2, 1), "input_norm": 64}),
    entry("panns_resnet", MEL, {"type": "PANNsResNet", "depths": BLOCKS, "widths": (4, 8, 8, 8), "embedding": 16}),
    entry("mobilenet", MEL, {"type": "MobileNetV2", "depths": (1,) * 7, "widths": (8,) * 8, "embedding": 16}),
    entry("mobilenet_v3", MEL, {"type": "MobileNetV3", "widths": (8,) * 7, "inner": (16,) * 15}),
    entry("dymn", MEL, {"type": "DyMN", "widths": (8,) * 7, "inner": (16,) * 15, "contexts": (16,) * 15}),
    entry(
        "ast",
        FBANK | {"frames": 48},
        {"type": "AST", **TRANSFORMER, "bins": 32, "frames": 48},
        model={"type": "Classifier", "norm": 1e-12},
    ),
    entry(
        "ced", MEL, {"type": "CED", **TRANSFORMER, "frames": 48}, model={"type": "Classifier", "norm": 1e-5}, window=1.5
    ),
    entry("passt", MEL | {"bins": 32}, {"type": "PaSST", **TRANSFORMER, "grid": (4, 2)}),
    entry("beats", FBANK, {"type": "BEATs", **TRANSFORMER, "embedding": 12, "kernel": 8, "groups": 2, "buckets": 8}),
    entry(
        "ecapa",
        {"type": "SpeechBrainFbank", "sample_rate": 16000},
        {"type": "ECAPA", "width": 8, "channels": 16, "outputs": 24, "parts": 4},
        0,
    ),
    entry("wespeaker", FBANK, {"type": "WeSpeaker", "depths": BLOCKS, "width": 8, "channels": 4, "bins": 32}, 0),
    speech("wav2vec2", 5),
    speech("hubert_large", norm_first=True, frontend={"norm": "layer", "bias": True}),
    speech("wavlm", buckets=8),
    speech("data2vec", position_layers=2, kernel=5),
    entry(
        "whisper",
        {"type": "WhisperLogMel", "sample_rate": 16000, "total_frames": 50},
        {"type": "Whisper", **TRANSFORMER, "steps": 25},
        0,
    ),
    entry("clap", {"type": "CLAPLogMel", "sample_rate": 16000, "bins": 16, "seconds": 0.5, "f_max": 8000.0}, HTSAT),
    entry(
        "weighted",
        SPEECH,
        {"type": "WeightedLayers", "network": {"type": "Wav2Vec2", **TRANSFORMER, "bins": 8, "kernel": 8, "groups": 2}},
        model={"type": "Classifier", "projection": 8},
    ),
    entry(
        "x_vector",
        SPEECH,
        {
            "type": "XVector",
            "network": {"type": "Wav2Vec2", **TRANSFORMER, "bins": 8, "kernel": 8, "groups": 2},
            "width": 8,
            "widths": (8, 8, 8, 8, 8),
        },
        0,
    ),
    entry("leaf", {"type": "LEAF", "sample_rate": 16000, "bins": 32}, RESNET),
    entry("sincnet", {"type": "SincNet", "sample_rate": 16000, "bins": 32}, RESNET),
    entry("pcen", {"type": "PCEN", "sample_rate": 16000}, RESNET),
)
