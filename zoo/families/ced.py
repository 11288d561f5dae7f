"""CED, "Consistent ensemble distillation for audio tagging", Dinkel et al., 2023, arXiv:2308.11957.

Weights: https://huggingface.co/mispeech/ced-tiny, -mini, -small and -base (Apache-2.0).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._entry import Checkpoint, Entry
from .._foreign import (
    BOOKKEEPING,
    EXTRACTING,
    Layout,
    Recognition,
    WeightFile,
    agree,
    id2label,
    label_fields,
    like,
    page,
    patch_side,
    refuse,
    require,
)
from .._labels import AUDIOSET
from .._rules import COUNTER, NORM, QKV, VIT, Rule, drop, under
from .._weights import ArraysByName

FRONTEND = {"type": "torchaudio_log_mel", "sample_rate": 16000, "n_fft": 512, "hop_length": 160, "top_db": 120.0}

ENTRIES = (
    *(
        Entry(
            name=f"ced_{size}_audioset",
            frontend=FRONTEND,
            network={"type": f"ced_{size}"},
            model={"type": "Classifier", "norm": 1e-5},
            classes=527,
            task="multilabel",
            window=10.0,
            license="Apache-2.0",
            source=f"https://huggingface.co/mispeech/ced-{size}",
            paper="https://arxiv.org/abs/2308.11957",
            metrics=(
                {
                    "dataset": "AudioSet",
                    "metric": "mAP",
                    "value": precision,
                    "source": f"the publisher, mispeech/ced-{size}",
                },
            ),
            checkpoint=Checkpoint(repo=f"mispeech/ced-{size}", table="ced", **AUDIOSET),
        )
        for size, precision in (("tiny", 0.481), ("mini", 0.490), ("small", 0.496), ("base", 0.500))
    ),
)


def steps(embedding: np.ndarray) -> np.ndarray:
    """Reshapes a position embedding `1 channels freq time`, in which freq or time is 1, to `steps channels`."""
    return embedding.transpose(0, 2, 3, 1).reshape(-1, embedding.shape[1])


def table(top: str, norm: str) -> tuple[Rule, ...]:
    """The table of the encoder. Its keys begin with `top`, and its input norm is called `norm`."""
    return (
        COUNTER,
        *under(
            top,
            "network.",
            Rule(rf"{norm}\.{NORM}", r"input_norm.\1"),
            Rule("(time|freq)_pos_embed", r"\1_embedding", steps),
            *VIT,
            QKV,
        ),
    )


HEAD = (
    Rule(r"outputlayer\.0\.(weight|bias)", r"norm.\1"),
    Rule(r"outputlayer\.1\.(weight|bias)", r"head.\1"),
)
RULES = {
    "ced": (*table(r"encoder\.", "init_bn"), *HEAD),
    "ced_authors": (*table("", r"init_bn\.1"), *HEAD, Rule(r"front_end\..*", drop)),
}
READS = "CedForAudioClassification"
SIZES = {  # the width and the number of heads, by the name of a CED
    "ced-tiny": (192, 3),
    "ced-mini": (256, 4),
    "ced-small": (384, 6),
    "ced-base": (768, 12),
}


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a CED in transformers."""
    return config.get("model_type") == "ced"


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of a `CedForAudioClassification`, with mispeech's defaults of `CedConfig` and `CedFeatureExtractor`."""
    extractor = read("preprocessor_config.json")
    width, heads = SIZES.get(config.get("name") or "", (config.get("embed_dim", 768), config.get("num_heads", 12)))
    patch, frames = config.get("patch_size", 16), config.get("target_length", 1012)
    pooling = config.get("pooling", "mean")
    choices = {"pooling": ("mean", "logit"), "patch_stride": (patch,), "pad_last": (True,), "eval_avg": ("mean",)}
    refuse(
        name,
        config,
        sources="name embed_dim num_heads depth n_mels target_length patch_size mlp_ratio qkv_bias outputdim loss",
        extras=BOOKKEEPING
        + " attn_drop_rate drop_path_rate drop_rate"
        + " center f_max f_min hop_size n_fft win_size",  # the extractor decides these
        choices=choices | {"init_values": (None,), "pruned_heads": ({},)},
    )
    frontend = extractor_frontend(name, config, extractor, None)
    rate, hop = frontend["sample_rate"], frontend["hop_length"]
    classes, labels = config.get("outputdim", 527), config.get("id2label") or {}
    # With the pooling "mean" the model ends in a sigmoid. With "logit" the loss shows what the logits mean.
    multilabel = pooling == "mean" or config.get("loss") != "CrossEntropyLoss"
    return Entry(
        name=name,
        frontend=frontend,
        network={
            "type": "CED",
            "width": width,
            "depth": config.get("depth", 12),
            "heads": heads,
            "bins": config.get("n_mels", 64),
            "frames": frames,
            "patch": patch,
            "mlp_width": int(width * config.get("mlp_ratio", 4.0)),
            "qkv_bias": config.get("qkv_bias", True),
        },
        model={"type": "Classifier", "norm": 1e-5},
        classes=classes,
        labels=id2label(name, labels)
        if len(labels) == classes
        else (),  # a fine-tuned model may still have AudioSet's labels
        task="multilabel" if multilabel else "multiclass",
        window=(frames - 1) * hop / max(rate, 1),  # one chunk has one hop less than frames; Entry refuses 0
        source=page(name),
        paper="https://arxiv.org/abs/2308.11957",
        checkpoint=Checkpoint(repo=name, table="ced"),
    )


def extractor_frontend(
    name: str, config: Mapping[str, Any], extractor: Mapping[str, Any], f_max: float | None
) -> dict[str, Any]:
    """The frontend of a `preprocessor_config.json`, with the defaults of mispeech's extractors; `f_max` is one of them.

    Raises ValueError for fields that the zoo does not know, and for another number of bins than `config` has.
    """
    refuse(
        name,
        extractor,
        sources="sampling_rate feature_size n_fft win_size hop_size f_min f_max center",
        extras=f"{EXTRACTING} n_mels max_length",
    )
    bins = extractor.get("feature_size", 64)
    agree(name, ("n_mels", config.get("n_mels", 64)), ("feature_size", bins))
    return {
        "type": "torchaudio_log_mel",
        "sample_rate": extractor.get("sampling_rate", 16000),
        "bins": bins,
        "n_fft": extractor.get("n_fft", 512),
        "win_length": extractor.get("win_size", 512),
        "hop_length": extractor.get("hop_size", 160),
        "f_min": extractor.get("f_min", 0),
        "f_max": extractor.get("f_max", f_max),
        "framing": "center" if extractor.get("center", True) else "valid",
        "top_db": 120.0,
    }


def layout(entry: Entry, arrays: ArraysByName) -> Layout | None:
    """The layout as `CedForAudioClassification`, whose code is in mispeech's repo; None for another model."""
    frontend, network, model = entry.frontend, entry.network, entry.model
    if (frontend["type"], network["type"], model["type"]) != ("LogMel", "CED", "Classifier"):
        return None
    dialect = {"window": "hann", "periodic": True, "power": 2.0, "normalized": False, "mel_scale": "htk", "norm": None}
    dialect |= {"log": "decibel", "floor": 1e-10, "top_db": 120.0, "ref": 1.0, "pre_emphasis": None, "max_frames": None}
    require(frontend, "a CED", **dialect, fbanks_dtype="float32", mean=0.0, scale=1.0, bins=network["bins"])
    require(model, "a CED", norm=1e-5, projection=None, activation=None, hidden=None, cosine=None)
    require(network, "a CED", fill=True)
    patch = patch_side(network, "a CED")
    hidden = network["mlp_width"] or 4 * network["width"]
    labels = label_fields(entry)
    code = {"AutoConfig": "configuration_ced.CedConfig"}
    code |= {"AutoModelForAudioClassification": "modeling_ced.CedForAudioClassification"}
    config = {
        "model_type": "ced",
        "architectures": ["CedForAudioClassification"],
        "auto_map": {name: f"mispeech/ced-base--{where}" for name, where in code.items()},
        "embed_dim": network["width"],
        "num_heads": network["heads"],
        "depth": network["depth"],
        "n_mels": network["bins"],
        "target_length": network["frames"],
        "patch_size": patch,
        "patch_stride": patch,
        "mlp_ratio": hidden / network["width"],
        "qkv_bias": network["qkv_bias"],
        "outputdim": entry.classes,
        "pooling": "mean" if entry.task == "multilabel" else "logit",
        "loss": "BCE" if entry.task == "multilabel" else "CrossEntropyLoss",
        "id2label": labels["id2label"],
        "label2id": labels["label2id"],
    }
    extractor = {
        "feature_extractor_type": "CedFeatureExtractor",
        "auto_map": {"AutoFeatureExtractor": "mispeech/ced-base--feature_extraction_ced.CedFeatureExtractor"},
        "sampling_rate": entry.sample_rate,
        "feature_size": network["bins"],
        "n_fft": frontend["n_fft"],
        "win_size": frontend["win_length"] or frontend["n_fft"],
        "hop_size": frontend["hop_length"],
        "f_min": frontend["f_min"],
        "f_max": frontend["f_max"],
        "center": frontend["framing"] == "center",
        "padding_value": 0.0,
    }
    undo = {"time_pos_embed": lambda steps: steps.T[None, :, None, :]}
    undo |= {"freq_pos_embed": lambda steps: steps.T[None, :, :, None]}
    return Layout(config, extractor, arrays, "ced", undo=undo)


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the authors' files, and the Hub's files without a config.json. A head of attention has 64 channels."""
    shapes = file.shapes
    layout, top = ("ced", "encoder.") if "encoder.time_pos_embed" in shapes else ("ced_authors", "")
    if not {f"{top}time_pos_embed", f"{top}freq_pos_embed", "outputlayer.1.weight"} <= shapes.keys():
        return None
    _, width, _, steps = shapes[f"{top}time_pos_embed"]
    patch, bins = (
        shapes[f"{top}patch_embed.proj.weight"][-1],
        shapes[f"{top}init_bn.weight" if top else "init_bn.1.weight"][0],
    )
    frames = 1012 if steps * patch == 1008 else steps * patch  # 1012, the authors' size, is no multiple of the patch
    network = {
        "type": "CED",
        "width": width,
        "depth": file.count(f"{top}blocks.{{}}."),
        "heads": max(width // 64, 1),
        "bins": bins,
        "frames": frames,
        "patch": patch,
        "mlp_width": shapes[f"{top}blocks.0.mlp.fc1.weight"][0],
        "qkv_bias": f"{top}blocks.0.attn.qkv.bias" in shapes,
    }
    widths = {width: name for name, (width, _) in SIZES.items()}
    name = widths.get(width, "ced-base").replace("-", "_") + "_audioset"
    release = next(each for each in ENTRIES if each.name == name)
    entry = like(release, shapes["outputlayer.1.weight"][0])
    entry = dataclasses.replace(entry, frontend=FRONTEND | {"bins": bins}, network=network)
    return Recognition(entry, RULES[layout])
