"""Whisper's encoder, "Robust Speech Recognition via Large-Scale Weak Supervision", Radford et al., arXiv:2212.04356.

Weights: https://huggingface.co/openai/whisper-tiny to -large-v3 (Apache-2.0), and any Whisper in transformers.
The decoder of models that write text is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .._entry import Checkpoint, Entry
from .._foreign import (
    BOOKKEEPING,
    ENCODER,
    EXTRACTING,
    TRAINING,
    Layout,
    activation,
    agree,
    architecture,
    label_fields,
    matching,
    page,
    projected,
    projected_head,
    refuse,
    require,
    their_activation,
)
from .._rules import Rule, drop, taps_first, under
from .._weights import ArraysByName

SIZES = {  # the network, and the mAP on AudioSet of Whisper-AT, Gong et al., 2023, on the frozen encoder
    "tiny": ("whisper_tiny", 0.365),
    "tiny_en": ("whisper_tiny", None),
    "base": ("whisper_base", 0.376),
    "base_en": ("whisper_base", None),
    "small": ("whisper_small", 0.398),
    "small_en": ("whisper_small", None),
    "medium": ("whisper_medium", 0.408),
    "medium_en": ("whisper_medium", None),
    "large_v2": ("whisper_large", 0.417),
    "large_v3": ("whisper_large_v3", None),
}
PAPER = "https://arxiv.org/abs/2212.04356"


def _entry(size: str, network: str, precision: float | None) -> Entry:
    repo = f"openai/whisper-{size.replace('_en', '.en').replace('_', '-')}"
    source = "Whisper-AT, arXiv:2307.03183, by a head of its own on the frozen encoder"
    measurement = {"dataset": "AudioSet", "metric": "mAP", "value": precision, "source": source}
    return Entry(
        name=f"whisper_{size}",
        frontend={"type": "WhisperLogMel", "sample_rate": 16000, "bins": 128 if size == "large_v3" else 80},
        network={"type": network},
        **ENCODER,
        window=30.0,
        license="Apache-2.0",
        source=f"https://huggingface.co/{repo}",
        paper=PAPER,
        metrics=() if precision is None else (measurement,),
        checkpoint=Checkpoint(repo=repo, table="whisper", label_file="config.json"),
    )


ENTRIES = tuple(_entry(size, *facts) for size, facts in SIZES.items())

PAIR = "(weight|bias)"


def _table(network: str) -> tuple[Rule, ...]:
    """The rename table of a model whose encoder is `network`."""
    return (
        Rule(r"(?:model\.)?decoder\..*|proj_out\..*", drop),
        *under(
            r"(?:model\.)?encoder\.",
            network,
            Rule(r"conv([12])\.weight", r"conv\1.weight", taps_first),
            Rule(r"conv([12])\.bias", r"conv\1.bias"),
            Rule(r"embed_positions\.weight", "position_embedding"),
            Rule(rf"layer_norm\.{PAIR}", r"norm.\1"),
        ),
        *under(
            r"(?:model\.)?encoder\.layers\.(\d+)\.",
            network + r"blocks.\1.",
            Rule(rf"self_attn\.q_proj\.{PAIR}", r"attention.query.\1"),
            Rule(r"self_attn\.k_proj\.weight", "attention.key.weight"),
            Rule(rf"self_attn\.v_proj\.{PAIR}", r"attention.value.\1"),
            Rule(rf"self_attn\.out_proj\.{PAIR}", r"attention.output.\1"),
            Rule(rf"self_attn_layer_norm\.{PAIR}", r"attention_norm.\1"),
            Rule(rf"fc1\.{PAIR}", r"expand.\1"),
            Rule(rf"fc2\.{PAIR}", r"contract.\1"),
            Rule(rf"final_layer_norm\.{PAIR}", r"mlp_norm.\1"),
        ),
        Rule("layer_weights", "network.weights"),
        Rule(rf"projector\.{PAIR}", r"projection.\1"),
        Rule(rf"classifier\.{PAIR}", r"head.\1"),
    )


RULES = {"whisper": _table("network."), "whisper_weighted": _table("network.network.")}
CLASSIFIER = "WhisperForAudioClassification"
ARCHITECTURES = ("WhisperModel", "WhisperForConditionalGeneration", CLASSIFIER)
READS = "transformers' Whisper, with or without its decoder, and WhisperForAudioClassification"
DECODING = r"decoder_(?!layerdrop).*|.*_tokens|forced_.*|max_length|max_target_positions|vocab_size|num_hidden_layers"
OTHERS = "alignment_heads is_encoder_decoder lang_ids lang_to_id median_filter_width task_to_id"


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Whisper in transformers."""
    return config.get("model_type") == "whisper"


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry, with the defaults of transformers' `WhisperConfig` and `WhisperFeatureExtractor`."""
    extractor = read("preprocessor_config.json")
    kind = architecture(name, config, ARCHITECTURES)
    refuse(
        name,
        config,
        sources="""d_model encoder_layers encoder_attention_heads encoder_ffn_dim num_mel_bins max_source_positions
        activation_function use_weighted_layer_sum classifier_proj_size""",
        extras=f"{BOOKKEEPING} {OTHERS} {matching(f'{TRAINING}|{DECODING}', config)}",
        choices={"scale_embedding": (False,), "pruned_heads": ({},)},
    )
    refuse(
        name,
        extractor,
        sources="sampling_rate feature_size hop_length chunk_length n_fft",
        extras=f"{EXTRACTING} mel_filters n_samples nb_max_frames",  # derived from the fields above
        choices={"dither": (0, 0.0), "do_normalize": (False,)},
    )
    rate, hop = extractor.get("sampling_rate", 16000), extractor.get("hop_length", 160)
    seconds, bins = extractor.get("chunk_length", 30), config.get("num_mel_bins", 80)
    frames, steps = seconds * rate // max(hop, 1), config.get("max_source_positions", 1500)
    agree(name, ("num_mel_bins", bins), ("feature_size", extractor.get("feature_size", 80)))
    agree(name, ("max_source_positions", steps), ("frames by two", (frames + 1) // 2))
    classifies = kind == CLASSIFIER
    network: dict[str, Any] = {
        "type": "Whisper",
        "width": config.get("d_model", 384),
        "depth": config.get("encoder_layers", 4),
        "heads": config.get("encoder_attention_heads", 6),
        "bins": bins,
        "steps": steps,
        "mlp_width": config.get("encoder_ffn_dim", 1536),
        "activation": activation(name, config.get("activation_function", "gelu")),
        "pool": "all" if classifies else "recording",
    }
    table = "whisper"
    if classifies and config.get("use_weighted_layer_sum", False):
        network, table = {"type": "WeightedLayers", "network": network}, "whisper_weighted"
    return Entry(
        name=name,
        frontend={
            "type": "WhisperLogMel",
            "sample_rate": rate,
            "bins": bins,
            "n_fft": extractor.get("n_fft", 400),
            "hop_length": hop,
            "total_frames": frames,
        },
        network=network,
        window=float(seconds),
        source=page(name),
        paper=PAPER,
        checkpoint=Checkpoint(repo=name, table=table),
        **(projected_head(name, config) if classifies else ENCODER),
    )


def layout(entry: Entry, arrays: ArraysByName) -> Layout | None:
    """The layout of an entry as `WhisperForAudioClassification`; None for another model.

    A head without a projection gets an identity.
    """
    frontend, is_weighted = entry.frontend, entry.network["type"] == "WeightedLayers"
    body = entry.network["network"] if is_weighted else entry.network
    if (frontend["type"], body["type"]) != ("WhisperLogMel", "Whisper"):
        return None
    if entry.model["type"] != "Classifier":
        raise ValueError(
            "transformers has no Whisper without a decoder except the one that classifies: save the encoder without "
            "layout, or give it classes."
        )
    require(body, "a Whisper that classifies", pool="all", bins=frontend["bins"])
    require(entry.model, "a Whisper that classifies", norm=None, activation=None, hidden=None, cosine=None)
    arrays, width = projected(entry, arrays, body["width"])
    samples, rate = frontend["total_frames"] * frontend["hop_length"], entry.sample_rate
    if samples % rate:
        raise ValueError(
            f"transformers' Whisper takes whole seconds, and this one {samples / rate:g} s: save it without layout."
        )
    config = {
        "model_type": "whisper",
        "architectures": [CLASSIFIER],
        "d_model": body["width"],
        "encoder_layers": body["depth"],
        "encoder_attention_heads": body["heads"],
        "encoder_ffn_dim": body["mlp_width"] or 4 * body["width"],
        "num_mel_bins": body["bins"],
        "max_source_positions": body["steps"],
        "activation_function": their_activation(body["activation"]),
        "use_weighted_layer_sum": is_weighted,
        "classifier_proj_size": width,
        **label_fields(entry),
    }
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "sampling_rate": rate,
        "feature_size": frontend["bins"],
        "hop_length": frontend["hop_length"],
        "n_fft": frontend["n_fft"],
        "chunk_length": samples // rate,
        "n_samples": samples,
        "nb_max_frames": frontend["total_frames"],
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
    return Layout(config, extractor, arrays, "whisper_weighted" if is_weighted else "whisper")
