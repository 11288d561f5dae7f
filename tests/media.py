"""Files of sound and films that FFmpeg writes, each kind once a process."""

import functools
import io
import pathlib
import shutil
import tempfile
import warnings

import av
import numpy as np

import zoo

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


@functools.cache
def kinds():
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
