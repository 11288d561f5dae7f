"""Kaldi's log-mel filterbank (Povey et al., 2011), normalised for Transformers over spectrograms.

    wave times `gain` -> frames minus their mean -> pre-emphasis -> window -> |FFT|^2 -> mel filterbank -> log
         -> minus its mean over time, if `centred` -> cut or filled up to `frames` -> (x - mean) / scale

`ast_fbank` has the numbers of https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593 (BSD-3), `beats_fbank`
those of https://github.com/microsoft/unilm/tree/master/beats (MIT), `wespeaker_fbank` those of
https://github.com/wenet-e2e/wespeaker (Apache-2.0).
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import features
from .._checks import require_choice
from ..abstract import AbstractFrontend
from ..layers import Length, mean_first


class KaldiFbank(AbstractFrontend):
    """Kaldi's log-mel filterbank: it maps one clip, `samples` in [-1, 1], to `frames bins`, in float32.

    - `sample_rate`: Hz.
    - `bins`: the number of filters.
    - `frame_length`, `frame_shift`: milliseconds; only whole frames are used.
    - `window`: "hanning", "hamming", "povey", "rectangular" or "blackman".
    - `low_freq`, `high_freq`: Hz; a `high_freq` <= 0 counts from half the sample rate.
    - `frames`: the number of frames to which the result is cut, or filled up with zeros; None leaves it as long as the
      clip.
    - `mean`, `scale`: the result, including the zeros, is (filterbank - mean) / scale. The scale of AST and of BEATs is
      two standard deviations.
    - `gain`: the factor of the samples. Kaldi's samples have the range of 16 bits, so Kaldi's numbers need a gain of
      32768. This gain raises the result by 2 log(32768) = 20.79, except in silence, because the floor of the
      logarithm's argument stays 1.2e-7.
    - `centred`: whether the mean over the valid frames of the clip is subtracted from each bin.

    Raises ValueError for options that make no sense, and for a waveform shorter than `min_samples`, which is one frame.
    """

    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    frame_length: float = eqx.field(static=True)
    frame_shift: float = eqx.field(static=True)
    window: str = eqx.field(static=True)
    low_freq: float = eqx.field(static=True)
    high_freq: float = eqx.field(static=True)
    total_frames: int | None = eqx.field(static=True)
    mean: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    gain: float = eqx.field(static=True)
    centred: bool = eqx.field(static=True)

    def __init__(
        self,
        sample_rate: int,
        bins: int = 128,
        *,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        window: str = "hanning",
        low_freq: float = 20.0,
        high_freq: float = 0.0,
        frames: int | None = None,
        mean: float = 0.0,
        scale: float = 1.0,
        gain: float = 1.0,
        centred: bool = False,
    ):
        require_choice("window", window, ("hanning", "hamming", "povey", "rectangular", "blackman"))
        if scale <= 0.0:
            raise ValueError(f"KaldiFbank divides by `scale`, which must be > 0: got {scale}.")
        if not 0.0 < gain < math.inf:
            raise ValueError(f"KaldiFbank multiplies samples by `gain`, which must be finite and > 0: got {gain}.")
        if frames is not None and frames < 1:
            raise ValueError(f"KaldiFbank takes frames of at least 1, or None for all: got frames={frames}.")
        self.sample_rate, self.bins, self.frame_length, self.frame_shift = sample_rate, bins, frame_length, frame_shift
        self.window, self.low_freq, self.high_freq, self.total_frames = window, low_freq, high_freq, frames
        self.mean, self.scale, self.gain, self.centred = mean, scale, gain, centred

    def __check_init__(self):
        # The features themselves refuse all other options that make no sense.
        jax.eval_shape(self, jax.ShapeDtypeStruct((max(self.min_samples, 1),), jnp.float32))

    @property
    def min_samples(self) -> int:
        return int(self.sample_rate * self.frame_length * 0.001)

    @property
    def max_samples(self) -> int | None:
        """The number of samples of the longest clip that has at most `total_frames` frames; None for any."""
        return None if self.total_frames is None else self.min_samples + self.total_frames * self._shift - 1

    @property
    def takes_length(self) -> bool:
        return True

    def frames(self, samples: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of frames that lie within a clip of so many samples."""
        count = (samples - self.min_samples) // self._shift + 1
        if self.total_frames is None:
            return count
        return min(count, self.total_frames) if isinstance(count, int) else jnp.minimum(count, self.total_frames)

    @property
    def _shift(self) -> int:
        return int(self.sample_rate * self.frame_shift * 0.001)  # Kaldi counts in whole samples

    def __call__(self, wave: Float[Array, " samples"], *, length: Length = None) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError(
                f"KaldiFbank takes at least one frame, {self.min_samples} samples "
                f"({self.frame_length} ms at {self.sample_rate} Hz), got {wave.size}: pad the clip with zeros."
            )
        if self.total_frames is not None:  # frames that are cut off need not be computed
            wave = wave[: self.min_samples + (self.total_frames - 1) * self._shift]
        fbank = features.kaldi_fbank(
            self.gain * wave.astype(jnp.float32),
            frame_length=self.frame_length,
            frame_shift=self.frame_shift,
            high_freq=self.high_freq,
            low_freq=self.low_freq,
            num_mel_bins=self.bins,
            sample_frequency=self.sample_rate,
            window_type=self.window,
        )
        if self.centred:
            count = None if length is None else jnp.asarray(self.frames(length), jnp.int32)
            fbank = fbank - mean_first(fbank, count)[None]
        if self.total_frames is not None:
            fbank = jnp.pad(fbank, ((0, self.total_frames - len(fbank)), (0, 0)))
        return (fbank - self.mean) / self.scale

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return (positions * self._shift + self.min_samples / 2) / self.sample_rate


ast_fbank = partial(KaldiFbank, frames=1024, mean=-4.2677393, scale=2 * 4.5689974)
beats_fbank = partial(KaldiFbank, window="povey", mean=15.41663, scale=2 * 6.55582, gain=2.0**15)
wespeaker_fbank = partial(KaldiFbank, bins=80, window="hamming", gain=2.0**15, centred=True)
