"""The affine map over the last axis: a dense layer on vectors, a 1x1 convolution on channels-last maps."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import full, normal


class Linear(eqx.Module):
    """`y = x W^T + b` over the last axis, any leading axes. `weight` is (out, in), as in Equinox and torch.

    Weights start normal with standard deviation `scale`, the bias at zero.
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
        y = x @ self.weight.T
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def pointwise(inputs: int, outputs: int, *, key: PRNGKeyArray) -> Linear:
    """A 1x1 convolution in front of a normalisation: no bias, weights start at He's scale, sqrt(2 / fan out)."""
    return Linear(inputs, outputs, bias=False, scale=(2 / outputs) ** 0.5, key=key)
