"""Many draws of one augmentation, and the tests of their distribution."""

import functools

import jax
import numpy as np

COUNT = 4000
KEYS = jax.random.split(jax.random.key(0), COUNT)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles twice as fast


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def draws(function, *arguments, keys=KEYS, **options):
    """`function(*arguments, key=key, **options)` for each of the keys."""
    return np.asarray(jit(jax.vmap(lambda key: function(*arguments, key=key, **options)))(keys))


def assert_follows(counts, expected):
    """Pearson's chi-square of `counts` within five standard deviations of its mean; rare events are taken together."""
    counts, expected = np.ravel(counts), np.ravel(expected)
    np.testing.assert_allclose(counts.sum(), expected.sum())
    assert not np.any(counts[expected == 0])
    often = expected >= 5
    counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    assert freedom > 0
    assert np.sum((counts - expected) ** 2 / expected) < freedom + 5 * np.sqrt(2 * freedom)


def assert_uniform(values, choices):
    """Whole numbers from 0 to `choices` - 1, each equally often."""
    counts = np.bincount(values, minlength=choices)
    assert len(counts) == choices
    assert_follows(counts, np.full(choices, len(values) / choices))


def assert_independent(a, b):
    """Contingency table of two sequences of whole numbers, against the product of their frequencies."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    assert_follows(table, table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / len(a))


def assert_uniform_between(values, low, high):
    assert values.min() >= low - 1e-3 and values.max() <= high + 1e-3
    assert_uniform(np.clip((values - low) / (high - low) * 20, 0, 19.99).astype(int), 20)
