"""LEAF against audax, a direct NumPy implementation in float64, and its own bounds."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error
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

from audax_eqx.frontends import LEAF
from audax_eqx.frontends import _overlap_save as overlap_save
from audax_eqx.frontends import leaf as leaf_module

SMALL = {"sample_rate": 2000, "bins": 3, "max_freq": 900.0, "key": KEY}  # windows of 51 samples every 20
PARAMETERS = ("gabor", "pooling", "alpha", "delta", "root", "smooth")
WIDTH = math.sqrt(2 * math.log(2)) / math.pi


def arrays(leaf):
    norm = leaf.compression
    return leaf.gabor, leaf.pooling, norm.alpha, norm.delta, norm.root, norm.smooth


def with_arrays(leaf, **changes):
    values = tuple(
        jnp.asarray(changes.get(name, old), old.dtype) for name, old in zip(PARAMETERS, arrays(leaf), strict=True)
    )
    return eqx.tree_at(arrays, leaf, values)


def varied(leaf, seed=0):
    """The same frontend, each parameter multiplied by its own number around 1."""
    draw = np.random.default_rng(seed)
    return with_arrays(
        leaf,
        **{
            name: old * draw.uniform(0.9, 1.0 if name == "alpha" else 1.1, old.shape)
            for name, old in zip(PARAMETERS, arrays(leaf), strict=True)
        },
    )


def direct(leaf, wave, sample_rate, window_ms=25.0, stride_ms=10.0):
    """The definition, in float64."""
    taps, stride = int(sample_rate * window_ms // 1000 + 1), int(sample_rate * stride_ms // 1000)
    gabor, pooling, alpha, delta, root, smooth = (np.asarray(array, np.float64) for array in arrays(leaf))
    alpha = np.minimum(alpha, 1)
    mu, sigma = np.clip(gabor[:, 0], 0, np.pi), np.clip(gabor[:, 1], 4 * WIDTH, taps * WIDTH)
    t, wave = np.arange(-(taps // 2), (taps + 1) // 2), np.asarray(wave, np.float64)
    padded, energies = np.pad(wave, same(len(wave), taps, 1)), []
    for m, s, p in zip(mu, sigma, np.clip(pooling, 2 / taps, 0.5), strict=True):
        gabor_filter = np.exp(1j * m * t - t**2 / (2 * s**2)) / (np.sqrt(2 * np.pi) * s)
        energy = np.abs(np.correlate(padded, np.conj(gabor_filter), "valid")) ** 2
        energy = np.pad(energy, same(len(wave), taps, stride))
        lowpass = np.exp(-0.5 * ((np.arange(taps) - (taps - 1) / 2) / (p * (taps - 1) / 2)) ** 2)
        frames = range(math.ceil(len(wave) / stride))
        energies.append([energy[k * stride : k * stride + taps] @ lowpass for k in frames])
    x = np.maximum(np.transpose(energies), 1e-5)
    mean, y = x[0], []
    for frame in x:
        mean = smooth * frame + (1 - smooth) * mean
        y.append((frame / (1e-12 + mean) ** alpha + delta) ** (1 / root) - delta ** (1 / root))
    return np.stack(y)


# The same numbers -----------------------------------------------------------------------------------------------------


def test_leaf_is_audax(shared):
    folder = shared / "oracles" / "audax"
    theirs = audax_parameters(folder / "leaf_convnext.checkpoint")
    norm = theirs["compression"]
    leaf = with_arrays(
        LEAF(16000, 64, key=KEY),
        gabor=theirs["complex_conv"]["gabor_kernel"],
        pooling=theirs["pooling"]["kernel"].ravel(),
        smooth=norm["ExponentialMovingAverage_0"]["smooth"],
        **{name: norm[name] for name in ("alpha", "delta", "root")},
    )
    with np.load(folder / "features.npz") as golden, np.load(folder / "leaf_convnext.npz") as expected:
        waves, frontend = golden["wave"], expected["frontend"]
    assert error(eqx.filter_jit(eqx.filter_vmap(leaf))(waves), frontend) < 1e-5


@pytest.mark.parametrize(("sample_rate", "bins", "samples", "milliseconds"), settings(1))
def test_leaf_is_its_definition(sample_rate, bins, samples, milliseconds):
    leaf = varied(LEAF(sample_rate, bins, max_freq=0.45 * sample_rate, key=KEY, **milliseconds))
    wave = noise(samples, seed=samples)
    assert error(run(leaf, wave), direct(leaf, wave, sample_rate, **milliseconds)) < 1e-5


def test_out_of_range_parameters_count_as_their_bounds():
    bad = with_arrays(
        LEAF(**SMALL),
        gabor=[[-1.0, 0.1], [4.0, 1e4], [1.0, -3.0]],
        pooling=[-1.0, 0.01, 3.0],
        alpha=[1.5, 1.0, 0.5],
        delta=[-2.0, 0.0, 2.0],
        root=[-1.0, 0.0, 0.5],
        smooth=[-1.0, 2.0, 0.5],
    )
    good = with_arrays(
        bad, alpha=[1.0, 1.0, 0.5], delta=[1e-3, 1e-3, 2.0], root=[1.0, 1.0, 1.0], smooth=[0.0, 1.0, 0.5]
    )
    assert error(run(bad, noise(400)), direct(good, noise(400), 2000)) < 1e-5


@pytest.mark.parametrize("needed", [1, 37, 640, 70000])
def test_blocks_cover_all_strides_in_lengths_fast_to_transform(needed):
    for taps, stride in ((51, 20), (401, 160), (1103, 441), (5, 1)):
        strides, length, blocks = overlap_save._plan(needed, taps, stride)
        assert length >= strides * stride + taps - 1 and blocks * strides >= needed > (blocks - 1) * strides
        assert 2**20 * 3**12 * 5**9 % length == 0  # no prime factor above 5


# Gradients ------------------------------------------------------------------------------------------------------------


def direct_energies(wave, filters, lowpass):
    """LEAF's energies by XLA's convolutions: what the gradients of the fast ones must be."""
    bins, layout = len(filters), ("NHC", "HIO", "NHC")
    kernel = jnp.concatenate([filters.real, filters.imag]).T[:, None]
    y = jax.lax.conv_general_dilated(wave[None, :, None], kernel, (1,), "SAME", dimension_numbers=layout)
    energy = y[..., :bins] ** 2 + y[..., bins:] ** 2
    return jax.lax.conv_general_dilated(
        energy, lowpass.T[:, None], (20,), "SAME", dimension_numbers=layout, feature_group_count=bins
    )[0]


def test_gradients_are_those_of_the_convolution():
    leaf, wave, aim = varied(LEAF(**SMALL)), noise(400), noise(20, 3, seed=1)

    def plain(both):
        leaf, wave = both
        filters, lowpass = leaf_module._gabor_filters(leaf.gabor, 51), leaf_module._lowpass(leaf.pooling, 51)
        energies = direct_energies(wave, jax.lax.complex(*filters), lowpass)
        return jnp.sum((leaf.compression(jnp.maximum(energies, 1e-5)) - aim) ** 2)

    assert_gradients_are(leaf, plain, wave, aim, arrays)


OUTSIDE = {
    "inside": {},
    "pole": {"delta": -np.ones(3)},
    "below": {
        "gabor": -5 * np.ones((3, 2)),
        "pooling": -np.ones(3),
        "alpha": -2 * np.ones(3),
        "delta": -3 * np.ones(3),
        "root": -np.ones(3),
        "smooth": -np.ones(3),
    },
    "zero": {name: np.zeros((3, 2) if name == "gabor" else 3) for name in PARAMETERS},
    "above": {name: 500 * np.ones((3, 2) if name == "gabor" else 3) for name in PARAMETERS},
}


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("loud", LOUD)
def test_gradients_are_finite_and_bounded(loud, outside):
    leaf = with_arrays(LEAF(**SMALL), **OUTSIDE[outside])
    assert_gradients_are_bounded(leaf, LOUD[loud], jnp.zeros((20, 3)))


@pytest.mark.parametrize(
    ("name", "column", "inside", "outside"),
    [
        # Not the frequency: at 0 and pi the energy is even in mu, and has no slope.
        ("gabor", 1, 3.0, 0.5),
        ("gabor", 1, 12.0, 40.0),
        ("pooling", None, 0.2, -0.5),
        ("pooling", None, 0.2, 0.9),
        ("alpha", None, 0.8, 1.2),
        ("delta", None, 0.5, -1.0),
        ("root", None, 1.5, 0.3),
        ("smooth", None, 0.2, -0.1),
        ("smooth", None, 0.2, 1.5),
    ],
)
def test_gradient_descent_brings_a_parameter_back(name, column, inside, outside):
    """Its gradient at an out-of-range value points outwards where the aim lies inside."""
    wave, start = noise(400), LEAF(**SMALL)
    column = slice(None) if column is None else column

    def at(value):
        array = np.array(dict(zip(PARAMETERS, arrays(start), strict=True))[name])
        array[..., column] = value
        return with_arrays(start, **{name: array})

    _, (gradients, _) = distance(at(outside), wave, run(at(inside), wave))
    gradient = np.asarray(arrays(gradients)[PARAMETERS.index(name)])[..., column]
    assert np.all(np.sign(gradient) == np.sign(outside - inside))


def test_no_channels_are_held_at_full_rate():
    parameters, rest = eqx.partition(LEAF(8000, 32, max_freq=3900.0, key=KEY), eqx.is_array)
    loss = lambda parameters, wave: jnp.sum(eqx.combine(parameters, rest)(wave))  # noqa: E731
    wave = jax.ShapeDtypeStruct((64000,), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(parameters, wave).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * 32 * 64000 * 8


# Types, batches and time ----------------------------------------------------------------------------------------------


def test_a_batch_is_a_loop_and_a_gradient_of_a_batch_a_sum():
    assert_a_batch_is_a_loop(varied(LEAF(**SMALL)), arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_any_floats_give_float32(dtype):
    assert_any_floats_give_float32(LEAF(**SMALL), dtype)


def test_bfloat16_parameters_compute_in_float32():
    half, wide = assert_half_precision_computes_in_float32(varied(LEAF(**SMALL)))
    gradients = jax.tree.leaves(distance(half, noise(400), jnp.zeros((20, 3)))[1][0])
    exact = jax.tree.leaves(distance(wide, noise(400), jnp.zeros((20, 3)))[1][0])
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == jnp.bfloat16 and error(ours.astype(jnp.float32), theirs) < 1e-2


@pytest.mark.parametrize("window_ms", [25.0, 25.5])
def test_times_are_the_centres_of_gravity(window_ms):
    """Over all positions of an impulse within a stride, the frames that answer it lie around it."""
    leaf = with_arrays(  # without compression: what comes out is the energy
        LEAF(**SMALL | {"window_ms": window_ms}),
        gabor=3 * [[1.5, 4.0]],
        alpha=np.zeros(3),
        delta=np.ones(3),
        root=np.ones(3),
    )
    positions, times = np.arange(200, 220), leaf.times(np.arange(20.0))
    frames = np.stack([run(leaf, jnp.zeros(400).at[position].set(100.0)) for position in positions])
    energy = frames[:, :, 0].astype(np.float64) - 1e-5
    away = times[None] - positions[:, None] / 2000
    assert np.sum(energy) > 1 and abs(np.sum(away * energy) / np.sum(energy)) * 2000 < 1e-3
    np.testing.assert_allclose(np.diff(times), 0.01)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (20, 1), (21, 2), (1000, 50), (1001, 51)])
def test_frames_cover_every_sample(samples, frames):
    assert jax.eval_shape(LEAF(**SMALL), jax.ShapeDtypeStruct((samples,), jnp.float32)).shape == (frames, 3)


# Bad inputs -----------------------------------------------------------------------------------------------------------

BAD = {
    "LEAF at 16000 Hz needs 0 <= min_freq < max_freq <= 8000.0 Hz, got min_freq 60.0 and max_freq 9000.0": {
        "max_freq": 9000.0
    },
    "got min_freq 500.0 and max_freq 400.0": {"min_freq": 500.0, "max_freq": 400.0},
    "got min_freq -1.0 and max_freq 7800.0": {"min_freq": -1.0},
    "needs at least 1, got bins=0": {"bins": 0},
    "LEAF has no init 'xavier': choose one of 'mel', 'normal', 'lecun_normal', 'kaiming_normal'": {"init": "xavier"},
    "windows of 4 samples every 160 at 16000 Hz": {"window_ms": 0.2},
    "every 0 at 16000 Hz": {"stride_ms": 0.05},
    "cannot tell 64 mel filters between 60.0 and 61.0 Hz apart": {"max_freq": 61.0},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_raise_a_sentence(message, options):
    with pytest.raises(ValueError, match=re.escape(message)):
        LEAF(16000, **{"bins": 64, "key": KEY} | options)


def test_bad_waves_raise():
    assert_bad_waves_raise(LEAF(**SMALL))
