"""Decoding of files that libsndfile does not read, by PyAV, the binding of FFmpeg. The extra `ffmpeg` installs it.

FFmpeg reads one open file in the format that the first bytes of the file show. It neither guesses the format nor opens
another file or an address, which a playlist could otherwise request.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float

from ._media import Media
from ._view import File, View

Frames = Iterator[tuple[Float[np.ndarray, "samples channels"], int]]
SLACK = 4096  # a decoder may give this number of samples less than the header counts
EXTRA = 'pip install "audax-eqx[ffmpeg]"'


class Fault(ValueError):
    """The reason why a file cannot be read, as the end of a sentence that begins with its name."""


def installed() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def frames(file: File, start: int, media: Media, warn: Callable[[str], None]) -> Frames:
    """The sound of a seekable file from the position `start` on: frames in [-1, 1], each with its sample rate.

    Raises `Fault`, and OSError if the file cannot be read any further. Warnings go to `warn`, as the end of a sentence
    that begins with the file's name.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise Fault(f"is a file of {media.title}, which FFmpeg reads: {EXTRA}.") from None
    end = file.seek(0, os.SEEK_END)
    view, is_cut = _Input(file, [(start, end)]), media.is_cut(file, start, end)
    options = {"protocol_whitelist": "none", "format_whitelist": media.demuxer}
    stream, samples, is_damaged = None, 0, False
    try:
        with av.open(view, format=media.demuxer, container_options=options, metadata_errors="replace") as container:
            if is_cut and not container.streams.audio:
                raise _DamageError
            stream = _stream(container, warn)
            for frame, rate in _decoded(container, stream, media):
                samples += len(frame)
                yield frame, rate
            is_cut = is_cut or (media.has_count and samples < _samples(stream) - SLACK)
    except _DamageError:
        is_damaged = True
    except FFmpegError as error:
        if view.error is None and stream is None and not is_cut:
            raise Fault(f"cannot be read as {media.title}: {error.strerror}.") from None
        is_damaged = True
    if view.error is not None:
        raise view.error
    if is_cut or is_damaged:
        raise Fault(cut_short(samples, "" if is_cut else " or damaged"))


def cut_short(samples: int, doubt: str = "") -> str:
    """The error message for a file that ends early, without the file's name."""
    remainder = f", {samples} samples are left" if samples else ""
    return f"is cut short{doubt}{remainder}: copy or record it again."


class _DamageError(Exception):
    """A packet is incomplete."""


class _Input(View):
    def read(self, size: int) -> bytes:
        """At most `size` bytes, which PyAV requests."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])


def _stream(container: Any, warn: Callable[[str], None]) -> Any:
    """The stream of sound that the file marks as its default; if it marks none, its first."""
    from av.stream import Disposition

    streams = container.streams.audio
    if not streams:
        raise Fault("holds no stream of sound: leave it out.")
    stream = next((each for each in streams if each.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise Fault("holds sound in an encoding that FFmpeg does not know: convert it.")
    if len(streams) > 1:
        warn(f"holds {len(streams)} streams of sound, of which only number {streams.index(stream) + 1} is read")
    stream.codec_context.thread_count = 1  # several recordings are decoded in parallel
    return stream


def _decoded(container: Any, stream: Any, media: Media) -> Frames:
    """All frames. The encoder's padding is cut from the last frame if the header gives the length of the sound."""
    last, rate, count, length = np.zeros((0, 1), np.float32), 0, 0, None
    convert = _Converter()
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise _DamageError
        for frame in packet.decode():
            if len(last):
                yield last, rate
            last, rate = convert(frame), frame.sample_rate
            if not media.has_padding:
                yield last, rate
                last = last[:0]
            count += len(last)
            length = packet.duration and round(packet.duration * packet.time_base * rate)
    count -= len(last) - len(last := last[: length or None])
    surplus = count - _samples(stream)
    if rate // 1000 < surplus < len(last):  # the header counts samples or milliseconds
        last = last[: len(last) - surplus]
    if len(last):
        yield last, rate


class _Converter:
    """Converts frames with samples of any kind to float32 arrays in [-1, 1].

    FFmpeg's own conversion does this, because PyAV's `to_ndarray` reads invalid memory if a frame has 8 channels or
    more.
    """

    def __init__(self):
        self.kind, self.resampler = None, None

    @no_type_check  # a check for each frame would take longer than everything else
    def __call__(self, frame: Any) -> Float[np.ndarray, "samples channels"]:
        from av import AudioResampler

        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self.kind:
            self.kind, self.resampler = kind, AudioResampler(format="flt")
        pieces = [
            np.frombuffer(each.planes[0], np.float32, each.samples * each.layout.nb_channels)
            for each in self.resampler.resample(frame)
        ]
        return np.concatenate([np.zeros(0, np.float32), *pieces]).reshape(-1, frame.layout.nb_channels)


def _samples(stream: Any) -> int:
    """The number of samples that the header claims; 0 if it claims none."""
    return round((stream.duration or 0) * (stream.time_base or 0) * stream.codec_context.sample_rate)
