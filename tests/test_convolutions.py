"""Conv, Patchify and Depthwise against lax and sums over their windows."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import KEY, error, noise, windows, with_bias, zeros_around

from audax_eqx.layers import Conv, Depthwise, Patchify
from audax_eqx.layers.depthwise import _convolve

# Conv -----------------------------------------------------------------------------------------------------------------


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


def convolve_groups(x, weight):
    return conv(x, weight, (1, 1), "SAME", x.shape[-1])


@pytest.mark.parametrize(("size", "kernel"), MAPS)
def test_depthwise_is_a_grouped_convolution_with_its_gradients(size, kernel):
    x, weight, probe = noise(*size, 3), noise(*kernel, 1, 3, seed=1), noise(*size, 3, seed=2)
    bias = noise(3, seed=3)
    layer = Depthwise(3, kernel, key=KEY)

    def ours(x, weight, bias):
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (weight, bias))(x)

    def theirs(x, weight, bias):
        return convolve_groups(x, weight) + bias[None, None]

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
    exact = convolve_groups(x.astype(jnp.float32), weight.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(x).astype(jnp.float32)))(layer).weight
    exact = jax.grad(lambda w: jnp.sum(convolve_groups(x.astype(jnp.float32), w)))(weight.astype(jnp.float32))
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
