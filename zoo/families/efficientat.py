"""EfficientAT, "Efficient large-scale audio tagging", Schmid et al., 2023, arXiv:2211.04772 and arXiv:2310.15648.

Weights: https://github.com/fschmid56/EfficientAT/releases/tag/v0.0.1 (MIT), torch files. No repo on the Hub has them,
so `zoo.convert` reads them. The mAP on AudioSet is the publisher's figure:

| file | parameters | mAP |
|---|---|---|
| `mn04_as_mAP_432.pt` | 0.98 M | 0.432 |
| `mn05_as_mAP_443.pt` | 1.43 M | 0.443 |
| `mn10_as_mAP_471.pt` | 4.88 M | 0.471 |
| `mn20_as_mAP_478.pt` | 17.9 M | 0.478 |
| `mn30_as_mAP_482.pt` | 39.1 M | 0.482 |
| `mn40_as_mAP_484.pt`, `mn40_as_ext_mAP_487.pt` | 68.4 M | 0.484, 0.487 |
| `dymn04_as.pt` | 1.97 M | 0.450 |
| `dymn10_as.pt` | 10.6 M | 0.477 |
| `dymn20_as_mAP_493.pt` | 40.0 M | 0.491 |

The name of the last file says 0.493; the publisher's table says 0.491.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._entry import Checkpoint, Entry
from .._foreign import Recognition, Shapes, WeightFile, like
from .._labels import AUDIOSET
from .._rules import COUNTER, NORM, Rule, dense, time_first, under

RELEASE = Entry(
    name="efficientat_mn10",
    frontend={"type": "efficientat_log_mel", "sample_rate": 32000},
    network={"type": "mn10"},
    model={"type": "Classifier", "projection": 1280, "activation": "hardswish"},
    classes=527,
    task="multilabel",
    window=10.0,
    dropout=0.2,
    license="MIT",
    source="https://github.com/fschmid56/EfficientAT",
    paper="https://arxiv.org/abs/2211.04772",
    checkpoint=Checkpoint(repo="", table="", **AUDIOSET),  # for the labels alone: no repo of the Hub has the weights
)
FACTORS = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)  # by which the published models scale their channels
HEADS = {  # the authors' other heads, by a key that only they have
    "classifier.0.weight": "fully convolutional",
    "classifier.subspace_proj.weight": "attention pooling",
}
LAYER = r"\.(weight|bias)"


class Block(NamedTuple):
    """One block of a file: its rules and its sizes. `context` and `squeeze` are 0 if the block has none."""

    rules: Sequence[Rule]
    inner: int
    outputs: int
    context: int = 0
    squeeze: int = 0


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises mn04 to mn40 and dymn04 to dymn20 of the releases, and others of any width and with any classes.

    If a file has a name like the released ones, such as `mn10_as_hop_15_mAP_463.pt`, the hop in milliseconds or the
    number of mel bins is read from the name. A DyMN has the temperature 1 of the AudioSet models, unless its name or
    its counters show that it was not trained that far.

    Raises ValueError for a head or an excitation that the zoo does not have.
    """
    from audax_eqx.networks.mobilenet_v3 import STAGES, scaled  # imported late, because it needs JAX

    shapes = file.shapes
    if {"features.16.0.weight", "features.1.block.0.0.weight"} <= shapes.keys():
        if shapes["features.0.0.weight"][1] != 1:
            return None  # a model of torchvision, for pictures
        stem, end, path, paper = "features.0", "features.16", "features.{}.block.", "2211.04772"
    elif {"in_c.0.weight", "out_c.0.weight"} <= shapes.keys():
        stem, end, path, paper = "in_c", "out_c", "layers.{}.", "2310.15648"
    else:
        return None
    head = next((head for key, head in HEADS.items() if key in shapes), None)
    if head is not None:
        raise ValueError(f"{file.path} is an EfficientAT with a {head} head: the zoo has those of two linear layers.")
    dynamic = stem == "in_c"
    blocks = [_block(file, path.format(index + (not dynamic)), index) for index in range(len(STAGES))]
    last = {stage: block.outputs for stage, block in zip(STAGES, blocks, strict=True)}
    widths, inner = (shapes[f"{stem}.1.weight"][0], *last.values()), tuple(block.inner for block in blocks)
    network: dict[str, Any] = {"type": "DyMN" if dynamic else "MobileNetV3", "widths": widths, "inner": inner}
    network |= _dynamics(file, blocks) if dynamic else {"squeeze": _squeeze(blocks)}
    entry = like(RELEASE, shapes["classifier.5.weight"][0])
    if (widths, inner) not in map(scaled, FACTORS):
        entry = dataclasses.replace(entry, license=None, source=None)  # somebody else trained it
    model = dict(entry.model) | {"projection": shapes["classifier.2.weight"][0]}
    paper = f"https://arxiv.org/abs/{paper}"
    entry = dataclasses.replace(entry, frontend=_frontend(file), network=network, model=model, paper=paper)
    rules = (
        COUNTER,
        *_layer(re.escape(stem), "network.stem", time_first),
        *_layer(re.escape(end), "network.end", dense),
        Rule(rf"classifier\.2{LAYER}", r"projection.\1"),
        Rule(rf"classifier\.5{LAYER}", r"head.\1"),
        *(rule for block in blocks for rule in block.rules),
    )
    return Recognition(entry, rules)


def _frontend(file: WeightFile) -> dict[str, Any]:
    """The published frontend, with the options that the file's name gives."""
    frontend = dict(RELEASE.frontend)
    if hop := re.search(r"_hop_(\d+)(?:_|\.)", file.path.name):
        frontend["hop_length"] = int(hop[1]) * frontend["sample_rate"] // 1000
    if bins := re.search(r"_mels_(\d+)(?:_|\.)", file.path.name):
        frontend["bins"] = int(bins[1])
    return frontend


def _squeeze(blocks: Sequence[Block]) -> int:
    """The number by which the excitations divide the channels; the published number if no number fits."""
    from audax_eqx.networks.mobilenet_v3 import divisible  # imported late, because it needs JAX

    pairs = [(block.inner, block.squeeze) for block in blocks if block.squeeze]
    fits = (each for each in (4, *range(1, 65)) if all(divisible(inner // each) == to for inner, to in pairs))
    return next(fits, 4)


def _dynamics(file: WeightFile, blocks: Sequence[Block]) -> dict[str, Any]:
    """The options that only a DyMN has.

    No array has the temperature. It falls from 30 to 1 while a model is trained on AudioSet. It is 30 in a file trained
    on ImageNet, and in a file in which no BatchNorm has counted a batch.
    """
    shapes, counter = file.shapes, "in_c.1.num_batches_tracked"
    is_hot = bool(re.search(r"_im(_|\.)", file.path.name)) or (
        counter in file.arrays and not np.any(file.arrays[counter])
    )
    contexts = tuple(block.context for block in blocks)
    index = next(index for index, context in enumerate(contexts) if context)
    coefficients = shapes[f"layers.{index}.depth_act.coef_net.0.weight"][0]
    kernels, pieces = shapes[f"layers.{index}.depth_conv.weight"][2], coefficients // (2 * blocks[index].inner)
    return {"contexts": contexts, "kernels": kernels, "pieces": pieces, "temperature": 30.0 if is_hot else 1.0}


def _layer(path: str, name: str, move: Any) -> tuple[Rule, ...]:
    """The rules of a convolution without a bias, and of its norm."""
    return Rule(rf"{path}\.0\.weight", f"{name}.weight", move), Rule(rf"{path}\.1\.{NORM}", rf"{name}_norm.\1")


def _block(file: WeightFile, path: str, index: int) -> Block:
    """The block whose keys begin with `path`. Raises ValueError if its excitation is not over channels."""
    shapes, name = file.shapes, f"network.blocks.{index}."
    if f"{path}context_gen.joint_norm.weight" in shapes:
        return _dynamic_block(shapes, path, index)
    path = path if path.endswith("block.") else f"{path}block."
    expansions = int(shapes[f"{path}0.0.weight"][2:] == (1, 1))
    inner = shapes[f"{path}{expansions}.1.weight"][0]
    excite = f"{path}{expansions + 1}.conc_se_layers."
    squeeze = shapes.get(f"{excite}0.fc1.weight", (0, inner))
    if squeeze[1] != inner or f"{excite}1.fc1.weight" in shapes:
        raise ValueError(f"{file.path} has excitations of times or frequencies: the zoo has those of channels.")
    project = expansions + 1 + (squeeze[0] > 0)
    rules = under(
        re.escape(path),
        name,
        *(_layer("0", "expand", dense) if expansions else ()),
        *_layer(str(expansions), "depthwise", time_first),
        Rule(rf"{expansions + 1}\.conc_se_layers\.0\.fc1{LAYER}", r"excite.reduce.\1"),
        Rule(rf"{expansions + 1}\.conc_se_layers\.0\.fc2{LAYER}", r"excite.expand.\1"),
        *_layer(str(project), "project", dense),
    )
    return Block(rules, inner, shapes[f"{path}{project}.1.weight"][0], squeeze=squeeze[0])


def _dynamic_block(shapes: Shapes, path: str, index: int) -> Block:
    """A block of DyMN. The kernels of a dynamic convolution lie in a row, each in torch's layout."""
    from audax_eqx.networks.mobilenet_v3 import KERNELS, STAGES  # imported late, because it needs JAX

    inner, outputs = shapes[f"{path}depth_norm.weight"][0], shapes[f"{path}proj_norm.weight"][0]
    context, inputs = shapes[f"{path}context_gen.joint_conv.weight"][:2]
    parts = {
        "exp": ("expand", functools.partial(_rows, (inner, inputs))),
        "depth": ("depthwise", functools.partial(_maps, (inner, KERNELS[STAGES[index]]))),
        "proj": ("project", functools.partial(_rows, (outputs, inner))),
    }
    rules = under(
        re.escape(path),
        f"network.blocks.{index}.",
        *(Rule(rf"{part}_conv\.weight", f"{name}.weight", move) for part, (name, move) in parts.items()),
        *(Rule(rf"{part}_conv\.residuals\.0{LAYER}", rf"{name}.choose.\1") for part, (name, _) in parts.items()),
        *(Rule(rf"{part}_norm\.{NORM}", rf"{name}_norm.\1") for part, (name, _) in parts.items()),
        Rule(rf"depth_act\.coef_net\.0{LAYER}", r"relu.coefficients.\1"),
        Rule(r"depth_act\.lambdas", "relu.ranges"),
        Rule(r"depth_act\.init_v", "relu.starts"),
        Rule(r"context_gen\.joint_conv\.weight", "context.joint.weight", dense),
        Rule(rf"context_gen\.joint_norm\.{NORM}", r"context.joint_norm.\1"),
        Rule(r"context_gen\.conv_f\.weight", "context.freq.weight", dense),
        Rule(r"context_gen\.conv_f\.bias", "context.freq.bias"),
        Rule(r"context_gen\.conv_t\.weight", "context.time.weight", dense),
        Rule(r"context_gen\.conv_t\.bias", "context.time.bias"),
    )
    return Block(rules, inner, outputs, context=context)


def _rows(shape: tuple[int, int], kernels: np.ndarray) -> np.ndarray:
    """Reshapes kernels `1 1 count size` to `count outputs inputs`."""
    return kernels.reshape(kernels.shape[2], *shape)


def _maps(shape: tuple[int, int], kernels: np.ndarray) -> np.ndarray:
    """Reshapes kernels `1 1 count size` to `count time freq 1 channels`."""
    channels, size = shape
    return kernels.reshape(kernels.shape[2], channels, 1, size, size).transpose(0, 4, 3, 2, 1)
