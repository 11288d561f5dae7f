"""MobileNetV2 against torch's numbers; its table and its residual branches."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cnn import KEY, assert_is_golden, count

from audax_eqx.networks import MobileNetV2

PARAMETERS = {"mobilenet_v2": 4_075_343}  # the paper's table XII: 64 bins, 527 classes
DEPTHS, WIDTHS = (1, 2, 1, 1, 2, 1, 1), (4, 4, 4, 6, 6, 8, 8, 12)


def skeleton(*arguments, **options):
    return eqx.filter_eval_shape(MobileNetV2, *arguments, key=KEY, **options)


def test_mobilenet_is_torchs():
    assert_is_golden("mobilenet", functools.partial(MobileNetV2, DEPTHS, WIDTHS, embedding=10, input_norm=37))


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_have_the_published_number_of_parameters(name):
    parameters, network = count(name)
    assert parameters == PARAMETERS[name] and network.width == 1024


def test_blocks_are_the_papers_table():
    blocks = count("mobilenet_v2")[1].blocks
    assert [index for index, block in enumerate(blocks) if block.pool == 2] == [1, 3, 6, 10]
    assert {block.pool for block in blocks} == {1, 2}
    outputs = [block.project.outputs for block in blocks]
    assert outputs == [16, 24, 24, *3 * [32], *4 * [64], *3 * [96], *3 * [160], 320]
    inner = [block.depthwise.channels for block in blocks]
    assert inner == [32, *(6 * width for width in outputs[:-1])]
    assert [block.expand is None for block in blocks] == [block.expand_norm is None for block in blocks]
    assert [index for index, block in enumerate(blocks) if block.expand is None] == [0]


def test_a_block_is_residual_where_size_and_channels_stay():
    flags = [block.residual for block in skeleton(DEPTHS, WIDTHS).blocks]
    #                4 -> 4, pooled, 4 -> 4, pooled, pooled, pooled, 8 -> 8, 8 -> 8, 8 -> 12
    assert flags == [True, False, True, False, False, False, True, True, False]


def test_weights_begin_at_hes_scale_and_nothing_before_a_norm_has_a_bias():
    network = eqx.filter_jit(MobileNetV2)((1,) * 7, (64, 32, 32, 32, 32, 32, 32, 64), embedding=200, key=KEY)
    block = network.blocks[2]
    for layer, fan_out in (
        (network.stem, 9 * 64),
        (block.expand, 192),
        (block.depthwise, 9),
        (block.project, 32),
        (network.end, 256),
        (network.embed, 200),
    ):
        np.testing.assert_allclose(np.std(layer.weight), np.sqrt(2 / fan_out), rtol=0.1)
        assert (layer.bias is None) == (layer is not network.embed)


@pytest.mark.parametrize("frames", [1, 2, 3, 31, 32, 33, 63, 1001])
def test_frames_left_over_are_cut_off(frames):
    build = functools.partial(MobileNetV2, (1,) * 7, (4,) * 8)
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    x = jax.ShapeDtypeStruct((frames, 64), jnp.float32)
    shape = eqx.filter_eval_shape(eqx.nn.inference_mode(network).features, x, state)[0].shape
    assert shape == (max(frames // 32, 1), 2, 16)


@pytest.mark.parametrize(
    ("depths", "widths"), [((1, 1), WIDTHS), (DEPTHS, (4, 4)), ((1, 0, 1, 1, 1, 1, 1), WIDTHS), (DEPTHS, (0,) * 8)]
)
def test_depths_and_widths_are_seven_and_eight(depths, widths):
    with pytest.raises(ValueError, match="takes 7 depths and 8 widths, all at least 1, got"):
        skeleton(depths, widths)
