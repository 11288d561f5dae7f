"""Per-channel energy normalisation: the function, the layer, the bound on its parameters and the frontend."""

import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from arrays import error
from learned import noise

from audax_eqx import features
from audax_eqx.features._time import running_mean_parallel, running_mean_scan
from audax_eqx.frontends import PCEN
from audax_eqx.layers import EnergyNorm, bounded

SMALL = {"sample_rate": 8000, "bins": 20, "n_fft": 256, "hop_length": 80}
NAMES = ("alpha", "delta", "root", "smooth")
pytestmark = pytest.mark.filterwarnings("ignore:.* mel filters are empty")


def energies(*shape, seed=0):
    """From 1e-8 to 1e4."""
    return (10.0 ** np.random.default_rng(seed).uniform(-8, 4, shape)).astype(np.float32)


def direct(x, alpha=0.98, delta=2.0, root=2.0, smooth=0.025, floor=1e-6):
    """The definition of one clip, frame by frame, in float64."""
    x = np.asarray(x, np.float64)
    mean, y = x[0], []
    for frame in x:
        mean = (1 - smooth) * mean + smooth * frame
        y.append((frame / (floor + mean) ** alpha + delta) ** (1 / root) - delta ** (1 / root))
    return np.stack(y)


def per_bin(bins, seed=0):
    draw = np.random.default_rng(seed)
    low, high = np.array([[0.5, 0.5, 1.0, 0.01], [1.0, 3.0, 4.0, 0.5]])[..., None]
    return dict(zip(NAMES, draw.uniform(low, high, (4, bins)), strict=True))


# The function ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (50, 4)])
def test_pcen_is_its_definition(shape):
    x = energies(*shape)
    assert error(features.pcen(x), direct(x)) < 1e-5
    numbers = {"alpha": 0.8, "delta": 10.0, "root": 4.0, "smooth": 0.3, "floor": 1e-3}
    assert error(features.pcen(x, **numbers), direct(x, **numbers)) < 1e-5
    arrays = per_bin(shape[1])
    assert error(features.pcen(x, **arrays), direct(x, **arrays)) < 1e-5


def test_pcen_takes_leading_axes_and_one_number_as_an_array():
    x = energies(2, 3, 20, 4)
    y = features.pcen(x, smooth=np.array([0.2], np.float32))
    for index in np.ndindex(2, 3):
        assert error(y[index], direct(x[index], smooth=0.2)) < 1e-5


def test_pcen_of_a_constant_is_its_closed_form_from_the_first_frame():
    """M starts at the first frame, and not at 0 or 1."""
    y = np.asarray(features.pcen(np.full((30, 2), 5.0, np.float32), alpha=0.5, delta=3.0, root=2.0))
    np.testing.assert_allclose(y, np.sqrt(5.0 / np.sqrt(5.0 + 1e-6) + 3.0) - np.sqrt(3.0), rtol=1e-5)


def test_pcen_takes_any_floats():
    x = energies(30, 4)
    with jax.enable_x64(True):
        wide = features.pcen(x.astype(np.float64), **per_bin(4))
        assert wide.dtype == jnp.float64 and error(wide, direct(x, **per_bin(4))) < 1e-12
    half = features.pcen(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.float32 and error(half, direct(x.astype(jnp.bfloat16))) < 1e-5


@pytest.mark.parametrize("shape", [(1, 3), (11, 2, 3)])
def test_the_accelerators_running_mean_is_the_cpus(shape):
    x, weights = jnp.asarray(energies(*shape)), noise(*shape)
    smooth = jnp.array([0.0, 0.04, 1.0])

    def both(running_mean):
        loss = lambda x, smooth: jnp.sum(weights * running_mean(x, smooth))  # noqa: E731
        return running_mean(x, smooth), *jax.jit(jax.grad(loss, (0, 1)))(x, smooth)

    theirs = both(running_mean_scan)
    for ours, expected in zip(both(running_mean_parallel), theirs, strict=True):
        assert np.all(np.isfinite(expected))
        np.testing.assert_allclose(ours, expected, atol=2e-6 * np.max(np.abs(expected)))


def test_pcen_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match=r"got floor = 0.0: it must be > 0"):
        features.pcen(energies(3, 2), floor=0.0)
    with pytest.raises(ValueError, match=r"got \(0, 2\): give it one frame"):
        features.pcen(np.zeros((0, 2), np.float32))
    with pytest.raises(TypeError, match="pcen takes floating-point energies, got int32"):
        features.pcen(np.ones((3, 2), np.int32))
    with pytest.raises(jaxtyping.TypeCheckError, match="alpha"):
        features.pcen(energies(3, 2), alpha=np.ones(3, np.float32))


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_bounded_is_a_clip():
    x = jnp.array([-jnp.inf, -2.0, -1.0, 0.5, 3.0, 4.0])
    np.testing.assert_array_equal(bounded(x, -1.0, 3.0), [-1.0, -1.0, -1.0, 0.5, 3.0, 3.0])
    np.testing.assert_array_equal(bounded(x, -1.0, float("inf")), [-1.0, -1.0, -1.0, 0.5, 3.0, 4.0])


@pytest.mark.parametrize("up", [1.0, -1.0])
def test_the_gradient_of_bounded_is_cut_where_a_step_would_lead_out(up):
    """A step goes against the gradient: down for `up` = 1."""
    x = jnp.array([-2.0, -1.0, 0.5, 3.0, 4.0])
    gradient = jax.grad(lambda x: jnp.sum(up * bounded(x, -1.0, 3.0)))(x)
    np.testing.assert_array_equal(gradient, [0, 0, 1, 1, 1] if up > 0 else [-1, -1, -1, 0, 0])


def test_descent_stays_at_a_bound_and_returns_from_outside():
    aim, x = jnp.array([-5.0, 0.0, 0.5, 5.0]), jnp.array([-1.0, -4.0, 6.0, 3.0])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum((bounded(x, -1.0, 3.0) - aim) ** 2)))
    for _ in range(100):
        x = x - 0.1 * gradient(x)
    np.testing.assert_allclose(x, [-1.0, 0.0, 0.5, 3.0], atol=1e-3)


# The layer ------------------------------------------------------------------------------------------------------------


def with_parameters(norm, values):
    get = lambda norm: [getattr(norm, name) for name in NAMES]  # noqa: E731
    return eqx.tree_at(get, norm, [jnp.asarray(values[name], jnp.float32) for name in NAMES])


@pytest.mark.parametrize("leading", [(), (2,)])
def test_the_layer_is_the_function_with_its_parameters(leading):
    norm, x = EnergyNorm(4, floor=1e-3), jnp.asarray(energies(*leading, 30, 4))
    assert error(norm(x), features.pcen(x, floor=1e-3)) < 1e-6
    values = per_bin(4)
    expected = features.pcen(x, **{name: value.astype(np.float32) for name, value in values.items()}, floor=1e-3)
    assert error(with_parameters(norm, values)(x), expected) < 1e-6


def test_out_of_range_parameters_count_as_their_bounds():
    norm = EnergyNorm(2)
    bad = with_parameters(norm, {"alpha": [2.0, 1.5], "delta": [-1.0, 0.0], "root": [-3.0, 0.5], "smooth": [-1.0, 7.0]})
    x = energies(30, 2)
    expected = direct(x, 1.0, 1e-3, 1.0, np.array([0.0, 1.0]))
    assert error(bad(jnp.asarray(x)), expected) < 1e-5


def test_gradients_are_finite():
    gradients = eqx.filter_jit(eqx.filter_grad(lambda both: jnp.sum(both[0](both[1]))))
    for value, scale in itertools.product([-2.0, 0.0, 1.0, 100.0, "pole"], [0.0, 1e-30, 1.0, 1e6]):
        values = (
            {"alpha": 1.0, "delta": -1.0, "root": 2.0, "smooth": 0.0}
            if value == "pole"
            else dict.fromkeys(NAMES, value)
        )
        norm = with_parameters(EnergyNorm(3), {name: np.full(3, value) for name, value in values.items()})
        for gradient in jax.tree.leaves(gradients((norm, jnp.asarray(scale * energies(20, 3), jnp.float32)))):
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.1}, "keeps alpha in [-inf, 1.0], got 1.1"),
        ({"delta": 0.0}, "keeps delta in [0.001, inf], got 0.0"),
        ({"root": 0.5}, "keeps root in [1.0, inf], got 0.5"),
        ({"smooth": 2.0}, "keeps smooth in [0.0, 1.0], got 2.0"),
    ],
)
def test_a_start_out_of_bounds_raises(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EnergyNorm(3, **options)


# The frontend ---------------------------------------------------------------------------------------------------------


def test_the_frontend_is_pcen_of_the_mel_spectrogram():
    wave, options = noise(2000), {"f_min": 100.0, "f_max": 3500.0, "mel_scale": "slaney", "norm": "slaney"}
    frontend = PCEN(**SMALL, win_length=200, **options, time_constant=0.2)
    mel = features.mel_spectrogram(
        wave, 8000, n_fft=256, win_length=200, hop_length=80, n_mels=20, **options, fbanks_dtype="float64"
    )
    smooth = float(frontend.compression.smooth[0])
    np.testing.assert_allclose(20**2 * smooth**2 + smooth, 1.0, rtol=1e-5)  # librosa's, of 20 frames
    assert error(frontend(wave), direct(mel, smooth=smooth)) < 1e-5
    values = {name: value.astype(np.float32) for name, value in per_bin(20).items()}
    changed = eqx.tree_at(lambda f: f.compression, frontend, with_parameters(frontend.compression, values))
    assert error(changed(wave), direct(mel, **values)) < 1e-5


def test_the_start_takes_most_of_the_level_away():
    """Twenty decibels change the features by the hundredth power that alpha leaves, and by no more."""
    frontend, wave = PCEN(16000), noise(8000)
    y, loud = np.asarray(frontend(wave)), np.asarray(frontend(10 * wave))
    assert frontend.bins == 64 and y.shape == (26, 64)
    assert 1.0 < np.mean(loud) / np.mean(y) < 100**0.02 * 1.01
    assert np.max(np.abs(frontend(jnp.zeros(8000)))) < 1e-6


def test_a_batch_is_a_loop():
    frontend, waves = PCEN(**SMALL), noise(3, 2000)
    loop = np.stack([frontend(wave) for wave in waves])
    assert error(eqx.filter_jit(eqx.filter_vmap(frontend))(waves), loop) < 1e-5


def test_bfloat16_parameters_and_any_wave_give_float32():
    frontend = PCEN(**SMALL)
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), frontend)
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    wave = noise(2000).astype(jnp.bfloat16)
    assert half(wave).dtype == jnp.float32 and error(half(wave), wide(wave.astype(jnp.float32))) < 1e-6


def test_gradients_of_the_frontend_are_finite():
    gradients = eqx.filter_jit(eqx.filter_grad(lambda both: jnp.sum(both[0](both[1]))))
    for wave in (jnp.zeros(1000), 1e-20 * noise(1000), jnp.sign(noise(1000))):
        for gradient in jax.tree.leaves(gradients((PCEN(**SMALL), wave))):
            assert np.all(np.isfinite(gradient))


def test_an_impulse_at_a_frames_time_peaks_in_that_frame():
    frontend = PCEN(**SMALL)
    same = {"alpha": np.zeros(20), "delta": np.ones(20), "root": np.ones(20), "smooth": np.ones(20)}
    frontend = eqx.tree_at(lambda f: f.compression, frontend, with_parameters(frontend.compression, same))
    for frame in (3, 7):
        sample = float(frontend.times(np.array([float(frame)]))[0]) * 8000
        energy = np.asarray(frontend(jnp.zeros(2000).at[round(sample)].set(1.0))).sum(axis=1)
        assert np.argmax(energy) == frame
        np.testing.assert_allclose(energy[frame - 1], energy[frame + 1], rtol=1e-3)
    np.testing.assert_allclose(frontend.times(np.array([0.0, 0.5, 10.0])), [0.0, 0.005, 0.1])


BAD = {
    "got time_constant=0.0 and hop_length=80": {"time_constant": 0.0},
    "got time_constant=0.4 and hop_length=0": {"hop_length": 0},
    "0 <= f_min < f_max, got f_min = 5000": {"f_min": 5000.0},
    "n_mels is 0": {"bins": 0},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_raise_a_sentence(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        PCEN(**SMALL | options)


def test_bad_waves_raise():
    frontend = PCEN(**SMALL)
    assert np.all(np.isfinite(frontend(noise(frontend.min_samples))))
    with pytest.raises(ValueError, match=r"at least 129 samples \(0.016 s at 8000 Hz\), got 128: pad the clip"):
        frontend(noise(128))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,2000\][\s\S]*'samples'"):
        frontend(noise(2, 2000))
