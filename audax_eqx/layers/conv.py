"""Convolutions over one channels-last map, `time freq channels`; kernels are `height width inputs outputs`.

Padding is one of three: "symmetric" (torch's `padding=kernel // 2`) and "same" (TensorFlow's and Flax's: `ceil(size /
stride)` steps, the odd zero at the end) differ where the stride is 2; "valid" pads nothing.
"""

import functools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Padding = Literal["symmetric", "same", "valid"]


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """How many values to pad before and after an axis of `size`; one that is shorter than the kernel is filled up."""
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    before = kernel // 2 if padding == "symmetric" else 0
    return before, before + max(kernel - size - 2 * before, 0)


class Conv(eqx.Module):
    """A convolution. Weights start normal with standard deviation `scale`, which is He's, sqrt(2 / fan out), unless
    given (He et al., 2015, arXiv:1502.01852); the bias starts at zero."""

    weight: Float[Array, "height width inputs outputs"]
    bias: Float[Array, " outputs"] | None
    inputs: int = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = "symmetric",
        bias: bool = True,
        scale: float | None = None,
        key: PRNGKeyArray,
    ):
        scale = math.sqrt(2 / (kernel[0] * kernel[1] * outputs)) if scale is None else scale
        self.weight = scale * jax.random.normal(key, (*kernel, inputs, outputs))
        self.bias = jnp.zeros(outputs) if bias else None
        self.inputs, self.stride, self.padding = inputs, stride, padding

    def __call__(self, x: Float[Array, "time freq {self.inputs}"]) -> Float[Array, "newtime newfreq channels"]:
        around = [
            pads(size, kernel, stride, self.padding)
            for size, kernel, stride in zip(x.shape[:2], self.weight.shape[:2], self.stride, strict=True)
        ]
        y = jax.lax.conv_general_dilated(x[None], self.weight, self.stride, around, dimension_numbers=_LAYOUT)[0]
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Patchify(eqx.Module):
    """A convolution whose stride is its kernel: cuts the map into patches and maps each linearly, one matrix product.

    `padding` zeros are put before and after (time, freq). What is left over at the end, less than one patch, is cut
    off as torch does, but a map shorter than one patch is padded with zeros at the end to one whole patch.
    """

    weight: Float[Array, "height width inputs outputs"]
    bias: Float[Array, " outputs"]
    inputs: int = eqx.field(static=True)
    padding: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        patch: tuple[int, int],
        *,
        padding: tuple[int, int] = (0, 0),
        key: PRNGKeyArray,
    ):
        self.weight = 0.02 * jax.random.normal(key, (*patch, inputs, outputs))
        self.bias = jnp.zeros(outputs)
        self.inputs, self.padding = inputs, padding

    def __call__(self, x: Float[Array, "time freq {self.inputs}"]) -> Float[Array, "newtime newfreq channels"]:
        height, width, inputs, outputs = self.weight.shape
        (rows, top, bottom), (columns, left, right) = (
            _whole_patches(size, patch, padding)
            for size, patch, padding in zip(x.shape[:2], (height, width), self.padding, strict=True)
        )
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((top, bottom, 0), (left, right, 0), (0, 0, 0)))
        patches = x.reshape(rows, height, columns, width, inputs).transpose(0, 2, 1, 3, 4)
        y = patches.reshape(rows, columns, -1) @ self.weight.reshape(-1, outputs)
        return y + jnp.broadcast_to(self.bias, y.shape)


def _whole_patches(size: int, patch: int, padding: int) -> tuple[int, int, int]:
    """How many patches, and how much to pad (or, below zero, to cut) before and after."""
    count = max((size + 2 * padding) // patch, 1)
    return count, padding, count * patch - size - padding


class Depthwise(eqx.Module):
    """One odd-sized filter a channel, stride 1, the map's size kept by zeros around it."""

    weight: Float[Array, "height width 1 channels"]
    bias: Float[Array, " channels"]
    channels: int = eqx.field(static=True)

    def __init__(self, channels: int, kernel: tuple[int, int], *, key: PRNGKeyArray):
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"Depthwise keeps the size of its input and takes odd kernels, got {kernel}.")
        self.weight = 0.02 * jax.random.normal(key, (*kernel, 1, channels))
        self.bias = jnp.zeros(channels)
        self.channels = channels

    def __call__(self, x: Float[Array, "time freq {self.channels}"]) -> Float[Array, "time freq {self.channels}"]:
        y = depthwise(x, self.weight)
        return y + jnp.broadcast_to(self.bias, y.shape)


@jax.custom_vjp
def depthwise(
    x: Float[Array, "time freq channels"], weight: Float[Array, "height width 1 channels"]
) -> Float[Array, "time freq channels"]:
    """Depthwise convolution with an odd kernel, stride 1, zero padding that keeps the size.

    On CPU a sum of shifted products, which XLA fuses into one pass over memory, where its own grouped convolution is
    more than ten times slower; elsewhere XLA's convolution. `benchmarks/depthwise.py` measures both. Reverse-mode
    differentiation only.
    """
    return jax.lax.platform_dependent(x, weight, cpu=_shifts, default=_grouped)


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, weight), (x, weight)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def fast(x, weight, gradient):
        return _shifts(gradient, weight[::-1, ::-1]), _shifts_weight_gradient(x, gradient, weight)

    def grouped(x, weight, gradient):
        return jax.vjp(_grouped, x, weight)[1](gradient)

    return jax.lax.platform_dependent(*saved, gradient, cpu=fast, default=grouped)


depthwise.defvjp(_forward, _backward)


def _grouped(x: Array, weight: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x[None], weight, (1, 1), "SAME", dimension_numbers=_LAYOUT, feature_group_count=x.shape[-1]
    )[0]


def _shifts(x: Array, weight: Array) -> Array:
    """The sum over the kernel's taps of the map, shifted, times the tap's row of channels; added up in float32.

    It runs over a few blocks of rows, one after the other, because a loop is what XLA does not fuse with what follows:
    fused into the reductions of a LayerNorm the shifts would run ten times slower.
    """
    time, freq, channels = x.shape
    height, width = weight.shape[:2]
    blocks = min(4, time)
    rows = -(-time // blocks)
    padded = jnp.pad(_pad(x, height, width), ((0, blocks * rows - time), (0, 0), (0, 0))).astype(jnp.float32)
    taps = weight.astype(jnp.float32)

    def block(index):
        around = jax.lax.dynamic_slice_in_dim(padded, index * rows, rows + height - 1)
        shifted = (around[i : i + rows, j : j + freq] * taps[i, j][None] for i in range(height) for j in range(width))
        return functools.reduce(jnp.add, shifted)

    y = jax.lax.map(block, jnp.arange(blocks))
    return y.reshape(blocks * rows, freq, channels)[:time].astype(x.dtype)


def _shifts_weight_gradient(x: Array, gradient: Array, weight: Array) -> Array:
    """Each output position adds its patch of the input times its gradient: a loop over blocks of rows.

    The loop's body is unrolled over a row of positions, or over as many rows as make 16. XLA's own reductions over
    positions, one a tap, are slower by an order of magnitude.
    """
    time, freq, _ = x.shape
    height, width = weight.shape[:2]
    rows = -(-16 // freq)
    blocks = -(-time // rows)
    surplus = ((0, blocks * rows - time), (0, 0), (0, 0))
    padded = jnp.pad(_pad(x, height, width), surplus).astype(jnp.float32)
    gradient = jnp.pad(gradient, surplus).astype(jnp.float32)

    def block(index, total):
        patches = jax.lax.dynamic_slice_in_dim(padded, index * rows, rows + height - 1)
        gradients = jax.lax.dynamic_slice_in_dim(gradient, index * rows, rows)
        products = (
            patches[row : row + height, column : column + width] * gradients[row, column][None, None]
            for row in range(rows)
            for column in range(freq)
        )
        return functools.reduce(jnp.add, products, total)

    total = jax.lax.fori_loop(0, blocks, block, jnp.zeros((height, width, x.shape[-1]), jnp.float32))
    return total[:, :, None].astype(weight.dtype)


def _pad(x: Array, height: int, width: int) -> Array:
    return jnp.pad(x, ((height // 2, height // 2), (width // 2, width // 2), (0, 0)))
