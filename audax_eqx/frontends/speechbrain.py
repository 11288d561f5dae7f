"""SpeechBrain's log-mel filterbank (Ravanelli et al., 2021, arXiv:2106.04624), the input of its speaker encoders.

    wave -> |STFT|^2, Hamming window, zeros at the ends -> filterbank -> 10 log10(max(., 1e-10))
         -> max(., the recording's maximum - 80) -> minus the mean over the recording's frames

The filters are triangles of a special kind: a filter is as wide above its centre as below it, where the width is the
distance to the next lower centre, so that the filter ends below the next higher centre.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import features
from ..abstract import AbstractFrontend
from ..layers import Length, mean_first, within, zero_behind


class SpeechBrainFbank(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`, in float32; frame k is centred at sample `k hop_length`.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `win_length`, `hop_length`: samples; `win_length` None is `n_fft`.
    - `f_min`, `f_max`: Hz; `f_max` None is half the sample rate.
    - `top_db`: the largest distance from the recording's maximum, in decibels; lower values are raised to it.
    - `centred`: whether the mean over the recording's frames is subtracted from each bin.

    Raises ValueError for an empty waveform, and for sizes that make no filterbank.
    """

    sample_rate: int = eqx.field(static=True, default=16000)
    bins: int = eqx.field(static=True, default=80)
    n_fft: int = eqx.field(static=True, default=400)
    win_length: int | None = eqx.field(static=True, default=None)
    hop_length: int = eqx.field(static=True, default=160)
    f_min: float = eqx.field(static=True, default=0.0)
    f_max: float | None = eqx.field(static=True, default=None)
    top_db: float = eqx.field(static=True, default=80.0)
    centred: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        window = self.n_fft if self.win_length is None else self.win_length
        if not (self.bins > 0 < self.hop_length and 0 < window <= self.n_fft and 0 <= self.f_min < self._f_max):
            raise ValueError(
                "SpeechBrainFbank takes at least 1 bin, a hop of at least 1 sample, a window that fits into n_fft, and "
                f"f_min below f_max, got bins={self.bins}, hop_length={self.hop_length}, win_length={window}, "
                f"n_fft={self.n_fft}, f_min={self.f_min}, f_max={self._f_max}."
            )

    @property
    def _f_max(self) -> float:
        return self.sample_rate // 2 if self.f_max is None else self.f_max

    @property
    def min_samples(self) -> int:
        return 1

    @property
    def takes_length(self) -> bool:
        return True

    def frames(self, samples: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of frames that are centred within a clip of so many samples, or at its end."""
        return samples // self.hop_length + 1

    def __call__(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames {self.bins}"]:
        if wave.size < 1:
            raise ValueError("SpeechBrainFbank takes at least 1 sample, got 0: pad the clip with zeros.")
        spectrum = features.spectrogram(
            zero_behind(wave.astype(jnp.float32), length),
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            window="hamming",
            pad_mode="constant",
        )
        filters = _filters(self.bins, self.n_fft, self.sample_rate, self.f_min, self._f_max)
        db = features.amplitude_to_db(features.apply_melscale(spectrum, filters))
        frames = None if length is None else self.frames(length)
        loudest = jnp.max(db, where=within(len(db), frames)[:, None], initial=-jnp.inf)
        db = jnp.maximum(db, loudest - self.top_db)
        return db - mean_first(db, frames)[None] if self.centred else db

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return positions * self.hop_length / self.sample_rate


@functools.lru_cache(32)
def _filters(bins: int, n_fft: int, sample_rate: int, f_min: float, f_max: float) -> np.ndarray:
    """The filterbank, `frequencies bins`; its centres are evenly spaced on HTK's mel scale."""
    low, high = (2595 * np.log10(1 + frequency / 700) for frequency in (f_min, f_max))
    edges = 700 * (10 ** (np.linspace(low, high, bins + 2) / 2595) - 1)
    centres, widths = edges[1:-1], np.diff(edges)[:-1]
    frequencies = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)[:, None]
    return np.maximum(1 - np.abs(frequencies - centres) / widths, 0).astype(np.float32)
