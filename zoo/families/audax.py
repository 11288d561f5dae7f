"""audax (Flax, 2022): checkpoints that its users trained, with the frontend, the network and the head of audax.

The architecture is recognised from the names and shapes of the arrays. The owner of the file gives what no array shows:
the sample rate, the window, the labels, and which of two contrastive models a plain projection belongs to.
"""

import re
from typing import Any

from .._entry import Entry
from .._foreign import Recognition, Shapes, WeightFile
from .._rules import Rule, flat, flax_layer, flax_norm, under


def _conv_norm(index: int, name: str) -> tuple[Rule, ...]:
    """EfficientNet's convolution with its BatchNorm."""
    path = f"ConvNormActivation_{index}"
    return *flax_layer(f"{path}/Conv_0", name), *flax_norm(f"{path}/BatchNorm_0", f"{name}_norm")


# audax numbers the blocks of ResNet and EfficientNet in one row; `_named` names them by stage: encoder/stages/0/1/...
TABLE = (
    *under(
        "frontend/",
        "frontend.",
        Rule("complex_conv/gabor_kernel", "gabor"),
        Rule("pooling/kernel", "pooling", flat),
        Rule("compression/(alpha|delta|root)", r"compression.\1"),
        Rule("compression/ExponentialMovingAverage_0/smooth", "compression.smooth"),
        Rule("complex_conv/sinc_kernel", "bands"),
        *flax_norm("compression", "norm"),
    ),
    # ConvNeXt
    *under(
        "encoder/", "network.stages.0.reduce.", *flax_layer("Conv_0", "patchify"), *flax_norm("LayerNorm_0", "norm")
    ),
    *under(
        r"encoder/ConvNeXtStage_(\d+)/",
        r"network.stages.\1.",
        *flax_layer("Conv_0", "reduce.patchify"),
        *flax_norm("LayerNorm_0", "reduce.norm"),
        *under(
            r"ConvNeXtBlock_(\d+)/",
            r"blocks.\1.",
            *flax_layer("Conv_0", "depthwise"),
            *flax_norm("LayerNorm_0", "norm"),
            *flax_layer("Mlp_0/Dense_0", "expand"),
            *flax_layer("Mlp_0/Dense_1", "contract"),
            Rule("gamma", "layer_scale"),
        ),
    ),
    # ResNet
    *under("encoder/", "network.", *flax_layer("conv_init", "stem"), *flax_norm("bn_init", "norm")),
    *under(
        r"encoder/stages/(\d+)/(\d+)/",
        r"network.stages.\1.\2.",
        *(rule for index in range(3) for rule in flax_layer(f"Conv_{index}", f"conv{index + 1}")),
        *(rule for index in range(3) for rule in flax_norm(f"BatchNorm_{index}", f"norm{index + 1}")),
        *flax_layer("conv_proj", "shortcut.conv"),
        *flax_norm("norm_proj", "shortcut.norm"),
    ),
    # EfficientNet
    *under("encoder/", "network.", *_conv_norm(0, "stem"), *_conv_norm(1, "end")),
    *under(r"encoder/stages/0/(\d+)/", r"network.stages.0.\1.", *_conv_norm(0, "depthwise"), *_conv_norm(1, "project")),
    *under(
        r"encoder/stages/([1-6])/(\d+)/",
        r"network.stages.\1.\2.",
        *_conv_norm(0, "expand"),
        *_conv_norm(1, "depthwise"),
        *_conv_norm(2, "project"),
    ),
    *under(
        r"encoder/stages/(\d)/(\d+)/SqueezeAndExcitation_0/",
        r"network.stages.\1.\2.excite.",
        *flax_layer("reduce", "reduce"),
        *flax_layer("expand", "expand"),
    ),
    # heads
    *flax_layer("fc", "head"),
    *flax_layer("embedding_fc", "projection"),
    *flax_norm("bilinear_layernorm", "norm"),
    Rule("similarity_layer/bilinear_product_weight", "bilinear"),
)

RULES = {"audax": TABLE}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises any train state of Flax: ResNet, EfficientNet or ConvNeXt as a classifier, COLA or SimCLR.

    COLA with the dot product and SimCLR have the same arrays. Such a file counts as COLA unless `file.model` is
    "SimCLR". Raises ValueError for a train state that is not audax's, or that is incomplete.
    """
    if file.format != "flax" or any("Stem_0" in name.split("/") for name in file.shapes):  # a file of Perch
        return None
    where = str(file.path)
    names = _named(file.shapes, where)
    shapes = {name: file.shapes[key] for name, key in names.items()}
    frontend = _frontend(shapes, 16000 if file.sample_rate is None else file.sample_rate, where)
    network, head = _network(shapes, where), _head(shapes, file.model, where)
    classes = shapes["fc/kernel"][-1] if "fc/kernel" in shapes else 0
    entry = Entry(
        file.path.name,
        frontend,
        network,
        classes,
        model=head,
        task=("multilabel" if classes == 527 else "multiclass") if classes else "contrastive",
        window=5.0,
        source="converted from an audax checkpoint, https://github.com/SarthakYadav/audax",
    )
    return Recognition(entry, TABLE, names=names)


def _named(shapes: Shapes, where: str) -> dict[str, str]:
    """A mapping from the table's names to the file's names.

    The table names the blocks of ResNet and EfficientNet by stage and block: `encoder/stages/0/1/Conv_0/kernel`.
    """
    places = _stages(shapes, where)
    pattern = r"encoder/(?:MBConv|ResNetBlock|BottleneckResNetBlock)_(\d+)/"
    return {
        re.sub(pattern, lambda match: "encoder/stages/{}/{}/".format(*places[int(match[1])]), name): name
        for name in shapes
    }


def _stages(shapes: Shapes, where: str) -> list[tuple[int, int]]:
    """The stage of each block of a ResNet or EfficientNet, and the block's index in the stage; empty for others.

    A stage ends where the channels, the kernel or the expansion change.
    """
    kinds = [_block(shapes, f"encoder/{name}_{index}") for name, index in _blocks(shapes)]
    places = []
    for previous, kind in zip([None, *kinds], kinds, strict=False):
        stage, index = places[-1] if places else (0, -1)
        places.append((stage, index + 1) if previous in (None, kind) else (stage + 1, 0))
    if any("/MBConv_" in name for name in shapes) and places[-1][0] != 6:
        raise ValueError(
            f"{where} holds an EfficientNet of {places[-1][0] + 1} stages that can be told apart, instead of 7: it is "
            "too narrow."
        )
    return places


def _blocks(shapes: Shapes) -> list[tuple[str, int]]:
    """The names and numbers of all blocks, in order: (MBConv, 0), (MBConv, 1), ..."""
    matches = {re.match(r"encoder/(MBConv|ResNetBlock|BottleneckResNetBlock)_(\d+)/", name) for name in shapes}
    blocks = sorted({(match[1], int(match[2])) for match in matches if match})
    for index, (name, number) in enumerate(blocks):
        if number != index:
            raise KeyError(f"encoder/{name}_{index}")
    return blocks


def _block(shapes: Shapes, path: str) -> tuple:
    """The properties that all blocks of a stage have in common."""
    if f"{path}/conv_proj/kernel" in shapes or f"{path}/Conv_0/kernel" in shapes:
        return shapes[f"{path}/Conv_1/kernel"][-1:]
    has_expansion = f"{path}/ConvNormActivation_2/Conv_0/kernel" in shapes
    kernel = shapes[f"{path}/ConvNormActivation_{int(has_expansion)}/Conv_0/kernel"][0]
    return has_expansion, kernel, shapes[f"{path}/ConvNormActivation_{int(has_expansion) + 1}/Conv_0/kernel"][-1]


def _frontend(shapes: Shapes, sample_rate: int, where: str) -> dict[str, Any]:
    for name, kind in (("gabor", "LEAF"), ("sinc", "SincNet")):
        if (kernel := shapes.get(f"frontend/complex_conv/{name}_kernel")) is not None:
            if kind == "SincNet" and sample_rate != 16000:
                raise ValueError(
                    f"{where} has a SincNet, whose filters audax made for 16000 Hz at any sample rate: it converts "
                    f"only at 16000 Hz, got {sample_rate}."
                )
            return {"type": kind, "sample_rate": sample_rate, "bins": kernel[0]}
    if sample_rate < 15600:
        raise ValueError(f"{where} has mel filters up to 7800 Hz: give the sample rate it had, got {sample_rate} Hz.")
    return {"type": "audax_log_mel", "sample_rate": sample_rate}


def _network(shapes: Shapes, where: str) -> dict[str, Any]:
    """The network that the shapes describe. `shapes` names blocks by stage and block."""

    def depths(pattern: str) -> tuple[int, ...]:
        places = {match.groups() for name in shapes if (match := re.match(pattern, name))}
        return tuple(sum(stage == str(index) for stage, _ in places) for index in range(len({s for s, _ in places})))

    if "encoder/ConvNeXtStage_0/ConvNeXtBlock_0/Conv_0/kernel" in shapes:
        blocks = depths(r"encoder/ConvNeXtStage_(\d+)/ConvNeXtBlock_(\d+)/")
        widths = tuple(
            shapes[f"encoder/ConvNeXtStage_{stage}/ConvNeXtBlock_0/Conv_0/kernel"][-1] for stage in range(len(blocks))
        )
        return {"type": "ConvNeXt", "depths": blocks, "widths": widths, "final_norm": False, "gelu": "tanh"}
    blocks = depths(r"encoder/stages/(\d+)/(\d+)/")
    if "encoder/conv_init/kernel" in shapes and blocks:
        widths = tuple(shapes[f"encoder/stages/{stage}/0/Conv_1/kernel"][-1] for stage in range(len(blocks)))
        bottleneck = "encoder/stages/0/0/Conv_2/kernel" in shapes
        return {"type": "ResNet", "depths": blocks, "widths": widths, "bottleneck": bottleneck, "padding": "same"}
    if "encoder/ConvNormActivation_0/Conv_0/kernel" in shapes and blocks:
        project = ["encoder/ConvNormActivation_0/Conv_0/kernel"]
        project += [
            f"encoder/stages/{stage}/0/ConvNormActivation_{2 if stage else 1}/Conv_0/kernel"
            for stage in range(len(blocks))
        ]
        return {
            "type": "EfficientNet",
            "depths": blocks,
            "widths": tuple(shapes[name][-1] for name in project),
            "padding": "same",
            "excite_bias": False,
        }
    names = sorted({name.split("/")[1] for name in shapes if name.startswith("encoder/")})
    raise ValueError(f"{where} holds no ResNet, EfficientNet or ConvNeXt as its encoder, but {names or 'none'}.")


def _head(shapes: Shapes, model: str | None, where: str) -> dict[str, Any]:
    if "fc/kernel" not in shapes and "embedding_fc/kernel" not in shapes:
        raise ValueError(f"{where} has neither a classifier's `fc` nor the `embedding_fc` of COLA and SimCLR.")
    if "fc/kernel" in shapes:
        head = {"type": "Classifier"}
    elif "similarity_layer/bilinear_product_weight" in shapes:
        head = {"type": "COLA", "width": shapes["embedding_fc/kernel"][-1], "similarity": "bilinear"}
    elif model == "SimCLR":
        head = {"type": "SimCLR", "width": shapes["embedding_fc/kernel"][-1], "linear": True}
    else:
        head = {"type": "COLA", "width": shapes["embedding_fc/kernel"][-1], "similarity": "dot"}
    return head
