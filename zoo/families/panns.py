"""PANNs, "Large-scale pretrained audio neural networks", Kong et al., 2020, arXiv:1912.10211.

Weights: https://zenodo.org/records/3987831 (CC-BY-4.0), torch files such as `Cnn14_mAP=0.431.pth`. The keys of the
mirrors on the Hub begin with `backbone.`.
"""

import dataclasses
from typing import Any

from .._entry import Checkpoint, Entry
from .._foreign import Recognition, WeightFile, like
from .._labels import AUDIOSET
from .._rules import COUNTER, NORM, Rule, dense, drop, hwio, under

FRONTENDS: dict[int, dict[str, Any]] = {  # by sample rate: the authors' code has one window size for each
    rate: {
        "type": "LogMel",
        "sample_rate": rate,
        "bins": 64,
        "n_fft": n_fft,
        "hop_length": rate // 100,
        "f_min": 50.0,
        "f_max": f_max,
        "mel_scale": "slaney",
        "norm": "slaney",
    }
    for rate, n_fft, f_max in ((32000, 1024, 14000.0), (16000, 512, 8000.0), (8000, 256, 4000.0))
}

ENTRIES = (
    *(
        Entry(
            name=f"panns_{name.lower()}_audioset",
            frontend=FRONTENDS[32000],
            network={"type": network, "input_norm": 64},
            classes=527,
            task="multilabel",
            window=10.0,
            license="CC-BY-4.0",
            source=f"https://huggingface.co/nicofarr/panns_{name}",  # a mirror of https://zenodo.org/records/3987831
            paper="https://arxiv.org/abs/1912.10211",
            metrics=(
                {
                    "dataset": "AudioSet",
                    "metric": "mAP",
                    "value": value,
                    "source": "the publisher, qiuqiangkong/audioset_tagging_cnn",
                },
            ),
            checkpoint=Checkpoint(
                repo=f"nicofarr/panns_{name}",
                table=table,
                **AUDIOSET,
                license="Apache-2.0",
            ),
        )
        for name, network, table, value in (
            ("Cnn14", "cnn14", "panns_cnn", 0.431),
            ("Cnn10", "cnn10", "panns_cnn", 0.380),
            ("ResNet22", "resnet22", "panns_resnet", 0.430),
            ("MobileNetV2", "mobilenet_v2", "panns_mobilenet", 0.383),
        )
    ),
)


def _table(*rules: Rule) -> tuple[Rule, ...]:
    """The table of one of PANNs' networks: `rules`, and the rules that all networks share."""
    return (
        Rule(r"(spectrogram_extractor|logmel_extractor)\..*", drop),
        COUNTER,
        Rule(rf"bn0\.{NORM}", r"network.input_norm.\1"),
        *rules,
        Rule(r"fc1\.(weight|bias)", r"network.embed.\1"),
        Rule(r"fc_audioset\.(weight|bias)", r"head.\1"),
    )


PAIR = (Rule(r"conv(\d)\.weight", r"conv\1.weight", hwio), Rule(rf"bn(\d)\.{NORM}", r"norm\1.\2"))

CNN = _table(
    *(rule for block in range(6) for rule in under(rf"conv_block{block + 1}\.", f"network.blocks.{block}.", *PAIR))
)

RESNET = _table(
    *under(r"conv_block1\.", "network.stem.", *PAIR),
    *(
        rule
        for stage in range(4)
        for rule in under(rf"resnet\.layer{stage + 1}\.(\d+)\.", rf"network.stages.{stage}.\1.", *PAIR)
    ),
    *(
        rule
        for stage in range(1, 4)
        for rule in under(
            rf"resnet\.layer{stage + 1}\.0\.downsample\.",
            f"network.stages.{stage}.0.shortcut.",
            Rule(r"1\.weight", "conv.weight", dense),
            Rule(rf"2\.{NORM}", r"norm.\1"),
        )
    ),
    *under(r"conv_block_after1\.", "network.end.", *PAIR),
)

MOBILENET = _table(
    Rule(r"features\.0\.0\.weight", "network.stem.weight", hwio),
    Rule(rf"features\.0\.2\.{NORM}", r"network.stem_norm.\1"),
    *under(
        r"features\.1\.conv\.",
        "network.blocks.0.",
        Rule(r"0\.weight", "depthwise.weight", hwio),
        Rule(rf"2\.{NORM}", r"depthwise_norm.\1"),
        Rule(r"4\.weight", "project.weight", dense),
        Rule(rf"5\.{NORM}", r"project_norm.\1"),
    ),
    *(
        rule
        for block in range(1, 17)
        for rule in under(
            rf"features\.{block + 1}\.conv\.",
            f"network.blocks.{block}.",
            Rule(r"0\.weight", "expand.weight", dense),
            Rule(rf"1\.{NORM}", r"expand_norm.\1"),
            Rule(r"3\.weight", "depthwise.weight", hwio),
            Rule(rf"5\.{NORM}", r"depthwise_norm.\1"),
            Rule(r"7\.weight", "project.weight", dense),
            Rule(rf"8\.{NORM}", r"project_norm.\1"),
        )
    ),
    Rule(r"features\.18\.0\.weight", "network.end.weight", dense),
    Rule(rf"features\.18\.1\.{NORM}", r"network.end_norm.\1"),
)

TABLES = {"panns_cnn": CNN, "panns_resnet": RESNET, "panns_mobilenet": MOBILENET}
RULES = {name: under(r"backbone\.", "", *table) for name, table in TABLES.items()} | {
    f"{name}_authors": table for name, table in TABLES.items()
}
NETWORKS = {  # by a key that only the network has: the network, its table, and its published model
    "conv_block6.conv1.weight": ("cnn14", "panns_cnn", "panns_cnn14_audioset"),
    "resnet.layer1.0.conv1.weight": ("resnet22", "panns_resnet", "panns_resnet22_audioset"),
    "features.18.0.weight": ("mobilenet_v2", "panns_mobilenet", "panns_mobilenetv2_audioset"),
    "conv_block4.conv1.weight": ("cnn10", "panns_cnn", "panns_cnn10_audioset"),
}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises Cnn14, Cnn10, ResNet22, ResNet38 and MobileNetV2, at 32, 16 or 8 kHz, with any classes and bins.

    Raises ValueError for a model with scores over time, which has the arrays of a Cnn14 but another computation.
    """
    shapes = file.shapes
    kind = next((each for key, each in NETWORKS.items() if key in shapes), None)
    if kind is None or not {"fc_audioset.weight", "fc1.weight", "bn0.weight"} <= shapes.keys():
        return None
    if "DecisionLevel" in file.path.name:  # only the name of the file shows it
        raise ValueError(f"{file.path} is a PANNs of the kind DecisionLevel by its name: the zoo has none of these.")
    network, table, name = kind
    if file.count("resnet.layer1.{}.conv1.weight") == 3:
        network = "resnet38"
    bins, embedding = shapes["bn0.weight"][0], shapes["fc1.weight"][0]
    entry = like(next(each for each in ENTRIES if each.name == name), shapes["fc_audioset.weight"][0])
    entry = dataclasses.replace(
        entry,
        frontend=FRONTENDS[_rate(file)] | {"bins": bins},
        network={"type": network, "input_norm": bins, "embedding": embedding},
    )
    return Recognition(entry, TABLES[table])


def _rate(file: WeightFile) -> int:
    """The sample rate, from the height of the file's mel filterbank. Without one: the owner's rate, or 32 kHz."""
    heights = {frontend["n_fft"] // 2 + 1: rate for rate, frontend in FRONTENDS.items()}
    height = file.shapes.get("logmel_extractor.melW", (0,))[0]
    rate = heights.get(height, file.sample_rate)
    return rate if rate in FRONTENDS else 32000
