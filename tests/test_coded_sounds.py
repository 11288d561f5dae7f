"""FLAC, Ogg and MP3: what a file holds against its counts, its pages and the tags around it."""

import re
import struct

import numpy as np
import pytest
from sound_files import RATE, decode, read_quietly, replace_bytes, sound, strip_count, write_sound

import zoo

# FLAC


@pytest.mark.parametrize("total", [0, 1, 16000, 31999])
def test_a_flac_header_may_count_too_few_samples(tmp_path, total):
    path, data = write_sound(tmp_path / "a", "flac")
    expected = decode(path)
    path.write_bytes(replace_bytes(data, 22, struct.pack(">I", total)))
    np.testing.assert_array_equal(read_quietly(path), expected)


@pytest.mark.parametrize("total", [0, 32000, 40000])
def test_a_flac_file_that_is_cut_raises_whatever_its_header_counts(tmp_path, total):
    path, data = write_sound(tmp_path / "a", "flac")
    path.write_bytes(replace_bytes(data, 22, struct.pack(">I", total))[: len(data) - (0 if total == 40000 else 500)])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


def test_a_tag_behind_flac_is_no_sound(tmp_path):
    path, data = write_sound(tmp_path / "a", "flac")
    expected = decode(path)
    path.write_bytes(data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(read_quietly(path), expected)


# Ogg


def pages(data):
    """Where its pages begin and end."""
    at = 0
    while at < len(data):
        segments = data[at + 26]
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        yield at, end
        at = end


def sign(page):
    """The page with its right check sum, of 32 bits, polynomial 0x04C11DB7."""
    page, value = replace_bytes(page, 22, bytes(4)), 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return replace_bytes(page, 22, struct.pack("<I", value))


def test_ogg_without_a_last_page_is_heard_with_a_warning(tmp_path):
    path, data = write_sound(tmp_path / "a", "vorbis")
    expected = decode(path)
    *_, (start, end) = pages(data)
    path.write_bytes(data[:start] + sign(replace_bytes(data[start:end], 5, bytes([data[start + 5] & ~4]))))
    with pytest.warns(UserWarning, match="its last page is missing, so it may be cut short"):
        wave = zoo.read(path, RATE)
    np.testing.assert_array_equal(wave[: len(expected)], expected)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_cut_between_pages_warns(tmp_path, kind):
    path, data = write_sound(tmp_path / "a", kind, sound(8.0))
    path.write_bytes(data[: list(pages(data))[-1][0]])
    with pytest.warns(UserWarning, match="may be cut short"):
        assert RATE < len(zoo.read(path, RATE)) < 8 * RATE


def test_rubbish_between_and_behind_ogg_pages_is_left_out(tmp_path):
    path, data = write_sound(tmp_path / "a", "vorbis")
    expected = decode(path)
    path.write_bytes(data + b"rubbish" * 99 + data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(read_quietly(path), np.concatenate([expected, expected]))


# MP3

PICTURE = b"ID3\x03\0\0" + bytes([0, 3, 0, 0]) + bytes(range(256)) * 192  # a tag of 48 kB, as a cover makes it
CBR = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}  # whose length libsndfile guesses right
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 50, 0, 1 << 31) + bytes(8)
APE = APE + bytes(2000 - 32) + APE


@pytest.mark.parametrize("mode, quality", [("CONSTANT", 0.5), ("VARIABLE", 0.5), ("AVERAGE", 0.2)])
@pytest.mark.parametrize("rate", [44100, 22050, 8000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_a_count_is_heard_to_its_last_frame(tmp_path, mode, quality, rate, channels):
    wave = sound(3.0, rate, channels=channels)
    wave[:rate] *= 0.001  # a quiet second: its frames are small, and a guess by them too large; then too small
    for samples in (wave, wave[::-1]):
        options = {"bitrate_mode": mode, "compression_level": quality}
        path, data = write_sound(tmp_path / "a", "mp3", samples, rate, **options)
        whole, frame = read_quietly(path, rate), 1152 if rate > 24000 else 576
        assert len(whole) == 3 * rate
        path.write_bytes(strip_count(data))
        output = read_quietly(path, rate)
        assert len(output) % frame == 0 and 3 * rate < len(output) < 3 * rate + 4 * frame
        delay = np.argmax(np.correlate(output[rate : 2 * rate], whole[rate : 2 * rate - 4 * frame], "valid"))
        np.testing.assert_allclose(output[rate + delay : 2 * rate], whole[rate : 2 * rate - delay], atol=2e-3)


@pytest.mark.parametrize("count", ["none", "as written", "1", "too few", "one more"])
@pytest.mark.parametrize("before", [b"", PICTURE, PICTURE + PICTURE], ids=["", "picture", "two"])
@pytest.mark.parametrize(
    "behind", [b"", b"TAG" + bytes(125), APE, APE + b"TAG" + bytes(125)], ids=["", "TAG", "APE", "both"]
)
def test_tags_around_an_mp3_are_no_sound(tmp_path, count, before, behind):
    path, data = write_sound(tmp_path / "a", "mp3", sound(1.0), **CBR)
    place = data.index(b"Xing" if b"Xing" in data[:64] else b"Info") + 8
    (frames,) = struct.unpack_from(">I", data, place)
    expected = decode(path)
    if count == "none":
        path.write_bytes(data := strip_count(data))
        expected = decode(path)
    else:
        counts = {"as written": frames, "1": 1, "too few": frames // 2, "one more": frames + 1}
        data = replace_bytes(data, place, struct.pack(">I", counts[count]))
    path.write_bytes(before + data + behind)
    np.testing.assert_array_equal(read_quietly(path), expected)


@pytest.mark.parametrize(
    "between", [b"TAG" + bytes(125), APE, PICTURE, bytes(5000)], ids=["TAG", "APE", "ID3", "zeros"]
)
@pytest.mark.parametrize("counted", [True, False])
def test_tags_between_joined_mp3s_are_no_sound(tmp_path, between, counted):
    path, data = write_sound(tmp_path / "a", "mp3", sound(1.0), **CBR)
    data = data if counted else strip_count(data)
    path.write_bytes(data)
    alone = decode(path)
    path.write_bytes(data + between + data)
    wave = read_quietly(path)
    assert len(wave) == 2 * len(alone)
    np.testing.assert_array_equal(wave[: len(alone) - 1152], alone[:-1152])


@pytest.mark.parametrize("data", ["counted", "bare"])
@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125)], ids=["", "TAG"])
def test_an_mp3_whose_last_frame_is_incomplete_is_cut(tmp_path, data, behind):
    path, counted = write_sound(tmp_path / "a", "mp3", sound(1.0))
    content = counted if data == "counted" else strip_count(counted)
    path.write_bytes(content[:-10] + behind)
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


def test_an_mp3_whose_count_is_too_large_is_cut(tmp_path):
    path, data = write_sound(tmp_path / "a", "mp3", sound(1.0))
    starts = [match.start() for match in re.finditer(re.escape(data[:2]), data)]
    path.write_bytes(data[: starts[len(starts) // 2]])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)
