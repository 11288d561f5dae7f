"""Kaldi's log-mel filterbank (Povey et al., 2011), normalised as the Audio Spectrogram Transformer takes it.

    wave -> frames less their mean -> pre-emphasis -> window -> |FFT|^2 -> mel filterbank -> log
         -> cut or filled up to `frames` -> (x - mean) / scale

`ast_fbank` is that of https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593 (BSD-3).
"""

from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import features
from ..abstract import AbstractFrontend


class KaldiFbank(AbstractFrontend):
    """Kaldi's log-mel filterbank of one clip: `samples` in [-1, 1] to `frames bins`, in float32.

    - `frame_length`, `frame_shift`: milliseconds; only whole frames count.
    - `window`: "hanning", "hamming", "povey", "rectangular" or "blackman".
    - `low_freq`, `high_freq`: Hz; a `high_freq` <= 0 counts from half the sample rate.
    - `frames`: the number of frames to which the filterbank is cut, or filled up with zeros; None leaves it as long as
      the clip.
    - `mean`, `scale`: the result, zeros included, is (filterbank - mean) / scale. AST divides by two standard
      deviations.

    Samples are taken as they are: Kaldi's own numbers, of samples in the range of 16 bits, are
    higher by 2 log(32768) = 20.79 where the floor of 1.2e-7 is far. Raises ValueError for a waveform shorter than
    `min_samples`, which is one frame.
    """

    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True, default=128)
    frame_length: float = eqx.field(static=True, default=25.0)
    frame_shift: float = eqx.field(static=True, default=10.0)
    window: Literal["hanning", "hamming", "povey", "rectangular", "blackman"] = eqx.field(
        static=True, default="hanning"
    )
    low_freq: float = eqx.field(static=True, default=20.0)
    high_freq: float = eqx.field(static=True, default=0.0)
    frames: int | None = eqx.field(static=True, default=None)
    mean: float = eqx.field(static=True, default=0.0)
    scale: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        if self.scale <= 0.0:
            raise ValueError(f"KaldiFbank divides by `scale`, which must be > 0: got {self.scale}.")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"KaldiFbank gives at least 1 frame, or as many as there are: got frames={self.frames}.")
        # The features themselves refuse all other options that make no sense.
        jax.eval_shape(self, jax.ShapeDtypeStruct((max(self.min_samples, 1),), jnp.float32))

    @property
    def min_samples(self) -> int:
        return int(self.sample_rate * self.frame_length * 0.001)

    @property
    def max_samples(self) -> int | None:
        """The samples of a clip that count: what lies behind the last of `frames` does not; None for all."""
        return None if self.frames is None else self.min_samples + self.frames * self._shift - 1

    @property
    def _shift(self) -> int:
        return int(self.sample_rate * self.frame_shift * 0.001)  # Kaldi counts in whole samples

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError(
                f"KaldiFbank takes at least one frame, {self.min_samples} samples "
                f"({self.frame_length} ms at {self.sample_rate} Hz), got {wave.size}: pad the clip with zeros."
            )
        if self.frames is not None:
            wave = wave[: self.min_samples + (self.frames - 1) * self._shift]  # what is cut off need not be computed
        fbank = features.kaldi_fbank(
            wave.astype(jnp.float32),
            frame_length=self.frame_length,
            frame_shift=self.frame_shift,
            high_freq=self.high_freq,
            low_freq=self.low_freq,
            num_mel_bins=self.bins,
            sample_frequency=self.sample_rate,
            window_type=self.window,
        )
        if self.frames is not None:
            fbank = jnp.pad(fbank, ((0, self.frames - len(fbank)), (0, 0)))
        return (fbank - self.mean) / self.scale

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return (positions * self._shift + self.min_samples / 2) / self.sample_rate


ast_fbank = partial(KaldiFbank, frames=1024, mean=-4.2677393, scale=2 * 4.5689974)
