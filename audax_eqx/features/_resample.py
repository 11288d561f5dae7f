"""Band-limited resampling (Smith, "Digital Audio Resampling")."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from .._checks import require, require_choice
from ._arrays import as_samples, matmul
from ._clips import RATES, resample_each_clip


@dataclass(frozen=True)
class ResampleOptions:
    """From `orig` samples to `new` samples, without a common factor, with a sinc of `zeros` zero crossings per side."""

    orig: int
    new: int
    zeros: int = 6
    rolloff: float = 0.99
    method: str = "sinc_interp_hann"
    beta: float | None = None


def resample(
    waveform: Num[Array | np.ndarray, "*batch samples"], orig_freq: int, new_freq: int, lowpass_filter_width: int = 6,
    rolloff: float = 0.99, resampling_method: str = "sinc_interp_hann", beta: float | None = None,
) -> Float[Array, "*batch resampled"]:  # fmt: skip
    """Band-limited interpolation to ceil(samples * new_freq / orig_freq) samples, as `torchaudio.functional.resample`.

    - `waveform`: `*batch samples`.
    - `orig_freq`, `new_freq`: Hz. Each pair compiles a program, and the last 8 programs stay in memory: draw random
      speeds from a short list.
    - `lowpass_filter_width`: the number of zero crossings of the sinc on either side.
    - `rolloff`: the cutoff of the sinc, as a share of the lower one of the two Nyquist frequencies.
    - `resampling_method`: the window of the sinc, "sinc_interp_hann" or "sinc_interp_kaiser".
    - `beta`: the shape of the Kaiser window; None for 14.77.

    Raises ValueError for rates, widths and names that make no sense.
    """
    waveform = as_samples(waveform, "resample")
    require(min(orig_freq, new_freq) > 0, f"resample needs positive frequencies in Hz, got {orig_freq} and {new_freq}")
    require(rolloff > 0, f"rolloff is {rolloff}: it must be more than 0, and at most 1 to keep the band")
    require(lowpass_filter_width > 0, f"lowpass_filter_width is {lowpass_filter_width}: it must be at least 1")
    require_choice("resampling_method", resampling_method, ("sinc_interp_hann", "sinc_interp_kaiser"))
    if orig_freq == new_freq or waveform.shape[-1] == 0:
        return waveform
    gcd = math.gcd(orig_freq, new_freq)
    options = ResampleOptions(orig_freq // gcd, new_freq // gcd, lowpass_filter_width, rolloff, resampling_method, beta)
    return resample_each_clip(resample_clip, options, waveform)


@functools.lru_cache(RATES)
def sinc_blocks(options: ResampleOptions, samples: int, dtype: str) -> tuple[np.ndarray, np.ndarray, int, int]:
    """The filters of `samples` output samples, in blocks of neighbouring outputs.

    Gives the first input of each block, the matrices `blocks inputs outputs`, and the period in inputs and in outputs.
    Neighbouring outputs share most of their inputs, so a block of outputs is one small matrix. After a period the
    blocks repeat. Each output has about 13 weights that are not 0, and more if the rate falls, however long the period.

    The positions t of the taps are rounded as in torchaudio, step by step, in the dtype of the samples: this moves the
    output samples by up to 3e-5.
    """
    orig, new, zeros = options.orig, options.new, options.zeros
    size = min(128, 32 * max(1, round(new / orig)))  # on CPU, at the usual rates, the fastest size from 16 to 160
    if size < new <= 128 and orig < 1.5 * new:
        size = new  # a whole period is fast too if it is short
    periods = max(1, size // new)
    blocks = -(-min(periods * new, samples) // size)
    cutoff = min(orig, new) * options.rolloff
    reach = zeros * orig / cutoff
    taps = math.floor(2 * reach) + 1
    output = np.arange(blocks * size)
    # The first input of each output; the inputs of all taps, from the period of the output on; and t, the distance of
    # tap and output in zero crossings
    first = np.ceil(output * (orig / new) - reach).astype(np.int64)
    inputs = (first - output // new * orig)[:, None] + np.arange(taps)
    phases = -(output % new)[:, None]
    t = phases.astype(dtype) / np.asarray(new, dtype) + inputs.astype(dtype) / np.asarray(orig, dtype)
    t = np.clip(t * np.asarray(cutoff, dtype), -zeros, zeros).astype(np.float64)
    if options.method == "sinc_interp_hann":
        window = np.cos(np.pi * t / zeros / 2) ** 2
    else:
        beta = 14.769656459379492 if options.beta is None else options.beta
        window = np.i0(beta * np.sqrt(1 - (t / zeros) ** 2)) / np.i0(beta)
    weights = (np.sinc(t) * window * cutoff / orig).astype(dtype)
    starts = first[::size]
    rows = (first - np.repeat(starts, size))[:, None] + np.arange(taps)
    filters = np.zeros((blocks, int(rows.max()) + 1, size), dtype)
    filters[output[:, None] // size, rows, output[:, None] % size] = weights
    return starts, filters, periods * orig, periods * new


def resample_clip(clip: Array, options: ResampleOptions) -> Array:
    """The samples of one clip at the new rate."""
    orig, new = options.orig, options.new
    samples = -(-new * len(clip) // orig)
    starts, filters, hop, period = sinc_blocks(options, samples, clip.dtype.name)
    width, frames = filters.shape[1], -(-samples // period)
    left, end = -int(starts[0]), (frames - 1) * hop + int(starts[-1]) + width
    clip = jnp.pad(clip, (left, max(end - len(clip), 0)))
    starts = (left + starts[:, None] + hop * np.arange(frames)[None]).astype(np.int32)
    if len(filters) <= 16:  # on CPU one product a block is up to twice as fast as one product of all
        blocks = zip(starts, filters, strict=True)
        y = jnp.concatenate([matmul(slices(clip, start, width), matrix) for start, matrix in blocks], axis=1)
    else:
        x = slices(clip, starts.reshape(-1), width).reshape(*starts.shape, width)
        y = jnp.swapaxes(matmul(x, filters), 0, 1)
    return y.reshape(frames, -1)[:, :period].reshape(-1)[:samples]


def slices(samples: Array, starts: np.ndarray, length: int) -> Array:
    """The slices of the samples that begin at `starts`: `starts length`."""
    return jax.vmap(lambda start: jax.lax.dynamic_slice(samples, (start,), (length,)))(jnp.asarray(starts))
