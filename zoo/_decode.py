"""Sources of sound: files of any format, bytes, open files and arrays, in blocks with all their channels."""

import contextlib
import inspect
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import soundfile
from jaxtyping import Float

from . import _ffmpeg
from ._containers import behind_id3, links
from ._media import Media, media_of
from ._view import File

Channel = int | Literal["mean"]
Rate = int | float | np.number  # in Hz; other libraries give any of these types
Blocks = Iterator[tuple[Float[np.ndarray, "samples channels"], int]]
BLOCK = 1 << 18  # samples in a block, a few seconds: of all channels together, and also after resampling
RATES = 100, 10_000_000  # Hz, from the lowest rates of hydrophones to the highest
CALLERS = ("zoo", "audax_eqx", "jaxtyping", "beartype")  # modules between a warning and the code that reads a file


class SoundError(ValueError):
    """A recording cannot be read because of its content."""


def blocks(source: Any, rate_out: int) -> Blocks:
    """The recording in blocks with their rates, of at most `BLOCK` samples, also after resampling to `rate_out` Hz."""
    content = _of_datasets(source) if isinstance(source, Mapping) else source
    if not is_source(content):
        raise _no_recording(f"{type(content).__name__}")
    if isinstance(content, tuple):
        yield from _array_blocks(content, rate_out)
        return
    with _opened(content) as file:
        yield from _file_blocks(file, name_of(source), rate_out)


def is_source(source: Any) -> bool:
    """Whether the object is of a kind that `zoo.read` takes."""
    if isinstance(source, tuple):
        return len(source) == 2 and hasattr(source[0], "shape") and isinstance(source[1], Rate)
    return isinstance(source, str | os.PathLike | bytes | Mapping) or hasattr(source, "read")


def _no_recording(kind: str) -> TypeError:
    return TypeError(
        "A recording is a path, bytes, an open file, (array, sample_rate) or {'array', 'sampling_rate'} or "
        f"{{'bytes', 'path'}}, got a {kind}."
    )


def name_of(source: Any) -> str:
    """The name of the recording in error messages."""
    if isinstance(source, Mapping):
        source = source.get("path") or "The sound"
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    return str(getattr(source, "name", "The sound"))


def _of_datasets(source: Mapping[str, Any]) -> Any:
    """The recording in a dictionary that the `Audio` feature of Hugging Face's datasets gives."""
    if source.get("array") is not None and "sampling_rate" in source:
        return source["array"], source["sampling_rate"]
    for content in (source.get("bytes"), source.get("path")):
        if content is not None:
            return content
    if "bytes" in source or "path" in source:  # the value is missing
        raise SoundError("The recording has neither bytes nor a path.")
    raise _no_recording(f"dictionary of {', '.join(map(str, source)) or 'nothing'}")


def _array_blocks(source: tuple[Any, Rate], rate_out: int) -> Blocks:
    array, rate = np.asarray(source[0]), source[1]
    if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.floating):
        raise SoundError(
            f"An array of sound has floating-point samples in [-1, 1], (samples,) or with channels, got {array.dtype} "
            f"of the shape {array.shape}: divide int16 by 32768."
        )
    if not RATES[0] <= rate <= RATES[1]:
        raise SoundError(f"An array of sound needs its sample rate, {RATES[0]} to {RATES[1]} Hz, got {rate}.")
    if array.size == 0:
        return
    array = array[:, None] if array.ndim == 1 else array.T if array.shape[0] < array.shape[1] else array
    size = _block_size(int(rate), array.shape[1], rate_out)
    for start in range(0, len(array), size):
        yield array[start : start + size].astype(np.float32), int(rate)


def _file_blocks(file: File, name: str, rate_out: int) -> Blocks:
    """The blocks of a file that FFmpeg or libsndfile decodes; the first bytes of the file decide which."""
    try:
        start = behind_id3(file)
        media = media_of(file, start)
    except OSError as error:
        raise SoundError(f"{name} cannot be read: {error.strerror}.") from None
    if media is None:
        yield from _libsndfile_blocks(file, name, rate_out)
    else:
        yield from _ffmpeg_blocks(file, start, media, name, rate_out)


def _ffmpeg_blocks(file: File, start: int, media: Media, name: str, rate_out: int) -> Blocks:
    """FFmpeg's frames, joined into blocks. A block ends where the rate or the number of channels changes."""
    pieces, count, size, kind = [], 0, 1, (0, 0)
    try:
        for frame, rate in _ffmpeg.frames(file, start, media, lambda text: warn(f"{name} {text}.")):
            if kind != (rate, frame.shape[1]):
                if pieces:
                    yield np.concatenate(pieces), kind[0]
                pieces, count, kind = [], 0, (rate, frame.shape[1])
                _check_rate(rate, name)
                size = _block_size(*kind, rate_out)
            pieces.append(frame)
            count += len(frame)
            if count >= size:
                whole = np.concatenate(pieces)
                for begin in range(0, count - size + 1, size):
                    yield whole[begin : begin + size], rate
                pieces, count = [whole[count - count % size :]], count % size
    except _ffmpeg.Fault as fault:
        raise SoundError(f"{name} {fault}") from None
    except OSError as error:
        raise SoundError(f"{name} cannot be read any further: {error.strerror}.") from None
    if count:
        yield np.concatenate(pieces), kind[0]


def _block_size(rate: int, channels: int, rate_out: int) -> int:
    """The number of samples in a block with this number of channels."""
    return max(min(BLOCK, BLOCK * rate // rate_out) // max(channels, 1), 1)


def _check_rate(rate: int, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise SoundError(
            f"{name} has {rate} samples a second by its header, and the zoo reads {RATES[0]} to {RATES[1]}: correct "
            "the header."
        )


class _Decoder(soundfile.SoundFile):
    def seekable(self) -> bool:
        """False, because soundfile would otherwise seek after each block without need."""
        return False


def _libsndfile_blocks(file: File, name: str, rate_out: int) -> Blocks:
    """The blocks of a file that libsndfile decodes, link by link."""
    samples = 0
    try:
        stretches = links(file)
    except OSError as error:
        raise SoundError(f"{name} cannot be read: {error.strerror}.") from None
    for link in stretches:
        if link.doubt:
            warn(f"{name}: {link.doubt}.")
        rate, count, is_cut = 0, 0, link.is_cut
        try:
            with _Decoder(link.view) as decoder:  # pyright: ignore[reportArgumentType]
                rate = decoder.samplerate
                _check_rate(rate, name)
                size = _block_size(rate, decoder.channels, rate_out)
                while len(block := decoder.read(min(size, decoder.frames - count), "float32", always_2d=True)):
                    count += len(block)
                    yield block, rate
                # libsndfile guesses the length of MP3 in a WAV file
                is_guess = decoder.subtype.startswith("MPEG") and decoder.format != "MP3"
                is_cut = is_cut or (link.has_count and not is_guess and count < decoder.frames)
        except soundfile.LibsndfileError as error:
            is_cut = is_cut or (rate > 0 and link.view.ended)
            if not is_cut and link.view.error is None:
                raise SoundError(f"{name} cannot be read as sound: {error.error_string}") from None
        samples += count
        if link.view.error is not None:
            raise SoundError(f"{name} cannot be read any further: {link.view.error.strerror}.")
        if is_cut:
            raise SoundError(f"{name} {_ffmpeg.cut_short(samples)}")


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[File]:
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, "rb", buffering=1 << 16))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            raise FileNotFoundError(f"{name_of(source)} is not a file.") from None
        except PermissionError:
            raise
        except OSError as error:  # a link to itself, a socket, a network drive that has gone
            raise SoundError(f"{name_of(source)} cannot be opened: {error.strerror}.") from None
        if not file.seekable():  # a pipe
            pipe, file = file, stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(pipe, file)
        yield file


def warn(text: str) -> None:
    """Warns at the line that reads the recording, which is several generators and type checks above this function."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(CALLERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level + 1)
