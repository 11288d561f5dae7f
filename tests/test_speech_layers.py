"""The parts of Whisper and of wav2vec 2.0 and its kin against closed forms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import KEY, error, noise
from golden.seeded import fill
from speech import SMALL, outputs, seeded

from audax_eqx.frontends import Wav2Vec, WhisperLogMel
from audax_eqx.layers import Attention, relative_bias
from audax_eqx.models import WeightedLayers
from audax_eqx.networks import ConvNeXt, Wav2Vec2, Whisper, XVector


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
