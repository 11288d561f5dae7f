"""The registry of published weights: literals only. Metrics are the publishers' own."""

from ._entry import Checkpoint, Entry

ENTRIES = (
    Entry(
        name="convnext_audioset",
        frontend={
            "type": "LogMel",
            "sample_rate": 32000,
            "bins": 224,
            "n_fft": 1024,
            "hop_length": 320,
            "f_min": 50.0,
            "f_max": 14000.0,
            "mel_scale": "slaney",
            "norm": "slaney",
        },
        network={
            "type": "convnext_tiny",
            "input_norm": 224,
            "stem_padding": (4, 0),
            "pool": "mean_max",
        },
        classes=527,
        task="multilabel",
        window=10.0,
        license="MIT",
        source="https://huggingface.co/topel/ConvNeXt-Tiny-AT",
        paper="https://arxiv.org/abs/2306.00830",
        metrics=(
            {"dataset": "AudioSet", "metric": "mAP", "value": 0.471, "source": "the publisher, topel/ConvNeXt-Tiny-AT"},
        ),
        checkpoint=Checkpoint(
            repo="topel/ConvNeXt-Tiny-AT",
            file="model.safetensors",
            label_file="class_labels_indices.csv",
            table="topel_convnext",
        ),
    ),
)
