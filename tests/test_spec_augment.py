"""SpecAugment's masks and resized features against the distributions that they draw from."""

import collections
import itertools

import jax
import numpy as np
import pytest
from draws import COUNT, KEYS, assert_follows, assert_independent, draws, jit, noise

from audax_eqx.augment import (
    random_resize,
    spec_augment,
)

# SpecAugment ----------------------------------------------------------------------------------------------------------


def masked(x, *, fill="mean", **options):
    """COUNT draws: where each differs from `x`; all that differs must be the mean of the valid frames, or 0."""
    y = draws(spec_augment, x, fill=fill, **options)
    changes = ~((y == np.asarray(x)[None]) | (np.isnan(y) & np.isnan(x)[None]))
    value = np.mean(x[: options.get("length")]) if fill == "mean" else 0
    np.testing.assert_allclose(y[changes], value, atol=1e-6)
    return changes


def bands(size, widest):
    """Each band within `size` positions, as a tuple of what it covers, and its probability."""
    probabilities = collections.Counter()
    for width in range(widest + 1):
        for start in range(size - width + 1):
            band = tuple(int(start <= index < start + width) for index in range(size))
            probabilities[band] += 1 / (widest + 1) / (size - width + 1)
    return probabilities


def unions(size, widest, masks):
    """The probability of each pattern that `masks` independent bands make together, by the pattern's number."""
    probability = np.zeros(2**size)
    for several in itertools.product(bands(size, widest).items(), repeat=masks):
        pattern = np.any([band for band, _ in several], axis=0)
        probability[number(pattern)] += np.prod([chance for _, chance in several])
    return probability


def number(patterns):
    """The number whose binary digits are the last axis of `patterns`."""
    return np.asarray(patterns, int) @ (2 ** np.arange(np.shape(patterns)[-1]))


def assert_unions(patterns, widest, masks):
    size = patterns.shape[1]
    assert_follows(np.bincount(number(patterns), minlength=2**size), COUNT * unions(size, widest, masks))


@pytest.mark.parametrize("masks", [1, 2, 3])
def test_masks_of_frames_follow_their_closed_form(masks):
    # The joint distribution of all frames: width, start and number of bands, and that each is drawn on its own.
    x = noise(8, 3)
    run = jit(jax.vmap(lambda n, key: spec_augment(x, time=4, freq=0, masks=masks, length=n, key=key), (None, 0)))
    for length in (8, 6, 3):
        changes = np.asarray(run(length, KEYS)) != x[None]
        np.testing.assert_array_equal(changes, np.broadcast_to(changes[:, :, :1], changes.shape))  # whole frames
        assert not changes[:, length:].any()
        assert_unions(changes[:, :length, 0], min(length, 4), masks)


@pytest.mark.parametrize(("freq", "widest"), [(3, 3), (100, 7)])
def test_masks_of_bins_follow_their_closed_form(freq, widest):
    changes = masked(noise(5, 7), time=0, freq=freq, max_share=0.1, length=4)
    np.testing.assert_array_equal(changes[:, :4], np.broadcast_to(changes[:, :1], (COUNT, 4, 7)))  # whole bins
    assert not changes[:, 4:].any()
    assert_unions(changes[:, 0], widest, 2)


def test_a_mask_of_frames_covers_at_most_a_share_of_them():
    changes = masked(noise(8, 3), time=4, freq=0, max_share=0.34, length=6)
    assert_unions(changes[:, :6, 0], 2, 2)


def test_masks_cover_each_position_as_often_as_they_should():
    changes = masked(noise(40, 9), time=15, freq=3, length=31, fill="zero")
    for hits, size, widest in ((changes[:, :31].all(axis=2), 31, 15), (changes[:, :31].all(axis=1), 9, 3)):
        one = sum(chance * np.array(band) for band, chance in bands(size, widest).items())
        expected = 1 - (1 - one) ** 2
        assert np.all(abs(hits.mean(axis=0) - expected) < 4.5 * np.sqrt(expected * (1 - expected) / COUNT))


def test_frames_bins_and_examples_are_masked_independently():
    changes = masked(noise(9, 8), time=3, freq=3, masks=1)
    frames, bins = changes.all(axis=2), changes.all(axis=1)
    np.testing.assert_array_equal(changes, frames[:, :, None] | bins[:, None, :])
    for pattern in (frames, bins):
        assert_independent(number(pattern[::2, :6]), number(pattern[1::2, :6]))
        assert_independent(pattern[::2].sum(axis=1), pattern[1::2].argmax(axis=1))
    assert_independent(frames.sum(axis=1), bins.sum(axis=1))
    assert_independent(frames.argmax(axis=1), bins.argmax(axis=1))


def test_each_example_has_its_own_length():
    lengths, x = np.arange(COUNT) % 13, noise(12, 4)
    run = jit(jax.vmap(lambda length, key: spec_augment(x, time=12, freq=2, length=length, key=key)))
    y = np.asarray(run(lengths, KEYS))
    for length in range(13):
        changes = y[lengths == length] != x[None]
        assert not changes[:, length:].any()
        assert length == 0 or changes[:, :length].any(axis=(0, 2)).all()
        np.testing.assert_allclose(y[lengths == length][changes], np.mean(x[:length]) if length else 0, atol=1e-6)


def test_padding_takes_no_part_in_the_mean():
    x = np.where(np.arange(10)[:, None] < 6, noise(10, 4), np.float32(np.nan))
    assert masked(x, time=5, freq=2, length=np.int64(6))[:, :6].any(axis=0).all()


def test_no_masks_leave_the_example_untouched():
    assert not masked(noise(10, 7), time=10, freq=7, masks=0).any()


# Resizing -------------------------------------------------------------------------------------------------------------


def boxes(time, freq):
    """A bright box of 20 x 10 in a dark picture of 100 x 40, resized by every key: its height, width and corner."""
    x = np.zeros((100, 40), np.float32)
    x[40:60, 15:25] = 1
    many = jit(jax.vmap(lambda key: random_resize(x, time=time, freq=freq, key=key)))(KEYS[:500])
    bright = np.asarray(many) > 0.5
    return bright.any(axis=2), bright.any(axis=1)


def test_resizing_stretches_by_factors_uniform_in_their_logarithm():
    in_time, in_freq = boxes(1.5, 1.25)
    whole = (~in_time[:, [0, -1]]).all(axis=1) & (~in_freq[:, [0, -1]]).all(axis=1) & in_time.any(axis=1)
    assert whole.mean() > 0.7
    frames, bins = in_time[whole].sum(axis=1) / 20, in_freq[whole].sum(axis=1) / 10
    assert 0.6 < frames.min() < 0.75 and 1.35 < frames.max() <= 1.55
    assert 0.7 <= bins.min() <= 0.9 and 1.1 <= bins.max() <= 1.3
    assert abs(np.log(frames).mean()) < 0.05 and abs(np.corrcoef(frames, bins)[0, 1]) < 0.15


def test_resizing_moves_the_picture_within_its_frame():
    in_time, _ = boxes(1.5, 1.0)
    starts = in_time.argmax(axis=1)[in_time.any(axis=1)]
    assert starts.min() < 30 and starts.max() > 50
    still_time, still_freq = boxes(1.0, 1.0)
    assert (still_time == still_time[0]).all() and still_time[0].sum() == 20 and still_freq[0].sum() == 10


def test_a_shrunk_picture_lies_on_the_mean():
    x = noise(80, 24) + 7
    y = np.asarray(jit(jax.vmap(lambda key: random_resize(x, time=2.0, freq=1.0, key=key)))(KEYS[:50]))
    ground = np.isclose(y, x.mean(), atol=1e-4).all(axis=2)
    assert ground.any() and (ground.sum(axis=1) <= 41).all()
    assert abs(y.mean() - x.mean()) < 0.2
