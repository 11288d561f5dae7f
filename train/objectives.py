"""Objectives: a model and a batch in, a loss out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import audax_eqx
from audax_eqx.models import Classifier

from .recipe import Recipe


def supervised(
    model: Classifier,
    state: eqx.nn.State,
    waves: Float[Array, "batch samples"],
    targets: Float[Array, "batch classes"],
    recipe: Recipe,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], eqx.nn.State]:
    """Mean cross-entropy with label smoothing, mixup of the waves and SpecAugment between frontend and network.

    `targets` are rows of class probabilities. Every clip is rolled to a random start first.
    """
    mix_key, keys = _first_and_rest(key, len(waves))
    targets = optax.smooth_labels(targets, recipe.label_smoothing)
    if recipe.mixup > 0.0:
        waves, targets = audax_eqx.augment.mixup(waves, targets, alpha=recipe.mixup, key=mix_key)

    def logits(wave, state, key):
        shift_key, mask_key, network_key = jax.random.split(key, 3)
        x = model.listen(audax_eqx.augment.random_shift(wave, key=shift_key))
        x = audax_eqx.augment.spec_augment(x, time=recipe.mask_frames, freq=recipe.mask_bins, key=mask_key)
        return model.classify(x, state, key=network_key)

    over_batch = jax.vmap(logits, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")
    predictions, state = over_batch(waves, state, keys)
    return jnp.mean(optax.softmax_cross_entropy(predictions, targets)), state


def _first_and_rest(key: PRNGKeyArray, count: int) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    first, rest = jax.random.split(key)
    return first, jax.random.split(rest, count)
