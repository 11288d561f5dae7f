"""AST: Audio Spectrogram Transformer, Gong et al., 2021, arXiv:2104.01778.

Weights: https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593 and -speech-commands-v2 (BSD-3), any
`ASTForAudioClassification` of transformers, and the paper's own torch files, https://github.com/YuanGongND/ast.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .._entry import Acceptance, Checkpoint, Entry
from .._foreign import (
    BOOKKEEPING,
    DEFAULT_LABELS,
    EXTRACTING,
    Layout,
    Recognition,
    WeightFile,
    activation,
    agree,
    id2label,
    label_fields,
    like,
    multilabel,
    page,
    patch_side,
    refuse,
    require,
    their_activation,
)
from .._inverse import row
from .._labels import AUDIOSET
from .._rules import VIT, Rule, drop, flat, only, thirds, time_first, under
from .._weights import ArraysByName

FRONTEND = {"type": "ast_fbank", "sample_rate": 16000}
MODEL = {"type": "Classifier", "norm": 1e-12}

ENTRIES = (
    Entry(
        name="ast_audioset",
        frontend=FRONTEND,
        network={"type": "ast_base"},
        model=MODEL,
        classes=527,
        task="multilabel",
        window=10.24,
        license="BSD-3-Clause",
        source="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593",
        paper="https://arxiv.org/abs/2104.01778",
        metrics=(
            {
                "dataset": "AudioSet",
                "metric": "mAP",
                "value": 0.4593,
                "source": "the publisher, MIT/ast-finetuned-audioset-10-10-0.4593",
            },
        ),
        checkpoint=Checkpoint(repo="MIT/ast-finetuned-audioset-10-10-0.4593", table="ast", label_file="config.json"),
    ),
    Entry(
        name="ast_speech_commands",
        frontend=FRONTEND | {"frames": 128, "mean": -6.845978, "scale": 11.1309052},
        network={"type": "ast_base", "frames": 128},
        model=MODEL,
        classes=35,
        task="multiclass",
        window=1.0,
        license="BSD-3-Clause",
        source="https://huggingface.co/MIT/ast-finetuned-speech-commands-v2",
        paper="https://arxiv.org/abs/2104.01778",
        metrics=(
            {
                "dataset": "SpeechCommands v2",
                "metric": "accuracy",
                "value": 0.9812,
                "source": "the publisher, MIT/ast-finetuned-speech-commands-v2",
            },
        ),
        checkpoint=Checkpoint(repo="MIT/ast-finetuned-speech-commands-v2", table="ast", label_file="config.json"),
    ),
)

ACCEPTANCE = {
    "ast_audioset": Acceptance(  # the integration test of transformers
        repo="datasets/nielsr/audio-spectogram-transformer-checkpoint",
        file="sample_audio.flac",
        logits=(-0.8760, -7.0042, -8.6602),
    ),
}

HUB = (
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

AUTHORS = (
    Rule(r"v\.head(_dist)?\.(weight|bias)", drop),  # the heads for ImageNet
    *under(
        r"v\.",
        "network.",
        Rule("cls_token", "class_token", flat),
        Rule("dist_token", "distillation_token", flat),
        Rule("pos_embed", "position_embedding", only),
        *VIT,
        Rule(
            r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)",
            tuple(rf"blocks.\1.attention.{part}.\2" for part in ("query", "key", "value")),
            thirds,
        ),
    ),
    Rule(r"mlp_head\.0\.(weight|bias)", r"norm.\1"),
    Rule(r"mlp_head\.1\.(weight|bias)", r"head.\1"),
)

RULES = {"ast": HUB, "ast_authors": AUTHORS}
READS = "ASTForAudioClassification"


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an AST in transformers."""
    return config.get("model_type") == "audio-spectrogram-transformer"


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of an `ASTForAudioClassification`, with the defaults of `ASTConfig` and `ASTFeatureExtractor`."""
    extractor = read("preprocessor_config.json")
    refuse(
        name,
        config,
        sources="""hidden_size num_hidden_layers num_attention_heads num_mel_bins max_length patch_size time_stride
        frequency_stride intermediate_size qkv_bias hidden_act layer_norm_eps""",
        extras=f"{BOOKKEEPING} hidden_dropout_prob attention_probs_dropout_prob",
        choices={"pruned_heads": ({},), "use_bfloat16": (False,), "is_decoder": (False,)},
    )
    refuse(name, extractor, sources="do_normalize max_length mean std sampling_rate num_mel_bins", extras=EXTRACTING)
    is_normalised = extractor.get("do_normalize", True)
    frames, eps = extractor.get("max_length", 1024), config.get("layer_norm_eps", 1e-12)
    for field, default in {"num_mel_bins": 128, "max_length": 1024}.items():
        agree(name, (field, config.get(field, default)), (field, extractor.get(field, default)))
    labels = id2label(name, config.get("id2label", DEFAULT_LABELS))
    several = multilabel(name, config, default=len(labels) == 527)  # configs of AudioSet models do not say
    return Entry(
        name=name,
        frontend={
            "type": "KaldiFbank",
            "sample_rate": extractor.get("sampling_rate", 16000),
            "bins": extractor.get("num_mel_bins", 128),
            "frames": frames,
            "mean": extractor.get("mean", -4.2677393) if is_normalised else 0.0,
            "scale": 2 * extractor.get("std", 4.5689974) if is_normalised else 1.0,
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
            "activation": activation(name, config.get("hidden_act", "gelu")),
        },
        model={"type": "Classifier", "norm": eps},
        classes=len(labels),
        labels=labels,
        task="multilabel" if several else "multiclass",
        window=frames / 100,
        source=page(name),
        paper="https://arxiv.org/abs/2104.01778",
        checkpoint=Checkpoint(repo=name, table="ast"),
    )


def layout(entry: Entry, arrays: ArraysByName) -> Layout | None:
    """The layout of an entry with all its options as `ASTForAudioClassification`; None for another model."""
    frontend, network, model = entry.frontend, entry.network, entry.model
    if (frontend["type"], network["type"], model["type"]) != ("KaldiFbank", "AST", "Classifier"):
        return None
    fbank = {"frame_length": 25.0, "frame_shift": 10.0, "window": "hanning", "low_freq": 20.0, "high_freq": 0.0}
    require(frontend, "an AST", **fbank, gain=1.0, centred=False, bins=network["bins"], frames=network["frames"])
    require(model, "an AST", norm=network["eps"], projection=None, activation=None, hidden=None, cosine=None)
    patch, (time, freq) = patch_side(network, "an AST"), network["stride"]
    common = {"max_length": network["frames"], "num_mel_bins": network["bins"]}
    config = {
        "model_type": "audio-spectrogram-transformer",
        "architectures": ["ASTForAudioClassification"],
        "hidden_size": network["width"],
        "num_hidden_layers": network["depth"],
        "num_attention_heads": network["heads"],
        "intermediate_size": network["mlp_width"] or 4 * network["width"],
        "hidden_act": their_activation(network["activation"]),
        "layer_norm_eps": network["eps"],
        "patch_size": patch,
        "time_stride": time,
        "frequency_stride": freq,
        "qkv_bias": network["qkv_bias"],
        **common,
        **label_fields(entry),
    }
    extractor = {
        "feature_extractor_type": "ASTFeatureExtractor",
        "sampling_rate": entry.sample_rate,
        "do_normalize": True,
        "mean": frontend["mean"],
        "std": frontend["scale"] / 2,
        "feature_size": 1,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
        **common,
    }
    return Layout(config, extractor, arrays, "ast", undo={"_token": row})


LAYOUTS = {  # by table: the keys that give the sizes, and the eps of the network's and the head's norms
    "ast_authors": (
        ("v.pos_embed", "v.patch_embed.proj.weight", "mlp_head.1.weight"),
        ("v.blocks.{}.", "v.blocks.0.mlp.fc1.weight", "v.blocks.0.attn.qkv.bias"),
        (1e-6, 1e-5),
    ),
    "ast": (
        (
            "audio_spectrogram_transformer.embeddings.position_embeddings",
            "audio_spectrogram_transformer.embeddings.patch_embeddings.projection.weight",
            "classifier.dense.weight",
        ),
        (
            "audio_spectrogram_transformer.encoder.layer.{}.",
            "audio_spectrogram_transformer.encoder.layer.0.intermediate.dense.weight",
            "audio_spectrogram_transformer.encoder.layer.0.attention.attention.query.bias",
        ),
        (1e-12, 1e-12),
    ),
}


def recognise(file: WeightFile) -> Recognition | None:
    """Recognises the paper's own files, and those of transformers without their config.json.

    A head of attention is assumed to have 64 channels. The strides and the mean and scale of the features, which no
    array shows, are those of AudioSet's model, or of Speech Commands' model if the file has its number of frames.
    Raises ValueError if the positions do not fit the strides.
    """
    shapes = file.shapes
    table = next((each for each, (whole, _, _) in LAYOUTS.items() if set(whole) <= shapes.keys()), None)
    if table is None:
        return None
    (positions, patchify, head), (block, expand, bias), (eps, norm) = LAYOUTS[table]
    (_, tokens, width), patch, classes = shapes[positions], shapes[patchify][-1], shapes[head][0]
    bins, stride = file.frontend.get("bins", 128), file.network.get("stride", (10, 10))
    times, rest = divmod(tokens - 2, (bins - patch) // stride[1] + 1)
    if rest or times < 1:
        raise ValueError(
            f"{file.path} has {tokens - 2} positions, which are not {bins} bins at a stride of {stride[1]}: give "
            'frontend={"bins": ...}, network={"bins": ..., "stride": (frames, bins)} as it was trained.'
        )
    audioset, commands = ENTRIES
    is_speech_commands = (times, classes) == (12, commands.classes)
    entry = like(commands if is_speech_commands else audioset, classes)
    window, frames = entry.window, 128 if is_speech_commands else 1024
    if (frames - patch) // stride[0] + 1 != times:
        frames = (times - 1) * stride[0] + patch if file.window is None else round(100 * file.window)
        window = frames / 100
    if entry is audioset:
        entry = dataclasses.replace(entry, checkpoint=Checkpoint(repo="", table=table, **AUDIOSET))
    entry = dataclasses.replace(
        entry,
        frontend=dict(entry.frontend) | {"frames": frames},
        network={
            "type": "AST",
            "width": width,
            "depth": file.count(block),
            "heads": max(width // 64, 1),
            "bins": bins,
            "frames": frames,
            "patch": patch,
            "stride": stride,
            "mlp_width": shapes[expand][0],
            "qkv_bias": bias in shapes,
            "eps": eps,
        },
        model={"type": "Classifier", "norm": norm},
        window=window,
    )
    return Recognition(entry, RULES[table])
