"""Layers against lax, torch's golden numbers and closed forms."""

import functools
import itertools
import math
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from audax_eqx.layers import (
    BatchNorm,
    Conv,
    Depthwise,
    DropPath,
    LayerNorm,
    Linear,
    Patchify,
    SqueezeExcite,
    max_pool,
    mean_max,
    mean_pool,
    pointwise,
)
from audax_eqx.layers.depthwise import _convolve

KEY = jax.random.key(0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


# Linear and LayerNorm -------------------------------------------------------------------------------------------------


def with_bias(layer):
    return eqx.tree_at(lambda layer: layer.bias, layer, jnp.asarray(noise(*layer.bias.shape, seed=7)))


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 3)])
def test_linear_is_an_affine_map_of_the_last_axis(leading):
    layer, x = with_bias(Linear(5, 4, key=KEY)), noise(*leading, 5)
    expected = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_linear_starts_at_its_scale_and_a_zero_bias():
    layer = Linear(200, 300, scale=0.5, key=KEY)
    np.testing.assert_allclose(np.std(layer.weight), 0.5, rtol=0.02)
    assert not np.any(layer.bias)


def test_linear_without_bias_is_the_matrix():
    layer, x = Linear(5, 4, bias=False, key=KEY), noise(3, 5)
    assert layer.bias is None and len(jax.tree.leaves(layer)) == 1
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.weight).T, rtol=1e-5, atol=1e-6)


def test_pointwise_starts_at_hes_scale_without_a_bias():
    layer = pointwise(300, 200, key=KEY)
    assert layer.bias is None and layer.weight.shape == (200, 300)
    np.testing.assert_allclose(np.std(layer.weight), 0.1, rtol=0.02)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_layer_norm_is_its_closed_form(leading):
    weight, bias, x = noise(6, seed=1), noise(6, seed=2), noise(*leading, 6) * 3 + 10
    layer = eqx.tree_at(lambda n: (n.weight, n.bias), LayerNorm(6, eps=0.1), (jnp.asarray(weight), jnp.asarray(bias)))
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        layer(jnp.asarray(x)), (x - mean) / np.sqrt(variance + 0.1) * weight + bias, rtol=1e-4, atol=1e-5
    )


def test_layer_norm_keeps_the_digits_of_small_deviations_from_a_large_mean():
    x = np.float32([[1000.0, 1000.5, 1001.0, 1001.5]])
    expected = (x - 1000.75) / np.sqrt(0.3125 + 1e-6)
    np.testing.assert_allclose(LayerNorm(4)(jnp.asarray(x)), expected, rtol=1e-4)


def test_layer_norm_of_bfloat16_has_float32_statistics():
    layer = LayerNorm(64)
    x = jnp.asarray(noise(5, 64) + 20).astype(jnp.bfloat16)
    y = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer)(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layer(x.astype(jnp.float32)).astype(jnp.bfloat16))


# Conv -----------------------------------------------------------------------------------------------------------------


def zeros_around(size, kernel, stride, padding):
    """Zeros before and after one axis, after the definitions: torch's `padding=kernel // 2`, TensorFlow's SAME."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    if padding == "same":
        return jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")[0]
    return 0, 0


def windows(x, kernel, stride, padding, value=0.0):
    """The map's patches under a kernel: time, freq, channels, height, width."""
    around = [zeros_around(*axis, padding) for axis in zip(x.shape, kernel, stride, strict=False)]
    x = np.pad(x.astype(np.float64), (*around, (0, 0)), constant_values=value)
    return np.lib.stride_tricks.sliding_window_view(x, kernel, (0, 1))[:: stride[0], :: stride[1]]


CONVS = [
    ((9, 6), (3, 3), (1, 1)),
    ((9, 6), (3, 3), (2, 2)),
    ((10, 7), (5, 3), (2, 1)),
    ((11, 8), (7, 7), (2, 2)),
    ((7, 9), (4, 2), (3, 2)),
]


@pytest.mark.parametrize("padding", ["symmetric", "same", "valid"])
@pytest.mark.parametrize(("size", "kernel", "stride"), CONVS)
def test_conv_is_a_sum_over_its_window(size, kernel, stride, padding):
    layer = with_bias(Conv(2, 5, kernel, stride=stride, padding=padding, key=KEY))
    x = noise(*size, 2)
    expected = np.einsum("tfchw,hwco->tfo", windows(x, kernel, stride, padding), layer.weight)
    assert error(layer(jnp.asarray(x)), expected + np.asarray(layer.bias)) < 1e-5
    bare = eqx.tree_at(lambda layer: layer.bias, layer, None)
    assert error(bare(jnp.asarray(x)), expected) < 1e-5


def test_conv_by_hand():
    x = jnp.asarray([[1.0], [2.0], [3.0], [4.0]])[:, :, None]

    def convolved(padding):
        layer = Conv(1, 1, (3, 1), stride=(2, 1), padding=padding, bias=False, key=KEY)
        return eqx.tree_at(lambda layer: layer.weight, layer, jnp.asarray([1.0, 10.0, 100.0])[:, None, None, None])(x)

    np.testing.assert_array_equal(convolved("symmetric")[:, 0, 0], [210.0, 432.0])  # 0 1 2, 2 3 4
    np.testing.assert_array_equal(convolved("same")[:, 0, 0], [321.0, 43.0])  # 1 2 3, 3 4 0
    np.testing.assert_array_equal(convolved("valid")[:, 0, 0], [321.0])  # 1 2 3


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 3)])
def test_a_map_shorter_than_a_kernel_without_padding_is_filled_up_with_zeros(size):
    layer, x = Conv(2, 5, (4, 4), stride=(3, 2), padding="valid", key=KEY), noise(*size, 2)
    whole = np.zeros((*(max(s, 4) for s in size), 2), np.float32)
    whole[: size[0], : size[1]] = x
    y = layer(jnp.asarray(x))
    assert y.shape[:2] == tuple((max(s, 4) - 4) // step + 1 for s, step in zip(size, (3, 2), strict=True))
    assert error(y, layer(jnp.asarray(whole))) < 1e-6


def test_conv_starts_at_hes_scale_and_a_zero_bias():
    layer = Conv(40, 60, (3, 5), key=KEY)
    np.testing.assert_allclose(np.std(layer.weight), np.sqrt(2 / (15 * 60)), rtol=0.02)
    assert not np.any(layer.bias)
    np.testing.assert_allclose(np.std(Conv(40, 60, (3, 5), scale=0.02, key=KEY).weight), 0.02, rtol=0.02)


def test_conv_keeps_bfloat16():
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), Conv(2, 5, (3, 3), key=KEY))
    x = jnp.asarray(noise(6, 4, 2)).astype(jnp.bfloat16)
    y, wide = layer(x), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)(x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert error(y.astype(jnp.float32), wide) < 1e-2


# max_pool -------------------------------------------------------------------------------------------------------------


POOLS = [((9, 6), 3, 2), ((10, 7), 3, 2), ((1, 1), 3, 2), ((2, 5), 5, 3), ((8, 7), 2, 2), ((1, 6), 3, 1)]


def pool_of_xla(x, window, stride, padding):
    around = [zeros_around(size, window, stride, padding) for size in x.shape[:2]]
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (window, window, 1), (stride, stride, 1), (*around, (0, 0)))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("size", "window", "stride"), POOLS)
def test_max_pool_is_xlas_with_its_gradient(size, window, stride, padding):
    x = jnp.asarray(noise(*size, 3) - 5)  # all below zero, so that a zero around it would win

    @jax.jit
    def values_and_gradients(x):
        pairs = [jax.vjp(lambda x, pool=pool: pool(x, window, stride, padding), x) for pool in (max_pool, pool_of_xla)]
        probe = jnp.asarray(noise(*pairs[1][0].shape, seed=1))
        return [(y, *pullback(probe)) for y, pullback in pairs]

    (y, gradient), (expected, slope) = values_and_gradients(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
    assert np.any(slope)
    np.testing.assert_array_equal(
        y, windows(np.asarray(x), (window, window), (stride, stride), padding, -np.inf).max(axis=(3, 4))
    )


def test_max_pool_shares_out_the_gradient_of_equal_values():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, 3, 2, "symmetric")))(jnp.full((9, 6, 2), -100.0))
    assert np.all(np.isfinite(gradient)) and np.all(gradient >= 0)
    np.testing.assert_allclose(np.sum(gradient), 5 * 3 * 2, rtol=1e-6)


def test_max_pool_keeps_bfloat16():
    x = jnp.asarray(noise(6, 5, 2)).astype(jnp.bfloat16)
    y = max_pool(x, 3, 2, "symmetric")
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, max_pool(x.astype(jnp.float32), 3, 2, "symmetric").astype(jnp.bfloat16))


# mean_pool and mean_max -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 12), (7, 5), (1, 4), (4, 1), (1, 1), (2, 2)])
def test_mean_pool_is_the_mean_of_each_square_with_its_gradient(size, window):
    x = noise(*size, 3)
    rows, columns = (min(window, each) for each in size)
    expected, slope = np.zeros((size[0] // rows, size[1] // columns, 3)), np.zeros(x.shape)
    probe = noise(*expected.shape, seed=1)
    for time, freq in np.ndindex(expected.shape[:2]):
        square = slice(time * rows, (time + 1) * rows), slice(freq * columns, (freq + 1) * columns)
        expected[time, freq] = x[square].mean(axis=(0, 1))
        slope[square] = probe[time, freq] / (rows * columns)
    y, pullback = jax.vjp(lambda x: mean_pool(x, window), jnp.asarray(x))
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(pullback(jnp.asarray(probe))[0], slope, atol=1e-6)


def test_mean_pool_rounds_to_bfloat16_once():
    x = jnp.asarray(100 + noise(6, 4, 2)).astype(jnp.bfloat16)
    y = mean_pool(x, 2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, mean_pool(x.astype(jnp.float32), 2).astype(jnp.bfloat16))


def test_mean_max_is_the_mean_over_freq_and_then_mean_plus_maximum_over_time():
    x = jnp.asarray([[[1.0], [3.0]], [[4.0], [8.0]], [[0.0], [2.0]]])
    np.testing.assert_allclose(mean_max(x), [9.0], rtol=1e-6)  # of 2 6 1


# Patchify -------------------------------------------------------------------------------------------------------------


def conv(x, weight, strides, padding, groups=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x[None], weight, strides, padding, dimension_numbers=layout, feature_group_count=groups
    )[0]


@pytest.mark.parametrize(
    ("size", "patch", "padding"),
    [
        ((8, 12), (4, 4), (0, 0)),
        ((11, 13), (4, 4), (4, 0)),
        ((101, 3), (2, 3), (1, 2)),
        ((9, 15), (2, 2), (0, 0)),
        ((5, 7), (1, 1), (0, 0)),
    ],
)
def test_patchify_is_a_strided_convolution(size, patch, padding):
    layer = with_bias(Patchify(2, 5, patch, padding=padding, key=KEY))
    x = noise(*size, 2)
    expected = conv(x, layer.weight, patch, [(q, q) for q in padding]) + layer.bias[None, None]
    assert error(eqx.filter_jit(layer)(jnp.asarray(x)), expected) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (9, 2)])
def test_a_map_shorter_than_a_patch_is_padded_with_zeros_to_one(size):
    layer = with_bias(Patchify(2, 5, (4, 4), key=KEY))
    x = noise(*size, 2)
    whole = np.zeros((*(max(s, 4) for s in size), 2), np.float32)
    whole[: size[0], : size[1]] = x
    y = layer(jnp.asarray(x))
    assert y.shape == (*(max(s // 4, 1) for s in size), 5)
    assert error(y, layer(jnp.asarray(whole))) < 1e-6


def test_patchify_has_the_gradients_of_a_strided_convolution():
    layer, x, probe = Patchify(2, 5, (4, 4), padding=(4, 0), key=KEY), noise(11, 13, 2), noise(4, 3, 5, seed=1)

    def theirs(x, weight):
        return jnp.sum(conv(x, weight, (4, 4), [(4, 4), (0, 0)]) * probe)

    def ours(x, weight):
        return jnp.sum(eqx.tree_at(lambda layer: layer.weight, layer, weight)(x) * probe)

    x = jnp.asarray(x)
    for own, other in zip(*(jax.grad(f, (0, 1))(x, layer.weight) for f in (ours, theirs)), strict=True):
        assert error(own, other) < 1e-5


# Depthwise ------------------------------------------------------------------------------------------------------------

MAPS = [((20, 9), (7, 7)), ((37, 1), (5, 5)), ((1, 11), (3, 7)), ((1, 1), (3, 3)), ((6, 17), (5, 1)), ((5, 18), (1, 3))]


def grouped(x, weight):
    return conv(x, weight, (1, 1), "SAME", x.shape[-1])


@pytest.mark.parametrize(("size", "kernel"), MAPS)
def test_depthwise_is_a_grouped_convolution_with_its_gradients(size, kernel):
    x, weight, probe = noise(*size, 3), noise(*kernel, 1, 3, seed=1), noise(*size, 3, seed=2)
    bias = noise(3, seed=3)
    layer = Depthwise(3, kernel, key=KEY)

    def ours(x, weight, bias):
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (weight, bias))(x)

    def theirs(x, weight, bias):
        return grouped(x, weight) + bias[None, None]

    @jax.jit
    def values_and_gradients(*arguments):
        pairs = [jax.vjp(function, *arguments) for function in (ours, theirs)]
        return [(y, *pullback(jnp.asarray(probe))) for y, pullback in pairs]

    for own, other in zip(*values_and_gradients(x, weight, bias), strict=True):
        assert error(own, other) < 1e-5


def test_depthwise_under_vmap_and_jit_equals_a_loop_with_its_gradients():
    layer, x, probe = Depthwise(3, (3, 5), key=KEY), jnp.asarray(noise(4, 5, 4, 3)), jnp.asarray(noise(5, 4, 3, seed=1))

    def both(layer, x):
        return layer(x), eqx.filter_grad(lambda layer: jnp.sum(layer(x) * probe))(layer).weight

    outputs, gradients = eqx.filter_jit(eqx.filter_vmap(both, in_axes=(None, 0)))(layer, x)
    both = eqx.filter_jit(both)
    for index in range(4):
        y, gradient = both(layer, x[index])
        assert error(outputs[index], y) < 1e-6
        assert error(gradients[index], gradient) < 1e-5


def test_depthwise_in_bfloat16_adds_up_in_float32():
    x, weight = (jnp.asarray(noise(*shape)).astype(jnp.bfloat16) for shape in [(12, 9, 3), (5, 5, 1, 3)])
    layer = eqx.tree_at(lambda layer: layer.weight, Depthwise(3, (5, 5), key=KEY), weight)
    layer = eqx.tree_at(lambda layer: layer.bias, layer, jnp.zeros(3, jnp.bfloat16))
    y = layer(x)
    exact = grouped(x.astype(jnp.float32), weight.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(x).astype(jnp.float32)))(layer).weight
    exact = jax.grad(lambda w: jnp.sum(grouped(x.astype(jnp.float32), w)))(weight.astype(jnp.float32))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


SIZES = [(9, 6), (1, 1), (2, 5), (6, 8), (1, 7), (4, 1)]
STRIDED = [  # each kernel, stride and padding, on maps larger and smaller than the kernel
    (SIZES[index % len(SIZES)], (kernel, kernel), stride, padding)
    for index, (kernel, stride, padding) in enumerate(
        itertools.product((3, 5, 7), ((1, 1), (2, 2), (2, 1)), ("symmetric", "same"))
    )
]
STRIDED += [
    ((9, 6), (5, 3), (2, 2), "same"),
    ((10, 7), (3, 5), (2, 2), "symmetric"),
    ((9, 7), (3, 3), (3, 2), "same"),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), STRIDED)
def test_strided_depthwise_is_a_grouped_convolution_with_its_gradients(size, kernel, stride, padding):
    around = tuple(zeros_around(*axis, padding) for axis in zip(size, kernel, stride, strict=True))
    layer = Depthwise(3, kernel, stride=stride, padding=padding, bias=False, key=KEY)
    x, weight = noise(*size, 3), noise(*kernel, 1, 3, seed=1)

    def ours(x, weight):
        return eqx.tree_at(lambda layer: layer.weight, layer, weight)(x)

    @jax.jit
    def values_and_gradients(x, weight):
        pairs = [
            jax.vjp(road, x, weight)
            for road in (ours, lambda x, weight: _convolve(x[None], weight, (stride, around))[0])
        ]
        probe = jnp.asarray(noise(*pairs[1][0].shape, seed=2))
        return [(y, *pullback(probe)) for y, pullback in pairs]

    own, other = values_and_gradients(x, weight)
    for mine, theirs in zip(own, other, strict=True):
        assert error(mine, theirs) < 1e-5
    assert error(own[0], np.einsum("tfchw,hwc->tfc", windows(x, kernel, stride, padding), weight[:, :, 0])) < 1e-5


def test_strided_depthwise_in_bfloat16_adds_up_in_float32():
    x, weight = (jnp.asarray(noise(*shape)).astype(jnp.bfloat16) for shape in [(12, 9, 3), (5, 5, 1, 3)])
    layer = Depthwise(3, (5, 5), stride=(2, 2), padding="same", bias=False, key=KEY)
    y = eqx.tree_at(lambda layer: layer.weight, layer, weight)(x)
    taps = np.asarray(weight, np.float64)[:, :, 0]
    exact = np.einsum("tfchw,hwc->tfc", windows(np.asarray(x, np.float64), (5, 5), (2, 2), "same"), taps)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)


def test_depthwise_starts_at_its_scale_and_has_a_bias_unless_told():
    layer = Depthwise(400, (5, 5), scale=0.5, key=KEY)
    np.testing.assert_allclose(np.std(layer.weight), 0.5, rtol=0.03)
    assert layer.bias.shape == (400,) and not np.any(layer.bias)
    assert Depthwise(4, (5, 5), bias=False, key=KEY).bias is None


@pytest.mark.parametrize("kernel", [(4, 3), (3, 2)])
def test_even_depthwise_kernels_are_refused(kernel):
    with pytest.raises(ValueError, match=rf"odd kernels, got \({kernel[0]}, {kernel[1]}\)"):
        Depthwise(3, kernel, key=KEY)


# SqueezeExcite --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_squeeze_excite_is_its_closed_form(bias):
    layer, x = SqueezeExcite(6, 2, bias=bias, key=KEY), noise(5, 3, 6) + 1
    if bias:
        assert not np.any(layer.reduce.bias) and not np.any(layer.expand.bias)
        layer = eqx.tree_at(lambda n: (n.reduce, n.expand), layer, (with_bias(layer.reduce), with_bias(layer.expand)))
    assert len(jax.tree.leaves(layer)) == (4 if bias else 2)
    squeezed = np.asarray(layer.reduce.weight) @ x.mean(axis=(0, 1)) + (np.asarray(layer.reduce.bias) if bias else 0)
    squeezed = squeezed / (1 + np.exp(-squeezed))
    gate = np.asarray(layer.expand.weight) @ squeezed + (np.asarray(layer.expand.bias) if bias else 0)
    assert error(layer(jnp.asarray(x)), x / (1 + np.exp(-gate))) < 1e-5


def test_squeeze_excite_of_bfloat16_has_a_float32_mean():
    layer = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), SqueezeExcite(4, 2, key=KEY))
    x = jnp.asarray(noise(3000, 4, 4) + 3).astype(jnp.bfloat16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)(x.astype(jnp.float32))
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    assert error(y.astype(jnp.float32), wide) < 2e-2


# DropPath -------------------------------------------------------------------------------------------------------------


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    count, rate, x = 4000, 0.3, jnp.asarray(noise(3, 2))
    y = np.asarray(jax.vmap(lambda key: DropPath(rate)(x, key=key))(jax.random.split(KEY, count)))
    kept = np.any(y != 0, axis=(1, 2))
    np.testing.assert_allclose(y[kept], np.broadcast_to(x / 0.7, (kept.sum(), 3, 2)), rtol=1e-6)
    deviation = math.sqrt(rate * (1 - rate) / count)
    assert abs(kept.mean() - 0.7) < 4 * deviation
    np.testing.assert_allclose(y.mean(axis=0), x, rtol=4 * deviation / 0.7)


def test_drop_path_leaves_inference_and_rate_zero_untouched():
    x = jnp.asarray(noise(3, 2))
    np.testing.assert_array_equal(eqx.nn.inference_mode(DropPath(0.9))(x), x)
    np.testing.assert_array_equal(DropPath(0.9, inference=True)(x, key=KEY), x)
    np.testing.assert_array_equal(DropPath()(x), x)


def test_drop_path_trains_with_a_key_only():
    with pytest.raises(RuntimeError, match=r"pass key=.* or use eqx\.nn\.inference_mode"):
        DropPath(0.5)(jnp.ones(3))


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_drop_path_takes_a_rate_below_one(rate):
    with pytest.raises(ValueError, match=rf"a rate in \[0, 1\), got {rate}"):
        DropPath(rate)


def test_drop_path_keeps_bfloat16():
    x = jnp.ones(3, jnp.bfloat16)
    assert DropPath(0.5)(x, key=KEY).dtype == jnp.bfloat16


# BatchNorm ------------------------------------------------------------------------------------------------------------


@functools.cache
def torch_steps():
    with np.load(pathlib.Path(__file__).parent / "golden" / "batch_norm.npz") as arrays:
        return dict(arrays)


def batch_norm(*arguments, **options):
    return eqx.nn.make_with_state(BatchNorm)(*arguments, **options)


@eqx.filter_jit
def batched(norm, state, x, axis_name="batch"):
    return jax.vmap(norm, (0, None), (0, None), axis_name=axis_name)(x, state)


@eqx.filter_jit
def probed(parameters, state, x, probe):
    """The sum of the output times `probe`; with it the output, the state and the gradients."""

    def loss(parameters):
        norm, x = parameters
        y, moved = batched(norm, state, x)
        return jnp.sum(y * probe), (y, moved)

    return eqx.filter_value_and_grad(loss, has_aux=True)(parameters)


def test_batch_norm_trains_as_torch_does():
    golden = torch_steps()
    norm, state = batch_norm(5)
    for step in range(20):
        x, probe = jnp.asarray(golden[f"x_{step}"]), jnp.asarray(golden[f"probe_{step}"])
        (_, (y, state)), (slope, gradient) = probed((norm, x), state, x, probe)
        assert error(y, golden[f"output_{step}"]) < 1e-5
        np.testing.assert_allclose(gradient, golden[f"gradient_{step}"], rtol=1e-4, atol=1e-4)
        norm = eqx.apply_updates(norm, jax.tree.map(lambda leaf: -0.01 * leaf, slope))
        assert error(norm.weight, golden[f"weight_{step}"]) < 1e-5
        assert error(norm.bias, golden[f"bias_{step}"]) < 1e-4
        assert error(state.get(norm.running_mean), golden[f"mean_{step}"]) < 1e-5
        assert error(state.get(norm.running_var), golden[f"var_{step}"]) < 1e-5
    inference = eqx.nn.inference_mode(norm)
    for index, x in enumerate(golden["x_0"]):
        y, same = inference(jnp.asarray(x), state)
        assert error(y, golden["inference"][index]) < 1e-4
    np.testing.assert_array_equal(same.get(norm.running_mean), state.get(norm.running_mean))
    np.testing.assert_array_equal(same.get(norm.running_var), state.get(norm.running_var))


def test_batch_norm_in_inference_mode_uses_the_running_statistics():
    norm, state = batch_norm(3, eps=0.5)
    state = state.set(norm.running_mean, jnp.array([1.0, 2.0, 3.0])).set(norm.running_var, jnp.array([0.5, 3.5, 8.5]))
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.array([1.0, -2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])))
    y, _ = eqx.nn.inference_mode(norm)(jnp.array([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]), state)
    np.testing.assert_allclose(y, [[1.0, -1.0, 5.0], [0.0, 1.0, 2.0]], rtol=1e-6)


def test_batch_norm_moves_its_statistics_by_its_momentum():
    norm, state = batch_norm(1, momentum=0.25)
    _, state = batched(norm, state, jnp.array([[2.0], [6.0]]))
    np.testing.assert_allclose(state.get(norm.running_mean), [0.25 * 4], rtol=1e-6)
    np.testing.assert_allclose(state.get(norm.running_var), [0.75 + 0.25 * 8], rtol=1e-6)  # unbiased: 16 / 2 values


def test_batch_norm_keeps_the_digits_of_small_deviations_from_a_large_mean():
    norm, state = batch_norm(1, momentum=1.0)
    x = jnp.array([[1000.0], [1000.5], [1001.0], [1001.5]])
    y, state = batched(norm, state, x)
    np.testing.assert_allclose(y, (np.asarray(x) - 1000.75) / np.sqrt(0.3125 + 1e-5), rtol=1e-4)
    np.testing.assert_allclose(state.get(norm.running_var), [0.3125 * 4 / 3], rtol=1e-5)


def test_batch_norm_of_nested_axes_equals_one_batch():
    x = jnp.asarray(noise(8, 5, 3, 4) * 2 + 1)
    norm, state = batch_norm(4)
    y, moved = batched(norm, state, x)
    nested, nested_state = batch_norm(4, axis_name=("outer", "inner"))
    inner = jax.vmap(nested, (0, None), (0, None), axis_name="inner")
    outer = jax.vmap(inner, (0, None), (0, None), axis_name="outer")
    split, split_moved = jax.jit(outer)(x.reshape(2, 4, 5, 3, 4), nested_state)
    assert error(split.reshape(x.shape), y) < 1e-6
    for index in ("running_mean", "running_var"):
        assert error(split_moved.get(getattr(nested, index)), moved.get(getattr(norm, index))) < 1e-6


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_batch_norm_over_devices_equals_one_batch(devices):
    x = jnp.asarray(noise(8, 5, 4) * 2 + 1)
    norm, state = batch_norm(4)
    y, moved = batched(norm, state, x)
    sharded, sharded_state = batch_norm(4, axis_name=("data", "batch"))
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    data, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    run = jax.shard_map(
        lambda x, state: batched(sharded, state, x),
        mesh=mesh,
        in_specs=(data, whole),
        out_specs=(data, whole),
        check_vma=False,
    )
    out, out_state = jax.jit(run)(x, sharded_state)
    assert error(out, y) < 1e-6
    for index in ("running_mean", "running_var"):
        assert error(out_state.get(getattr(sharded, index)), moved.get(getattr(norm, index))) < 1e-6


def test_batch_norm_of_bfloat16_has_float32_statistics():
    norm, state = batch_norm(4)
    x = jnp.asarray(noise(8, 5, 4) + 20).astype(jnp.bfloat16)
    narrow = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.ones(4, jnp.bfloat16), jnp.zeros(4, jnp.bfloat16)))
    y, moved = batched(narrow, state, x)
    wide, wide_moved = batched(norm, state, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    for index in (norm.running_mean, norm.running_var):
        assert moved.get(index).dtype == jnp.float32
        np.testing.assert_array_equal(moved.get(index), wide_moved.get(index))
    assert eqx.nn.inference_mode(norm)(x[0], state)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("axis_name", ["batch", ("data", "batch")])
def test_batch_norm_trains_inside_of_its_axis_only(axis_name):
    norm, state = batch_norm(4, axis_name=axis_name)
    with pytest.raises(RuntimeError, match=r"axis named .*'batch'.* found none: .* or use eqx\.nn\.inference_mode"):
        norm(jnp.ones((5, 4)), state)
    with pytest.raises(RuntimeError, match="found none"):
        batched(norm, state, jnp.ones((2, 5, 4)), axis_name="other")


def test_batch_norm_has_two_parameters_and_its_statistics_in_the_state():
    norm, state = batch_norm(4)
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(norm, eqx.is_array))] == [(4,), (4,)]
    np.testing.assert_array_equal(state.get(norm.running_mean), np.zeros(4))
    np.testing.assert_array_equal(state.get(norm.running_var), np.ones(4))


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_batch_norm_starts_at_its_scale(scale):
    x = jnp.asarray(noise(8, 5, 3) * 2 + 1)
    norm, state = batch_norm(3, scale=scale)
    np.testing.assert_array_equal(norm.weight, np.full(3, scale))
    plain, plain_state = batch_norm(3)
    expected = batched(plain, plain_state, x)[0]
    assert np.std(expected) > 0.9
    np.testing.assert_allclose(batched(norm, state, x)[0], scale * expected, atol=1e-6)


# Bad inputs -----------------------------------------------------------------------------------------------------------

WRONG = {
    "Linear": (lambda: Linear(3, 2, key=KEY)(jnp.ones((4, 5))), r"f32\[4,5\][\s\S]*'\*leading \{self\.inputs\}'"),
    "LayerNorm": (lambda: LayerNorm(3)(jnp.ones((4, 5))), r"f32\[4,5\][\s\S]*'\*leading \{self\.channels\}'"),
    "Patchify": (
        lambda: Patchify(3, 2, (2, 2), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.inputs\}'",
    ),
    "Depthwise": (
        lambda: Depthwise(3, (3, 3), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "Depthwise without freq": (
        lambda: Depthwise(3, (3, 3), key=KEY)(jnp.ones((4, 3))),
        r"f32\[4,3\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "Conv": (
        lambda: Conv(3, 2, (3, 3), key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.inputs\}'",
    ),
    "Conv of a padding without meaning": (
        lambda: Conv(3, 2, (3, 3), padding="full", key=KEY),
        r"parameter 'padding'[\s\S]*'full'",
    ),
    "Depthwise without padding": (
        lambda: Depthwise(3, (3, 3), padding="valid", key=KEY),
        r"parameter 'padding'[\s\S]*'valid'",
    ),
    "SqueezeExcite": (
        lambda: SqueezeExcite(3, 2, key=KEY)(jnp.ones((4, 5, 2))),
        r"f32\[4,5,2\][\s\S]*'time freq \{self\.channels\}'",
    ),
    "BatchNorm": (
        lambda: batched(*batch_norm(3), jnp.ones((4, 5, 2))),
        r"f32\[5,2\][\s\S]*'\*leading \{self\.channels\}'",
    ),
    "DropPath of integers": (lambda: DropPath(0.5)(jnp.ones(3, jnp.int32), key=KEY), r"i32\[3\][\s\S]*Float"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(jaxtyping.TypeCheckError, match=message):
        call()
