"""Pooling of one channels-last map, `time freq channels`."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .conv import Padding, pads


def max_pool(
    x: Float[Array, "time freq channels"], window: int, stride: int, padding: Padding
) -> Float[Array, "newtime newfreq channels"]:
    """The maximum over a square `window`: over time, then over freq."""
    around = [pads(size, window, stride, padding) for size in x.shape[:2]]
    for axis in range(2):
        x = _max_along(x, axis, window, stride, around[axis])
    return x


def _max_along(x: Array, axis: int, window: int, stride: int, around: tuple[int, int]) -> Array:
    """The maximum over windows of one axis.

    The axis is divided into `stride` phases, so that the elements of a window that lie in one phase are neighbours. On
    CPU the gradient of XLA's pooling takes ten times as long, that of strided slices three times.
    """
    steps = (x.shape[axis] + sum(around) - window) // stride + 1
    rows = steps + (window - 1) // stride
    edges = [(0, 0)] * x.ndim
    edges[axis] = (around[0], rows * stride - around[0] - x.shape[axis])
    x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(*edge, 0) for edge in edges])
    x = x.reshape(*x.shape[:axis], rows, stride, *x.shape[axis + 1 :])
    phases = [phase.squeeze(axis + 1) for phase in jnp.split(x, stride, axis + 1)]
    taps = (divmod(tap, stride) for tap in range(window))
    runs = (jax.lax.slice_in_dim(phases[phase], row, row + steps, axis=axis) for row, phase in taps)
    return functools.reduce(jnp.maximum, runs)


def mean_pool(x: Float[Array, "time freq channels"], window: int) -> Float[Array, "newtime newfreq channels"]:
    """The mean over each square of `window` x `window` positions, side by side; added up in float32.

    An incomplete square at the end is cut off, as in torch. If the map is smaller than one square, the mean is over the
    whole map.
    """
    rows, columns = (min(window, size) for size in x.shape[:2])
    time, freq = x.shape[0] // rows * rows, x.shape[1] // columns * columns
    shifted = (x[i:time:rows, j:freq:columns].astype(jnp.float32) for i in range(rows) for j in range(columns))
    return (functools.reduce(jnp.add, shifted) / (rows * columns)).astype(x.dtype)


def mean_max(x: Float[Array, "time freq channels"]) -> Float[Array, " channels"]:
    """The mean over freq, then mean plus maximum over time (Kong et al., 2020, arXiv:1912.10211)."""
    y = jnp.mean(x, axis=1)
    return jnp.mean(y, axis=0) + jnp.max(y, axis=0)
