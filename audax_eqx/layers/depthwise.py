"""Depthwise convolution over one channels-last map, by the road that is fast on the device at hand."""

import functools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._portable import by_platform
from .conv import LAYOUT, Padding, pads
from .initial import full, normal

Pads = tuple[tuple[int, int], tuple[int, int]]


class Depthwise(eqx.Module):
    """One odd-sized filter a channel, drawn normal with standard deviation `scale`. `fused`: see `depthwise`."""

    weight: Float[Array, "height width 1 channels"]
    bias: Float[Array, " channels"] | None
    channels: int = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: Literal["symmetric", "same"] = eqx.field(static=True)
    fused: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Literal["symmetric", "same"] = "symmetric",
        fused: bool = False,
        bias: bool = True,
        scale: float = 0.02,
        key: PRNGKeyArray,
    ):
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"Depthwise keeps the size of its input and takes odd kernels, got {kernel}.")
        self.weight = normal(key, (*kernel, 1, channels), scale)
        self.bias = full(channels, 0.0) if bias else None
        self.channels, self.stride, self.padding, self.fused = channels, stride, padding, fused

    def __call__(self, x: Float[Array, "time freq {self.channels}"]) -> Float[Array, "newtime newfreq {self.channels}"]:
        y = traced_depthwise(x, self.weight, self.stride, self.padding, self.fused)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(
    x: Float[Array, "time freq channels"],
    weight: Float[Array, "height width 1 channels"],
    stride: tuple[int, int] = (1, 1),
    padding: Literal["symmetric", "same"] = "symmetric",
    fused: bool = False,
) -> Float[Array, "newtime newfreq channels"]:
    """Depthwise convolution with an odd kernel, zeros around the map.

    On CPU a sum of shifted products, which XLA fuses into one pass over memory, where its own grouped convolution is
    more than ten times slower; elsewhere XLA's convolution. `benchmarks/depthwise.py` measures both. `fused` lets XLA
    make one pass of it with what follows: a third faster in front of a BatchNorm and an activation, but ten times
    slower in front of a LayerNorm, whose reductions would compute it anew. Reverse-mode differentiation only.
    """
    around = _around(x, weight, stride, padding)

    def shifts(x, weight):
        return _shifts(jnp.pad(x, (*around, (0, 0))), weight, stride, fused)

    def grouped(x, weight):
        return _grouped(x, weight, stride, around)

    return by_platform(x, weight, cpu=shifts, default=grouped)


def _forward(x: Array, weight: Array, stride, padding, fused) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, weight, stride, padding, fused), (x, weight)


def _backward(stride, padding, fused, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    around = _around(saved[0], saved[1], stride, padding)

    def fast(x, weight, gradient):
        return (
            _shifts_input_gradient(x, weight, gradient, stride, around, fused),
            _shifts_weight_gradient(jnp.pad(x, (*around, (0, 0))), weight, gradient, stride),
        )

    def grouped(x, weight, gradient):
        return jax.vjp(lambda x, weight: _grouped(x, weight, stride, around), x, weight)[1](gradient)

    return by_platform(*saved, gradient, cpu=fast, default=grouped)


depthwise.defvjp(_forward, _backward)
traced_depthwise = jax.jit(
    depthwise, static_argnums=(2, 3, 4)
)  # for blocks of one shape; a trace of 49 shifts takes long


def _around(x: Array, weight: Array, stride: tuple[int, int], padding: Padding) -> Pads:
    time, freq = (pads(*sizes, padding) for sizes in zip(x.shape, weight.shape, stride, strict=False))
    return time, freq


def _grouped(x: Array, weight: Array, stride: tuple[int, int], around: Pads) -> Array:
    return jax.lax.conv_general_dilated(
        x[None], weight, stride, around, dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
    )[0]


def _steps(padded: Array, weight: Array, stride: tuple[int, int]) -> tuple[int, int]:
    time, freq = ((padded.shape[axis] - weight.shape[axis]) // stride[axis] + 1 for axis in range(2))
    return time, freq


def _shifts(padded: Array, weight: Array, stride: tuple[int, int], fused: bool = False) -> Array:
    """The sum over the kernel's taps of the map, shifted, times the tap's row of channels; added up in float32.

    Unless `fused`, it runs over a few blocks of rows, one after the other, because a loop is what XLA does not fuse
    with what follows.
    """
    height, width = weight.shape[:2]
    down, across = stride
    time, freq = _steps(padded, weight, stride)
    blocks = 1 if fused else min(4, time)
    rows = -(-time // blocks)
    surplus = max((blocks * rows - 1) * down + height - padded.shape[0], 0)
    x = jnp.pad(padded, ((0, surplus), (0, 0), (0, 0))).astype(jnp.float32)
    taps = weight.astype(jnp.float32)

    def block(index):
        around = jax.lax.dynamic_slice_in_dim(x, index * rows * down, (rows - 1) * down + height)
        shifted = (
            around[i : i + (rows - 1) * down + 1 : down, j : j + (freq - 1) * across + 1 : across] * taps[i, j][None]
            for i in range(height)
            for j in range(width)
        )
        return functools.reduce(jnp.add, shifted)

    y = block(0) if fused else jax.lax.map(block, jnp.arange(blocks)).reshape(blocks * rows, freq, -1)
    return y[:time].astype(padded.dtype)


def _shifts_input_gradient(
    x: Array, weight: Array, gradient: Array, stride: tuple[int, int], around: Pads, fused: bool
) -> Array:
    """The gradient's steps, spread out to the stride, under the kernel turned around."""
    config = []
    for axis in range(2):
        kernel, (before, _) = weight.shape[axis], around[axis]
        spread = (gradient.shape[axis] - 1) * stride[axis] + 1
        left = kernel - 1 - before
        config.append((left, x.shape[axis] + kernel - 1 - left - spread, stride[axis] - 1))
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), (*config, (0, 0, 0)))
    return _shifts(spread, weight[::-1, ::-1], (1, 1), fused)


def _shifts_weight_gradient(padded: Array, weight: Array, gradient: Array, stride: tuple[int, int]) -> Array:
    """Each output position adds its patch of the input times its gradient: a loop over blocks of rows.

    The loop's body is unrolled over a row of positions, or over as many rows as make 16. XLA's own reductions over
    positions, one a tap, are slower by an order of magnitude.
    """
    height, width = weight.shape[:2]
    down, across = stride
    time, freq = gradient.shape[:2]
    rows = -(-16 // freq)
    blocks = -(-time // rows)
    surplus = max((blocks * rows - 1) * down + height - padded.shape[0], 0)
    x = jnp.pad(padded, ((0, surplus), (0, 0), (0, 0))).astype(jnp.float32)
    gradient = jnp.pad(gradient, ((0, blocks * rows - time), (0, 0), (0, 0))).astype(jnp.float32)

    def block(index, total):
        patches = jax.lax.dynamic_slice_in_dim(x, index * rows * down, (rows - 1) * down + height)
        gradients = jax.lax.dynamic_slice_in_dim(gradient, index * rows, rows)
        products = (
            patches[row * down : row * down + height, column * across : column * across + width]
            * gradients[row, column][None, None]
            for row in range(rows)
            for column in range(freq)
        )
        return functools.reduce(jnp.add, products, total)

    total = jax.lax.fori_loop(0, blocks, block, jnp.zeros((height, width, x.shape[-1]), jnp.float32))
    return total[:, :, None].astype(weight.dtype)
