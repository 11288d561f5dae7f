"""Convolutions over one channels-last map, `time freq channels`; kernels are `height width inputs outputs`.

There are three kinds of padding. "symmetric" is torch's `padding=kernel // 2`. "same" is TensorFlow's and Flax's: the
result has `ceil(size / stride)` steps, and of an odd number of zeros the odd one is at the end. The two differ if the
stride is 2. "valid" does not pad.
"""

import functools
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .bilinear import bilinear, transpose_weight
from .initial import full, normal

Pads = tuple[tuple[int, int], tuple[int, int]]
Options = tuple[tuple[int, int], Pads]  # the stride, and the zeros around the map
Padding = Literal["symmetric", "same", "valid"]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """The numbers of zeros before and after an axis of `size`; an axis shorter than the kernel is filled up."""
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    before = kernel // 2 if padding == "symmetric" else 0
    return before, before + max(kernel - size - 2 * before, 0)


class Conv(eqx.Module):
    """A convolution. The initial weights are normal with standard deviation `scale`; None is sqrt(2 / fan out) (He et
    al., 2015, arXiv:1502.01852). The initial bias is zero."""

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
        self.weight = normal(key, (*kernel, inputs, outputs), scale)
        self.bias = full(outputs, 0.0) if bias else None
        self.inputs, self.stride, self.padding = inputs, stride, padding

    def __call__(self, x: Float[Array, "time freq {self.inputs}"]) -> Float[Array, "newtime newfreq channels"]:
        around = tuple(
            pads(size, kernel, stride, self.padding)
            for size, kernel, stride in zip(x.shape[:2], self.weight.shape[:2], self.stride, strict=True)
        )
        y = convolution(x, self.weight, (self.stride, around))
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def _convolution(x: Array, weight: Array, options: Options) -> Array:
    stride, around = options
    return jax.lax.conv_general_dilated(x, weight, stride, around, dimension_numbers=LAYOUT)


def _weight_gradient(x: Array, gradient: Array, shape: tuple[int, ...], options: Options) -> Array:
    """On CPU a product of patches and gradient, for all examples at once if there are few positions, else for each."""
    (down, across), around = options
    (height, width, inputs, outputs), (time, freq) = shape, gradient.shape[1:3]
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def patches(x):
        padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
        taps = [
            padded[:, i : i + (time - 1) * down + 1 : down, j : j + (freq - 1) * across + 1 : across]
            for i in range(height)
            for j in range(width)
        ]
        return jnp.concatenate(taps, axis=-1).reshape(-1, height * width * inputs)

    def multiply_all(x, gradient):
        total = product(patches(x).T, gradient.reshape(-1, outputs))
        return total.reshape(shape).astype(gradient.dtype)

    def multiply_each(x, gradient):
        def add(total, example):
            x, gradient = example
            return total + product(gradient.reshape(-1, outputs).T, patches(x[None])), None

        total, _ = jax.lax.scan(add, jnp.zeros((outputs, height * width * inputs), jnp.float32), (x, gradient))
        return total.T.reshape(shape).astype(gradient.dtype)

    by_jax = functools.partial(transpose_weight, _convolution, shape=shape, options=options)
    products = multiply_all if time * freq < inputs else multiply_each
    return jax.lax.platform_dependent(x, gradient, cpu=products, default=by_jax)


convolution = bilinear("convolution", _convolution, weight_gradient=_weight_gradient)


class TimeConv(eqx.Module):
    """A convolution over time only; its kernel is `taps inputs outputs`, and the taps are `dilation` steps apart. The
    initial weights are those of `Conv`.

    On CPU, XLA runs it in a fifth of the time of a `Conv` over a map of one bin.
    """

    weight: Float[Array, "taps inputs outputs"]
    bias: Float[Array, " outputs"] | None
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    dilation: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        stride: int = 1,
        padding: Padding = "symmetric",
        dilation: int = 1,
        bias: bool = True,
        key: PRNGKeyArray,
    ):
        self.weight = normal(key, (taps, inputs, outputs), math.sqrt(2 / (taps * outputs)))
        self.bias = full(outputs, 0.0) if bias else None
        self.stride, self.padding, self.dilation = stride, padding, dilation

    @property
    def span(self) -> int:
        """The number of steps from the first tap to the last one, including both."""
        return (len(self.weight) - 1) * self.dilation + 1

    def __call__(self, x: Float[Array, "time inputs"]) -> Float[Array, "newtime outputs"]:
        around = [pads(len(x), self.span, self.stride, self.padding)]
        y = jax.lax.conv_general_dilated(
            x[None],
            self.weight,
            (self.stride,),
            around,
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NHC", "HIO", "NHC"),
        )[0]
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


class Patchify(eqx.Module):
    """A convolution whose stride is its kernel: one matrix product, which maps each patch of the map linearly.

    `padding` is the number of zeros before and after (time, freq). An incomplete patch at the end is cut off, as in
    torch, but a map shorter than one patch is filled up with zeros at the end to one whole patch.
    """

    weight: Float[Array, "height width inputs outputs"]
    bias: Float[Array, " outputs"] | None
    inputs: int = eqx.field(static=True)
    padding: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        patch: tuple[int, int],
        *,
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
        key: PRNGKeyArray,
    ):
        self.weight = normal(key, (*patch, inputs, outputs), 0.02)
        self.bias = full(outputs, 0.0) if bias else None
        self.inputs, self.padding = inputs, padding

    def __call__(self, x: Float[Array, "time freq {self.inputs}"]) -> Float[Array, "newtime newfreq channels"]:
        height, width, inputs, outputs = self.weight.shape
        (rows, top, bottom), (columns, left, right) = (
            _whole_patches(size, patch, padding)
            for size, patch, padding in zip(x.shape[:2], (height, width), self.padding, strict=True)
        )
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((top, bottom, 0), (left, right, 0), (0, 0, 0)))
        # Two reshapes: on a mesh with Explicit axes one reshape cannot split two axes.
        x = x.reshape(rows, height, *x.shape[1:]).reshape(rows, height, columns, width, inputs)
        patches = x.transpose(0, 2, 1, 3, 4)
        y = patches.reshape(rows, columns, -1) @ self.weight.reshape(-1, outputs)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def _whole_patches(size: int, patch: int, padding: int) -> tuple[int, int, int]:
    """The number of patches, and the zeros to add before and after; a negative number is cut off."""
    count = max((size + 2 * padding) // patch, 1)
    return count, padding, count * patch - size - padding
