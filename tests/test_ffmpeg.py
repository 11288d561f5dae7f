"""What FFmpeg reads in place of libsndfile: samples, lengths and sources, and what happens without it."""

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pages
import pytest
from media import KINDS, LENGTH, LOSSLESS, PADDED, RATE, Bare, chirp, encoded, kinds, quietly, shift

import zoo
from zoo._decode import BLOCK, SoundError, blocks
from zoo._ffmpeg import frames
from zoo._media import FORMATS
from zoo._search import FOREIGN, sounds


@pytest.fixture(scope="module")
def files():
    return kinds()


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
        with pytest.warns(
            UserWarning, match=rf"The sound holds 2 streams of sound, .* only number {number} is read"
        ) as record:
            wave = zoo.read(data, RATE)
        assert len(record) == 1 and record[0].filename == __file__
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
    for rate in (RATE, 4 * RATE):
        file.count = 0
        pieces = blocks(file, rate)
        first, _ = next(pieces)
        assert file.count < 4 * BLOCK  # of 16 bytes a sample of a block
        sizes = [len(first), *(len(block) for block, _ in pieces)]
        assert sum(sizes) == 8 * BLOCK and max(sizes) * rate // RATE <= BLOCK
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
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, site, pages.ROOT, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    *sentences, names_of_sounds = process.stdout.splitlines()
    titles = ["MPEG-4 or QuickTime", "Matroska or WebM", "AVI", "AC-3", "WAV of an encoding that is compressed"]
    for name, title, sentence in zip(names, titles, sentences, strict=True):
        assert sentence == f'{name} is a file of {title}, which FFmpeg reads: pip install "audax-eqx[ffmpeg]".'
    assert names_of_sounds == "['wma.wav']"
    assert process.stderr.startswith("audax-zoo: . holds other files, which are left out: 1 .")
    assert process.stderr.endswith(' FFmpeg reads .ac3, .avi, .m4a, .webm: pip install "audax-eqx[ffmpeg]".\n')


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
