"""Whisper's log-mel spectrogram (Radford et al., 2022, arXiv:2212.04356).

    wave -> cut, or filled up with zeros, to 30 s -> |STFT|^2 without its last frame -> mel filterbank
         -> log10(max(mel, 1e-10)) -> max(., its maximum - 8) -> (. + 4) / 4

The defaults are those of https://huggingface.co/openai/whisper-base (Apache-2.0); large-v3 has 128 bins.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import features
from ..abstract import AbstractFrontend
from ..layers import Length, zero_behind


class WhisperLogMel(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`, in float32; frame k is centred at sample `k hop_length`.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `hop_length`: samples.
    - `total_frames`: the number of frames, which does not depend on the length of the clip.

    Raises ValueError for an empty waveform, and for too few frames to reflect `n_fft // 2` samples.
    """

    sample_rate: int = eqx.field(static=True, default=16000)
    bins: int = eqx.field(static=True, default=80)
    n_fft: int = eqx.field(static=True, default=400)
    hop_length: int = eqx.field(static=True, default=160)
    total_frames: int = eqx.field(static=True, default=3000)

    def __check_init__(self):
        if self.max_samples <= self.n_fft // 2:
            raise ValueError(
                f"WhisperLogMel reflects n_fft // 2 = {self.n_fft // 2} samples at the ends of {self.total_frames} "
                f"frames of {self.hop_length} samples: give more frames."
            )

    @property
    def min_samples(self) -> int:
        return 1

    @property
    def max_samples(self) -> int:
        """The number of samples to which a longer clip is cut."""
        return self.total_frames * self.hop_length

    @property
    def takes_length(self) -> bool:
        return True

    def frames(self, samples: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of frames that are centred within a clip of so many samples."""
        count = -(-samples // self.hop_length)
        return min(count, self.total_frames) if isinstance(count, int) else jnp.minimum(count, self.total_frames)

    def __call__(
        self, wave: Float[Array, " samples"], *, length: Length = None
    ) -> Float[Array, "{self.total_frames} {self.bins}"]:
        if wave.size < 1:
            raise ValueError("WhisperLogMel takes at least 1 sample, got 0: pad the clip with zeros.")
        wave = zero_behind(wave.astype(jnp.float32), length)[: self.max_samples]
        mel = features.mel_spectrogram(
            jnp.pad(wave, (0, self.max_samples - wave.size)),
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            n_mels=self.bins,
            norm="slaney",
            mel_scale="slaney",
            fbanks_dtype="float64",
        )
        log = jnp.log10(jnp.maximum(mel[: self.total_frames], 1e-10))
        return (jnp.maximum(log, jnp.max(log) - 8.0) + 4.0) / 4.0

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return positions * self.hop_length / self.sample_rate
