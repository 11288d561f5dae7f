"""Perch 2.0, van Merrienboer et al., 2025, arXiv:2508.04665: birds, frogs, insects and mammals.

Weights: https://www.kaggle.com/models/google/bird-vocalization-classifier (Apache-2.0), a TensorFlow SavedModel of a
network that was trained in Flax. The zoo loads a copy on the Hub. This is an unofficial conversion of official weights.

The SavedModel numbers its arrays in the order in which Flax sorts a tree: running statistics, parameters, and three
arrays of the head. They are an EfficientNet-B3 and 4 prototypes for each of 14,795 classes, 101,757,263 numbers in all.
The authors' code, https://github.com/google-research/perch, has the names of the arrays and the whole computation, with
two differences. The blocks of the released model have SiLU instead of ReLU. Its log-mel is the code's `SimpleMelspec`
with the paper's floor of 1e-5 instead of `MelSpectrogram` with 0.01. Authors of ports found this by comparing their
outputs with the SavedModel's, for example https://github.com/Benedict-Carling/perch2-int8. This module follows that
port's list of the names.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from .._entry import Checkpoint, Entry
from .._foreign import ENCODER, Recognition, Shapes, WeightFile
from .._labels import read_labels
from .._rules import Rule, flax_layer, flax_norm, under

ENTRIES = (
    Entry(
        name="perch_v2",
        frontend={"type": "PerchLogMel", "sample_rate": 32000},
        network={"type": "perch_v2"},
        model={"type": "Classifier", "prototypes": 4},
        classes=14795,
        task="multiclass",
        window=5.0,
        license="Apache-2.0",
        source="https://huggingface.co/cgeorgiaw/Perch",  # a mirror of the authors' files
        paper="https://arxiv.org/abs/2508.04665",
        checkpoint=Checkpoint(
            repo="cgeorgiaw/Perch", table="perch", file="variables/variables.index", label_file="assets/labels.csv"
        ),
    ),
)
DEPTHS, WIDTHS = (2, 3, 3, 5, 5, 6, 2), (40, 24, 32, 48, 96, 136, 232, 384)  # EfficientNet-B3's
LEAF = re.compile(r"_tf_var_leaves/(\d+)/\.ATTRIBUTES/VARIABLE_VALUE")


def prototypes_first(array: np.ndarray) -> np.ndarray:
    """Transposes prototypes from `outputs inputs prototypes` to `outputs prototypes inputs`."""
    return array.transpose(0, 2, 1)


def _conv_norm(conv: str, norm: str, name: str) -> tuple[Rule, ...]:
    """The rules of a convolution without a bias, and of the BatchNorm behind it."""
    return flax_layer(conv, name)[0], *flax_norm(norm, f"{name}_norm")


# The names are Flax's, except those of blocks: Flax numbers these in one row (`MBConv_25`), `_named` by stage.
BODY = (
    *under("Stem_0/", "network.", *_conv_norm("Conv_0", "BatchNorm_0", "stem")),
    *under("Head_0/", "network.", *_conv_norm("Conv_0", "BatchNorm_0", "end")),
    *under(
        r"stages/(\d+)/(\d+)/",
        r"network.stages.\1.\2.",
        *_conv_norm("ExpandConv", "ExpandBatchNorm", "expand"),
        *_conv_norm("DepthwiseConv", "DepthwiseBatchNorm", "depthwise"),
        *flax_layer("SqueezeAndExcitation_0/Reduce", "excite.reduce"),
        *flax_layer("SqueezeAndExcitation_0/Expand", "excite.expand"),
        *_conv_norm("ProjectConv", "ProjectBatchNorm", "project"),
    ),
)
RULES = {
    "perch": (
        *BODY,
        Rule("head/prototypes", "head.weight", prototypes_first),
        Rule("head/protop_kernel", "head.scale"),
        Rule("head/bias", "head.bias"),
    ),
    "perch_dense_authors": (*BODY, *flax_layer("head/Dense_0", "head")),
}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the SavedModel's `variables.index`, and the authors' Flax parameters of any size.

    The keys of Flax parameters are `params/Stem_0/Conv_0/kernel` and so on, with slashes or dots. The head consists of
    prototypes, is dense, or is missing.

    A file of weights other than the released ones does not show the activation and the log-mel. For those of the
    authors' code the owner gives `network={"activation": "relu"}`, `frontend={"framing": "center", "floor": 0.01}`. The
    labels of the released weights are in `assets/labels.csv`.
    """
    paths = _paths(file.shapes)
    if "Stem_0/Conv_0/kernel" not in paths or "MBConv_0/DepthwiseConv/kernel" not in paths:
        return None
    where = str(file.path)
    names = _named(file.shapes, where)
    shapes = {name: file.shapes[key] for name, key in names.items()}
    depths, widths = _sizes(shapes, where)
    is_release = (depths, widths) == (DEPTHS, WIDTHS)
    network = {"type": "EfficientNet", "depths": depths, "widths": widths, "padding": "same", "stem_padding": "valid"}
    network |= {"first_residual": False, "momentum": 0.01}
    entry = dataclasses.replace(ENTRIES[0], network={"type": "perch_v2"} if is_release else network)
    if "head/prototypes" in shapes:
        classes, _, count = shapes["head/prototypes"]
        head, rules = {"model": {"type": "Classifier", "prototypes": count}, "classes": classes}, RULES["perch"]
        is_release = is_release and (count, classes) == (4, ENTRIES[0].classes)
    elif "head/Dense_0/kernel" in shapes:
        classes = shapes["head/Dense_0/kernel"][-1]
        head, rules = {"model": {"type": "Classifier"}, "classes": classes}, RULES["perch_dense_authors"]
        is_release = False
    else:
        head, rules = ENCODER, RULES["perch"]
    changes = {} if is_release else {"license": None, "source": None}  # somebody else trained it
    list_of_labels = file.path.parent.parent / "assets" / "labels.csv"
    if is_release and head is not ENCODER and file.format == "tensorflow" and list_of_labels.is_file():
        changes |= {"labels": read_labels(list_of_labels)}
    if not (is_release and head is not ENCODER):
        changes |= {"checkpoint": None}
    return Recognition(dataclasses.replace(entry, **head, **changes), rules, names=names)


def _released() -> list[str]:
    """The names of the SavedModel's arrays, in the order of the SavedModel."""
    layers, norms = ["Stem_0/Conv_0/kernel", "Head_0/Conv_0/kernel"], ["Stem_0/BatchNorm_0", "Head_0/BatchNorm_0"]
    for block in range(sum(DEPTHS)):
        expansion = ("Expand",) if block >= DEPTHS[0] else ()  # in all stages except the first
        for part in (*expansion, "Depthwise", "Project"):
            layers.append(f"MBConv_{block}/{part}Conv/kernel")
            norms.append(f"MBConv_{block}/{part}BatchNorm")
        for part in ("Reduce", "Expand"):
            layers += [f"MBConv_{block}/SqueezeAndExcitation_0/{part}/{leaf}" for leaf in ("kernel", "bias")]
    statistics = (f"{norm}/{leaf}" for norm in norms for leaf in ("mean", "var"))
    parameters = (f"{norm}/{leaf}" for norm in norms for leaf in ("scale", "bias"))
    head = ("head/bias", "head/protop_kernel", "head/prototypes")
    return [*_sorted(statistics), *_sorted([*layers, *parameters]), *head]


def _sorted(names: Iterable[str]) -> list[str]:
    """The names in the order in which Flax sorts a tree: by the first part of the path, then by the next."""
    return sorted(names, key=lambda name: name.split("/"))


def _paths(shapes: Shapes) -> dict[str, str]:
    """The file's keys by Flax's paths in the network. The paths in a head begin with "head"."""
    numbers = {int(match[1]): key for key in shapes if (match := LEAF.fullmatch(key))}
    if numbers:  # other objects in a checkpoint are no arrays of the network
        return {name: numbers[index] for index, name in enumerate(_released()) if index in numbers}
    paths: dict[str, str] = {}
    for key in shapes:
        path = re.sub(r"^(params|batch_stats)/", "", key.replace(".", "/"))
        path = re.sub(r"^(embedding_model/)?(backbone/)?(?=(Stem_0|Head_0|MBConv_\d+)/)", "", path)
        paths[key if path in paths else path] = key  # a repeated path keeps its key, which matches no rule
    return paths


def _named(shapes: Shapes, where: str = "the file") -> dict[str, str]:
    """The file's keys by the rules' names. A block's name has its stage and index; the head's arrays lack its name.

    Raises ValueError for several heads.
    """
    paths = _paths(shapes)
    places, names, heads = _places(paths, shapes), {}, set()
    for path, key in paths.items():
        if match := re.fullmatch(r"MBConv_(\d+)/(.*)", path):
            path = "stages/{}/{}/{}".format(*places[int(match[1])], match[2])
        elif match := re.fullmatch(r"(?!Stem_0/|Head_0/)(?:(.*?)/)??(prototypes|protop_kernel|bias|Dense_0/\w+)", path):
            heads.add(match[1])
            path = f"head/{match[2]}"
        names[path] = key
    if len(heads) > 1:
        listing = ", ".join(sorted(map(str, heads)))
        raise ValueError(f"{where} has {len(heads)} heads, {listing}, and a model of the zoo has one: leave one in it.")
    return names


NAMES = {"perch": _named}


def _places(paths: Mapping[str, str], shapes: Shapes) -> list[tuple[int, int]]:
    """The stage of each block and its index in the stage. A stage ends where expansion, kernel or channels change."""
    places: list[tuple[int, int]] = []
    previous = None
    for index in range(len({path.split("/")[0] for path in paths if path.startswith("MBConv_")})):
        depthwise = shapes[paths[f"MBConv_{index}/DepthwiseConv/kernel"]]
        project = shapes[paths[f"MBConv_{index}/ProjectConv/kernel"]]
        kind = (f"MBConv_{index}/ExpandConv/kernel" in paths, depthwise[0], project[-1])
        stage, place = places[-1] if places else (0, -1)
        places.append((stage, place + 1) if previous in (None, kind) else (stage + 1, 0))
        previous = kind
    return places


def _sizes(shapes: Shapes, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The depths and widths of the network, from shapes by the rules' names."""
    blocks = [
        match.groups() for name in shapes if (match := re.fullmatch(r"stages/(\d+)/(\d+)/ProjectConv/kernel", name))
    ]
    stages = len({stage for stage, _ in blocks})
    if stages != len(DEPTHS):
        raise ValueError(
            f"{where} holds a Perch whose EfficientNet has {stages} stages that can be told apart, instead of "
            f"{len(DEPTHS)}: it is too narrow."
        )
    projects = [f"stages/{stage}/0/ProjectConv/kernel" for stage in range(stages)]
    widths = tuple(shapes[name][-1] for name in ("Stem_0/Conv_0/kernel", *projects))
    return tuple(sum(each == str(stage) for each, _ in blocks) for stage in range(stages)), widths
