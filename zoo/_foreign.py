"""Entries of models that others published in a layout of their own, from their `config.json`."""

from collections.abc import Callable, Mapping
from typing import Any

from ._entry import Checkpoint, Entry, line

READS = "ASTForAudioClassification, CedForAudioClassification and timm's ResNet, EfficientNet and ConvNeXt"
ACTIVATIONS = {  # transformers' names to AST's
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
BOOKKEEPING = """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation auto_map chunk_size_feed_forward dtype finetuning_task id2label initializer_range label2id
    model_type name_or_path output_attentions output_hidden_states problem_type return_dict task_specific_params
    tf_legacy_loss tie_word_embeddings torch_dtype torchscript transformers_version use_cache"""
EXTRACTING = """_commit_hash _name_or_path auto_map feature_extractor_type feature_size padding_side padding_value
    processor_class return_attention_mask"""
PICTURES = """num_features pretrained_cfg label_names label_descriptions hf_hub_id hf_hub_filename url tag source
    license origin_url paper_ids paper_name notes input_size min_input_size test_input_size fixed_input_size pool_size
    test_pool_size crop_pct test_crop_pct crop_mode interpolation mean std first_conv classifier custom_load
    timm_version"""
CED_SIZES = {  # the width and the heads, which the name of a CED decides
    "ced-tiny": (192, 3),
    "ced-mini": (256, 4),
    "ced-small": (384, 6),
    "ced-base": (768, 12),
}


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the repo "owner/name" or the folder "name" with that `config.json`; `read` gives its other files.

    Raises ValueError for a kind of model that the zoo cannot read, and for files that make no sense.
    """
    try:
        return _describe(name, config, read)
    except (TypeError, AttributeError, OverflowError):
        raise ValueError(
            f"{name} has a field of the wrong type in its config.json or preprocessor_config.json: "
            f"{str(dict(config))[:1000]}."
        ) from None
    except ValueError as error:
        told = line(str(error), 1000)
        raise ValueError(told if told.startswith(name) else f"{name}: {told.rstrip('.')}.") from None


def _describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    if config.get("model_type") == "audio-spectrogram-transformer":
        return _ast(name, config, read("preprocessor_config.json"))
    if config.get("model_type") == "ced":
        return _ced(name, config, read("preprocessor_config.json"))
    architecture = config.get("architecture", config.get("model_type"))
    for family in ("resnet", "efficientnet_b", "convnext"):
        if isinstance(architecture, str) and architecture.startswith(family) and "model_type" not in config:
            return _timm(name, architecture, f"timm_{family.removesuffix('_b')}", config)
    kind = line(repr(architecture))
    raise ValueError(f"{name} holds a model of the kind {kind}: the zoo reads {READS}, and its own.")


def _refuse(
    name: str, fields: Mapping[str, Any], *, used: str, unused: str, known: Mapping[str, tuple] | None = None
) -> None:
    """Raises ValueError that names a field on which the output may depend, and which the zoo does not honour.

    The entry is made of the fields `used`; in inference no output depends on those `unused`. Both are names with spaces
    between. A field in `known` must have one of these values, which are what the zoo computes.
    """
    known = known or {}
    for field in sorted(map(str, fields)):
        value = line(repr(fields[field]))
        if field in known and fields[field] not in known[field]:
            raise ValueError(f"{name} has the {field} {value}: the zoo has {' or '.join(map(repr, known[field]))}.")
        if field not in known and field not in used.split() and field not in unused.split():
            raise ValueError(
                f"{name} has the field {line(field)} ({value}), which the zoo does not know: take it out of the file "
                "if no output depends on it."
            )


def _agree(name: str, ours: tuple[str, Any], theirs: tuple[str, Any]) -> None:
    """Raises ValueError where config.json and preprocessor_config.json say different things of one size."""
    if ours[1] != theirs[1]:
        raise ValueError(
            f"{name} has the {ours[0]} {line(repr(ours[1]))} in its config.json, and the {theirs[0]} "
            f"{line(repr(theirs[1]))} in its preprocessor_config.json: they must be equal, for the model takes what "
            "the extractor makes."
        )


def foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is transformers' or timm's."""
    return "model_type" in config or "architecture" in config


def _ast(name: str, config: Mapping[str, Any], extractor: Mapping[str, Any]) -> Entry:
    """`ASTForAudioClassification`: defaults are those of transformers' `ASTConfig` and `ASTFeatureExtractor`."""
    _refuse(
        name,
        config,
        used="""hidden_size num_hidden_layers num_attention_heads num_mel_bins max_length patch_size time_stride
        frequency_stride intermediate_size qkv_bias hidden_act layer_norm_eps""",
        unused=f"{BOOKKEEPING} hidden_dropout_prob attention_probs_dropout_prob",
        known={"pruned_heads": ({},), "use_bfloat16": (False,), "is_decoder": (False,)},
    )
    _refuse(name, extractor, used="do_normalize max_length mean std sampling_rate num_mel_bins", unused=EXTRACTING)
    normalised = extractor.get("do_normalize", True)
    frames, eps = extractor.get("max_length", 1024), config.get("layer_norm_eps", 1e-12)
    for field, default in {"num_mel_bins": 128, "max_length": 1024}.items():
        _agree(name, (field, config.get(field, default)), (field, extractor.get(field, default)))
    labels = _labels(name, config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}))  # transformers leaves these out
    if (activation := config.get("hidden_act", "gelu")) not in ACTIVATIONS:
        given = line(repr(activation))
        raise ValueError(f"{name} has the activation {given}: the zoo's AST has {', '.join(ACTIVATIONS)}.")
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification", "multi_label_classification"):
        raise ValueError(
            f"{name} has the problem_type {line(repr(kind))}: the zoo has 'single_label_classification' or "
            "'multi_label_classification'."
        )
    multilabel = kind == "multi_label_classification" if kind else len(labels) == 527  # AudioSet's configs name none
    return Entry(
        name=name,
        frontend={
            "type": "KaldiFbank",
            "sample_rate": extractor.get("sampling_rate", 16000),
            "bins": extractor.get("num_mel_bins", 128),
            "frames": frames,
            "mean": extractor.get("mean", -4.2677393) if normalised else 0.0,
            "scale": 2 * extractor.get("std", 4.5689974) if normalised else 1.0,
        },
        network={
            "type": "AST",
            "width": config.get("hidden_size", 768),
            "depth": config.get("num_hidden_layers", 12),
            "heads": config.get("num_attention_heads", 12),
            "bins": config.get("num_mel_bins", 128),
            "frames": config.get("max_length", 1024),
            "patch": config.get("patch_size", 16),
            "stride": (config.get("time_stride", 10), config.get("frequency_stride", 10)),
            "mlp_width": config.get("intermediate_size", 3072),
            "qkv_bias": config.get("qkv_bias", True),
            "eps": eps,
            "activation": ACTIVATIONS[activation],
        },
        model={"type": "Classifier", "norm": eps},
        classes=len(labels),
        labels=labels,
        task="multilabel" if multilabel else "multiclass",
        window=frames / 100,
        source=_page(name),
        paper="https://arxiv.org/abs/2104.01778",
        checkpoint=Checkpoint(repo=name, table="ast"),
    )


def _ced(name: str, config: Mapping[str, Any], extractor: Mapping[str, Any]) -> Entry:
    """`CedForAudioClassification`: defaults are those of mispeech's `CedConfig` and `CedFeatureExtractor`."""
    width, heads = CED_SIZES.get(config.get("name") or "", (config.get("embed_dim", 768), config.get("num_heads", 12)))
    patch, frames = config.get("patch_size", 16), config.get("target_length", 1012)
    rate, hop = extractor.get("sampling_rate", 16000), extractor.get("hop_size", 160)
    pooling = config.get("pooling", "mean")
    known = {"pooling": ("mean", "logit"), "patch_stride": (patch,), "pad_last": (True,), "eval_avg": ("mean",)}
    _refuse(
        name,
        config,
        used="name embed_dim num_heads depth n_mels target_length patch_size mlp_ratio qkv_bias outputdim loss",
        unused=BOOKKEEPING
        + " attn_drop_rate drop_path_rate drop_rate"
        + " center f_max f_min hop_size n_fft win_size",  # on which the extractor decides
        known=known | {"init_values": (None,), "pruned_heads": ({},)},
    )
    _refuse(
        name,
        extractor,
        used="sampling_rate feature_size n_fft win_size hop_size f_min f_max center",
        unused=f"{EXTRACTING} n_mels max_length",
    )
    _agree(name, ("n_mels", config.get("n_mels", 64)), ("feature_size", extractor.get("feature_size", 64)))
    classes, labels = config.get("outputdim", 527), config.get("id2label") or {}
    # Their model ends in a sigmoid, unless the pooling is "logit": then the loss tells what the logits are.
    multilabel = pooling == "mean" or config.get("loss") != "CrossEntropyLoss"
    return Entry(
        name=name,
        frontend={
            "type": "torchaudio_log_mel",
            "sample_rate": rate,
            "bins": extractor.get("feature_size", 64),
            "n_fft": extractor.get("n_fft", 512),
            "win_length": extractor.get("win_size", 512),
            "hop_length": hop,
            "f_min": extractor.get("f_min", 0),
            "f_max": extractor.get("f_max"),
            "framing": "center" if extractor.get("center", True) else "valid",
            "top_db": 120.0,
        },
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
        labels=_labels(name, labels) if len(labels) == classes else (),  # a fine-tune may have kept AudioSet's
        task="multilabel" if multilabel else "multiclass",
        window=(frames - 1) * hop / max(rate, 1),  # one chunk: centred frames are one more than hops; Entry refuses 0
        source=_page(name),
        paper="https://arxiv.org/abs/2308.11957",
        checkpoint=Checkpoint(repo=name, table="ced"),
    )


def _timm(name: str, architecture: str, table: str, config: Mapping[str, Any]) -> Entry:
    """ImageNet weights behind AST's frontend, which gives them numbers around 0."""
    _refuse(
        name,
        config,
        used="architecture num_classes model_args",
        unused=PICTURES,
        known={"global_pool": ("avg", "fast")},
    )
    inner = config.get("pretrained_cfg") or {}  # in which timm looks first
    for field in {"global_pool", "num_classes"} & set(inner):
        if (field in config or field == "global_pool") and inner[field] not in (
            ("avg", "fast") if field == "global_pool" else (config[field],)
        ):
            raise ValueError(
                f"{name} has the {field} {line(repr(inner[field]))} in its pretrained_cfg: the zoo has "
                f"{line(repr(config.get(field, 'avg')))}."
            )
    activation = {"timm_resnet": "relu", "timm_efficientnet": "silu", "timm_convnext": "gelu"}[table]
    _refuse(
        name,
        config.get("model_args") or {},
        used="in_chans",  # the first convolution is summed up over them
        unused="drop_rate drop_path_rate drop_block_rate",
        known={"act_layer": (activation, None), "global_pool": ("avg", "fast")},
    )
    network = {"type": architecture}
    if table == "timm_efficientnet":
        network |= {"eps": 1e-5, "momentum": 0.1}  # timm's own, at every size
    return Entry(
        name=name,
        frontend={"type": "ast_fbank", "sample_rate": 16000, "frames": None},
        network=network,
        classes=config.get("num_classes", 1000),
        task="multiclass",
        window=10.0,
        source=_page(name),
        checkpoint=Checkpoint(repo=name, table=table),
    )


def _labels(name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of an `id2label`, by number."""
    if not labels or labels.keys() != {str(index) for index in range(len(labels))}:
        given = line(str(sorted(labels)))
        raise ValueError(f"{name} needs labels 0, 1, ... in the id2label of its config.json, got {given}.")
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def _page(name: str) -> str | None:
    return f"https://huggingface.co/{name}" if "/" in name else None
