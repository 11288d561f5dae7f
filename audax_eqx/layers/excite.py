"""Squeeze-and-excitation (Hu et al., 2018, arXiv:1709.01507)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import split
from .linear import Linear


class SqueezeExcite(eqx.Module):
    """Scales each channel by a number in (0, 1) that follows from the means of all channels:

    x * sigmoid(expand(silu(reduce(mean over time and freq))))
    """

    reduce: Linear
    expand: Linear
    channels: int = eqx.field(static=True)

    def __init__(self, channels: int, squeezed: int, *, bias: bool = True, key: PRNGKeyArray):
        reduce_key, expand_key = split(key, 2)
        self.reduce = Linear(channels, squeezed, bias=bias, scale=(2 / squeezed) ** 0.5, key=reduce_key)
        self.expand = Linear(squeezed, channels, bias=bias, scale=(2 / channels) ** 0.5, key=expand_key)
        self.channels = channels

    def __call__(self, x: Float[Array, "time freq {self.channels}"]) -> Float[Array, "time freq {self.channels}"]:
        mean = jnp.mean(x, axis=(0, 1), dtype=jnp.float32).astype(x.dtype)
        scale = jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean))))
        return x * jnp.broadcast_to(scale, x.shape)
