"""Depthwise convolution over one channels-last map, computed in the way that is fast on the device."""

import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._portable import by_platform
from .bilinear import bilinear, transpose_input, transpose_weight
from .conv import LAYOUT, Options, pads
from .initial import full, normal


class Depthwise(eqx.Module):
    """One filter of odd size for each channel; the initial weights are normal with standard deviation `scale`."""

    weight: Float[Array, "height width 1 channels"]
    bias: Float[Array, " channels"] | None
    channels: int = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: Literal["symmetric", "same"] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Literal["symmetric", "same"] = "symmetric",
        bias: bool = True,
        scale: float = 0.02,
        key: PRNGKeyArray,
    ):
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"Depthwise keeps the size of its input and takes odd kernels, got {kernel}.")
        self.weight = normal(key, (*kernel, 1, channels), scale)
        self.bias = full(channels, 0.0) if bias else None
        self.channels, self.stride, self.padding = channels, stride, padding

    def __call__(self, x: Float[Array, "time freq {self.channels}"]) -> Float[Array, "newtime newfreq {self.channels}"]:
        y = depthwise(x, self.weight, self.stride, self.padding)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def depthwise(
    x: Float[Array, "time freq channels"],
    weight: Float[Array, "height width 1 channels"],
    stride: tuple[int, int] = (1, 1),
    padding: Literal["symmetric", "same"] = "symmetric",
) -> Float[Array, "newtime newfreq channels"]:
    """Depthwise convolution with an odd kernel, zeros around the map.

    On CPU it is a sum of shifted products, which XLA computes in one pass over memory; XLA's grouped convolution is
    more than ten times slower there. On other devices it is XLA's convolution. `benchmarks/depthwise.py` measures both.
    """
    time, freq = (pads(*sizes, padding) for sizes in zip(x.shape, weight.shape, stride, strict=False))
    return _depthwise(x, weight, (stride, (time, freq)))


def _choose(x: Array, weight: Array, options: Options) -> Array:
    shifts, grouped = (functools.partial(function, options=options) for function in (_sum_shifts, _convolve))
    return by_platform(x, weight, cpu=shifts, default=grouped)


def _input_gradient(gradient: Array, weight: Array, shape: tuple[int, ...], options: Options) -> Array:
    by_jax = functools.partial(transpose_input, _convolve, shape=shape, options=options)
    shifts = functools.partial(_shifts_input_gradient, shape=shape, options=options)
    return jax.lax.platform_dependent(gradient, weight, cpu=shifts, default=by_jax)


def _weight_gradient(x: Array, gradient: Array, shape: tuple[int, ...], options: Options) -> Array:
    by_jax = functools.partial(transpose_weight, _convolve, shape=shape, options=options)
    shifts = functools.partial(_shifts_weight_gradient, shape=shape, options=options)
    return jax.lax.platform_dependent(x, gradient, cpu=shifts, default=by_jax)


_depthwise = bilinear("depthwise", _choose, input_gradient=_input_gradient, weight_gradient=_weight_gradient)


def _convolve(x: Array, weight: Array, options: Options) -> Array:
    stride, around = options
    return jax.lax.conv_general_dilated(
        x, weight, stride, around, dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
    )


def _sum_shifts(x: Array, weight: Array, options: Options) -> Array:
    """The sum over the kernel's taps: each tap adds the shifted map, multiplied by the tap's channels, in float32.

    The two halves of the rows are computed separately, because XLA does not fuse a concatenation with the following
    operation. Otherwise a LayerNorm or a BatchNorm would compute the sum again, or store each product, which takes five
    times as long.
    """
    (down, across), around = options
    height, width = weight.shape[:2]
    padded = jnp.pad(x, ((0, 0), *around, (0, 0))).astype(jnp.float32)
    time, freq = ((padded.shape[axis + 1] - weight.shape[axis]) // options[0][axis] + 1 for axis in range(2))
    taps = weight.astype(jnp.float32)

    def rows(begin, end):
        shifted = (
            padded[
                :,
                i + begin * down : i + (end - 1) * down + 1 : down,
                j : j + (freq - 1) * across + 1 : across,
            ]
            * taps[i, j][None, None]
            for i in range(height)
            for j in range(width)
        )
        return functools.reduce(jnp.add, shifted)

    half = time // 2
    halves = [rows(0, half), rows(half, time)] if half else [rows(0, time)]
    return jnp.concatenate(halves, axis=1).astype(x.dtype)


def _shifts_input_gradient(gradient: Array, weight: Array, shape: tuple[int, ...], options: Options) -> Array:
    """The convolution of the reversed kernel with the gradient, whose steps lie `stride` apart between zeros."""
    stride, around = options
    edges = []
    for axis in range(2):
        kernel, (before, _) = weight.shape[axis], around[axis]
        size = (gradient.shape[axis + 1] - 1) * stride[axis] + 1
        left = kernel - 1 - before
        edges.append((left, shape[axis + 1] + kernel - 1 - left - size, stride[axis] - 1))
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return _sum_shifts(spread, weight[::-1, ::-1], ((1, 1), ((0, 0), (0, 0))))


def _shifts_weight_gradient(x: Array, gradient: Array, shape: tuple[int, ...], options: Options) -> Array:
    """The sum over output positions of the input's patch times the gradient, in a loop over examples and rows.

    The body of the loop is unrolled over one row of positions, or over several rows with at least 16 positions. XLA's
    reductions over positions, one for each tap, are slower by an order of magnitude.
    """
    (down, across), around = options
    height, width, _, channels = shape
    examples, time, freq = gradient.shape[:3]
    rows = -(-16 // freq)
    blocks = -(-time // rows)
    padded = jnp.pad(x, ((0, 0), *around, (0, 0))).astype(jnp.float32)
    surplus = max((blocks * rows - 1) * down + height - padded.shape[1], 0)
    padded = jnp.pad(padded, ((0, 0), (0, surplus), (0, 0), (0, 0)))
    wide = jnp.pad(gradient, ((0, 0), (0, blocks * rows - time), (0, 0), (0, 0))).astype(jnp.float32)

    def add(index, total):
        example, block = index // blocks, index % blocks
        patches = jax.lax.dynamic_slice(
            padded, (example, block * rows * down, 0, 0), (1, (rows - 1) * down + height, *padded.shape[2:])
        )[0]
        gradients = jax.lax.dynamic_slice(wide, (example, block * rows, 0, 0), (1, rows, freq, channels))[0]
        products = (
            patches[row * down : row * down + height, column * across : column * across + width]
            * gradients[row, column][None, None]
            for row in range(rows)
            for column in range(freq)
        )
        return functools.reduce(jnp.add, products, total)

    total = jax.lax.fori_loop(0, examples * blocks, add, jnp.zeros((height, width, channels), jnp.float32))
    return total[:, :, None].astype(gradient.dtype)
