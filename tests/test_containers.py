"""What files hold against what their headers say: lengths that lie, recordings joined end to end, cut files."""

import os
import re
import struct
import warnings

import numpy as np
import pytest
import soundfile

import zoo
from zoo._audio import stream
from zoo._containers import links
from zoo._decode import BLOCK, RATES, SoundError

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wavex": ("WAVEX", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "ULAW"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
JOINED = [name for name in FORMATS if name not in ("nist",)]


def sound(seconds=2.0, rate=RATE, seed=0, channels=1):
    """Noise from soft to loud: what is not heard is missed."""
    shape = (round(seconds * rate), channels)[: 1 + (channels > 1)]
    ramp = np.linspace(0.05, 0.5, shape[0]).reshape(-1, *[1] * (channels > 1))
    return np.random.default_rng(seed).uniform(-1, 1, shape) * ramp


def written(path, kind, samples=None, rate=RATE, **options):
    """The path of a file of that kind, and its bytes."""
    form, subtype = FORMATS[kind]
    soundfile.write(path, sound() if samples is None else samples, rate, subtype=subtype, format=form, **options)
    return path, path.read_bytes()


def decoded(path):
    """What libsndfile makes of the file, mono. How MP3 is rounded depends on the size of its blocks."""
    with soundfile.SoundFile(path) as file:
        return file.read(BLOCK, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)


def changed(data, at, content):
    return data[:at] + content + data[at + len(content) :]


def quietly(path, rate=RATE):
    """What is read, where nothing may be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return zoo.read(path, rate)


def bare(mp3):
    """An MP3 file without its first frame, which holds the count."""
    return mp3[mp3.index(mp3[:2], 36) :]


# Whole, cut and joined files of every container


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_whole_file_is_what_libsndfile_makes_of_it(tmp_path, kind, channels):
    if (kind, channels) == ("svx", 2):
        pytest.skip("8SVX is mono")
    path, _ = written(tmp_path / "a", kind, sound(channels=channels))
    np.testing.assert_array_equal(quietly(path), decoded(path))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_cut_file_raises(tmp_path, kind, share):
    path, data = written(tmp_path / "a", kind)
    path.write_bytes(data[: round(share * len(data)) | 1])
    with pytest.raises(ValueError, match=r"a is cut short.*copy or record it again\."):
        zoo.read(path, RATE)


@pytest.mark.parametrize("kind", JOINED)
def test_recordings_joined_end_to_end_are_all_heard(tmp_path, kind):
    parts = [written(tmp_path / str(seed), kind, sound(0.5 + seed, seed=seed)) for seed in range(3)]
    (tmp_path / "joined").write_bytes(b"".join(data for _, data in parts))
    expected = np.concatenate([decoded(path) for path, _ in parts])
    np.testing.assert_array_equal(quietly(tmp_path / "joined"), expected)


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "opus", "mp3"])
def test_joined_recordings_of_other_rates_and_channels_are_resampled_each(tmp_path, kind):
    parts = [
        written(tmp_path / str(rate), kind, sound(1.0, rate, rate, channels), rate)[0]
        for rate, channels in ((16000, 1), (48000, 2), (24000, 1))
    ]
    (tmp_path / "joined").write_bytes(b"".join(path.read_bytes() for path in parts))
    expected = np.concatenate([zoo.read(path, RATE) for path in parts])
    np.testing.assert_array_equal(quietly(tmp_path / "joined"), expected)


@pytest.mark.parametrize("kind", ["flac", "vorbis", "mp3", "wav"])
def test_the_last_of_joined_recordings_may_be_cut(tmp_path, kind):
    path, data = written(tmp_path / "a", kind)
    path.write_bytes(data + data[: len(data) // 2 | 1])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tag_in_front_is_no_sound(tmp_path, kind):
    path, data = written(tmp_path / "a", kind)
    expected = decoded(path)
    path.write_bytes(b"ID3\x03\0\0" + bytes([0, 1, 0, 0]) + bytes(1 << 14) + data)
    np.testing.assert_array_equal(quietly(path), expected)


# Chunks: WAV, RF64, W64, AIFF, 8SVX, CAF; and AU

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
    path, data = written(tmp_path / "a", kind)
    expected = decoded(path)
    for place, form in places(kind, data)[: 1 + whole]:
        data = changed(data, place, struct.pack(form, size))
    path.write_bytes(data)
    np.testing.assert_array_equal(quietly(path), expected)


@pytest.mark.parametrize("kind, size", [("rf64", 0), ("rf64", 2**64 - 1), ("w64", 24), ("w64", 2**63), ("caf", -1)])
def test_so_do_writers_of_64_bits(tmp_path, kind, size):
    path, data = written(tmp_path / "a", kind)
    expected = decoded(path)
    for place, form in places(kind, data):
        data = changed(data, place, struct.pack(form, size))
    path.write_bytes(data)
    np.testing.assert_array_equal(quietly(path), expected)


def test_aiff_has_a_number_of_frames_beside_the_size(tmp_path):
    path, data = written(tmp_path / "a", "aiff")
    expected = decoded(path)
    for frames in (0, 1000, 0xFFFFFFFF):
        path.write_bytes(changed(data, data.index(b"COMM") + 10, struct.pack(">I", frames)))
        np.testing.assert_array_equal(quietly(path), expected)


@pytest.mark.parametrize("kind", ["wav", "aiff", "svx", "rf64", "w64", "caf", "au"])
@pytest.mark.parametrize("whole", [False, True])
def test_sound_that_the_header_does_not_count_is_heard_with_a_warning(tmp_path, kind, whole):
    path, data = written(tmp_path / "a", kind)
    expected = decoded(path)
    for place, form in places(kind, data)[: 1 + whole]:
        (size,) = struct.unpack_from(form, data, place)
        data = changed(data, place, struct.pack(form, size - 16000))
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="its header counts .* bytes of sound, and 160.. more bytes follow"):
        np.testing.assert_array_equal(zoo.read(path, RATE), expected)


def test_a_size_that_the_whole_contradicts_is_not_a_cut(tmp_path):
    path, data = written(tmp_path / "a", "wav")
    expected = decoded(path)
    path.write_bytes(changed(data, 40, struct.pack("<I", 2 * len(data))))
    np.testing.assert_array_equal(quietly(path), expected)


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
    expected, data = decoded(path), path.read_bytes()
    path.write_bytes(changed(data, 4, struct.pack("<I", len(data) + len(behind) - 8)) + behind)
    np.testing.assert_array_equal(quietly(path), expected)


def test_room_that_was_left_behind_the_sound_is_not_heard(tmp_path):
    path, data = written(tmp_path / "a", "wav", sound(1.0))
    for zeros in (9, 30, 4096, 200_001):
        path.write_bytes(data + bytes(zeros))
        assert len(zoo.read(path, RATE)) == RATE


def test_a_cut_is_told_where_the_size_of_the_whole_is_unknown(tmp_path):
    path, data = written(tmp_path / "a", "wav", sound(1.0))
    for total in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        path.write_bytes(changed(data, 4, total)[: len(data) * 2 // 3])
        with pytest.raises(SoundError, match="is cut short"):
            zoo.read(path, RATE)
        path.write_bytes(changed(data, 4, total))
        assert len(zoo.read(path, RATE)) == RATE


def test_a_file_cut_behind_its_sound_is_whole_and_one_cut_within_is_not_whatever_lies_before(tmp_path):
    path, data = written(tmp_path / "a", "wav")
    expected, notes = decoded(path), b"LIST" + struct.pack("<I", 5000) + b"INFO" + bytes(4996)
    data = data[:36] + notes + data[36:] + notes
    data = changed(data, 4, struct.pack("<I", len(data) - 8))
    path.write_bytes(data[:-3000])
    np.testing.assert_array_equal(quietly(path), expected)
    path.write_bytes(data[:-6000])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 100_000_000])
def test_a_wav_of_more_than_4_gb_is_divided(tmp_path, size):
    path, data = written(tmp_path / "a", "wav", sound(channels=2))
    path.write_bytes(changed(data[:44], 40, struct.pack("<I", size)))
    os.truncate(path, 44 + 5_000_000_000)  # sparse
    with open(path, "rb") as file:
        parts = links(file)
        sizes = [soundfile.info(link.view).frames for link in parts]
    assert len(parts) == 3 and sum(sizes) == 5_000_000_000 // 4
    assert not any(link.is_cut for link in parts)


# FLAC


@pytest.mark.parametrize("total", [0, 1, 16000, 31999])
def test_a_flac_header_may_count_too_few_samples(tmp_path, total):
    path, data = written(tmp_path / "a", "flac")
    expected = decoded(path)
    path.write_bytes(changed(data, 22, struct.pack(">I", total)))
    np.testing.assert_array_equal(quietly(path), expected)


@pytest.mark.parametrize("total", [0, 32000, 40000])
def test_a_flac_file_that_is_cut_raises_whatever_its_header_counts(tmp_path, total):
    path, data = written(tmp_path / "a", "flac")
    path.write_bytes(changed(data, 22, struct.pack(">I", total))[: len(data) - (0 if total == 40000 else 500)])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


def test_a_tag_behind_flac_is_no_sound(tmp_path):
    path, data = written(tmp_path / "a", "flac")
    expected = decoded(path)
    path.write_bytes(data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(quietly(path), expected)


# Ogg


def pages(data):
    """Where its pages begin and end."""
    at = 0
    while at < len(data):
        segments = data[at + 26]
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        yield at, end
        at = end


def signed(page):
    """The page with its right check sum, of 32 bits, polynomial 0x04C11DB7."""
    page, value = changed(page, 22, bytes(4)), 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return changed(page, 22, struct.pack("<I", value))


def test_ogg_without_a_last_page_is_heard_with_a_warning(tmp_path):
    path, data = written(tmp_path / "a", "vorbis")
    expected = decoded(path)
    *_, (start, end) = pages(data)
    path.write_bytes(data[:start] + signed(changed(data[start:end], 5, bytes([data[start + 5] & ~4]))))
    with pytest.warns(UserWarning, match="its last page is missing, so it may be cut short"):
        wave = zoo.read(path, RATE)
    np.testing.assert_array_equal(wave[: len(expected)], expected)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_cut_between_pages_warns(tmp_path, kind):
    path, data = written(tmp_path / "a", kind, sound(8.0))
    path.write_bytes(data[: list(pages(data))[-1][0]])
    with pytest.warns(UserWarning, match="may be cut short"):
        assert RATE < len(zoo.read(path, RATE)) < 8 * RATE


def test_rubbish_between_and_behind_ogg_pages_is_left_out(tmp_path):
    path, data = written(tmp_path / "a", "vorbis")
    expected = decoded(path)
    path.write_bytes(data + b"rubbish" * 99 + data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(quietly(path), np.concatenate([expected, expected]))


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
        path, data = written(tmp_path / "a", "mp3", samples, rate, **options)
        whole, frame = quietly(path, rate), 1152 if rate > 24000 else 576
        assert len(whole) == 3 * rate
        path.write_bytes(bare(data))
        heard = quietly(path, rate)
        assert len(heard) % frame == 0 and 3 * rate < len(heard) < 3 * rate + 4 * frame
        delay = np.argmax(np.correlate(heard[rate : 2 * rate], whole[rate : 2 * rate - 4 * frame], "valid"))
        np.testing.assert_allclose(heard[rate + delay : 2 * rate], whole[rate : 2 * rate - delay], atol=2e-3)


@pytest.mark.parametrize("count", ["none", "as written", "1", "too few", "one more"])
@pytest.mark.parametrize("before", [b"", PICTURE, PICTURE + PICTURE], ids=["", "picture", "two"])
@pytest.mark.parametrize(
    "behind", [b"", b"TAG" + bytes(125), APE, APE + b"TAG" + bytes(125)], ids=["", "TAG", "APE", "both"]
)
def test_tags_around_an_mp3_are_no_sound(tmp_path, count, before, behind):
    path, data = written(tmp_path / "a", "mp3", sound(1.0), **CBR)
    place = data.index(b"Xing" if b"Xing" in data[:64] else b"Info") + 8
    (frames,) = struct.unpack_from(">I", data, place)
    expected = decoded(path)
    if count == "none":
        path.write_bytes(data := bare(data))
        expected = decoded(path)
    else:
        counts = {"as written": frames, "1": 1, "too few": frames // 2, "one more": frames + 1}
        data = changed(data, place, struct.pack(">I", counts[count]))
    path.write_bytes(before + data + behind)
    np.testing.assert_array_equal(quietly(path), expected)


@pytest.mark.parametrize(
    "between", [b"TAG" + bytes(125), APE, PICTURE, bytes(5000)], ids=["TAG", "APE", "ID3", "zeros"]
)
@pytest.mark.parametrize("counted", [True, False])
def test_tags_between_joined_mp3s_are_no_sound(tmp_path, between, counted):
    path, data = written(tmp_path / "a", "mp3", sound(1.0), **CBR)
    data = data if counted else bare(data)
    path.write_bytes(data)
    alone = decoded(path)
    path.write_bytes(data + between + data)
    wave = quietly(path)
    assert len(wave) == 2 * len(alone)
    np.testing.assert_array_equal(wave[: len(alone) - 1152], alone[:-1152])


@pytest.mark.parametrize("data", ["counted", "bare"])
@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125)], ids=["", "TAG"])
def test_an_mp3_whose_last_frame_is_incomplete_is_cut(tmp_path, data, behind):
    path, counted = written(tmp_path / "a", "mp3", sound(1.0))
    content = counted if data == "counted" else bare(counted)
    path.write_bytes(content[:-10] + behind)
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


def test_an_mp3_whose_count_is_too_large_is_cut(tmp_path):
    path, data = written(tmp_path / "a", "mp3", sound(1.0))
    starts = [match.start() for match in re.finditer(re.escape(data[:2]), data)]
    path.write_bytes(data[: starts[len(starts) // 2]])
    with pytest.raises(ValueError, match="cut short"):
        zoo.read(path, RATE)


# Numbers in a header are bounded


@pytest.mark.parametrize("rate", [1, 8, RATES[0] - 1, RATES[1] + 1, 2**31 - 1])
def test_a_sample_rate_beyond_bounds_raises(tmp_path, rate):
    path, data = written(tmp_path / "a", "wav")
    path.write_bytes(changed(data, 24, struct.pack("<I", rate)))
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
    path, _ = written(tmp_path / "a", "wav")
    with pytest.raises(ValueError, match=f"Sound is read at a whole number of 100 to 10000000 Hz, got {rate}"):
        zoo.read(path, rate)


def test_a_file_object_is_read_as_its_path(tmp_path):
    for kind in ("wav", "flac", "mp3"):
        path, _ = written(tmp_path / kind, kind)
        with open(path, "rb") as file:
            np.testing.assert_array_equal(zoo.read(file, RATE), zoo.read(path, RATE))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_any_bytes_give_sound_or_one_sentence(tmp_path, kind):
    path, data = written(tmp_path / "a", kind, sound(0.2))
    draw = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(data)
        for _ in range(draw.integers(1, 4)):
            at = int(draw.integers(min(len(content), draw.choice([16, 64, len(content)]))))
            odd = struct.pack("<I", draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
            content = [
                content[: at + 1],
                content + content[at:],
                changed(content, at, odd),
                changed(content, at, b"?"),
            ][draw.integers(4)]
        path.write_bytes(content)
        try:
            assert np.isfinite(zoo.read(path, RATE)).all()
        except SoundError as error:
            assert str(path) in str(error) and "\n" not in str(error)
