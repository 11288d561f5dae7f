"""Sound files as FLAC, and back: in 16 bits, or in 24 where 16 would lose too much.

    wave --16 bits--> FLAC                                    bit by bit the samples of an int16 file
    wave --divided by a power of two--> 24 bits --> FLAC      as precise as float32, however quiet or loud it is

The power of two, the `scale`, lies beside the record. The float samples of a hydrophone may be smaller than half a step
of 16 bits, which would round them to silence.
"""

import io
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

import zoo
from zoo.tools import UNREADABLE

SHARE = 1e-4  # the share of the energy that 16 bits may lose, -40 dB
DEEPER = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # subtypes of more than 16 bits
_thread_local = threading.local()


class Sound(NamedTuple):
    """A file as FLAC, and the changes that were made to it.

    - `scale`: the level of full scale; None in 16 bits, where it is 1.
    - `clipped`: the number of samples that are cut off at full scale.
    - `rounded`: whether a source of more than 16 bits has 16 now.
    - `beyond`: whether samples beyond full scale are preserved.
    """

    flac: bytes
    samples: int
    scale: float | None
    clipped: int
    rounded: bool
    beyond: bool


def encode(path: str, sample_rate: int) -> Sound | str:
    """The file at that rate, mono, or the reason why it cannot be read."""
    try:
        wave = zoo.read(path, sample_rate)
        if not len(wave):
            raise ValueError(f"{path} holds no samples at {sample_rate} Hz.")
        deeper, excess = _is_deeper(path), int(np.sum(np.abs(wave) > 1))
        # int16 files are read as n / 32768: the same factor restores them bit by bit
        samples = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
        # In a deeper source the worst tenth of a second counts, so that a click does not hide a loss in the rest
        if _loss(wave, samples, max(1, sample_rate // 10), worst_part=deeper) <= SHARE:
            return Sound(_flac(samples, sample_rate, "PCM_16"), len(wave), None, excess, deeper, False)
        peak = np.abs(wave).max()
        _, exponent = np.frexp(np.nextafter(peak, np.float32(0)))  # gives n, not n + 1, for a peak of 2**n
        integers = np.clip(np.round(np.ldexp(wave, 23 - exponent)), -(2**23), 2**23 - 1).astype(np.int32)
        return Sound(_flac(integers << 8, sample_rate, "PCM_24"), len(wave), 2.0 ** int(exponent), 0, False, excess > 0)
    except UNREADABLE as error:
        return str(error)


def decode(
    flac: memoryview | io.RawIOBase, waves: Sequence[np.ndarray], starts: Sequence[int], scale: float, samples: int
) -> None:
    """Fills each of `waves`, int16 or float32 in [-1, 1] times `scale`, with the FLAC's samples from its start on.

    Raises soundfile.LibsndfileError for data that are not FLAC, and EOFError if the number of samples is not `samples`
    or the FLAC is cut short.
    """
    with _open(flac) as sound:
        if len(sound) != samples:
            raise EOFError("it is another example's")
        for number, (wave, start) in enumerate(zip(waves, starts, strict=True)):
            if len(wave) and (start or number):
                sound.seek(start)
            if len(sound.read(out=wave)) < len(wave):
                raise EOFError("its audio is cut short")
            if scale != 1:
                wave *= wave.dtype.type(scale)


def _open(flac: Any) -> "_Sound":
    """A sound in memory as a file of the operating system, if that has such files, so that libsndfile reads by itself.

    libsndfile reads some fifty times a clip, and would wait for the interpreter each time to read a Python object.
    """
    if not isinstance(flac, bytes | memoryview):
        return _Sound(flac)
    if not hasattr(os, "memfd_create"):
        return _Sound(io.BytesIO(flac))
    if not hasattr(_thread_local, "memory"):
        _thread_local.memory = _Memory()
    number = _thread_local.memory.number
    os.pwrite(number, flac, 0)
    os.truncate(number, len(flac))
    os.lseek(number, 0, os.SEEK_SET)
    return _Sound(number, closefd=False)


class _Sound(soundfile.SoundFile):
    """A sound file that does not seek after each read, as soundfile does: FLAC would decode its block again."""

    def seekable(self) -> bool:
        return False


class _Memory:
    """A file in memory that is open as long as this object lives."""

    def __init__(self):
        self.number = os.memfd_create("flac")

    def __del__(self):
        os.close(self.number)


def _loss(
    wave: Float32[np.ndarray, " samples"], samples: Int16[np.ndarray, " samples"], size: int, *, worst_part: bool
) -> float:
    """The share of the wave's energy that its 16-bit samples lose: in the whole, or in the worst part of `size` samples
    with `worst_part`."""
    energies = np.zeros((-(-len(wave) // size), 2))
    for place in range(len(energies)):
        part = wave[place * size : (place + 1) * size]
        error = part - samples[place * size : (place + 1) * size].astype(np.float32) / 32768
        energies[place] = np.dot(part, part), np.dot(error, error)
    energy, loss = energies.T if worst_part else energies.sum(axis=0)
    return float(np.max(loss / np.maximum(energy, np.finfo(np.float64).tiny)))


def _flac(samples: np.ndarray, sample_rate: int, subtype: str) -> bytes:
    flac = io.BytesIO()
    soundfile.write(flac, samples, sample_rate, format="FLAC", subtype=subtype)
    return flac.getvalue()


def _is_deeper(path: str) -> bool:
    """Whether the file has more than 16 bits a sample."""
    try:
        with open(path, "rb") as file:
            return soundfile.info(file).subtype in DEEPER
    except soundfile.LibsndfileError:  # a format that the zoo reads and soundfile does not
        return False
