"""ConvNeXt-Tiny for audio tagging, Pellegrini et al., 2023, arXiv:2306.00830: a ConvNeXt behind PANNs' log-mel.

Weights: https://huggingface.co/topel/ConvNeXt-Tiny-AT (MIT).
"""

from .._entry import Acceptance, Checkpoint, Entry
from .._foreign import Recognition, WeightFile, like
from .._rules import NORM, Rule, drop, hwio, under

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
            repo="topel/ConvNeXt-Tiny-AT", table="topel_convnext", label_file="class_labels_indices.csv"
        ),
    ),
)

ACCEPTANCE = {
    "convnext_audioset": Acceptance(  # the model card's example
        repo="topel/ConvNeXt-Tiny-AT",
        file="f62-S-v2swA_200000_210000.wav",
        classes=(0, 137, 138, 139, 151, 506),
        threshold=0.25,
    ),
}

RULES = {
    "topel_convnext": (
        Rule(r"(spectrogram_extractor|logmel_extractor)\..*", drop),
        Rule(r"bn0\.num_batches_tracked", drop),
        Rule(rf"bn0\.{NORM}", r"network.input_norm.\1"),
        Rule(r"downsample_layers\.0\.0\.weight", "network.stages.0.reduce.patchify.weight", hwio),
        Rule(r"downsample_layers\.0\.0\.bias", "network.stages.0.reduce.patchify.bias"),
        Rule(r"downsample_layers\.0\.1\.(weight|bias)", r"network.stages.0.reduce.norm.\1"),
        Rule(r"downsample_layers\.([123])\.0\.(weight|bias)", r"network.stages.\1.reduce.norm.\2"),
        Rule(r"downsample_layers\.([123])\.1\.weight", r"network.stages.\1.reduce.patchify.weight", hwio),
        Rule(r"downsample_layers\.([123])\.1\.bias", r"network.stages.\1.reduce.patchify.bias"),
        *under(
            r"stages\.(\d+)\.(\d+)\.",
            r"network.stages.\1.blocks.\2.",
            Rule("gamma", "layer_scale"),
            Rule(r"dwconv\.weight", "depthwise.weight", hwio),
            Rule(r"dwconv\.bias", "depthwise.bias"),
            Rule(r"norm\.(weight|bias)", r"norm.\1"),
            Rule(r"pwconv1\.(weight|bias)", r"expand.\1"),
            Rule(r"pwconv2\.(weight|bias)", r"contract.\1"),
        ),
        Rule(r"norm\.(weight|bias)", r"network.norm.\1"),
        Rule(r"head_audioset\.(weight|bias)", r"head.\1"),
    )
}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the file of the repo, and files that were fine-tuned from it with other classes."""
    if not {"downsample_layers.0.0.weight", "head_audioset.weight"} <= file.shapes.keys():
        return None
    return Recognition(like(ENTRIES[0], file.shapes["head_audioset.weight"][0]), RULES["topel_convnext"])
