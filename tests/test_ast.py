"""The Audio Spectrogram Transformer and attention against transformers' numbers, published sizes and invariances."""

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

from audax_eqx import networks
from audax_eqx.frontends import ast_fbank
from audax_eqx.layers import Attention, FusedAttention
from audax_eqx.layers import attention as attention_module
from audax_eqx.networks import AST

KEY = jax.random.key(0)
SMALL = {"bins": 24, "frames": 40, "patch": 8, "stride": (6, 5)}  # 6 x 4 patches


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def ast(width=16, depth=1, heads=2, **options):
    """A small network, with random weights that are large enough for every branch to count, and its state."""
    build = functools.partial(AST, width, depth, heads, **SMALL | options)
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    return randomise(network), state


def randomise(tree):
    generator = np.random.default_rng(0)

    def fill(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(0.3 * generator.standard_normal(leaf.shape) + (leaf.ndim == 1), jnp.float32)

    return jax.tree.map(fill, tree)


@eqx.filter_jit
def run(network, state, x, key=None):
    """The feature map and the embedding; compiled together, because XLA shares what they have in common."""
    return network.features(x, state, key=key)[0], network(x, state, key=key)[0]


def narrow(network):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, network)


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


# Position embedding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "bins"), [(40, 24), (38, 23), (43, 27)])  # exactly 6 x 4 patches, and with a rest
def test_the_trained_grid_is_used_as_it_is(frames, bins):
    network, state = ast(4, 0, 1)
    assert network.grid == (6, 4)
    silent = eqx.tree_at(lambda n: n.patchify, network, jax.tree.map(jnp.zeros_like, network.patchify))
    expected = network.norm(network.position_embedding)[2:].reshape(4, 6, 4).swapaxes(0, 1)
    np.testing.assert_array_equal(silent.features(noise(frames, bins), state)[0], expected)
    assert network._position_embedding(6, 4) is network.position_embedding


@pytest.mark.parametrize("time", [1, 3, 13, 166])
def test_a_line_over_time_stays_a_line(time):
    network, _ = ast(4, 0, 1)
    line = jnp.tile(jnp.arange(6.0)[:, None], (4, 4)) * jnp.arange(4.0)[None]
    network = eqx.tree_at(lambda n: n.position_embedding, network, jnp.concatenate([jnp.ones((2, 4)), line]))
    y = np.asarray(network._position_embedding(time, 4))
    np.testing.assert_array_equal(y[:2], 1.0)
    centres = np.clip((np.arange(time) + 0.5) * 6 / time - 0.5, 0, 5)  # in old steps; constant beyond the ends
    np.testing.assert_allclose(y[2:].reshape(4, time, 4), np.arange(4) * centres[None, :, None].repeat(4, 0), atol=1e-5)


def test_interpolation_is_rounded_once():
    network, _ = ast(4, 0, 1)
    rounded = narrow(network)._position_embedding(16, 5)
    assert rounded.dtype == jnp.bfloat16
    assert error(rounded, network._position_embedding(16, 5)) < 6e-3  # of the table and of the result, 2^-9 each


@pytest.mark.parametrize("options", [{}, {"stride": (8, 8)}, {"patch": (5, 8), "stride": (7, 5)}])
def test_positions_are_the_centres_of_the_frames_that_a_step_sees(options):
    network, state = ast(16, 0, 1, **options)
    length = network.patchify.weight.shape[0]
    x = noise(40, 24)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network.features(x, state)[0], in_axes=(None, 0)))
    moved = batch(
        network, np.concatenate([x[None], x[None].repeat(40, 0) + 3 * np.eye(40, dtype=np.float32)[:, :, None]])
    )
    rest, moved = moved[0], moved[1:]
    change = np.abs(moved - rest[None]).max(axis=(2, 3)) > 1e-3  # frame x step
    centres = network.positions(len(rest))
    for frame in range(40):
        seen = np.abs(centres - frame) < length / 2
        np.testing.assert_array_equal(change[frame], seen)
    assert change.any(axis=0).all()


# Options --------------------------------------------------------------------------------------------------------------


def test_the_embedding_is_the_mean_of_the_first_two_tokens():
    network, state = ast(8, 0, 1)
    tokens = np.stack([network.class_token, network.distillation_token]) + np.asarray(network.position_embedding[:2])
    expected = (tokens - tokens.mean(1, keepdims=True)) / tokens.std(1, keepdims=True)
    expected = np.asarray(network.norm.weight) * expected + np.asarray(network.norm.bias)
    assert error(run(network, state, noise(40, 24))[1], expected.mean(0)) < 1e-5


def test_drop_path_rates_rise_linearly_with_depth():
    build = functools.partial(eqx.filter_eval_shape, AST, 8, 5, 2, **SMALL, key=KEY)
    rates = [block.drop_path.rate for block in build(drop_path=0.4).blocks]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-12)
    assert {block.drop_path.rate for block in build().blocks} == {0.0}


def test_each_branch_is_dropped_on_its_own_and_doubled_if_kept():
    block, x = ast(8, 2, 2, drop_path=0.5)[0].blocks[1], noise(5, 8)  # rates 0 and 0.5

    @eqx.filter_jit
    def run(block, x, keys):
        attended = x + 2 * block.attention(block.attention_norm(x))

        def mlp(x):
            return 2 * block.contract(jax.nn.gelu(block.expand(block.mlp_norm(x)), approximate=False))

        outcomes = jnp.stack([x, attended, x + mlp(x), attended + mlp(attended)])
        return outcomes, jax.vmap(lambda key: block(x, key=key))(keys)

    outcomes, y = run(block, x, jax.random.split(KEY, 64))
    distance = np.abs(y[:, None] - outcomes[None]).max(axis=(2, 3))
    assert np.all(distance.min(axis=1) < 1e-5)
    assert np.bincount(distance.argmin(axis=1), minlength=4).min() > 4


def test_drop_path_trains_with_a_key_only():
    network, state = ast(depth=2, drop_path=0.5)
    assert eqx.filter_eval_shape(network, noise(40, 24), state, key=KEY)[0].shape == (16,)
    with pytest.raises(RuntimeError, match="DropPath trains with a random key"):
        eqx.filter_eval_shape(network, noise(40, 24), state)


def test_inference_ignores_the_key():
    block, x = ast(8, 2, 2, drop_path=0.9)[0].blocks[1], noise(5, 8)
    trained = eqx.filter_jit(block)(x, key=KEY)
    block = eqx.filter_jit(eqx.nn.inference_mode(block))
    np.testing.assert_array_equal(block(x, key=KEY), block(x))
    assert error(trained, block(x)) > 1e-2


def test_the_state_is_handed_through():
    network, state = ast(8, 0, 1)
    assert network(noise(40, 24), state)[1] is state
    assert network.features(noise(40, 24), state)[1] is state


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


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (16, 4), (15, 3), (6, 6), (64, 2)])
def test_attention_is_its_closed_form(width, heads):
    attention = randomise(eqx.filter_eval_shape(Attention, width, heads, key=KEY))
    x = noise(9, width)
    wide = {
        name: np.asarray(x, np.float64) @ np.asarray(getattr(attention, name).weight, np.float64).T
        + np.asarray(getattr(attention, name).bias, np.float64)
        for name in ("query", "key", "value")
    }
    query, key, value = (wide[name].reshape(9, heads, -1) for name in ("query", "key", "value"))
    scores = np.exp(np.einsum("qhc,khc->hqk", query, key) / np.sqrt(width // heads))
    y = np.einsum("hqk,khc->qhc", scores / scores.sum(axis=-1, keepdims=True), value).reshape(9, width)
    expected = y @ np.asarray(attention.output.weight, np.float64).T + np.asarray(attention.output.bias, np.float64)
    assert error(eqx.filter_jit(attention)(x), expected) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_attention_and_its_gradients_are_jaxs(dtype, tolerance):
    arguments = [noise(33, 4, 8, seed=seed).astype(dtype) for seed in range(3)]
    probe = noise(33, 4, 8, seed=3)

    @jax.jit
    def outcomes(*arguments):
        def outcome(attend, *arguments):
            y, pullback = jax.vjp(attend, *arguments)
            return y, *pullback(probe.astype(y.dtype))

        paths = attention_module._by_heads, attention_module._at_once  # on CPU, and elsewhere
        wide = [x.astype(jnp.float32) for x in arguments]
        return outcome(jax.nn.dot_product_attention, *wide), [outcome(path, *arguments) for path in paths]

    reference, ours = outcomes(*arguments)
    for outcome in ours:
        for x, expected in zip(outcome, reference, strict=True):
            assert x.dtype == dtype
            assert error(x, expected) < tolerance


@pytest.mark.parametrize("bias", [True, False])
def test_fused_attention_is_attention_with_its_maps_stacked(bias):
    attention, fused = (
        randomise(eqx.filter_eval_shape(kind, 12, 3, bias=bias, key=KEY)) for kind in (Attention, FusedAttention)
    )
    parts = (jax.tree.leaves(linear) for linear in (attention.query, attention.key, attention.value))
    stacked = [jnp.concatenate(leaves) for leaves in zip(*parts, strict=True)]
    fused = eqx.tree_at(lambda tree: jax.tree.leaves(tree.qkv), fused, stacked)
    fused = eqx.tree_at(lambda tree: tree.output, fused, attention.output)
    x = noise(9, 12)
    assert error(eqx.filter_jit(fused)(x), eqx.filter_jit(attention)(x)) < 1e-5
    assert fused.output.bias is not None and (fused.qkv.bias is not None) == bias


def test_attention_survives_large_scores():
    attention = jax.tree.map(lambda leaf: 1e3 * leaf, randomise(eqx.filter_eval_shape(Attention, 16, 2, key=KEY)))
    x = 1e3 * noise(9, 16)  # scores of 1e12
    assert np.all(np.isfinite(eqx.filter_jit(attention)(x)))


def test_qkv_bias_is_of_query_key_and_value_only():
    attention = eqx.filter_eval_shape(Attention, 8, 2, bias=False, key=KEY)
    assert attention.query.bias is None and attention.key.bias is None and attention.value.bias is None
    assert attention.output.bias is not None
    assert eqx.filter_eval_shape(attention, noise(5, 8)).shape == (5, 8)


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
