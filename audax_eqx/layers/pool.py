"""Pooling of one channels-last map, `time freq channels`."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from .conv import Padding, pads


def max_pool(
    x: Float[Array, "time freq channels"], window: int, stride: int, padding: Padding
) -> Float[Array, "newtime newfreq channels"]:
    """The maximum over a square `window`: of strided slices, which XLA fuses on CPU as it does not its own."""
    around = [pads(size, window, stride, padding) for size in x.shape[:2]]
    x = jnp.pad(x, (*around, (0, 0)), constant_values=-jnp.inf)
    time, freq = ((size - window) // stride * stride + 1 for size in x.shape[:2])
    shifted = (x[i : i + time : stride, j : j + freq : stride] for i in range(window) for j in range(window))
    return functools.reduce(jnp.maximum, shifted)


def mean_pool(x: Float[Array, "time freq channels"], window: int) -> Float[Array, "newtime newfreq channels"]:
    """The mean over each square of `window` x `window` positions, side by side; added up in float32.

    What is left over at the end, less than one square, is cut off as torch does, but where the map is shorter than one
    the mean is over what there is.
    """
    rows, columns = (min(window, size) for size in x.shape[:2])
    time, freq = x.shape[0] // rows * rows, x.shape[1] // columns * columns
    shifted = (x[i:time:rows, j:freq:columns].astype(jnp.float32) for i in range(rows) for j in range(columns))
    return (functools.reduce(jnp.add, shifted) / (rows * columns)).astype(x.dtype)


def mean_max(x: Float[Array, "time freq channels"]) -> Float[Array, " channels"]:
    """The mean over freq, then mean plus maximum over time (Kong et al., 2020, arXiv:1912.10211)."""
    y = jnp.mean(x, axis=1)
    return jnp.mean(y, axis=0) + jnp.max(y, axis=0)
