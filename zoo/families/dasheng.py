"""Dasheng, "Scaling up masked audio encoder learning", Dinkel et al., 2024, arXiv:2406.06992.

Weights: https://huggingface.co/mispeech/dasheng-base, -0.6B and -1.2B (Apache-2.0), and the torch files at
https://zenodo.org/records/11511780. They hold only the encoder, which is CED's encoder with other patches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .._entry import Checkpoint, Entry
from .._foreign import BOOKKEEPING, ENCODER, Recognition, WeightFile, agree, page, refuse
from .._rules import Rule, drop
from .ced import FRONTEND, extractor_frontend, table

ENTRIES = (
    Entry(
        name="dasheng_base",
        frontend=FRONTEND,
        network={"type": "dasheng_base"},
        **ENCODER,
        window=10.07,  # a chunk of 1008 frames, which has 1007 hops
        license="Apache-2.0",
        source="https://huggingface.co/mispeech/dasheng-base",
        paper="https://arxiv.org/abs/2406.06992",
        checkpoint=Checkpoint(repo="mispeech/dasheng-base", table="dasheng"),
    ),
)
RULES = {
    "dasheng": table(r"encoder\.", r"init_bn\.1"),
    "dasheng_authors": (*table("", r"init_bn\.1"), Rule(r"front_end\..*", drop)),
}
READS = "DashengModel"
SIZES = {"dasheng-base": (768, 12, 12), "dasheng-0.6B": (1280, 32, 16), "dasheng-1.2B": (1536, 40, 24)}
"""The width, the depth and the heads that a name decides."""


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Dasheng."""
    return config.get("model_type") == "dasheng"


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of a `DashengModel` without an output layer, with mispeech's defaults of its config and extractor."""
    extractor = read("preprocessor_config.json")
    size = config.get("name", "dasheng-base")
    if size not in SIZES:
        raise ValueError(f"{name} has the name {size!r}: the zoo has {', '.join(SIZES)}.")
    width, depth, heads = (
        config.get(field, value) for field, value in zip(("embed_dim", "depth", "num_heads"), SIZES[size], strict=True)
    )
    (bins, frames), stride = config.get("patch_size", (64, 4)), config.get("patch_stride", (64, 4))
    longest = config.get("target_length", 1008)
    refuse(
        name,
        config,
        sources="name embed_dim depth num_heads n_mels target_length patch_size patch_stride mlp_ratio qkv_bias",
        extras=f"{BOOKKEEPING} loss encoder_kwargs attn_drop_rate drop_path_rate drop_rate time_patch_out "
        "freq_patch_out eval_avg wavtransforms spectransforms pad_last "
        "center f_max f_min hop_size n_fft win_size",  # the extractor decides these
        choices={"pooling": ("mean", "logit"), "init_values": (None,), "init_bn": (True,), "pruned_heads": ({},)},
    )
    agree(name, ("patch_size", [bins, frames]), ("patch_stride", list(stride)))
    frontend = extractor_frontend(name, config, extractor, 8000)
    rate, hop = frontend["sample_rate"], frontend["hop_length"]
    return Entry(
        name=name,
        frontend=frontend,
        network=_network(
            width,
            depth,
            heads,
            bins=frontend["bins"],
            frames=longest,
            patch=(frames, bins),
            mlp_width=int(width * config.get("mlp_ratio", 4.0)),
            qkv_bias=config.get("qkv_bias", True),
        ),
        **ENCODER,
        window=(longest - 1) * hop / max(rate, 1),
        source=page(name),
        paper="https://arxiv.org/abs/2406.06992",
        checkpoint=Checkpoint(repo=name, table="dasheng"),
    )


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the authors' encoders, and the Hub's encoders without a config.json.

    The number of heads is that of the file's `config`, or that of the published model with the same width; otherwise a
    head has 64 channels.
    """
    shapes = file.shapes
    layout, top = ("dasheng", "encoder.") if "encoder.time_pos_embed" in shapes else ("dasheng_authors", "")
    keys = {f"{top}{key}" for key in ("time_pos_embed", "freq_pos_embed", "init_bn.1.weight")}
    if not keys <= shapes.keys() or "outputlayer.1.weight" in shapes:
        return None
    _, width, _, steps = shapes[f"{top}time_pos_embed"]
    bins, patch = shapes[f"{top}init_bn.1.weight"][0], shapes[f"{top}patch_embed.proj.weight"][:1:-1]
    config: Any = file.settings.get("config")
    heads_in_config = config.get("num_heads") if isinstance(config, dict) else None
    counts = {width: heads for width, _, heads in SIZES.values()}
    entry = ENTRIES[0]
    if width not in counts:
        entry = dataclasses.replace(entry, license=None, source=None)  # somebody else trained it
    network = _network(
        width,
        file.count(f"{top}blocks.{{}}."),
        heads_in_config if isinstance(heads_in_config, int) else counts.get(width, max(width // 64, 1)),
        bins=bins,
        frames=steps * patch[0],
        patch=patch,
        mlp_width=shapes[f"{top}blocks.0.mlp.fc1.weight"][0],
        qkv_bias=f"{top}blocks.0.attn.qkv.bias" in shapes,
    )
    entry = dataclasses.replace(
        entry,
        frontend=FRONTEND | {"bins": bins},
        network=network,
        window=(steps * patch[0] - 1) * FRONTEND["hop_length"] / FRONTEND["sample_rate"],
        checkpoint=None,
    )
    return Recognition(entry, RULES[layout])


def _network(width: int, depth: int, heads: int, **options: Any) -> dict[str, Any]:
    return {"type": "CED", "width": width, "depth": depth, "heads": heads, "fill": False} | options
