"""Rename tables: how a foreign checkpoint's arrays become ours. One table a family of checkpoints."""

import re

import numpy as np

from ._convert import Rule, dense, drop, hwio, mono

NORM = "(weight|bias|running_mean|running_var)"
COUNTER = Rule(r".*\.num_batches_tracked", drop)


def under(path: str, name: str, *rules: Rule) -> tuple[Rule, ...]:
    """The rules for keys that begin with `path` and names that begin with `name`; groups in `path` count first."""
    groups = re.compile(path).groups

    def moved_on(replacement: str) -> str:
        return re.sub(r"\\(\d+)", lambda match: f"\\{int(match[1]) + groups}", replacement)

    return tuple(Rule(path + rule.pattern, name + moved_on(rule.replacement or ""), rule.move) for rule in rules)


def flat(array: np.ndarray) -> np.ndarray:
    """One axis of all."""
    return array.reshape(-1)


# torch ----------------------------------------------------------------------------------------------------------------

TOPEL_CONVNEXT = (
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


def _panns(*rules: Rule) -> tuple[Rule, ...]:
    """The table of one of PANNs' networks: `rules`, and what all of them have."""
    return (
        Rule(r"backbone\.(spectrogram_extractor|logmel_extractor)\..*", drop),
        COUNTER,
        *under(
            r"backbone\.",
            "",
            Rule(rf"bn0\.{NORM}", r"network.input_norm.\1"),
            *rules,
            Rule(r"fc1\.(weight|bias)", r"network.embed.\1"),
            Rule(r"fc_audioset\.(weight|bias)", r"head.\1"),
        ),
    )


PANNS_PAIR = (Rule(r"conv(\d)\.weight", r"conv\1.weight", hwio), Rule(rf"bn(\d)\.{NORM}", r"norm\1.\2"))

PANNS_CNN = _panns(
    *(
        rule
        for block in range(6)
        for rule in under(rf"conv_block{block + 1}\.", f"network.blocks.{block}.", *PANNS_PAIR)
    )
)

PANNS_RESNET = _panns(
    *under(r"conv_block1\.", "network.stem.", *PANNS_PAIR),
    *(
        rule
        for stage in range(4)
        for rule in under(rf"resnet\.layer{stage + 1}\.(\d+)\.", rf"network.stages.{stage}.\1.", *PANNS_PAIR)
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
    *under(r"conv_block_after1\.", "network.end.", *PANNS_PAIR),
)

PANNS_MOBILENET = _panns(
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

TIMM_CONVNEXT = (
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

TIMM_RESNET = (
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

TIMM_EFFICIENTNET = (
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


def only(array: np.ndarray) -> np.ndarray:
    """What lies behind the first axis, which has one element."""
    return array.reshape(array.shape[1:])


def time_first(kernel: np.ndarray) -> np.ndarray:
    """A torch kernel over freq and time, outputs inputs freq time, to ours: time freq inputs outputs."""
    return kernel.transpose(3, 2, 1, 0)


AST = (
    *under(
        r"audio_spectrogram_transformer\.embeddings\.",
        "network.",
        Rule("cls_token", "class_token", flat),
        Rule("distillation_token", "distillation_token", flat),
        Rule("position_embeddings", "position_embedding", only),
        Rule(r"patch_embeddings\.projection\.weight", "patchify.weight", time_first),
        Rule(r"patch_embeddings\.projection\.bias", "patchify.bias"),
    ),
    *under(
        r"audio_spectrogram_transformer\.encoder\.layer\.(\d+)\.",
        r"network.blocks.\1.",
        Rule(r"layernorm_before\.(weight|bias)", r"attention_norm.\1"),
        Rule(r"attention\.attention\.(query|key|value)\.(weight|bias)", r"attention.\1.\2"),
        Rule(r"attention\.output\.dense\.(weight|bias)", r"attention.output.\1"),
        Rule(r"layernorm_after\.(weight|bias)", r"mlp_norm.\1"),
        Rule(r"intermediate\.dense\.(weight|bias)", r"expand.\1"),
        Rule(r"output\.dense\.(weight|bias)", r"contract.\1"),
    ),
    Rule(r"audio_spectrogram_transformer\.layernorm\.(weight|bias)", r"network.norm.\1"),
    Rule(r"classifier\.layernorm\.(weight|bias)", r"norm.\1"),
    Rule(r"classifier\.dense\.(weight|bias)", r"head.\1"),
)


def steps(embedding: np.ndarray) -> np.ndarray:
    """A position embedding over a map, 1 channels freq time, of which one is 1, to ours: steps channels."""
    return embedding.transpose(0, 2, 3, 1).reshape(-1, embedding.shape[1])


CED = (
    COUNTER,
    *under(
        r"encoder\.",
        "network.",
        Rule(rf"init_bn\.{NORM}", r"input_norm.\1"),
        Rule(r"patch_embed\.proj\.weight", "patchify.weight", time_first),
        Rule(r"patch_embed\.proj\.bias", "patchify.bias"),
        Rule("(time|freq)_pos_embed", r"\1_embedding", steps),
        Rule(r"blocks\.(\d+)\.norm1\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        Rule(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.attention.qkv.\2"),
        Rule(r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.attention.output.\2"),
        Rule(r"blocks\.(\d+)\.norm2\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        Rule(r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.expand.\2"),
        Rule(r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.contract.\2"),
        Rule(r"norm\.(weight|bias)", r"norm.\1"),
    ),
    Rule(r"outputlayer\.0\.(weight|bias)", r"norm.\1"),
    Rule(r"outputlayer\.1\.(weight|bias)", r"head.\1"),
)


# Flax -----------------------------------------------------------------------------------------------------------------


def transposed(kernel: np.ndarray) -> np.ndarray:
    """A Flax dense kernel, or one of a 1x1 convolution, to ours: outputs inputs. Larger ones are as ours."""
    return kernel.reshape(kernel.shape[-2:]).T if kernel.shape[:-2] in ((), (1, 1)) else kernel


def _layer(path: str, name: str) -> tuple[Rule, ...]:
    """A dense layer or convolution."""
    return Rule(f"{path}/kernel", f"{name}.weight", transposed), Rule(f"{path}/bias", f"{name}.bias")


def _norm(path: str, name: str) -> tuple[Rule, ...]:
    """A BatchNorm or LayerNorm."""
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return tuple(Rule(f"{path}/{theirs}", f"{name}.{ours}") for theirs, ours in leaves.items())


def _conv_norm(index: int, name: str) -> tuple[Rule, ...]:
    """EfficientNet's convolution with its BatchNorm."""
    path = f"ConvNormActivation_{index}"
    return *_layer(f"{path}/Conv_0", name), *_norm(f"{path}/BatchNorm_0", f"{name}_norm")


# audax numbers the blocks of ResNet and EfficientNet through; `zoo._audax` names them by stage: encoder/stages/0/1/...
AUDAX = (
    *under(
        "frontend/",
        "frontend.",
        Rule("complex_conv/gabor_kernel", "gabor"),
        Rule("pooling/kernel", "pooling", flat),
        Rule("compression/(alpha|delta|root)", r"compression.\1"),
        Rule("compression/ExponentialMovingAverage_0/smooth", "compression.smooth"),
        Rule("complex_conv/sinc_kernel", "bands"),
        *_norm("compression", "norm"),
    ),
    # ConvNeXt
    *under("encoder/", "network.stages.0.reduce.", *_layer("Conv_0", "patchify"), *_norm("LayerNorm_0", "norm")),
    *under(
        r"encoder/ConvNeXtStage_(\d+)/",
        r"network.stages.\1.",
        *_layer("Conv_0", "reduce.patchify"),
        *_norm("LayerNorm_0", "reduce.norm"),
        *under(
            r"ConvNeXtBlock_(\d+)/",
            r"blocks.\1.",
            *_layer("Conv_0", "depthwise"),
            *_norm("LayerNorm_0", "norm"),
            *_layer("Mlp_0/Dense_0", "expand"),
            *_layer("Mlp_0/Dense_1", "contract"),
            Rule("gamma", "layer_scale"),
        ),
    ),
    # ResNet
    *under("encoder/", "network.", *_layer("conv_init", "stem"), *_norm("bn_init", "norm")),
    *under(
        r"encoder/stages/(\d+)/(\d+)/",
        r"network.stages.\1.\2.",
        *(rule for index in range(3) for rule in _layer(f"Conv_{index}", f"conv{index + 1}")),
        *(rule for index in range(3) for rule in _norm(f"BatchNorm_{index}", f"norm{index + 1}")),
        *_layer("conv_proj", "shortcut.conv"),
        *_norm("norm_proj", "shortcut.norm"),
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
        *_layer("reduce", "reduce"),
        *_layer("expand", "expand"),
    ),
    # heads
    *_layer("fc", "head"),
    *_layer("embedding_fc", "projection"),
    *_norm("bilinear_layernorm", "norm"),
    Rule("similarity_layer/bilinear_product_weight", "bilinear"),
)

TABLES = {
    "topel_convnext": TOPEL_CONVNEXT,
    "panns_cnn": PANNS_CNN,
    "panns_resnet": PANNS_RESNET,
    "panns_mobilenet": PANNS_MOBILENET,
    "ast": AST,
    "ced": CED,
    "timm_convnext": TIMM_CONVNEXT,
    "timm_resnet": TIMM_RESNET,
    "timm_efficientnet": TIMM_EFFICIENTNET,
}
