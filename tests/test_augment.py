"""Augmentations of waves, and mixup, against the distributions that they draw from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import COUNT, KEYS, assert_uniform, assert_uniform_between, draws, jit, noise

from audax_eqx.augment import (
    add_noise,
    gain,
    mixup,
    random_crop,
    random_resize,
    random_shift,
    random_time_stretch,
    spec_augment,
    time_stretch,
)

# Every function -------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "random_shift": random_shift,
    "random_crop": functools.partial(random_crop, samples=300, length=500),
    "gain": functools.partial(gain, low=-6, high=6),
    "add_noise": functools.partial(add_noise, low=0, high=20),
    "add_noise, recorded": functools.partial(add_noise, low=0, high=20, noise=noise(99), length=500),
    "time_stretch": lambda wave, *, key: time_stretch(wave, 1.3, 128),
    "random_time_stretch": functools.partial(random_time_stretch, low=0.8, high=1.25, n_fft=128),
    "random_resize": lambda wave, *, key: random_resize(wave.reshape(30, 20), time=1.5, freq=1.3, key=key),
    "spec_augment": lambda wave, *, key: spec_augment(wave.reshape(30, 20), time=9, freq=5, length=0, key=key),
}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("add_noise", "spec_augment")])
def test_a_batch_is_the_user_s_vmap(name):
    waves, keys = noise(3, 600), KEYS[:3]
    single = jit(lambda wave, key: FUNCTIONS[name](wave, key=key))
    batched = jit(jax.vmap(lambda wave, key: FUNCTIONS[name](wave, key=key)))(waves, keys)
    for wave, key, y in zip(waves, keys, batched, strict=True):
        np.testing.assert_allclose(y, single(wave, key), atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_dtype_is_kept(function):
    for dtype in (jnp.float32, jnp.bfloat16):
        assert jax.eval_shape(lambda wave: function(wave, key=KEYS[0]), jnp.zeros(600, dtype)).dtype == dtype


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "noise" in name or "stretch" in name or "spec" in name])
def test_gradients_are_finite_at_silence(name):
    gradient = jit(jax.grad(lambda wave: jnp.sum(FUNCTIONS[name](wave, key=KEYS[0]) ** 2)))
    for size in (0.0, 1e-25, 1.0):
        assert np.all(np.isfinite(gradient(size * noise(600))))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "at least 1, got 0", lambda x: random_crop(x, 0, key=KEYS[0])),
        (ValueError, "gain in dB .* low = 6 and high = -6", lambda x: gain(x, low=6, high=-6, key=KEYS[0])),
        (ValueError, "ratio in dB .* high = nan", lambda x: add_noise(x, low=6, high=np.nan, key=KEYS[0])),
        (ValueError, "of 0 samples", lambda x: add_noise(x, low=0, high=6, noise=x[:0], key=KEYS[0])),
        (ValueError, "positive rate.* got 0", lambda x: time_stretch(x, 0)),
        (ValueError, "positive rate.* got -1", lambda x: time_stretch(x, -1.0)),
        (ValueError, "rates .* low = 0 and", lambda x: random_time_stretch(x, low=0, high=1, key=KEYS[0])),
        (ValueError, "rates .* high = 0.5", lambda x: random_time_stretch(x, low=1, high=0.5, key=KEYS[0])),
        (ValueError, "time = 0.5 and freq", lambda x: random_resize(x[:, None], time=0.5, freq=1.0, key=KEYS[0])),
        (ValueError, "time = -1", lambda x: spec_augment(x[:, None], time=-1, freq=0, key=KEYS[0])),
        (ValueError, "share = 1.5", lambda x: spec_augment(x[:, None], time=1, freq=0, max_share=1.5, key=KEYS[0])),
        (ValueError, "got 'noise'", lambda x: spec_augment(x[:, None], time=1, freq=0, fill="noise", key=KEYS[0])),
        (ValueError, "alpha, got 0", lambda x: mixup(x[:, None], x[:, None], alpha=0, key=KEYS[0])),
        (TypeError, "got int32: one-hot", lambda x: mixup(x, np.ones((9, 2), np.int32), alpha=1, key=KEYS[0])),
        (TypeError, "got bool: one-hot", lambda x: mixup(x, np.ones((9, 2), bool), alpha=1, key=KEYS[0])),
    ],
)
def test_bad_input_gets_one_sentence(error, message, call):
    with pytest.raises(error, match=message) as raised:
        call(noise(9))
    assert "\n" not in str(raised.value)


# Shift and crop -------------------------------------------------------------------------------------------------------


def test_random_shift_rolls_by_every_offset_equally_often():
    shifted = draws(random_shift, np.arange(16.0, dtype=np.float32))
    first = shifted[:, 0].astype(int)
    np.testing.assert_array_equal(shifted, (first[:, None] + np.arange(16)[None]) % 16)
    assert_uniform(first, 16)


@pytest.mark.parametrize(("samples", "length", "offsets"), [(5, None, 12), (5, 9, 5), (16, None, 1), (1, 16, 16)])
def test_random_crop_starts_at_every_offset_equally_often(samples, length, offsets):
    crops = draws(random_crop, np.arange(16.0, dtype=np.float32), samples, length=length)
    first = crops[:, 0].astype(int)
    np.testing.assert_array_equal(crops, first[:, None] + np.arange(samples)[None])
    assert first.min() == 0 and first.max() == offsets - 1
    if offsets > 1:
        assert_uniform(first, offsets)


def test_random_crop_fills_up_a_shorter_wave_at_its_end():
    crops = draws(random_crop, np.arange(1.0, 5.0, dtype=np.float32), 7)
    np.testing.assert_array_equal(crops, np.tile([1, 2, 3, 4, 0, 0, 0], (COUNT, 1)))
    crops = draws(random_crop, np.arange(1.0, 5.0, dtype=np.float32), 3, length=2)
    np.testing.assert_array_equal(crops, np.tile([1, 2, 3], (COUNT, 1)))


def test_random_crop_takes_a_length_for_each_example():
    lengths = np.arange(COUNT) % 30 + 1
    crop = jit(jax.vmap(lambda length, key: random_crop(np.arange(30.0, dtype=np.float32), 10, length=length, key=key)))
    first = np.asarray(crop(lengths, KEYS))[:, 0]
    assert np.all(first <= np.maximum(lengths - 10, 0))
    assert all(first[lengths == length].max() == max(length - 10, 0) for length in range(1, 31))


# Gain and noise -------------------------------------------------------------------------------------------------------


def test_gain_is_uniform_in_decibels():
    wave = noise(8)
    y = draws(gain, wave, low=-12, high=3)
    factor = y[:, :1] / wave[0]
    np.testing.assert_allclose(y, factor * wave[None], rtol=1e-5)
    assert_uniform_between(20 * np.log10(factor[:, 0]), -12, 3)
    np.testing.assert_allclose(gain(wave, low=20, high=20, key=KEYS[0]), 10 * wave, rtol=1e-6)


def ratio(wave, added):
    return 10 * np.log10(np.sum(np.asarray(wave) ** 2) / np.sum(added**2, axis=-1))


def test_gaussian_noise_is_white_and_at_the_ratio_that_is_drawn():
    wave = 0.1 * noise(64, seed=1)
    added = draws(add_noise, wave, low=-5, high=20) - wave[None]
    assert_uniform_between(ratio(wave, added), -5, 20)
    unit = added / added.std(axis=1, keepdims=True)
    covariance = unit.T @ unit / COUNT
    np.testing.assert_allclose(covariance, np.eye(64), atol=6 / np.sqrt(COUNT))
    # The fourth moment of a coordinate on a sphere in n dimensions of radius sqrt(n) is 3 n / (n + 2).
    np.testing.assert_allclose(np.mean(unit**4), 3 * 64 / 66, rtol=0.03)


def test_the_ratio_is_exact():
    wave, recording, sizes = noise(500, seed=1), noise(200), np.resize(np.float32([1e-6, 1, 1e6]), COUNT)
    loud = jit(jax.vmap(lambda size, key: add_noise(wave, low=-20, high=-20, noise=size * recording, key=key)))
    np.testing.assert_allclose(ratio(wave, loud(sizes, KEYS) - wave[None]), -20, atol=1e-3)


@pytest.mark.parametrize(("recording", "offsets"), [(20, 13), (8, 1), (5, 5)])
def test_recorded_noise_is_looped_or_cut_at_every_offset_equally_often(recording, offsets):
    loop = np.arange(1, recording + 1, dtype=np.float32)
    added = draws(add_noise, np.ones(8, np.float32), low=0, high=0, noise=loop) - 1
    stretches = np.stack([loop[(start + np.arange(8)) % recording] for start in range(offsets)])
    stretches *= np.sqrt(8) / np.linalg.norm(stretches, axis=1, keepdims=True)
    distance = np.abs(added[:, None] - stretches[None]).max(axis=-1)
    assert np.all(distance.min(axis=1) < 1e-5)
    if offsets > 1:
        assert_uniform(distance.argmin(axis=1), offsets)


def test_noise_leaves_padding_and_silence_alone():
    add = jit(lambda wave, noise, length: add_noise(wave, low=3, high=3, noise=noise, length=length, key=KEYS[0]))
    wave, recording = np.where(np.arange(100) < 60, noise(100), np.float32(np.nan)), noise(40)
    y = np.asarray(add(wave, recording, 60))  # what lies in the padding takes no part
    assert np.isnan(y[60:]).all()
    np.testing.assert_allclose(ratio(wave[:60], y[:60] - wave[:60]), 3, atol=1e-3)
    for unchanged, added, length in ((wave, recording, 0), (0 * noise(100), recording, 100), (wave, 0 * recording, 60)):
        np.testing.assert_array_equal(add(unchanged, added, length), unchanged)
    gaussian = add_noise(0 * noise(100), low=0, high=0, key=KEYS[0])
    assert not np.any(gaussian)


# Time -----------------------------------------------------------------------------------------------------------------

RATE = 16000


def tone(frequency, samples):
    return (0.5 * np.sin(2 * np.pi * frequency / RATE * np.arange(samples))).astype(np.float32)


def pitch(wave):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 18))
    return spectrum.argmax() * RATE / (1 << 18)


@pytest.mark.parametrize("rate", [0.7, 1.25, 2.0])
def test_time_stretch_keeps_a_tone_s_pitch_and_loudness(rate):
    stretch = jit(functools.partial(time_stretch, rate=rate))
    for frequency in (440.0, 1234.5):
        y = np.asarray(stretch(tone(frequency, RATE)))
        assert y.shape == (round(RATE / rate),)
        middle = y[1024:-1024]
        assert abs(pitch(middle) - frequency) < 0.5
        assert abs(20 * np.log10(np.sqrt(2 * np.mean(middle**2)) / 0.5)) < 1.5


@pytest.mark.parametrize("rate", [0.8, 1.6])
def test_time_stretch_moves_what_sounds_in_time(rate):
    wave = np.concatenate([tone(500, 4000), tone(2000, 4000)])
    y = np.asarray(time_stretch(wave, rate, 512))
    change = round(4000 / rate)
    assert abs(pitch(y[: change - 500]) - 500) < 5 and abs(pitch(y[change + 500 :]) - 2000) < 5


def test_a_stretch_at_rate_one_is_the_identity():
    wave = noise(3001)
    np.testing.assert_allclose(time_stretch(wave, 1, 512, 100), wave, atol=1e-5)
    stretch = jit(functools.partial(random_time_stretch, low=1, high=1, key=KEYS[0]))
    np.testing.assert_allclose(stretch(wave), wave, atol=1e-5)


@pytest.mark.parametrize(("samples", "rate"), [(1, 0.3), (100, 1.9), (777, 0.5)])
def test_time_stretch_takes_any_length(samples, rate):
    y = time_stretch(noise(samples), rate)
    assert y.shape == (round(samples / rate),) and np.all(np.isfinite(y))


@pytest.mark.parametrize("rate", [0.8, 1.37])
def test_a_rate_at_run_time_stretches_like_a_static_one(rate):
    wave = noise(4000) * np.linspace(0, 1, 4000, dtype=np.float32)
    stretch = functools.partial(random_time_stretch, low=rate, high=rate, n_fft=256, key=KEYS[0])
    static, y = np.asarray(time_stretch(wave, rate, 256)), jit(stretch)(wave)
    assert y.shape == wave.shape
    y, shared = np.asarray(y), min(len(static), 4000) - 256  # a frame less: one of the two is cut off there
    np.testing.assert_allclose(y[:shared], static[:shared], atol=1e-3)
    assert not np.any(y[len(static) + 256 :])


def test_random_rates_are_uniform_in_their_logarithm():
    wave = np.where(np.arange(2048) < 1024, noise(2048), 0).astype(np.float32)  # sounds for 1024 / rate samples
    y = draws(random_time_stretch, wave, low=0.6, high=1.6, n_fft=64, keys=KEYS[:500])
    seconds = np.sum(np.cumsum(y**2, axis=1) < 0.98 * np.sum(y**2, axis=1, keepdims=True), axis=1)
    rate = 0.98 * 1024 / seconds
    middle = np.sqrt(0.6 * 1.6)
    assert 0.58 < rate.min() < 0.64 and 1.5 < rate.max() < 1.68
    assert abs(np.mean(rate < middle) - 0.5) < 0.06
    assert abs(np.mean(np.log(rate)) - np.log(middle)) < 0.04


# Mixup ----------------------------------------------------------------------------------------------------------------

BATCH = 64


@functools.cache
def mixtures():
    """64 draws with alpha 2: the mixed examples, and the shares and partners that mixed unit vectors tell."""
    run = jit(jax.vmap(lambda key: mixup(noise(BATCH, 3, 5), np.eye(BATCH, dtype=np.float32), alpha=2.0, key=key)))
    mixed, targets = map(np.asarray, run(KEYS[:64]))
    share = np.einsum("nii->ni", targets)
    others = targets - share[:, :, None] * np.eye(BATCH)[None]
    assert ((others > 0).sum(axis=-1) <= 1).all()
    partner = np.where(others.any(axis=-1), others.argmax(axis=-1), np.arange(BATCH)[None])
    return mixed, targets, share, partner


def test_mixup_shares_follow_the_beta_distribution():
    _, _, share, partner = mixtures()
    share, variance = share[partner != np.arange(BATCH)[None]], 1 / (4 * (2 * 2 + 1))
    np.testing.assert_allclose(share.mean(), 0.5, atol=4 * np.sqrt(variance / share.size))
    np.testing.assert_allclose(share.var(), variance, rtol=0.1)


def test_mixup_partners_are_a_permutation():
    partner = mixtures()[3]
    np.testing.assert_array_equal(np.sort(partner, axis=1), np.broadcast_to(np.arange(BATCH), partner.shape))
    assert_uniform(partner[:, :8].ravel(), BATCH)
    assert len(np.unique(partner, axis=0)) == 64


def test_mixup_is_a_convex_combination_of_examples_and_targets():
    mixed, targets, _, _ = mixtures()
    assert np.all(targets >= 0)
    np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed, np.einsum("nij,jkl->nikl", targets, noise(BATCH, 3, 5)), atol=1e-5)


def test_mixup_serves_one_label_of_many_and_many_labels():
    one = np.eye(7, dtype=np.float32)[np.arange(BATCH) % 7]
    many = (noise(BATCH, 7, seed=1) > 0).astype(np.float32)
    waves = noise(BATCH, 9)
    mix = jit(functools.partial(mixup, alpha=0.2, key=KEYS[0]))
    (mixed, targets), (same, labels) = mix(waves, one), mix(waves, many)
    np.testing.assert_array_equal(mixed, same)  # one key mixes the waves in one way
    np.testing.assert_allclose(np.sum(targets, axis=1), 1, rtol=1e-6)
    assert np.min(targets) >= 0 and np.max(targets, axis=1).min() < 0.9
    assert np.min(labels) >= 0 and np.max(labels) <= 1
    assert np.any(np.abs(np.asarray(labels) - 0.5) < 0.4)


def test_mixup_keeps_the_dtypes_of_waves_and_targets():
    mix = functools.partial(mixup, alpha=1.0, key=KEYS[0])
    mixed, targets = jax.eval_shape(mix, noise(4, 9).astype(jnp.bfloat16), np.eye(4, dtype=np.float32))
    assert mixed.dtype == jnp.bfloat16 and targets.dtype == jnp.float32
