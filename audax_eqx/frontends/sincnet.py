"""SincNet (Ravanelli and Bengio, 2018, arXiv:1808.00158), as in the original audax, at any sample rate.

    wave -> band-pass filters -> max over 25 ms, every 10 ms -> leaky ReLU -> max(., 1e-5) -> LayerNorm over bins

A filter is a difference of two sincs under a Hamming window, divided by its maximum. Written as a product,

    (2 high sinc(2 high t) - 2 low sinc(2 low t)) / (2 (high - low)) = cos(pi (low + high) t) sinc((high - low) t),

it needs no division. With an even number of taps each t is a half-integer, so that every filter is symmetric.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..abstract import AbstractFrontend
from ..layers import LayerNorm, bounded
from ._overlap_save import filter_and_pool, first_centre, window_and_stride


class SincNet(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`: ceil(samples / stride) frames, in float32.

    - `sample_rate`: Hz.
    - `bins`: the number of filters.
    - `window_ms`, `stride_ms`: the length of filters and windows, and the distance of frames, in milliseconds; 401 and
      160 samples at 16 kHz.
    - `min_low_hz`, `min_band_hz`: Hz, the smallest lower edge and the smallest width of a band.

    `bands` holds two numbers in Hz for each filter: low = min_low_hz + |bands[:, 0]| and high = low + min_band_hz +
    |bands[:, 1]|. The initial edges are evenly spaced in mel. `layers.bounded` keeps high at or below half the sample
    rate and low `min_band_hz` below that, so that no band is ever empty. audax uses the filters of 16 kHz at any sample
    rate; this class uses the filters of its own sample rate. Raises ValueError for frequencies or windows that make no
    sense, and for an empty waveform.
    """

    bands: Float[Array, "bins 2"]
    norm: LayerNorm
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    min_low_hz: float = eqx.field(static=True)
    min_band_hz: float = eqx.field(static=True)
    min_samples: int = eqx.field(static=True)

    def __init__(
        self,
        sample_rate: int,
        bins: int = 64,
        *,
        window_ms: float = 25.0,
        stride_ms: float = 10.0,
        min_low_hz: float = 50.0,
        min_band_hz: float = 50.0,
    ):
        highest = sample_rate / 2 - min_low_hz - min_band_hz
        if not (min_low_hz >= 0.0 and min_band_hz > 0.0 and min_low_hz < highest):
            raise ValueError(
                f"SincNet at {sample_rate} Hz needs min_low_hz >= 0, min_band_hz > 0 and 2 min_low_hz + min_band_hz < "
                f"{sample_rate / 2}, got {min_low_hz} and {min_band_hz} Hz: change them or the sample rate."
            )
        if bins < 1:
            raise ValueError(f"SincNet has one filter a bin and needs at least 1, got bins={bins}.")
        self.window, self.stride = window_and_stride("SincNet", sample_rate, window_ms, stride_ms)
        lowest_mel, highest_mel = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (min_low_hz, highest))
        mel = np.linspace(lowest_mel, highest_mel, bins + 1)
        edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
        self.bands = jnp.asarray(np.stack([edges[:-1], np.diff(edges)], axis=1), jnp.float32)
        self.norm = LayerNorm(bins, eps=1e-6)
        self.sample_rate, self.bins, self.min_samples = sample_rate, bins, 1
        self.min_low_hz, self.min_band_hz = min_low_hz, min_band_hz

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError("SincNet takes at least 1 sample, got 0: pad the clip with zeros.")
        # Two real filters make one complex filter: the real part of its output is the output of the first filter, the
        # imaginary part that of the second.
        filters = jnp.pad(self._filters(), ((0, self.bins % 2), (0, 0)))
        peaks = filter_and_pool(
            wave.astype(jnp.float32),
            (filters[0::2], filters[1::2]),
            None,
            stride=self.stride,
            pool=_maxima,
            combine=jnp.maximum,
        ).reshape(-1, len(filters))[:, : self.bins]
        # The leaky ReLU is increasing, so it may follow the maximum, where it is a hundred times less work.
        return self.norm(jnp.maximum(jax.nn.leaky_relu(peaks, 0.2), 1e-5))

    def _filters(self) -> Float[Array, "{self.bins} {self.window}"]:
        size = jnp.abs(self.bands.astype(jnp.float32))  # its gradient at 0 is 1 in JAX, so no band is stuck there
        nyquist = self.sample_rate / 2
        low = bounded(self.min_low_hz + size[:, 0], 0.0, nyquist - self.min_band_hz)
        high = bounded(low + self.min_band_hz + size[:, 1], 0.0, nyquist)
        t = jnp.asarray((np.arange(self.window) - (self.window - 1) / 2)[None], jnp.float32)
        middle, width = ((low + high) / self.sample_rate)[:, None], ((high - low) / self.sample_rate)[:, None]
        hamming = jnp.asarray(np.hamming(self.window)[None], jnp.float32)
        return jnp.cos(jnp.pi * middle * t) * jnp.sinc(width * t) * hamming

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        offset = 0.5 * (1 - self.window % 2)  # an even filter is centred between samples
        return (positions * self.stride + first_centre(self.window, self.stride) + offset) / self.sample_rate


def _maxima(
    real: Float[Array, "strides stride"],
    imaginary: Float[Array, "strides stride"],
    inside: Bool[Array, "strides stride"],
    taps: int,
    parameters: None,
) -> Float[Array, "strides parts 2"]:
    """The maxima of both parts of the output over each stride, for a window's whole strides and for its last part."""
    both = jnp.where(inside[None], jnp.stack([real, imaginary]), -jnp.inf)
    parts = -(-taps // real.shape[1])
    whole, last = jnp.max(both, axis=2), jnp.max(both[:, :, : taps - (parts - 1) * real.shape[1]], axis=2)
    return jnp.stack([whole] * (parts - 1) + [last], axis=-1).transpose(1, 2, 0)
