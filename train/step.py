"""One step of training on one device."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from audax_eqx.models import Classifier

from .objectives import supervised
from .recipe import Recipe

Carry = tuple[Any, eqx.nn.State, optax.OptState]


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with linear warm-up and cosine decay; norms, biases and layer scale (all vectors) are not decayed."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup * steps_per_epoch, recipe.epochs * steps_per_epoch
    )

    def decayed(parameters):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)

    adamw = optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def make_step(recipe: Recipe, update: optax.GradientTransformation, static: Classifier) -> Callable[..., tuple]:
    """The jitted `(carry, waves, targets, key) -> (carry, loss)`, where `carry` is parameters, state and optimizer's.

    `static` is the model without its arrays, as `eqx.partition` gives it.
    """

    def loss(parameters, state, waves, targets, key):
        return supervised(eqx.combine(parameters, static), state, waves, targets, recipe, key=key)

    def step(
        carry: Carry, waves: Float[Array, "batch samples"], targets: Float[Array, "batch classes"], key: PRNGKeyArray
    ) -> tuple[Carry, Float[Array, ""]]:
        parameters, state, moments = carry
        (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, state, waves, targets, key)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes whole numbers and floats
            updates, moments = update.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), state, moments), value

    return jax.jit(step, donate_argnums=0)
