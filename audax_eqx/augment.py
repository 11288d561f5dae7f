"""Augmentations of one example or of a batch, as pure functions of a random key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def random_shift(wave: Float[Array, " samples"], *, key: PRNGKeyArray) -> Float[Array, " samples"]:
    """The clip, rolled around its end by a number of samples drawn uniformly: every offset is equally likely."""
    return jnp.roll(wave, jax.random.randint(key, (), 0, wave.size))


def spec_augment(
    x: Float[Array, "frames bins"],
    *,
    time: int,
    freq: int,
    masks: int = 2,
    key: PRNGKeyArray,
) -> Float[Array, "frames bins"]:
    """Masks `masks` bands of frames and as many of bins with the mean of `x` (Park et al., 2019, arXiv:1904.08779).

    Each band draws its width uniformly from 0 to `time` frames (`freq` bins), then its start from all that fit.
    """
    frames, bins = x.shape
    time_key, freq_key = jax.random.split(key)
    masked = _bands(frames, time, masks, time_key)[:, None] | _bands(bins, freq, masks, freq_key)[None, :]
    return jnp.where(masked, jnp.mean(x), x)


def _bands(size: int, largest: int, count: int, key: PRNGKeyArray) -> Array:
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count, 1), 0, min(largest, size) + 1)
    starts = jax.random.randint(start_key, (count, 1), jnp.zeros_like(widths), size - widths + 1)
    index = jnp.arange(size)[None, :]
    return jnp.any((index >= starts) & (index < starts + widths), axis=0)


def mixup(
    waves: Float[Array, "batch ..."],
    targets: Float[Array, "batch classes"],
    *,
    alpha: float,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch classes"]]:
    """Mixes each example, and its target, with another of the batch (Zhang et al., 2018, arXiv:1710.09412).

    Each example draws its own share from Beta(alpha, alpha), and its partner from a random permutation.
    """
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, (waves.shape[0],))
    partner = jax.random.permutation(partner_key, waves.shape[0])
    return _mixed(waves, partner, share), _mixed(targets, partner, share)


def _mixed(x: Array, partner: Int[Array, " batch"], share: Float[Array, " batch"]) -> Array:
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return share * x + (1 - share) * x[partner]
