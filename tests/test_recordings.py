"""`zoo.embed` and `zoo.tag`: recordings of any length and kind through one program, in order, whatever fails."""

import io
import itertools
import os
import pathlib
import subprocess
import sys
import threading

import equinox as eqx
import jax
import numpy as np
import pytest
import soundfile

import zoo
from audax_eqx.layers import Linear
from zoo import _batches, _pretrained, _recordings, _result

RATE = 8000
ENTRY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": RATE, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ResNet", "depths": (1, 1), "widths": (8, 16)},
    classes=3,
    labels=("a", "b", "c"),
    task="multiclass",
    window=0.5,
)
SIZE = 4000  # samples of a window


@pytest.fixture(scope="module")
def clip():
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, ENTRY)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def write(path, wave, rate=RATE):
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def difference(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def by_hand(clip, wave, function="embed"):
    """The mean over the padded windows of a wave, one call each, weighted by their samples."""
    starts = range(0, max(len(wave) - SIZE // 10, 0) + 1, SIZE)
    parts = [wave[start : start + SIZE] for start in starts]
    values = [np.asarray(getattr(clip, function)(np.pad(part, (0, SIZE - len(part))))) for part in parts]
    return np.average(values, axis=0, weights=[len(part) for part in parts])


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


def test_what_cannot_be_read_keeps_its_place(clip, tmp_path):
    sound = write(tmp_path / "a.wav", noise(5000))
    broken = write(tmp_path / "nan.wav", np.where(np.arange(20000) == 15000, np.nan, noise(20000)))
    (tmp_path / "text.wav").write_text("no sound")
    sources = [sound, tmp_path / "none.wav", broken, tmp_path / "text.wav", tmp_path, sound]
    results = list(zoo.embed(clip, sources, errors="keep"))
    assert [result.source for result in results] == sources
    parts = (None, "is not a file", "NaN or infinite samples", "cannot be read as sound", "is not a file", None)
    for result, part in zip(results, parts, strict=True):
        assert (result.error is None) == (part is None) and (part is None or part in result.error)
        assert len(result.values) == (part is None)
    np.testing.assert_array_equal(results[0].values, results[-1].values)

    stream = zoo.embed(clip, sources)
    assert next(stream).source == sound
    with pytest.raises(FileNotFoundError, match=r"none\.wav is not a file"):
        next(stream)


def test_a_fault_of_another_kind_stops_the_run_and_leaves_no_thread(clip, monkeypatch):
    def broken(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(_recordings, "stream", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(zoo.embed(clip, [(noise(10), RATE)] * 3, errors="keep"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recordings")]


def test_recordings_without_end_are_read_a_few_ahead(clip):
    given = []

    def endless():
        for number in itertools.count():
            given.append(number)
            yield noise(4000 + number, number), RATE

    results = zoo.embed(clip, endless(), workers=2, batch=8)
    assert len(list(itertools.islice(results, 20))) == 20
    assert len(given) < 20 + 3 * 8 + 2 * 2 + 8  # batches under way, recordings begun, a batch to fill
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recordings")]


def test_a_long_recording_is_not_read_whole_before_its_first_window(clip, monkeypatch):
    blocks = []

    def stream(*_):
        for number in range(1000):
            blocks.append(number)
            yield noise(40000, number)

    monkeypatch.setattr(_recordings, "stream", stream)
    rows = []
    monkeypatch.setattr(_result.Rows, "take", lambda rows_, window, value: rows.append(len(blocks)))
    results = zoo.embed(clip, ["long"])
    thread = threading.Thread(target=lambda: next(results, None), daemon=True)
    thread.start()
    thread.join(timeout=120)
    assert rows and rows[0] < 100


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


# Sources --------------------------------------------------------------------------------------------------------------


def test_all_kinds_of_sources_are_one_recording(clip, tmp_path):
    wave = noise(7000)
    path = write(tmp_path / "a.wav", wave)
    content = path.read_bytes()
    with open(path, "rb") as file:
        sources = [
            path,
            str(path),
            content,
            file,
            io.BytesIO(content),
            (wave, RATE),
            (wave.astype(np.float64), RATE),
            {"array": wave, "sampling_rate": RATE, "path": "a.wav"},
            {"bytes": content, "path": "a.wav"},
            {"bytes": None, "path": str(path)},
        ]
        results = list(zoo.embed(clip, sources))
    for source, result in zip(sources, results, strict=True):
        assert result.source is source
        np.testing.assert_array_equal(result.values, results[0].values)
        assert result.duration == 7000 / RATE


def test_a_model_computes_where_it_was_put(clip):
    """By default on all devices of this host."""
    wave = (noise(9000), RATE)
    (expected,) = zoo.embed(clip, [wave])
    arrays, others = eqx.partition(clip, eqx.is_array)
    for places in (jax.devices()[3:4], jax.devices()[2:4]):
        sharding = jax.sharding.NamedSharding(
            jax.sharding.Mesh(np.array(places), ("any",)), jax.sharding.PartitionSpec()
        )
        put = eqx.combine(jax.device_put(arrays, sharding), others)
        (result,) = zoo.embed(put, [wave])
        assert difference(result.values, expected.values) < 1e-6
        batches = _batches.Batches(put, _pretrained.embedding, SIZE, None, False)
        assert batches.size == _batches.batch_size(places)


def test_one_channel_of_several(clip, tmp_path):
    stereo = np.stack([noise(6000, 1), noise(6000, 2)], axis=1)
    for source in (write(tmp_path / "s.wav", stereo), (stereo, RATE), (stereo.T, RATE)):
        for channel, wave in (("mean", stereo.mean(axis=1)), (0, stereo[:, 0]), (1, stereo[:, 1])):
            np.testing.assert_allclose(zoo.read(source, RATE, channel=channel), wave, atol=1e-7)
            (result,) = zoo.embed(clip, [source], channel=channel)
            assert difference(result.values[0], by_hand(clip, wave.astype(np.float32))) < 1e-5
        with pytest.raises(ValueError, match="has no channel 2: it has 2, counted from 0"):
            zoo.read(source, RATE, channel=2)


@pytest.mark.parametrize(
    "source, kind, sentence",
    [
        ((np.zeros(100, np.int16), RATE), ValueError, "floating-point samples.*got int16.*divide int16 by 32768"),
        ((np.zeros((2, 3, 4)), RATE), ValueError, r"of the shape \(2, 3, 4\)"),
        ((np.zeros(100), 0), ValueError, "needs its sample rate, 100 to 10000000 Hz, got 0"),
        ((np.zeros(0), RATE), ValueError, "holds no samples"),
        ({"text": "a"}, TypeError, "got a dictionary of text"),
        (b"no sound at all", ValueError, "The sound cannot be read as sound"),
    ],
)
def test_a_source_that_is_no_recording_is_told(source, kind, sentence):
    with pytest.raises(kind, match=sentence):
        zoo.read(source, RATE)


def test_the_packaged_sound_is_rain_and_then_a_clock():
    (result,) = zoo.tag(zoo.load("resnet_esc10"), [zoo.example()], each="window")
    labels = zoo.info("resnet_esc10").labels
    assert [labels[index] for index in result.values.argmax(axis=1)] == ["rain", "rain", "clock_tick", "clock_tick"]
    assert isinstance(result.source, pathlib.Path) and result.duration == 20.0


LONG = """
import itertools, threading, numpy as np, zoo, zoo._recordings

def stream(source, *_):
    yield from [np.zeros(80000, np.float32)] if source == "short" else itertools.repeat(np.zeros(80000, np.float32))

zoo._recordings.stream = stream
results = zoo.embed(zoo.load("resnet_fsdd"), ["short", "long", "long", "long"], workers=2)
next(results)
print(threading.active_count(), flush=True)
raise RuntimeError("a fault of the caller")
"""


def test_a_process_ends_though_somebody_has_an_unfinished_iterator(tmp_path):
    """The recordings have no end, and an error of the caller leaves threads that read them."""
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", LONG], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "a fault of the caller" in done.stderr and int(done.stdout) == 3


def test_closing_waits_for_no_recording_to_end(clip, monkeypatch):
    closed = []

    def stream(source, *_):
        try:
            yield from [noise(10)] if source == "short" else itertools.repeat(noise(SIZE))
        finally:
            closed.append(source)

    monkeypatch.setattr(_recordings, "stream", stream)
    before = threading.active_count()
    results = zoo.embed(clip, ["short", "long", "long", "long"], workers=2)
    next(results)
    results.close()
    assert threading.active_count() == before and closed.count("long") >= 1


def test_one_recording_in_place_of_a_list_is_a_sentence(clip, tmp_path):
    path = write(tmp_path / "a.wav", noise(5000))
    for one in (path, str(path), path.read_bytes(), (noise(5000), RATE), {"bytes": b"", "path": None}):
        with pytest.raises(TypeError, match="is one recording, and this takes any number: give a list of them"):
            zoo.embed(clip, one)
    with pytest.raises(ValueError, match="labels='a' names no labels: give a list of them"):
        zoo.detect(clip, [path], labels="a")


@pytest.mark.parametrize(
    "wrong", [None, noise(10), bytearray(b"x"), [noise(10), RATE], (noise(10), None), {"text": "a"}]
)
def test_what_is_no_recording_stops_the_run_behind_what_was_before_it(clip, wrong):
    results = zoo.embed(clip, [(noise(500), RATE)] * 3 + [wrong], errors="keep")
    assert len([next(results) for _ in range(3)]) == 3
    with pytest.raises(TypeError, match="A recording is a path, bytes, an open file"):
        next(results)


def test_an_error_of_the_callers_generator_comes_behind_its_results(clip):
    def recordings():
        yield from [(noise(500), RATE)] * 3
        raise KeyError("the catalogue is gone")

    results = zoo.embed(clip, recordings())
    assert len([next(results) for _ in range(3)]) == 3
    with pytest.raises(KeyError, match="the catalogue is gone"):
        next(results)


def test_a_missing_value_of_datasets_and_an_empty_array_are_recordings_that_cannot_be_read(clip):
    sources = [{"bytes": None, "path": None}, (np.zeros((0, 2), np.float32), RATE), (noise(10), float("nan"))]
    errors = [result.error for result in zoo.embed(clip, sources, errors="keep")]
    assert errors[0] == "The recording has neither bytes nor a path." and errors[1] == "The sound holds no samples."
    assert "needs its sample rate" in errors[2]


def test_a_recording_lasts_as_long_as_it_does_though_its_end_is_left_out(clip):
    (result,) = zoo.embed(clip, [(noise(7000), RATE)], last="drop", each="window")
    assert result.end.tolist() == [0.5] and result.duration == 7000 / RATE


def test_a_hop_as_long_as_the_window_is_none_too_long(clip):
    (result,) = zoo.embed(clip, [(noise(9000), RATE)], window=0.33333, hop=0.33333, each="window")
    assert len(result.values) == 4
