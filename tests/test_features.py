"""Features against torchaudio's numbers, closed forms and invariances."""

import functools
import gc
import json
import pathlib
import tracemalloc
import warnings

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from audax_eqx import features
from audax_eqx.features._arrays import as_samples
from audax_eqx.features._clips import last_programs
from audax_eqx.features._resample import ResampleOptions, resample_clip, sinc_blocks

ORACLES = pathlib.Path(__file__).parents[2] / "shared" / "oracles" / "torchaudio"
CASES = json.loads((ORACLES / "cases.json").read_text())["cases"] if ORACLES.is_dir() else []


@functools.cache
def golden():
    with np.load(ORACLES / "golden.npz") as arrays:
        return dict(arrays)


def error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def tone(hz, sample_rate, seconds):
    return np.sin(2 * np.pi * hz * np.arange(round(sample_rate * seconds)) / sample_rate).astype(np.float32)


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


# torchaudio -----------------------------------------------------------------------------------------------------------


def ours(case):
    name, parameters, x = case["name"], dict(case["parameters"]), golden()[case["input"]]
    match name.rsplit("_", 1)[0]:
        case "spectrogram" | "melscale_fbanks":
            function = features.spectrogram if name.startswith("s") else features.melscale_fbanks
            return function(*([x] if name.startswith("s") else []), **parameters)
        case "mfcc":
            return features.mfcc(x, **parameters.pop("melkwargs"), **parameters)
        case "kaldi_fbank":
            return features.kaldi_fbank(x - x.mean() if name.endswith("0") else x * np.float32(32768), **parameters)
        case "time_stretch":
            n_fft, hop_length = parameters["n_fft"], parameters["hop_length"]
            advance = np.linspace(0, np.pi * hop_length, n_fft // 2 + 1, dtype=np.float32)
            return features.phase_vocoder(features.stft(x, n_fft, hop_length), parameters["rate"], advance)
        case "amplitude_to_DB":
            return features.amplitude_to_db(features.spectrogram(x, 400, hop_length=160), **parameters)
        case "compute_deltas":  # of the oracle's decibels: its input; those of near-silent bins are rounding noise
            return features.compute_deltas(golden()["amplitude_to_DB_0"], **parameters)
        case "istft":
            length = parameters.pop("length")
            return features.istft(features.stft(x, **parameters), length=length, **parameters)
        case other:  # mel_spectrogram, resample
            return getattr(features, other)(x, **parameters)


@pytest.mark.skipif(not CASES, reason="the folder ../shared with torchaudio's numbers is not here")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_agrees_with_torchaudio(case):
    tolerance = {"mfcc": 1e-4, "kald": 1e-4, "ampl": 1e-4}.get(case["name"][:4], 1e-5)
    if case["name"].startswith("time_stretch"):
        # torchaudio sums phases of up to 6e4 rad in float32, and is itself 2.9e-3 away from its result in float64.
        tolerance = 4e-3
    y = ours(case)
    assert list(y.shape) == case["shape"]
    assert error(y, golden()[case["name"]]) < tolerance


@pytest.mark.parametrize(("rate", "frames"), [(0.8, 158), (1.3, 97)])
def test_phase_vocoder_agrees_with_torchaudio_s_formula_in_float64(rate, frames):
    x = np.asarray(features.stft(noise(16000), 512, 128)).astype(np.complex128)
    advance = np.linspace(0, np.pi * 128, 257)
    times = np.arange(0, len(x), rate)
    padded = np.pad(x, ((0, 2), (0, 0)))
    now, later, fraction = padded[times.astype(int)], padded[times.astype(int) + 1], (times % 1)[:, None]
    turn = np.angle(later) - np.angle(now) - advance
    turn = turn - 2 * np.pi * np.round(turn / (2 * np.pi)) + advance
    phase = np.cumsum(np.concatenate([np.angle(x[:1]), turn[:-1]]), axis=0)
    expected = (fraction * abs(later) + (1 - fraction) * abs(now)) * np.exp(1j * phase)
    y = features.phase_vocoder(x.astype(np.complex64), rate, advance)
    assert y.shape == (frames, 257)
    assert error(y, expected) < 5e-5


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_a_tone_lies_in_its_bin():
    # 1 kHz is bin 64 of 1024 at 16 kHz; a periodic Hann window of 1024 sums up to 512, half of which is its own.
    y = features.spectrogram(tone(1000, 16000, 0.5), 1024, hop_length=160, power=1.0, center=False)
    assert np.all(np.argmax(y, axis=-1) == 64)
    np.testing.assert_allclose(y[:, 64], 256, rtol=1e-5)


def test_parseval():
    x = noise(4096)
    y = features.spectrogram(x, 256, hop_length=256, window="rectangular", center=False, onesided=False)
    np.testing.assert_allclose(np.sum(y, axis=-1) / 256, np.sum(x.reshape(16, 256) ** 2, axis=-1), rtol=1e-5)


@pytest.mark.parametrize(("n_fft", "win_length", "onesided"), [(256, 256, True), (256, 101, True), (255, 130, False)])
def test_stft_is_the_fourier_transform_of_centred_windows(n_fft, win_length, onesided):
    x, hop = noise(1000), 77
    window = np.zeros(n_fft)
    window[(n_fft - win_length) // 2 :][:win_length] = np.hanning(win_length + 1)[:-1]
    padded = np.pad(x.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.stack([padded[t : t + n_fft] for t in range(0, len(padded) - n_fft + 1, hop)]) * window
    expected = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    assert error(features.stft(x, n_fft, hop, win_length, onesided=onesided), expected) < 1e-6


@pytest.mark.parametrize(
    ("window", "n_fft", "win_length", "hop_length"),
    [
        ("hann", 256, 256, 64),
        ("hamming", 200, 150, 37),
        ("blackman", 255, 99, 20),
        ("kaiser", 256, 200, 40),
        ("povey", 100, 80, 13),
        ("bartlett", 129, 128, 32),
        ("rectangular", 64, 64, 64),
    ],
)
def test_istft_inverts_stft(window, n_fft, win_length, hop_length):
    x = noise(2, 1501)
    settings = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length, "window": window}
    settings["normalized"] = n_fft % 2 == 0
    y = features.istft(features.stft(x, **settings), length=1480, **settings)
    np.testing.assert_allclose(y, x[:, :1480], atol=3e-5)


def test_istft_gives_the_length_that_is_asked_for():
    x = noise(1024)
    spectrum = features.stft(x, 256)
    assert features.istft(spectrum, 256).shape == (1024,)
    np.testing.assert_allclose(features.istft(spectrum, 256, length=700), x[:700], atol=1e-5)
    longer = features.istft(spectrum, 256, length=2000)
    assert longer.shape == (2000,) and np.all(longer[1200:] == 0)


def test_windows_by_name_and_by_array_agree():
    x, array = noise(1000), np.hanning(201)[:-1]
    named = features.stft(x, 256, 100, 200)
    assert error(features.stft(x, 256, 100, window=array), named) == 0
    assert error(features.stft(x, 256, 100, 200, jnp.asarray(array, jnp.float32)), named) < 1e-6
    symmetric = features.stft(x, 256, 100, 200, np.hanning(200))
    assert error(features.stft(x, 256, 100, 200, periodic=False), symmetric) == 0


def test_mel_filters_partition_the_frequencies():
    fbanks = features.melscale_fbanks(513, 0.0, 8000.0, 40, 16000)
    centres = np.argmax(fbanks, axis=0)
    np.testing.assert_allclose(fbanks[centres[0] + 1 : centres[-1]].sum(axis=1), 1, atol=1e-5)
    slaney = features.melscale_fbanks(4097, 0.0, 8000.0, 40, 16000, "slaney", "slaney")
    np.testing.assert_allclose(slaney.sum(axis=0) * 8000 / 4096, 1, rtol=0.01)  # unit area, in Hz


def mel_filters(points, hz):
    """Triangles with their corners at `hz`, in NumPy."""
    rise, fall = (points[:, None] - hz[:-2]) / np.diff(hz)[:-1], (hz[2:] - points[:, None]) / np.diff(hz)[1:]
    return np.maximum(0, np.minimum(rise, fall))


@pytest.mark.parametrize("rate", [16000, 11025, 22050, 44101, 7999])
@pytest.mark.parametrize("n_fft", [512, 400, 401, 1023])
def test_mel_filters_follow_each_library_at_odd_rates_and_sizes(rate, n_fft):
    def edges(f_max):
        return 700 * (10 ** (np.linspace(0, np.log10(1 + f_max / 700), 22)) - 1)

    # torchaudio.transforms.MelScale(20, rate, n_stft=n_fft // 2 + 1).fb and librosa.filters.mel(sr=rate, n_fft=n_fft,
    # n_mels=20, htk=True, norm=None).T
    torchaudio = mel_filters(np.linspace(0, rate // 2, n_fft // 2 + 1), edges(float(rate // 2)))
    librosa = mel_filters(np.fft.rfftfreq(n_fft, 1 / rate), edges(rate / 2))
    size = n_fft // 2 + 1
    np.testing.assert_allclose(features.melscale_fbanks(size, 0.0, None, 20, rate), torchaudio, atol=1e-4)
    exact = features.melscale_fbanks(size, 0.0, None, 20, rate, dtype="float64", n_fft=n_fft)
    np.testing.assert_allclose(exact, librosa, atol=1e-6)
    wave = noise(2 * n_fft)
    spectrum = np.asarray(features.spectrogram(wave, n_fft))
    for dtype, filters in {"float32": torchaudio, "float64": librosa}.items():
        mel = features.mel_spectrogram(wave, rate, n_fft, n_mels=20, fbanks_dtype=dtype)
        assert error(mel, spectrum @ filters) < 2e-5


def test_mel_filters_are_a_cached_read_only_array():
    fbanks = features.melscale_fbanks(257, 0.0, None, 40, 16000)
    assert isinstance(fbanks, np.ndarray) and fbanks.dtype == np.float32 and not fbanks.flags.writeable
    assert features.melscale_fbanks(257, 0.0, None, 40, 16000) is fbanks
    np.testing.assert_array_equal(features.melscale_fbanks(257, 0.0, 8000.0, 40, 16000), fbanks)


def test_empty_mel_filters_warn_once():
    with pytest.warns(UserWarning, match="of 100 mel filters are empty .* use fewer mel bins, a larger n_fft"):
        features.mel_spectrogram(noise(1000), n_fft=256, n_mels=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features.mel_spectrogram(noise(1000), n_fft=256, n_mels=100)


def test_mfcc_is_an_orthonormal_transform():
    x = noise(4000)
    log_mel = jnp.log(features.mel_spectrogram(x, n_mels=40) + 1e-6)
    y = features.mfcc(x, n_mfcc=40, n_mels=40, log_mels=True)
    np.testing.assert_allclose(jnp.sum(y**2, axis=-1), jnp.sum(log_mel**2, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(y[:, 0], log_mel.sum(axis=-1) / np.sqrt(40), rtol=1e-4, atol=1e-4)


def test_apply_melscale_is_the_second_half_of_mel_spectrogram():
    x, fbanks = noise(2, 1200), features.melscale_fbanks(129, 0.0, None, 20, 16000)
    y = features.apply_melscale(features.spectrogram(x, 256), fbanks)
    assert error(y, features.mel_spectrogram(x, n_fft=256, n_mels=20)) < 1e-6


def test_amplitude_to_db():
    np.testing.assert_allclose(features.amplitude_to_db(np.float32([1.0, 100.0, 0.0])), [0, 20, -100], atol=1e-4)
    np.testing.assert_allclose(features.amplitude_to_db(np.float32([10.0]), 20.0, db_multiplier=1.0), [0], atol=1e-4)
    x = np.stack([np.float32([[1.0, 1e-9]]), np.float32([[1e-6, 1e-9]])])  # two spectrograms of 1 x 2
    np.testing.assert_allclose(features.amplitude_to_db(x, top_db=20.0), [[[0, -20]], [[-60, -80]]], atol=1e-4)


def test_deltas_of_a_constant_are_zero_and_of_a_ramp_its_slope():
    assert np.all(features.compute_deltas(np.full((20, 3), 7.1, np.float32)) == 0)
    ramp = np.arange(20, dtype=np.float32)[:, None] * 0.5
    np.testing.assert_allclose(features.compute_deltas(ramp, 7)[3:-3], 0.5, rtol=1e-6)
    ends = [features.compute_deltas(ramp, mode=mode) for mode in ("edge", "replicate")]
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize(("orig", "new"), [(16000, 8000), (44100, 16000), (8000, 11025), (16000, 16800)])
@pytest.mark.parametrize("method", ["sinc_interp_hann", "sinc_interp_kaiser"])
def test_resampling_keeps_a_tone(orig, new, method):
    y = features.resample(tone(500, orig, 0.5), orig, new, lowpass_filter_width=32, resampling_method=method)
    assert y.shape == (-(-new // 2),)
    np.testing.assert_allclose(y[500:-500], tone(500, new, 0.6)[: len(y)][500:-500], atol=2e-3)


@pytest.mark.parametrize("samples", [1, 50, 441, 1000])
def test_resampling_gives_the_ceiling_of_the_length(samples):
    assert features.resample(noise(samples), 44100, 16000).shape == (-(-160 * samples // 441),)
    assert features.resample(noise(samples), 16000, 16000).shape == (samples,)


@pytest.mark.parametrize(
    ("orig", "new"), [(16000, 15999), (15999, 16000), (44100, 16000), (8000, 44100), (16000, 14880), (7, 5), (1, 300)]
)
def test_resampling_is_a_windowed_sinc(orig, new):
    x = noise(600).astype(np.float64)
    with jax.enable_x64(True):  # in float32 torchaudio's rounding of the times moves samples by up to 3e-5
        y = np.asarray(features.resample(x, orig, new))
    some = np.arange(0, len(y), 37)
    cutoff = 0.99 * min(orig, new) / orig
    t = np.clip((some[:, None] * (orig / new) - np.arange(600)) * cutoff, -6, 6)
    assert error(y[some], (np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * cutoff) @ x) < 1e-9


def test_resampling_tables_do_not_grow_with_the_ratio():
    for orig, new in [(160, 159), (16000, 15999), (44100, 44101), (48000, 15999), (15999, 48000)]:
        samples = 10 * new
        tracemalloc.start()
        _, filters, *_ = sinc_blocks(ResampleOptions(orig, new), samples, "float32")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        outputs, taps = len(filters) * filters.shape[2], 13 * max(1, orig / new)
        assert filters.size < 4 * outputs * taps and peak < 100e6
        assert outputs < new + 128
    short = sinc_blocks(ResampleOptions(44100, 44101), 100, "float32")[1]
    assert short.nbytes < 30_000  # a short clip needs no whole period


def programs():
    gc.collect()
    return len(jax.extend.backend.get_backend().live_executables())


def test_rates_that_never_come_again_leave_nothing_behind():
    x, before = noise(400), programs()
    for rate in range(1000, 1012):
        features.resample(x, rate, 2000)
    assert programs() <= before + 8  # of 12


def test_lengths_that_never_come_again_leave_nothing_behind():
    each_clip = last_programs(3)
    x, before = noise(2000), programs()
    for cut in range(6):
        each_clip(resample_clip, ResampleOptions(3, 2), as_samples(x[cut:], "resample"))
    assert programs() <= before + 3  # `jnp.asarray` would have compiled one more for each shape


def test_kaldi_frames_and_energy():
    x = noise(16000) * 1000
    assert features.kaldi_fbank(x).shape == (98, 23)
    assert features.kaldi_fbank(x, snip_edges=False).shape == (100, 23)
    plain = {"remove_dc_offset": False, "energy_floor": 0.0}
    y = features.kaldi_fbank(x, use_energy=True, **plain)
    np.testing.assert_allclose(y[0, 0], np.log(np.sum(x[:400] ** 2)), rtol=1e-6)
    np.testing.assert_array_equal(features.kaldi_fbank(x, use_energy=True, htk_compat=True, **plain)[:, -1], y[:, 0])
    assert np.abs(features.kaldi_fbank(x, subtract_mean=True).mean(axis=0)).max() < 1e-4


def test_kaldi_dither_is_noise_of_that_size():
    silence, keys = np.zeros(16000, np.float32), jax.random.split(jax.random.key(0))
    y = [features.kaldi_fbank(silence, dither=2.0, use_energy=True, key=key)[:, 0] for key in keys]
    np.testing.assert_allclose(y[0], np.log(400 * 4), atol=0.5)
    assert np.abs(y[0] - y[1]).max() > 0.01


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
