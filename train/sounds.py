"""A sound file becomes FLAC and comes back: in 16 bits, or where these lose more than a share of it, in 24.

    wave --16 bits--> FLAC                                    bit by bit what an int16 file holds
    wave --divided by a power of two--> 24 bits --> FLAC      as precise as float32, however quiet or loud it is

The power of two, the `scale`, lies beside the record. A hydrophone's float samples may be smaller than half a step of
16 bits: rounded, they would be silence.
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

SHARE = 1e-4  # of the energy that 16 bits may lose, -40 dB
DEEPER = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # than 16 bits
_of_thread = threading.local()


class Sound(NamedTuple):
    """A file as FLAC, and what was done to it.

    `scale` is what full scale stands for, None in 16 bits, where it is 1. `clipped` samples are cut off at full scale.
    `rounded` says whether a source of more than 16 bits has become one of 16, `beyond` whether samples beyond full
    scale are kept.
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
        deeper, over = _deeper(path), int(np.sum(np.abs(wave) > 1))
        # int16 files come as n / 32768: scaled by the same they come back bit by bit
        samples = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
        # Of a deeper source, each tenth of a second counts: a click does not excuse what is lost behind it
        if _loss(wave, samples, max(1, sample_rate // 10), each=deeper) <= SHARE:
            return Sound(_flac(samples, sample_rate, "PCM_16"), len(wave), None, over, deeper, False)
        _, exponent = np.frexp(
            np.nextafter(np.abs(wave).max(), np.float32(0))
        )  # of a power of two that one, not twice it
        whole = np.clip(np.round(np.ldexp(wave, 23 - exponent)), -(2**23), 2**23 - 1).astype(np.int32)
        return Sound(_flac(whole << 8, sample_rate, "PCM_24"), len(wave), 2.0 ** int(exponent), 0, False, over > 0)
    except UNREADABLE as error:
        return str(error)


def decode(
    flac: memoryview | io.RawIOBase, waves: Sequence[np.ndarray], starts: Sequence[int], scale: float, samples: int
) -> None:
    """Fills each of `waves`, int16 or float32 in [-1, 1] times `scale`, with what the FLAC has from its start on.

    Raises soundfile.LibsndfileError for what is no FLAC, and EOFError for one that has not so many `samples`, or is cut
    short.
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
    """A sound in memory as a file of the system, where there are such files: libsndfile reads it by itself then.

    It reads some fifty times a clip. A Python object would have to wait for the interpreter each time.
    """
    if not isinstance(flac, bytes | memoryview):
        return _Sound(flac)
    if not hasattr(os, "memfd_create"):
        return _Sound(io.BytesIO(flac))
    if not hasattr(_of_thread, "memory"):
        _of_thread.memory = _Memory()
    number = _of_thread.memory.number
    os.pwrite(number, flac, 0)
    os.truncate(number, len(flac))
    os.lseek(number, 0, os.SEEK_SET)
    return _Sound(number, closefd=False)


class _Sound(soundfile.SoundFile):
    """soundfile seeks after each read, to where it stands already, and FLAC's block there is decoded anew. Not here."""

    def seekable(self) -> bool:
        return False


class _Memory:
    """A file in memory, until nobody holds it."""

    def __init__(self):
        self.number = os.memfd_create("flac")

    def __del__(self):
        os.close(self.number)


def _loss(
    wave: Float32[np.ndarray, " samples"], samples: Int16[np.ndarray, " samples"], size: int, *, each: bool
) -> float:
    """The share of the energy that is lost, of the stretch of `size` samples that loses most, or of all together."""
    energies = np.zeros((-(-len(wave) // size), 2))
    for place in range(len(energies)):
        part = wave[place * size : (place + 1) * size]
        error = part - samples[place * size : (place + 1) * size].astype(np.float32) / 32768
        energies[place] = np.dot(part, part), np.dot(error, error)
    energy, lost = energies.T if each else energies.sum(axis=0)
    return float(np.max(lost / np.maximum(energy, np.finfo(np.float64).tiny)))


def _flac(samples: np.ndarray, sample_rate: int, subtype: str) -> bytes:
    flac = io.BytesIO()
    soundfile.write(flac, samples, sample_rate, format="FLAC", subtype=subtype)
    return flac.getvalue()


def _deeper(path: str) -> bool:
    """Whether the file has more than 16 bits a sample."""
    try:
        with open(path, "rb") as file:
            return soundfile.info(file).subtype in DEEPER
    except soundfile.LibsndfileError:  # what the zoo reads and soundfile alone does not
        return False
