"""LEAF's parameters as they start: by mel filters or by draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY
from learned import audax_parameters
from test_leaf import PARAMETERS, WIDTH, arrays

from audax_eqx import features
from audax_eqx.frontends import LEAF
from audax_eqx.frontends import leaf as leaf_module


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
