"""WAV, RF64, W64, AIFF, 8SVX, CAF and AU: what a file holds against the lengths in its header."""

import os
import struct

import numpy as np
import pytest
import soundfile
from sound_files import RATE, decode, read_quietly, replace_bytes, sound, write_sound

import zoo
from zoo._containers import links
from zoo._decode import SoundError

PLACEHOLDERS = {
    "ffmpeg": 0xFFFFFFFF, "sox": 0x7FFFF000, "arecord": 0x80000000, "android": 0x7FFFFFFF, "others": 0xFFFFFFFF - 36,
    "sox aligned": 0x7FFFEFDC, "a crash": 0,
}  # fmt: skip


def places(kind, data):
    """(where a size lies, how it is written) of the sound, then of the whole."""
    return {
        "wav": lambda: [(data.index(b"data") + 4, "<I"), (4, "<I")],
        "aiff": lambda: [(data.index(b"SSND") + 4, ">I"), (4, ">I")],
        "svx": lambda: [(data.index(b"BODY") + 4, ">I"), (4, ">I")],
        "rf64": lambda: [(28, "<Q"), (20, "<Q")],
        "w64": lambda: [(data.index(b"data\xf3") + 16, "<Q"), (16, "<Q")],
        "caf": lambda: [(data.index(b"data") + 4, ">q")],
        "au": lambda: [(8, ">I")],
    }[kind]()


@pytest.mark.parametrize("kind", ["wav", "aiff", "svx", "au"])
@pytest.mark.parametrize("size", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_writer_that_cannot_go_back_leaves_a_placeholder(tmp_path, kind, size, whole):
    path, data = write_sound(tmp_path / "a", kind)
    expected = decode(path)
    for place, form in places(kind, data)[: 1 + whole]:
        data = replace_bytes(data, place, struct.pack(form, size))
    path.write_bytes(data)
    np.testing.assert_array_equal(read_quietly(path), expected)


@pytest.mark.parametrize("kind, size", [("rf64", 0), ("rf64", 2**64 - 1), ("w64", 24), ("w64", 2**63), ("caf", -1)])
def test_so_do_writers_of_64_bits(tmp_path, kind, size):
    path, data = write_sound(tmp_path / "a", kind)
    expected = decode(path)
    for place, form in places(kind, data):
        data = replace_bytes(data, place, struct.pack(form, size))
    path.write_bytes(data)
    np.testing.assert_array_equal(read_quietly(path), expected)


def test_aiff_has_a_number_of_frames_beside_the_size(tmp_path):
    path, data = write_sound(tmp_path / "a", "aiff")
    expected = decode(path)
    for frames in (0, 1000, 0xFFFFFFFF):
        path.write_bytes(replace_bytes(data, data.index(b"COMM") + 10, struct.pack(">I", frames)))
        np.testing.assert_array_equal(read_quietly(path), expected)


@pytest.mark.parametrize("kind", ["wav", "aiff", "svx", "rf64", "w64", "caf", "au"])
@pytest.mark.parametrize("whole", [False, True])
def test_sound_that_the_header_does_not_count_is_heard_with_a_warning(tmp_path, kind, whole):
    path, data = write_sound(tmp_path / "a", kind)
    expected = decode(path)
    for place, form in places(kind, data)[: 1 + whole]:
        (size,) = struct.unpack_from(form, data, place)
        data = replace_bytes(data, place, struct.pack(form, size - 16000))
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="its header counts .* bytes of sound, and 160.. more bytes follow"):
        np.testing.assert_array_equal(zoo.read(path, RATE), expected)


def test_a_size_that_the_whole_contradicts_is_not_a_cut(tmp_path):
    path, data = write_sound(tmp_path / "a", "wav")
    expected = decode(path)
    path.write_bytes(replace_bytes(data, 40, struct.pack("<I", 2 * len(data))))
    np.testing.assert_array_equal(read_quietly(path), expected)


BEHIND = {
    "a chunk": b"LIST" + struct.pack("<I", 10) + b"INFOISFT\0\0",
    "two chunks": b"LIST" + struct.pack("<I", 4) + b"INFO" + b"junk" + struct.pack("<I", 3) + b"abc\0",
    "an id3 chunk": b"id3 " + struct.pack("<I", 20) + bytes(20),
    "an odd chunk without padding": b"LIST" + struct.pack("<I", 5) + b"INFOa",
    "a tag": b"TAG" + bytes(125),
    "an APE tag": b"APETAGEX" + bytes(24),
    "padding": bytes(6),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("samples", [1000, 1001])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8"])
def test_what_lies_behind_the_sound_is_not_heard(tmp_path, behind, samples, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(samples / RATE), RATE, subtype=subtype)
    expected, data = decode(path), path.read_bytes()
    path.write_bytes(replace_bytes(data, 4, struct.pack("<I", len(data) + len(behind) - 8)) + behind)
    np.testing.assert_array_equal(read_quietly(path), expected)


def test_room_that_was_left_behind_the_sound_is_not_heard(tmp_path):
    path, data = write_sound(tmp_path / "a", "wav", sound(1.0))
    for zeros in (9, 30, 4096, 200_001):
        path.write_bytes(data + bytes(zeros))
        assert len(zoo.read(path, RATE)) == RATE


def test_a_cut_is_told_where_the_size_of_the_whole_is_unknown(tmp_path):
    path, data = write_sound(tmp_path / "a", "wav", sound(1.0))
    for total in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        path.write_bytes(replace_bytes(data, 4, total)[: len(data) * 2 // 3])
        with pytest.raises(SoundError, match="is cut short"):
            zoo.read(path, RATE)
        path.write_bytes(replace_bytes(data, 4, total))
        assert len(zoo.read(path, RATE)) == RATE


def test_a_file_cut_behind_its_sound_is_whole_and_one_cut_within_is_not_whatever_lies_before(tmp_path):
    path, data = write_sound(tmp_path / "a", "wav")
    expected, notes = decode(path), b"LIST" + struct.pack("<I", 5000) + b"INFO" + bytes(4996)
    data = data[:36] + notes + data[36:] + notes
    data = replace_bytes(data, 4, struct.pack("<I", len(data) - 8))
    path.write_bytes(data[:-3000])
    np.testing.assert_array_equal(read_quietly(path), expected)
    path.write_bytes(data[:-6000])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 100_000_000])
def test_a_wav_of_more_than_4_gb_is_divided(tmp_path, size):
    path, data = write_sound(tmp_path / "a", "wav", sound(channels=2))
    path.write_bytes(replace_bytes(data[:44], 40, struct.pack("<I", size)))
    os.truncate(path, 44 + 5_000_000_000)  # sparse
    with open(path, "rb") as file:
        parts = links(file)
        sizes = [soundfile.info(link.view).frames for link in parts]
    assert len(parts) == 3 and sum(sizes) == 5_000_000_000 // 4
    assert not any(link.is_cut for link in parts)
