"""Normalisation over channels-last arrays: float32 statistics, output in the input's dtype."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .initial import full


class LayerNorm(eqx.Module):
    """Normalises over the last axis (Ba et al., 2016, arXiv:1607.06450), with any leading axes."""

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    channels: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, channels: int, *, eps: float = 1e-6):
        self.weight, self.bias = full(channels, 1.0), full(channels, 0.0)
        self.channels, self.eps = channels, eps

    def __call__(self, x: Float[Array, "*leading {self.channels}"]) -> Float[Array, "*leading {self.channels}"]:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return _affine(centred * jax.lax.rsqrt(variance + self.eps), self.weight, self.bias).astype(x.dtype)


class BatchNorm(eqx.Module):
    """Normalises over the batch and all axes but the last (Ioffe and Szegedy, 2015, arXiv:1502.03167), as torch does.

    In training mode it normalises by the biased variance of the batch and moves the running statistics by `momentum`
    towards the batch's mean and unbiased variance:

        running <- (1 - momentum) running + momentum batch

    The batch is the mapped axis `axis_name` (a name, or several): `jax.vmap(model, (0, None), (0, None),
    axis_name="batch")`. In inference mode (`eqx.nn.inference_mode`) it uses the running statistics, which live in the
    State and start at 0 and 1. The initial `weight` is `scale`. Raises RuntimeError in training mode without such an
    axis.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    running_mean: eqx.nn.StateIndex
    running_var: eqx.nn.StateIndex
    channels: int = eqx.field(static=True)
    axis_name: str | tuple[str, ...] = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    inference: bool

    def __init__(
        self,
        channels: int,
        *,
        axis_name: str | tuple[str, ...] = "batch",
        eps: float = 1e-5,
        momentum: float = 0.1,
        scale: float = 1.0,
        inference: bool = False,
    ):
        self.weight, self.bias = full(channels, scale), full(channels, 0.0)
        self.running_mean = eqx.nn.StateIndex(full(channels, 0.0))
        self.running_var = eqx.nn.StateIndex(full(channels, 1.0))
        self.channels, self.axis_name, self.eps, self.momentum = channels, axis_name, eps, momentum
        self.inference = inference

    def __call__(
        self, x: Float[Array, "*leading {self.channels}"], state: eqx.nn.State
    ) -> tuple[Float[Array, "*leading {self.channels}"], eqx.nn.State]:
        wide = x.astype(jnp.float32)
        if self.inference:
            mean, variance = state.get(self.running_mean), state.get(self.running_var)
        else:
            mean, variance, count = self._batch_statistics(wide)
            unbiased = variance * (count / max(count - 1, 1))
            state = state.set(self.running_mean, self._move(state.get(self.running_mean), mean))
            state = state.set(self.running_var, self._move(state.get(self.running_var), unbiased))
        return _normalise(x, mean, jax.lax.rsqrt(variance + self.eps), self.weight, self.bias), state

    def _batch_statistics(self, x: Float[Array, "*leading {self.channels}"]) -> tuple[Array, Array, int]:
        """The mean and the biased variance over the batch, in two passes, and the number of values of each channel."""
        inner = tuple(range(x.ndim - 1))
        try:
            count = x.size // self.channels * jax.lax.axis_size(self.axis_name)
        except NameError:
            raise RuntimeError(
                f"BatchNorm trains over a mapped axis named {self.axis_name!r} and found none: call the model as "
                f"jax.vmap(model, (0, None), (0, None), axis_name={self.axis_name!r}), or use "
                "eqx.nn.inference_mode(model)."
            ) from None
        mean = jax.lax.pmean(jnp.mean(x, axis=inner), self.axis_name)
        squares = jnp.mean(jnp.square(x - jnp.broadcast_to(mean, x.shape)), axis=inner)
        return mean, jax.lax.pmean(squares, self.axis_name), count

    def _move(self, running: Array, batch: Array) -> Array:
        return (1 - self.momentum) * running + self.momentum * jax.lax.stop_gradient(batch)


@jax.checkpoint  # the gradient computes the parts anew from `x`, which is faster than storing them
def _normalise(x: Array, mean: Array, scale: Array, weight: Array, bias: Array) -> Array:
    normal = (x.astype(jnp.float32) - jnp.broadcast_to(mean, x.shape)) * jnp.broadcast_to(scale, x.shape)
    return _affine(normal, weight, bias).astype(x.dtype)


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    scale, shift = weight.astype(jnp.float32), bias.astype(jnp.float32)
    return x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(shift, x.shape)
