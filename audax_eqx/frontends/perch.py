"""Perch 2.0's log-mel spectrogram (van Merrienboer et al., 2025, arXiv:2508.04665).

    wave -> minus its mean, scaled to the peak 0.25 -> |STFT| / sum of the window -> mel filterbank
         -> 0.1 log(max(., 1e-5))

The published network does not contain the first step: users of Perch apply it to each window of 5 s, so that the result
does not depend on loudness, and silence stays silence. The filters are TensorFlow's: their flanks are straight in mel,
not in Hz, and no filter contains 0 Hz.

The numbers are those of the released model, https://www.kaggle.com/models/google/bird-vocalization-classifier
(Apache-2.0). In the authors' code, https://github.com/google-research/perch, this is `SimpleMelspec`, framing="same".
The authors' `perch_2.py` uses `MelSpectrogram` with the floor 0.01 instead, framing="center".
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import features
from .._checks import require_choice
from ..abstract import AbstractFrontend


class PerchLogMel(AbstractFrontend):
    """Maps one clip, `samples` of any amplitude, to ceil(samples / hop_length) `frames bins`, in float32.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `win_length`, `hop_length`: samples.
    - `f_min`, `f_max`: Hz; `f_max` None is half the sample rate.
    - `framing`: "same" pads as a convolution does, with `(win_length - hop_length) // 2` zeros in front, and has a
      symmetric Hann window; "center" centres frame k at sample `k hop_length`, and has a periodic Hann window.
    - `floor`, `scale`: the result is `scale * log(max(bin, floor))`.
    - `peak`: the largest magnitude of the samples after their mean is subtracted; None leaves the wave unchanged. Zeros
      that fill up a window are samples too, as in perch_hoplite.

    Raises ValueError for an empty waveform, and for sizes that make no filterbank.
    """

    sample_rate: int = eqx.field(static=True, default=32000)
    bins: int = eqx.field(static=True, default=128)
    n_fft: int = eqx.field(static=True, default=1024)
    win_length: int = eqx.field(static=True, default=640)
    hop_length: int = eqx.field(static=True, default=320)
    f_min: float = eqx.field(static=True, default=60.0)
    f_max: float | None = eqx.field(static=True, default=None)
    framing: str = eqx.field(static=True, default="same")
    floor: float = eqx.field(static=True, default=1e-5)
    scale: float = eqx.field(static=True, default=0.1)
    peak: float | None = eqx.field(static=True, default=0.25)

    def __check_init__(self):
        require_choice("framing", self.framing, ("same", "center"))
        fits = 0 < self.win_length <= self.n_fft and 0 <= self.f_min < self._f_max <= self.sample_rate / 2
        if not (self.bins > 0 < self.hop_length and fits):
            raise ValueError(
                "PerchLogMel takes at least 1 bin, a hop of at least 1 sample, a window that fits into n_fft, and "
                f"f_min below f_max, which is at most half the sample rate, got bins={self.bins}, "
                f"hop_length={self.hop_length}, win_length={self.win_length}, n_fft={self.n_fft}, f_min={self.f_min}, "
                f"f_max={self._f_max}, sample_rate={self.sample_rate}."
            )
        if self.floor <= 0.0 or (self.peak is not None and self.peak <= 0.0):
            raise ValueError(
                "PerchLogMel takes the logarithm of bins clipped to `floor`, and the largest sample to `peak`: both "
                f"must be > 0, got floor={self.floor} and peak={self.peak}."
            )

    @property
    def _f_max(self) -> float:
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def min_samples(self) -> int:
        return 1

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < 1:
            raise ValueError("PerchLogMel takes at least 1 sample, got 0: pad the clip with zeros.")
        wave = wave.astype(jnp.float32)
        if self.peak is not None:
            wave = wave - jnp.mean(wave)
            largest = jnp.max(jnp.abs(wave))
            wave = wave * (self.peak / jnp.where(largest > 0.0, largest, 1.0))
        periodic = self.framing == "center"
        magnitude = features.spectrogram(
            self._pad(wave),
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            power=1.0,
            center=False,
            periodic=periodic,
        )
        filters = _filters(self.bins, self.n_fft, self.sample_rate, self.f_min, self._f_max)
        mel = features.apply_melscale(magnitude, filters / _sum_of_hann(self.win_length, periodic))
        return self.scale * jnp.log(jnp.maximum(mel, self.floor))

    def _pad(self, wave: Float[Array, " samples"]) -> Float[Array, " padded"]:
        """The wave between zeros, so that the STFT has ceil(samples / hop_length) frames."""
        span = (-(-wave.size // self.hop_length) - 1) * self.hop_length
        before = (self.n_fft - self.win_length) // 2  # torch puts the window in the middle of a frame
        if self.framing == "center":
            before += self.win_length // 2
        else:
            before += max(span + self.win_length - wave.size, 0) // 2
        after = span + self.n_fft - before - wave.size  # below 0 where the hop is longer than the window
        return jax.lax.pad(wave, jnp.zeros((), wave.dtype), [(before, after, 0)])

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        centre = 0.0 if self.framing == "center" else min(self.hop_length, self.win_length) / 2
        return (positions * self.hop_length + centre) / self.sample_rate


@functools.lru_cache(32)
def _filters(bins: int, n_fft: int, sample_rate: int, f_min: float, f_max: float) -> np.ndarray:
    """The filterbank, `frequencies bins`: triangles of height 1 over the mel scale, and zeros at 0 Hz."""

    def mel(frequencies):
        return 1127.0 * np.log1p(np.asarray(frequencies) / 700.0)

    edges = np.linspace(mel(f_min), mel(f_max), bins + 2)
    mels = mel(np.linspace(0, sample_rate / 2, n_fft // 2 + 1))[:, None]
    rise, fall = (mels - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - mels) / np.diff(edges)[1:]
    filters = np.maximum(np.minimum(rise, fall), 0.0)
    filters[0] = 0.0
    return filters.astype(np.float32)


def _sum_of_hann(length: int, periodic: bool) -> np.float32:
    """The sum of the window's values."""
    return np.float32(length / 2 if periodic else (length - 1) / 2)
