"""Per-channel energy normalisation of the mel spectrogram (Wang et al., 2017, arXiv:1607.05666), learned.

    wave -> |STFT|^2 -> mel filterbank -> x / (floor + running mean of x)^alpha -> root compression

PCEN replaces the logarithm, and removes the constant properties of a recording: channel, level and background.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import features
from ..abstract import AbstractFrontend
from ..layers import EnergyNorm


class PCEN(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`, in float32; frame k is centred at sample `k hop_length`.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `win_length`, `hop_length`, `f_min`, `f_max`, `mel_scale`, `norm`: as in `LogMel`, with its defaults.
    - `time_constant`: the initial time constant of the gain, in seconds; `smooth` follows from it by librosa's formula.

    `compression` starts with the paper's parameters, alpha 0.98, delta 2, root 2, and a floor of 1e-6. The energies
    of waves in [-1, 1] need no scaling: with a window of 1024 samples a full-scale sine has the energy 8e4, speech 1e-4
    to 1e3, and the noise of 16 bits 1e-7, which lies below the floor. (librosa advises to multiply magnitudes by 2^31.)
    With a much shorter window or `norm="slaney"` energies are smaller: amplify the wave then. Raises ValueError for
    options that make no sense, and for a waveform shorter than `min_samples`.
    """

    compression: EnergyNorm
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    n_fft: int = eqx.field(static=True)
    win_length: int | None = eqx.field(static=True)
    hop_length: int = eqx.field(static=True)
    f_min: float = eqx.field(static=True)
    f_max: float | None = eqx.field(static=True)
    mel_scale: str = eqx.field(static=True)
    norm: str | None = eqx.field(static=True)

    def __init__(
        self,
        sample_rate: int,
        bins: int = 64,
        *,
        n_fft: int = 1024,
        win_length: int | None = None,
        hop_length: int = 320,
        f_min: float = 0.0,
        f_max: float | None = None,
        mel_scale: str = "htk",
        norm: str | None = None,
        time_constant: float = 0.4,
    ):
        if time_constant <= 0.0 or hop_length < 1:
            raise ValueError(
                f"PCEN takes a time_constant (seconds) and a hop_length (samples) that are both > 0: got "
                f"time_constant={time_constant} and hop_length={hop_length}."
            )
        self.sample_rate, self.bins = sample_rate, bins
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.f_min, self.f_max, self.mel_scale, self.norm = f_min, f_max, mel_scale, norm
        frames = time_constant * sample_rate / hop_length
        self.compression = EnergyNorm(bins, smooth=(math.sqrt(1.0 + 4.0 * frames**2) - 1.0) / (2.0 * frames**2))
        # The features themselves refuse all other options that make no sense, and warn of empty filters.
        jax.eval_shape(self._mel, jax.ShapeDtypeStruct((self.min_samples,), jnp.float32))

    @property
    def min_samples(self) -> int:
        return self.n_fft // 2 + 1

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError(
                f"PCEN with n_fft={self.n_fft} takes at least {self.min_samples} samples "
                f"({self.min_samples / self.sample_rate:.3f} s at {self.sample_rate} Hz), got {wave.size}: "
                "pad the clip with zeros."
            )
        return self.compression(self._mel(wave.astype(jnp.float32)))

    def _mel(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        return features.mel_spectrogram(
            wave,
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            f_min=self.f_min,
            f_max=self.f_max,
            n_mels=self.bins,
            norm=self.norm,
            mel_scale=self.mel_scale,
            fbanks_dtype="float64",
        )

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return positions * self.hop_length / self.sample_rate
