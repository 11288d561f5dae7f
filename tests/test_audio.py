"""Sound files: formats, resampling, windows, memory, and files that are not what they should be."""

import os
import pathlib
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import soundfile
import soxr

import zoo
from zoo._audio import cut, window_size
from zoo._decode import BLOCK

ROOT = pathlib.Path(__file__).parents[1]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def write(path, samples, sample_rate=16000, subtype=None):
    soundfile.write(path, samples, sample_rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    "suffix, subtype", [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
)
def test_read_gives_the_samples_of_a_file_at_its_own_rate(tmp_path, suffix, subtype):
    path = write(tmp_path / f"a.{suffix}", noise(5000), subtype=subtype)
    wave = zoo.read(path, 16000)
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, soundfile.read(path, dtype="float32")[0])


def test_read_of_float_wav_is_exact(tmp_path):
    samples = noise(5000)
    np.testing.assert_array_equal(zoo.read(write(tmp_path / "a.wav", samples, subtype="FLOAT"), 16000), samples)


def test_read_takes_mp3(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 32000)
    wave = zoo.read(str(write(tmp_path / "a.mp3", tone, 32000)), 32000)
    assert wave.shape == (32000,)
    assert np.argmax(np.abs(np.fft.rfft(wave))) == 440


def test_read_takes_a_path_as_text(tmp_path):
    samples = noise(800)
    np.testing.assert_array_equal(zoo.read(str(write(tmp_path / "a.wav", samples, subtype="FLOAT")), 16000), samples)


def test_read_averages_channels(tmp_path):
    channels = noise(3000, 3)
    wave = zoo.read(write(tmp_path / "a.wav", channels, subtype="FLOAT"), 16000)
    np.testing.assert_allclose(wave, channels.astype(np.float64).mean(axis=1), atol=1e-7)


def test_read_of_opposite_channels_is_silence(tmp_path):
    left = noise(3000)
    path = write(tmp_path / "a.wav", np.stack([left, -left], axis=1), 44100, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"a\.wav has channels in opposite phase, whose mean is silent") as warnings:
        assert np.abs(zoo.read(path, 16000)).max() == 0.0
    assert len(warnings) == 1 and warnings[0].filename == __file__


@pytest.mark.parametrize("share, warned", [(-1.0, True), (-0.999, True), (-0.9, False), (0.0, False), (1.0, False)])
def test_only_a_mean_that_is_silent_is_warned_of(tmp_path, share, warned):
    left = noise(3 * BLOCK)
    path = write(tmp_path / "a.wav", np.stack([left, share * left], axis=1), subtype="FLOAT")
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        list(zoo.windows(path, 16000, 1.0))
    assert len(messages) == warned


def test_silence_is_not_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not zoo.read(write(tmp_path / "a.wav", np.zeros((5000, 2))), 16000).any()


@pytest.mark.parametrize("rate, wanted", [(44100, 16000), (8000, 32000), (48000, 16000), (22050, 32000), (11025, 8000)])
@pytest.mark.parametrize("samples", [50, 4999, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 777])
def test_resampling_in_blocks_is_resampling_of_the_whole(tmp_path, rate, wanted, samples):
    wave = noise(samples, seed=samples)
    ours = zoo.read(write(tmp_path / "a.wav", wave, rate, subtype="FLOAT"), wanted)
    whole = soxr.resample(wave, rate, wanted)
    assert ours.shape == whole.shape
    np.testing.assert_allclose(ours, whole, atol=2e-6)


def test_resampling_keeps_a_tone_and_drops_what_lies_above_half_the_new_rate(tmp_path):
    time = np.arange(44100) / 44100
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 12000 * time)
    wave = zoo.read(write(tmp_path / "a.wav", 0.4 * (low + high), 44100, subtype="FLOAT"), 16000)
    middle = slice(2000, 14000)
    expected = 0.4 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    np.testing.assert_allclose(wave[middle], expected[middle], atol=1e-3)


def test_read_takes_a_wav_whose_header_was_written_to_a_pipe(tmp_path):
    samples = noise(800)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    content = bytearray(path.read_bytes())
    for size in (4, content.index(b"data") + 4):
        content[size : size + 4] = b"\xff" * 4  # the length that a pipe cannot go back to write
    path.write_bytes(content)
    np.testing.assert_array_equal(zoo.read(path, 16000), samples)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode")
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a\nb.wav", "\u9ce5 \U0001f426.wav".encode(), b"[x]*$y$ .wav"])
def test_any_name_is_read(tmp_path, name):
    samples, path = noise(8000), tmp_path / os.fsdecode(name)
    write(tmp_path / "x.wav", samples, subtype="FLOAT").rename(path)
    for each in (path, str(path)):
        np.testing.assert_array_equal(zoo.read(each, 16000), samples)
    assert len(list(zoo.windows(path, 16000, 0.25))) == 2
    path.write_text("no sound")
    with pytest.raises(ValueError, match="cannot be read as sound"):
        zoo.read(path, 16000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_read_takes_a_pipe(tmp_path):
    path, pipe = write(tmp_path / "a.flac", noise(5000)), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    np.testing.assert_array_equal(zoo.read(pipe, 16000), zoo.read(path, 16000))
    writer.join()


@pytest.mark.parametrize("name", ["none.wav", ".", "a.txt/b.wav", "a\0.wav"])
def test_read_of_no_file_raises(tmp_path, name):
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match="is not a file"):
        zoo.read(tmp_path / name, 16000)


def test_read_of_text_raises(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("These are notes about a recording.\n" * 50)
    with pytest.raises(ValueError, match=r"notes\.wav cannot be read as sound"):
        zoo.read(path, 16000)


@pytest.mark.parametrize("suffix, subtype", [("flac", None), ("mp3", None), ("wav", "PCM_16")])
@pytest.mark.parametrize("wanted", [16000, 8000])
def test_read_of_a_file_cut_short_raises(tmp_path, suffix, subtype, wanted):
    path = write(tmp_path / f"a.{suffix}", noise(100_000), subtype=subtype)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix} "):
        zoo.read(path, wanted)


@pytest.mark.parametrize("wanted", [16000, 8000])
def test_read_of_an_empty_file_raises(tmp_path, wanted):
    with pytest.raises(ValueError, match=r"empty\.wav holds no samples"):
        zoo.read(write(tmp_path / "empty.wav", np.zeros(0, np.float32)), wanted)


def test_read_of_no_bytes_raises(tmp_path):
    (tmp_path / "void.wav").touch()
    with pytest.raises(ValueError, match=r"void\.wav cannot be read as sound"):
        zoo.read(tmp_path / "void.wav", 16000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wanted", [16000, 8000])
def test_read_of_non_finite_samples_raises(tmp_path, value, wanted):
    wave = noise(20_000, 2)
    wave[15_000, 1] = value
    with pytest.raises(ValueError, match=r"a\.wav holds NaN or infinite samples"):
        zoo.read(write(tmp_path / "a.wav", wave, subtype="FLOAT"), wanted)


@pytest.mark.parametrize("rate, wanted", [(16000, 16000), (44100, 16000)])
@pytest.mark.parametrize("samples", [3000, 16000, 44100, 2 * BLOCK + 11])
@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_windows_cover_the_file(tmp_path, rate, wanted, samples, seconds):
    path = write(tmp_path / "a.wav", noise(samples), rate, subtype="FLOAT")
    whole = zoo.read(path, wanted)
    size = round(seconds * wanted)
    pieces = list(zoo.windows(path, wanted, seconds))
    rest = len(whole) % size
    length = len(whole) - rest if rest < size / 10 and len(whole) > size else len(whole)
    assert [wave.shape for wave, _ in pieces] == [(size,)] * -(-length // size)
    assert [count for _, count in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert min(size / 10, len(whole)) <= pieces[-1][1] <= size
    np.testing.assert_array_equal(np.concatenate([wave[:count] for wave, count in pieces]), whole[:length])
    last, count = pieces[-1]
    assert not last[count:].any()


@pytest.mark.parametrize("samples", [8000, 16000, BLOCK // 8000 * 8000])
def test_windows_of_a_file_of_whole_windows_have_no_empty_one_at_the_end(tmp_path, samples):
    path = write(tmp_path / "a.wav", noise(samples))
    assert [count for _, count in zoo.windows(path, 16000, 0.5)] == [8000] * (samples // 8000)


def test_windows_longer_than_a_block(tmp_path):
    wave = noise(3 * BLOCK)
    path = write(tmp_path / "a.wav", wave, subtype="FLOAT")
    first, second = zoo.windows(path, 16000, 2 * BLOCK / 16000)
    np.testing.assert_array_equal(first[0], wave[: 2 * BLOCK])
    np.testing.assert_array_equal(second[0][: second[1]], wave[2 * BLOCK :])


def test_windows_raise_what_read_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        next(zoo.windows(tmp_path / "none.wav", 16000, 1.0))
    with pytest.raises(ValueError, match="holds no samples"):
        next(zoo.windows(write(tmp_path / "empty.wav", np.zeros(0, np.float32)), 16000, 1.0))


def spans(samples, size):
    """(start, samples) of the windows of a recording: a last one has at least a tenth of its samples."""
    count = max(1, (samples - -(-size // 10)) // size + 1)
    return [(index * size, min(size, samples - index * size)) for index in range(count if samples else 0)]


@pytest.mark.parametrize("samples", [1, 799, 800, 8000, 8001, 8799, 8800, 16000, 16016, 16799, 16800])
def test_a_rest_shorter_than_a_tenth_belongs_to_the_window_before(samples):
    pieces = list(cut([noise(samples)], 8000))
    count = {16000: 2, 16016: 2, 16799: 2, 16800: 3, 8800: 2}.get(samples, 1)
    assert [piece.start for piece in pieces] == [8000 * index for index in range(count)]
    assert pieces[-1].end == samples
    assert all(piece.samples >= 800 for piece in pieces) or samples < 800
    assert [(piece.start, piece.samples) for piece in pieces] == spans(samples, 8000)


@pytest.mark.parametrize("size", [1, 7, 10, 100])
def test_spans_are_those_of_cut_whatever_the_blocks(size):
    for samples in (0, 1, 9, 10, 11, 99, 100, 101, 109, 110, 111, 250):
        wave = noise(samples)
        for parts in ([wave], np.array_split(wave, 7), list(wave.reshape(-1, 1))):
            pieces = list(cut(parts, size))
            assert [(piece.start, piece.samples) for piece in pieces] == spans(samples, size)
            for piece in pieces:
                np.testing.assert_array_equal(piece.wave[: piece.samples], wave[piece.start :][: piece.samples])
                assert piece.wave.shape == (size,) and not piece.wave[piece.samples :].any()


@pytest.mark.parametrize("size, hop, rest, step", [(100, 50, None, None), (100, 30, 1, 10), (100, 90, 5, 30)])
@pytest.mark.parametrize("samples", [1, 60, 100, 101, 104, 105, 130, 191, 600, 1003])
def test_windows_may_overlap_and_the_last_may_begin_on_a_step(size, hop, rest, step, samples):
    wave = noise(samples)
    pieces = list(cut(np.array_split(wave, 5), size, hop, rest=rest, step=step))
    assert [piece.start for piece in pieces[:-1]] == [hop * index for index in range(len(pieces) - 1)]
    assert samples - (pieces[-1].start + size) < (rest or size / 10)
    for piece in pieces:
        np.testing.assert_array_equal(piece.wave[: piece.samples], wave[piece.start :][: piece.samples])
    if step and len(pieces) > 1:
        assert pieces[-1].start % step == 0 and pieces[-1].samples > size - step
    assert pieces[-1].end == samples


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-5, np.nan, np.inf, -np.inf])
def test_a_window_of_no_seconds_raises(tmp_path, seconds):
    path = write(tmp_path / "a.wav", noise(8000), 8000)
    with pytest.raises(
        ValueError, match=r"finite number of seconds, at least one sample \(0.00013 s at 8000 Hz\), got"
    ):
        list(zoo.windows(path, 8000, seconds))
    assert window_size(1 / 8000, 8000) == 1


PEAK = """
import sys, zoo
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
pieces = zoo.windows(sys.argv[1], 16000, 10.0)
next(pieces)
before = peak()
seconds = 10 + sum(count for _, count in pieces) / 16000
print(seconds, peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_windows_of_an_hour_take_little_memory(tmp_path):
    minute = (0.1 * np.sin(2 * np.pi * 300 * np.arange(60 * 8000) / 8000)).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 8000, 1) as file:
        for index in range(60):
            file.write(minute if index % 10 == 0 else 0 * minute)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "hour.flac"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds == 3600.0
    assert megabytes < 40  # the hour at 16 kHz has 230
