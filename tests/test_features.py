"""Features against torchaudio's numbers and closed forms."""

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
from waves import error, noise, tone

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
    longer = np.pad(x, ((0, 2), (0, 0)))
    now, later, fraction = longer[times.astype(int)], longer[times.astype(int) + 1], (times % 1)[:, None]
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
    longer = np.pad(x.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.stack([longer[t : t + n_fft] for t in range(0, len(longer) - n_fft + 1, hop)]) * window
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


def test_mel_filters_beyond_half_the_rate_name_f_max():
    with pytest.warns(UserWarning, match=r"mel filters are empty .*: f_max is 20000\.0 Hz, more than half the sample"):
        features.melscale_fbanks(201, 0.0, 20000.0, 40, 16000)


def test_mel_filters_without_width_are_refused():
    with pytest.raises(ValueError, match=r"from 1000\.0 to 1000\.0001 Hz have the same edges in float32"):
        features.melscale_fbanks(201, 1000.0, 1000.0001, 40, 16000)


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


def test_an_empty_clip_is_empty_at_any_rate():
    assert features.resample(np.zeros((2, 0), np.float32), 2, 1).shape == (2, 0)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda: features.resample(noise(100), 2, 1, rolloff=0.0), r"rolloff is 0\.0: it must be more than 0"),
        (lambda: features.istft(jnp.ones((3, 129), jnp.complex64), 256, length=-5), "got -5: it must be at least 0"),
        (lambda: features.istft(jnp.ones((0, 129), jnp.complex64), 256), "istft takes at least 1 frame"),
        (lambda: features.compute_deltas(noise(1, 4), mode="reflect"), "a smaller win_length, or mode='replicate'"),
        (lambda: features.compute_deltas(noise(9, 4), mode="none"), "mode"),
    ],
)
def test_options_that_make_no_sense_are_refused(function, sentence):
    with pytest.raises(ValueError, match=sentence):
        function()
