"""The mel spectrogram, its decibels and its cepstrum."""

import functools
import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from .._checks import require, require_choice
from ._arrays import TABLES, as_floats, as_samples, matmul
from ._clips import each_clip
from ._framing import Framing, Window, window_numbers
from ._mel_filters import MelFilters, mel_fbanks
from ._spectrum import SpectrumOptions, spectrum


def apply_melscale(
    specgram: Num[Array | np.ndarray, "*batch frames freqs"], fbanks: Float[Array | np.ndarray, "freqs bins"]
) -> Float[Array, "*batch frames bins"]:
    """`specgram @ fbanks`, in full float32 precision on every device.

    - `specgram`: `*batch frames freqs`, magnitudes or energies, for example those of `spectrogram`.
    - `fbanks`: `freqs bins`, the filters, for example those of `melscale_fbanks`.
    """
    return matmul(as_floats(specgram, "apply_melscale", "magnitudes or powers", "take spectrogram(power=2.0)"), fbanks)


@dataclass(frozen=True)
class MelOptions:
    """Options of the mel spectrogram of one clip."""

    spectrum: SpectrumOptions
    filters: MelFilters


def _mel(clip: Array, options: MelOptions) -> Array:
    """`frames bins` of one clip."""
    return matmul(spectrum(clip, options.spectrum), mel_fbanks(options.filters))


def mel_spectrogram(
    waveform: Num[Array | np.ndarray, "*batch samples"], sample_rate: int = 16000, n_fft: int = 400,
    win_length: int | None = None, hop_length: int | None = None, f_min: float = 0.0, f_max: float | None = None,
    pad: int = 0, n_mels: int = 128, window: Window = "hann", power: float = 2.0, normalized: bool | str = False,
    center: bool = True, pad_mode: str = "reflect", norm: str | None = None, mel_scale: str = "htk", *,
    periodic: bool = True, fbanks_dtype: str = "float32",
) -> Float[Array, "*batch frames {n_mels}"]:  # fmt: skip
    """`apply_melscale(spectrogram(...), melscale_fbanks(...))`, as `torchaudio.transforms.MelSpectrogram`.

    - `waveform`: `*batch samples`.
    - `sample_rate`: Hz.
    - `n_fft`, `win_length`, `hop_length`, `pad`, `window`, `periodic`, `power`, `normalized`, `center`, `pad_mode`: as
      in `spectrogram`; sizes are in samples.
    - `f_min`, `f_max`, `n_mels`, `norm`, `mel_scale`: as in `melscale_fbanks`; frequencies are in Hz.
    - `fbanks_dtype`: the `dtype` of `melscale_fbanks`: "float32" for torchaudio's filters, "float64" for librosa's.

    The options `fbanks_dtype="float64"`, `mel_scale="slaney"`, `norm="slaney"` and `pad_mode="constant"` give the
    numbers of `librosa.feature.melspectrogram`.
    """
    waveform = as_samples(waveform, "mel_spectrogram")
    weights, width = window_numbers(window, win_length, n_fft)
    hop_length = width // 2 if hop_length is None else hop_length
    framing = Framing(n_fft, hop_length, width, weights, periodic, normalized, center, pad_mode)
    filters = MelFilters(n_fft // 2 + 1, f_min, f_max, n_mels, sample_rate, norm, mel_scale, fbanks_dtype, n_fft)
    mel_fbanks(filters)  # outside of the trace, so that its warning is given
    return each_clip(_mel, MelOptions(SpectrumOptions(framing, pad, power=power), filters), waveform)


def amplitude_to_db(
    x: Num[Array | np.ndarray, "*shape"], multiplier: float = 10.0, amin: float = 1e-10, db_multiplier: float = 0.0,
    top_db: float | None = None,
) -> Float[Array, "*shape"]:  # fmt: skip
    """Decibels: multiplier * (log10(max(x, amin)) - db_multiplier).

    - `x`: energies or magnitudes, of any shape.
    - `multiplier`: 10 for energies, 20 for magnitudes.
    - `amin`: the floor of `x`.
    - `db_multiplier`: log10 of the value that has 0 decibels.
    - `top_db`: the largest distance, in decibels, from the maximum of each spectrogram (the last two axes); lower
      values are raised to it. None for no limit. (`torchaudio.functional.amplitude_to_DB` has one maximum for all
      channels of an item.)
    """
    x = as_floats(x, "amplitude_to_db", "amplitudes or powers", "take their magnitude, in float32")
    db = multiplier * (jnp.log10(jnp.maximum(x, amin)) - db_multiplier)
    if top_db is None:
        return db
    return jnp.maximum(db, jnp.max(db, axis=tuple(range(-min(x.ndim, 2), 0)), keepdims=True) - top_db)


@functools.lru_cache(TABLES)
def _dct(n_mfcc: int, n_mels: int, norm: str | None) -> np.ndarray:
    """`n_mels n_mfcc`: DCT-II, orthonormal for norm="ortho"."""
    require_choice("norm", norm, (None, "ortho"))
    require(1 <= n_mfcc <= n_mels, f"n_mfcc = {n_mfcc} is not in 1 .. n_mels = {n_mels}: ask for more mel bins")
    order = np.arange(n_mfcc)[None]
    dct = 2.0 * np.cos(np.pi / n_mels * (np.arange(n_mels)[:, None] + 0.5) * order)
    return dct if norm is None else dct * np.where(order == 0, math.sqrt(0.5), 1.0) / math.sqrt(2.0 * n_mels)


def mfcc(
    waveform: Num[Array | np.ndarray, "*batch samples"], sample_rate: int = 16000, n_mfcc: int = 40, dct_type: int = 2,
    norm: str | None = "ortho", log_mels: bool = False, *, n_fft: int = 400, win_length: int | None = None,
    hop_length: int | None = None, f_min: float = 0.0, f_max: float | None = None, pad: int = 0, n_mels: int = 128,
    window: Window = "hann", power: float = 2.0, normalized: bool | str = False, center: bool = True,
    pad_mode: str = "reflect", mel_norm: str | None = None, mel_scale: str = "htk", periodic: bool = True,
) -> Float[Array, "*batch frames {n_mfcc}"]:  # fmt: skip
    """Mel-frequency cepstrum: the DCT of the mel spectrogram's logarithm, as `torchaudio.transforms.MFCC`.

    - `waveform`: `*batch samples`.
    - `sample_rate`: Hz.
    - `n_mfcc`: the number of coefficients, at most `n_mels`.
    - `dct_type`: 2.
    - `norm`: "ortho" for an orthonormal DCT, or None.
    - `log_mels`: whether the logarithm is log(mel + 1e-6); otherwise it is decibels with a `top_db` of 80.
    - `mel_norm`: the `norm` of `mel_spectrogram`; all other options are those of `mel_spectrogram` too. They are
      torchaudio's `melkwargs`.
    """
    waveform = as_samples(waveform, "mfcc")
    require_choice("dct_type", dct_type, (2,))
    dct = _dct(n_mfcc, n_mels, norm)
    mel = mel_spectrogram(
        waveform, sample_rate, n_fft, win_length, hop_length, f_min, f_max, pad, n_mels, window, power, normalized,
        center, pad_mode, mel_norm, mel_scale, periodic=periodic,
    )  # fmt: skip
    return matmul(jnp.log(mel + 1e-6) if log_mels else amplitude_to_db(mel, top_db=80.0), dct)
