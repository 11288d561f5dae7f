"""The short-time Fourier transform, its inverse and its magnitudes."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Num

from .._checks import require
from ._arrays import as_array, as_samples, magnitude
from ._clips import each_clip
from ._framing import Framing, Window, cut, window_numbers


@dataclass(frozen=True)
class SpectrumOptions:
    """The options of `spectrum`: `pad` zeros are added on both sides first; `power` None keeps complex numbers."""

    framing: Framing
    pad: int = 0
    onesided: bool = True
    power: float | None = None


def spectrum(clip: Array, options: SpectrumOptions) -> Array:
    """The spectrum of one clip, `frames freqs`."""
    x = options.framing.windows(jnp.pad(clip, options.pad))
    y = jnp.fft.rfft(x) if options.onesided else jnp.fft.fft(x)
    return y if options.power is None else magnitude(y, options.power)


def stft(
    waveform: Num[Array | np.ndarray, "*batch samples"], n_fft: int, hop_length: int | None = None,
    win_length: int | None = None, window: Window = "hann", center: bool = True, pad_mode: str = "reflect",
    normalized: bool = False, onesided: bool = True, *, periodic: bool = True,
) -> Complex[Array, "*batch frames freqs"]:  # fmt: skip
    """Short-time Fourier transform, as `torch.stft` (whose default window is rectangular).

    - `waveform`: `*batch samples`.
    - `n_fft`: samples of a frame; there are n_fft // 2 + 1 freqs, or n_fft if not `onesided`.
    - `hop_length`: samples from frame to frame; None for n_fft // 4.
    - `win_length`: samples of the window, which lies in the middle of a frame; None for n_fft.
    - `window`: a name, or an array of `win_length` numbers. A named window is symmetric with `periodic=False`.
    - `center`: whether n_fft // 2 samples are added on both sides, so that frame t is centred at sample
      t * hop_length.
    - `pad_mode`: the kind of padding: "reflect", "constant", "replicate" or "circular".
    - `normalized`: whether the result is divided by sqrt(n_fft).
    """
    weights, width = window_numbers(window, win_length, n_fft)
    hop_length = n_fft // 4 if hop_length is None else hop_length
    norm = "frame_length" if normalized else False
    framing = Framing(n_fft, hop_length, width, weights, periodic, norm, center, pad_mode)
    return each_clip(spectrum, SpectrumOptions(framing, onesided=onesided), as_samples(waveform, "stft"))


def spectrogram(
    waveform: Num[Array | np.ndarray, "*batch samples"], n_fft: int = 400, win_length: int | None = None,
    hop_length: int | None = None, pad: int = 0, window: Window = "hann", power: float | None = 2.0,
    normalized: bool | str = False, center: bool = True, pad_mode: str = "reflect", onesided: bool = True, *,
    periodic: bool = True,
) -> Inexact[Array, "*batch frames freqs"]:  # fmt: skip
    """|stft| ** power, or the complex stft for `power=None`, as `torchaudio.transforms.Spectrogram`.

    - `waveform`: `*batch samples`.
    - `n_fft`, `window`, `periodic`, `center`, `pad_mode`, `onesided`: as in `stft`.
    - `win_length`: samples; None for n_fft.
    - `hop_length`: samples; None for win_length // 2.
    - `pad`: the number of zeros that are first added on both sides.
    - `power`: 1 for magnitudes, 2 for energies.
    - `normalized`: the divisor of the stft: False for 1; True or "window" for the window's norm; "frame_length" for
      sqrt(n_fft).
    """
    weights, width = window_numbers(window, win_length, n_fft)
    hop_length = width // 2 if hop_length is None else hop_length
    framing = Framing(n_fft, hop_length, width, weights, periodic, normalized, center, pad_mode)
    return each_clip(spectrum, SpectrumOptions(framing, pad, onesided, power), as_samples(waveform, "spectrogram"))


@dataclass(frozen=True)
class InverseOptions:
    """The options of `overlap_add`; `length` is the number of samples of the result."""

    framing: Framing
    onesided: bool
    length: int | None


def istft(
    specgram: Complex[Array | np.ndarray, "*batch frames freqs"], n_fft: int, hop_length: int | None = None,
    win_length: int | None = None, window: Window = "hann", center: bool = True, normalized: bool = False,
    onesided: bool = True, length: int | None = None, *, periodic: bool = True,
) -> Float[Array, "*batch samples"]:  # fmt: skip
    """Inverse of `stft` by weighted overlap-add (Griffin and Lim, 1984), as `torch.istft`.

    - `specgram`: `*batch frames freqs`.
    - `n_fft`, `hop_length`, `win_length`, `window`, `periodic`, `center`, `normalized`, `onesided`: as in `stft`.
    - `length`: the number of samples of the result, which is cut or filled up with zeros; None for no change.

    Raises ValueError if a sample lies under no window, or only under zeros of the windows.
    """
    weights, width = window_numbers(window, win_length, n_fft)
    hop_length = n_fft // 4 if hop_length is None else hop_length
    framing = Framing(n_fft, hop_length, width, weights, periodic, center=center)
    freqs, size = n_fft // 2 + 1 if onesided else n_fft, specgram.shape[-1]
    require(specgram.shape[-2] > 0, "istft takes at least 1 frame, got none")
    require(length is None or length >= 0, f"istft gives a length of samples, got {length}: it must be at least 0")
    require(size == freqs, f"istft with n_fft = {n_fft} and onesided = {onesided} takes {freqs} freqs, got {size}")
    y = each_clip(overlap_add, InverseOptions(framing, onesided, length), as_array(specgram), 2)
    return y * math.sqrt(n_fft) if normalized else y


def overlap_add(specgram: Array, options: InverseOptions) -> Array:
    """The samples of one clip, from its spectrum `frames freqs`."""
    framing, length, frames = options.framing, options.length, len(specgram)
    n_fft, hop, width, left = framing.n_fft, framing.hop_length, framing.win_length, framing.left
    total = n_fft + hop * (frames - 1)
    start = n_fft // 2 if framing.center else 0
    stop = total - start if length is None else min(start + length, total)
    weights, envelope = framing.weights(np.dtype(np.float64)), np.zeros(total)
    for t in range(frames):
        envelope[t * hop + left :][:width] += weights**2
    envelope = envelope[start:stop]
    require(
        bool(envelope.min(initial=1.0) > 1e-11),
        f"istft cannot divide by the windows ({frames} of {width} samples, hop_length {hop}) where all of them are 0: "
        "use a smaller hop_length, another window, center=True or a shorter length",
    )
    x = jnp.fft.irfft(specgram, n_fft) if options.onesided else jnp.fft.ifft(specgram).real
    x = x[:, left : left + width] * weights.astype(x.dtype)[None]
    # The sum of overlapping frames is the transpose of cutting frames out.
    cut_frames = functools.partial(cut, length=width, hop=hop, frames=frames)
    (y,) = jax.linear_transpose(cut_frames, jax.ShapeDtypeStruct((total - left,), x.dtype))(x)
    y = jnp.pad(y, (left, 0))[start:stop] / envelope.astype(x.dtype)
    return y if length is None else jnp.pad(y, (0, length - len(y)))
