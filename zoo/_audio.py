"""Sound files of any format and length, mono, at the sample rate a model takes, whole or in windows."""

import contextlib
import inspect
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from ._containers import links

Source = str | os.PathLike | BinaryIO  # a path, or a file in which one can seek
BLOCK = 1 << 18  # samples read at a time, a few seconds: of all channels, and after resampling
RATES = 100, 10_000_000  # Hz, of a file: from the lowest hydrophones to the highest
SHARE = 10  # a window has at least a tenth of its samples, which no window before it has heard
CHECKED = ("zoo", "audax_eqx", "jaxtyping", "beartype")  # modules between a warning and who reads a file
SILENT = 1e-4  # of the channels' power, -40 dB: what is left of it in their mean


class SoundError(ValueError):
    """A recording that cannot be read, for what it holds."""


UNREADABLE = (SoundError, FileNotFoundError, IsADirectoryError, PermissionError)  # all that a recording can be at fault


class Window(NamedTuple):
    """A window of a recording: its samples, zeros behind the last of them, and where it lies, counted in samples.

    `samples` is how many are the recording's. `end` of the last window is the recording's end, even where the window
    has not heard the last few samples.
    """

    wave: Float[np.ndarray, " size"]
    start: int
    end: int
    samples: int


def read(path: Source, sample_rate: int) -> Float[np.ndarray, " samples"]:
    """The whole file in [-1, 1] as float32: channels averaged, then resampled to `sample_rate` Hz by soxr's HQ filter.

    Any format that soundfile reads; recordings that were joined end to end are read one behind the other. Raises
    FileNotFoundError, and ValueError for a file that is not sound, is empty or holds NaN or inf, and for one that is
    cut short, where its format lets that be known. Warns where channels cancel out in their mean.
    """
    return np.concatenate([np.zeros(0, np.float32), *stream(path, sample_rate)])


def windows(path: Source, sample_rate: int, seconds: float) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """The file in consecutive windows of `seconds`, each with its number of samples before the last one's zero padding.

    A rest of less than a tenth of a window makes no window of its own and is not heard. Reads as `read` does and
    raises the same, in memory that does not grow with the file; ValueError for seconds that are no window.
    """
    for window in cut(stream(path, sample_rate), window_size(seconds, sample_rate)):
        yield window.wave, window.samples


def window_size(seconds: float, sample_rate: int) -> int:
    """The samples of a window. Raises ValueError for a window of less than one sample, or without end."""
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
    """A recording, given in blocks, in windows of `size` samples, `hop` apart; the last one is padded with zeros.

    Samples behind the last window make another one if they are at least `rest`: a tenth of a window unless given. With
    a `step` the last window is not filled up but begins earlier, at the first multiple of `step` from which on it
    reaches the end. A recording without samples has no windows.
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
    """How many samples behind a window of `size` make another window."""
    return -(-size // SHARE)


def spans(samples: int, size: int) -> list[tuple[int, int]]:
    """(start, valid samples) of the windows into which `cut` divides a recording of so many samples."""
    count = max(1, (samples - least_rest(size)) // size + 1) if samples else 0
    return [(index * size, min(size, samples - index * size)) for index in range(count)]


def stream(path: Source, sample_rate: int) -> Iterator[Float[np.ndarray, " samples"]]:
    """The file in blocks, as `read` gives it whole."""
    if not RATES[0] <= sample_rate <= RATES[1]:
        raise ValueError(f"Sound is read at {RATES[0]} to {RATES[1]} Hz, got {sample_rate}.")
    rate, resample, empty = 0, None, np.zeros(0, np.float32)
    for block, block_rate in _mono(path, sample_rate):
        if block_rate != rate:
            if resample is not None:
                yield resample.resample_chunk(empty, last=True)
            rate = block_rate
            resample = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        yield block if resample is None else resample.resample_chunk(block)
    if resample is not None:
        yield resample.resample_chunk(empty, last=True)


def _mono(path: Source, wanted: int) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """The mean of the channels in blocks, each with its sample rate."""
    name = _name(path)
    powers, samples, seconds = np.zeros(2), 0, 0.0
    for block, rate in _blocks(path, name, wanted):
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        samples, seconds = samples + len(mono), seconds + len(mono) / rate
        if not np.isfinite(mono).all():
            raise SoundError(f"{name} holds NaN or infinite samples in its first {seconds:.1f} s.")
        if block.shape[1] > 1:
            powers += np.vdot(mono, mono), np.vdot(block, block) / block.shape[1]
        yield mono, rate
    if samples == 0:
        raise SoundError(f"{name} holds no samples.")
    if powers[0] < SILENT * powers[1]:
        _warn(f"{name} has channels in opposite phase, whose mean is silent: read one channel, or turn one around.")


class _Decoder(soundfile.SoundFile):
    def seekable(self) -> bool:
        """No: soundfile would seek after each block, for nothing."""
        return False


def _blocks(path: Source, name: str, wanted: int) -> Iterator[tuple[Float[np.ndarray, "samples channels"], int]]:
    """What the file holds, in blocks of at most `BLOCK` samples, also after resampling to `wanted` Hz."""
    samples = 0
    with _opened(path) as file:
        try:
            stretches = links(file)
        except OSError as error:
            raise SoundError(f"{name} cannot be read: {error.strerror}.") from None
        for link in stretches:
            if link.doubt:
                _warn(f"{name}: {link.doubt}.")
            rate, count, short = 0, 0, link.cut
            try:
                with _Decoder(link.view) as decoder:  # pyright: ignore[reportArgumentType]
                    rate = decoder.samplerate
                    if not RATES[0] <= rate <= RATES[1]:
                        raise SoundError(
                            f"{name} has {rate} samples a second by its header, and {RATES[0]} to {RATES[1]} can be "
                            "read: write the right rate into it."
                        )
                    size = max(min(BLOCK, BLOCK * rate // wanted) // decoder.channels, 1)
                    while len(block := decoder.read(min(size, decoder.frames - count), "float32", always_2d=True)):
                        count += len(block)
                        yield block, rate
                    short = short or (link.counted and count < decoder.frames)
            except soundfile.LibsndfileError as error:
                short = short or (rate > 0 and link.view.ended)
                if not short and link.view.error is None:
                    raise SoundError(f"{name} cannot be read as sound: {error.error_string}") from None
            samples += count
            if link.view.error is not None:
                raise SoundError(f"{name} cannot be read any further: {link.view.error.strerror}.")
            if short:
                left = f", {samples} samples are left" if samples else ""
                raise SoundError(f"{name} is cut short{left}: copy or record it again.")


@contextlib.contextmanager
def _opened(path: Source) -> Iterator[BinaryIO]:
    if not isinstance(path, str | os.PathLike):
        yield path
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb", buffering=1 << 16))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            raise FileNotFoundError(f"{_name(path)} is not a file.") from None
        if not file.seekable():  # a pipe
            pipe, file = file, stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(pipe, file)
        yield file


def _name(path: Source) -> str:
    """What an error calls the recording."""
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) else str(getattr(path, "name", "The sound"))


def _warn(text: str) -> None:
    """Warns at the line that reads the file, which is some generators and type checks away."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(CHECKED):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level + 1)
