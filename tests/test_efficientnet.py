"""EfficientNet against torchvision's and transformers' numbers; its table and its options."""

import functools
import itertools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import error
from golden.seeded import fill, uniform

from audax_eqx import networks
from audax_eqx.networks import EfficientNet
from audax_eqx.networks.efficientnet import scaled

KEY = jax.random.key(0)
DEPTHS, WIDTHS = (1, 2, 2, 1, 2, 1, 1), (4, 4, 8, 8, 8, 12, 12, 12)


def skeleton(*arguments, **options):
    return eqx.filter_eval_shape(EfficientNet, *arguments, key=KEY, **options)


def blocks(network):
    return list(itertools.chain(*network.stages))


# torchvision and transformers -----------------------------------------------------------------------------------------


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "efficientnet.npz") as arrays:
        return dict(arrays)


@functools.cache
def seeded(padding):
    """Width 0.25 and depth 0.5 of B0; with TensorFlow's padding, widths in multiples of 4 and one block a stage."""
    if padding == "symmetric":
        build = functools.partial(EfficientNet, *scaled(width=0.25, depth=0.5))
    else:
        widths = (8, 4, 8, 12, 20, 28, 48, 80)
        build = functools.partial(EfficientNet, (1, 1, 1, 1, 1, 1, 1), widths, padding="same", eps=1e-3)
    network, state = fill(build)
    return eqx.nn.inference_mode(network), state


@pytest.mark.parametrize(("padding", "size"), [("symmetric", (101, 64)), ("same", (96, 64))])
def test_efficientnet_is_torchvisions_and_transformers(padding, size):
    network, state = seeded(padding)
    x = jnp.asarray(2 * uniform("x", size), jnp.float32)
    features, _ = eqx.filter_jit(network.features)(x, state)
    assert error(features, golden()[f"{padding}/{size[0]}"]) < 1e-5


def test_the_embedding_is_the_mean_of_the_map():
    network, state = seeded("symmetric")
    x = jnp.asarray(2 * uniform("x", (70, 33)), jnp.float32)
    embedding, _ = eqx.filter_jit(network)(x, state)
    assert error(embedding, golden()["symmetric/70"].mean(axis=(0, 1))) < 1e-5


# The table ------------------------------------------------------------------------------------------------------------

PARAMETERS = {  # torchvision 0.26: three input channels and 1,000 classes
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
}


@functools.cache
def variant(name):
    return eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_have_the_published_number_of_parameters_and_normalisation(name):
    network = variant(name)
    ours = sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape"))
    colours, head = 2 * 3 * 3 * network.stem.weight.shape[-1], 1000 * network.width + 1000
    assert ours + colours + head == PARAMETERS[name]

    large = name[-1] in "567"  # as torchvision
    norms = [network.stem_norm, network.end_norm]
    for block in blocks(network):
        norms += [norm for norm in (block.expand_norm, block.depthwise_norm, block.project_norm) if norm is not None]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01) if large else (1e-5, 0.1)}


TABLE = {  # torchvision 0.26: blocks; channels of the stem and of the stages
    (1.0, 1.0): ((1, 2, 2, 3, 3, 4, 1), (32, 16, 24, 40, 80, 112, 192, 320)),
    (1.0, 1.1): ((2, 3, 3, 4, 4, 5, 2), (32, 16, 24, 40, 80, 112, 192, 320)),
    (1.1, 1.2): ((2, 3, 3, 4, 4, 5, 2), (32, 16, 24, 48, 88, 120, 208, 352)),
    (1.2, 1.4): ((2, 3, 3, 5, 5, 6, 2), (40, 24, 32, 48, 96, 136, 232, 384)),
    (1.4, 1.8): ((2, 4, 4, 6, 6, 8, 2), (48, 24, 32, 56, 112, 160, 272, 448)),
    (1.6, 2.2): ((3, 5, 5, 7, 7, 9, 3), (48, 24, 40, 64, 128, 176, 304, 512)),
    (1.8, 2.6): ((3, 6, 6, 8, 8, 11, 3), (56, 32, 40, 72, 144, 200, 344, 576)),
    (2.0, 3.1): ((4, 7, 7, 10, 10, 13, 4), (64, 32, 48, 80, 160, 224, 384, 640)),
    (0.25, 0.5): ((1, 1, 1, 2, 2, 2, 1), (8, 8, 8, 16, 24, 32, 48, 80)),
}


@pytest.mark.parametrize("factors", TABLE)
def test_depths_and_widths_scale_as_published(factors):
    assert scaled(*factors) == TABLE[factors]


def test_blocks_are_the_papers_table():
    network = variant("efficientnet_b0")
    first = [stage[0].depthwise for stage in network.stages]
    assert [layer.weight.shape[0] for layer in first] == [3, 3, 5, 3, 5, 5, 3]
    assert [layer.stride[0] for layer in first] == [1, 2, 2, 2, 1, 2, 1]
    assert [layer.channels for layer in first] == [32, 96, 144, 240, 480, 672, 1152]
    assert {block.depthwise.stride for stage in network.stages for block in stage[1:]} == {(1, 1)}
    assert [stage[0].excite.reduce.outputs for stage in network.stages] == [8, 4, 6, 10, 20, 28, 48]
    assert [stage[0].project.outputs for stage in network.stages] == [16, 24, 40, 80, 112, 192, 320]
    assert network.width == network.end.outputs == 1280


def test_only_the_first_stage_does_not_expand():
    network = skeleton((2, 1, 1, 1, 1, 1, 1), WIDTHS)
    for index, stage in enumerate(network.stages):
        for block in stage:
            assert (block.expand is None) == (block.expand_norm is None) == (index == 0)


# Residual branches ----------------------------------------------------------------------------------------------------


def test_a_block_is_residual_where_size_and_channels_stay():
    network = skeleton(DEPTHS, WIDTHS)
    flags = [[block.residual for block in stage] for stage in network.stages]
    #                 4 -> 4    4 -> 8 strided  8 -> 8 strided strided  8 -> 12       strided  12 -> 12
    assert flags == [[True], [False, True], [False, True], [False], [False, True], [False], [True]]


def test_drop_path_rates_rise_with_depth_as_torchvisions():
    rates = [block.drop_path.rate for block in blocks(skeleton(DEPTHS, WIDTHS, drop_path=0.5))]
    np.testing.assert_allclose(rates, [0.05 * index for index in range(10)], atol=1e-12)
    assert {block.drop_path.rate for block in blocks(skeleton(DEPTHS, WIDTHS))} == {0.0}


def test_a_dropped_branch_is_skipped_and_a_kept_one_doubled():
    network, state = fill(
        functools.partial(EfficientNet, (2, 1, 1, 1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4), drop_path=0.5)
    )
    block = network.stages[0][1]
    assert block.residual and block.drop_path.rate == 0.5 / 8
    block = eqx.tree_at(lambda block: block.drop_path, block, type(block.drop_path)(0.5))
    inference = eqx.nn.inference_mode(block)
    training = eqx.tree_at(lambda block: block.drop_path, inference, block.drop_path)
    x, keys = jnp.asarray(uniform("map", (5, 3, 4)), jnp.float32), jax.random.split(KEY, 32)

    @eqx.filter_jit
    def outcomes(inference, training):
        return inference(x, state, key=None)[0], jax.vmap(lambda key: training(x, state, key=key)[0])(keys)

    whole, drawn = outcomes(inference, training)
    dropped = np.abs(drawn - x[None]).max(axis=(1, 2, 3)) < 1e-6
    assert 4 < dropped.sum() < 28
    kept = drawn[~dropped]
    np.testing.assert_allclose(kept, np.broadcast_to(2 * whole - x, kept.shape), atol=1e-5)


def test_drop_path_trains_with_a_key_only():
    network, state = fill(functools.partial(EfficientNet, DEPTHS, WIDTHS, drop_path=0.5))
    run = eqx.filter_vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    with pytest.raises(RuntimeError, match="DropPath trains with a random key"):
        eqx.filter_eval_shape(run, jnp.ones((2, 33, 24)), state)


# Options --------------------------------------------------------------------------------------------------------------


def test_excitations_have_biases_unless_told():
    for excite_bias in (True, False):
        for block in blocks(skeleton(DEPTHS, WIDTHS, excite_bias=excite_bias)):
            assert (block.excite.reduce.bias is not None) == (block.excite.expand.bias is not None) == excite_bias


def test_nothing_else_has_a_bias_before_its_normalisation():
    network = skeleton(DEPTHS, WIDTHS)
    layers = [network.stem, network.end, *(block.depthwise for block in blocks(network))]
    layers += [block.project for block in blocks(network)] + [block.expand for block in blocks(network)[1:]]
    assert len(layers) == 2 + 10 + 10 + 9
    assert all(layer.bias is None for layer in layers)


def test_padding_is_that_of_every_strided_layer():
    for padding in ("symmetric", "same"):
        network = skeleton(DEPTHS, WIDTHS, padding=padding)
        assert {network.stem.padding, *(block.depthwise.padding for block in blocks(network))} == {padding}


def test_both_paddings_give_sizes_rounded_up():
    for padding in ("symmetric", "same"):
        build = functools.partial(EfficientNet, (1, 1, 1, 1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4), padding=padding)
        network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
        for frames in (1, 33, 64, 1001):
            x = jax.ShapeDtypeStruct((frames, 128), jnp.float32)
            shape = eqx.filter_eval_shape(eqx.nn.inference_mode(network).features, x, state)[0].shape
            assert shape == (-(-frames // 32), 4, 16)


def test_weights_begin_at_hes_scale():
    network = eqx.filter_jit(EfficientNet)((1, 1, 1, 1, 1, 1, 1), (64, 32, 32, 32, 32, 32, 32, 64), key=KEY)
    block = network.stages[2][0]
    for weight, fan_out in (
        (network.stem.weight, 9 * 64),
        (block.expand.weight, 192),
        (block.depthwise.weight, 25),
        (block.project.weight, 32),
        (network.end.weight, 256),
    ):
        np.testing.assert_allclose(np.std(weight), np.sqrt(2 / fan_out), rtol=0.1)


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depths", "widths"), [((1, 1), WIDTHS), (DEPTHS, (4, 4)), ((1, 0, 1, 1, 1, 1, 1), WIDTHS), (DEPTHS, (0,) * 8)]
)
def test_depths_and_widths_are_seven_and_eight(depths, widths):
    with pytest.raises(ValueError, match="takes 7 depths and 8 widths, all at least 1, got"):
        skeleton(depths, widths)


def test_padding_is_one_of_two():
    with pytest.raises(jaxtyping.TypeCheckError, match="'valid'"):
        skeleton(DEPTHS, WIDTHS, padding="valid")
