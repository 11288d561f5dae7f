"""Whisper and wav2vec 2.0 and its kin against transformers' numbers, and padding that has no part in a result."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error, noise
from speech import BODY, MODELS, SMALL, outputs, seeded

import zoo
from audax_eqx import networks
from audax_eqx.frontends import LogMel, Wav2Vec
from audax_eqx.models import Classifier, Encoder
from audax_eqx.networks import ConvNeXt, Wav2Vec2

FOLDERS = ("wav2vec2_base", "wav2vec2_large", "wav2vec2_classifier", "hubert_base", "hubert_large", "hubert_classifier")
FOLDERS += ("wavlm_base", "wavlm_large", "wavlm_xvector", "data2vec")
WHISPERS = ("whisper_80", "whisper_128", "whisper_80_classifier", "whisper_128_classifier")

PARAMETERS = {  # of transformers' models, without the frontend and the vector that training masks frames with
    "whisper_tiny": 8_208_384,
    "whisper_base": 20_590_592,
    "whisper_small": 88_154_112,
    "whisper_medium": 307_216_384,
    "whisper_large": 636_784_640,
    "whisper_large_v3": 636_968_960,
    "wav2vec2_base": 90_170_496,
    "wav2vec2_large": 311_227_520,
    "xls_r_1b": 958_285_952,
    "xls_r_2b": 2_155_047_552,
    "wavlm_base": 90_180_720,
    "wavlm_large": 311_245_504,
    "data2vec_audio_base": 88_956_928,
    "data2vec_audio_large": 309_068_800,
}


@functools.cache
def oracle(folder):
    """What the zoo loads, and the golden arrays."""
    return zoo.load(folder), dict(np.load(folder / "golden.npz"))


@functools.cache
def noise_behind(samples):
    return 10 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("name", FOLDERS)
def test_speech_models_are_transformers(shared, name):
    ours, golden = oracle(shared / "oracles" / name)
    for clip, longer in (("b", False), ("a", True), ("c", True)):  # padding is one more way to the same numbers
        wave, length = golden[f"wave_{clip}"], None
        if longer:
            length = jnp.asarray(wave.size)
            wave = np.concatenate([wave, noise_behind(40000 - wave.size)])
        _, layers, last, embedding, output = outputs(ours.model, ours.state, jnp.asarray(wave), length)
        for index, layer in enumerate(layers):
            theirs = golden[f"hidden_{clip}_{index}"]
            assert longer or len(theirs) == len(layer)
            assert error(layer[: len(theirs)], theirs) < 1e-5
        assert f"hidden_{clip}_{len(layers)}" not in golden
        if f"last_{clip}" in golden:
            assert error(last[: len(theirs)], golden[f"last_{clip}"]) < 1e-5
            assert error(embedding, golden[f"last_{clip}"].mean(axis=0)) < 1e-5
            assert error(output, embedding) < 1e-6
        else:
            assert error(output, golden[f"logits_{clip}"]) < 1e-5
        if f"xvector_{clip}" in golden:
            assert error(embedding, golden[f"xvector_{clip}"]) < 1e-5


@pytest.mark.parametrize("name", WHISPERS)
def test_whisper_is_transformers(shared, name):
    ours, golden = oracle(shared / "oracles" / name)
    for clip in ("short", "long"):
        wave = jnp.asarray(golden[f"wave_{clip}"])
        x, layers, last, embedding, output = outputs(ours.model, ours.state, wave)
        assert error(x.T, golden[f"input_{clip}"]) < 1e-4  # 80 dB below the maximum their float32 is as rough
        if f"logits_{clip}" in golden:
            assert error(output, golden[f"logits_{clip}"]) < 1e-5
            continue
        assert error(layers[1][::25], golden[f"hidden_{clip}_1"]) < 1e-5
        assert error(last[::25], golden[f"last_{clip}"]) < 1e-5
        assert error(jnp.mean(last, axis=0), golden[f"mean_{clip}"]) < 1e-5
        np.testing.assert_array_equal(layers[-1], last)
        steps = min(-(-wave.size // 320), 1500)
        assert error(embedding, np.asarray(last)[:steps].mean(axis=0)) < 1e-5


# Sizes ----------------------------------------------------------------------------------------------------------------


def parameters(build):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter_eval_shape(build, key=KEY)) if hasattr(leaf, "size"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_numbers_of_parameters(name):
    assert parameters(getattr(networks, name)) == PARAMETERS[name]


def test_published_numbers_of_parameters_of_the_convolutional_encoder():
    assert parameters(Wav2Vec) == 4_200_448
    assert parameters(functools.partial(Wav2Vec, norm="layer")) == 4_206_592
    assert parameters(functools.partial(Wav2Vec, norm="layer", bias=True)) == 4_210_176


# Padding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_padding_has_no_part_in_a_result(name):
    model, state = seeded(name)
    assert model.takes_length
    whole = noise(6000, seed=1) * jnp.where(jnp.arange(6000) < 3333, 0.1, 100.0)  # loud in the padding
    alone, longer = outputs(model, state, whole[:3333]), outputs(model, state, whole, jnp.asarray(3333))
    for ours, theirs in zip(*map(jax.tree.leaves, (longer, alone)), strict=True):
        assert error(ours[: len(theirs)], theirs) < 1e-5
    assert error(outputs(model, state, whole, jnp.asarray(6000))[4], alone[4]) > 1e-2


def test_lengths_of_a_batch_are_traced():
    model, state = seeded("base")
    lengths = jnp.asarray([700, 3333, 6000])
    waves = noise(3, 6000)
    run = eqx.filter_jit(eqx.filter_vmap(lambda model, wave, n: model(wave, state, length=n)[0], in_axes=(None, 0, 0)))
    for output, wave, length in zip(run(model, waves, lengths), waves, lengths, strict=True):
        assert error(output, outputs(model, state, wave, length)[4]) < 1e-5


def test_padding_has_no_gradient():
    model, state = seeded("base")
    slope = eqx.filter_jit(jax.grad(lambda wave: jnp.sum(model(wave, state, length=2000)[0])))(noise(3000))
    assert np.all(np.isfinite(slope)) and np.any(slope[:2000]) and not np.any(slope[2000:])


def test_a_model_that_cannot_tell_padding_says_so():
    wave = noise(16000)
    for frontend, network, name in (
        (LogMel(16000, bins=8), ConvNeXt((0,), (4,), key=KEY), "ConvNeXt behind LogMel"),
        (LogMel(16000, bins=8), Wav2Vec2(8, 0, 2, **BODY, key=KEY), "Wav2Vec2 behind LogMel"),
        (Wav2Vec(**SMALL, key=KEY), ConvNeXt((0,), (4,), key=KEY), "ConvNeXt behind Wav2Vec"),
    ):
        for model in (Encoder(frontend, network, key=KEY), Classifier(frontend, network, 3, key=KEY)):
            assert not model.takes_length and model.valid(16000) == {}
            with pytest.raises(ValueError, match=rf"{name} takes no length|LogMel takes no length"):
                eqx.filter_eval_shape(model, wave, eqx.nn.State(model), length=16000)


def test_the_frames_that_count_are_those_of_the_recording():
    model, _ = seeded("base")
    assert model.valid(2000) == {} and model.valid(2000, 100)["length"] == 4  # frames of samples 0-29, ..., 60-89
    model, _ = seeded("whisper")
    assert [int(model.valid(samples)["length"]) for samples in (1, 160, 161, 9440)] == [1, 1, 2, 59]
    assert model.valid(9441) == model.valid(99999) == {}
