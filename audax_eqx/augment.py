"""Augmentations: pure functions of one example and a random key.

    wave --random_crop, random_shift, gain, add_noise, time_stretch--> wave
    frames x bins --random_resize, spec_augment--> frames x bins
    a batch and its targets --mixup--> a batch and its soft targets

One key makes one draw: `vmap` over the examples and over `jax.random.split(key, batch)` makes a draw for each example.
All functions run under `jit`, keep the dtype, and have finite gradients at silence. `length` is the number of valid
samples or frames of an example that is padded at its end; it may be traced, and is capped at the size of the example. A
`Number` may be traced, so that a different number does not need a different program; all other options are static.
Static numbers that make no sense raise a ValueError.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray, Shaped

from . import features

Length = Int[Array | np.ndarray, ""] | int | np.integer | None
Number = float | Float[Array | np.ndarray, ""]


def _cap(length: Length, size: int) -> Int[Array, ""]:
    return jnp.clip(jnp.asarray(size if length is None else length).astype(jnp.int32), 0, size)


def _any_traced(*numbers: Number) -> bool:
    return any(isinstance(number, Tracer) for number in numbers)


def _draw_between(low: Number, high: Number, label: str, key: PRNGKeyArray) -> Float[Array, ""]:
    if not _any_traced(low, high) and not -math.inf < low <= high < math.inf:
        raise ValueError(f"{label} is drawn between low and high, got low = {low} and high = {high}: give low <= high.")
    return jax.random.uniform(key, (), jnp.float32, low, high)


# Waves ----------------------------------------------------------------------------------------------------------------


def random_shift(wave: Float[Array | np.ndarray, " samples"], *, key: PRNGKeyArray) -> Float[Array, " samples"]:
    """The clip, rolled around its end by a number of samples drawn uniformly: every offset is equally likely.

    - `wave`: `samples`.
    - `key`: the key of the draw.
    """
    return jnp.roll(wave, jax.random.randint(key, (), 0, wave.size))


def random_crop(
    wave: Float[Array | np.ndarray, " any"], samples: int, *, length: Length = None, key: PRNGKeyArray
) -> Float[Array, " {samples}"]:
    """A crop of `samples` consecutive samples, at an offset drawn uniformly from all that fit, including the last.

    - `wave`: any number of samples.
    - `samples`: the number of samples of the crop, at least 1.
    - `length`: the number of valid samples of `wave`; None for all.
    - `key`: the key of the draw.

    With a `length` the crop comes from the first `length` samples. If these are fewer than `samples`, the crop begins
    with the first sample, continues with the padding, and ends with zeros: its first `min(length, samples)` samples are
    valid.
    """
    if samples < 1:
        raise ValueError(f"random_crop takes a number of samples of at least 1, got {samples}.")
    last = jnp.maximum(_cap(length, wave.size) - samples, 0)
    wave = jnp.pad(wave, (0, max(samples - wave.size, 0)))
    return jax.lax.dynamic_slice(wave, (jax.random.randint(key, (), 0, last + 1),), (samples,))


def gain(
    wave: Float[Array | np.ndarray, " samples"], *, low: Number, high: Number, key: PRNGKeyArray
) -> Float[Array, " samples"]:
    """The wave, amplified by a number drawn uniformly.

    - `wave`: `samples`.
    - `low`, `high`: decibels, between which the gain is drawn; 20 dB are a factor of 10.
    - `key`: the key of the draw.
    """
    decibels, wave = _draw_between(low, high, "A gain in dB", key), jnp.asarray(wave)
    return wave * (10.0 ** (decibels / 20)).astype(wave.dtype)


def add_noise(
    wave: Float[Array | np.ndarray, " samples"], *, low: Number, high: Number,
    noise: Float[Array | np.ndarray, " recording"] | None = None, length: Length = None, key: PRNGKeyArray,
) -> Float[Array, " samples"]:  # fmt: skip
    """The wave plus noise, at a signal-to-noise ratio drawn uniformly.

    - `wave`: `samples`.
    - `low`, `high`: decibels, between which the ratio is drawn.
    - `noise`: a recording of any length at the wave's sample rate. It is added from a random offset on, and looped if
      it is shorter than the wave. None for white Gaussian noise.
    - `length`: the number of valid samples of `wave`; None for all.
    - `key`: the key of the draws.

    The ratio is that of the energies of the valid samples, for each example; padding stays as it is. A silent wave
    stays silent, and silent noise adds nothing.
    """
    ratio_key, noise_key = jax.random.split(key)
    decibels = _draw_between(low, high, "A signal-to-noise ratio in dB", ratio_key)
    wave = jnp.asarray(wave)
    precise = jnp.float64 if wave.dtype == jnp.float64 else jnp.float32  # a sum of squares needs the digits
    index = jnp.arange(wave.size, dtype=jnp.int32)
    if noise is None:
        noise = jax.random.normal(noise_key, wave.shape, precise)
    elif noise.size == 0:
        raise ValueError("add_noise got a noise recording of 0 samples: give a longer one, or noise=None for Gaussian.")
    else:
        offsets = noise.size if noise.size < wave.size else noise.size - wave.size + 1
        offset = jax.random.randint(noise_key, (), 0, offsets, jnp.int32)
        noise = jnp.asarray(noise)[(index + offset) % noise.size].astype(precise)
    valid = index < _cap(length, wave.size)
    noise = jnp.where(valid, noise, 0)
    signal_norm, noise_norm = _norm(jnp.where(valid, wave, 0).astype(precise)), _norm(noise)
    silent = noise_norm == 0
    scale = jnp.where(silent, 0, signal_norm / jnp.where(silent, 1, noise_norm))
    return wave + (scale * (10.0 ** (-decibels / 20)).astype(precise) * noise).astype(wave.dtype)


def _norm(x: Float[Array, " samples"]) -> Float[Array, ""]:
    """Euclidean norm, whose derivative at 0 is 0."""
    energy = jnp.sum(x**2)
    silent = energy < jnp.finfo(x.dtype).tiny
    return jnp.where(silent, 0, jnp.sqrt(jnp.where(silent, 1, energy)))


def time_stretch(
    wave: Float[Array | np.ndarray, " samples"], rate: float, n_fft: int = 1024, hop_length: int | None = None
) -> Float[Array, " stretched"]:
    """Plays the wave `rate` times faster at the same pitch, in round(samples / rate) samples, by a phase vocoder.

    - `wave`: `samples`.
    - `rate`: 2 for twice as fast.
    - `n_fft`: samples of a frame.
    - `hop_length`: samples from frame to frame; None for n_fft // 4.

    The rate is static, because it determines a shape: each rate compiles anew. `random_time_stretch` draws a random
    rate for each example of a batch. The numbers are those of `librosa.effects.time_stretch` (Flanagan and Golden,
    1966, "Phase Vocoder").
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"time_stretch takes a positive rate, 2 for twice as fast, got {rate}.")
    if round(wave.size / rate) < 1:
        raise ValueError(f"time_stretch at a rate of {rate} leaves nothing of {wave.size} samples: take a lower rate.")
    # Zeros around the clip work for any length and change a tone by up to 1.2 dB; mirrored ends change it by 10 dB.
    spectrum = features.stft(wave, n_fft, hop_length, pad_mode="constant")
    spectrum = features.phase_vocoder(spectrum, rate)
    return features.istft(spectrum, n_fft, hop_length, length=round(wave.size / rate)).astype(wave.dtype)


def random_time_stretch(
    wave: Float[Array | np.ndarray, " samples"], *, low: float, high: float, n_fft: int = 1024,
    hop_length: int | None = None, key: PRNGKeyArray,
) -> Float[Array, " samples"]:  # fmt: skip
    """`time_stretch` at a random rate; its end is cut off or filled with zeros to keep the number of samples.

    - `wave`: `samples`.
    - `low`, `high`: the lowest and the highest rate. The logarithm of the rate is drawn uniformly: rates from 0.8 to
      1.25 slow down as often as they speed up.
    - `n_fft`, `hop_length`: as in `time_stretch`.
    - `key`: the key of the draw.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"random_time_stretch takes rates with 0 < low <= high, got low = {low} and high = {high}.")
    rate = low * (high / low) ** jax.random.uniform(key, (), jnp.float32)
    spectrum = features.stft(wave, n_fft, hop_length, pad_mode="constant")
    spectrum = _play(spectrum, jnp.arange(len(spectrum), dtype=rate.dtype) * rate)
    return features.istft(spectrum, n_fft, hop_length, length=wave.size).astype(wave.dtype)


def _play(spectrum: Complex[Array, "frames freqs"], times: Float[Array, " frames"]) -> Complex[Array, "frames freqs"]:
    """`features.phase_vocoder` at traced times, which are counted in frames; behind the end it gives silence."""
    index = jnp.minimum(times.astype(jnp.int32), len(spectrum))
    x = jnp.pad(spectrum, ((0, 2), (0, 0)))
    size = jnp.abs(x)
    fraction = (times % 1.0)[:, None].astype(size.dtype)
    silent = size < 1e-15  # -300 dB: below it the phase has no finite derivative
    unit = jnp.where(silent, 1, x / jnp.where(silent, 1, size).astype(x.dtype))
    turns = unit[index + 1] * jnp.conj(unit[index])
    phase = jnp.cumprod(jnp.concatenate([unit[:1], turns[:-1]]), axis=0)
    return phase * (fraction * size[index + 1] + (1 - fraction) * size[index]).astype(x.dtype)


# Features -------------------------------------------------------------------------------------------------------------


def random_resize(
    x: Float[Array | np.ndarray, "frames bins"], *, time: Number, freq: Number, key: PRNGKeyArray
) -> Float[Array, "frames bins"]:
    """Stretches the picture along its frames and along its bins, or shrinks it.

    - `x`: `frames bins`.
    - `time`, `freq`: the largest factors along frames and bins, at least 1.
    - `key`: the key of the draws.

    The logarithms of the factors are drawn uniformly, for factors from 1 / time to time. Then a place is drawn: that of
    the part that is cut out of a stretched picture, or that of a shrunk picture on a background of the mean of `x`.
    Values in between are interpolated linearly. Over mel bins this imitates changes of tempo and pitch (Niizumi et al.,
    2021, arXiv:2103.06695, "BYOL-A").
    """
    if not _any_traced(time, freq) and not (1 <= time < math.inf and 1 <= freq < math.inf):
        raise ValueError(f"random_resize takes factors of at least 1, got time = {time} and freq = {freq}.")
    factor_key, place_key = jax.random.split(key)
    largest = jnp.log(jnp.array([time, freq], jnp.float32))
    factors = jnp.exp(largest * jax.random.uniform(factor_key, (2,), jnp.float32, -1, 1))
    room = jnp.array(x.shape, jnp.float32) * (1 - factors)  # negative where the picture is larger than its frame
    places = room * jax.random.uniform(place_key, (2,), jnp.float32)
    ground = jnp.mean(x)
    return ground + jax.image.scale_and_translate(x - ground, x.shape, (0, 1), factors, places, "linear").astype(
        x.dtype
    )


def spec_augment(
    x: Float[Array | np.ndarray, "frames bins"], *, time: int, freq: int, masks: int = 2, max_share: float = 1.0,
    length: Length = None, fill: str = "mean", key: PRNGKeyArray,
) -> Float[Array, "frames bins"]:  # fmt: skip
    """Masks bands of frames and bands of bins (Park et al., 2019, arXiv:1904.08779).

    - `x`: `frames bins`.
    - `time`, `freq`: the widest band, in frames and in bins. The width of each band is drawn uniformly from 0 on, then
      its start from all that fit.
    - `masks`: the number of bands of frames, and that of bands of bins.
    - `max_share`: the largest share of the valid frames that a band of frames covers (Park's p).
    - `length`: the number of valid frames; None for all. Bands of frames lie within them, and padding stays as it is.
    - `fill`: the value in the bands: "mean", the mean of the valid frames before masking, or "zero".
    - `key`: the key of the draws.
    """
    if min(time, freq, masks) < 0 or not 0 <= max_share <= 1:
        numbers = f"time = {time}, freq = {freq}, masks = {masks} and max_share = {max_share}"
        raise ValueError(f"spec_augment takes sizes and counts of at least 0 and a share from 0 to 1, got {numbers}.")
    if fill not in ("mean", "zero"):
        raise ValueError(f"spec_augment fills with 'mean' or 'zero', got {fill!r}.")
    frames, bins = x.shape
    length = _cap(length, frames)
    widest = jnp.minimum(time, jnp.floor(max_share * length.astype(jnp.float32)).astype(jnp.int32))
    time_key, freq_key = jax.random.split(key)
    masked_frames = _bands(frames, length, widest, masks, time_key)
    masked_bins = _bands(bins, bins, min(freq, bins), masks, freq_key)
    index = jnp.arange(frames, dtype=jnp.int32)[:, None]
    masked = masked_frames[:, None] | (masked_bins[None, :] & (index < length))
    value = jnp.mean(x, where=index < length) if fill == "mean" else 0  # NaN without frames, but then no masks
    return jnp.where(masked, value, x)


def _bands(size: int, length: Array | int, widest: Array | int, count: int, key: PRNGKeyArray) -> Array:
    """Which of `size` positions are covered by `count` random bands within the first `length` positions."""
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count, 1), 0, widest + 1, jnp.int32)
    starts = jax.random.randint(start_key, (count, 1), 0, length - widths + 1, jnp.int32)
    index = jnp.arange(size, dtype=jnp.int32)[None, :]
    return jnp.any((index >= starts) & (index < starts + widths), axis=0)


# Batches --------------------------------------------------------------------------------------------------------------


def mixup(
    waves: Float[Array | np.ndarray, "batch ..."], targets: Shaped[Array | np.ndarray, "batch classes"], *,
    alpha: float, key: PRNGKeyArray,
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch classes"]]:  # fmt: skip
    """Mixes each example, and its target, with another of the batch (Zhang et al., 2018, arXiv:1710.09412).

    - `waves`: `batch ...`, waves or features.
    - `targets`: `batch classes`, in floating point. Rows that sum to 1, for a softmax, still sum to 1 afterwards;
      labels in [0, 1], for sigmoids, stay in [0, 1].
    - `alpha`: > 0. Each example has a share of its own from Beta(alpha, alpha), and a partner from a random
      permutation.
    - `key`: the key of the draws.

    Raises TypeError for targets of whole numbers, which cannot be mixed.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"mixup takes a positive alpha, got {alpha}: leave mixup out to train without it.")
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise TypeError(
            f"mixup takes soft targets in floating point, got {targets.dtype}: one-hot them, jax.nn.one_hot(labels, "
            "classes), or convert rows of 0 and 1 to float32."
        )
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, (len(waves),))
    partner = jax.random.permutation(partner_key, len(waves))
    return _mix(waves, partner, share), _mix(targets, partner, share)


def _mix(x: Array | np.ndarray, partner: Int[Array, " batch"], share: Float[Array, " batch"]) -> Array:
    x = jnp.asarray(x)
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return share * x + (1 - share) * x[partner]
