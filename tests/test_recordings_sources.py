"""`zoo.embed` and `zoo.tag`: sources of all kinds, what cannot be read, and streams without an end."""

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
from recordings import SIZE, by_hand, difference, load, noise, write
from tiny_resnet import RATE

import zoo
from zoo import _batches, _pretrained, _recordings, _result


@pytest.fixture(scope="module")
def clip():
    return load()


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
    numbers = []

    def endless():
        for number in itertools.count():
            numbers.append(number)
            yield noise(4000 + number, number), RATE

    results = zoo.embed(clip, endless(), workers=2, batch=8)
    assert len(list(itertools.islice(results, 20))) == 20
    assert len(numbers) < 20 + 3 * 8 + 2 * 2 + 8  # batches under way, recordings begun, a batch to fill
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
    process = subprocess.run([sys.executable, "-c", LONG], env=environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1 and "a fault of the caller" in process.stderr and int(process.stdout) == 3


def test_closing_waits_for_no_recording_to_end(clip, monkeypatch):
    sources_closed = []

    def stream(source, *_):
        try:
            yield from [noise(10)] if source == "short" else itertools.repeat(noise(SIZE))
        finally:
            sources_closed.append(source)

    monkeypatch.setattr(_recordings, "stream", stream)
    before = threading.active_count()
    results = zoo.embed(clip, ["short", "long", "long", "long"], workers=2)
    next(results)
    results.close()
    assert threading.active_count() == before and sources_closed.count("long") >= 1


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
