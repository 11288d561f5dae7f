"""Sound files of any format and length, mono, at the sample rate a model takes."""

import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

BLOCK = 1 << 18  # samples read at a time, a few seconds


def read(path: str | os.PathLike, sample_rate: int) -> Float[np.ndarray, " samples"]:
    """The whole file in [-1, 1] as float32: channels averaged, then resampled to `sample_rate` Hz by soxr's HQ filter.

    Any format that soundfile reads. Raises FileNotFoundError, and ValueError for a file that is not sound, is empty or
    holds NaN or inf, and for a WAV, FLAC or MP3 file that is cut short.
    """
    return np.concatenate([np.zeros(0, np.float32), *stream(path, sample_rate)])


def windows(
    path: str | os.PathLike, sample_rate: int, seconds: float
) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """The file in consecutive windows of `seconds`, each with its number of samples before the last one's zero padding.

    Reads as `read` does and raises the same, in memory that does not grow with the file.
    """
    size = round(seconds * sample_rate)
    held: list[np.ndarray] = []
    count = 0
    for block in stream(path, sample_rate):
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count // size * size
            for start in range(0, whole, size):
                yield joined[start : start + size], size
            held, count = [joined[whole:]], count - whole
    if count:
        yield np.pad(np.concatenate(held), (0, size - count)), count


def stream(path: str | os.PathLike, sample_rate: int) -> Iterator[Float[np.ndarray, " samples"]]:
    """The file in blocks, as `read` gives it whole."""
    try:
        with soundfile.SoundFile(path) as file:
            resample = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
            done = 0
            for block in _blocks(file):
                mono = block.mean(axis=1, dtype=np.float32)
                done += len(mono)
                if not np.isfinite(mono).all():
                    raise ValueError(
                        f"{path} holds NaN or infinite samples in its first {done / file.samplerate:.1f} s."
                    )
                yield (
                    mono if file.samplerate == sample_rate else resample.resample_chunk(mono, last=done == file.frames)
                )
            if done == 0:
                raise ValueError(f"{path} holds no samples.")
            if done < file.frames or _cut_short(file):
                raise ValueError(f"{path} is cut short, {done} samples are left: copy or record it again.")
    except (soundfile.LibsndfileError, TypeError) as error:  # a TypeError asks for the sample rate of a headerless file
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is not a file.") from None
        raise ValueError(f"{path} cannot be read as sound: {getattr(error, 'error_string', error)}") from None


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield block


def _cut_short(file: soundfile.SoundFile) -> bool:
    """Whether a WAV file's header promises more than the file holds; a stream's header promises the largest number."""
    promised = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)
    return promised is not None and int(promised[2]) < int(promised[1]) < 0xFFFFFFFF
