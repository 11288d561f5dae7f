"""BEATs, Chen et al., 2022, arXiv:2212.09058.

Weights: https://github.com/microsoft/unilm/tree/master/beats (MIT), torch files such as `BEATs_iter3_plus_AS2M.pt`. The
links to the files are dead; the zoo loads copies on the Hub. Beside its arrays such a file has its settings, `cfg`. A
fine-tuned model also has the codes of its classes, `label_dict`, whose order differs from AudioSet's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._entry import Checkpoint, Entry
from .._files import line
from .._foreign import Recognition, WeightFile, refuse
from .._labels import label_dict
from .._rules import Rule, drop, flat, hwio, taps_first, under

ENTRIES = (
    Entry(
        name="beats_iter3_plus",
        frontend={"type": "beats_fbank", "sample_rate": 16000},
        network={"type": "beats_base"},
        model={"type": "Encoder"},
        classes=0,
        task="embedding",
        window=10.0,
        license="MIT",
        source="https://huggingface.co/lpepino/beats_ckpts",  # a mirror of the authors' file
        paper="https://arxiv.org/abs/2212.09058",
        checkpoint=Checkpoint(repo="lpepino/beats_ckpts", table="beats", file="BEATs_iter3_plus_AS2M.pt"),
    ),
    Entry(
        name="beats_iter3_plus_audioset",
        frontend={"type": "beats_fbank", "sample_rate": 16000},
        network={"type": "beats_base"},
        classes=527,
        task="multilabel",
        window=10.0,
        license="MIT",
        source="https://huggingface.co/WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",  # a mirror
        paper="https://arxiv.org/abs/2212.09058",
        checkpoint=Checkpoint(  # the paper's mAP is of other weights: https://github.com/microsoft/unilm/issues/1006
            repo="WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",
            table="beats",
            file="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
            label_file="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
        ),
    ),
)

BODY = (
    Rule(r"patch_embedding\.weight", "network.patchify.weight", hwio),
    *under(
        "",
        "network.encoder.",
        Rule(r"layer_norm\.(weight|bias)", r"input_norm.\1"),
        Rule(r"post_extract_proj\.(weight|bias)", r"project.\1"),
    ),
    *under(
        r"encoder\.",
        "network.encoder.",
        Rule(r"pos_conv\.0\.bias", "positional.0.bias"),
        Rule(r"pos_conv\.0\.(?:weight_g|parametrizations\.weight\.original0)", "positional.0.scale", flat),
        Rule(r"pos_conv\.0\.(?:weight_v|parametrizations\.weight\.original1)", "positional.0.weight", taps_first),
        Rule(r"layer_norm\.(weight|bias)", r"norm.\1"),
        Rule(r"layers\.0\.self_attn\.relative_attention_bias\.weight", "distance_bias"),
        Rule(r"layers\.[1-9]\d*\.self_attn\.relative_attention_bias\.weight", drop),  # the same array again
    ),
    *under(
        r"encoder\.layers\.(\d+)\.",
        r"network.encoder.blocks.\1.",
        Rule(r"self_attn\.q_proj\.(weight|bias)", r"attention.query.\1"),
        Rule(r"self_attn\.k_proj\.(weight|bias)", r"attention.key.\1"),
        Rule(r"self_attn\.v_proj\.(weight|bias)", r"attention.value.\1"),
        Rule(r"self_attn\.out_proj\.(weight|bias)", r"attention.output.\1"),
        Rule(r"self_attn\.grep_linear\.(weight|bias)", r"attention.gate.\1"),
        Rule(r"self_attn\.grep_a", "attention.gate_scale", flat),
        Rule(r"self_attn_layer_norm\.(weight|bias)", r"attention_norm.\1"),
        Rule(r"fc1\.(weight|bias)", r"expand.\1"),
        Rule(r"fc2\.(weight|bias)", r"contract.\1"),
        Rule(r"final_layer_norm\.(weight|bias)", r"mlp_norm.\1"),
    ),
    Rule(r"predictor\.(weight|bias)", r"head.\1"),
)
RULES = {
    "beats": under(r"model\.", "", *BODY),
    "beats_authors": (*BODY, Rule(r"patch_embedding\.bias", "network.patchify.bias")),
}

ATTENTION = "encoder.layers.0.self_attn."
ACTIVATIONS = {"gelu": "gelu", "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu"}
RELEASE = {"layer_norm_first": False, "deep_norm": True, "activation_fn": "gelu", "max_distance": 800}
DEFAULTS = {"layer_norm_first": False, "deep_norm": False, "activation_fn": "gelu", "max_distance": 1280}
"""Settings that no array shows: of the published files, and the authors' defaults for fields missing in a `cfg`."""


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the paper's own files, pre-trained or fine-tuned, by their `cfg` and `label_dict`.

    A file with the same arrays and without a `cfg` counts as a published model.
    """
    shapes = file.shapes
    if not {"patch_embedding.weight", "encoder.pos_conv.0.bias", "encoder.layer_norm.weight"} <= shapes.keys():
        return None
    if any(key.startswith("quantize") for key in shapes):
        raise ValueError(f"{file.path} is a tokenizer of BEATs, not a model: convert a file BEATs_....pt.")
    cfg: Any = file.settings.get("cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    sizes = _sizes(file, cfg)
    _check(file, cfg, sizes)
    classes = sizes.get("predictor_class", 0)
    release = ENTRIES[1 if classes else 0]
    labels = label_dict(file.settings, str(file.path), classes) if classes else ()
    network = _network(file, sizes, (DEFAULTS if cfg else RELEASE) | cfg)
    entry = dataclasses.replace(release, network=network, classes=classes, labels=labels, checkpoint=None)
    if sizes["encoder_embed_dim"] != 768 or sizes["encoder_layers"] != 12 or classes not in (0, release.classes):
        entry = dataclasses.replace(entry, license=None, source=None)  # somebody else trained it
    return Recognition(entry, RULES["beats_authors"])


def _sizes(file: WeightFile, cfg: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the model from the shapes of its arrays, by the names that the sizes have in `cfg`."""
    shapes = file.shapes
    old, new = "encoder.pos_conv.0.weight_v", "encoder.pos_conv.0.parametrizations.weight.original1"
    kernel = shapes[old if old in shapes else new]
    width = kernel[0]
    bias = shapes.get(f"{ATTENTION}relative_attention_bias.weight")
    gates = shapes.get(f"{ATTENTION}grep_a")
    heads = bias[1] if bias else gates[1] if gates else cfg.get("encoder_attention_heads", max(width // 64, 1))
    sizes = {
        "input_patch_size": shapes["patch_embedding.weight"][-1],
        "embed_dim": shapes["patch_embedding.weight"][0],
        "encoder_embed_dim": width,
        "encoder_layers": file.count("encoder.layers.{}."),
        "encoder_ffn_embed_dim": shapes["encoder.layers.0.fc1.weight"][0],
        "encoder_attention_heads": heads,
        "conv_pos": kernel[2],
        "conv_pos_groups": width // max(kernel[1], 1),
    }
    sizes |= {"num_buckets": bias[0]} if bias else {}
    return sizes | ({"predictor_class": shapes["predictor.weight"][0]} if "predictor.weight" in shapes else {})


def _check(file: WeightFile, cfg: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises ValueError for settings that the zoo lacks, and for settings that contradict the arrays.

    Also raises it for several tables of the bias by distance, because the authors' model has one.
    """
    for field, size in sizes.items():
        if field in cfg and cfg[field] != size:
            value = line(repr(cfg[field]))
            raise ValueError(f"{file.path} has the {field} {value} in its cfg, and arrays of {size}: fetch it again.")
    choices = {"layer_norm_first": (False, True), "deep_norm": (False, True), "activation_fn": tuple(ACTIVATIONS)}
    refuse(str(file.path), {key: cfg[key] for key in choices if key in cfg}, sources="", extras="", choices=choices)
    tables = [file.arrays[key] for key in file.arrays if key.endswith("self_attn.relative_attention_bias.weight")]
    if not all(np.array_equal(tables[0], each) for each in tables):
        raise ValueError(f"{file.path} has several biases by distance, and BEATs one for all layers: fetch it again.")


def _network(file: WeightFile, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The network that the arrays and the settings describe."""
    return {
        "type": "BEATs",
        "width": sizes["encoder_embed_dim"],
        "depth": sizes["encoder_layers"],
        "heads": sizes["encoder_attention_heads"],
        "patch": sizes["input_patch_size"],
        "embedding": sizes["embed_dim"],
        "patch_bias": "patch_embedding.bias" in file.shapes,
        "norm_first": bool(settings["layer_norm_first"]),
        "deep_norm": bool(settings["deep_norm"]),
        "kernel": sizes["conv_pos"],
        "groups": sizes["conv_pos_groups"],
        "buckets": sizes.get("num_buckets"),
        "max_distance": settings["max_distance"],
        "gate": "query" if f"{ATTENTION}grep_a" in file.shapes else None,
        "mlp_width": sizes["encoder_ffn_embed_dim"],
        "activation": ACTIVATIONS[settings["activation_fn"]],
    }
