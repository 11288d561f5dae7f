"""LEAF against audax, a direct NumPy implementation in float64, and its own bounds."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from audax_eqx import features
from audax_eqx.frontends import LEAF
from audax_eqx.frontends import _overlap_save as overlap_save
from audax_eqx.frontends import leaf as leaf_module

KEY = jax.random.key(0)
SMALL = {"sample_rate": 2000, "bins": 3, "max_freq": 900.0, "key": KEY}  # windows of 51 samples every 20
PARAMETERS = ("gabor", "pooling", "alpha", "delta", "root", "smooth")
WIDTH = math.sqrt(2 * math.log(2)) / math.pi


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


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


def same(samples, kernel, stride):
    """Zeros before and after for "SAME" padding."""
    total = max((math.ceil(samples / stride) - 1) * stride + kernel - samples, 0)
    return total // 2, total - total // 2


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


@eqx.filter_jit
def run(leaf, wave):
    return leaf(wave)


@eqx.filter_jit
def distance(leaf, wave, aim):
    """Squared distance of the features from an aim, and its gradients by the frontend and the wave."""
    loss = lambda both: jnp.sum((both[0](both[1]) - aim) ** 2)  # noqa: E731
    return eqx.filter_value_and_grad(loss)((leaf, wave))


# The same numbers -----------------------------------------------------------------------------------------------------


def audax_parameters(path):
    """The `frontend` of a Flax checkpoint."""
    msgpack = pytest.importorskip("msgpack")

    def array(code, data):
        shape, dtype, values = msgpack.unpackb(data)
        return np.frombuffer(values, dtype).reshape(shape)

    hook = lambda code, data: array(code, data) if code == 1 else data  # noqa: E731
    return msgpack.unpackb(path.read_bytes(), ext_hook=hook, strict_map_key=False)["params"]["frontend"]


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


@pytest.mark.parametrize(
    ("sample_rate", "bins", "samples", "milliseconds"),
    [
        (16000, 5, 4000, {}),
        (8000, 2, 4001, {}),
        (22050, 3, 2205, {}),  # 552 samples, an even window
        (44100, 2, 5000, {}),
        (16000, 1, 4000, {"window_ms": 5.0, "stride_ms": 10.0}),  # windows that do not touch
        (16000, 4, 3999, {"window_ms": 19.9375, "stride_ms": 5.0}),  # 320 samples, four whole strides
        (2000, 3, 1, {}),
        (2000, 3, 21, {}),
    ],
)
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

    ours, theirs = distance(leaf, wave, aim)[1], eqx.filter_jit(eqx.filter_grad(plain))((leaf, wave))
    for our, their in zip((*arrays(ours[0]), ours[1]), (*arrays(theirs[0]), theirs[1]), strict=True):
        assert np.any(their) and error(our, their) < 1e-4


LOUD = {"silence": jnp.zeros(400), "noise": noise(400), "square": jnp.sign(noise(400)), "faint": 1e-20 * noise(400)}
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
    value, gradients = distance(leaf, LOUD[loud], jnp.zeros((20, 3)))
    assert np.isfinite(value)
    for gradient in jax.tree.leaves(gradients):
        assert np.all(np.abs(gradient) < 1e6)  # which holds for no NaN


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


# The start ------------------------------------------------------------------------------------------------------------


def test_the_mel_start_of_audax(shared):
    """The oracle's parameters are the start, each times a number in [0.9, 1.1]."""
    theirs = audax_parameters(shared / "oracles" / "audax" / "leaf_convnext.checkpoint")["complex_conv"]["gabor_kernel"]
    ratio = theirs / leaf_module._mel_start(16000, 64, 60.0, 7800.0)
    assert np.all(np.abs(ratio - 1) < 0.1 + 1e-6) and np.max(np.abs(ratio - 1)) > 0.09


@pytest.mark.parametrize(
    ("sample_rate", "bins", "n_fft"), [(16000, 64, 512), (16000, 40, 512), (8000, 128, 1024), (44100, 64, 1024)]
)
def test_the_mel_start_is_its_formula(sample_rate, bins, n_fft):
    leaf = LEAF(sample_rate, bins, min_freq=60.0, key=KEY)
    taps, f_max = int(sample_rate * 25 // 1000 + 1), 7800 / 16000 * sample_rate
    root = np.sqrt(features.melscale_fbanks(n_fft // 2 + 1, 60.0, f_max, bins, sample_rate))
    centres, widths = root.argmax(axis=0), (root >= root.max(axis=0) / 2).sum(axis=0)
    np.testing.assert_allclose(leaf.gabor[:, 0], 2 * np.pi * centres / n_fft, rtol=1e-6)
    np.testing.assert_allclose(leaf.gabor[:, 1], np.clip(WIDTH * n_fft / widths, 4 * WIDTH, taps * WIDTH), rtol=1e-6)
    assert np.all(np.diff(centres) > 0)


def test_other_parameters_start_as_in_audax():
    leaf = LEAF(16000, key=KEY)
    assert leaf.bins == 64 and leaf.gabor.shape == (64, 2)
    for name, array in zip(PARAMETERS[1:], arrays(leaf)[1:], strict=True):
        expected = {"pooling": 0.4, "alpha": 0.96, "delta": 2.0, "root": 2.0, "smooth": 0.04}[name]
        np.testing.assert_array_equal(array, np.full(64, expected, np.float32))


@pytest.mark.parametrize("init", ["mel", "normal", "lecun_normal", "kaiming_normal"])
@pytest.mark.parametrize("band", [(60.0, None), (1000.0, 1100.0), (0.0, 8000.0)])
def test_filters_start_between_the_frequencies(init, band):
    leaf = LEAF(16000, 20, min_freq=band[0], max_freq=band[1], init=init, key=KEY)
    hz = np.asarray(leaf.gabor[:, 0], np.float64) * 16000 / (2 * np.pi)
    assert np.all(hz >= band[0] * (1 - 1e-6)) and np.all(hz <= (band[1] or 7800.0) * (1 + 1e-6))
    sigma = np.asarray(leaf.gabor[:, 1])
    assert np.all(sigma >= 4 * WIDTH * (1 - 1e-6)) and np.all(sigma <= 401 * WIDTH * (1 + 1e-6))
    assert len(np.unique(hz)) == 20


@pytest.mark.parametrize(("init", "deviation"), [("normal", 0.01), ("lecun_normal", 0.05), ("kaiming_normal", 0.0707)])
def test_random_starts_are_folded_normals(init, deviation):
    gabor = np.asarray(LEAF(16000, 400, min_freq=160.0, init=init, key=KEY).gabor, np.float64)
    away = gabor - np.array([2 * np.pi * 160 / 16000, 4 * WIDTH])[None]
    np.testing.assert_allclose(np.sqrt(np.mean(away**2, axis=0)), deviation, rtol=0.1)
    assert np.any(gabor != LEAF(16000, 400, min_freq=160.0, init=init, key=jax.random.key(1)).gabor)


def test_folding_is_reflection_at_both_bounds():
    draw = jnp.array([[0.25, -0.25], [1.25, 2.5], [-3.75, 0.0], [8.1, 1.0]])
    folded = leaf_module._fold(draw, np.float32([5.0, 2.0]), np.float32([6.0, 3.0]))
    np.testing.assert_allclose(folded, [[5.25, 2.25], [5.75, 2.5], [5.75 - 0.5, 2.0], [5.1, 3.0]], atol=1e-5)


@pytest.mark.parametrize("init", ["mel", "lecun_normal"])
def test_a_skeleton_has_the_shapes(init):
    leaf = eqx.filter_eval_shape(lambda key: LEAF(16000, 8, init=init, key=key), KEY)
    assert [array.shape for array in arrays(leaf)] == [(8, 2)] + [(8,)] * 5


# Types, batches and time ----------------------------------------------------------------------------------------------


def test_a_batch_is_a_loop_and_a_gradient_of_a_batch_a_sum():
    leaf, waves, aim = varied(LEAF(**SMALL)), noise(4, 400), noise(20, 3, seed=1)
    batch = lambda leaf: (y := eqx.filter_vmap(leaf)(waves), jnp.sum((y - aim[None]) ** 2))[::-1]  # noqa: E731
    gradients, y = eqx.filter_jit(eqx.filter_grad(batch, has_aux=True))(leaf)
    assert error(y, np.stack([run(leaf, wave) for wave in waves])) < 1e-5
    loop = [arrays(distance(leaf, wave, aim)[1][0]) for wave in waves]
    for ours, theirs in zip(arrays(gradients), zip(*loop, strict=True), strict=True):
        assert error(ours, np.sum(np.asarray(theirs, np.float64), axis=0)) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_any_floats_give_float32(dtype):
    leaf = LEAF(**SMALL)
    with jax.enable_x64(True):
        wave = noise(400).astype(dtype)
        y = run(leaf, wave)
    assert y.dtype == jnp.float32 and error(y, run(leaf, wave.astype(jnp.float32))) < 1e-6


def test_bfloat16_parameters_compute_in_float32():
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), varied(LEAF(**SMALL)))
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    y = run(half, noise(400))
    assert y.dtype == jnp.float32 and error(y, run(wide, noise(400))) < 1e-6
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
    leaf = LEAF(**SMALL)
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        leaf(jnp.zeros(0))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f32\[2,200\][\s\S]*'samples'"):
        leaf(noise(2, 200))
    assert leaf.min_samples == 1
