"""CNN10 and CNN14 against torch's numbers; their table, their dropouts and their places."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error, noise
from golden.seeded import fill, uniform

from audax_eqx import networks
from audax_eqx.networks import CNN

KEY = jax.random.key(0)


@eqx.filter_jit
def run(network, state, x, key=None):
    return network.features(x, state, key=key)[0], network(x, state, key=key)[0]


# torch ----------------------------------------------------------------------------------------------------------------


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "panns.npz") as arrays:
        return dict(arrays)


def assert_is_golden(name, build):
    """The network's map and embedding are those of tests/golden/panns.py at both lengths."""
    network, state = fill(build)
    for frames in (101, 70):
        x = jnp.asarray(2 * uniform("x", (frames, 37)), jnp.float32)
        features, embedding = run(eqx.nn.inference_mode(network), state, x)
        assert error(features, golden()[f"{name}/{frames}/features"]) < 1e-5
        assert error(embedding, golden()[f"{name}/{frames}/embedding"]) < 1e-5


def test_cnn_is_torchs():
    assert_is_golden("cnn", functools.partial(CNN, (4, 6, 8), (2, 2, 1), embedding=5, input_norm=37))


# The table ------------------------------------------------------------------------------------------------------------

PARAMETERS = {"cnn10": 5_219_279, "cnn14": 80_753_615}  # the paper's table XII: 64 bins, 527 classes


def count(name):
    """The parameters of the variant with a BatchNorm over 64 bins and a head of 527 classes; its skeleton."""
    build = functools.partial(getattr(networks, name), input_norm=64)
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    head = 527 * network.width + 527
    return sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape")) + head, network


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_have_the_published_number_of_parameters(name):
    assert count(name)[0] == PARAMETERS[name]


def test_blocks_are_the_papers_table():
    small, large = (count(name)[1] for name in ("cnn10", "cnn14"))
    assert [block.conv2.weight.shape for block in small.blocks] == [(3, 3, n, n) for n in (64, 128, 256, 512)]
    assert [block.conv1.weight.shape[2] for block in large.blocks] == [1, 64, 128, 256, 512, 1024]
    assert (small.pools, small.width) == ((2, 2, 2, 2), 512)
    assert (large.pools, large.width) == ((2, 2, 2, 2, 2, 1), 2048)


def test_the_embedding_has_the_width_of_the_last_block_or_its_own():
    build = functools.partial(eqx.filter_eval_shape, CNN, (4, 6), (2, 2), key=KEY)
    assert build().embed.weight.shape == (6, 6) and build().width == 6
    assert build(embedding=3).embed.weight.shape == (3, 6) and build(embedding=3).width == 3


def test_weights_begin_at_hes_scale_and_nothing_before_a_norm_has_a_bias():
    network = eqx.filter_jit(CNN)((64, 96), (2, 2), embedding=200, key=KEY)
    for layer, fan_out in ((network.blocks[0].conv1, 9 * 64), (network.blocks[1].conv2, 9 * 96), (network.embed, 200)):
        np.testing.assert_allclose(np.std(layer.weight), np.sqrt(2 / fan_out), rtol=0.1)
    assert all(layer.bias is None for block in network.blocks for layer in (block.conv1, block.conv2))
    assert not np.any(network.embed.bias) and network.input_norm is None


# Dropout --------------------------------------------------------------------------------------------------------------


def dropouts(monkeypatch, build, frames, bins):
    """(rate, shape) of every dropout of the network in its order; asserts that each has a key of its own."""
    network, state = fill(build)
    seen = []

    def record(self, x, *, key=None):
        seen.append((self.p, x.shape, jax.random.key_data(key)))
        return x

    def keys(key):
        eqx.nn.inference_mode(network)(jnp.zeros((frames, bins)), state, key=key)
        return [data for *_, data in seen]

    with monkeypatch.context() as patch:
        patch.setattr(eqx.nn.Dropout, "__call__", record)
        drawn = {tuple(data.tolist()) for data in jax.jit(keys)(KEY)}
    assert len(drawn) == len(seen)
    return [(rate, shape) for rate, shape, _ in seen]


def test_dropout_follows_each_block_and_comes_before_the_embedding(monkeypatch):
    build = functools.partial(CNN, (2, 3, 4), (2, 2, 1))
    maps = [(0.2, (16, 4, 2)), (0.2, (8, 2, 3)), (0.2, (8, 2, 4))]
    assert dropouts(monkeypatch, build, 33, 8) == [*maps, (0.5, (4,))]
    rates = [rate for rate, _ in dropouts(monkeypatch, functools.partial(build, dropout=0.0), 33, 8)]
    assert rates == [0.0, 0.0, 0.0, 0.5]


def test_what_dropout_keeps_is_scaled():
    network, state = fill(functools.partial(CNN, (8,), (2,), dropout=0.5, embedding_dropout=0.75))
    network = eqx.tree_at(lambda n: (n.embed.weight, n.embed.bias), network, (jnp.eye(8), jnp.zeros(8)))
    network = eqx.nn.inference_mode(network)
    x = noise(16, 8)
    whole, pooled = run(network, state, x)
    dropped, _ = run(eqx.tree_at(lambda n: n.dropout.inference, network, False), state, x, KEY)
    kept = np.asarray(dropped) != 0
    assert 0.3 < kept.mean() / np.mean(np.asarray(whole) != 0) < 0.7
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(whole)[kept], rtol=1e-5)

    training = eqx.tree_at(lambda n: n.embedding_dropout.inference, network, False)
    embeddings = np.stack([run(training, state, x, key)[1] for key in jax.random.split(KEY, 16)])
    kept = embeddings != 0
    assert 0.1 < kept.mean() < 0.4
    np.testing.assert_allclose(embeddings[kept], np.broadcast_to(4 * pooled, kept.shape)[kept], rtol=1e-5)


def test_dropout_trains_with_a_key_only_and_keeps_bfloat16():
    network, state = fill(functools.partial(CNN, (4,), (2,)))
    network = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, network)
    x = jnp.zeros((2, 16, 8), jnp.bfloat16)

    def train(key):
        def run(network, state, x):
            return jax.vmap(lambda x: network(x, state, key=key), out_axes=(0, None), axis_name="batch")(x)

        return eqx.filter_eval_shape(run, network, state, x)

    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        train(None)
    assert train(KEY)[0].dtype == jnp.bfloat16


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 31, 32, 33, 63, 1001])
def test_frames_left_over_are_cut_off(frames):
    build = functools.partial(CNN, (2, 2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 1))
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    x = jax.ShapeDtypeStruct((frames, 64), jnp.float32)
    shape = eqx.filter_eval_shape(eqx.nn.inference_mode(network).features, x, state)[0].shape
    assert shape == (max(frames // 32, 1), 2, 2)


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "pools"), [((4, 4), (2,)), ((4, 0), (2, 2)), ((4,), (0,)), ((), ())])
def test_widths_and_pools_go_in_pairs(widths, pools):
    with pytest.raises(ValueError, match="as many widths as pools, all at least 1, got"):
        CNN(widths, pools, key=KEY)
