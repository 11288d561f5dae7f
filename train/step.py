"""One step of training: one program over a mesh of devices, which gives the same losses on any number of them.

    share of the batch --objective--> loss, gradient --mean over devices--> clip, AdamW --> parameters, moving average

`jax.shard_map` over the axis "data" gives each device a share of the batch and a copy of the parameters. BatchNorm's
statistics and the negatives of contrastive losses span the global batch. The random key of an example comes from its
place in the global batch.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray

from audax_eqx import lora, tree
from audax_eqx.layers import BatchNorm

from .data import to_float32
from .numbers import adjusts, split
from .objectives import DEVICES, Examples
from .recipe import Optimizer, Recipe

UNDECAYED = ("frontend.*", "*_embedding")  # and all vectors: norms, biases, layer scale


class Carry(NamedTuple):
    """The whole state of a run between two steps.

    `average` is the moving average of parameters and State, None for a run without one.
    """

    step: Int[Array, ""]
    parameters: Any
    frozen: Any
    state: eqx.nn.State
    moments: optax.OptState
    average: Any


def mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, all by default, with the one axis "data"."""
    order = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))  # as hosts share the batch
    return Mesh(np.array(order[:devices]), (DEVICES,), axis_types=(jax.sharding.AxisType.Auto,))


def schedule(recipe: Recipe, examples: int) -> Callable[[int], float]:
    """A function that gives the learning rate of a step from the number of steps before it."""
    optimizer, total = recipe.optimizer, recipe.total_steps(examples)
    peak = optimizer.learning_rate * recipe.data.batch / 256
    warmup = min(round(optimizer.warmup * examples / recipe.data.batch), total - 1)
    interval = recipe.steps(optimizer.decay_epochs, examples)

    def rate(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        step -= warmup
        if optimizer.schedule == "cosine":
            return peak * (1 + math.cos(math.pi * min(1, step / (total - warmup)))) / 2
        if optimizer.schedule == "constant":
            return peak
        return peak * optimizer.decay ** (step // interval if optimizer.schedule == "step" else step / interval)

    return rate


def transformation(optimizer: Optimizer, rate: optax.Schedule) -> optax.GradientTransformation:
    """Clips the gradient, updates by AdamW or SGD at that rate, and scales the updates by the factors of `rates`."""

    def decay_mask(parameters):
        labels = tree.names(parameters)
        return jax.tree.map(lambda leaf, name: leaf.ndim > 1 and not tree.matches(name, UNDECAYED), parameters, labels)

    def scale(updates, _):
        return jax.tree.map(lambda leaf, name: leaf * _factor(name, optimizer.rates), updates, tree.names(updates))

    if optimizer.method == "adamw":
        update = optax.adamw(rate, optimizer.b1, optimizer.b2, weight_decay=optimizer.weight_decay, mask=decay_mask)
    else:
        decay = optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask)
        update = optax.chain(decay, optax.sgd(rate, optimizer.b1))
    clip = optax.clip_by_global_norm(optimizer.clip) if adjusts(optimizer.clip) else optax.identity()
    return optax.chain(clip, update, optax.stateless(scale))


def _factor(name: str, rates: tuple[tuple[str, float], ...]) -> float:
    if tree.matches(name, lora.ADAPTERS):
        return 1.0  # adapters are new, like a head
    return next((factor for pattern, factor in rates if tree.matches(name, (pattern,))), 1.0)


def across(model: eqx.Module) -> eqx.Module:
    """The model with BatchNorms whose statistics span the batch of all devices."""

    def widen(norm):
        if isinstance(norm, BatchNorm):
            norm = copy.copy(norm)
            object.__setattr__(norm, "axis_name", (DEVICES, "batch"))
        return norm

    return jax.tree.map(widen, model, is_leaf=lambda node: isinstance(node, BatchNorm))


def begin(model: eqx.Module, state: eqx.nn.State, recipe: Recipe, mesh: Mesh) -> tuple[Carry, Any]:
    """The carry before the first step, on every device of the mesh, and the model without its arrays."""
    tree.check_patterns(model, tuple(pattern for pattern, _ in recipe.optimizer.rates))
    patterns, exceptions = recipe.optimizer.freeze, ()
    if recipe.model.lora:
        sum_of_layers = ("network.weights",) if recipe.model.layers == "weighted" else ()
        patterns, exceptions = (*patterns, "frontend.*", "network.*"), (*lora.ADAPTERS, *sum_of_layers)
    parameters, rest = tree.freeze(_strong(across(model)), patterns, but=exceptions)
    state = _strong(state)
    frozen, static = eqx.partition(rest, eqx.is_array)
    moments = transformation(recipe.optimizer, optax.constant_schedule(0.0)).init(parameters)
    average = jax.tree.map(jnp.copy, (parameters, state)) if recipe.optimizer.ema else None
    carry = Carry(jnp.zeros((), jnp.int32), parameters, frozen, state, moments, average)
    return jax.device_put(carry, NamedSharding(mesh, P())), static


def _strong(part: Any) -> Any:
    """The part without weak types, like that of `jnp.full(3, 0.5)`.

    A step returns strong types, so that weak ones in its first input would make it compile twice.
    """
    return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, leaf.dtype) if eqx.is_array(leaf) else leaf, part)


def trained_model(carry: Carry, static: Any) -> tuple[Any, eqx.nn.State]:
    """The model in inference mode, with its adapters merged, and its State: of the moving average if there is one."""
    parameters, state = (carry.parameters, carry.state) if carry.average is None else carry.average
    return eqx.nn.inference_mode(lora.merge(eqx.combine(parameters, carry.frozen, static))), state


def make_step(recipe: Recipe, static: Any, mesh: Mesh) -> Callable:
    """The jitted `(carry, batch, rate) -> (carry, {"loss", "gradient_norm"})`, which donates the carry's buffers.

    `batch` is a `train.data.Batch` whose leaves are `[accumulate, batch, ...]`, with the second axis sharded over the
    mesh. The rate, the seed, and the numbers of optimizer and objective are arguments of the program, so that other
    values do not compile it again.
    """
    numbers, choices = split((recipe.optimizer, recipe.objective))
    parts = recipe.run.accumulate

    def loss(parameters, frozen, state, objective, examples: Examples, keys):
        model = eqx.combine(parameters, frozen, static)
        if recipe.run.precision == "bfloat16":
            model = tree.half(model)
        return objective(model, state, examples, keys)

    def share(carry: Carry, batch, key, numbers):
        """The work of one device: the gradient and the loss, as means over all devices, and the new State."""
        _, objective = eqx.combine(numbers, choices)
        local = batch.waves.shape[1]
        place = lax.axis_index(DEVICES) * local + jnp.arange(local, dtype=jnp.int32)
        size = local * lax.axis_size(DEVICES)

        def part(sums, numbered_batch):
            (state, total, gradients), (index, batch) = sums, numbered_batch
            keys = _example_keys(jax.random.fold_in(key, carry.step), index * size + place)
            examples = Examples(to_float32(batch.waves), batch.lengths, batch.targets)
            value_and_gradient = jax.value_and_grad(loss, has_aux=True)
            (value, state), new = value_and_gradient(carry.parameters, carry.frozen, state, objective, examples, keys)
            return (state, total + value, jax.tree.map(jnp.add, gradients, new)), None

        start = (carry.state, jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, carry.parameters))
        if parts == 1:
            (state, total, gradients), _ = part(start, (jnp.int32(0), jax.tree.map(lambda leaf: leaf[0], batch)))
        else:
            (state, total, gradients), _ = lax.scan(part, start, (jnp.arange(parts, dtype=jnp.int32), batch))
        mean = jax.tree.map(lambda leaf: lax.pmean(leaf, DEVICES) / parts, (gradients, total))
        return *mean, state

    share_of_each_device = jax.shard_map(
        share, mesh=mesh, in_specs=(P(), P(None, DEVICES), P(), P()), out_specs=P(), check_vma=False
    )

    def step(carry: Carry, batch, rate, *, key, numbers) -> tuple[Carry, dict[str, Float[Array, ""]]]:
        optimizer, _ = eqx.combine(numbers, choices)
        gradients, value, state = share_of_each_device(carry, batch, jax.random.wrap_key_data(key), numbers)
        update = transformation(optimizer, lambda _: rate)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes whole numbers and floats
            updates, moments = update.update(gradients, carry.moments, carry.parameters)
        parameters = optax.apply_updates(carry.parameters, updates)
        average = carry.average
        if adjusts(optimizer.ema):
            decay = jnp.minimum(optimizer.ema, (carry.step + 1) / (carry.step + 10)).astype(jnp.float32)
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, (parameters, state))
        logs = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return Carry(carry.step + 1, parameters, carry.frozen, state, moments, average), logs

    key = jax.random.key_data(jax.random.key(recipe.run.seed + 1))  # `seed` itself draws the initial weights
    key, numbers = jax.device_put((np.asarray(key), numbers), NamedSharding(mesh, P()))
    return functools.partial(jax.jit(step, donate_argnums=0), key=key, numbers=numbers)


def _example_keys(key: PRNGKeyArray, places: Int[Array, " batch"]) -> PRNGKeyArray:
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
