"""Whole, cut and joined files of every container, and bounds of the numbers in a header."""

import struct

import numpy as np
import pytest
import soundfile
from sound_files import FORMATS, RATE, decode, read_quietly, replace_bytes, sound, write_sound

import zoo
from zoo._audio import stream
from zoo._decode import BLOCK, RATES, SoundError

JOINED = [name for name in FORMATS if name not in ("nist",)]


# Whole, cut and joined files of every container


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_whole_file_is_what_libsndfile_makes_of_it(tmp_path, kind, channels):
    if (kind, channels) == ("svx", 2):
        pytest.skip("8SVX is mono")
    path, _ = write_sound(tmp_path / "a", kind, sound(channels=channels))
    np.testing.assert_array_equal(read_quietly(path), decode(path))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_cut_file_raises(tmp_path, kind, share):
    path, data = write_sound(tmp_path / "a", kind)
    path.write_bytes(data[: round(share * len(data)) | 1])
    with pytest.raises(ValueError, match=r"a is cut short.*copy or record it again\."):
        zoo.read(path, RATE)


@pytest.mark.parametrize("kind", JOINED)
def test_recordings_joined_end_to_end_are_all_heard(tmp_path, kind):
    parts = [write_sound(tmp_path / str(seed), kind, sound(0.5 + seed, seed=seed)) for seed in range(3)]
    (tmp_path / "joined").write_bytes(b"".join(data for _, data in parts))
    expected = np.concatenate([decode(path) for path, _ in parts])
    np.testing.assert_array_equal(read_quietly(tmp_path / "joined"), expected)


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "opus", "mp3"])
def test_joined_recordings_of_other_rates_and_channels_are_resampled_each(tmp_path, kind):
    parts = [
        write_sound(tmp_path / str(rate), kind, sound(1.0, rate, rate, channels), rate)[0]
        for rate, channels in ((16000, 1), (48000, 2), (24000, 1))
    ]
    (tmp_path / "joined").write_bytes(b"".join(path.read_bytes() for path in parts))
    expected = np.concatenate([zoo.read(path, RATE) for path in parts])
    np.testing.assert_array_equal(read_quietly(tmp_path / "joined"), expected)


@pytest.mark.parametrize("kind", ["flac", "vorbis", "mp3", "wav"])
def test_the_last_of_joined_recordings_may_be_cut(tmp_path, kind):
    path, data = write_sound(tmp_path / "a", kind)
    path.write_bytes(data + data[: len(data) // 2 | 1])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tag_in_front_is_no_sound(tmp_path, kind):
    path, data = write_sound(tmp_path / "a", kind)
    expected = decode(path)
    path.write_bytes(b"ID3\x03\0\0" + bytes([0, 1, 0, 0]) + bytes(1 << 14) + data)
    np.testing.assert_array_equal(read_quietly(path), expected)


# Numbers in a header are bounded


@pytest.mark.parametrize("rate", [1, 8, RATES[0] - 1, RATES[1] + 1, 2**31 - 1])
def test_a_sample_rate_beyond_bounds_raises(tmp_path, rate):
    path, data = write_sound(tmp_path / "a", "wav")
    path.write_bytes(replace_bytes(data, 24, struct.pack("<I", rate)))
    for read in (lambda: zoo.read(path, RATE), lambda: next(zoo.windows(path, RATE, 1.0))):
        with pytest.raises(ValueError, match=f"a has {rate} samples a second by its header, .* 100 to 10000000"):
            read()


@pytest.mark.parametrize("channels, rate", [(1, RATES[0]), (1, RATES[1]), (100, 48000), (1000, 8000)])
def test_blocks_are_bounded_in_channels_and_in_output(tmp_path, channels, rate):
    samples = np.zeros((100_000, channels), np.int8) if channels < 1000 else np.zeros((3000, channels), np.int8)
    samples[::7] = 9
    path = tmp_path / "a.wav"
    soundfile.write(path, samples.astype(np.int16), rate)
    assert max(map(len, stream(path, RATE))) <= 2 * BLOCK  # what the resampler holds back comes with the next


@pytest.mark.parametrize("rate", [0, -1, 99, 10_000_001])
def test_a_rate_to_read_at_is_bounded_too(tmp_path, rate):
    path, _ = write_sound(tmp_path / "a", "wav")
    with pytest.raises(ValueError, match=f"Sound is read at a whole number of 100 to 10000000 Hz, got {rate}"):
        zoo.read(path, rate)


def test_a_file_object_is_read_as_its_path(tmp_path):
    for kind in ("wav", "flac", "mp3"):
        path, _ = write_sound(tmp_path / kind, kind)
        with open(path, "rb") as file:
            np.testing.assert_array_equal(zoo.read(file, RATE), zoo.read(path, RATE))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_any_bytes_give_sound_or_one_sentence(tmp_path, kind):
    path, data = write_sound(tmp_path / "a", kind, sound(0.2))
    draw = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(data)
        for _ in range(draw.integers(1, 4)):
            at = int(draw.integers(min(len(content), draw.choice([16, 64, len(content)]))))
            odd = struct.pack("<I", draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
            content = [
                content[: at + 1],
                content + content[at:],
                replace_bytes(content, at, odd),
                replace_bytes(content, at, b"?"),
            ][draw.integers(4)]
        path.write_bytes(content)
        try:
            assert np.isfinite(zoo.read(path, RATE)).all()
        except SoundError as error:
            assert str(path) in str(error) and "\n" not in str(error)
