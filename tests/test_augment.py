"""Augmentations against the distributions that they draw from."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from audax_eqx.augment import mixup, random_shift, spec_augment

COUNT = 4000
KEYS = jax.random.split(jax.random.key(0), COUNT)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def assert_uniform(values, choices):
    """Pearson's chi-square within five standard deviations of its mean; all `choices` values reached."""
    counts = np.bincount(values, minlength=choices)
    assert len(counts) == choices
    expected = len(values) / choices
    assert np.sum((counts - expected) ** 2 / expected) < choices - 1 + 5 * np.sqrt(2 * (choices - 1))


# Shift ----------------------------------------------------------------------------------------------------------------


def test_random_shift_rolls_by_every_offset_equally_often():
    wave = jnp.arange(16.0)
    shifted = np.asarray(jax.vmap(lambda key: random_shift(wave, key=key))(KEYS))
    first = shifted[:, 0].astype(int)
    np.testing.assert_array_equal(shifted, (first[:, None] + np.arange(16)[None]) % 16)
    assert_uniform(first, 16)


# SpecAugment ----------------------------------------------------------------------------------------------------------


def masked(x, **options):
    """COUNT draws: where each differs from `x`; all that differs must be the mean."""
    y = np.asarray(eqx.filter_jit(jax.vmap(lambda key: spec_augment(x, key=key, **options)))(KEYS))
    changed = y != np.asarray(x)[None]
    np.testing.assert_allclose(y[changed], np.mean(x), atol=1e-6)
    return changed


def probability(size, largest):
    """For each position, that a band of uniform width in 0..largest and uniform start covers it."""
    total = np.zeros(size)
    for width in range(largest + 1):
        for start in range(size - width + 1):
            total[start : start + width] += 1 / (size - width + 1)
    return total / (largest + 1)


def assert_frequencies(hits, expected):
    deviation = np.sqrt(expected * (1 - expected) / COUNT)
    assert np.all(np.abs(hits.mean(axis=0) - expected) < 4.5 * deviation)


def test_one_band_has_uniform_widths_and_starts():
    x = noise(10, 7)
    changed = masked(x, time=4, freq=0, masks=1)
    np.testing.assert_array_equal(changed, np.broadcast_to(changed[:, :, :1], changed.shape))  # whole frames
    frames = changed[:, :, 0]
    width, start = frames.sum(axis=1), frames.argmax(axis=1)
    index = np.arange(10)[None]
    np.testing.assert_array_equal(frames, (index >= start[:, None]) & (index < (start + width)[:, None]))
    assert_uniform(width, 5)
    for size in (1, 4):
        assert_uniform(start[width == size], 10 - size + 1)


def test_bands_cover_each_position_as_often_as_they_should():
    x = noise(12, 9)
    changed = masked(x, time=5, freq=3, masks=2)
    frames, bins = changed.all(axis=2), changed.all(axis=1)
    some = ~frames.all(axis=1) & ~bins.all(axis=1)
    assert some.all()
    assert_frequencies(frames, 1 - (1 - probability(12, 5)) ** 2)
    assert_frequencies(bins, 1 - (1 - probability(9, 3)) ** 2)
    np.testing.assert_array_equal(changed, frames[:, :, None] | bins[:, None, :])
    correlation = np.corrcoef(frames.sum(axis=1), bins.sum(axis=1))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(COUNT)


def test_examples_of_a_batch_are_masked_on_their_own():
    changed = masked(noise(40, 30), time=20, freq=10)
    patterns = np.unique(changed.reshape(COUNT, -1), axis=0)
    assert len(patterns) > 0.95 * COUNT


def test_no_bands_leave_the_example_untouched():
    x = noise(10, 7)
    assert not masked(x, time=0, freq=0).any()
    assert not masked(x, time=10, freq=7, masks=0).any()


def test_bands_larger_than_the_example_cover_at_most_all_of_it():
    widths = masked(noise(3, 5), time=100, freq=0, masks=1)[:, :, 0].sum(axis=1)
    assert_uniform(widths, 4)


# Mixup ----------------------------------------------------------------------------------------------------------------

BATCH = 64


@functools.cache
def draws():
    """64 draws with alpha 2: the mixed examples, and the shares and partners that mixed unit vectors tell."""
    run = jax.jit(jax.vmap(lambda key: mixup(noise(BATCH, 3, 5), jnp.eye(BATCH), alpha=2.0, key=key)))
    mixed, targets = map(np.asarray, run(KEYS[:64]))
    share = np.einsum("nii->ni", targets)
    others = targets - share[:, :, None] * np.eye(BATCH)[None]
    assert ((others > 0).sum(axis=-1) <= 1).all()
    partner = np.where(others.any(axis=-1), others.argmax(axis=-1), np.arange(BATCH)[None])
    return mixed, targets, share, partner


def test_mixup_shares_follow_the_beta_distribution():
    _, _, share, partner = draws()
    share, variance = share[partner != np.arange(BATCH)[None]], 1 / (4 * (2 * 2 + 1))
    np.testing.assert_allclose(share.mean(), 0.5, atol=4 * np.sqrt(variance / share.size))
    np.testing.assert_allclose(share.var(), variance, rtol=0.1)


def test_mixup_partners_are_a_permutation():
    partner = draws()[3]
    np.testing.assert_array_equal(np.sort(partner, axis=1), np.broadcast_to(np.arange(BATCH), partner.shape))
    assert_uniform(partner[:, :8].ravel(), BATCH)
    assert len(np.unique(partner, axis=0)) == 64


def test_mixup_is_a_convex_combination_of_examples_and_targets():
    mixed, targets, _, _ = draws()
    assert np.all(targets >= 0)
    np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed, np.einsum("nij,jkl->nikl", targets, noise(BATCH, 3, 5)), atol=1e-5)
