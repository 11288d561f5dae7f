"""The log-mel spectrogram, and the dialects of it on which checkpoints were trained.

    wave (-> pre-emphasis) -> |STFT|^power -> mel filterbank -> log(max(mel + epsilon, floor)) (-> (x - mean) / scale)

| constructor | window | ends of the clip | mel scale, norm | log | floor | below the maximum |
|---|---|---|---|---|---|---|
| `torchaudio_log_mel(16000)` | periodic Hann | reflected | HTK, none | 10 log10 | 1e-10 | all |
| `librosa_log_mel(22050)` | periodic Hann | zeros | Slaney, Slaney | 10 log10 | 1e-10 | 80 dB |
| `torchlibrosa_log_mel(32000)` | periodic Hann | reflected | Slaney, Slaney | 10 log10 | 1e-10 | all |
| `audax_log_mel(16000)` | symmetric Hann | audax's framing | HTK, none | natural | 1e-8 | all |
| `efficientat_log_mel(32000)` | symmetric Hann | reflected | Kaldi, none | natural | 1e-5 is added | all |

PaSST uses the last one too, that of https://github.com/fschmid56/EfficientAT (MIT). It begins with a pre-emphasis and
ends with (x + 4.5) / 5.

All of them use the power spectrum. For power=1, librosa's `amplitude_to_db` has another floor: give floor=1e-5.
`docs/features.md` lists the call of the other library for each constructor; `benchmarks/dialects.py` runs both.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import features
from .._checks import require_choice
from ..abstract import AbstractFrontend


class LogMel(AbstractFrontend):
    """The log-mel spectrogram: it maps one clip, `samples` in [-1, 1], to `frames bins`, in float32.

    - `sample_rate`: Hz.
    - `bins`: the number of mel filters.
    - `n_fft`, `win_length`, `hop_length`: samples; `win_length` None is `n_fft`.
    - `f_min`, `f_max`: Hz; `f_max` None is half the sample rate, rounded as `fbanks_dtype` requires.
    - `window`, `periodic`, `power`, `normalized`, `pad_mode`, `mel_scale`, `norm`, `fbanks_dtype`: as in
      `features.mel_spectrogram`; `fbanks_dtype` is "float64", librosa's filters, or "float32", torchaudio's.
    - `framing`: "center" pads by `n_fft // 2`, so that frame k is centred at sample `k hop_length`. "valid" does not
      pad. "audax" pads by `n_fft // 2` too, but its frames have `win_length` samples and the first one begins at the
      first sample of the padding.
    - `pre_emphasis`: the factor times which the previous sample is subtracted from each sample; the first sample, which
      has no previous one, is left out. None for no pre-emphasis.
    - `log`: "natural", or "decibel" (10 log10 for power 2, 20 log10 for power 1), of the mel bins plus `epsilon`,
      clipped to `floor` and, if given, to `ceiling`.
    - `top_db`: the largest distance from the clip's maximum, in decibels; lower values are raised to it. None for no
      limit.
    - `ref`: the energy that has 0 decibels, or "max" for the clip's maximum.
    - `mean`, `scale`: the result is (x - mean) / scale.
    - `max_frames`: the number of frames to which the result is cut; None for all.

    Raises ValueError for options that make no sense, and for a waveform shorter than `min_samples`.
    """

    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True, default=64)
    n_fft: int = eqx.field(static=True, default=1024)
    win_length: int | None = eqx.field(static=True, default=None)
    hop_length: int = eqx.field(static=True, default=320)
    f_min: float = eqx.field(static=True, default=0.0)
    f_max: float | None = eqx.field(static=True, default=None)
    window: str = eqx.field(static=True, default="hann")
    periodic: bool = eqx.field(static=True, default=True)
    power: float = eqx.field(static=True, default=2.0)
    normalized: bool = eqx.field(static=True, default=False)
    framing: str = eqx.field(static=True, default="center")
    pad_mode: str = eqx.field(static=True, default="reflect")
    mel_scale: str = eqx.field(static=True, default="htk")
    norm: str | None = eqx.field(static=True, default=None)
    fbanks_dtype: str = eqx.field(static=True, default="float64")
    log: str = eqx.field(static=True, default="decibel")
    floor: float = eqx.field(static=True, default=1e-10)
    ceiling: float | None = eqx.field(static=True, default=None)
    top_db: float | None = eqx.field(static=True, default=None)
    ref: float | str = eqx.field(static=True, default=1.0)
    pre_emphasis: float | None = eqx.field(static=True, default=None)
    epsilon: float = eqx.field(static=True, default=0.0)
    mean: float = eqx.field(static=True, default=0.0)
    scale: float = eqx.field(static=True, default=1.0)
    max_frames: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        require_choice("framing", self.framing, ("center", "valid", "audax"))
        require_choice("log", self.log, ("natural", "decibel"))
        require_choice("fbanks_dtype", self.fbanks_dtype, ("float32", "float64"))
        if self.floor <= 0.0:
            raise ValueError(
                f"LogMel takes the logarithm of bins clipped to `floor`, which must be > 0: got {self.floor}."
            )
        if self.top_db is not None and self.log != "decibel":
            raise ValueError(f"LogMel's top_db is in decibels: use it with log='decibel', got log={self.log!r}.")
        if self.ref != 1.0 and self.log != "decibel":
            raise ValueError(f"LogMel's ref has 0 decibels: use it with log='decibel', got log={self.log!r}.")
        if self.ref != "max" and (isinstance(self.ref, str) or not 0.0 < self.ref < math.inf):
            raise ValueError(f"LogMel's ref is an energy > 0, which has 0 decibels, or 'max': got {self.ref}.")
        if self.ceiling is not None and self.ceiling <= self.floor:
            raise ValueError(
                f"LogMel clips bins to floor {self.floor} and ceiling {self.ceiling}: the ceiling must be higher."
            )
        if not 0.0 <= self.epsilon < math.inf:
            raise ValueError(f"LogMel adds `epsilon` to its bins, which must be finite and >= 0: got {self.epsilon}.")
        if not (0.0 < self.scale < math.inf and math.isfinite(self.mean)):
            raise ValueError(
                f"LogMel subtracts `mean` and divides by `scale`, finite and > 0: got {self.mean} and {self.scale}."
            )
        if self.pre_emphasis is not None and not math.isfinite(self.pre_emphasis):
            raise ValueError(f"LogMel's pre_emphasis is a finite factor, like 0.97, or None: got {self.pre_emphasis}.")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"LogMel takes max_frames >= 1, or None for all: got max_frames={self.max_frames}.")
        if self.framing == "audax" and self.pad_mode != "reflect":
            raise ValueError(f"LogMel's framing 'audax' pads by reflection, got pad_mode={self.pad_mode!r}.")
        # The features themselves refuse all other options that make no sense, and warn of empty filters.
        jax.eval_shape(self, jax.ShapeDtypeStruct((self.min_samples,), jnp.float32))

    @property
    def _window_length(self) -> int:
        return self.n_fft if self.win_length is None else self.win_length

    @property
    def _delay(self) -> int:
        """The number of samples that the pre-emphasis leaves out at the start."""
        return 0 if self.pre_emphasis is None else 1

    @property
    def min_samples(self) -> int:
        if self.framing == "valid":
            return self.n_fft + self._delay
        return {"reflect": self.n_fft // 2 + 1, "circular": self.n_fft // 2}.get(self.pad_mode, 1) + self._delay

    @property
    def max_samples(self) -> int | None:
        """The number of samples of the longest clip that has at most `max_frames` frames; None for any."""
        if self.max_frames is None:
            return None
        shortest = self.n_fft if self.framing == "valid" else 0
        if self.framing == "audax":
            shortest = self._window_length - self.n_fft // 2 * 2
        return self.max_frames * self.hop_length - 1 + shortest + self._delay

    def __call__(self, wave: Float[Array, " samples"]) -> Float[Array, "frames {self.bins}"]:
        if wave.size < self.min_samples:
            raise ValueError(
                f"LogMel with n_fft={self.n_fft} takes at least {self.min_samples} samples "
                f"({self.min_samples / self.sample_rate:.3f} s at {self.sample_rate} Hz), got {wave.size}: "
                "pad the clip with zeros."
            )
        wave = wave.astype(jnp.float32)
        if self.max_samples is not None:  # frames that are cut off need not be computed
            wave = wave[: max(self.max_samples, self.min_samples)]
        if self.pre_emphasis is not None:
            # The maximum prevents XLA from fusing product and difference, which would round differently from torch. In
            # high bins, which have little energy, this difference is five times all other rounding.
            wave = wave[1:] - jnp.maximum(self.pre_emphasis * wave[:-1], jnp.finfo(jnp.float32).min)
        if self.framing == "audax":
            shift = (self.n_fft - self._window_length) // 2  # torch puts the window in the middle of a frame
            wave = jnp.pad(
                jnp.pad(wave, self.n_fft // 2, mode="reflect"), (shift, self.n_fft - self._window_length - shift)
            )
        mel = features.mel_spectrogram(
            wave,
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            f_min=self.f_min,
            f_max=self.f_max,
            n_mels=self.bins,
            window=self.window,
            periodic=self.periodic,
            power=self.power,
            normalized=self.normalized,
            center=self.framing == "center",
            pad_mode=self.pad_mode,
            norm=self.norm,
            mel_scale=self.mel_scale,
            fbanks_dtype=self.fbanks_dtype,
        )
        return (self._logarithm(mel[: self.max_frames]) - self.mean) / self.scale

    def _logarithm(self, mel: Float[Array, "frames {self.bins}"]) -> Float[Array, "frames {self.bins}"]:
        mel = mel + self.epsilon
        if self.ceiling is not None:
            mel = jnp.minimum(mel, self.ceiling)
        if self.log == "natural":
            return jnp.log(jnp.maximum(mel, self.floor))
        ref = 1.0 if isinstance(self.ref, str) else max(self.ref, self.floor)
        db = features.amplitude_to_db(mel, 20.0 / self.power, self.floor, math.log10(ref), self.top_db)
        return db - jnp.max(db) if self.ref == "max" else db

    def times(self, positions: Float[np.ndarray, " positions"]) -> Float[np.ndarray, " positions"]:
        centre = {
            "center": 0.0,
            "valid": self.n_fft / 2,
            "audax": self._window_length / 2 - self.n_fft // 2,
        }[self.framing]
        return (positions * self.hop_length + centre + self._delay) / self.sample_rate


torchaudio_log_mel = partial(LogMel, fbanks_dtype="float32")
torchlibrosa_log_mel = partial(LogMel, bins=64, n_fft=2048, hop_length=512, mel_scale="slaney", norm="slaney")
librosa_log_mel = partial(torchlibrosa_log_mel, bins=128, pad_mode="constant", top_db=80.0)
audax_log_mel = partial(
    LogMel,
    bins=64,
    n_fft=1024,
    win_length=400,
    hop_length=160,
    f_min=60.0,
    f_max=7800.0,
    periodic=False,
    framing="audax",
    log="natural",
    floor=1e-8,
    ceiling=1e8,
)
efficientat_log_mel = partial(
    LogMel,
    bins=128,
    n_fft=1024,
    win_length=800,
    hop_length=320,
    f_max=15000.0,
    periodic=False,
    mel_scale="kaldi",
    fbanks_dtype="float32",
    log="natural",
    pre_emphasis=0.97,
    epsilon=1e-5,
    mean=-4.5,
    scale=5.0,
)
