"""The Audio Spectrogram Transformer's position embedding, dropped branches and state."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error, noise
from transformer import SMALL, ast, narrow, run

from audax_eqx.networks import AST

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
    changes = batch(
        network, np.concatenate([x[None], x[None].repeat(40, 0) + 3 * np.eye(40, dtype=np.float32)[:, :, None]])
    )
    rest, changes = changes[0], changes[1:]
    change = np.abs(changes - rest[None]).max(axis=(2, 3)) > 1e-3  # frame x step
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
