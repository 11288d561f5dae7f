"""Stochastic depth (Huang et al., 2016, arXiv:1603.09382), and the keys of modules with dropout."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class DropPath(eqx.Module):
    """Drops a whole residual branch of one example with probability `rate`; otherwise divides it by `1 - rate`.

    `eqx.nn.inference_mode` turns it off. Raises ValueError for a rate outside [0, 1), and RuntimeError in training
    mode without a `key`.
    """

    rate: float = eqx.field(static=True)
    inference: bool

    def __init__(self, rate: float = 0.0, *, inference: bool = False):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath takes a rate in [0, 1), got {rate}.")
        self.rate, self.inference = rate, inference

    def __call__(self, x: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        if self.inference or self.rate == 0.0:
            return x
        if key is None:
            raise RuntimeError("DropPath trains with a random key: pass key=..., or use eqx.nn.inference_mode(model).")
        keep = jax.random.bernoulli(key, 1.0 - self.rate)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def split_key(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """A key for each of `count` parts; None for each where `key` is None, as in inference."""
    return [None] * count if key is None else list(jax.random.split(key, count))
