"""Fine-tuning: a thawed model trains as a copy, with a fresh head or with its own."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import TINY, assert_equal_arrays, noise, seed_model

import zoo
from audax_eqx.models import Classifier
from zoo._leaves import named_leaves

clip = tiny.clip


def loss(parameters, static, state, waves):
    model = eqx.combine(parameters, static)
    outputs, state = jax.vmap(model, (0, None), (0, None), axis_name="batch")(waves, state)
    return jnp.mean(jnp.square(outputs - 1)), state


def test_thaw_trains_a_copy():
    entry = dataclasses.replace(TINY, network={**TINY.network, "depths": (1,), "widths": (8,)})
    model, state = seed_model(entry)
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    before = jax.tree.map(np.array, named_leaves(clip.model, clip.state))
    model, state = clip.thaw(classes=5, key=jax.random.key(0))
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, state, waves):
        gradients, state = jax.grad(loss, has_aux=True)(parameters, static, state, waves)
        return jax.tree.map(lambda leaf, gradient: leaf - 0.01 * gradient, parameters, gradients), state

    waves = np.stack([noise(seed=seed) for seed in range(2)])
    values, state = step(parameters, state, waves)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(parameters))
    after = named_leaves(eqx.combine(values, static), state)
    assert {name for name in before if after[name].shape != before[name].shape} == {"head.weight", "head.bias"}
    for name in ("network.input_norm.running_mean", "network.stages.0.reduce.patchify.weight", "network.norm.bias"):
        assert np.isfinite(after[name]).all()
        assert not np.array_equal(after[name], before[name]), name
    assert_equal_arrays(named_leaves(clip.model, clip.state), before)


def test_thaw_gives_a_fresh_head_and_keeps_the_rest(clip):
    model, state = clip.thaw(classes=5, key=jax.random.key(0))
    other, _ = clip.thaw(classes=5, key=jax.random.key(1))
    assert isinstance(model, Classifier)
    assert model.classes == 5
    assert not np.array_equal(model.head.weight, other.head.weight)
    ours, theirs = named_leaves(model, state), named_leaves(clip.model, clip.state)
    fresh = {"head.weight", "head.bias"}
    assert_equal_arrays(
        {name: ours[name] for name in ours.keys() - fresh}, {name: theirs[name] for name in theirs.keys() - fresh}
    )


def test_thaw_without_classes_keeps_the_head(clip):
    model, state = clip.thaw(key=jax.random.key(0))
    assert_equal_arrays(named_leaves(model, state), named_leaves(clip.model, clip.state))


def test_thaw_is_in_training_mode_and_the_clip_is_not(clip):
    model, state = clip.thaw(key=jax.random.key(0))
    assert not model.network.input_norm.inference
    assert clip.model.network.input_norm.inference
    with pytest.raises(RuntimeError, match="inference_mode"):
        model(jnp.asarray(noise()), state)


def test_a_thawed_model_saves_under_an_entry_of_its_own(clip, tmp_path):
    model, state = clip.thaw(classes=2, key=jax.random.key(0))
    entry = dataclasses.replace(TINY, name="mine", classes=2, labels=("x", "y"), metrics=())
    zoo.save(tmp_path / "mine", model, state, entry)
    other = zoo.load(tmp_path / "mine")
    assert other.entry == entry
    assert_equal_arrays(named_leaves(other.model, other.state), named_leaves(model, state))
