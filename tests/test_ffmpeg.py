"""What libsndfile does not read, by FFmpeg: samples, lengths, cut and hostile files, and what happens without it."""

import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings

import av
import numpy as np
import pages
import pytest

import zoo
from zoo._decode import BLOCK, SoundError, blocks
from zoo._ffmpeg import frames
from zoo._media import FORMATS, media_of
from zoo._search import FOREIGN, sounds

RATE = 48000
LENGTH = 50_003  # samples, no whole number of frames of any codec
KINDS = {  # FFmpeg's name of the container, its codec, and the samples of delay that the file says nothing of
    "aac.m4a": ("mp4", "aac", 0),
    "alac.m4a": ("ipod", "alac", 0),
    "aac.3gp": ("3gp", "aac", 0),
    "opus.mp4": ("mp4", "libopus", 0),
    "flac.mp4": ("mp4", "flac", 0),
    "pcm.mov": ("mov", "pcm_s24le", 0),
    "opus.webm": ("webm", "libopus", 0),
    "flac.mkv": ("matroska", "flac", 0),
    "pcm.avi": ("avi", "pcm_s16le", 0),
    "mp3.avi": ("avi", "libmp3lame", 1105),
    "wma.wma": ("asf", "wmav2", -2048),  # FFmpeg drops what Microsoft's encoder puts in front: twice its own delay
    "aac.flv": ("flv", "aac", 1024),
    "aac.aac": ("adts", "aac", 1024),
    "latm.aac": ("latm", "aac", 1024),
    "a.ac3": ("ac3", "ac3", 256),
    "a.eac3": ("eac3", "eac3", 256),
    "mp2.ts": ("mpegts", "mp2", 481),
    "aac.ts": ("mpegts", "aac", 1024),
    "ac3.mpg": ("vob", "ac3", 256),
    "ac3.rm": ("rm", "ac3", 256),
    "a.wv": ("wv", "wavpack", 0),
    "a.tta": ("tta", "tta", 0),
    "wma.wav": ("wav", "wmav2", -2048),
}
LOSSLESS = {"alac.m4a", "flac.mp4", "pcm.mov", "flac.mkv", "pcm.avi", "a.wv", "a.tta"}
PADDED = {name for name, (_, _, delay) in KINDS.items() if delay != 0}  # the end is the encoder's, too


def chirp(samples=LENGTH, channels=1):
    """A tone that rises: a shift by one sample shows."""
    time = np.arange(samples) / RATE
    wave = 0.5 * np.sin(2 * np.pi * (200 + 1500 * time) * time)
    return np.stack([wave / (1 + channel) for channel in range(channels)], axis=1).astype(np.float32)


def encoded(container, codec, wave, rate=RATE, *, layout=None, video=False, streams=1, default=None, **options):
    """The bytes of a file that FFmpeg writes."""
    folder = tempfile.mkdtemp()  # to write the index in front, FFmpeg opens its file again
    path = f"{folder}/file"
    layout = layout or {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(path, "w", format=container, options=options) as output:
        if video:
            film = output.add_stream("mpeg4", rate=25)
            film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
            pictures = [av.VideoFrame(32, 32, "yuv420p") for _ in range(25)]
        tracks = [output.add_stream(codec, rate=rate, layout=layout) for _ in range(streams)]
        for track in tracks if codec in ("wavpack", "tta") else ():
            track.codec_context.format = {"wavpack": "s16p", "tta": "s16"}[codec]
        for track in tracks if codec == "wmav2" else ():
            track.bit_rate = 128_000
        for index, track in enumerate(tracks) if default is not None else ():
            track.disposition = av.stream.Disposition.default if index == default else av.stream.Disposition(0)
        if video:
            output.mux([packet for picture in [*pictures, None] for packet in film.encode(picture)])
        for index, track in enumerate(tracks):
            for start in range(0, len(wave), 5000):
                samples = np.ascontiguousarray(wave[start : start + 5000] * (1 - 0.5 * index)).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
                frame.sample_rate, frame.pts = rate, start
                output.mux(track.encode(frame))
            output.mux(track.encode(None))
    data = pathlib.Path(path).read_bytes()
    shutil.rmtree(folder)
    return data


@pytest.fixture(scope="module")
def files():
    """A file of each kind, mono."""
    return {name: encoded(container, codec, chirp()) for name, (container, codec, _) in KINDS.items()}


def shift(wave, reference):
    """By how many samples a wave comes later, by cross-correlation."""
    size = 1 << 17
    spectrum = np.fft.rfft(wave, size) * np.conj(np.fft.rfft(reference, size))
    return int((np.argmax(np.fft.irfft(spectrum)) + size // 2) % size - size // 2)


def quietly(source, rate=RATE):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return zoo.read(source, rate)


# What is heard


@pytest.mark.parametrize("name", KINDS)
def test_a_file_has_the_wave_that_was_written_at_its_place_and_length(files, name):
    wave, reference, delay = quietly(files[name]), chirp()[:, 0], KINDS[name][2]
    assert shift(wave, reference) == delay
    assert len(wave) == LENGTH if name not in PADDED else LENGTH + min(delay, 0) - 2048 < len(wave) < LENGTH + 5000
    atol = 1 / 32768 if name in LOSSLESS else 0.05
    np.testing.assert_allclose(wave[2048 + delay :][:40000], reference[2048:][:40000], atol=atol)
    if name in LOSSLESS:
        np.testing.assert_allclose(wave, reference, atol=atol)


@pytest.mark.parametrize("timescale", [1000, RATE])
def test_an_mp4_whose_packets_are_all_whole_ends_where_its_header_says(timescale):
    """As Apple's encoders write it: only the edit list tells of the padding, here in milliseconds or in samples."""
    data = encoded("mp4", "aac", chirp(), movie_timescale=str(timescale))
    at = data.index(b"stts") + 8  # the table of durations: so many packets of 1024 samples, one of what is left
    assert data[at + 12 : at + 16] == (1).to_bytes(4, "big")
    whole = data[: at + 16] + (1024).to_bytes(4, "big") + data[at + 20 :]
    assert abs(len(quietly(whole)) - LENGTH) <= RATE // 1000 * (timescale == 1000)


@pytest.mark.parametrize(
    "channels, layout", [(1, "mono"), (2, "stereo"), (6, "5.1"), (8, "7.1"), (16, "hexadecagonal")]
)
def test_each_channel_is_read(channels, layout):
    """PyAV's own arrays end up in wild memory from 8 channels on."""
    codec = ("mov", "pcm_s16le") if channels == 16 else ("mp4", "aac" if channels == 8 else "alac")
    data = encoded(*codec, chirp(20000, channels), layout=layout)
    pieces, rates = zip(*blocks(data, RATE), strict=True)
    block = np.concatenate(pieces)
    assert set(rates) == {RATE} and block.shape == (20000, channels) and block.dtype == np.float32
    order = np.argsort(-np.abs(block).max(axis=0))  # layouts may name channels in another order
    for channel in range(channels if channels < 8 else 2):
        expected = chirp(20000, channels)[5000:15000, channel]
        np.testing.assert_allclose(block[5000:15000, order[channel]], expected, atol=0.1 if channels == 8 else 1e-4)
    np.testing.assert_array_equal(zoo.read(data, RATE, channel=channels - 1), block[:, -1])


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_f64be"])
@pytest.mark.parametrize("container", ["mov", "matroska"])
def test_samples_of_any_kind_lie_between_minus_1_and_1(container, codec):
    if container == "matroska" and codec in ("pcm_f64be", "pcm_s24be"):
        codec = codec.replace("be", "le")
    wave = quietly(encoded(container, codec, chirp(3000, 2)))
    atol = {"u8": 1 / 128, "s1": 1 / 32768}.get(codec[4:6], 1e-6)
    np.testing.assert_allclose(wave, chirp(3000, 2).mean(axis=1), atol=atol)


def test_a_film_is_heard_whatever_comes_first(tmp_path):
    for container, codec in (("mp4", "aac"), ("matroska", "flac"), ("avi", "libmp3lame"), ("mpegts", "mp2")):
        data = encoded(container, codec, chirp(), video=True)
        wave = quietly(data)
        assert shift(wave, chirp()[:, 0]) == {"libmp3lame": 1105, "mp2": 481}.get(codec, 0)
        assert LENGTH <= len(wave) < LENGTH + 3000


def test_of_several_streams_the_default_one_is_read_and_told():
    for default, number in ((None, 1), (0, 1), (1, 2)):
        data = encoded("matroska", "flac", chirp(), streams=2, default=default)
        sentence = rf"The sound holds 2 streams of sound, .* only number {number} is read"
        with pytest.warns(UserWarning, match=sentence) as told:
            wave = zoo.read(data, RATE)
        assert len(told) == 1 and told[0].filename == __file__
        np.testing.assert_allclose(wave, chirp()[:, 0] / number, atol=1e-4)


def test_rate_and_channels_may_change_on_the_way():
    """Two streams of AAC, joined."""
    first = encoded("adts", "aac", chirp(30000))
    second = encoded("adts", "aac", chirp(30000, 2), 24000)
    kinds = [(block.shape[1], rate) for block, rate in blocks(first + second, RATE)]
    assert kinds == [(1, 48000), (2, 24000)]
    alone = len(zoo.read(first, RATE)) + len(zoo.read(second, RATE))
    assert abs(len(zoo.read(first + second, RATE)) - alone) < 5000


def test_tags_in_front_and_in_other_alphabets_are_no_sound(files):
    tag = b"ID3\x04\0\0\0\0\0\x0bTIT2\0\0\0\x01\0\0\xe9"
    for name in ("aac.aac", "a.tta"):
        np.testing.assert_array_equal(quietly(tag + files[name]), quietly(files[name]))
    data = files["alac.m4a"]
    broken = data.replace(b"Lavf", b"\xe9\xff\xfe\xfd")
    np.testing.assert_array_equal(quietly(broken), quietly(data))


def test_mp3_in_a_wav_file_is_whole_though_libsndfile_guesses_its_length():
    assert LENGTH <= len(quietly(encoded("wav", "libmp3lame", chirp()))) < LENGTH + 3000


# Where it comes from


class Bare:
    """A file with no more than it must have, which counts what is read."""

    def __init__(self, data):
        self.file, self.count = io.BytesIO(data), 0

    def read(self, size=-1, /):
        piece = self.file.read(size)
        self.count += len(piece)
        return piece

    def seek(self, offset, whence=0, /):
        return self.file.seek(offset, whence)


@pytest.mark.parametrize(
    "name", ["a b.m4a", "\u9ce5 \U0001f426.m4a", "[x]%d*.m4a", "http:a.m4a", os.fsdecode(b"caf\xe9.m4a")]
)
def test_any_source_gives_the_same(files, tmp_path, name):
    data = files["aac.m4a"]
    expected = zoo.read(data, 16000)
    path = tmp_path / name
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), file, file, Bare(data), {"bytes": data, "path": None}, {"path": str(path)}):
            np.testing.assert_array_equal(zoo.read(source, 16000), expected)
        assert not file.closed
    assert sum(count for _, count in zoo.windows(path, 16000, 0.25)) == len(expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read(files, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(files["aac.m4a"]))
    writer.start()
    np.testing.assert_array_equal(zoo.read(tmp_path / "pipe", RATE), zoo.read(files["aac.m4a"], RATE))
    writer.join()


def test_blocks_come_while_the_file_is_read_and_are_bounded():
    file = Bare(encoded("matroska", "pcm_s16le", chirp(8 * BLOCK)))
    for wanted in (RATE, 4 * RATE):
        file.count = 0
        pieces = blocks(file, wanted)
        first, _ = next(pieces)
        assert file.count < 4 * BLOCK  # of 16 bytes a sample of a block
        sizes = [len(first), *(len(block) for block, _ in pieces)]
        assert sum(sizes) == 8 * BLOCK and max(sizes) * wanted // RATE <= BLOCK
        assert min(sizes[:-1]) == max(sizes)


def test_threads_read_the_same(files):
    names = ["aac.m4a", "opus.webm", "flac.mkv", "a.ac3"] * 3
    expected, results = {name: zoo.read(files[name], RATE) for name in names}, {}
    threads = [
        threading.Thread(target=lambda index=index, name=name: results.update({index: zoo.read(files[name], RATE)}))
        for index, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, name in enumerate(names):
        np.testing.assert_array_equal(results[index], expected[name])


# What cannot be read


TELLING = ["aac.m4a", "alac.m4a", "pcm.mov", "opus.webm", "flac.mkv", "pcm.avi", "mp3.avi", "wma.wma", "aac.flv"]
TELLING += ["aac.aac", "latm.aac", "ac3.rm", "a.wv", "a.tta"]


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", TELLING)
def test_a_file_cut_short_is_told(files, tmp_path, name, share):
    path = tmp_path / name
    path.write_bytes(files[name][: int(share * len(files[name]))])
    for wanted in (RATE, 16000):
        with pytest.raises(SoundError, match=rf"{name} is cut short.*: copy or record it again\.$"):
            zoo.read(path, wanted)


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


# Without the extra


ALONE = """
import sys
sys.path[:0] = sys.argv[1:3]
import zoo
from zoo._search import sounds
try:
    import av
    sys.exit("av is there")
except ImportError:
    pass
for name in sys.argv[3:]:
    try:
        zoo.read(name, 16000)
    except ValueError as error:
        print(error)
print(sounds(["."]))
"""


def test_without_the_extra_a_sentence_names_it(files, tmp_path, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    pages.environment(site)
    names = ["aac.m4a", "opus.webm", "pcm.avi", "a.ac3", "wma.wav"]
    for name in names:
        (tmp_path / name).write_bytes(files[name])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, site, pages.ROOT, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    *told, found = done.stdout.splitlines()
    titles = ["MPEG-4 or QuickTime", "Matroska or WebM", "AVI", "AC-3", "WAV of an encoding that is compressed"]
    for name, title, sentence in zip(names, titles, told, strict=True):
        assert sentence == f'{name} is a file of {title}, which FFmpeg reads: pip install "audax-eqx[ffmpeg]".'
    assert found == "['wma.wav']"
    assert done.stderr.startswith("audax-zoo: . holds other files, which are left out: 1 .")
    assert done.stderr.endswith(' FFmpeg reads .ac3, .avi, .m4a, .webm: pip install "audax-eqx[ffmpeg]".\n')


def test_with_the_extra_a_folder_search_takes_them(files, tmp_path, capfd):
    names = sorted(f"a{suffix.upper()}" for suffix in FOREIGN)
    for name in names:
        (tmp_path / name).touch()
    assert sounds([str(tmp_path)]) == [str(tmp_path / name) for name in names]
    zoo.read(files["opus.webm"], RATE)
    with pytest.raises(SoundError):
        zoo.read(files["aac.m4a"][:5000], RATE)
    assert capfd.readouterr() == ("", "")  # FFmpeg's own words are not shown


def test_frames_tell_what_is_wrong_in_words_that_go_on_from_a_name(files):
    with pytest.raises(ValueError, match=r"^cannot be read as AVI: Invalid data found"):
        list(frames(io.BytesIO(files["aac.m4a"]), 0, next(each for each in FORMATS if each.demuxer == "avi"), print))
