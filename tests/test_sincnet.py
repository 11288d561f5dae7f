"""SincNet against audax, a direct NumPy implementation in float64, and its own bounds."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from learned import (
    LOUD,
    assert_a_batch_is_a_loop,
    assert_any_floats_give_float32,
    assert_bad_waves_raise,
    assert_gradients_are,
    assert_gradients_are_bounded,
    assert_half_precision_computes_in_float32,
    audax_parameters,
    distance,
    noise,
    run,
    same,
    settings,
)

from audax_eqx.frontends import SincNet

SMALL = {"sample_rate": 2000, "bins": 3}  # windows of 51 samples every 20


def arrays(sincnet):
    return sincnet.bands, sincnet.norm.weight, sincnet.norm.bias


def varied(sincnet, seed=0):
    """The same frontend, with all parameters changed."""
    draw = np.random.default_rng(seed)
    values = tuple(jnp.asarray(old * draw.uniform(0.9, 1.0, old.shape) + 0.01, jnp.float32) for old in arrays(sincnet))
    return eqx.tree_at(arrays, sincnet, values)


def with_bands(sincnet, bands):
    return eqx.tree_at(lambda sincnet: sincnet.bands, sincnet, jnp.asarray(bands, jnp.float32))


def edges(sincnet, sample_rate):
    bands = np.abs(np.asarray(sincnet.bands, np.float64))
    low = np.minimum(50 + bands[:, 0], sample_rate / 2 - 50)
    return low, np.minimum(low + 50 + bands[:, 1], sample_rate / 2)


def direct(sincnet, wave, sample_rate, window_ms=25.0, stride_ms=10.0):
    """The definition, in float64: a difference of sincs, divided by its value at 0."""
    taps, stride = int(sample_rate * window_ms // 1000 + 1), int(sample_rate * stride_ms // 1000)
    wave, columns = np.asarray(wave, np.float64), []
    t = (np.arange(taps) - (taps - 1) / 2) / sample_rate
    for low, high in zip(*edges(sincnet, sample_rate), strict=True):
        band = 2 * high * np.sinc(2 * high * t) - 2 * low * np.sinc(2 * low * t)
        band = band / (2 * (high - low)) * np.hamming(taps)
        y = np.correlate(np.pad(wave, same(len(wave), taps, 1)), band, "valid")
        y = np.pad(np.where(y < 0, 0.2 * y, y), same(len(wave), taps, stride), constant_values=-np.inf)
        columns.append([y[k * stride : k * stride + taps].max() for k in range(math.ceil(len(wave) / stride))])
    x = np.maximum(np.transpose(columns), 1e-5)
    weight, bias = (np.asarray(array, np.float64) for array in arrays(sincnet)[1:])
    mean = x.mean(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6) * weight + bias


# The same numbers -----------------------------------------------------------------------------------------------------


def test_sincnet_is_audax(shared):
    folder = shared / "oracles" / "audax"
    theirs = audax_parameters(folder / "sincnet_convnext.checkpoint")
    bands, norm = theirs["complex_conv"]["sinc_kernel"], theirs["compression"]
    start = SincNet(16000, 64)
    assert np.max(np.abs(bands / start.bands - 1)) < 0.1 + 1e-6  # the oracle's are the start, each times 0.9 to 1.1
    sincnet = eqx.tree_at(arrays, start, tuple(map(jnp.asarray, (bands, norm["scale"], norm["bias"]))))
    with np.load(folder / "features.npz") as golden, np.load(folder / "sincnet_convnext.npz") as expected:
        waves, frontend = golden["wave"], expected["frontend"]
    assert error(eqx.filter_jit(eqx.filter_vmap(sincnet))(waves), frontend) < 1e-5


@pytest.mark.parametrize(("sample_rate", "bins", "samples", "milliseconds"), settings(4))
def test_sincnet_is_its_definition(sample_rate, bins, samples, milliseconds):
    sincnet = varied(SincNet(sample_rate, bins, **milliseconds))
    wave = noise(samples, seed=samples)
    expected = direct(sincnet, wave, sample_rate, **milliseconds)
    np.testing.assert_allclose(run(sincnet, wave), expected, rtol=0, atol=2e-5)  # it is normalised


def test_the_start_is_even_in_mel():
    """Each band begins where the last one ends, before the least frequency and width are added."""
    bands = np.asarray(SincNet(22050, 40, min_low_hz=30.0, min_band_hz=20.0).bands, np.float64)
    np.testing.assert_allclose(bands[1:, 0], bands[:-1].sum(axis=1), rtol=1e-5)
    ends = np.append(bands[:, 0], bands[-1].sum())
    np.testing.assert_allclose(ends[[0, -1]], [30.0, 11025.0 - 50.0], rtol=1e-6)
    np.testing.assert_allclose(np.diff(np.log(1 + ends / 700)), np.log((700 + 10975) / 730) / 40, rtol=1e-4)


@pytest.mark.parametrize("sample_rate", [2000, 22050])
def test_bands_pass_their_own_frequencies(sample_rate):
    """At this sample rate: audax's filters would be an octave and more off."""
    sincnet = SincNet(sample_rate, 4)
    response = np.abs(np.fft.rfft(sincnet._filters(), 1 << 14, axis=1))
    hz = np.fft.rfftfreq(1 << 14, 1 / sample_rate)
    for low, high, gain in zip(*edges(sincnet, sample_rate), response, strict=True):
        band = hz[gain > 0.5 * gain[np.argmin(np.abs(hz - (low + high) / 2))]]
        np.testing.assert_allclose([band.min(), band.max()], [low, high], atol=1.5 * sample_rate / sincnet.window)


def test_bands_out_of_range_count_as_their_bounds():
    """A low edge above half the sample rate leaves the least band below it; signs do not matter."""
    sincnet = with_bands(SincNet(**SMALL), [[5000.0, 10.0], [-200.0, -300.0], [100.0, 1e9]])
    np.testing.assert_allclose(edges(sincnet, 2000), [[950.0, 250.0, 150.0], [1000.0, 600.0, 1000.0]])
    assert error(run(sincnet, noise(400)), direct(sincnet, noise(400), 2000)) < 1e-5


# Gradients ------------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_convolution():
    sincnet, wave, aim = varied(SincNet(**SMALL)), noise(400), noise(20, 3, seed=1)

    def plain(both):
        sincnet, wave = both
        kernel, layout = sincnet._filters().T[:, None], ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(wave[None, :, None], kernel, (1,), "SAME", dimension_numbers=layout)[0]
        y = jax.lax.reduce_window(jax.nn.leaky_relu(y, 0.2), -jnp.inf, jax.lax.max, (51, 1), (20, 1), "SAME")
        return jnp.sum((sincnet.norm(jnp.maximum(y, 1e-5)) - aim) ** 2)

    assert_gradients_are(sincnet, plain, wave, aim, arrays)


BANDS = {
    "start": SincNet(**SMALL).bands,
    "zero": np.zeros((3, 2)),
    "negative": -100 * np.ones((3, 2)),
    "above": 1e5 * np.ones((3, 2)),
}


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("loud", LOUD)
def test_gradients_are_finite_and_bounded(loud, bands):
    assert_gradients_are_bounded(with_bands(SincNet(**SMALL), BANDS[bands]), LOUD[loud], jnp.ones((20, 3)))


@pytest.mark.parametrize(
    ("inside", "outside", "column"),
    [
        ([830.0, 10.0], [930.0, 10.0], 0),  # a low edge above half the sample rate
        ([800.0, 50.0], [800.0, 200.0], 1),  # a high edge there
        ([40.0, 200.0], [0.0, 200.0], 0),  # the least frequency
        ([300.0, 40.0], [300.0, 0.0], 1),  # the least width
    ],
)
def test_gradients_out_of_bounds_and_on_them_lead_back(inside, outside, column):
    start = SincNet(**SMALL)
    inside, outside = (np.stack([bands, start.bands[1], start.bands[2]]) for bands in (inside, outside))
    wave = noise(400)
    _, (gradients, _) = distance(with_bands(start, outside), wave, run(with_bands(start, inside), wave))
    assert np.sign(gradients.bands[0, column]) == np.sign(outside - inside)[0, column]


# Types, batches and time ----------------------------------------------------------------------------------------------


def test_a_batch_is_a_loop_and_a_gradient_of_a_batch_a_sum():
    assert_a_batch_is_a_loop(varied(SincNet(**SMALL)), arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_any_floats_give_float32(dtype):
    assert_any_floats_give_float32(SincNet(**SMALL), dtype)


def test_bfloat16_parameters_compute_in_float32():
    assert_half_precision_computes_in_float32(varied(SincNet(**SMALL)))


@pytest.mark.parametrize("window_ms", [25.0, 5.0])
def test_times_are_the_centres_of_windows(window_ms):
    """An impulse is 1 at its own sample in every band, and less around it: windows that hold it have equal bins."""
    sincnet = SincNet(8000, 4, window_ms=window_ms)
    position, reach = np.arange(2000, 2080), sincnet.window // 2
    y = eqx.filter_jit(eqx.filter_vmap(sincnet))(np.eye(4000, dtype=np.float32)[position])
    centres = sincnet.times(np.arange(50.0)) * 8000
    away = np.abs(centres[None] - position[:, None])
    near = away < 1.5 * reach
    np.testing.assert_array_equal((np.abs(y).max(axis=2) < 1e-2)[near], (away <= reach)[near])
    np.testing.assert_allclose(np.diff(centres), 80)


def test_times_of_even_windows_are_between_samples():
    odd, even = SincNet(8000, 4, window_ms=25.0), SincNet(8000, 4, window_ms=24.9)
    assert (odd.window, even.window) == (201, 200)
    np.testing.assert_allclose(odd.times(np.array([0.0, 2.5])) * 8000, [40.0, 240.0])
    np.testing.assert_allclose(even.times(np.array([0.0, 2.5])) * 8000, [40.0, 240.0])


# Bad inputs -----------------------------------------------------------------------------------------------------------

BAD = {
    "2 min_low_hz + min_band_hz < 1000.0, got 500.0 and 50.0 Hz": {"min_low_hz": 500.0},
    "got 50.0 and 0.0 Hz": {"min_band_hz": 0.0},
    "got -1.0 and 50.0 Hz": {"min_low_hz": -1.0},
    "needs at least 1, got bins=0": {"bins": 0},
    "windows of 1 samples every 20 at 2000 Hz": {"window_ms": 0.2},
    "every 0 at 2000 Hz": {"stride_ms": 0.4},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_raise_a_sentence(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        SincNet(**SMALL | options)


def test_bad_waves_raise():
    assert_bad_waves_raise(SincNet(**SMALL))
