"""Checks of the waves that models take: each fault is reported in one sentence, before anything runs."""

import os
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Float32

from audax_eqx import AbstractFrontend

from ._decode import Rate as Rate

LOUDEST = 4.0  # resampling and files of floats may exceed 1 a little; integers exceed it far
SCALES = {"16-bit integers": 1 << 15, "24-bit integers": 1 << 23, "32-bit integers": 1 << 31}
LENGTHS = 8  # the number of lengths for which a model compiles before it warns
_process: int | None = None
_lengths: dict[str, set[int]] = {}  # by the model's name


def checked_wave(wave: Any, sample_rate: Rate | None, frontend: AbstractFrontend, name: str, window: float) -> Array:
    """The wave in float32. Raises TypeError or ValueError for anything but one clip that the frontend takes.

    Warns if the wave is longer than the frontend can take, or far louder than [-1, 1].
    """
    rate = frontend.sample_rate
    if sample_rate is not None and sample_rate != rate:
        raise ValueError(
            f"{name} takes waves at {rate} Hz, got sample_rate={sample_rate}: read the file by "
            f"zoo.read(path, {rate}), or use audax_eqx.features.resample(wave, {sample_rate}, {rate})."
        )
    if not isinstance(wave, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} takes one clip as a NumPy or JAX array of samples, got a {type(wave).__name__}: "
            f"zoo.read(path, {rate}) reads a file."
        )
    if wave.ndim != 1:
        raise ValueError(
            f"{name} takes one mono clip of shape (samples,), got {wave.shape}: average the channels of a stereo "
            "clip, or map over a batch by eqx.filter_vmap(clip.embed)(waves)."
        )
    check_floating(wave, name)
    _check_length(wave.size, frontend, name, window)
    if isinstance(wave, Tracer):
        return wave.astype(jnp.float32)
    wave = finite_samples(wave, name)
    _warn_of_lengths(wave.size, name)
    return jax.device_put(wave)  # jnp.asarray compiles a small program for each length


def check_floating(samples: Any, name: str) -> None:
    """Raises TypeError for an array of integers or anything else but floating-point numbers."""
    if not jnp.issubdtype(samples.dtype, jnp.floating):
        raise TypeError(
            f"{name} takes floating-point samples in [-1, 1], got {samples.dtype}: convert them first, "
            "int16 by wave.astype(np.float32) / 32768."
        )


def finite_samples(samples: Any, name: str) -> Float32[np.ndarray, "*sounds samples"]:
    """The samples of one or several sounds in float32. Raises ValueError if any is NaN or infinite.

    Warns if they are far louder than [-1, 1].
    """
    with np.errstate(over="ignore"):
        samples = np.asarray(samples).astype(np.float32, copy=False)
    if not (finite := np.isfinite(samples)).all():
        first = f", the first of them in sound {np.argwhere(~finite)[0, 0]}" if samples.ndim > 1 else ""
        raise ValueError(
            f"{name} takes finite samples, got {np.sum(~finite)} NaN or infinite ones of {samples.size}{first}: "
            "repair the recording, np.nan_to_num(wave) sets them to zero."
        )
    warn_of_scale(samples, name)
    return samples


def check_window(seconds: float, frontend: AbstractFrontend, name: str) -> None:
    """Raises ValueError for windows that are too short for the frontend, or so long that it would ignore the end."""
    rate, longest = frontend.sample_rate, getattr(frontend, "max_samples", None)
    samples = round(seconds * rate)
    if not frontend.min_samples <= samples <= (longest or samples):
        upper = "on" if longest is None else f"to {longest / rate:.4g} s"
        raise ValueError(
            f"{name} hears windows from {frontend.min_samples / rate:.3g} s {upper}, got {seconds:g} s: give another "
            "window."
        )


def _check_length(samples: int, frontend: AbstractFrontend, name: str, window: float) -> None:
    min_samples, max_samples = frontend.min_samples, getattr(frontend, "max_samples", None)
    rate = frontend.sample_rate
    if samples < min_samples:
        raise ValueError(
            f"{name} takes at least one frame, {min_samples} samples ({min_samples / rate:.3f} s at {rate} Hz), got "
            f"{samples}: pad the clip with zeros."
        )
    if max_samples is not None and samples > max_samples:
        warnings.warn(
            f"{name} hears the first {max_samples / rate:.2f} s of a wave, got {samples / rate:.2f} s: cut it first, "
            f"as zoo.windows(path, {rate}, {min(window, max_samples / rate):g}) does with a file.",
            stacklevel=4,
        )


def warn_of_scale(samples: Float[np.ndarray, "..."], name: str) -> None:
    """Warns about samples far outside of [-1, 1]; for integers, says by what to divide them."""
    peak = max(float(samples.max(initial=0)), -float(samples.min(initial=0)))
    if peak <= LOUDEST:
        return
    for numbers, scale in SCALES.items():
        if 100 < peak <= scale:  # a lower peak would be a very quiet recording
            remedy = f"divide them by {scale} if they come from {numbers}"
            break
    else:
        remedy = "scale them to what was recorded, neither normalised nor amplified"
    # The text has no figures and the level is constant, so that Python shows it once, not for every wave
    warnings.warn(f"{name} takes samples in [-1, 1], got far larger ones: {remedy}.", stacklevel=1)


def _warn_of_lengths(samples: int, name: str) -> None:
    """Warns once, when `LENGTHS` different lengths have each compiled a program."""
    lengths = _lengths.setdefault(name, set())
    if len(lengths) < LENGTHS and samples not in lengths:
        lengths.add(samples)
        if len(lengths) == LENGTHS:
            warnings.warn(
                f"{name} has compiled a program for each of {LENGTHS} lengths of waves: zoo.embed(clip, recordings) "
                "and zoo.tag take all lengths by one program.",
                stacklevel=4,
            )


def check_process(name: str) -> None:
    """Raises RuntimeError in a process that was forked from one with a loaded model, because JAX would hang there.

    JAX computes in threads, and a fork has none of its parent's threads.
    """
    if _process not in (None, os.getpid()):
        raise RuntimeError(
            f"{name} cannot compute in a process forked from one that uses JAX, where it would wait for ever: start "
            'processes by multiprocessing.get_context("spawn"), or DataLoader(..., multiprocessing_context="spawn").'
        )


def note_process() -> None:
    """Records the process in which JAX was used first."""
    global _process
    _process = _process or os.getpid()
