"""The methods of a pretrained model: the waves that they take and the arrays that they give."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import SAMPLES, TINY, difference, noise

clip = tiny.clip


def test_the_model_computes_in_bfloat16_when_its_parameters_are(clip):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), eqx.filter(clip.model, eqx.is_array))
    half = eqx.combine(half, eqx.filter(clip.model, eqx.is_array, inverse=True))
    cast = eqx.tree_at(lambda each: each.model, clip, half)
    wave = noise()
    assert cast.embed(wave).dtype == cast.frames(wave).dtype == jnp.bfloat16
    assert cast(wave).dtype == jnp.float32
    for method in ("__call__", "embed", "frames"):
        ours, theirs = (np.asarray(getattr(each, method)(wave), np.float32) for each in (cast, clip))
        assert 0 < np.abs(ours - theirs).max() / np.abs(theirs).max() < 3e-2


def test_shapes_and_dtypes_of_what_a_model_gives(clip):
    wave = noise()
    for array, shape in ((clip(wave), (3,)), (clip.embed(wave), (16,)), (clip.frames(wave), (3, 16))):
        assert isinstance(array, jax.Array)
        assert (array.shape, array.dtype) == (shape, jnp.float32)
    assert (clip.sample_rate, clip.labels) == (16000, ("a", "b", "c"))


def test_logits_are_the_head_of_the_embedding(clip):
    head = clip.model.head
    logits = np.asarray(head.weight, np.float64) @ np.asarray(clip.embed(noise())) + np.asarray(head.bias)
    assert difference(clip(noise()), logits) < 1e-5


def test_the_embedding_pools_the_frames(clip):
    frames = np.asarray(clip.frames(noise()), np.float64)
    pooled = frames.mean(axis=0) + frames.max(axis=0)
    norm = clip.model.network.norm
    normal = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-6)
    assert difference(clip.embed(noise()), normal * np.asarray(norm.weight) + np.asarray(norm.bias)) < 1e-4


def test_probabilities_of_a_multiclass_model_are_a_softmax(clip):
    probabilities, logits = np.asarray(clip.probabilities(noise())), np.asarray(clip(noise()), np.float64)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_probabilities_of_a_multilabel_model_are_a_sigmoid_each(clip):
    many = eqx.tree_at(lambda tree: tree.model.head.bias, clip, clip.model.head.bias + 1)
    many = dataclasses.replace(many, entry=dataclasses.replace(TINY, task="multilabel"))
    logits = np.asarray(many(noise()), np.float64)
    np.testing.assert_allclose(many.probabilities(noise()), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_top_ranks_the_labels(clip):
    probabilities = np.asarray(clip.probabilities(noise()))
    top = clip.top(noise(), k=2)
    assert top == [("abc"[index], float(probabilities[index])) for index in np.argsort(-probabilities)[:2]]
    assert clip.top(noise())[:2] == top
    assert len(clip.top(noise())) == 3


@pytest.mark.parametrize("k", [0, -1])
def test_top_of_no_labels_raises(clip, k):
    with pytest.raises(ValueError, match=f"at least 1, got {k}"):
        clip.top(noise(), k=k)


def test_classes_without_labels_are_numbered(clip):
    unnamed = dataclasses.replace(clip, entry=dataclasses.replace(TINY, labels=()))
    assert unnamed.labels == ("class 0", "class 1", "class 2")


def test_frame_times_are_the_centres_of_32_hops(clip):
    times = clip.frame_times(len(clip.frames(noise())))
    np.testing.assert_allclose(times, [0.155, 0.475, 0.795], rtol=1e-6)
    assert (np.diff(clip.frame_times(100)) > 0).all()


def test_a_click_moves_the_frame_whose_time_is_nearest(clip):
    quiet = noise() * 1e-3
    for index, seconds in enumerate(clip.frame_times(3)):
        loud = quiet.copy()
        centre = round(seconds * 16000)
        loud[centre - 400 : centre + 400] += noise(800, seed=1)
        change = np.abs(clip.frames(loud) - clip.frames(quiet)).sum(axis=1)
        assert np.argmax(change) == index


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floating_point_samples_are_taken(clip, dtype):
    wave = noise().astype(dtype)
    np.testing.assert_array_equal(clip(wave), clip(wave.astype(np.float32)))


def test_jax_arrays_are_taken(clip):
    np.testing.assert_array_equal(clip(jnp.asarray(noise())), clip(noise()))


@pytest.mark.parametrize("level", [0.0, 1.0, 1e-30])
def test_constant_waves_give_finite_outputs(clip, level):
    wave = np.full(SAMPLES, level, np.float32)
    for output in (clip(wave), clip.embed(wave), clip.frames(wave), clip.probabilities(wave)):
        assert np.isfinite(output).all()


def test_the_shortest_wave_gives_finite_outputs(clip):
    assert np.isfinite(clip(noise(clip.model.frontend.min_samples))).all()


@pytest.mark.parametrize("method", ["__call__", "probabilities", "top", "embed", "frames"])
@pytest.mark.parametrize(
    "wave, kind, fault",
    [
        (np.zeros((2, SAMPLES), np.float32), ValueError, r"mono.*\(2, 16000\).*average the channels.*filter_vmap"),
        (np.zeros((SAMPLES, 2), np.float32), ValueError, r"mono.*\(16000, 2\).*average the channels"),
        (np.zeros(()), ValueError, r"mono.*\(\)"),
        (np.zeros(SAMPLES, np.int16), TypeError, r"floating-point.*int16.*32768"),
        (np.zeros(SAMPLES, bool), TypeError, r"floating-point.*bool"),
        (np.zeros(SAMPLES, np.complex64), TypeError, r"floating-point.*complex64"),
        (np.zeros(0, np.float32), ValueError, r"257 samples.*got 0.*pad"),
        (np.zeros(256, np.float32), ValueError, r"257 samples \(0\.016 s at 16000 Hz\).*got 256.*pad"),
        (np.full(SAMPLES, np.nan, np.float32), ValueError, r"finite.*16000 NaN or infinite ones of 16000.*nan_to_num"),
        (np.append(np.zeros(SAMPLES - 1), np.inf), ValueError, r"finite.*got 1 NaN or infinite ones of 16000"),
        ([0.0] * SAMPLES, TypeError, r"NumPy or JAX array.*a list.*zoo\.read\(path, 16000\)"),
        ("dog.wav", TypeError, r"NumPy or JAX array.*a str.*zoo\.read\(path, 16000\)"),
        (None, TypeError, r"NumPy or JAX array.*a NoneType"),
    ],
    ids=[
        "batch",
        "stereo",
        "scalar",
        "int16",
        "bool",
        "complex",
        "empty",
        "short",
        "nan",
        "inf",
        "list",
        "path",
        "none",
    ],
)
def test_what_is_no_clip_raises_with_the_remedy(clip, method, wave, kind, fault):
    with pytest.raises(kind, match=fault):
        getattr(clip, method)(wave)


def test_samples_beyond_float32_are_not_finite(clip):
    with pytest.raises(ValueError, match="finite"):
        clip(np.full(SAMPLES, 1e300))


@pytest.mark.parametrize("method", ["__call__", "probabilities", "top", "embed", "frames"])
def test_another_sample_rate_raises_with_the_remedy(clip, method):
    call = getattr(clip, method)
    fault = (
        r"tiny takes waves at 16000 Hz, got sample_rate=44100.*zoo\.read\(path, 16000\).*resample\(wave, 44100, 16000\)"
    )
    with pytest.raises(ValueError, match=fault):
        call(noise(), sample_rate=44100)
    with jax.debug_nans(True):
        call(noise(), sample_rate=16000)


def test_a_mapped_model_equals_the_loop(clip):
    waves = np.stack([noise(seed=seed) for seed in range(3)])
    together = eqx.filter_jit(eqx.filter_vmap(clip.embed))(waves)
    assert difference(together, [clip.embed(wave) for wave in waves]) < 1e-5
