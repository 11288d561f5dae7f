"""The log-mel spectrogram of LAION's CLAP (Wu et al., 2022, arXiv:2211.06687).

    wave -> its first 10 s, or a shorter wave repeated and then zeros -> |STFT|^2 -> mel filterbank
         -> 10 log10(max(mel, 1e-10))

The defaults are those of https://huggingface.co/laion/clap-htsat-unfused (Apache-2.0); mel_scale="htk" and norm=None
are those of clap-htsat-fused. The reference cuts 10 s at random from a longer clip; this frontend cuts the first 10 s.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import features
from .._checks import require_choice
from ..abstract import AbstractFrontend
from ..layers import Length, within


class CLAPLogMel(AbstractFrontend):
    """Maps one clip, `samples` in [-1, 1], to `frames bins`, in float32; frame k is centred at sample `k hop_length`.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `hop_length`: samples.
    - `seconds`: the length to which every clip is cut or filled up.
    - `fill`: the filling of a shorter clip. "repeatpad": the clip as often as it fits, then zeros; "repeat": the clip
      repeated, the last repetition cut off; "pad": zeros alone.
    - `f_min`, `f_max`: Hz.
    - `mel_scale`, `norm`: as in `features.mel_spectrogram`.

    The network reads all frames, including those of repetitions. Raises ValueError for options that make no sense, and
    for an empty waveform.
    """

    sample_rate: int = eqx.field(static=True, default=48000)
    bins: int = eqx.field(static=True, default=64)
    n_fft: int = eqx.field(static=True, default=1024)
    hop_length: int = eqx.field(static=True, default=480)
    f_min: float = eqx.field(static=True, default=50.0)
    f_max: float = eqx.field(static=True, default=14000.0)
    mel_scale: str = eqx.field(static=True, default="slaney")
    norm: str | None = eqx.field(static=True, default="slaney")
    seconds: float = eqx.field(static=True, default=10.0)
    fill: str = eqx.field(static=True, default="repeatpad")

    def __check_init__(self):
        require_choice("mel_scale", self.mel_scale, ("htk", "slaney"))
        require_choice("norm", self.norm, (None, "slaney"))
        require_choice("fill", self.fill, ("repeatpad", "repeat", "pad"))
        if min(self.sample_rate, self.bins, self.n_fft, self.hop_length) < 1 or not (
            0 <= self.f_min < self.f_max and self.seconds > 0
        ):
            raise ValueError(
                "CLAPLogMel takes sizes of at least 1, seconds > 0 and 0 <= f_min < f_max, got "
                f"sample_rate={self.sample_rate}, bins={self.bins}, n_fft={self.n_fft}, hop_length={self.hop_length}, "
                f"f_min={self.f_min:g}, f_max={self.f_max:g} and seconds={self.seconds:g}."
            )
        if self.max_samples <= self.n_fft // 2:
            raise ValueError(
                f"CLAPLogMel reflects n_fft // 2 = {self.n_fft // 2} samples at the ends of {self.max_samples} "
                "samples: give more seconds."
            )

    @property
    def min_samples(self) -> int:
        return 1

    @property
    def max_samples(self) -> int:
        """The number of samples to which a longer clip is cut."""
        return round(self.seconds * self.sample_rate)

    @property
    def total_frames(self) -> int:
        """The number of frames, which does not depend on the length of the clip."""
        return self.max_samples // self.hop_length + 1

    @property
    def takes_length(self) -> bool:
        return True

    @property
    def fills(self) -> bool:
        return True

    def frames(self, samples: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The number of frames that are centred within a clip of so many samples."""
        count = (samples - 1) // self.hop_length + 1
        return min(count, self.total_frames) if isinstance(count, int) else jnp.minimum(count, self.total_frames)

    def __call__(
        self, wave: Float[Array, " samples"], *, length: Length = None
    ) -> Float[Array, "{self.total_frames} {self.bins}"]:
        if wave.size < 1:
            raise ValueError("CLAPLogMel takes at least 1 sample, got 0: pad the clip with zeros.")
        wave = wave.astype(jnp.float32)[: self.max_samples]
        mel = features.mel_spectrogram(
            self._fill(wave, wave.size if length is None else length),
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            f_min=self.f_min,
            f_max=self.f_max,
            n_mels=self.bins,
            mel_scale=self.mel_scale,
            norm=self.norm,
            fbanks_dtype="float64",
        )
        return features.amplitude_to_db(mel)

    def _fill(self, wave: Float[Array, " samples"], length: Int[Array, ""] | int) -> Float[Array, " filled"]:
        """The first `length` samples of the clip, filled up to `max_samples`."""
        size = self.max_samples
        if isinstance(length, int) and min(length, wave.size) == size:
            return wave
        length = jnp.clip(jnp.asarray(length, jnp.int32), 1, wave.size)
        positions = jnp.arange(size, dtype=jnp.int32)
        repetitions = {"repeatpad": size // length, "repeat": size, "pad": 1}[self.fill]
        inside = within(size, size if self.fill == "repeat" else repetitions * length)
        return jnp.where(inside, wave[positions % length], 0.0)

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        return positions * self.hop_length / self.sample_rate
