"""Squeeze-and-excitation (Hu et al., 2018, arXiv:1709.01507)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import split
from .length import Length, mean_first
from .linear import Linear
from .transformer import Activation, activate


class SqueezeExcite(eqx.Module):
    """Scales each channel by a number in (0, 1) that is a function of the means of all channels:

    x * sigmoid(expand(activation(reduce(mean over time and freq))))

    With a `length` the mean is over the first `length` steps of time only.
    """

    reduce: Linear
    expand: Linear
    channels: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        squeezed: int,
        *,
        bias: bool = True,
        activation: Activation = "silu",
        key: PRNGKeyArray,
    ):
        reduce_key, expand_key = split(key, 2)
        self.reduce = Linear(channels, squeezed, bias=bias, scale=(2 / squeezed) ** 0.5, key=reduce_key)
        self.expand = Linear(squeezed, channels, bias=bias, scale=(2 / channels) ** 0.5, key=expand_key)
        self.channels, self.activation = channels, activation

    def __call__(
        self, x: Float[Array, "time freq {self.channels}"], *, length: Length = None
    ) -> Float[Array, "time freq {self.channels}"]:
        rows = jnp.mean(x, axis=1, dtype=jnp.float32)
        mean = mean_first(rows, length).astype(x.dtype)
        scale = jax.nn.sigmoid(self.expand(activate(self.reduce(mean), self.activation)))
        return x * jnp.broadcast_to(scale, x.shape)
