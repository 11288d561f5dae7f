"""HEAR's API: its attributes and shapes, timestamps, long sounds, and arrays of every kind."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import hear
from zoo._create import skeleton
from zoo._leaves import fill, named_leaves

RATE = 16000
LOG_MEL = {"type": "LogMel", "sample_rate": RATE, "bins": 32, "n_fft": 512}
TINY = {  # an entry of each network; frames of all but AST are 4000 samples, 250 ms, apart, AST's 10 x 10 ms
    "convnext": (
        LOG_MEL | {"hop_length": 1000},
        {"type": "ConvNeXt", "depths": (1,), "widths": (8,), "input_norm": 32},
    ),
    "resnet": (LOG_MEL | {"hop_length": 1000}, {"type": "ResNet", "depths": (1,), "widths": (8,)}),
    "efficientnet": (LOG_MEL | {"hop_length": 125}, {"type": "EfficientNet", "depths": (1,) * 7, "widths": (4,) * 8}),
    "ast": (
        {"type": "ast_fbank", "sample_rate": RATE, "bins": 32, "frames": 64},
        {"type": "AST", "width": 8, "depth": 1, "heads": 2, "bins": 32, "frames": 64},
    ),
}
WINDOW = 0.6


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


def saved(folder, kind, **fields):
    """The folder of a tiny model with seeded weights."""
    frontend, network = TINY[kind]
    entry = zoo.Entry(kind, frontend, network, **{"classes": 2, "task": "multiclass", "window": WINDOW} | fields)
    model, state = skeleton(entry)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    rng = np.random.default_rng(0)

    def value(name):
        return np.full(shapes[name], 0.1) if name.endswith("running_var") else rng.normal(0.0, 0.5, shapes[name])

    zoo.save(folder / kind, *fill(model, state, value), entry)
    return folder / kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("hear"), "convnext")


@pytest.fixture(scope="module")
def model(folder):
    return hear.load_model(str(folder))


def assert_validates(model, samples):
    """What HEAR's validator checks, and that noise and a tone embed differently."""
    sounds = noise(2, samples)
    sounds[1] = np.sin(0.1 * np.arange(samples))
    scenes = hear.get_scene_embeddings(sounds, model)
    assert scenes.shape == (2, model.scene_embedding_size) and scenes.dtype == np.float32
    embeddings, timestamps = hear.get_timestamp_embeddings(sounds, model)
    assert embeddings.shape == (*timestamps.shape, model.timestamp_embedding_size) and len(timestamps) == 2
    assert embeddings.dtype == timestamps.dtype == np.float32
    np.testing.assert_array_equal(timestamps[0], timestamps[1])
    assert_covers(timestamps[0], 1000 * samples / model.sample_rate)
    for each in (scenes, embeddings):
        assert np.isfinite(each).all() and np.abs(each[0] - each[1]).max() > 1e-3 * np.abs(each).max() > 0


def assert_covers(timestamps, milliseconds):
    """Evenly, to the rounding of float32, at most 50 ms apart, and from the first to the last hop of the sound."""
    hop = timestamps[1] - timestamps[0]
    assert 25.0 < hop <= 50.0
    np.testing.assert_allclose(timestamps, (np.arange(len(timestamps)) + 0.5) * hop, rtol=1e-5)
    assert milliseconds - hop < timestamps[-1] <= milliseconds


# Every model


def test_the_default_is_the_packaged_model():
    model = hear.load_model()
    sizes = (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size)
    assert sizes == (16000, 128, 128) and {type(size) for size in sizes} == {int}
    assert hear.get_scene_embeddings(noise(2, 16000), model).shape == (2, 128)


@pytest.mark.parametrize("kind", TINY)
def test_every_network_hears_sounds_longer_than_its_window(kind, tmp_path):
    model = hear.load_model(saved(tmp_path, kind))
    assert_validates(model, round(1.3 * RATE))


def test_a_contrastive_model_embeds(tmp_path):
    fields = {"model": {"type": "COLA", "width": 4}, "classes": 0, "task": "contrastive"}
    model = hear.load_model(saved(tmp_path, "convnext", **fields))
    assert hear.get_scene_embeddings(noise(1, 8000), model).shape == (1, 8)


@pytest.mark.parametrize("name, error", [("resnet_esc11", ValueError), ("./nowhere", FileNotFoundError)])
def test_an_unknown_model_raises_as_the_zoo_does(name, error):
    with pytest.raises(error):
        hear.load_model(name)


# Scenes


def test_a_sound_of_one_window_embeds_as_the_clip_does(model):
    sounds = noise(2, round(WINDOW * RATE))
    for scene, sound in zip(hear.get_scene_embeddings(sounds, model), sounds, strict=True):
        np.testing.assert_allclose(scene, model.clip.embed(sound), rtol=1e-5, atol=1e-6)


def test_a_longer_sound_is_the_mean_of_its_windows_weighted_by_their_samples(model):
    window = round(WINDOW * RATE)
    sound = noise(2 * window + 1600)
    cut = np.pad(sound, (0, window - 1600)).reshape(3, window)
    expected = np.average([model.clip.embed(each) for each in cut], axis=0, weights=[window, window, 1600])
    (scene,) = hear.get_scene_embeddings(sound[None], model)
    np.testing.assert_allclose(scene, expected, rtol=1e-4, atol=1e-5)
    (longer,) = hear.get_scene_embeddings(sound[None, : 2 * window + 950], model)  # less than a tenth of a window
    np.testing.assert_array_equal(longer, hear.get_scene_embeddings(sound[None, : 2 * window], model)[0])


@pytest.mark.parametrize("samples", [10, 3000, 9599])
def test_a_sound_shorter_than_a_window_is_filled_up(samples, model):
    sound = noise(1, samples)
    expected = model.clip.embed(np.pad(sound[0], (0, 9600 - samples)))
    np.testing.assert_allclose(hear.get_scene_embeddings(sound, model)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_sound_shorter_than_a_frame_has_a_timestamp(model):
    embeddings, timestamps = hear.get_timestamp_embeddings(noise(1, 10), model)
    assert embeddings.shape == (1, 1, 8) and timestamps.shape == (1, 1)


# Timestamps


def test_a_delay_of_one_hop_moves_embeddings_by_one_timestamp(model):
    sound = np.pad(noise(7200), (0, 800))  # silence at the end, which the delay moves out of the sound
    delayed = np.roll(sound, 800)
    embeddings, timestamps = hear.get_timestamp_embeddings(np.stack([sound, delayed]), model)
    np.testing.assert_array_equal(timestamps[0], 25.0 + 50.0 * np.arange(10))
    inner = [index for index in range(9) if index % 5 != 4]  # every fifth is of another run of five
    np.testing.assert_array_equal(embeddings[0, inner], embeddings[1, np.add(inner, 1)])
    assert np.abs(embeddings[0, :-1] - embeddings[0, 1:]).max(axis=1).min() > 1e-4


def test_as_far_apart_as_frames_a_timestamp_is_the_middle_of_a_frame(folder):
    sparse = hear.load_model(folder, hop=math.inf)
    sound = noise(8000)
    embeddings, timestamps = hear.get_timestamp_embeddings(sound[None], sparse)
    np.testing.assert_array_equal(timestamps, [[125.0, 375.0]])
    late = round((0.125 - sparse.clip.frame_times(1)[0]) * RATE)
    heard = np.pad(sound[late:], (0, late + 4000 + sparse.clip.model.frontend.min_samples))
    np.testing.assert_allclose(embeddings[0], sparse.clip.frames(heard)[:2], rtol=1e-4, atol=1e-5)


def test_timestamps_do_not_drift_over_twenty_minutes(folder, monkeypatch):
    model = hear.load_model(folder, hop=42.0)  # hops of 4000 / 6 samples
    first, second, third = model.clip.frame_times(3)
    sound = np.linspace(0, 1, 20 * 60 * RATE, endpoint=False, dtype=np.float32)[None]  # each sample is its own time

    def times(clip, waves):
        """In place of embeddings, where in the sound the three frames of a stretch lie."""
        return np.tile((1200 * waves[:, :1] + [[first, second, third]])[..., None], 8)

    monkeypatch.setattr(hear, "_frames", times)
    embeddings, timestamps = hear.get_timestamp_embeddings(sound, model)
    assert_covers(timestamps[0], 20 * 60 * 1000)
    inside = timestamps[0] > 1000 * (third + 0.1)  # the first stretches begin in the silence before the sound
    assert np.abs(embeddings[0, inside, 0] - timestamps[0, inside] / 1000).max() < 5e-4


# Batches


def test_a_sound_does_not_depend_on_its_batch(model, monkeypatch):
    sounds = noise(3, 8000)
    scenes, (embeddings, _) = hear.get_scene_embeddings(sounds, model), hear.get_timestamp_embeddings(sounds, model)
    np.testing.assert_array_equal(hear.get_scene_embeddings(sounds[2:], model), scenes[2:])
    monkeypatch.setattr(hear, "_batch", lambda: 2)  # as on an accelerator: the last batch is filled up
    np.testing.assert_allclose(hear.get_scene_embeddings(sounds, model), scenes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hear.get_timestamp_embeddings(sounds, model)[0], embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_more_sounds_need_no_other_shape(batch, model, monkeypatch):
    shapes, frames = set(), hear._frames
    monkeypatch.setattr(hear, "_batch", lambda: batch)
    monkeypatch.setattr(hear, "_frames", lambda clip, waves: shapes.add(waves.shape) or frames(clip, waves))
    for count in (1, 4, 7):
        assert len(hear.get_timestamp_embeddings(noise(count, 8000), model)[0]) == count
    ((size, _),) = shapes
    assert size == batch


# Kinds of arrays


def test_jax_arrays_come_back_as_such(model):
    scenes = hear.get_scene_embeddings(jnp.asarray(noise(2, 8000)), model)
    assert isinstance(scenes, jax.Array)
    np.testing.assert_array_equal(scenes, hear.get_scene_embeddings(noise(2, 8000).astype(np.float64), model))


@pytest.mark.parametrize("package", ["tensorflow", "torch"])
def test_tensors_come_back_as_such_and_the_model_is_a_module(package, folder, model, monkeypatch):
    library = pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, {"torch": "tensorflow", "tensorflow": "torch"}[package], None)
    module = library.nn.Module if package == "torch" else library.Module
    model_of_module = hear.load_model(str(folder))
    assert isinstance(model_of_module, module)
    sounds = noise(2, 8000)
    tensor = library.from_numpy(sounds) if package == "torch" else library.convert_to_tensor(sounds)
    scenes = hear.get_scene_embeddings(tensor, model_of_module)
    embeddings, timestamps = hear.get_timestamp_embeddings(tensor, model_of_module)
    for each in (scenes, embeddings, timestamps):
        assert isinstance(each, library.Tensor) and each.dtype == library.float32
    np.testing.assert_array_equal(scenes.numpy(), hear.get_scene_embeddings(sounds, model))
    assert_covers(timestamps.numpy()[1], 500.0)


def test_without_torch_and_tensorflow_the_model_is_a_plain_object(folder, monkeypatch):
    for name in ("torch", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    model = hear.load_model(folder)
    assert type(model).__mro__[1:] == (hear.HearModel, object)


# Bad input


@pytest.mark.parametrize(
    "audio, error, fault",
    [
        (noise(8000), ValueError, r"\(n_sounds, n_samples\).*got \(8000,\): one sound is wave\[None\]"),
        (noise(2, 1, 8000), ValueError, r"got \(2, 1, 8000\)"),
        (noise(2, 0), ValueError, r"at least 1 of each, got \(2, 0\)"),
        (noise(0, 8000), ValueError, r"at least 1 of each, got \(0, 8000\)"),
        (np.zeros((2, 8000), np.int16), TypeError, "floating-point samples.*got int16.*32768"),
        (np.pad(noise(2, 8000), ((0, 1), (0, 0)), constant_values=np.nan), ValueError, "got 8000 NaN .* in sound 2"),
        (np.full((1, 8000), 1e300), ValueError, "finite"),
        ([[0.0] * 8000], TypeError, "got a list"),
    ],
)
def test_bad_audio_raises_one_sentence(audio, error, fault, model):
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(error, match=fault) as raised:
            function(audio, model)
        assert "\n" not in str(raised.value)


def test_another_model_raises(model):
    with pytest.raises(TypeError, match=r"zoo\.hear\.load_model, got a Pretrained"):
        hear.get_scene_embeddings(noise(1, 8000), model.clip)


@pytest.mark.parametrize("hop", [0, -50.0, math.nan])
def test_a_hop_that_is_not_positive_raises(hop):
    with pytest.raises(ValueError, match="hop"):
        hear.load_model(hop=hop)
