"""LEAF, a learnable frontend (Zeghidour et al., 2021, arXiv:2101.08596), as in the original audax.

    wave -> Gabor filters -> |.|^2 -> Gaussian low-pass, every 10 ms -> max(., 1e-5) -> sPCEN

A Gabor filter is a complex sinusoid of frequency mu (radians a sample) under a Gaussian of width sigma (samples),

    exp(i mu t) exp(-t^2 / (2 sigma^2)) / (sqrt(2 pi) sigma),    t = -(taps // 2), ..., (taps - 1) // 2.
"""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .. import features
from ..abstract import AbstractFrontend
from ..layers import EnergyNorm, bounded
from ..layers.initial import full
from ._overlap_save import filter_and_pool, first_centre, window_and_stride

_WIDTH = math.sqrt(2.0 * math.log(2.0)) / math.pi  # n times this: the sigma whose spectrum is 2 pi / n wide


class LEAF(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`: ceil(samples / stride) frames, in float32.

    - `sample_rate`: Hz.
    - `bins`: the number of filters.
    - `window_ms`, `stride_ms`: the length of filters and windows, and the distance of frames, in milliseconds; 401 and
      160 samples at 16 kHz.
    - `min_freq`, `max_freq`: Hz, the range of the filters' initial frequencies; `max_freq` None is 0.4875 of the sample
      rate (7800 at 16 kHz). Training may move the filters to any frequency up to half the sample rate.
    - `init`: the initial filters. With "mel", their centres and their widths at half maximum are those of a mel
      filterbank. With "normal" (standard deviation 0.01), "lecun_normal" or "kaiming_normal", the distances from
      `min_freq` and from the smallest width are random; numbers beyond the bounds are folded back.
    - `key`: the key of the random filters; "mel" does not use it.

    `gabor` holds (mu, sigma), `pooling` the width of the low-pass in half windows. `layers.bounded` keeps mu in [0,
    pi], sigma in the range in which the filter's spectrum is 2 pi / window to pi / 2 wide at half maximum, and pooling
    in [2 / window, 0.5], so that gradients are finite and lead back from outside. (The gradient of mu is 0 at its
    bounds, because the energy is an even function of mu there.) Raises ValueError for frequencies, windows or a name
    that make no sense, and for an empty waveform.
    """

    gabor: Float[Array, "bins 2"]
    pooling: Float[Array, " bins"]
    compression: EnergyNorm
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    min_samples: int = eqx.field(static=True)

    def __init__(
        self,
        sample_rate: int,
        bins: int = 64,
        *,
        window_ms: float = 25.0,
        stride_ms: float = 10.0,
        min_freq: float = 60.0,
        max_freq: float | None = None,
        init: str = "mel",
        key: PRNGKeyArray,
    ):
        max_freq = 0.4875 * sample_rate if max_freq is None else max_freq
        if not 0.0 <= min_freq < max_freq <= sample_rate / 2:
            raise ValueError(
                f"LEAF at {sample_rate} Hz needs 0 <= min_freq < max_freq <= {sample_rate / 2} Hz, got "
                f"min_freq {min_freq} and max_freq {max_freq}: change them or the sample rate."
            )
        if bins < 1:
            raise ValueError(f"LEAF has one filter a bin and needs at least 1, got bins={bins}.")
        self.window, self.stride = window_and_stride("LEAF", sample_rate, window_ms, stride_ms)
        if init == "mel":
            gabor = _mel_start(sample_rate, bins, min_freq, max_freq)
            self.gabor = jnp.asarray(np.clip(gabor, *_bounds(self.window)), jnp.float32)
        elif init in _RANDOM:
            low, high = _bounds(self.window)
            low[0], high[0] = 2.0 * math.pi * min_freq / sample_rate, 2.0 * math.pi * max_freq / sample_rate
            draw = _RANDOM[init](key, (bins, 2), jnp.float32)
            self.gabor = _fold(draw, low.astype(np.float32), high.astype(np.float32))
        else:
            names = ", ".join(repr(name) for name in ("mel", *_RANDOM))
            raise ValueError(f"LEAF has no init {init!r}: choose one of {names}.")
        self.pooling = full(bins, 0.4)
        self.compression = EnergyNorm(bins, alpha=0.96, delta=2.0, root=2.0, smooth=0.04, floor=1e-12)
        self.sample_rate, self.bins, self.min_samples = sample_rate, bins, 1

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError("LEAF takes at least 1 sample, got 0: pad the clip with zeros.")
        energies = filter_and_pool(
            wave.astype(jnp.float32),
            _gabor_filters(self.gabor.astype(jnp.float32), self.window),
            _lowpass(self.pooling.astype(jnp.float32), self.window),
            stride=self.stride,
            pool=_weighted_energies,
            combine=jnp.add,
        )
        return self.compression(jnp.maximum(energies, 1e-5))

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        offset = 1 - self.window % 2  # an even filter is centred on the later one of its two middle taps
        return (positions * self.stride + first_centre(self.window, self.stride) + offset) / self.sample_rate


def _gabor_filters(
    gabor: Float[Array, "bins 2"], taps: int
) -> tuple[Float[Array, "bins {taps}"], Float[Array, "bins {taps}"]]:
    """The real and the imaginary parts of the filters."""
    low, high = _bounds(taps)
    mu, sigma = (bounded(gabor[:, i], float(low[i]), float(high[i]))[:, None] for i in range(2))
    t = jnp.arange(-(taps // 2), (taps + 1) // 2, dtype=jnp.float32)[None]
    envelope = jnp.exp(-0.5 * (t / sigma) ** 2) / (math.sqrt(2.0 * math.pi) * sigma)
    return envelope * jnp.cos(mu * t), envelope * jnp.sin(mu * t)


def _lowpass(pooling: Float[Array, " bins"], window: int) -> Float[Array, "bins {window}"]:
    half = 0.5 * (window - 1)
    width = bounded(pooling, 2.0 / window, 0.5)[:, None] * half
    t = jnp.arange(window, dtype=jnp.float32)[None] - half
    return jnp.exp(-0.5 * (t / width) ** 2)


def _weighted_energies(
    real: Float[Array, "strides stride"],
    imaginary: Float[Array, "strides stride"],
    inside: Bool[Array, "strides stride"],
    taps: int,
    weights: Float[Array, " {taps}"],
) -> Float[Array, "strides parts"]:
    """The energy of each stride, weighted by each part of the low-pass: one matrix product."""
    energy = jnp.where(inside, jnp.square(real) + jnp.square(imaginary), 0.0)
    parts = -(-taps // real.shape[1])
    weights = jnp.pad(weights, (0, parts * real.shape[1] - taps)).reshape(parts, -1)
    return jnp.matmul(energy, weights.T, precision=jax.lax.Precision.HIGHEST)


# The initial filters --------------------------------------------------------------------------------------------------

_RANDOM = {
    "normal": jax.nn.initializers.normal(0.01),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "kaiming_normal": jax.nn.initializers.he_normal(),
}


def _bounds(taps: int) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """The lower and the upper bounds of (mu, sigma)."""
    return np.array([0.0, 4.0 * _WIDTH]), np.array([math.pi, taps * _WIDTH])


def _mel_start(sample_rate: int, bins: int, min_freq: float, max_freq: float) -> Float[np.ndarray, "{bins} 2"]:
    """(mu, sigma) of filters with the peaks of mel filters and the same width at half the maximum of their magnitude.

    The mel filters are sampled at the frequencies of an FFT, as in audax. The FFT has 512 points, and this number is
    doubled until all filters have different peaks. (512 points are enough for 64 filters at 16 kHz; at 44.1 kHz some
    pairs of filters would be equal.)
    """
    for n_fft in (2**power for power in range(9, 17)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mel = np.sqrt(features.melscale_fbanks(n_fft // 2 + 1, min_freq, max_freq, bins, sample_rate))
        height, peak = mel.max(axis=0), mel.argmax(axis=0)
        if np.all(height > 0.0) and np.all(np.diff(peak) > 0):
            width = np.sum(mel >= 0.5 * height[None], axis=0)
            return np.stack([2.0 * math.pi * peak / n_fft, _WIDTH * n_fft / width], axis=1)
    raise ValueError(
        f"LEAF cannot tell {bins} mel filters between {min_freq} and {max_freq} Hz apart at {sample_rate} Hz: take "
        "fewer bins or a wider range."
    )


def _fold(draw: Array, low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]) -> Array:
    """low + |draw|, reflected at both bounds until it lies between them."""
    width = (high - low)[None]
    distance = jnp.mod(jnp.abs(draw), 2.0 * width)
    return jnp.clip(low[None] + width - jnp.abs(distance - width), low[None], high[None])
