"""timm's ResNet, EfficientNet and ConvNeXt, with weights from ImageNet: a start for fine-tuning.

Weights: https://huggingface.co/timm (Apache-2.0). The weights of the first convolution are summed over its three input
channels, because a spectrogram has one. torchvision's ResNets have the same keys as timm's.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .._entry import Checkpoint, Entry
from .._files import line
from .._foreign import Recognition, WeightFile, page, refuse
from .._rules import COUNTER, NORM, Rule, dense, hwio, mono, under

FRONTEND = {"type": "ast_fbank", "sample_rate": 16000, "frames": None}

ENTRIES = tuple(
    Entry(
        name=f"timm/{weights}",
        frontend=FRONTEND,
        network={"type": network},
        classes=1000,
        task="multiclass",
        window=10.0,
        license="Apache-2.0",
        source=f"https://huggingface.co/timm/{weights}",
        paper=paper,
        metrics=(
            {
                "dataset": "ImageNet-1k",
                "metric": "top-1 accuracy",
                "value": accuracy,
                "source": "the publisher, for pictures: huggingface/pytorch-image-models, results-imagenet.csv",
            },
        ),
        checkpoint=Checkpoint(repo=f"timm/{weights}", table=table),
    )
    for weights, network, table, accuracy, paper in (
        ("convnext_tiny.fb_in1k", "convnext_tiny", "timm_convnext", 0.82698, "https://arxiv.org/abs/2201.03545"),
        ("resnet18.a1_in1k", "resnet18", "timm_resnet", 0.73158, "https://arxiv.org/abs/2110.00476"),
        (
            "efficientnet_b0.ra_in1k",
            "efficientnet_b0",
            "timm_efficientnet",
            0.77694,
            "https://arxiv.org/abs/1905.11946",
        ),
    )
)

CONVNEXT = (
    Rule(r"stem\.0\.weight", "network.stages.0.reduce.patchify.weight", mono),
    Rule(r"stem\.0\.bias", "network.stages.0.reduce.patchify.bias"),
    Rule(r"stem\.1\.(weight|bias)", r"network.stages.0.reduce.norm.\1"),
    Rule(r"stages\.([123])\.downsample\.0\.(weight|bias)", r"network.stages.\1.reduce.norm.\2"),
    Rule(r"stages\.([123])\.downsample\.1\.weight", r"network.stages.\1.reduce.patchify.weight", hwio),
    Rule(r"stages\.([123])\.downsample\.1\.bias", r"network.stages.\1.reduce.patchify.bias"),
    *under(
        r"stages\.(\d+)\.blocks\.(\d+)\.",
        r"network.stages.\1.blocks.\2.",
        Rule("gamma", "layer_scale"),
        Rule(r"conv_dw\.weight", "depthwise.weight", hwio),
        Rule(r"conv_dw\.bias", "depthwise.bias"),
        Rule(r"norm\.(weight|bias)", r"norm.\1"),
        Rule(r"mlp\.fc1\.weight", "expand.weight", dense),
        Rule(r"mlp\.fc1\.bias", "expand.bias"),
        Rule(r"mlp\.fc2\.weight", "contract.weight", dense),
        Rule(r"mlp\.fc2\.bias", "contract.bias"),
    ),
    Rule(r"head\.norm\.(weight|bias)", r"network.norm.\1"),
    Rule(r"head\.fc\.(weight|bias)", r"head.\1"),
)

RESNET = (
    COUNTER,
    Rule(r"conv1\.weight", "network.stem.weight", mono),
    Rule(rf"bn1\.{NORM}", r"network.norm.\1"),
    *(
        rule
        for stage in range(4)
        for rule in under(
            rf"layer{stage + 1}\.(\d+)\.",
            rf"network.stages.{stage}.\1.",
            Rule(r"conv(\d)\.weight", r"conv\1.weight", dense),
            Rule(rf"bn(\d)\.{NORM}", r"norm\1.\2"),
            Rule(r"downsample\.0\.weight", "shortcut.conv.weight", dense),
            Rule(rf"downsample\.1\.{NORM}", r"shortcut.norm.\1"),
        )
    ),
    Rule(r"fc\.(weight|bias)", r"head.\1"),
)

EFFICIENTNET = (
    COUNTER,
    Rule(r"conv_stem\.weight", "network.stem.weight", mono),
    Rule(rf"bn1\.{NORM}", r"network.stem_norm.\1"),
    *under(
        r"blocks\.0\.(\d+)\.",
        r"network.stages.0.\1.",
        Rule(rf"bn1\.{NORM}", r"depthwise_norm.\1"),
        Rule(r"conv_pw\.weight", "project.weight", dense),
        Rule(rf"bn2\.{NORM}", r"project_norm.\1"),
    ),
    *under(
        r"blocks\.([1-6])\.(\d+)\.",
        r"network.stages.\1.\2.",
        Rule(r"conv_pw\.weight", "expand.weight", dense),
        Rule(rf"bn1\.{NORM}", r"expand_norm.\1"),
        Rule(rf"bn2\.{NORM}", r"depthwise_norm.\1"),
        Rule(r"conv_pwl\.weight", "project.weight", dense),
        Rule(rf"bn3\.{NORM}", r"project_norm.\1"),
    ),
    *under(
        r"blocks\.(\d)\.(\d+)\.",
        r"network.stages.\1.\2.",
        Rule(r"conv_dw\.weight", "depthwise.weight", hwio),
        Rule(r"se\.conv_(reduce|expand)\.weight", r"excite.\1.weight", dense),
        Rule(r"se\.conv_(reduce|expand)\.bias", r"excite.\1.bias"),
    ),
    Rule(r"conv_head\.weight", "network.end.weight", dense),
    Rule(rf"bn2\.{NORM}", r"network.end_norm.\1"),
    Rule(r"classifier\.(weight|bias)", r"head.\1"),
)

RULES = {"timm_convnext": CONVNEXT, "timm_resnet": RESNET, "timm_efficientnet": EFFICIENTNET}
READS = "timm's ResNet, EfficientNet and ConvNeXt"
PICTURES = """num_features pretrained_cfg label_names label_descriptions hf_hub_id hf_hub_filename url tag source
    license origin_url paper_ids paper_name notes input_size min_input_size test_input_size fixed_input_size pool_size
    test_pool_size crop_pct test_crop_pct crop_mode interpolation mean std first_conv classifier custom_load
    timm_version"""


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of one of these networks in timm."""
    return "model_type" not in config and _table(config) is not None


def _table(config: Mapping[str, Any]) -> str | None:
    """The rename table of the config's architecture."""
    architecture = config.get("architecture")
    starts = {"resnet": "timm_resnet", "efficientnet_b": "timm_efficientnet", "convnext": "timm_convnext"}
    if not isinstance(architecture, str):
        return None
    return next((table for start, table in starts.items() if architecture.startswith(start)), None)


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of a network with weights from ImageNet behind AST's frontend, whose outputs lie around 0."""
    table = str(_table(config))
    refuse(
        name,
        config,
        sources="architecture num_classes model_args",
        extras=PICTURES,
        choices={"global_pool": ("avg", "fast")},
    )
    inner = config.get("pretrained_cfg") or {}  # timm looks here first
    for field in {"global_pool", "num_classes"} & set(inner):
        if (field in config or field == "global_pool") and inner[field] not in (
            ("avg", "fast") if field == "global_pool" else (config[field],)
        ):
            raise ValueError(
                f"{name} has the {field} {line(repr(inner[field]))} in its pretrained_cfg: the zoo has "
                f"{line(repr(config.get(field, 'avg')))}."
            )
    activation = {"timm_resnet": "relu", "timm_efficientnet": "silu", "timm_convnext": "gelu"}[table]
    refuse(
        name,
        config.get("model_args") or {},
        sources="in_chans",  # the first convolution is summed over these channels
        extras="drop_rate drop_path_rate drop_block_rate",
        choices={"act_layer": (activation, None), "global_pool": ("avg", "fast")},
    )
    network = {"type": config["architecture"]}
    if table == "timm_efficientnet":
        network |= {"eps": 1e-5, "momentum": 0.1}  # timm's values, at every size
    return Entry(
        name=name,
        frontend=FRONTEND,
        network=network,
        classes=config.get("num_classes", 1000),
        task="multiclass",
        window=10.0,
        source=page(name),
        checkpoint=Checkpoint(repo=name, table=table),
    )


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises ResNets of timm and of torchvision, and timm's ConvNeXts, of any size.

    It does not recognise EfficientNet: the files that timm trained and those that it converted from TensorFlow have the
    same keys but different computations. Only their config.json distinguishes them.
    """
    if {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"} <= file.shapes.keys():
        return _resnet(file)
    if {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "head.fc.weight"} <= file.shapes.keys():
        return _convnext(file)
    return None


def _resnet(file: WeightFile) -> Recognition:
    stages = range(1, file.count("layer{}.0.conv1.weight") + 1)
    network = {
        "type": "ResNet",
        "depths": tuple(file.count(f"layer{stage}.{{}}.conv1.weight") for stage in stages),
        "widths": tuple(file.shapes[f"layer{stage}.0.conv1.weight"][0] for stage in stages),
        "bottleneck": "layer1.0.conv3.weight" in file.shapes,
    }
    entry = _entry(file, network, file.shapes["fc.weight"][0], "https://arxiv.org/abs/1512.03385")
    return Recognition(entry, RESNET)


def _convnext(file: WeightFile) -> Recognition:
    stages = range(file.count("stages.{}.blocks.0.conv_dw.weight"))
    network = {
        "type": "ConvNeXt",
        "depths": tuple(file.count(f"stages.{stage}.blocks.{{}}.conv_dw.weight") for stage in stages),
        "widths": tuple(file.shapes[f"stages.{stage}.blocks.0.conv_dw.weight"][0] for stage in stages),
    }
    entry = _entry(file, network, file.shapes["head.fc.weight"][0], "https://arxiv.org/abs/2201.03545")
    return Recognition(entry, CONVNEXT)


def _entry(file: WeightFile, network: Mapping[str, Any], classes: int, paper: str) -> Entry:
    frontend = FRONTEND | ({} if file.sample_rate is None else {"sample_rate": file.sample_rate})
    return Entry(file.path.name, frontend, network, classes, task="multiclass", window=10.0, paper=paper)
