"""A head of normalised weights, used in the training of speaker encoders (Wang et al., 2018, arXiv:1801.05599)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import normal


class Cosine(eqx.Module):
    """`scale` times the cosine of the input vector and the weights of each output, in float32.

    The initial weights are normal with the standard deviation of Glorot and Bengio (2010).
    """

    weight: Float[Array, "outputs inputs"]
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, scale: float = 30.0, *, key: PRNGKeyArray):
        if scale <= 0.0:
            raise ValueError(f"Cosine multiplies cosines by its scale, which must be > 0: got {scale}.")
        self.weight = normal(key, (outputs, inputs), (2 / (inputs + outputs)) ** 0.5)
        self.inputs, self.outputs, self.scale = inputs, outputs, scale

    def __call__(self, x: Float[Array, " {self.inputs}"]) -> Float[Array, " {self.outputs}"]:
        return self.scale * (unit(self.weight) @ unit(x))


def unit(x: Float[Array, "*leading width"]) -> Float[Array, "*leading width"]:
    """The vectors scaled to length 1, in float32; a vector of zeros stays zeros."""
    wide = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return wide * jnp.broadcast_to(jax.lax.rsqrt(jnp.maximum(squares, 1e-12)), x.shape)
