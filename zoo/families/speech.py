"""wav2vec 2.0, Baevski et al., 2020, arXiv:2006.11477, and HuBERT, WavLM, data2vec, XLS-R and UniSpeech-SAT, its kin.

Weights: https://huggingface.co/facebook/wav2vec2-base, facebook/hubert-base-ls960, facebook/wav2vec2-xls-r-300m and
facebook/data2vec-audio-base (Apache-2.0), microsoft/wavlm-base-plus and -large, and any model of these kinds in
transformers. Parts that write text, tell speakers apart frame by frame or served only for pretraining are left out.

WavLM's licence is disputed: its repository says MIT, and the card of its weights says CC BY-SA 3.0
(https://github.com/microsoft/unilm/issues/1757). MMS is a model of the same kind for non-commercial use.
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
from .._inverse import row
from .._rules import Rule, drop, flat, taps_first, under
from .._weights import ArraysByName

LARGE = {"norm": "layer", "bias": True}
PAPERS = {  # by transformers' model_type
    "wav2vec2": "https://arxiv.org/abs/2006.11477",
    "hubert": "https://arxiv.org/abs/2106.07447",
    "wavlm": "https://arxiv.org/abs/2110.13900",
    "data2vec-audio": "https://arxiv.org/abs/2202.03555",
    "unispeech-sat": "https://arxiv.org/abs/2110.05752",
}
XLS_R = "https://arxiv.org/abs/2111.09296"
WAVLM = "CC-BY-SA-3.0 by its card, MIT by its repository"


def _entry(
    name: str, repo: str, network: str, frontend: dict[str, Any], paper: str, license: str = "Apache-2.0"
) -> Entry:
    return Entry(
        name=name,
        frontend={"type": "Wav2Vec", "sample_rate": 16000} | frontend,
        network={"type": network},
        **ENCODER,
        window=WINDOW,
        license=license,
        source=f"https://huggingface.co/{repo}",
        paper=paper,
        checkpoint=Checkpoint(
            repo=repo,
            table="speech",
            label_file="config.json",
            license="CC-BY-SA-3.0" if license == WAVLM else None,
        ),
    )


WINDOW = 10.0  # seconds; the models take any length, and were trained on clips of up to about 15 s
ENTRIES = (
    _entry("wav2vec2_base", "facebook/wav2vec2-base", "wav2vec2_base", {}, PAPERS["wav2vec2"]),
    _entry("hubert_base", "facebook/hubert-base-ls960", "wav2vec2_base", {}, PAPERS["hubert"]),
    _entry("wavlm_base", "microsoft/wavlm-base", "wavlm_base", {"normalize": False}, PAPERS["wavlm"], WAVLM),
    _entry("wavlm_base_plus", "microsoft/wavlm-base-plus", "wavlm_base", {"normalize": False}, PAPERS["wavlm"], WAVLM),
    _entry("wavlm_large", "microsoft/wavlm-large", "wavlm_large", {"norm": "layer"}, PAPERS["wavlm"], WAVLM),
    _entry("xls_r_300m", "facebook/wav2vec2-xls-r-300m", "wav2vec2_large", LARGE, XLS_R),
    _entry(
        "data2vec_audio_base", "facebook/data2vec-audio-base", "data2vec_audio_base", {"norm": "layer"},
        PAPERS["data2vec-audio"],
    ),
)  # fmt: skip

PAIR = "(weight|bias)"
BODY = r"(?:(?:wav2vec2|hubert|wavlm|data2vec_audio|unispeech_sat)\.)?"
OMISSIONS = "quantizer|project_q|project_hid|lm_head|speaker_proj|classifier"  # arrays that are not read


def _table(network: str, *heads: Rule) -> tuple[Rule, ...]:
    """The table of a model whose Transformer is `network`, with the rules for its head."""
    return (
        Rule(BODY + "masked_spec_embed", drop),
        *under(
            BODY + r"feature_extractor\.conv_layers\.(\d+)\.",
            r"frontend.layers.\1.",
            Rule(r"conv\.weight", "conv.weight", taps_first),
            Rule(r"conv\.bias", "conv.bias"),
            Rule(rf"layer_norm\.{PAIR}", r"norm.\1"),
        ),
        *under(
            BODY + r"feature_projection\.",
            network,
            Rule(rf"layer_norm\.{PAIR}", r"input_norm.\1"),
            Rule(rf"projection\.{PAIR}", r"project.\1"),
        ),
        *under(
            BODY + r"encoder\.pos_conv_embed\.",
            network + "positional.",
            Rule(r"conv\.bias", "0.bias"),
            Rule(r"conv\.(?:weight_g|parametrizations\.weight\.original0)", "0.scale", flat),
            Rule(r"conv\.(?:weight_v|parametrizations\.weight\.original1)", "0.weight", taps_first),
            Rule(r"layers\.(\d+)\.conv\.weight", r"\1.weight", taps_first),
            Rule(r"layers\.(\d+)\.conv\.bias", r"\1.bias"),
        ),
        Rule(BODY + rf"encoder\.layer_norm\.{PAIR}", network + r"norm.\1"),
        Rule(BODY + r"encoder\.layers\.0\.attention\.rel_attn_embed\.weight", network + "distance_bias"),
        *under(
            BODY + r"encoder\.layers\.(\d+)\.",
            network + r"blocks.\1.",
            Rule(rf"attention\.q_proj\.{PAIR}", r"attention.query.\1"),
            Rule(rf"attention\.k_proj\.{PAIR}", r"attention.key.\1"),
            Rule(rf"attention\.v_proj\.{PAIR}", r"attention.value.\1"),
            Rule(rf"attention\.out_proj\.{PAIR}", r"attention.output.\1"),
            Rule(r"attention\.gru_rel_pos_const", "attention.gate_scale", flat),
            Rule(rf"attention\.gru_rel_pos_linear\.{PAIR}", r"attention.gate.\1"),
            Rule(rf"layer_norm\.{PAIR}", r"attention_norm.\1"),
            Rule(rf"feed_forward\.intermediate_dense\.{PAIR}", r"expand.\1"),
            Rule(rf"feed_forward\.output_dense\.{PAIR}", r"contract.\1"),
            Rule(rf"final_layer_norm\.{PAIR}", r"mlp_norm.\1"),
        ),
        *heads,
    )


CLASSIFIER = (Rule(rf"projector\.{PAIR}", r"projection.\1"), Rule(rf"classifier\.{PAIR}", r"head.\1"))
XVECTOR = (
    Rule(rf"projector\.{PAIR}", r"network.project.\1"),
    Rule(rf"tdnn\.(\d+)\.kernel\.{PAIR}", r"network.stack.\1.linear.\2"),
    Rule(rf"feature_extractor\.{PAIR}", r"network.embed.\1"),
    Rule(rf"classifier\.{PAIR}", r"head.\1"),
    Rule(r"objective\.weight", drop),
)
RULES = {
    "speech": _table("network.", Rule(rf"(?:{OMISSIONS})\..*|layer_weights|label_embeddings_concat", drop)),
    "speech_classifier": _table("network.", *CLASSIFIER),
    "speech_classifier_weighted": _table("network.network.", *CLASSIFIER, Rule("layer_weights", "network.weights")),
    "speech_xvector": _table("network.network.", *XVECTOR),
    "speech_xvector_weighted": _table(
        "network.network.network.", *XVECTOR, Rule("layer_weights", "network.network.weights")
    ),
}
CLASSES = {  # by transformers' model_type: the beginning of the names of its classes
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "unispeech-sat": "UniSpeechSat",
}
HEADS = ("Model", "ForPreTraining", "ForCTC", "ForAudioFrameClassification", "ForSequenceClassification", "ForXVector")
READS = f"transformers' {', '.join(CLASSES.values())}, each with {', '.join(HEADS[1:])} or none of them behind it"
PRETRAINING = (
    r".*codevector.*|num_(negatives|adapter_layers|ctc_classes|clusters|feat_extract_layers)|ctc_.*|diversity_loss_weight"
    r"|contrastive_.*|adapter_(act|kernel_size|stride)|output_hidden_size|vocab_size|tokenizer_class|replace_prob"
    r"|freeze_feat_extract_train"
)


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a wav2vec 2.0 or a related model in transformers."""
    return config.get("model_type") in CLASSES


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry, with the defaults of transformers' `Wav2Vec2Config`, `Wav2Vec2FeatureExtractor` and the like."""
    extractor, family = read("preprocessor_config.json"), config["model_type"]
    head = architecture(name, config, [CLASSES[family] + each for each in HEADS]).removeprefix(CLASSES[family])
    _check(name, config, extractor)
    network, fields, table = _network(name, config), ENCODER, "speech"
    if head in ("ForSequenceClassification", "ForXVector"):
        table = "speech_xvector" if head == "ForXVector" else "speech_classifier"
        if config.get("use_weighted_layer_sum", False):
            network, table = {"type": "WeightedLayers", "network": network}, f"{table}_weighted"
    if head == "ForXVector":
        width = config.get("xvector_output_dim", 512)
        network, fields = _x_vector(config, network, width), ENCODER | {"model": {"type": "Encoder", "outputs": width}}
    elif head == "ForSequenceClassification":
        fields = projected_head(name, config)
    return Entry(
        name=name,
        frontend=_frontend(name, config, extractor),
        network=network,
        window=WINDOW,
        source=page(name),
        paper=PAPERS[family],
        checkpoint=Checkpoint(repo=name, table=table),
        **fields,
    )


def _check(name: str, config: Mapping[str, Any], extractor: Mapping[str, Any]) -> None:
    """Raises ValueError for fields with values that the zoo does not compute."""
    family = config["model_type"]
    keys = {  # fields that other families do not have
        "hubert": "feat_extract_norm do_stable_layer_norm feat_proj_layer_norm",
        "wavlm": "feat_extract_norm do_stable_layer_norm num_buckets max_bucket_distance",
        "data2vec-audio": "conv_pos_kernel_size",
    }.get(family, "feat_extract_norm do_stable_layer_norm")
    choices: dict[str, tuple] = {"add_adapter": (False,), "adapter_attn_dim": (None,), "conv_pos_batch_norm": (False,)}
    choices |= {"pruned_heads": ({},), "feat_proj_layer_norm": (True,)}
    choices |= {"feat_extract_norm": ("layer",), "do_stable_layer_norm": (False,)}
    refuse(
        name,
        config,
        sources=f"""{keys} conv_dim conv_kernel conv_stride conv_bias feat_extract_activation hidden_size
        num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps num_conv_pos_embeddings
        num_conv_pos_embedding_groups use_weighted_layer_sum classifier_proj_size tdnn_dim tdnn_kernel tdnn_dilation
        xvector_output_dim""",
        extras=f"{BOOKKEEPING} {matching(f'{TRAINING}|{PRETRAINING}', config)}",
        choices={field: values for field, values in choices.items() if field not in keys.split()},
    )
    refuse(
        name,
        extractor,
        sources="do_normalize sampling_rate",
        extras=EXTRACTING,
        choices={"feature_size": (1,), "padding_value": (0, 0.0)},
    )


def _frontend(name: str, config: Mapping[str, Any], extractor: Mapping[str, Any]) -> dict[str, Any]:
    data2vec = config["model_type"] == "data2vec-audio"
    return {
        "type": "Wav2Vec",
        "sample_rate": extractor.get("sampling_rate", 16000),
        "widths": tuple(config.get("conv_dim", (512,) * 7)),
        "kernels": tuple(config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        "strides": tuple(config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        "norm": "layer" if data2vec else config.get("feat_extract_norm", "group"),
        "bias": config.get("conv_bias", False),
        "normalize": extractor.get("do_normalize", True),
        "activation": activation(name, config.get("feat_extract_activation", "gelu")),
    }


def _network(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    data2vec, wavlm = (config["model_type"] == each for each in ("data2vec-audio", "wavlm"))
    positions = config.get("num_conv_pos_embeddings", 5 if data2vec else 128)  # layers in data2vec, else taps
    return {
        "type": "Wav2Vec2",
        "width": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "bins": tuple(config.get("conv_dim", (512,)))[-1],
        "input_norm": config.get("feat_proj_layer_norm", True),
        "norm_first": config.get("do_stable_layer_norm", False),
        "kernel": config.get("conv_pos_kernel_size", 19) if data2vec else positions,
        "groups": config.get("num_conv_pos_embedding_groups", 16),
        "position_layers": positions if data2vec else 1,
        "buckets": config.get("num_buckets", 320) if wavlm else None,
        "max_distance": config.get("max_bucket_distance", 800),
        "mlp_width": config.get("intermediate_size", 3072),
        "eps": config.get("layer_norm_eps", 1e-5),
        "activation": activation(name, config.get("hidden_act", "gelu")),
        "position_activation": activation(name, config.get("feat_extract_activation", "gelu")),
    }


def _x_vector(config: Mapping[str, Any], network: Mapping[str, Any], width: int) -> dict[str, Any]:
    return {
        "type": "XVector",
        "network": network,
        "width": width,
        "widths": tuple(config.get("tdnn_dim", (512, 512, 512, 512, 1500))),
        "kernels": tuple(config.get("tdnn_kernel", (5, 3, 3, 1, 1))),
        "dilations": tuple(config.get("tdnn_dilation", (1, 2, 3, 1, 1))),
    }


def layout(entry: Entry, arrays: ArraysByName) -> Layout | None:
    """The layout of an entry with all its options as transformers' encoder or classifier; None for another model.

    A head without a projection gets an identity. The entry's paper distinguishes HuBERT from wav2vec 2.0.
    """
    network, front = entry.network, entry.frontend
    vector = network if network["type"] == "XVector" else None
    inner = network if vector is None else vector["network"]
    is_weighted = inner["type"] == "WeightedLayers"
    body = inner["network"] if is_weighted else inner
    if (front["type"], body["type"]) != ("Wav2Vec", "Wav2Vec2") or entry.model["type"] not in ("Classifier", "Encoder"):
        return None
    classifies = entry.model["type"] == "Classifier"
    papers = {entry.paper, (entry.base or {}).get("paper")}
    hubert = not body["input_norm"] or PAPERS["hubert"] in papers
    family = "hubert" if hubert else "data2vec-audio" if body["position_layers"] > 1 else "wav2vec2"
    family = "wavlm" if body["buckets"] is not None else family
    what = f"a {CLASSES[family]}"
    require(body, what, project=True, deep_norm=False, gate="input", position_activation=front["activation"])
    require(body, what, bins=front["widths"][-1], **({} if family == "hubert" else {"input_norm": True}))
    head, table, undo = "Model", "speech", {"weight_g": row, "original0": row}
    if classifies:
        require(entry.model, what, norm=None, activation=None, hidden=None, cosine=None, prototypes=None)
        head, table = "ForSequenceClassification", "speech_classifier"
        arrays, width = projected(entry, arrays, body["width"])
    elif vector is not None:
        require(entry.model, what, outputs=vector["width"])
        head, table = "ForXVector", "speech_xvector"
    elif entry.model["outputs"] is not None or is_weighted:
        raise ValueError(f"transformers has no {CLASSES[family]} with only a linear map behind it: give it classes.")
    undo |= {"gru_rel_pos_const": lambda scale: scale.reshape(1, -1, 1, 1)}
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": entry.sample_rate}
    extractor |= {"do_normalize": front["normalize"], "return_attention_mask": front["norm"] == "layer"}
    extractor |= {"feature_size": 1, "padding_value": 0.0, "padding_side": "right"}
    config = {
        "model_type": family,
        "architectures": [CLASSES[family] + head],
        "conv_dim": front["widths"],
        "conv_kernel": front["kernels"],
        "conv_stride": front["strides"],
        "conv_bias": front["bias"],
        "num_feat_extract_layers": len(front["widths"]),
        "feat_extract_activation": their_activation(front["activation"]),
        "hidden_size": body["width"],
        "num_hidden_layers": body["depth"],
        "num_attention_heads": body["heads"],
        "intermediate_size": body["mlp_width"] or 4 * body["width"],
        "hidden_act": their_activation(body["activation"]),
        "layer_norm_eps": body["eps"],
        "num_conv_pos_embeddings": body["position_layers"] if family == "data2vec-audio" else body["kernel"],
        "num_conv_pos_embedding_groups": body["groups"],
        "use_weighted_layer_sum": is_weighted,
    }
    if family == "data2vec-audio":
        require(front, what, norm="layer")
        require(body, what, norm_first=False)
        config["conv_pos_kernel_size"] = body["kernel"]
    else:
        config |= {"feat_extract_norm": front["norm"], "do_stable_layer_norm": body["norm_first"]}
    if family == "hubert":
        config["feat_proj_layer_norm"] = body["input_norm"]
    if family == "wavlm":
        config |= {"num_buckets": body["buckets"], "max_bucket_distance": body["max_distance"]}
    if classifies:
        config |= {"classifier_proj_size": width, **label_fields(entry)}
    if vector is not None:
        tdnn = {"dim": vector["widths"], "kernel": vector["kernels"], "dilation": vector["dilations"]}
        config |= {"xvector_output_dim": vector["width"], **{f"tdnn_{name}": sizes for name, sizes in tdnn.items()}}
    preferences = (f"pos_conv_embed.{'layers' if family == 'data2vec-audio' else 'conv'}.", "parametrizations")
    preferences += () if head == "Model" else (family.replace("-", "_") + ".",)
    return Layout(config, extractor, arrays, f"{table}_weighted" if is_weighted else table, preferences, undo)
