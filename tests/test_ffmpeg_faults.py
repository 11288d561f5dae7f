"""Files of FFmpeg's that are cut, damaged or hostile, or are no sound."""

import io
import warnings

import av
import numpy as np
import pytest
from media import KINDS, LENGTH, RATE, Bare, chirp, encoded, kinds, quietly

import zoo
from zoo._decode import SoundError
from zoo._media import FORMATS, media_of


@pytest.fixture(scope="module")
def files():
    return kinds()


# What cannot be read


TELLING = ["aac.m4a", "alac.m4a", "pcm.mov", "opus.webm", "flac.mkv", "pcm.avi", "mp3.avi", "wma.wma", "aac.flv"]
TELLING += ["aac.aac", "latm.aac", "ac3.rm", "a.wv", "a.tta"]


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", TELLING)
def test_a_file_cut_short_is_told(files, tmp_path, name, share):
    path = tmp_path / name
    path.write_bytes(files[name][: int(share * len(files[name]))])
    for rate in (RATE, 16000):
        with pytest.raises(SoundError, match=rf"{name} is cut short.*: copy or record it again\.$"):
            zoo.read(path, rate)


def test_an_mp4_with_its_index_in_front_that_is_cut_says_what_is_left():
    data = encoded("mp4", "alac", chirp(), movflags="faststart")
    assert data.index(b"moov") < data.index(b"mdat") and len(quietly(data)) == LENGTH
    with pytest.raises(SoundError, match=r"^The sound is cut short, \d{5} samples are left: copy"):
        zoo.read(data[: len(data) // 2], RATE)


def test_a_live_webm_without_sizes_is_whole_until_it_is_cut():
    data = encoded("webm", "libopus", chirp(), live="1")
    assert abs(len(quietly(data)) - LENGTH) < 1000
    with pytest.raises(SoundError, match="is cut short"):
        zoo.read(data[: len(data) - 30], RATE)


def test_a_fragmented_mp4_and_boxes_behind_the_last_are_whole(files):
    data = encoded("mp4", "aac", chirp(), movflags="frag_keyframe+empty_moov+default_base_moof", frag_duration="200000")
    assert abs(len(quietly(data)) - LENGTH) < 1100
    with pytest.raises(SoundError, match="is cut short"):
        zoo.read(data[: data.rindex(b"mdat") + 20], RATE)
    for rest in (b"\0" * 99, b"TAG" + b"x" * 125, b"\0\0\0\x08free"):
        np.testing.assert_array_equal(quietly(files["aac.m4a"] + rest), quietly(files["aac.m4a"]))


def test_a_damaged_file_does_not_pass_for_a_shorter_one(files):
    data = bytearray(files["aac.aac"])
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    with pytest.raises(SoundError, match=r"is cut short or damaged, \d+ samples are left"):
        zoo.read(bytes(data), RATE)


def test_a_film_without_sound_and_a_file_without_samples_are_told():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        film = output.add_stream("mpeg4", rate=25)
        film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        output.mux(film.encode(av.VideoFrame(32, 32, "yuv420p")) + film.encode(None))
    with pytest.raises(SoundError, match=r"^The sound holds no stream of sound: leave it out\.$"):
        zoo.read(file.getvalue(), RATE)
    with pytest.raises(SoundError, match=r"holds no samples|cannot be read as Matroska or WebM: End of file"):
        zoo.read(encoded("matroska", "flac", chirp(0)), RATE)


@pytest.mark.parametrize("rate", [0, 1, 99, 11_000_000])
def test_a_rate_that_no_recorder_has_is_told(files, rate):
    data, at = files["a.tta"], 10
    with pytest.raises(SoundError, match=r"samples a second by its header|cannot be read as True Audio|is cut short"):
        zoo.read(data[:at] + rate.to_bytes(4, "little") + data[at + 4 :], RATE)


def test_an_encoding_that_is_not_known_is_told(files):
    data = files["alac.m4a"]
    with pytest.raises(SoundError, match=r"in an encoding that FFmpeg does not know: convert it"):
        zoo.read(data.replace(b"alac", b"zzzz"), RATE)


def test_what_is_broken_raises_and_nothing_else(files):
    """Bytes are changed, inserted and left out, in the headers above all."""
    random = np.random.default_rng(0)
    for name in [*KINDS] * 6:
        data = bytearray(files[name])
        for _ in range(random.integers(1, 12)):
            at = int(random.integers(min(len(data), random.choice([64, 1000, 1 << 20]))))
            size = int(random.integers(1, 30))
            data[at : at + size] = random.choice([b"", b"\xff" * size, b"\0" * size, random.bytes(size)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert np.isfinite(zoo.read(bytes(data), RATE)).all()
            except SoundError as error:
                assert str(error).endswith((".", "recognised"))


def test_an_error_of_the_disk_is_told(files):
    class Failing(Bare):
        def read(self, size=-1, /):
            if self.count > 70_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(SoundError, match=r"^The sound cannot be read any further: Input/output error\.$"):
        zoo.read(Failing(encoded("mov", "pcm_s16le", chirp(5 * LENGTH), movflags="faststart")), RATE)


# What must not be opened


def test_a_playlist_opens_nothing(files, tmp_path):
    """Neither by its own format nor by that of its suffix."""
    secret = tmp_path / "secret.ts"
    secret.write_bytes(files["mp2.ts"])
    texts = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{secret}\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "mpd": f'<?xml version="1.0"?><MPD type="static"><Period><BaseURL>file://{secret}</BaseURL></Period></MPD>',
    }
    for text in texts.values():
        for suffix in ("m3u8", "m4a", "ts", "wma", "wav"):
            path = tmp_path / f"list.{suffix}"
            path.write_text(text)
            with pytest.raises(SoundError, match="cannot be read as sound"):
                zoo.read(path, RATE)


def test_a_film_whose_sound_lies_in_another_file_does_not_open_it(tmp_path, monkeypatch):
    """A QuickTime file may name files for its tracks, which lie beside it."""
    monkeypatch.chdir(tmp_path)
    data = encoded("mov", "pcm_s16le", chirp(), movflags="faststart")
    (tmp_path / "other.mov").write_bytes(data)
    place = data.index(b"dref") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    name = b"/folder/other.mov\0"
    alias = bytes(10 + 28 + 12 + 64 + 16) + b"\0\1\0\1" + bytes(16) + b"\0\2" + len(name).to_bytes(2, "big") + name
    alias += b"\xff\xff\0\0"
    entry = (12 + len(alias)).to_bytes(4, "big") + b"alis" + bytes(4) + alias
    table = (16 + len(entry)).to_bytes(4, "big") + b"dref" + bytes(4) + (1).to_bytes(4, "big") + entry
    hostile, grown = bytearray(data[:place] + table + data[place + size :]), len(table) - size
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = hostile.rindex(box, 0, place) - 4
        hostile[at : at + 4] = (int.from_bytes(hostile[at : at + 4], "big") + grown).to_bytes(4, "big")
    with av.open(io.BytesIO(hostile), options={"enable_drefs": "1"}) as control:
        assert np.abs(next(control.decode(audio=0)).to_ndarray()).max() > 0  # the other file's
    with pytest.raises(SoundError, match="holds no samples"):
        zoo.read(bytes(hostile), RATE)


def test_what_is_no_sound_is_not_taken_for_it(files):
    """Neither noise nor text, nor a file of libsndfile's that is broken."""
    random = np.random.default_rng(1)
    texts = [b"The free lunch", b"Goodbye" * 300, b"%PDF-1.7 ", b"PK\x03\x04", b"\x89PNG\r\n", b"MAP", b"Ajkg", b""]
    noise = [random.bytes(3000) for _ in range(200)]
    wav = b"RIFF\x64\0\0\0WAVEfmt \x10\0\0\0\0\0\1\0" + bytes(84)
    for data in (*texts, *noise, wav, b"fLaC" + random.bytes(999), b"OggS" + random.bytes(999)):
        assert media_of(io.BytesIO(data), 0) is None
        with pytest.raises(SoundError, match=r"cannot be read as sound|is cut short"):
            zoo.read(data, RATE)
    assert {media_of(io.BytesIO(data), 0).demuxer for data in files.values()} < {media.demuxer for media in FORMATS}


def test_ffmpeg_knows_all_formats_of_the_table():
    assert all(av.ContainerFormat(media.demuxer, "r").is_input for media in FORMATS)
