"""The Audio Spectrogram Transformer against transformers' numbers, published sizes and invariances."""

import functools
import json
import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import safetensors.numpy
from arrays import KEY, error, noise
from transformer import ast, narrow, run

from audax_eqx import networks
from audax_eqx.frontends import ast_fbank
from audax_eqx.layers import Attention, FusedAttention
from audax_eqx.networks import AST

# transformers ---------------------------------------------------------------------------------------------------------


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "transformers_ast.npz") as arrays:
        return dict(arrays)


NAMES = {
    r"audio_spectrogram_transformer\.": "",
    r"embeddings\.(cls|class)_token": "class_token",
    r"embeddings\.distillation_token": "distillation_token",
    r"embeddings\.position_embeddings": "position_embedding",
    r"embeddings\.patch_embeddings\.projection": "patchify",
    r"encoder\.layer\.": "blocks.",
    r"attention\.attention\.": "attention.",
    r"attention\.output\.dense": "attention.output",
    r"intermediate\.dense": "expand",
    r"output\.dense": "contract",
    r"layernorm_before": "attention_norm",
    r"layernorm_after": "mlp_norm",
    r"^layernorm": "norm",
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}


def pretrained(config, source):
    """The network of transformers' configuration and weights, in inference mode, and its state."""
    weights = {}
    for name, array in source.items():
        if not name.startswith("classifier."):
            for pattern, replacement in NAMES.items():
                name = re.sub(pattern, replacement, name)
            weights[name] = array.transpose(3, 2, 1, 0) if array.ndim == 4 else array.squeeze()
    network, state = eqx.filter_eval_shape(
        eqx.nn.make_with_state(AST),
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        bins=config["num_mel_bins"],
        frames=config["max_length"],
        patch=config["patch_size"],
        stride=(config["time_stride"], config["frequency_stride"]),
        mlp_width=config["intermediate_size"],
        qkv_bias=config.get("qkv_bias", True),
        eps=config.get("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[config.get("hidden_act", "gelu")],
        key=KEY,
    )

    def fill(path, leaf):
        if isinstance(leaf, bool):
            return leaf
        array = weights.pop(jax.tree_util.keystr(path, simple=True, separator="."))
        assert array.shape == leaf.shape
        return jnp.asarray(array)

    network = jax.tree_util.tree_map_with_path(fill, network)
    assert not weights
    return eqx.nn.inference_mode(network), state


@functools.cache
def small(name):
    prefix = f"{name}/weights/"
    weights = {key.removeprefix(prefix): array for key, array in golden().items() if key.startswith(prefix)}
    return pretrained(json.loads(str(golden()[f"{name}/config"])), weights)


def patches(tokens, grid):
    """transformers' tokens as a map: behind the first two, all times of the lowest bins, then of the next."""
    return tokens[2:].reshape(grid[1], grid[0], -1).transpose(1, 0, 2)


@pytest.mark.parametrize("name", ["no bias", "tanh", "relu", "silu"])
def test_ast_is_transformers(name):
    network, state = small(name)
    y, embedding = run(network, state, jnp.asarray(golden()[f"{name}/x"]))
    assert error(y, patches(golden()[f"{name}/tokens"], network.grid)) < 1e-5
    assert error(embedding, golden()[f"{name}/embedding"]) < 1e-5


@pytest.mark.parametrize(("frames", "time"), [(40, 6), (171, 28)])
def test_other_lengths_interpolate_the_position_embedding_as_torch(frames, time):
    network, state = small("no bias")
    y, embedding = run(network, state, jnp.asarray(golden()[f"{frames} frames/x"]))
    assert error(y, patches(golden()[f"{frames} frames/tokens"], (time, 7))) < 1e-5
    assert error(embedding, golden()[f"{frames} frames/embedding"]) < 1e-5


def test_the_hubs_format_from_the_waveform(shared):
    folder = shared / "oracles" / "ast"
    config = json.loads((folder / "config.json").read_text())
    network, state = pretrained(config, safetensors.numpy.load_file(folder / "model.safetensors"))
    with np.load(folder / "golden.npz") as arrays:
        wave, tokens, expected = arrays["wave"], arrays["last_hidden"], arrays["embedding"]
    y, embedding = run(network, state, ast_fbank(16000)(jnp.asarray(wave)))
    assert y.shape == (101, 12, 48)
    assert error(y, patches(tokens, (101, 12))) < 1e-5
    assert error(embedding, expected) < 1e-5


PARAMETERS = {"ast_tiny": 5_621_568, "ast_small": 21_859_968, "ast_base": 86_187_264}  # transformers 5, ASTModel


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape")) == parameters
    assert network.width // network.blocks[0].attention.heads == 64


def test_every_variant_is_counted():
    variants = {name for name in networks.__all__ if isinstance(getattr(networks, name), functools.partial)}
    assert {name for name in variants if name.startswith("ast_")} == set(PARAMETERS)


# Invariances ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_loop():
    network, state = ast()
    x = noise(3, 40, 24)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network(x, state)[0], in_axes=(None, 0)))(network, x)
    assert error(batch, np.stack([run(network, state, one)[1] for one in x])) < 1e-5


@pytest.mark.parametrize(("frames", "time"), [(1, 1), (13, 1), (14, 2), (3000, 499)])
def test_any_number_of_frames(frames, time):
    network, state = ast(8, int(frames in (1, 3000)), 2)  # what has no blocks compiles faster
    y, embedding = run(network, state, noise(frames, 24))
    assert y.shape == (time, 4, 8) and network.positions(time).shape == (time,)
    assert np.all(np.isfinite(y)) and np.all(np.isfinite(embedding))


@pytest.mark.parametrize(("frames", "bins"), [(1, 24), (40, 3), (7, 7)])
def test_what_is_smaller_than_a_patch_is_filled_up_with_zeros(frames, bins):
    network, state = ast(8, 0, 1)
    x = noise(frames, bins)
    filled = jnp.pad(x, ((0, max(8 - frames, 0)), (0, max(8 - bins, 0))))
    np.testing.assert_allclose(network.features(x, state)[0], network.features(filled, state)[0], atol=1e-6)


def test_frames_left_over_are_cut_off():
    network, state = ast(8, 0, 1)
    x = noise(43, 24)
    np.testing.assert_allclose(network.features(x, state)[0], network.features(x[:38], state)[0], atol=1e-6)


def test_bfloat16_is_close_to_float32():
    network, state = small("no bias")
    y, embedding = run(narrow(network), state, jnp.asarray(golden()["no bias/x"]).astype(jnp.bfloat16))
    assert y.dtype == embedding.dtype == jnp.bfloat16
    assert error(y, patches(golden()["no bias/tokens"], network.grid)) < 3e-2
    assert error(embedding, golden()["no bias/embedding"]) < 3e-2


def test_gradients_are_finite_at_silence_and_at_full_scale():
    network, state = ast()
    frontend = ast_fbank(16000, bins=24, frames=40)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(pair):
        network, wave = pair
        return jnp.sum(network(frontend(wave), state)[0] * jnp.arange(16.0))

    for wave in (jnp.zeros(4000), 1e-20 * noise(4000), jnp.sign(noise(4000))):
        network_gradient, wave_gradient = gradient((network, wave))
        leaves = jax.tree.leaves(network_gradient)
        assert all(np.all(np.isfinite(leaf)) for leaf in leaves) and np.all(np.isfinite(wave_gradient))
        for leaf in (network_gradient.position_embedding, network_gradient.blocks[0].attention.query.weight):
            assert np.any(leaf != 0)
    assert np.any(wave_gradient != 0)


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"choose heads that divide 16, got {heads}"):
        Attention(16, heads, key=KEY)
    with pytest.raises(ValueError, match=f"choose heads that divide 16, got {heads}"):
        FusedAttention(16, heads, key=KEY)
    with pytest.raises(ValueError, match=f"choose heads that divide 16, got {heads}"):
        ast(16, 1, heads)


@pytest.mark.parametrize("options", [{"frames": 0}, {"bins": 0}, {"patch": 0}, {"patch": (8, 0)}, {"stride": (0, 5)}])
def test_sizes_are_at_least_one(options):
    with pytest.raises(
        ValueError, match="AST cuts frames x bins into patches and takes sizes of at least 1, got frames"
    ):
        ast(**options)


def test_wrong_shapes_are_named():
    network, state = ast()
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,40,24\][\s\S]*'frames bins'"):
        network(noise(2, 40, 24), state)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[5,9\][\s\S]*'tokens \{self\.width\}'"):
        Attention(8, 2, key=KEY)(noise(5, 9))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"parameter 'activation'[\s\S]*'swish'"):
        ast(activation="swish")
