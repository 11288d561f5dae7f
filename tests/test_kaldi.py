"""The Kaldi frontend against torchaudio's and transformers' numbers, closed forms and invariances."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import error

from audax_eqx import features
from audax_eqx.frontends import KaldiFbank, ast_fbank

SMALL = {"sample_rate": 8000, "bins": 20}


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


# transformers ---------------------------------------------------------------------------------------------------------


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "transformers_ast.npz") as arrays:
        return dict(arrays)


def extractor(
    sampling_rate=16000, num_mel_bins=128, max_length=1024, do_normalize=True, mean=-4.2677393, std=4.5689974
):
    """Our frontend under the names and defaults of transformers' ASTFeatureExtractor."""
    normal = {"mean": mean, "scale": 2 * std} if do_normalize else {}
    return KaldiFbank(sampling_rate, bins=num_mel_bins, frames=max_length, **normal)


def agree(frontend, wave, expected):
    """In energy to 1e-5 of the loudest bin. The logarithm of a bin that is ten million times weaker than the loudest of
    its frame is rounding noise of the FFT: torchaudio is 1e-4 away from its own result in float64, we are less."""
    y, expected = (np.asarray(x, np.float64) for x in (jax.jit(frontend)(wave), expected))
    assert error(np.exp(frontend.scale * y), np.exp(frontend.scale * expected)) < 1e-5
    assert error(y, expected) < 2e-4
    assert np.median(np.abs(y - expected)) < 1e-6


@pytest.mark.parametrize("name", ["filled up", "cut", "not normalised"])
def test_ast_features_are_transformers(name):
    frontend = extractor(**json.loads(str(golden()[f"{name}/options"])))
    agree(frontend, golden()["wave"], golden()[f"{name}/features"])


def test_ast_features_of_the_oracle(shared):
    folder = shared / "oracles" / "ast"
    with np.load(folder / "golden.npz") as arrays:
        wave, expected = arrays["wave"], arrays["features"]
    options = json.loads((folder / "preprocessor_config.json").read_text())
    names = ("sampling_rate", "num_mel_bins", "max_length", "do_normalize", "mean", "std")
    frontend = extractor(**{name: options[name] for name in names})
    assert frontend == ast_fbank(16000)
    agree(frontend, jnp.asarray(wave), expected)
    # torchaudio's features are 1.504e-5 away from those in float64, in the weak bins of a few frames.
    # Compiled as users do, for these bins feel a fused multiplication and addition
    compiled = jax.jit(frontend, compiler_options={"xla_backend_optimization_level": 3})
    assert error(compiled(jnp.asarray(wave)), expected) < 2e-5


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": "povey", "low_freq": 60.0, "high_freq": -300.0},
        {"frame_length": 32.0, "frame_shift": 12.5, "window": "hamming", "high_freq": 3500.0},
    ],
)
def test_it_is_kaldi_fbank_normalised(options):
    wave = noise(3000)
    names = {"bins": "num_mel_bins", "window": "window_type"}
    expected = features.kaldi_fbank(
        wave,
        num_mel_bins=20,
        sample_frequency=8000,
        **{"window_type": "hanning"} | {names.get(k, k): v for k, v in options.items()},
    )
    assert error(KaldiFbank(**SMALL, **options)(wave), expected) < 1e-6
    normal = KaldiFbank(**SMALL, **options, mean=-3.0, scale=4.0)(wave)
    assert error(normal, (expected + 3.0) / 4.0) < 1e-6


def test_a_gain_is_that_of_the_samples_and_the_floor_of_silence_stays():
    wave, gain = noise(3000), KaldiFbank(**SMALL, mean=15.0, scale=13.0, gain=2.0**15)
    expected = (
        features.kaldi_fbank(32768 * wave, num_mel_bins=20, sample_frequency=8000, window_type="hanning") - 15
    ) / 13
    assert error(gain(wave), expected) < 1e-6
    loud = KaldiFbank(**SMALL)(wave) + 2 * np.log(2.0**15)
    assert error(13 * gain(wave) + 15, loud) < 1e-5
    np.testing.assert_allclose(13 * gain(jnp.zeros(1000)) + 15, np.log(np.finfo(np.float32).eps), rtol=1e-5)
    quiet = gain(1e-6 * wave)  # without the gain it would be silence
    assert error(13 * quiet + 15, loud + 2 * np.log(1e-6)) < 1e-3


@pytest.mark.parametrize("frames", [None, 5, 60])
def test_frames_of_a_recording_do_not_see_what_pads_it(frames):
    frontend = KaldiFbank(**SMALL, frames=frames)
    wave = noise(4000) * jnp.where(jnp.arange(4000) < 2039, 1.0, 100.0)
    for samples in (200, 279, 280, 2039):
        count = frontend.frames(samples)
        whole = 1 + (samples - 200) // 80
        assert count == min(whole, frames or whole) == int(jax.jit(frontend.frames)(jnp.asarray(samples)))
        padded = jax.jit(frontend)(wave, length=jnp.asarray(samples))
        np.testing.assert_allclose(padded[:count], frontend(wave[:samples])[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 36, 37, 50])
def test_frames_are_filled_up_with_zeros_or_cut_before_they_are_normalised(frames):
    wave = noise(3111)  # 37 frames of 200 samples, 80 apart, and some more
    whole = KaldiFbank(**SMALL)(wave)
    assert len(whole) == 37
    y = KaldiFbank(**SMALL, frames=frames, mean=-3.0, scale=4.0)(wave)
    assert y.shape == (frames, 20)
    assert error(y[:37], (whole[:frames] + 3.0) / 4.0) < 1e-6
    np.testing.assert_array_equal(y[37:], 0.75)


def test_silence_is_the_logarithm_of_the_floor():
    y = KaldiFbank(**SMALL, frames=5)(jnp.zeros(360))
    assert error(y, np.log(np.float32(2**-23)) * (np.arange(5) < 3)[:, None].repeat(20, 1)) < 1e-6
    assert error(KaldiFbank(**SMALL)(jnp.ones(360)), y[:3]) < 1e-6  # a constant is silence


def test_16_bits_are_higher_by_the_logarithm_of_their_power():
    wave = noise(1000)
    difference = KaldiFbank(**SMALL)(32768.0 * wave) - KaldiFbank(**SMALL)(wave)
    np.testing.assert_allclose(difference, 2 * np.log(32768), rtol=1e-5)


# Invariances ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_loop():
    waves = noise(3, 2000)
    frontend = KaldiFbank(**SMALL, frames=30)
    loop = np.stack([frontend(wave) for wave in waves])
    assert error(jax.jit(jax.vmap(frontend))(waves), loop) < 1e-5


def test_the_result_is_float32():
    frontend = KaldiFbank(**SMALL, frames=30)
    wave = noise(2000).astype(jnp.bfloat16)
    y = frontend(wave)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, frontend(wave.astype(jnp.float32)))


def test_frontends_have_no_parameters():
    assert jax.tree.leaves((KaldiFbank(**SMALL), ast_fbank(16000))) == []


@pytest.mark.parametrize("frames", [None, 3, 30])
def test_gradients_are_finite_at_silence_and_at_full_scale(frames):
    gradient = jax.jit(jax.grad(lambda wave: jnp.sum(KaldiFbank(**SMALL, frames=frames)(wave))))
    for wave in (jnp.zeros(1000), 1e-22 * noise(1000), jnp.ones(1000)):
        assert np.all(np.isfinite(gradient(wave)))
    loud = gradient(jnp.sign(noise(1000)))
    assert np.all(np.isfinite(loud)) and np.any(loud != 0)


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"frame_length": 20.0, "frame_shift": 7.5}])
def test_an_impulse_at_a_frames_time_peaks_in_that_frame(options):
    frontend = KaldiFbank(**SMALL, **options)
    for frame in (3, 7):
        sample = float(frontend.times(np.array([float(frame)]))[0]) * 8000
        assert abs(sample - round(sample)) < 1e-9
        energy = np.exp(frontend(jnp.zeros(2000).at[round(sample)].set(1.0))).sum(axis=1)
        assert np.argmax(energy) == frame


def test_times_are_a_shift_apart_and_linear_between():
    times = ast_fbank(16000).times(np.array([0.0, 0.25, 1.0, 1023.0]))
    np.testing.assert_allclose(times, [0.0125, 0.015, 0.0225, 10.2425], atol=1e-12)
    odd = KaldiFbank(11025).times(np.array([0.0, 1.0]))  # frames of 275 samples, 110 apart
    np.testing.assert_allclose(odd * 11025, [137.5, 247.5], atol=1e-9)


# Bad inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "least"), [({}, 200), ({"frame_length": 32.0, "frames": 9}, 256)])
def test_the_shortest_waveform(options, least):
    frontend = KaldiFbank(**SMALL, **options)
    assert frontend.min_samples == least
    y = frontend(noise(least))
    assert np.all(np.isfinite(y)) and len(y) == options.get("frames", 1)
    with pytest.raises(ValueError, match=rf"at least one frame, {least} samples .* got {least - 1}: pad the clip"):
        frontend(jnp.zeros(least - 1))


BAD = {
    "divides by `scale`, which must be > 0: got 0.0": {"scale": 0.0},
    "multiplies samples by `gain`, which must be finite and > 0: got -1.0": {"gain": -1.0},
    "frames of at least 1, or None for all: got frames=0": {"frames": 0},
    "0 <= low_freq < high_freq <= 4000.0 Hz, got low 5000": {"low_freq": 5000.0},
    "needs frames of 2 samples or more": {"frame_length": 0.0},
    "a shift of 1 or more": {"frame_shift": 0.05, "frames": 3},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_raise_a_sentence(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        KaldiFbank(**SMALL, **options)


def test_unknown_windows_are_named():
    with pytest.raises(ValueError, match=r"^unknown window 'mystery': expected one of 'hanning', 'hamming', "):
        KaldiFbank(**SMALL, window="mystery")


def test_wrong_shapes_are_named():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,2000\][\s\S]*'samples'"):
        KaldiFbank(**SMALL)(noise(2, 2000))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44101, 7999])
@pytest.mark.parametrize("frame_length", [25.0, 31.0])
def test_filters_at_odd_rates_are_kaldis(rate, frame_length):
    # torchaudio.compliance.kaldi.get_mel_banks: bins k rate / n_fft below rate / 2, triangles over mel
    size = int(rate * frame_length * 0.001)
    n_fft = 1 << (size - 1).bit_length()
    edges = np.linspace(*(1127 * np.log(1 + hz / 700) for hz in (20.0, rate / 2)), 22)
    mel = 1127 * np.log(1 + np.arange(n_fft // 2)[:, None] * rate / n_fft / 700)
    rise, fall = (mel - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - mel) / np.diff(edges)[1:]
    filters = np.maximum(0, np.minimum(rise, fall))
    wave = np.random.default_rng(0).normal(size=size).astype(np.float32)
    options = {"remove_dc_offset": False, "preemphasis_coefficient": 0.0, "window_type": "rectangular"}
    ours = features.kaldi_fbank(
        wave, sample_frequency=rate, frame_length=frame_length, num_mel_bins=20, use_log_fbank=False, **options
    )
    power = np.abs(np.fft.rfft(wave.astype(np.float64), n_fft)[: n_fft // 2]) ** 2
    np.testing.assert_allclose(ours[0], power @ filters, rtol=1e-3)
