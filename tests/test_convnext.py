"""ConvNeXt against timm's numbers, and its options. What holds for all networks is in test_networks.py."""

import functools
import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import KEY, error, noise

from audax_eqx import networks
from audax_eqx.networks import ConvNeXt

DEPTHS, WIDTHS = (1, 1, 2, 1), (8, 16, 24, 32)


def convnext(depths=DEPTHS, widths=WIDTHS, **options):
    return eqx.nn.make_with_state(ConvNeXt)(depths, widths, key=KEY, **options)


@eqx.filter_jit
def embed(network, state, x, key=None):
    return network(x, state, key=key)[0]


@eqx.filter_jit
def features(network, state, x, key=None):
    return network.features(x, state, key=key)[0]


# timm -----------------------------------------------------------------------------------------------------------------


@functools.cache
def timm():
    with np.load(pathlib.Path(__file__).parent / "golden" / "convnext.npz") as arrays:
        return dict(arrays)


NAMES = {
    r"stem\.0": "stages.0.reduce.patchify",
    r"stem\.1": "stages.0.reduce.norm",
    r"stages\.(\d+)\.downsample\.0": r"stages.\1.reduce.norm",
    r"stages\.(\d+)\.downsample\.1": r"stages.\1.reduce.patchify",
    r"\.conv_dw": ".depthwise",
    r"\.mlp\.fc1": ".expand",
    r"\.mlp\.fc2": ".contract",
    r"\.gamma": ".layer_scale",
    r"head\.norm": "norm",
}


@functools.cache
def pretrained(**options):
    """The small network with timm's weights, in inference mode, and its state."""
    weights = {}
    for name, array in timm().items():
        if name.startswith("weights/"):
            path = name.removeprefix("weights/")
            for pattern, replacement in NAMES.items():
                path = re.sub(pattern, replacement, path)
            weights[path] = jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
    build = eqx.nn.make_with_state(ConvNeXt)
    network, state = eqx.filter_eval_shape(build, DEPTHS, WIDTHS, key=KEY, **options)

    def fill(path, leaf):
        if isinstance(leaf, bool):
            return leaf
        array = weights.pop(jax.tree_util.keystr(path, simple=True, separator="."))
        assert array.shape == leaf.shape
        return array

    network = jax.tree_util.tree_map_with_path(fill, network)
    assert not weights
    return eqx.nn.inference_mode(network), state


def test_convnext_is_timms():
    network, state = pretrained()
    x = jnp.asarray(timm()["x"])
    assert error(features(network, state, x), timm()["features"]) < 1e-5
    assert error(embed(network, state, x), timm()["embedding"]) < 1e-5


def test_the_two_gelus_are_timms_gelu_and_gelu_tanh():
    assert error(timm()["embedding"], timm()["embedding_tanh"]) > 2e-5
    assert error(embed(*pretrained(gelu="tanh"), jnp.asarray(timm()["x"])), timm()["embedding_tanh"]) < 1e-5


PARAMETERS = {  # timm 1.0, in_chans=1 and num_classes=0
    "convnext_atto": 3_373_240,
    "convnext_femto": 4_831_248,
    "convnext_pico": 8_530_624,
    "convnext_nano": 14_950_000,
    "convnext_tiny": 27_817_056,
    "convnext_small": 49_451_616,
    "convnext_base": 87_562_368,
    "convnext_large": 196_224_192,
    "convnext_xlarge": 348_139_776,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape")) == parameters


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("pool", ["mean", "max", "mean_max"])
def test_pooling_is_its_closed_form(pool, final_norm):
    network, state = convnext((0, 0), (4, 8), pool=pool, final_norm=final_norm)
    x = noise(40, 24)
    y = np.asarray(features(network, state, x))
    assert y.shape == (5, 3, 8)
    profile = y.mean(axis=1)
    expected = {
        "mean": y.mean(axis=(0, 1)),
        "max": y.max(axis=(0, 1)),
        "mean_max": profile.mean(axis=0) + profile.max(axis=0),
    }[pool]
    if final_norm:
        expected = (expected - expected.mean()) / np.sqrt(expected.var() + 1e-6)
    assert error(embed(network, state, x), expected) < 1e-4


def test_drop_path_rates_rise_linearly_with_depth():
    build = functools.partial(eqx.filter_eval_shape, ConvNeXt, (2, 1, 3), (2, 3, 4), key=KEY)
    network = build(drop_path=0.5)
    rates = [block.drop_path.rate for stage in network.stages for block in stage.blocks]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-12)
    assert {block.drop_path.rate for stage in build().stages for block in stage.blocks} == {0.0}


def test_each_block_is_dropped_on_its_own():
    network, state = convnext((1, 2), (4, 8), drop_path=0.5, layer_scale=1.0)  # rates 0, 0.25, 0.5
    x, keys = noise(16, 16), jax.random.split(KEY, 64)
    y = np.asarray(eqx.filter_jit(jax.vmap(lambda key: network.features(x, state, key=key)[0]))(keys))
    outcomes = np.unique(np.round(y.reshape(64, -1)[:, :4], 4), axis=0)
    assert len(outcomes) == 4


def test_a_dropped_branch_is_skipped_and_a_kept_one_doubled():
    network, state = convnext((1, 1), (4, 8), drop_path=0.5, layer_scale=1.0)
    x, keys = noise(16, 16), jax.random.split(KEY, 32)
    y = np.asarray(eqx.filter_jit(jax.vmap(lambda key: network.features(x, state, key=key)[0]))(keys))
    whole = np.asarray(features(eqx.nn.inference_mode(network), state, x))
    skipped = eqx.tree_at(lambda n: n.stages[1].blocks[0].layer_scale, network, jnp.zeros(8))
    bare = np.asarray(features(eqx.nn.inference_mode(skipped), state, x))
    dropped = np.abs(y - bare).max(axis=(1, 2, 3)) < 1e-5
    assert 4 < dropped.sum() < 28
    np.testing.assert_allclose(y[~dropped], np.broadcast_to(2 * whole - bare, y[~dropped].shape), atol=1e-4)


def test_drop_path_trains_with_a_key_only():
    network, state = convnext((1, 1), (4, 8), drop_path=0.5)
    with pytest.raises(RuntimeError, match="DropPath trains with a random key"):
        network(noise(16, 16), state)


def test_input_norm_normalises_each_bin():
    network, state = convnext((1,), (4,), input_norm=8, layer_scale=1.0)
    x, mean, var = noise(16, 8) * 3 + 1, jnp.arange(8.0), 1.0 + jnp.arange(8.0)
    state = state.set(network.input_norm.running_mean, mean).set(network.input_norm.running_var, var)
    network = eqx.nn.inference_mode(network)
    plain = eqx.tree_at(lambda n: n.input_norm, network, None)
    normal = (x - mean[None]) / jnp.sqrt(var + 1e-5)[None]
    assert error(features(network, state, x), features(plain, state, normal)) < 1e-5


def test_input_norm_moves_its_statistics_in_training():
    network, state = convnext((1,), (4,), input_norm=8)
    x = noise(6, 16, 8) * 3 + 1
    run = eqx.filter_vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    _, moved = eqx.filter_jit(run)(x, state)
    np.testing.assert_allclose(moved.get(network.input_norm.running_mean), 0.1 * x.mean(axis=(0, 1)), rtol=1e-4)


def test_a_network_without_statistics_hands_the_state_through():
    network, state = convnext((1,), (4,))
    assert network(noise(8, 8), state)[1] is state
    assert network.features(noise(8, 8), state)[1] is state


# Places --------------------------------------------------------------------------------------------------------------


def test_frames_left_over_are_cut_off():
    network, state = convnext((0, 0, 0, 0), (2, 3, 4, 5))
    x = noise(79, 40)
    assert error(features(network, state, x), features(network, state, x[:64])) < 1e-5


@pytest.mark.parametrize("stem_padding", [(0, 0), (4, 0)])
def test_positions_are_the_centres_of_the_frames_that_a_step_sees(stem_padding):
    network, state = convnext((0, 0, 0, 0), WIDTHS, stem_padding=stem_padding)
    x = noise(160, 32)
    run = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network.features(x, state)[0], in_axes=(None, 0)))
    rest, moved = features(network, state, x), run(network, x[None].repeat(160, 0) + 3 * jnp.eye(160)[:, :, None])
    time = len(rest)
    assert time == 5
    change = np.abs(moved - rest[None]).sum(axis=(2, 3))  # frame x step
    for frame in range(160 - stem_padding[0]):
        nearest = np.argmin(np.abs(network.positions(time) - frame))
        assert np.flatnonzero(change[frame] > 1e-3 * change.max()).tolist() == [nearest]


def test_a_change_of_one_frame_changes_the_nearest_step_most():
    network, state = pretrained()
    x = jnp.asarray(timm()["x"])
    rest = features(network, state, x)
    for frame in (8, 15, 40, 55, 75, 88):
        change = np.abs(features(network, state, x.at[frame].add(3.0)) - rest).sum(axis=(1, 2))
        assert np.argmax(change) == np.argmin(np.abs(network.positions(3) - frame))


# Bad inputs -----------------------------------------------------------------------------------------------------------


def test_depths_and_widths_go_in_pairs():
    with pytest.raises(ValueError, match=r"as many depths as widths, got \(1, 1\) and \(4,\)"):
        convnext((1, 1), (4,))


def test_wrong_shapes_are_named():
    network, state = convnext((1,), (4,), input_norm=8)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,16,8\][\s\S]*'frames bins'"):
        network(noise(2, 16, 8), state)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[16,9\][\s\S]*'\*leading \{self\.channels\}'"):
        eqx.nn.inference_mode(network)(noise(16, 9), state)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"parameter 'pool'[\s\S]*'median'"):
        convnext((1,), (4,), pool="median")
