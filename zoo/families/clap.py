"""LAION's CLAP, "Large-scale Contrastive Language-Audio Pretraining", Wu et al., arXiv:2211.06687: words and sounds.

Weights: https://huggingface.co/laion/clap-htsat-unfused, -fused and larger_clap_* (Apache-2.0), every other `ClapModel`
of transformers, and its audio tower alone. A fused model combines several parts of a long clip. The zoo leaves this
fusion out, because the parts are drawn at random: it cuts a long recording into windows of 10 s, as for all models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._entry import Checkpoint, Entry
from .._files import line
from .._foreign import BOOKKEEPING, ENCODER, EXTRACTING, activation, agree, architecture, matching, page, refuse
from .._rules import COUNTER, NORM, Rule, drop, hwio, under

PAPER = "https://arxiv.org/abs/2211.06687"
METRIC = {  # accuracy on ESC-50 without training, by the names of its classes
    "dataset": "ESC-50",
    "metric": "zero-shot accuracy",
    "value": 0.9155,
    "source": 'pymill.com, on this checkpoint, by the prompt "This is a sound of {}."',
}


def _frontend(has_fusion: bool, **options: Any) -> dict[str, Any]:
    scale = {"mel_scale": "htk", "norm": None} if has_fusion else {"mel_scale": "slaney", "norm": "slaney"}
    return {"type": "CLAPLogMel", "sample_rate": 48000, **scale, **options}


def _entry(name: str, repo: str, network: str, metrics: tuple[Mapping[str, Any], ...] = ()) -> Entry:
    return Entry(
        name=name,
        frontend=_frontend(name == "clap_fused"),
        network={"type": network, "projection": 512},
        model={"type": "CLAP", "text": {"type": "RoBERTa", "eps": 1e-12, "projection": 512}},
        classes=0,
        task="contrastive",
        window=10.0,
        license="Apache-2.0",
        source=f"https://huggingface.co/laion/{repo}",
        paper=PAPER,
        metrics=metrics,
        checkpoint=Checkpoint(repo=f"laion/{repo}", table="clap", label_file="config.json"),
    )


ENTRIES = (
    _entry("clap_unfused", "clap-htsat-unfused", "htsat_tiny", (METRIC,)),
    _entry("clap_fused", "clap-htsat-fused", "htsat_tiny"),
    _entry("clap_general", "larger_clap_general", "htsat_base"),
    _entry("clap_music", "larger_clap_music", "htsat_base"),
    _entry("clap_music_speech", "larger_clap_music_and_speech", "htsat_base"),
)

PAIR = "(weight|bias)"
TOWER = r"(?:audio_model\.)?audio_encoder\."
PROJECTION = rf"(linear[12])\.{PAIR}"
RULES = {
    "clap": (
        COUNTER,
        Rule(r".*\.(relative_position_index|position_ids|token_type_ids)", drop),  # derived from the sizes
        Rule(TOWER + r"patch_embed\.(mel_conv2d|fusion_model)\.(?!.*num_batches_tracked).*", drop),
        *under(
            TOWER,
            "network.",
            Rule(rf"batch_norm\.{NORM}", r"input_norm.\1"),
            Rule(r"patch_embed\.proj\.weight", "patchify.weight", hwio),
            Rule(r"patch_embed\.proj\.bias", "patchify.bias"),
            Rule(rf"patch_embed\.norm\.{PAIR}", r"patch_norm.\1"),
            Rule(rf"layers\.(\d+)\.downsample\.norm\.{PAIR}", r"stages.\1.downsample.norm.\2"),
            Rule(r"layers\.(\d+)\.downsample\.reduction\.weight", r"stages.\1.downsample.reduction.weight"),
            Rule(rf"norm\.{PAIR}", r"norm.\1"),
        ),
        *under(
            TOWER + r"layers\.(\d+)\.blocks\.(\d+)\.",
            r"network.stages.\1.blocks.\2.",
            Rule(rf"layernorm_before\.{PAIR}", r"attention_norm.\1"),
            Rule(rf"attention\.self\.(query|key|value)\.{PAIR}", r"attention.\1.\2"),
            Rule(r"attention\.self\.relative_position_bias_table", "attention.bias"),
            Rule(rf"attention\.output\.dense\.{PAIR}", r"attention.output.\1"),
            Rule(rf"layernorm_after\.{PAIR}", r"mlp_norm.\1"),
            Rule(rf"intermediate\.dense\.{PAIR}", r"expand.\1"),
            Rule(rf"output\.dense\.{PAIR}", r"contract.\1"),
        ),
        Rule(rf"audio_projection\.{PROJECTION}", r"network.projection.\1.\2"),
        Rule("logit_scale_a", "audio_logit_scale"),
        Rule("logit_scale_t", "text_logit_scale"),
        Rule(rf"text_projection\.{PROJECTION}", r"text.projection.\1.\2"),
        *under(
            r"text_model\.",
            "text.",
            Rule(r"embeddings\.word_embeddings\.weight", "word_embedding"),
            Rule(r"embeddings\.position_embeddings\.weight", "position_embedding"),
            Rule(r"embeddings\.token_type_embeddings\.weight", "type_embedding"),
            Rule(rf"embeddings\.LayerNorm\.{PAIR}", r"norm.\1"),
            Rule(rf"pooler\.dense\.{PAIR}", r"pooler.\1"),
        ),
        *under(
            r"text_model\.encoder\.layer\.(\d+)\.",
            r"text.blocks.\1.",
            Rule(rf"attention\.self\.(query|key|value)\.{PAIR}", r"attention.\1.\2"),
            Rule(rf"attention\.output\.dense\.{PAIR}", r"attention.output.\1"),
            Rule(rf"attention\.output\.LayerNorm\.{PAIR}", r"attention_norm.\1"),
            Rule(rf"intermediate\.dense\.{PAIR}", r"expand.\1"),
            Rule(rf"output\.dense\.{PAIR}", r"contract.\1"),
            Rule(rf"output\.LayerNorm\.{PAIR}", r"mlp_norm.\1"),
        ),
    )
}
ARCHITECTURES = {  # by model_type
    "clap": ("ClapModel",),
    "clap_audio_model": ("ClapAudioModelWithProjection", "ClapAudioModel"),
}
READS = "transformers' ClapModel, ClapAudioModelWithProjection and ClapAudioModel"
DROPOUT = r".*dropout(_prob)?|drop_path_rate|initializer_factor|.*_token_id"


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a CLAP or of its audio tower in transformers."""
    return config.get("model_type") in ARCHITECTURES


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the model, with the defaults of transformers' `ClapConfig`, `ClapAudioConfig`, `ClapTextConfig` and
    `ClapFeatureExtractor`."""
    extractor = read("preprocessor_config.json")
    kind = architecture(name, config, ARCHITECTURES[config["model_type"]])
    whole = kind == "ClapModel"
    if whole:
        refuse(
            name,
            config,
            sources="audio_config text_config projection_dim projection_hidden_act",
            extras=f"{BOOKKEEPING} hidden_size num_hidden_layers logit_scale_init_value {matching(DROPOUT, config)}",
        )
    audio = _part(name, config, "audio_config") if whole else config
    common = config if whole else audio
    projection = {
        "projection": common.get("projection_dim", 512),
        "projection_activation": activation(name, common.get("projection_hidden_act", "relu")),
    }
    network = {"type": "HTSAT", **_audio(name, audio, whole)}
    frontend = _extractor(name, extractor, network["bins"])
    network["frames"] = round(frontend["seconds"] * frontend["sample_rate"]) // max(frontend["hop_length"], 1) + 1
    image, bins = network["image"], max(network["bins"], 1)
    if network["frames"] > (limit := image * (image // bins)):
        raise ValueError(
            f"{name} has clips of {frontend['seconds']:g} s, which are {network['frames']} frames, in its "
            f"preprocessor_config.json, and an image of {image} x {image}, which takes {limit}, in its config.json."
        )
    model: dict[str, Any] = ENCODER
    if whole:
        text = {"type": "RoBERTa", **_text(name, _part(name, config, "text_config")), **projection}
        model = {"model": {"type": "CLAP", "text": text}, "classes": 0, "task": "contrastive"}
    return Entry(
        name=name,
        frontend=frontend,
        network=network | (projection if kind != "ClapAudioModel" else {}),
        window=frontend["seconds"],
        source=page(name),
        paper=PAPER,
        checkpoint=Checkpoint(repo=name, table="clap"),
        **model,
    )


def _part(name: str, config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The config of one tower. Fields that transformers leaves out have their defaults."""
    part = config.get(field)
    if part is not None and not isinstance(part, Mapping):
        raise ValueError(
            f"{name} has {line(repr(part))} as {field} in its config.json, and it must be an object of fields."
        )
    return part or {}


def _audio(name: str, config: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """The options of the audio tower, without its projection."""
    refuse(
        name,
        config,
        sources="""depths num_attention_heads patch_embeds_hidden_size hidden_size num_mel_bins spec_size patch_size
        patch_stride window_size mlp_ratio qkv_bias hidden_act layer_norm_eps projection_dim projection_hidden_act""",
        extras=f"{BOOKKEEPING} aff_block_r enable_fusion num_classes num_hidden_layers {matching(DROPOUT, config)}",
        choices={
            "enable_patch_layer_norm": (True,),
            "flatten_patch_embeds": (True,),
            "fusion_type": (None, "aff_2d"),
            "patch_embed_input_channels": (1,),
        },
    )
    depths, embedding = config.get("depths", (2, 2, 6, 2)), config.get("patch_embeds_hidden_size", 96)
    if not isinstance(depths, Sequence) or isinstance(depths, str) or not depths:
        raise ValueError(f"{name} has depths that are no list of numbers in its config.json: {line(repr(depths))}.")
    patch = config.get("patch_size", 4)
    stride = config.get("patch_stride", (4, 4))
    (rows, columns), sides = (_pair(name, each) for each in (patch, stride))
    if rows != columns or sides != (rows, columns):
        raise ValueError(f"{name} has patches of {patch} at a stride of {stride}: the zoo has squares side by side.")
    width = embedding * 2 ** (len(depths) - 1)
    if config.get("hidden_size", 768) != width:
        raise ValueError(
            f"{name} has the hidden_size {config.get('hidden_size', 768)} in its config.json, and {len(depths)} stages "
            f"that begin with {embedding} channels end with {width}: they must be equal."
        )
    return {
        "depths": tuple(depths),
        "heads": tuple(config.get("num_attention_heads", (4, 8, 16, 32))),
        "embedding": embedding,
        "bins": config.get("num_mel_bins", 64),
        "image": config.get("spec_size", 256),
        "patch": rows,
        "window": config.get("window_size", 8),
        "mlp_ratio": float(config.get("mlp_ratio", 4.0)),
        "qkv_bias": config.get("qkv_bias", True),
        "activation": activation(name, config.get("hidden_act", "gelu")),
        "eps": config.get("layer_norm_eps", 1e-5),
    }


def _pair(name: str, side: Any) -> tuple[int, int]:
    sides = (side, side) if isinstance(side, int) else side
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(each, int) for each in sides):
        raise ValueError(
            f"{name} has a side of patches that is neither a whole number nor two of them: {line(repr(side))}."
        )
    return sides[0], sides[1]


def _text(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the text tower, without its projection."""
    refuse(
        name,
        config,
        sources="""vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
        max_position_embeddings type_vocab_size layer_norm_eps pad_token_id projection_dim projection_hidden_act""",
        extras=f"{BOOKKEEPING} {matching(DROPOUT, config)}",
        choices={"position_embedding_type": ("absolute",)},
    )
    return {
        "hidden": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "words": config.get("vocab_size", 50265),
        "positions": config.get("max_position_embeddings", 514),
        "types": config.get("type_vocab_size", 1),
        "padding": config.get("pad_token_id", 1),
        "mlp_width": config.get("intermediate_size", 3072),
        "activation": activation(name, config.get("hidden_act", "gelu")),
        "eps": config.get("layer_norm_eps", 1e-12),
    }


def _extractor(name: str, extractor: Mapping[str, Any], bins: int) -> dict[str, Any]:
    """The frontend. The extractor's treatment of longer clips also decides the mel scale."""
    refuse(
        name,
        extractor,
        sources="""sampling_rate feature_size hop_length max_length_s fft_window_size frequency_min frequency_max
        truncation padding""",
        extras=f"{EXTRACTING} nb_frequency_bins nb_max_samples",  # derived from the fields above
        choices={"truncation": ("fusion", "rand_trunc"), "padding": ("repeatpad", "repeat", "pad"), "top_db": (None,)},
    )
    agree(name, ("num_mel_bins", bins), ("feature_size", extractor.get("feature_size", 64)))
    return _frontend(
        extractor.get("truncation", "fusion") == "fusion",
        bins=bins,
        n_fft=extractor.get("fft_window_size", 1024),
        hop_length=extractor.get("hop_length", 480),
        f_min=float(extractor.get("frequency_min", 0.0)),
        f_max=float(extractor.get("frequency_max", 14000.0)),
        seconds=float(extractor.get("max_length_s", 10)),
        fill=extractor.get("padding", "repeatpad"),
    ) | {"sample_rate": extractor.get("sampling_rate", 48000)}
