"""Maxima and means of squares and of whole maps, with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import noise, windows, zeros_around

from audax_eqx.layers import max_pool, mean_max, mean_pool

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
