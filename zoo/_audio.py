"""Recordings of any kind and length, read in mono at the sample rate of a model, whole or in windows."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import soxr
from jaxtyping import Float

from ._decode import RATES, Channel, Rate, SoundError, blocks, name_of, warn

SHARE = 10  # at least a tenth of the samples of a window are in no window before it
NOTHING = np.zeros(0, np.float32)
SILENT = 1e-4  # -40 dB: the mean of the channels is silent if it has less than this share of their power


UNREADABLE = (
    SoundError,
    FileNotFoundError,
    IsADirectoryError,
    PermissionError,
)  # all errors that a recording can cause


class Window(NamedTuple):
    """A window of a recording: its samples, zeros behind the last of them, and its position, counted in samples.

    `samples` is the number of samples that are the recording's. The `end` of the last window is the end of the
    recording, even if the window leaves out the last few samples.
    """

    wave: Float[np.ndarray, " size"]
    start: int
    end: int
    samples: int


def read(source: Any, sample_rate: Rate, *, channel: Channel = "mean") -> Float[np.ndarray, " samples"]:
    """The whole recording in [-1, 1] as float32, mono, resampled to `sample_rate` Hz by soxr's HQ filter.

    - `source`: a path; the bytes of a file; an open file in which one can seek; a pair `(array, rate)` of an array and
      its sample rate; or a dictionary that the `Audio` feature of Hugging Face's datasets gives. An array has
      floating-point samples and the shape (samples,), or channels as the shorter of two axes.
    - `channel`: "mean" for the mean of all channels, or the number of one channel, counted from 0.

    The file may have any format that soundfile reads. With the extra `ffmpeg` it may also be m4a, webm, wma and others,
    or a film, whose default stream of sound is read. Recordings that were joined end to end are read one behind the
    other. Raises FileNotFoundError. Raises ValueError for a file that is not sound, is empty, or holds NaN or inf, and
    for one that is cut short, if its format shows that. Warns if the channels cancel each other in their mean.
    """
    return np.concatenate([np.zeros(0, np.float32), *stream(source, sample_rate, channel)])


def windows(
    source: Any, sample_rate: Rate, seconds: float, *, channel: Channel = "mean"
) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """The recording in consecutive windows of `seconds`, each with the number of its samples that are not padding.

    Zeros pad the last window. A rest of less than a tenth of a window makes no window of its own and is left out. The
    memory does not grow with the length of the file. Raises what `read` raises, and ValueError for a number of seconds
    that is no window.
    """
    for window in cut(stream(source, sample_rate, channel), window_size(seconds, sample_rate)):
        yield window.wave, window.samples


def window_size(seconds: float, sample_rate: Rate) -> int:
    """The number of samples in a window. Raises ValueError if it is less than one sample, or not finite."""
    if not math.isfinite(seconds) or round(seconds * sample_rate) < 1:
        raise ValueError(
            f"A window takes a finite number of seconds, at least one sample ({1 / sample_rate:.2g} s at "
            f"{sample_rate} Hz), got {seconds:g}."
        )
    return round(seconds * sample_rate)


def cut(
    blocks: Iterable[Float[np.ndarray, " _"]],
    size: int,
    hop: int | None = None,
    *,
    rest: int | None = None,
    step: int | None = None,
) -> Iterator[Window]:
    """Cuts the blocks of a recording into windows of `size` samples, `hop` samples apart.

    Zeros pad the last window. The samples behind it make another window if there are at least `rest` of them (default:
    a tenth of a window). With a `step` the last window is not padded but begins earlier, at the first multiple of
    `step` from which it reaches the end. A recording without samples has no windows.
    """
    hop, rest = hop or size, rest or least_rest(size)
    buffer, first, start, total = np.zeros(0, np.float32), 0, 0, 0  # the buffer begins with the sample `first`
    for block in blocks:
        total += len(block)
        buffer = np.concatenate([buffer, block])
        while total - (start + size) >= rest:
            yield Window(buffer[start - first : start - first + size], start, start + size, size)
            buffer, first = buffer[start - first :], start
            start += hop
    if total == 0:
        return
    if step and start and start + size > total:
        start = -(-(total - size) // step) * step
    wave = buffer[start - first : start - first + size]
    yield Window(np.pad(wave, (0, size - len(wave))), start, total, len(wave))


def least_rest(size: int) -> int:
    """The smallest number of samples behind a window of `size` that makes another window."""
    return -(-size // SHARE)


def stream(source: Any, sample_rate: Rate, channel: Channel = "mean") -> Iterator[Float[np.ndarray, " samples"]]:
    """The recording in blocks; joined, they are what `read` gives."""
    if not (RATES[0] <= sample_rate <= RATES[1] and sample_rate == int(sample_rate)):
        raise ValueError(f"Sound is read at a whole number of {RATES[0]} to {RATES[1]} Hz, got {sample_rate}.")
    sample_rate = int(sample_rate)
    rate, resample, samples = 0, None, 0
    for block, block_rate in _mono(source, sample_rate, channel):
        if block_rate != rate:
            if resample is not None:
                yield resample.resample_chunk(NOTHING, last=True)
            rate = block_rate
            resample = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        block = block if resample is None else resample.resample_chunk(block)
        samples += len(block)
        yield block
    if resample is not None:
        block = resample.resample_chunk(NOTHING, last=True)
        if samples + len(block) == 0:
            raise SoundError(f"{name_of(source)} is shorter than one sample at {sample_rate} Hz.")
        yield block


def _mono(source: Any, rate_out: int, channel: Channel) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """The mean of the channels, or one channel, in blocks, each with its sample rate."""
    name = name_of(source)
    powers, samples, seconds = np.zeros(2), 0, 0.0
    for block, rate in blocks(source, rate_out):
        channels = block.shape[1]
        if channel != "mean" and not 0 <= channel < channels:
            raise SoundError(f"{name} has no channel {channel}: it has {channels}, counted from 0.")
        choice = 0 if channels == 1 else channel
        mono = block.mean(axis=1, dtype=np.float32) if choice == "mean" else np.ascontiguousarray(block[:, choice])
        samples, seconds = samples + len(mono), seconds + len(mono) / rate
        if not np.isfinite(mono).all():
            raise SoundError(f"{name} holds NaN or infinite samples in its first {seconds:.1f} s.")
        if choice == "mean":
            powers += np.vdot(mono, mono), np.vdot(block, block) / channels
        yield mono, rate
    if samples == 0:
        raise SoundError(f"{name} holds no samples.")
    if powers[0] < SILENT * powers[1]:
        warn(f"{name} has channels in opposite phase, whose mean is silent: read one channel, or turn one around.")
