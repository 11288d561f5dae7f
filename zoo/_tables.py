"""Rename tables: how a foreign checkpoint's arrays become ours. One table a family of checkpoints."""

from ._convert import Rule, drop, hwio

TOPEL_CONVNEXT = (
    Rule(r"(spectrogram_extractor|logmel_extractor)\..*", drop),
    Rule(r"bn0\.num_batches_tracked", drop),
    Rule(r"bn0\.(weight|bias|running_mean|running_var)", r"network.input_norm.\1"),
    Rule(r"downsample_layers\.0\.0\.weight", "network.stages.0.reduce.patchify.weight", hwio),
    Rule(r"downsample_layers\.0\.0\.bias", "network.stages.0.reduce.patchify.bias"),
    Rule(r"downsample_layers\.0\.1\.(weight|bias)", r"network.stages.0.reduce.norm.\1"),
    Rule(r"downsample_layers\.([123])\.0\.(weight|bias)", r"network.stages.\1.reduce.norm.\2"),
    Rule(r"downsample_layers\.([123])\.1\.weight", r"network.stages.\1.reduce.patchify.weight", hwio),
    Rule(r"downsample_layers\.([123])\.1\.bias", r"network.stages.\1.reduce.patchify.bias"),
    Rule(r"stages\.(\d+)\.(\d+)\.gamma", r"network.stages.\1.blocks.\2.layer_scale"),
    Rule(r"stages\.(\d+)\.(\d+)\.dwconv\.weight", r"network.stages.\1.blocks.\2.depthwise.weight", hwio),
    Rule(r"stages\.(\d+)\.(\d+)\.dwconv\.bias", r"network.stages.\1.blocks.\2.depthwise.bias"),
    Rule(r"stages\.(\d+)\.(\d+)\.norm\.(weight|bias)", r"network.stages.\1.blocks.\2.norm.\3"),
    Rule(r"stages\.(\d+)\.(\d+)\.pwconv1\.(weight|bias)", r"network.stages.\1.blocks.\2.expand.\3"),
    Rule(r"stages\.(\d+)\.(\d+)\.pwconv2\.(weight|bias)", r"network.stages.\1.blocks.\2.contract.\3"),
    Rule(r"norm\.(weight|bias)", r"network.norm.\1"),
    Rule(r"head_audioset\.(weight|bias)", r"head.\1"),
)

TABLES = {"topel_convnext": TOPEL_CONVNEXT}
