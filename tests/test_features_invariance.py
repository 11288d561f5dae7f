"""Features of batches, in other precisions, under JAX's transformations and of bad input."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from waves import error, noise

from audax_eqx import features

FUNCTIONS = {  # of a waveform, with parameters for short clips
    "stft": lambda x: features.stft(x, 256, 100, 200),
    "spectrogram": lambda x: features.spectrogram(x, 256, 200, 100, power=1.0),
    "mel_spectrogram": lambda x: features.mel_spectrogram(x, n_fft=256, n_mels=20),
    "mfcc": lambda x: features.mfcc(x, n_mfcc=13, n_fft=256, n_mels=20),
    "kaldi_fbank": lambda x: features.kaldi_fbank(x, use_energy=True),
    "resample": lambda x: features.resample(x, 16000, 11025),
    "istft": lambda x: features.istft(features.stft(x, 256), 256),
    "phase_vocoder": lambda x: features.phase_vocoder(features.stft(x, 256), 1.3),
    "decibels and deltas": lambda x: features.compute_deltas(
        features.amplitude_to_db(features.spectrogram(x, 256), top_db=80.0)
    ),
}
VARIANTS = {
    "spectrogram, power 2": lambda x: features.spectrogram(x, 256, 200, 100),
    "spectrogram, power 0.3": lambda x: features.spectrogram(x, 256, 200, 100, power=0.3),
    "mel_spectrogram, power 1": lambda x: features.mel_spectrogram(x, n_fft=256, n_mels=20, power=1.0),
    "mfcc, log": lambda x: features.mfcc(x, n_mfcc=13, n_fft=256, n_mels=20, log_mels=True),
    "kaldi_fbank, power 1": lambda x: features.kaldi_fbank(x, use_power=False, snip_edges=False, subtract_mean=True),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


# Invariances ----------------------------------------------------------------------------------------------------------


@every_function
def test_batch_vmap_and_jit_equal_one_clip(function):
    x = noise(2, 2, 1200)
    one_by_one = np.stack([[np.asarray(function(clip)) for clip in row] for row in x])
    assert error(function(x), one_by_one) < 1e-6
    assert error(jax.jit(jax.vmap(function))(x), one_by_one) < 1e-6


def test_vmap_of_vmap_over_any_axis_equals_the_batch():
    x, function = noise(1200, 2, 3), FUNCTIONS["mel_spectrogram"]
    y = jax.vmap(jax.vmap(function, in_axes=1), in_axes=1)(x)
    assert error(y, function(np.moveaxis(x, 0, -1))) < 1e-6
    assert function(np.zeros((0, 1200), np.float32)).shape[0] == 0


@pytest.mark.parametrize("function", (FUNCTIONS | VARIANTS).values(), ids=FUNCTIONS | VARIANTS)
def test_gradients_are_finite_at_silence(function):
    def loss(x):
        y = function(x)
        return jnp.sum(y.real) + jnp.sum(y.imag) if jnp.iscomplexobj(y) else jnp.sum(y)

    silent, faint = np.zeros(1200, np.float32), noise(1200) * np.float32(1e-22)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(np.stack([silent, faint]))
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))


def test_derivatives_in_both_modes_agree():
    x, t = noise(2, 1200), noise(2, 1200, seed=1)

    def loss(x):
        return jnp.sum(jnp.log(features.mel_spectrogram(x, n_mels=20) + 1e-3))

    gradient = jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x)))(x)
    assert error(jax.jit(jax.vmap(jax.grad(loss)))(x), gradient) < 1e-5
    forward = jax.jit(jax.vmap(lambda x, t: jax.jvp(loss, (x,), (t,))[1]))(x, t)
    np.testing.assert_allclose(forward, np.sum(gradient * t, axis=1), rtol=1e-3)
    nudge = 1e-3
    with jax.enable_x64(True):
        ahead, behind = (float(loss(x.astype(np.float64) + sign * nudge * t)) for sign in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * nudge), np.sum(gradient * t), rtol=1e-2)
    curvature = jax.jit(lambda x, t: jax.jvp(jax.grad(loss), (x,), (t,))[1])(x[0], t[0])
    assert np.all(np.isfinite(curvature))


def test_runs_inside_shard_map():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, spec = jnp.asarray(noise(jax.device_count(), 1200)), jax.sharding.PartitionSpec("data")
    function = FUNCTIONS["mel_spectrogram"]
    sharded = jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=spec, out_specs=spec)
    assert error(jax.jit(sharded)(x), function(x)) < 1e-6


@every_function
def test_half_precision_is_computed_in_float32(function):
    for dtype in (jnp.float16, jnp.bfloat16):
        x = jnp.asarray(noise(1200)).astype(dtype)
        y = function(x)
        assert y.dtype in (jnp.float32, jnp.complex64)
        assert error(y, function(x.astype(jnp.float32))) == 0


@every_function
def test_float64_stays_float64(function):
    x = noise(1200)
    single = function(x)
    with jax.enable_x64(True):
        y = function(x.astype(np.float64))
    assert y.dtype in (np.float64, np.complex128)
    assert error(single, y) < 1e-4


# Bad inputs -----------------------------------------------------------------------------------------------------------

CLIP = np.zeros(1000, np.float32)


@pytest.mark.parametrize("name", ["stft", "spectrogram", "mel_spectrogram", "mfcc", "kaldi_fbank", "resample"])
def test_integers_and_complex_samples_are_refused(name):
    more = {"stft": (256,), "resample": (16000, 8000)}.get(name, ())
    message = rf"{name} takes floating-point samples in \[-1, 1\], got int16: .* divide int16 by 32768"
    with pytest.raises(TypeError, match=message):
        getattr(features, name)(np.zeros(1000, np.int16), *more)
    with pytest.raises(TypeError, match="got complex64"):
        getattr(features, name)(np.zeros(1000, np.complex64), *more)


def test_integer_and_complex_spectrograms_are_refused():
    with pytest.raises(TypeError, match="amplitude_to_db takes floating-point amplitudes or powers, got complex64"):
        features.amplitude_to_db(np.zeros((2, 2), np.complex64))
    with pytest.raises(TypeError, match="compute_deltas takes floating-point features, got int32"):
        features.compute_deltas(np.zeros((9, 2), np.int32))
    with pytest.raises(TypeError, match="apply_melscale takes floating-point magnitudes or powers, got complex64"):
        features.apply_melscale(np.zeros((9, 2), np.complex64), np.zeros((2, 1), np.float32))


BAD = {
    "reflect padding by 512 .* at least 513 values, got 300": lambda: features.stft(CLIP[:300], 1024),
    "circular padding by 512 .* at least 512": lambda: features.stft(CLIP[:300], 1024, pad_mode="circular"),
    "300 samples are less than one frame of n_fft = 1024": lambda: features.stft(CLIP[:300], 1024, center=False),
    "unknown window 'han': expected one of 'hann'": lambda: features.stft(CLIP, 256, window="han"),
    "unknown pad_mode 'mirror'": lambda: features.spectrogram(CLIP, 256, center=False, pad_mode="mirror"),
    "unknown normalized 'yes'": lambda: features.spectrogram(CLIP, 256, normalized="yes"),
    "win_length 300 is not in 1 .. n_fft = 256": lambda: features.stft(CLIP, 256, win_length=300),
    "win_length 0 is not in": lambda: features.stft(CLIP, 256, win_length=0),
    "hop_length is 0 samples": lambda: features.mel_spectrogram(CLIP, hop_length=0),
    r"a window of shape \(3,\) does not fit win_length 4": lambda: features.stft(CLIP, 256, None, 4, np.ones(3)),
    "istft with n_fft = 256 .* takes 129 freqs, got 65": lambda: features.istft(np.zeros((9, 65), np.complex64), 256),
    "istft cannot divide by the windows": lambda: features.istft(np.zeros((9, 129), np.complex64), 256, 300),
    "0 <= f_min < f_max, got f_min = 9000": lambda: features.mel_spectrogram(CLIP, f_min=9000.0),
    "unknown mel_scale 'bark'": lambda: features.melscale_fbanks(201, 0.0, None, 40, 16000, mel_scale="bark"),
    "unknown norm 'l2'": lambda: features.melscale_fbanks(201, 0.0, None, 40, 16000, norm="l2"),
    "n_freqs is 200, but n_fft = 401 has 201": lambda: features.melscale_fbanks(200, 0.0, None, 9, 16000, n_fft=401),
    "n_mfcc = 50 is not in 1 .. n_mels = 40": lambda: features.mfcc(CLIP, n_mfcc=50, n_mels=40),
    "unknown dct_type 3": lambda: features.mfcc(CLIP, dct_type=3),
    "needs 400 samples for a frame of 25.0 ms, got 300": lambda: features.kaldi_fbank(CLIP[:300]),
    "0 <= low_freq < high_freq <= 8000.0": lambda: features.kaldi_fbank(CLIP, high_freq=9000.0),
    "unknown window_type 'hann'": lambda: features.kaldi_fbank(CLIP, window_type="hann"),
    "an even FFT, got 441, 176 and 441": lambda: features.kaldi_fbank(
        CLIP, sample_frequency=17640.0, round_to_power_of_two=False
    ),
    "draws noise: give it a key": lambda: features.kaldi_fbank(CLIP, dither=1.0),
    "win_length of 3 frames or more, got 2": lambda: features.compute_deltas(np.zeros((9, 2), np.float32), 2),
    "positive frequencies in Hz, got 0 and 16000": lambda: features.resample(CLIP, 0, 16000),
    "unknown resampling_method 'linear'": lambda: features.resample(CLIP, 8000, 4000, resampling_method="linear"),
    "positive rate, got 0.0": lambda: features.phase_vocoder(np.zeros((9, 2), np.complex64), 0.0),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=BAD)
def test_bad_parameters_raise_a_sentence(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_numbers_are_numbers():
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    mel = features.mel_spectrogram(wave, n_fft=512, n_mels=8, f_min=60, f_max=7000, power=2)
    np.testing.assert_array_equal(
        features.amplitude_to_db(mel, multiplier=10, top_db=80), features.amplitude_to_db(mel, top_db=80.0)
    )
    np.testing.assert_array_equal(
        features.kaldi_fbank(wave, sample_frequency=16000, low_freq=20), features.kaldi_fbank(wave)
    )


@pytest.mark.parametrize("bands", [0, -1])
def test_no_bands_are_refused(bands):
    wave = np.zeros(4000, np.float32)
    with pytest.raises(ValueError, match=f"n_mels is {bands}"):
        features.mel_spectrogram(wave, n_mels=bands)
    with pytest.raises(ValueError, match=f"n_mfcc = {bands}"):
        features.mfcc(wave, n_mfcc=bands)
    with pytest.raises(ValueError, match=f"num_mel_bins is {bands}"):
        features.kaldi_fbank(wave, num_mel_bins=bands)
