"""Whisper and wav2vec 2.0 and its kin against transformers' numbers, and padding that has no part in a result."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.seeded import fill

import zoo
from audax_eqx import networks
from audax_eqx.frontends import LogMel, Wav2Vec, WhisperLogMel
from audax_eqx.layers import Attention, relative_bias
from audax_eqx.models import Classifier, Encoder, WeightedLayers
from audax_eqx.networks import ConvNeXt, Wav2Vec2, Whisper, XVector

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
KEY = jax.random.key(0)


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@functools.cache
def oracle(folder):
    """What the zoo loads, and the golden arrays."""
    return zoo.load(folder), dict(np.load(folder / "golden.npz"))


@eqx.filter_jit
def outputs(model, state, wave, length=None):
    """Everything that a model makes of a wave: features, layers, feature map, embedding and output."""
    x, known = model.listen(wave, length=length), model.valid(wave.size, length)
    layers = [each[:, 0] for each in model.network.layers(x, state, **known)[0]]
    last = model.network.features(x, state, **known)[0]
    embedding = model.network.pool_map(last, **known)
    output = model.logits(embedding) if isinstance(model, Classifier) else model(wave, state, length=length)[0]
    return x, layers, last[:, 0], embedding, output


@functools.cache
def noise_behind(samples):
    return 10 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("name", FOLDERS)
def test_speech_models_are_transformers(shared, name):
    ours, golden = oracle(shared / "oracles" / name)
    for clip, padded in (("b", False), ("a", True), ("c", True)):  # padding is one more way to the same numbers
        wave, length = golden[f"wave_{clip}"], None
        if padded:
            length = jnp.asarray(wave.size)
            wave = np.concatenate([wave, noise_behind(40000 - wave.size)])
        _, layers, last, embedding, output = outputs(ours.model, ours.state, jnp.asarray(wave), length)
        for index, layer in enumerate(layers):
            theirs = golden[f"hidden_{clip}_{index}"]
            assert padded or len(theirs) == len(layer)
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

SMALL = {"widths": (8, 8, 8), "kernels": (10, 3, 2), "strides": (5, 2, 2)}  # a frame sees 30 samples, every 20
BODY = {"bins": 8, "kernel": 8, "groups": 2}


def speech_classifier(key):
    network = WeightedLayers(Wav2Vec2(8, 2, 2, **BODY, buckets=8, max_distance=20, key=key))
    return Classifier(Wav2Vec(**SMALL, key=key), network, 3, projection=5, key=key)


def speech_encoder(key, **options):
    frontend = Wav2Vec(**SMALL, norm="layer", bias=True, key=key)
    return Encoder(frontend, Wav2Vec2(8, 2, 2, **BODY, **options, key=key), key=key)


def x_vectors(key):
    network = XVector(Wav2Vec2(8, 1, 2, **BODY, key=key), 4, widths=(8,) * 5, key=key)
    return Encoder(Wav2Vec(**SMALL, normalize=False, key=key), network, outputs=3, key=key)


def whisper(key, make=Encoder, **options):
    frontend, network = WhisperLogMel(16000, bins=8, total_frames=60), Whisper(8, 2, 2, bins=8, steps=30, key=key)
    return make(frontend, network, **options, key=key)


MODELS = {
    "base": speech_classifier,
    "large": functools.partial(speech_encoder, norm_first=True),
    "data2vec": functools.partial(speech_encoder, position_layers=3),
    "x-vector": x_vectors,
    "whisper": whisper,
    "whisper classifier": functools.partial(whisper, make=Classifier, classes=3),
    "whisper weighted": lambda key: Encoder(
        WhisperLogMel(16000, bins=8, total_frames=60), WeightedLayers(Whisper(8, 1, 2, bins=8, key=key)), key=key
    ),
}


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@functools.cache
def seeded(name):
    model, state = fill(MODELS[name])
    return eqx.nn.inference_mode(model), state


@pytest.mark.parametrize("name", MODELS)
def test_padding_has_no_part_in_a_result(name):
    model, state = seeded(name)
    assert model.takes_length
    whole = noise(6000, seed=1) * jnp.where(jnp.arange(6000) < 3333, 0.1, 100.0)  # loud in the padding
    alone, padded = outputs(model, state, whole[:3333]), outputs(model, state, whole, jnp.asarray(3333))
    for ours, theirs in zip(*map(jax.tree.leaves, (padded, alone)), strict=True):
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


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [30, 49, 50, 1000])
def test_frames_are_as_many_as_their_samples_allow(samples):
    frontend = Wav2Vec(**SMALL, key=KEY)
    wave = jnp.zeros(samples)
    assert frontend.frames(samples) == len(eqx.filter_eval_shape(frontend, wave)) == (samples - 30) // 20 + 1
    assert int(eqx.filter_jit(frontend.frames)(jnp.asarray(samples))) == frontend.frames(samples)


def test_the_convolutional_encoder_is_that_of_the_paper():
    frontend = eqx.filter_eval_shape(Wav2Vec, key=KEY)
    assert (frontend.sample_rate, frontend.bins, frontend.min_samples) == (16000, 512, 400)
    assert [frontend.frames(samples) for samples in (400, 16000, 160000)] == [1, 49, 499]
    np.testing.assert_allclose(frontend.times(np.arange(2.0)), [199.5 / 16000, 519.5 / 16000])
    with pytest.raises(ValueError, match="at least one frame, 400 samples"):
        frontend(jnp.zeros(399))


def test_frames_are_centred_where_times_say():
    frontend = eqx.tree_at(
        lambda tree: [layer.conv.weight for layer in tree.layers],
        Wav2Vec(**SMALL, norm="layer", normalize=False, activation="relu", key=KEY),
        replace_fn=jnp.ones_like,
    )
    plain = eqx.tree_at(lambda tree: [layer.norm for layer in tree.layers], frontend, [None] * 3)
    wave = jnp.ones(200)
    slope = jax.jacobian(lambda wave: plain(wave)[:, 0])(wave)
    centres = np.asarray(slope @ jnp.arange(200.0) / slope.sum(axis=1))
    np.testing.assert_allclose(centres / 16000, frontend.times(np.arange(len(centres), dtype=np.float64)), rtol=1e-4)


def test_whisper_features_are_cut_at_their_end_and_filled_up_with_silence():
    frontend = WhisperLogMel(16000, bins=8, total_frames=60)
    wave = noise(12000)
    assert (frontend.min_samples, frontend.max_samples) == (1, 9600)
    run = eqx.filter_jit(frontend)
    np.testing.assert_array_equal(run(wave), run(wave[:9600]))
    np.testing.assert_array_equal(run(wave[:5000]), run(jnp.pad(wave[:5000], (0, 999))))
    np.testing.assert_allclose(run(jnp.zeros(1)), np.full((60, 8), -1.5), rtol=1e-6)  # (-10 + 4) / 4
    y = np.asarray(run(wave[:5000]))
    np.testing.assert_allclose(y.max() - y.min(), 2.0, rtol=1e-5)  # 8 / 4
    with pytest.raises(ValueError, match="at least 1 sample"):
        frontend(jnp.zeros(0))


def test_whisper_has_positions_for_so_many_frames():
    network, state = Whisper(8, 1, 2, bins=4, steps=6, key=KEY), eqx.nn.State({})
    steps, channels = np.arange(6)[:, None], np.arange(4)[None]
    angles = steps / 10000 ** (channels / 3)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(network.position_embedding, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="positions for 12 frames, got 13"):
        network(noise(13, 4), state)


def test_the_bias_by_distance_is_its_closed_form():
    table = noise(8, 2)
    bias = relative_bias(table, 30, 20)
    near = {
        0: 0,
        1: 1,
        -1: 1,
        3: 2,
        -3: 2,
        -19: 3,
        25: 3,
    }  # of 4 a side: 0, 1, then 2 from 2 on, 3 from sqrt(2 x 20) on
    for offset, bucket in near.items():
        expected = table[bucket + 4 * (offset > 0)]
        start = max(0, -offset)
        for token in (start, start + 3):
            np.testing.assert_array_equal(bias[:, token, token + offset], expected)


@pytest.mark.parametrize("source", ["input", "query"])
def test_gated_attention_is_its_closed_form(source):
    attention, _ = fill(lambda key: Attention(6, 2, gate=source, key=key))
    x, bias = noise(5, 6), noise(2, 5, 5, seed=1)

    def linear(part, x):
        return x @ np.asarray(part.weight, np.float64).T + np.asarray(part.bias, np.float64)

    wide = np.asarray(x, np.float64)
    query, key, value = (linear(getattr(attention, name), wide) for name in ("query", "key", "value"))
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        gate = linear(attention.gate, (wide if source == "input" else query)[:, part])
        a, b = (1 / (1 + np.exp(-gate[:, four].sum(axis=1))) for four in (slice(0, 4), slice(4, 8)))
        gate = a * (b * float(attention.gate_scale[head]) - 1) + 2
        scores = query[:, part] @ key[:, part].T / 3**0.5 + gate[:, None] * np.asarray(bias[head], np.float64)
        weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        heads.append(weights @ value[:, part])
    assert (
        error(eqx.filter_jit(attention)(x, bias=bias), linear(attention.output, np.concatenate(heads, axis=1))) < 1e-5
    )


def test_an_encoder_gives_its_embedding():
    model, state = seeded("large")
    _, _, _, embedding, output = outputs(model, state, noise(2000))
    np.testing.assert_array_equal(embedding, output)
    assert model.width == model.network.width == 8
    model, state = seeded("x-vector")
    _, _, _, embedding, output = outputs(model, state, noise(2000))
    assert (embedding.shape, output.shape, model.width) == ((4,), (3,), 3)
    assert error(output, model.head.weight @ embedding + model.head.bias) < 1e-5
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, model.network)
    model = eqx.tree_at(lambda tree: tree.network, model, narrow)
    assert model.listen(noise(2000)).dtype == jnp.bfloat16


def test_layers_of_several_sizes_have_no_sum():
    network = WeightedLayers(ConvNeXt((0, 0), (4, 8), key=KEY), 2)
    with pytest.raises(
        ValueError,
        match=r"layers of one size, .* those of ConvNeXt have several, \(.*\): give a new head layers=\"last\"\.",
    ):
        network(noise(64, 64), eqx.nn.State({}))
    with pytest.raises(
        ValueError, match=r"WeightedLayers adds up 3 layers, and Whisper has 2: give the sum layers=2, or"
    ):
        WeightedLayers(Whisper(8, 1, 2, bins=4, steps=6, key=KEY), 3)(noise(12, 4), eqx.nn.State({}))


@pytest.mark.parametrize(
    "build, sentence",
    [
        (functools.partial(Wav2Vec, widths=(4,)), "as many widths as kernels and strides"),
        (functools.partial(Wav2Vec2, 8, 1, 2, groups=3), "groups that divide its 8 channels"),
        (functools.partial(Wav2Vec2, 8, 1, 2, groups=2, buckets=3), "4 <= buckets"),
        (functools.partial(Wav2Vec2, 8, 1, 3, groups=2), "choose heads that divide 8"),
        (functools.partial(Whisper, 7, 1, 1), "an even width from 4 on"),
        (functools.partial(XVector, Whisper(8, 0, 2, key=KEY), widths=(3,)), "as many widths as kernels and dilations"),
        (lambda key: WhisperLogMel(16000, total_frames=1), "give more frames"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(key=KEY)
