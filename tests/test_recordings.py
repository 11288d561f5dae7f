"""`zoo.embed` and `zoo.tag`: recordings of any length through one program, in order, by recording, window and frame."""

import equinox as eqx
import jax
import numpy as np
import pytest
from recordings import ENTRY, SIZE, by_hand, difference, load, noise, write
from tiny_resnet import RATE

import zoo
from audax_eqx.layers import Linear


@pytest.fixture(scope="module")
def clip():
    return load()


def test_recordings_of_all_lengths_take_one_program(clip, tmp_path, programs):
    lengths = [1, 50, 300, 3999, 4000, 4001, 4399, 4400, 8000, 9000, 21000]
    waves = [noise(length, length) for length in lengths]
    paths = [write(tmp_path / f"{len(wave)}.wav", wave) for wave in waves]
    before = programs()
    results = list(zoo.embed(clip, paths))
    assert programs() - before <= 2
    assert [result.source for result in results] == paths
    for wave, result in zip(waves, results, strict=True):
        assert result.error is None and result.values.dtype == np.float32 and result.values.shape == (1, 16)
        assert difference(result.values[0], by_hand(clip, wave)) < 1e-5, len(wave)
        assert (result.start, result.end, result.duration) == ([0], [len(wave) / RATE], len(wave) / RATE)
    after = programs()
    list(zoo.embed(clip, paths[::-1]))
    assert programs() == after


def test_the_host_does_not_wait_for_a_batch_that_it_launches(clip, monkeypatch):
    waits, wait = [], type(jax.numpy.zeros(1)).block_until_ready
    monkeypatch.setattr(
        type(jax.numpy.zeros(1)), "block_until_ready", lambda array: waits.append(array.shape) or wait(array)
    )
    list(zoo.embed(clip, [(noise(5 * SIZE), RATE)], batch=8))
    assert not waits


SPEECH = {"bins": 8, "kernel": 8, "groups": 2}
NETWORKS = {  # that tell padding from sound: frontend and network
    "wav2vec": (
        {"type": "Wav2Vec", "widths": (8, 8), "kernels": (10, 4), "strides": (8, 4)},
        {"type": "Wav2Vec2", "width": 8, "depth": 1, "heads": 2, **SPEECH},
    ),
    "x-vector of weighted layers": (
        {"type": "Wav2Vec", "widths": (8, 8), "kernels": (10, 4), "strides": (8, 4)},
        {
            "type": "XVector", "width": 8, "widths": (8, 8), "kernels": (3, 3), "dilations": (1, 2),
            "network": {
                "type": "WeightedLayers",
                "network": {"type": "Wav2Vec2", "width": 8, "depth": 1, "heads": 2, **SPEECH},
            },
        },
    ),
    "whisper": (
        {"type": "WhisperLogMel", "bins": 8, "hop_length": 80, "n_fft": 200, "total_frames": 50},
        {"type": "Whisper", "width": 8, "depth": 1, "heads": 2, "bins": 8, "steps": 25},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_has_no_part_where_the_model_can_tell(name, programs):
    """Each recording of no more than a window gets what a call with it alone gives, by one program."""
    frontend, network = NETWORKS[name]
    fields = {"name": "speech", "model": {"type": "Encoder"}, "classes": 0, "labels": (), "task": "embedding"}
    entry = ENTRY.replace(frontend=frontend | {"sample_rate": RATE}, network=network, **fields)
    model, state = zoo.create(entry, key=jax.random.key(0))
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    lengths = [150, 1023, 2401, 3999]
    recordings = [(noise(length, length), RATE) for length in lengths]
    before = programs()
    results = list(zoo.embed(clip, recordings))
    assert programs() - before <= 2
    frames = list(zoo.embed(clip, recordings, each="frame"))
    for (wave, _), result, steps in zip(recordings, results, frames, strict=True):
        assert difference(result.values[0], clip.embed(wave)) < 1e-5
        whole = clip.frames(wave)
        count = len(steps.values) if name == "whisper" else len(whole)  # which always gives as many
        assert difference(steps.values, whole[:count]) < 1e-5 and count == model.network.steps(
            model.frontend.frames(len(wave))
        )


def test_a_recording_shorter_than_a_frame_is_padded_to_one():
    frontend, network = NETWORKS["wav2vec"]
    fields = {"name": "speech", "model": {"type": "Encoder"}, "classes": 0, "labels": (), "task": "embedding"}
    entry = ENTRY.replace(frontend=frontend | {"sample_rate": RATE}, network=network, **fields)
    model, state = zoo.create(entry, key=jax.random.key(0))
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    (result,) = zoo.embed(clip, [(noise(5), RATE)])
    assert difference(result.values[0], clip.embed(np.pad(noise(5), (0, 34 - 5)))) < 1e-5


def test_scores_are_the_means_of_probabilities(clip):
    wave = noise(9000)
    (result,) = zoo.tag(clip, [(wave, RATE)])
    assert difference(result.values[0], by_hand(clip, wave, "probabilities")) < 1e-5


def test_windows_have_rows_and_times(clip):
    wave = noise(9100)
    (result,) = zoo.embed(clip, [(wave, RATE)], each="window", hop=0.25)
    assert result.start.tolist() == [0, 0.25, 0.5, 0.75] and result.end.tolist() == [0.5, 0.75, 1.0, 9100 / RATE]
    for start, row in zip(result.start, result.values, strict=True):
        part = wave[round(start * RATE) :][:SIZE]
        assert difference(row, clip.embed(np.pad(part, (0, SIZE - len(part))))) < 1e-5


@pytest.mark.parametrize(
    "last, spans", [("pad", [(0, 4000), (4000, 6000)]), ("full", [(0, 4000), (2000, 6000)]), ("drop", [(0, 4000)])]
)
def test_the_end_that_fills_no_window(clip, last, spans):
    wave = noise(6000)
    (result,) = zoo.embed(clip, [(wave, RATE)], each="window", last=last)
    assert list(zip(result.start * RATE, result.end * RATE, strict=True)) == spans
    parts = [np.pad(wave[start:end], (0, SIZE - end + start)) for start, end in spans]
    assert difference(result.values, np.stack([clip.embed(part) for part in parts])) < 1e-5


def test_a_recording_that_fills_no_window_and_is_dropped_is_told(clip):
    (result,) = zoo.embed(clip, [(noise(3999), RATE)], last="drop", errors="keep")
    assert result.values.shape == (0, 16) and "is shorter than a window of 0.5 s" in result.error


def test_frames_lie_on_one_grid(clip):
    wave = noise(21000)
    (result,) = zoo.embed(clip, [(wave, RATE)], each="frame")
    centres = (result.start + result.end)[1:-1] / 2
    step = np.diff(clip.frame_times(2))[0]
    np.testing.assert_allclose(np.diff(centres), step, atol=1e-9)
    assert result.end[-1] == pytest.approx(21000 / RATE, abs=step)
    whole = np.asarray(clip.frames(wave))[: len(result.values)]  # frames far from seams hear the same
    middle = slice(1, 4)
    assert difference(result.values[middle], whole[middle]) < 1e-4


def test_scores_of_frames_are_class_activations(clip):
    """For a network that pools by the mean the logits of a map are the mean of its frames'."""
    multilabel = zoo.Pretrained(clip.model, clip.state, ENTRY.replace(task="multilabel"))
    (result,) = zoo.tag(multilabel, [(noise(SIZE), RATE)], each="frame")
    logits = np.log(result.values / (1 - result.values))
    whole = np.asarray(clip(noise(SIZE)))
    steps = np.asarray(clip.frames(noise(SIZE)))
    expected = np.stack([clip.model.logits(jax.numpy.asarray(step)) for step in steps])
    assert difference(logits, expected[: len(logits)]) < 1e-3
    assert difference(expected.mean(axis=0), whole) < 1e-5


def test_a_network_without_scores_of_frames_is_told(clip):
    ast = eqx.tree_at(lambda clip: clip.model.network, clip, eqx.nn.Identity())
    with pytest.raises(ValueError, match=r"does not pool its embedding from frames.*each='window'"):
        zoo.tag(ast, [], each="frame")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"window": 0.0}, "A window takes a finite number of seconds"),
        ({"window": 0.001}, "hears windows of 0.016125 to inf s, got 0.001 s"),
        ({"hop": 0.0}, "hop=0.0 is the distance of windows in seconds"),
        (
            {"hop": 0.51},
            "hop=0.51 is the distance of windows in seconds: it is more than 0 and at most a window, 0.5 s",
        ),
        ({"hop": 0.1, "each": "frame"}, "leave hop out"),
        ({"batch": 0}, "batch=0 is too small"),
        ({"workers": 0}, "workers=0 is too small"),
        ({"each": "second"}, "each='second' is none of 'recording', 'window', 'frame'"),
        ({"last": "cut"}, "last='cut' is none of 'pad', 'full', 'drop'"),
        ({"precision": "float16"}, "precision='float16' is none of 'float32', 'bfloat16'"),
        ({"errors": "ignore"}, "errors='ignore' is none of 'raise', 'keep'"),
    ],
)
def test_options_that_make_no_sense_are_told_before_anything_is_read(clip, options, sentence):
    with pytest.raises(ValueError, match=sentence.replace("'", "'")):
        zoo.embed(clip, map(pytest.fail, ["asked for its first"]), **options)


def test_a_model_without_classes_has_no_scores():
    with pytest.raises(ValueError, match="has no classes"):
        zoo.tag(zoo.load("cola_small"), [])


def test_a_head_of_other_classes_has_no_scores(clip):
    other = eqx.tree_at(lambda clip: clip.model.head, clip, Linear(16, 2, key=jax.random.key(0)))
    for door in (zoo.tag, zoo.detect):
        with pytest.raises(ValueError, match="has a head of 2 outputs and the labels of 3 classes"):
            door(other, [(noise(SIZE), RATE)])


def test_bfloat16_is_near(clip):
    wave = (noise(9000), RATE)
    (exact,), (half,) = zoo.embed(clip, [wave]), zoo.embed(clip, [wave], precision="bfloat16")
    assert 0 < difference(half.values, exact.values) < 0.05


def test_a_recording_lasts_as_long_as_it_does_though_its_end_is_left_out(clip):
    (result,) = zoo.embed(clip, [(noise(7000), RATE)], last="drop", each="window")
    assert result.end.tolist() == [0.5] and result.duration == 7000 / RATE


def test_a_hop_as_long_as_the_window_is_none_too_long(clip):
    (result,) = zoo.embed(clip, [(noise(9000), RATE)], window=0.33333, hop=0.33333, each="window")
    assert len(result.values) == 4
