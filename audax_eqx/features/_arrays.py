"""Operations that the features share: conversion to floating point, padding, and products in full precision."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require, require_choice

TABLES = 32  # the number of tables of each kind that stay in memory
PAD_MODES = {"reflect": "reflect", "constant": "constant", "replicate": "edge", "edge": "edge", "circular": "wrap"}


def as_array(x: Array | np.ndarray) -> Array:
    """`jnp.asarray` without a program: `jnp.asarray` compiles and keeps a program of 1.5 MB for each new shape."""
    return jax.device_put(x) if isinstance(x, np.ndarray) else x


def as_floats(x: Array | np.ndarray, function: str, content: str, remedy: str) -> Array:
    """`x` in float32, or in float64 if it is float64. Raises TypeError for numbers that are not floating-point."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{function} takes floating-point {content}, got {x.dtype}: {remedy}")
    x = as_array(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def as_samples(x: Array | np.ndarray, function: str) -> Array:
    """The samples of a wave, by `as_floats`."""
    remedy = "convert them to float32 (and divide int16 by 32768) first"
    return as_floats(x, function, "samples in [-1, 1]", remedy)


def pad_ends(
    x: Array,
    before: int,
    after: int,
    mode: str,
    axis: int = -1,
    *,
    option: str = "pad_mode",
    remedy: str = "a smaller n_fft or window, or pad_mode='constant'",
) -> Array:
    """`x` padded along `axis`; `mode` is one of torch's names, or "edge". Errors name the `option` and the `remedy`."""
    require_choice(option, mode, PAD_MODES)
    size, widest = x.shape[axis], max(before, after)
    shortest = {"reflect": widest + 1, "circular": widest, "constant": 0}.get(mode, min(widest, 1))
    require(
        size >= shortest,
        f"{mode} padding by {widest} on each side needs at least {shortest} values, got {size}: give a longer input, "
        f"{remedy}",
    )
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode=PAD_MODES[mode])


def matmul(x: Array, table: Array | np.ndarray) -> Array:
    """`x @ table` in full precision: the default is about 10 bits on some accelerators."""
    return jnp.matmul(x, jnp.asarray(table).astype(x.dtype), precision=jax.lax.Precision.HIGHEST)


def magnitude(spectrum: Array, power: float) -> Array:
    """|spectrum| ** power, whose derivative at 0 is 0."""
    energy = spectrum.real**2 + spectrum.imag**2
    if power == 2.0:
        return energy
    audible = energy > jnp.finfo(energy.dtype).tiny
    energy = jnp.where(audible, energy, 1)
    return jnp.where(audible, jnp.sqrt(energy) if power == 1.0 else energy ** (power / 2), 0)
