"""The affine map over the last axis: a dense layer on vectors, a 1x1 convolution on channels-last maps."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .bilinear import bilinear
from .initial import full, normal


def _matmul(x: Array, weight: Array, options: tuple[()]) -> Array:
    return x @ weight.T


def _weight_gradient(x: Array, gradient: Array, shape: tuple[int, ...], options: tuple[()]) -> Array:
    """XLA transposes and copies the left factor to sum over its rows, so the left factor is the narrower one."""
    x, gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return (x.T @ gradient).T if x.shape[1] < gradient.shape[1] else gradient.T @ x


matmul = bilinear("matmul", _matmul, weight_gradient=_weight_gradient)


class Linear(eqx.Module):
    """`y = x W^T + b` over the last axis, with any leading axes. `weight` is (out, in), as in Equinox and torch.

    The initial weights are normal with standard deviation `scale`; the initial bias is zero.
    """

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, scale: float = 0.02, key: PRNGKeyArray):
        self.weight = normal(key, (outputs, inputs), scale)
        self.bias = full(outputs, 0.0) if bias else None
        self.inputs, self.outputs = inputs, outputs

    def __call__(self, x: Float[Array, "*leading {self.inputs}"]) -> Float[Array, "*leading {self.outputs}"]:
        y = matmul(x, self.weight, ()) if x.ndim == 3 else x @ self.weight.T
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def pointwise(inputs: int, outputs: int, *, key: PRNGKeyArray) -> Linear:
    """A 1x1 convolution in front of a norm: no bias, initial weights of He's scale, sqrt(2 / fan out)."""
    return Linear(inputs, outputs, bias=False, scale=(2 / outputs) ** 0.5, key=key)
