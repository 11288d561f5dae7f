"""transformers' Whisper and wav2vec 2.0 and its kin: what a `config.json` describes, and how keys become names."""

import functools

import equinox as eqx
import jax
import numpy as np

from audax_eqx.frontends import Wav2Vec, WhisperLogMel
from audax_eqx.layers.initial import split
from audax_eqx.models import Classifier, Encoder, WeightedLayers
from audax_eqx.networks import Wav2Vec2, Whisper, XVector
from zoo._rules import Rule, drop, flat, rename, under
from zoo._weights import fill, named_leaves

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
WEIGHT = "(weight|bias)"
KINDS = "(?:wav2vec2|hubert|wavlm|data2vec_audio|unispeech_sat)"


def taps_first(kernel):
    """A torch kernel over time, outputs inputs taps, to ours: taps inputs outputs."""
    return kernel.transpose(2, 1, 0)


def whisper_rules(network="network."):
    """`network` is "network.network." where the layers are summed up."""
    return (
        Rule(r"(?:model\.)?(?:decoder\..*|proj_out\..*)", drop),
        *under(
            r"(?:model\.)?encoder\.",
            network,
            Rule(r"conv([12])\.weight", r"conv\1.weight", taps_first),
            Rule(r"conv([12])\.bias", r"conv\1.bias"),
            Rule(r"embed_positions\.weight", "position_embedding"),
            Rule(rf"layer_norm\.{WEIGHT}", r"norm.\1"),
        ),
        *under(
            r"(?:model\.)?encoder\.layers\.(\d+)\.",
            network + r"blocks.\1.",
            Rule(rf"self_attn\.q_proj\.{WEIGHT}", r"attention.query.\1"),
            Rule(r"self_attn\.k_proj\.weight", "attention.key.weight"),
            Rule(rf"self_attn\.v_proj\.{WEIGHT}", r"attention.value.\1"),
            Rule(rf"self_attn\.out_proj\.{WEIGHT}", r"attention.output.\1"),
            Rule(rf"self_attn_layer_norm\.{WEIGHT}", r"attention_norm.\1"),
            Rule(rf"fc1\.{WEIGHT}", r"expand.\1"),
            Rule(rf"fc2\.{WEIGHT}", r"contract.\1"),
            Rule(rf"final_layer_norm\.{WEIGHT}", r"mlp_norm.\1"),
        ),
        Rule("layer_weights", "network.weights"),
        Rule(rf"projector\.{WEIGHT}", r"projection.\1"),
        Rule(rf"classifier\.{WEIGHT}", r"head.\1"),
    )


def speech_rules(network="network.", head="classifier"):
    """`network` is where the Transformer is: "network.network." in a sum of layers or an x-vector, one more in both.

    `head` is "classifier", "xvector" or None.
    """
    weights = network.removesuffix("network.") + "weights"
    heads = {
        "classifier": (
            Rule(rf"projector\.{WEIGHT}", r"projection.\1"),
            Rule(rf"classifier\.{WEIGHT}", r"head.\1"),
        ),
        "xvector": (
            Rule(rf"projector\.{WEIGHT}", r"network.project.\1"),
            Rule(rf"tdnn\.(\d+)\.kernel\.{WEIGHT}", r"network.stack.\1.linear.\2"),
            Rule(rf"feature_extractor\.{WEIGHT}", r"network.embed.\1"),
            Rule(rf"classifier\.{WEIGHT}", r"head.\1"),
            Rule(r"objective\.weight", drop),
        ),
        None: (Rule(r"(?:quantizer|project_q|project_hid|lm_head)\..*", drop),),
    }
    body = rf"(?:{KINDS}\.)?"
    return (
        Rule(body + "masked_spec_embed", drop),
        *under(
            body + r"feature_extractor\.conv_layers\.(\d+)\.",
            r"frontend.layers.\1.",
            Rule(r"conv\.weight", "conv.weight", taps_first),
            Rule(r"conv\.bias", "conv.bias"),
            Rule(rf"layer_norm\.{WEIGHT}", r"norm.\1"),
        ),
        *under(
            body + r"feature_projection\.",
            network,
            Rule(rf"layer_norm\.{WEIGHT}", r"input_norm.\1"),
            Rule(rf"projection\.{WEIGHT}", r"project.\1"),
        ),
        *under(
            body + r"encoder\.pos_conv_embed\.",
            network + "positional.",
            Rule(r"conv\.bias", "0.bias"),
            Rule(r"conv\.(?:weight_g|parametrizations\.weight\.original0)", "0.scale", flat),
            Rule(r"conv\.(?:weight_v|parametrizations\.weight\.original1)", "0.weight", taps_first),
            Rule(r"layers\.(\d+)\.conv\.weight", r"\1.weight", taps_first),
            Rule(r"layers\.(\d+)\.conv\.bias", r"\1.bias"),
        ),
        Rule(body + rf"encoder\.layer_norm\.{WEIGHT}", network + r"norm.\1"),
        Rule(body + r"encoder\.layers\.0\.attention\.rel_attn_embed\.weight", network + "distance_bias"),
        *under(
            body + r"encoder\.layers\.(\d+)\.",
            network + r"blocks.\1.",
            Rule(rf"attention\.q_proj\.{WEIGHT}", r"attention.query.\1"),
            Rule(rf"attention\.k_proj\.{WEIGHT}", r"attention.key.\1"),
            Rule(rf"attention\.v_proj\.{WEIGHT}", r"attention.value.\1"),
            Rule(rf"attention\.out_proj\.{WEIGHT}", r"attention.output.\1"),
            Rule(r"attention\.gru_rel_pos_const", "attention.gate_scale", flat),
            Rule(rf"attention\.gru_rel_pos_linear\.{WEIGHT}", r"attention.gate.\1"),
            Rule(rf"layer_norm\.{WEIGHT}", r"attention_norm.\1"),
            Rule(rf"feed_forward\.intermediate_dense\.{WEIGHT}", r"expand.\1"),
            Rule(rf"feed_forward\.output_dense\.{WEIGHT}", r"contract.\1"),
            Rule(rf"final_layer_norm\.{WEIGHT}", r"mlp_norm.\1"),
        ),
        Rule("layer_weights", weights),
        *heads[head],
    )


def whisper_parts(config, extractor, classifies):
    """Constructors of the frontend and of the network, as functions of a key."""
    network = functools.partial(
        Whisper,
        config["d_model"],
        config["encoder_layers"],
        config["encoder_attention_heads"],
        bins=config["num_mel_bins"],
        steps=config["max_source_positions"],
        mlp_width=config["encoder_ffn_dim"],
        activation=ACTIVATIONS[config["activation_function"]],
        pool="all" if classifies else "recording",
    )
    return lambda key: WhisperLogMel(extractor["sampling_rate"], bins=extractor["feature_size"]), network


def speech_parts(config, extractor):
    """Constructors of the frontend and of the network, as functions of a key."""
    data2vec = config["model_type"] == "data2vec-audio"
    frontend = functools.partial(
        Wav2Vec,
        extractor["sampling_rate"],
        widths=config["conv_dim"],
        kernels=config["conv_kernel"],
        strides=config["conv_stride"],
        norm="layer" if data2vec else config["feat_extract_norm"],
        bias=config["conv_bias"],
        normalize=extractor["do_normalize"],
        activation=ACTIVATIONS[config["feat_extract_activation"]],
    )
    network = functools.partial(
        Wav2Vec2,
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        bins=config["conv_dim"][-1],
        input_norm=config.get("feat_proj_layer_norm", True),
        norm_first=config.get("do_stable_layer_norm", False),
        kernel=config["conv_pos_kernel_size"] if data2vec else config["num_conv_pos_embeddings"],
        groups=config["num_conv_pos_embedding_groups"],
        position_layers=config["num_conv_pos_embeddings"] if data2vec else 1,
        buckets=config.get("num_buckets"),
        max_distance=config.get("max_bucket_distance", 800),
        mlp_width=config["intermediate_size"],
        eps=config["layer_norm_eps"],
        activation=ACTIVATIONS[config["hidden_act"]],
        position_activation=ACTIVATIONS[config["feat_extract_activation"]],
    )
    return frontend, network


def load(config, extractor, arrays):
    """The model of a folder of transformers', in inference mode, and its State; every array by exactly one rule."""
    kind = config["architectures"][0]
    classifies = kind.endswith("Classification")
    whisper = config["model_type"] == "whisper"
    parts = whisper_parts(config, extractor, classifies) if whisper else speech_parts(config, extractor)
    make_frontend, make_network = parts
    xvector = kind.endswith("ForXVector")
    weighted = (classifies or xvector) and config["use_weighted_layer_sum"]

    def build(key):
        keys = split(key, 4)
        network = make_network(key=keys[0])
        network = WeightedLayers(network) if weighted else network
        frontend = make_frontend(key=keys[1])
        if classifies:
            return Classifier(
                frontend, network, len(config["id2label"]), projection=config["classifier_proj_size"], key=keys[2]
            )
        if not xvector:
            return Encoder(frontend, network, key=keys[2])
        sizes = {"widths": config["tdnn_dim"], "kernels": config["tdnn_kernel"], "dilations": config["tdnn_dilation"]}
        network = XVector(network, config["xvector_output_dim"], **sizes, key=keys[3])
        return Encoder(frontend, network, outputs=config["xvector_output_dim"], key=keys[2])

    skeleton = eqx.filter_eval_shape(eqx.nn.make_with_state(build), jax.random.key(0))
    body = "network." * (1 + weighted + xvector)
    head = "xvector" if xvector else "classifier" if classifies else None
    rules = whisper_rules(body) if whisper else speech_rules(body, head)
    found, faults = rename(arrays, rules)
    assert not faults, faults
    model, state = fill(*skeleton, lambda name: np.ascontiguousarray(found[name][1].move(arrays[found[name][0]])))
    assert found.keys() == named_leaves(model, state).keys()
    return eqx.nn.inference_mode(model), state
