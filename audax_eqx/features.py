"""Audio features: pure functions from samples to frames x bins, and back.

    samples --frame, window, FFT--> stft --|.|^power--> spectrogram --@ fbanks--> mel --log--> log-mel --DCT--> mfcc

Names, parameters, defaults and numbers are those of `torch.stft`, `torchaudio.functional`, `torchaudio.transforms` and
`torchaudio.compliance.kaldi`, but for three things:

- the layout is time x frequency, `*batch frames freqs` (torch: `*batch freqs frames`);
- a window is a name ("hann", "hamming", "blackman", "bartlett", "kaiser", "povey", "rectangular") or an array of
  `win_length` numbers known at trace time; a named one is periodic unless `periodic=False`;
- samples are floating-point. float16 and bfloat16 are computed in, and returned as, float32 on purpose (a sum over a
  window needs the digits); float64 stays float64; integers raise a TypeError.

All take any leading batch axes, run under `jit`, `vmap` and `grad`, and have finite gradients at silence. Sizes and
names that make no sense raise a ValueError. Windows, filters and kernels are NumPy tables, computed once.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Num, PRNGKeyArray

from ._portable import by_platform, portable
from ._sharding import by_share

_TABLES, _PROGRAMS, _RATES = 32, 64, 8  # the last ones of each kind stay in memory
_PAD_MODES = {"reflect": "reflect", "constant": "constant", "replicate": "edge", "edge": "edge", "circular": "wrap"}
_WINDOWS = {
    "hann": np.hanning,
    "hanning": np.hanning,
    "hamming": np.hamming,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
    "kaiser": lambda length: np.kaiser(length, 12.0),
    "povey": lambda length: np.hanning(length) ** 0.85,
    "rectangular": np.ones,
    "boxcar": np.ones,
    "ones": np.ones,
}


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _choice(name: str, value: Any, choices: Any) -> None:
    _need(value in choices, f"unknown {name} {value!r}: expected one of {', '.join(map(repr, choices))}")


def _array(x: Array | np.ndarray) -> Array:
    """`jnp.asarray`, which compiles a program of 1.5 MB for each new shape and keeps it, without one."""
    return jax.device_put(x) if isinstance(x, np.ndarray) else x


def _floats(x: Array | np.ndarray, name: str, what: str, remedy: str) -> Array:
    """`x` in float32, or in float64 where it came so."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} takes floating-point {what}, got {x.dtype}: {remedy}")
    x = _array(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _samples(x: Array | np.ndarray, name: str) -> Array:
    return _floats(x, name, "samples in [-1, 1]", "convert them to float32 (and divide int16 by 32768) first")


def _pad(x: Array, before: int, after: int, mode: str, axis: int = -1) -> Array:
    """`x` padded along `axis`; `mode` is torch's name."""
    _choice("pad_mode", mode, _PAD_MODES)
    size, most = x.shape[axis], max(before, after)
    least = {"reflect": most + 1, "circular": most, "constant": 0}.get(mode, min(most, 1))
    remedy = "give a longer input, a smaller n_fft or window, or pad_mode='constant'"
    _need(size >= least, f"{mode} padding by {most} on each side needs at least {least} values, got {size}: {remedy}")
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode=_PAD_MODES[mode])


def _matmul(x: Array, table: Array | np.ndarray) -> Array:
    """`x @ table` in full precision: the default is about 10 bits on some accelerators."""
    return jnp.matmul(x, jnp.asarray(table).astype(x.dtype), precision=jax.lax.Precision.HIGHEST)


# One clip after the other ---------------------------------------------------------------------------------------------


def _last_programs(count: int) -> Callable[[Callable], Callable]:
    """`jax.jit` of `each(fun, settings, clips, rank)`, all but `clips` static, that keeps its last `count` programs.

    Each of them takes 1.6 MB and the size of its tables. `jax.jit` itself keeps thousands: for each length of a clip,
    and each pair of rates.
    """

    def compiled(each: Callable) -> Callable:
        @functools.lru_cache(count)
        def program(fun, settings, rank, shape, dtype):
            def run(clips):
                return each(fun, settings, clips, rank)

            run.__name__ = fun.__name__
            return jax.jit(run)

        @functools.wraps(each)
        def call(fun: Callable, settings: tuple, clips: Array, rank: int = 1) -> Array:
            return program(fun, settings, rank, clips.shape, clips.dtype)(clips)

        return call

    return compiled


@_last_programs(_PROGRAMS)
def _each_clip(fun: Callable, settings: tuple, clips: Array, rank: int = 1) -> Array:
    """`fun(clip, *settings)` over the leading axes of `clips` (a clip has `rank` axes) and over those of any `vmap`.

    On a CPU one clip goes after the other: its spectra stay in cache, those of a batch do not, which makes a batched
    FFT two to five times slower. Derivatives by the samples, which training does not take, are those of the plain
    `fun`, in forward and reverse mode and of any order, and batch in the plain way.
    """

    def plain(clip):
        return fun(clip, *settings)

    @jax.custom_batching.custom_vmap
    def sequential(clip):
        return plain(clip)

    @sequential.def_vmap
    def rule(size, batched, clips):
        one_by_one = functools.partial(jax.lax.map, sequential)

        def share(clips):
            return by_platform(clips, cpu=one_by_one, default=jax.vmap(plain))

        return by_share(share, clips), True

    @jax.custom_jvp
    def each(clip):
        return plain(clip) if portable.value else sequential(clip)

    each.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))

    batch, shape = clips.shape[: clips.ndim - rank], clips.shape[clips.ndim - rank :]
    if not batch:
        return each(clips)
    y = jax.vmap(each)(clips.reshape(math.prod(batch), *shape))
    return y.reshape(*batch, *y.shape[1:])


# What is resampled or stretched at random never comes again.
_each_rate = _last_programs(_RATES)(_each_clip.__wrapped__)


def _frame(samples: Array, length: int, hop: int, frames: int) -> Array:
    """`frames` x `length`: frame t starts at sample t * hop."""
    return _slices(samples, jnp.arange(frames, dtype=jnp.int32) * hop, length)


def _slices(samples: Array, starts: Array | np.ndarray, length: int) -> Array:
    """`starts` x `length`."""
    return jax.vmap(lambda start: jax.lax.dynamic_slice(samples, (start,), (length,)))(jnp.asarray(starts))


# Short-time Fourier transform -----------------------------------------------------------------------------------------


@functools.lru_cache(_TABLES)
def _window(name: str, length: int, periodic: bool) -> np.ndarray:
    _choice("window", name, _WINDOWS)
    return np.ones(1) if length == 1 else _WINDOWS[name](length + periodic)[:length]


def _framing(
    n_fft: int, hop_length: int, win_length: int | None, window: str | np.ndarray | Array, periodic: bool,
    normalized: bool | str = False,
) -> tuple[int, int, bytes]:  # fmt: skip
    """n_fft, hop_length and the window in float64, normalised; hashable, and so a static argument of `jit`."""
    if isinstance(window, str):
        values = _window(window, n_fft if win_length is None else win_length, periodic)
    else:
        values = np.asarray(window, np.float64)
        fits = values.ndim == 1 and win_length in (None, len(values))
        _need(fits, f"a window of shape {values.shape} does not fit win_length {win_length}: give win_length numbers")
    _need(0 < len(values) <= n_fft, f"win_length {len(values)} is not in 1 .. n_fft = {n_fft}: use a larger n_fft")
    _need(hop_length > 0, f"hop_length is {hop_length} samples: it must be at least 1")
    _choice("normalized", normalized, (False, True, "window", "frame_length"))
    norm = {False: 1.0, "frame_length": math.sqrt(n_fft)}.get(normalized, math.sqrt(np.sum(values**2)))
    return n_fft, hop_length, (values / norm).tobytes()


def _spectrum(
    clip: Array, n_fft: int, hop: int, window: bytes, pad: int, center: bool, pad_mode: str, onesided: bool,
    power: float | None,
) -> Array:  # fmt: skip
    """frames x freqs of one clip, complex for power None."""
    weights = np.frombuffer(window).astype(clip.dtype)
    width = len(weights)
    left = (n_fft - width) // 2  # torch centres the window in its n_fft samples
    clip = jnp.pad(clip, pad)
    if center:
        clip = _pad(clip, n_fft // 2, n_fft // 2, pad_mode)
    _need(len(clip) >= n_fft, f"{len(clip)} samples are less than one frame of n_fft = {n_fft}: give a longer clip")
    # Only the samples under the window are framed; the zeros around them keep the phase torch's.
    x = _frame(clip[left:], width, hop, 1 + (len(clip) - n_fft) // hop) * weights[None]
    x = jnp.pad(x, ((0, 0), (left, n_fft - width - left)))
    spectrum = jnp.fft.rfft(x) if onesided else jnp.fft.fft(x)
    return spectrum if power is None else _magnitude(spectrum, power)


def _magnitude(spectrum: Array, power: float) -> Array:
    """|spectrum| ** power, whose derivative at 0 is 0."""
    energy = spectrum.real**2 + spectrum.imag**2
    if power == 2.0:
        return energy
    audible = energy > jnp.finfo(energy.dtype).tiny
    energy = jnp.where(audible, energy, 1)
    return jnp.where(audible, jnp.sqrt(energy) if power == 1.0 else energy ** (power / 2), 0)


def stft(
    waveform: Num[Array | np.ndarray, "*batch samples"], n_fft: int, hop_length: int | None = None,
    win_length: int | None = None, window: str | np.ndarray | Array = "hann", center: bool = True,
    pad_mode: str = "reflect", normalized: bool = False, onesided: bool = True, *, periodic: bool = True,
) -> Complex[Array, "*batch frames freqs"]:  # fmt: skip
    """Short-time Fourier transform, as `torch.stft` (whose window, if none is given, is rectangular).

    `hop_length` is n_fft // 4 and `win_length` n_fft unless given. `center` pads n_fft // 2 samples on both sides by
    `pad_mode` ("reflect", "constant", "replicate", "circular"), so that frame t is centred at sample t * hop_length.
    `normalized` divides by sqrt(n_fft).
    """
    hop_length = n_fft // 4 if hop_length is None else hop_length
    framing = _framing(n_fft, hop_length, win_length, window, periodic, "frame_length" if normalized else False)
    _choice("pad_mode", pad_mode, _PAD_MODES)
    return _each_clip(_spectrum, (*framing, 0, center, pad_mode, onesided, None), _samples(waveform, "stft"))


def istft(
    specgram: Complex[Array | np.ndarray, "*batch frames freqs"], n_fft: int, hop_length: int | None = None,
    win_length: int | None = None, window: str | np.ndarray | Array = "hann", center: bool = True,
    normalized: bool = False, onesided: bool = True, length: int | None = None, *, periodic: bool = True,
) -> Float[Array, "*batch samples"]:  # fmt: skip
    """Inverse of `stft` by weighted overlap-add (Griffin and Lim, 1984), as `torch.istft`.

    `length` cuts the samples, or appends zeros. Raises where the squared windows leave a sample uncovered.
    """
    framing = _framing(n_fft, n_fft // 4 if hop_length is None else hop_length, win_length, window, periodic)
    freqs, got = n_fft // 2 + 1 if onesided else n_fft, specgram.shape[-1]
    _need(got == freqs, f"istft with n_fft = {n_fft} and onesided = {onesided} takes {freqs} freqs, got {got}")
    y = _each_clip(_overlap_add, (*framing, center, onesided, length), _array(specgram), 2)
    return y * math.sqrt(n_fft) if normalized else y


def _overlap_add(
    specgram: Array, n_fft: int, hop: int, window: bytes, center: bool, onesided: bool, length: int | None
) -> Array:
    weights = np.frombuffer(window)
    frames, width, left = len(specgram), len(weights), (n_fft - len(weights)) // 2
    total = n_fft + hop * (frames - 1)
    start = n_fft // 2 if center else 0
    stop = total - start if length is None else min(start + length, total)
    envelope = np.zeros(total)
    for t in range(frames):
        envelope[t * hop + left :][:width] += weights**2
    envelope = envelope[start:stop]
    _need(
        bool(envelope.min(initial=1.0) > 1e-11),
        f"istft cannot divide by the windows ({frames} of {width} samples, hop_length {hop}) where all of them are 0: "
        "use a smaller hop_length, another window, center=True or a shorter length",
    )
    x = jnp.fft.irfft(specgram, n_fft) if onesided else jnp.fft.ifft(specgram).real
    x = x[:, left : left + width] * weights.astype(x.dtype)[None]
    # Adding frames up is the transpose of cutting them out.
    cut = functools.partial(_frame, length=width, hop=hop, frames=frames)
    (y,) = jax.linear_transpose(cut, jax.ShapeDtypeStruct((total - left,), x.dtype))(x)
    y = jnp.pad(y, (left, 0))[start:stop] / envelope.astype(x.dtype)
    return y if length is None else jnp.pad(y, (0, length - len(y)))


def spectrogram(
    waveform: Num[Array | np.ndarray, "*batch samples"], n_fft: int = 400, win_length: int | None = None,
    hop_length: int | None = None, pad: int = 0, window: str | np.ndarray | Array = "hann",
    power: float | None = 2.0, normalized: bool | str = False, center: bool = True, pad_mode: str = "reflect",
    onesided: bool = True, *, periodic: bool = True,
) -> Inexact[Array, "*batch frames freqs"]:  # fmt: skip
    """|stft| ** power, or the complex stft for `power=None`, as `torchaudio.transforms.Spectrogram`.

    `win_length` is n_fft and `hop_length` win_length // 2 unless given. `pad` zeros go on both sides first.
    `normalized` divides the stft: True or "window" by the window's norm, "frame_length" by sqrt(n_fft).
    """
    hop_length = (win_length or n_fft) // 2 if hop_length is None else hop_length
    framing = _framing(n_fft, hop_length, win_length, window, periodic, normalized)
    _choice("pad_mode", pad_mode, _PAD_MODES)
    return _each_clip(_spectrum, (*framing, pad, center, pad_mode, onesided, power), _samples(waveform, "spectrogram"))


# Mel scale ------------------------------------------------------------------------------------------------------------


def _mel_edges(f_min: float, f_max: float, count: int, mel_scale: str, dtype: str) -> np.ndarray:
    """`count` frequencies in Hz, evenly spaced on the mel scale, each step rounded to `dtype` in torchaudio's order."""
    number = np.dtype(dtype).type
    log_step = math.log(6.4) / 27.0  # Slaney: linear below 1 kHz = 15 mel, then 27 mel for a factor of 6.4

    def mel(hz):
        if mel_scale == "htk":
            return 2595.0 * math.log10(1.0 + hz / 700.0)
        return hz * 3 / 200 if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) / log_step

    low, high = number(mel(f_min)), number(mel(f_max))
    step, steps = float((high - low) / number(count - 1)), np.arange(count)
    mels = np.where(steps < count // 2, low + step * steps, high - step * (count - 1 - steps)).astype(number)
    if mel_scale == "htk":
        return number(700) * (np.power(10.0, mels / number(2595), dtype=np.float64).astype(number) - number(1))
    above = np.exp(number(log_step) * (mels - number(15)), dtype=np.float64).astype(number)
    return np.where(mels < 15, number(200 / 3) * mels, number(1000) * above)


def _triangles(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """points x bands: the triangle of band b rises from edges[b] to 1 at edges[b + 1] and falls to edges[b + 2]."""
    rise = (points[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])[None]
    fall = (edges[None, 2:] - points[:, None]) / (edges[2:] - edges[1:-1])[None]
    return np.maximum(0.0, np.minimum(rise, fall))


@functools.lru_cache(_TABLES)
def melscale_fbanks(
    n_freqs: int, f_min: float, f_max: float | None, n_mels: int, sample_rate: int, norm: str | None = None,
    mel_scale: str = "htk", dtype: str = "float32", n_fft: int | None = None,
) -> Float[np.ndarray, "{n_freqs} {n_mels}"]:  # fmt: skip
    """Triangular filters, evenly spaced on the "htk", "slaney" or "kaldi" mel scale between `f_min` and `f_max` Hz.

    `norm="slaney"` gives the filters unit area. The array is float32, cached and read-only. Warns, when it is built, of
    filters so narrow that no frequency falls into them.

    `dtype="float32"` gives the filters of `torchaudio.functional`, whose edges are rounded to float32: that moves the
    flank of a narrow filter by up to 4e-5 of its height. `dtype="float64"` gives the exact ones, which are librosa's.
    The two differ at odd sample rates and sizes too: torchaudio spreads its `n_freqs` frequencies evenly from 0 to
    sample_rate // 2, which is its `f_max` None; librosa has those of the FFT, k sample_rate / n_fft, and sample_rate /
    2. Only librosa's need `n_fft`, and only an odd one, as otherwise it is 2 (n_freqs - 1).

    `mel_scale="kaldi"` gives those of `torchaudio.compliance.kaldi.get_mel_banks`, in float32 and without a norm: their
    flanks are straight in mel, not in Hz, and the last frequency is in none.
    """
    _choice("norm", norm, (None, "slaney"))
    _choice("mel_scale", mel_scale, ("htk", "slaney", "kaldi"))
    _choice("dtype", dtype, ("float32", "float64"))
    n_fft = 2 * (n_freqs - 1) if n_fft is None else n_fft
    freqs = n_fft // 2 + 1
    _need(
        n_freqs == freqs > 1, f"n_freqs is {n_freqs}, and n_fft = {n_fft} has {freqs}: give 2 or more, n_fft // 2 + 1"
    )
    if mel_scale == "kaldi":
        _need(
            norm is None and dtype == "float32" and n_fft % 2 == 0,
            f"Kaldi's mel filters have no norm, float32 edges and an even FFT, got norm = {norm!r}, dtype = {dtype!r} "
            f"and n_fft = {n_fft}: change these or the mel_scale",
        )
        high = sample_rate / 2 if f_max is None else f_max
        _need(high > 0, f"mel filters need 0 <= f_min < f_max, got f_min = {f_min} and f_max = {f_max} Hz")
        return _kaldi_banks(n_mels, n_fft, sample_rate, f_min, high)
    if dtype == "float32":
        nyquist = float(sample_rate // 2)
        freqs = np.linspace(0, nyquist, n_freqs)
    else:
        nyquist = sample_rate / 2
        freqs = np.arange(n_freqs) * (sample_rate / n_fft)
    f_max = nyquist if f_max is None else f_max
    _need(n_mels >= 1, f"n_mels is {n_mels}: it must be at least 1")
    _need(0 <= f_min < f_max, f"mel filters need 0 <= f_min < f_max, got f_min = {f_min} and f_max = {f_max} Hz")
    edges = _mel_edges(f_min, f_max, n_mels + 2, mel_scale, dtype).astype(np.float64)
    fbanks = _triangles(freqs, edges)
    empty = int(np.sum(fbanks.max(axis=0) == 0))
    if empty:
        warnings.warn(
            f"{empty} of {n_mels} mel filters are empty (always zero): from {f_min} to {f_max} Hz they are narrower "
            f"than the distance of {n_freqs} frequencies; use fewer mel bins, a larger n_fft or a higher f_min",
            stacklevel=2,
        )
    if norm == "slaney":
        fbanks *= 2.0 / (edges[2:] - edges[:-2])[None]
    fbanks = fbanks.astype(np.float32)
    fbanks.flags.writeable = False
    return fbanks


def apply_melscale(
    specgram: Num[Array | np.ndarray, "*batch frames freqs"], fbanks: Float[Array | np.ndarray, "freqs bins"]
) -> Float[Array, "*batch frames bins"]:
    """`specgram @ fbanks`, in full float32 precision on every device."""
    return _matmul(_floats(specgram, "apply_melscale", "magnitudes or powers", "take spectrogram(power=2.0)"), fbanks)


def mel_spectrogram(
    waveform: Num[Array | np.ndarray, "*batch samples"], sample_rate: int = 16000, n_fft: int = 400,
    win_length: int | None = None, hop_length: int | None = None, f_min: float = 0.0, f_max: float | None = None,
    pad: int = 0, n_mels: int = 128, window: str | np.ndarray | Array = "hann", power: float = 2.0,
    normalized: bool | str = False, center: bool = True, pad_mode: str = "reflect", norm: str | None = None,
    mel_scale: str = "htk", *, periodic: bool = True, fbanks_dtype: str = "float32",
) -> Float[Array, "*batch frames {n_mels}"]:  # fmt: skip
    """`apply_melscale(spectrogram(...), melscale_fbanks(...))`, as `torchaudio.transforms.MelSpectrogram`.

    As `librosa.feature.melspectrogram` with `fbanks_dtype="float64"`, `mel_scale="slaney"`, `norm="slaney"` and
    `pad_mode="constant"`.
    """
    waveform = _samples(waveform, "mel_spectrogram")
    hop_length = (win_length or n_fft) // 2 if hop_length is None else hop_length
    framing = _framing(n_fft, hop_length, win_length, window, periodic, normalized)
    _choice("pad_mode", pad_mode, _PAD_MODES)
    fbanks = (n_fft // 2 + 1, f_min, f_max, n_mels, sample_rate, norm, mel_scale, fbanks_dtype, n_fft)
    melscale_fbanks(*fbanks)  # outside of the trace, for its errors and its warning
    return _each_clip(_mel_spectrum, (fbanks, *framing, pad, center, pad_mode, True, power), waveform)


def _mel_spectrum(clip: Array, fbanks: tuple, *settings: Any) -> Array:
    return _matmul(_spectrum(clip, *settings), melscale_fbanks(*fbanks))


def amplitude_to_db(
    x: Num[Array | np.ndarray, "*shape"], multiplier: float = 10.0, amin: float = 1e-10, db_multiplier: float = 0.0,
    top_db: float | None = None,
) -> Float[Array, "*shape"]:  # fmt: skip
    """Decibels: multiplier * (log10(max(x, amin)) - db_multiplier), with multiplier 10 for power, 20 for amplitude.

    `top_db` lifts what lies more than `top_db` below the maximum of its own spectrogram, the last two axes, to there.
    (`torchaudio.functional.amplitude_to_DB` does so item by item, but takes one maximum over an item's channels.)
    """
    x = _floats(x, "amplitude_to_db", "amplitudes or powers", "take their magnitude, in float32")
    db = multiplier * (jnp.log10(jnp.maximum(x, amin)) - db_multiplier)
    if top_db is None:
        return db
    return jnp.maximum(db, jnp.max(db, axis=tuple(range(-min(x.ndim, 2), 0)), keepdims=True) - top_db)


@functools.lru_cache(_TABLES)
def _dct(n_mfcc: int, n_mels: int, norm: str | None) -> np.ndarray:
    """n_mels x n_mfcc: DCT-II, orthonormal for norm="ortho"."""
    _choice("norm", norm, (None, "ortho"))
    _need(1 <= n_mfcc <= n_mels, f"n_mfcc = {n_mfcc} is not in 1 .. n_mels = {n_mels}: ask for more mel bins")
    order = np.arange(n_mfcc)[None]
    dct = 2.0 * np.cos(np.pi / n_mels * (np.arange(n_mels)[:, None] + 0.5) * order)
    return dct if norm is None else dct * np.where(order == 0, math.sqrt(0.5), 1.0) / math.sqrt(2.0 * n_mels)


def mfcc(
    waveform: Num[Array | np.ndarray, "*batch samples"], sample_rate: int = 16000, n_mfcc: int = 40, dct_type: int = 2,
    norm: str | None = "ortho", log_mels: bool = False, *, n_fft: int = 400, win_length: int | None = None,
    hop_length: int | None = None, f_min: float = 0.0, f_max: float | None = None, pad: int = 0, n_mels: int = 128,
    window: str | np.ndarray | Array = "hann", power: float = 2.0, normalized: bool | str = False, center: bool = True,
    pad_mode: str = "reflect", mel_norm: str | None = None, mel_scale: str = "htk", periodic: bool = True,
) -> Float[Array, "*batch frames {n_mfcc}"]:  # fmt: skip
    """DCT-II of the mel spectrogram in dB (top_db 80) or, with `log_mels`, of log(mel + 1e-6).

    As `torchaudio.transforms.MFCC`, its `melkwargs` spelt out; `norm` is the DCT's, `mel_norm` the mel filters'.
    """
    waveform = _samples(waveform, "mfcc")
    _choice("dct_type", dct_type, (2,))
    dct = _dct(n_mfcc, n_mels, norm)
    mel = mel_spectrogram(
        waveform, sample_rate, n_fft, win_length, hop_length, f_min, f_max, pad, n_mels, window, power, normalized,
        center, pad_mode, mel_norm, mel_scale, periodic=periodic,
    )  # fmt: skip
    return _matmul(jnp.log(mel + 1e-6) if log_mels else amplitude_to_db(mel, top_db=80.0), dct)


# Kaldi ----------------------------------------------------------------------------------------------------------------


def kaldi_fbank(
    waveform: Num[Array | np.ndarray, "*batch samples"], blackman_coeff: float = 0.42, dither: float = 0.0,
    energy_floor: float = 1.0, frame_length: float = 25.0, frame_shift: float = 10.0, high_freq: float = 0.0,
    htk_compat: bool = False, low_freq: float = 20.0, num_mel_bins: int = 23, preemphasis_coefficient: float = 0.97,
    raw_energy: bool = True, remove_dc_offset: bool = True, round_to_power_of_two: bool = True,
    sample_frequency: float = 16000.0, snip_edges: bool = True, subtract_mean: bool = False, use_energy: bool = False,
    use_log_fbank: bool = True, use_power: bool = True, window_type: str = "povey", *, key: PRNGKeyArray | None = None,
) -> Float[Array, "*batch frames bins"]:  # fmt: skip
    """Kaldi's log-mel filterbank, as `torchaudio.compliance.kaldi.fbank` (without VTLN).

    `frame_length` and `frame_shift` are in milliseconds, frequencies in Hz; a `high_freq` <= 0 counts from the Nyquist
    frequency. Kaldi's samples have the range of 16 bits: multiply by 32768 to get its numbers. `use_energy` puts a bin,
    log energy, in front (`htk_compat`: behind). `dither` scales Gaussian noise from `key`, added to the samples (Kaldi
    draws it anew for every one of the overlapping frames).
    """
    waveform = _samples(waveform, "kaldi_fbank")
    size, shift = int(sample_frequency * frame_length * 0.001), int(sample_frequency * frame_shift * 0.001)
    n_fft = 1 << (size - 1).bit_length() if round_to_power_of_two else size
    _need(
        size > 1 and shift > 0 and n_fft % 2 == 0,
        f"kaldi_fbank needs frames of 2 samples or more, a shift of 1 or more and an even FFT, got {size}, {shift} and "
        f"{n_fft} at {sample_frequency} Hz: change frame_length, frame_shift or round_to_power_of_two",
    )
    least, got = size if snip_edges else (shift + 1) // 2, waveform.shape[-1]
    _need(got >= least, f"kaldi_fbank needs {least} samples for a frame of {frame_length} ms, got {got}: pad the clip")
    _choice("window_type", window_type, ("hanning", "hamming", "povey", "rectangular", "blackman"))
    window = _window(window_type, size, False)
    if window_type == "blackman":
        angle = 2 * np.pi * np.arange(size) / (size - 1)
        window = blackman_coeff - 0.5 * np.cos(angle) + (0.5 - blackman_coeff) * np.cos(2 * angle)
    banks = (num_mel_bins, n_fft, sample_frequency, low_freq, high_freq)
    _kaldi_banks(*banks)  # outside of the trace, for its errors
    if dither:
        if key is None:
            raise ValueError(f"kaldi_fbank with dither = {dither} draws noise: give it a key, or dither=0.0")
        waveform = waveform + dither * jax.random.normal(key, waveform.shape, waveform.dtype)
    settings = (window.tobytes(), shift, n_fft, banks, snip_edges, remove_dc_offset, preemphasis_coefficient)
    settings += (use_power, use_log_fbank, use_energy, raw_energy, energy_floor, htk_compat)
    y = _each_clip(_kaldi_clip, settings, waveform)
    return y - jnp.mean(y, axis=-2, keepdims=True) if subtract_mean else y


@functools.lru_cache(_TABLES)
def _kaldi_banks(bins: int, n_fft: int, sample_rate: float, low: float, high: float) -> np.ndarray:
    """freqs x bins. Kaldi's triangles are straight in mel, not in Hz, and leave the Nyquist frequency out."""
    nyquist = sample_rate / 2
    high = high if high > 0 else high + nyquist
    _need(bins >= 1, f"num_mel_bins is {bins}: it must be at least 1")
    valid = 0 <= low < high <= nyquist
    _need(valid, f"Kaldi's filters need 0 <= low_freq < high_freq <= {nyquist} Hz, got low {low} and high {high} Hz")
    low, high = 1127.0 * math.log(1.0 + low / 700.0), 1127.0 * math.log(1.0 + high / 700.0)
    single = np.float32  # torchaudio's rounding decides how far a frequency at the foot of a triangle is inside it
    freqs = single(sample_rate / n_fft) * np.arange(n_fft // 2, dtype=single)
    mels = single(1127) * _single_log(single(1) + freqs / single(700))
    edges = single(low) + np.arange(bins + 2, dtype=single) * single((high - low) / (bins + 1))
    banks = np.pad(_triangles(mels, edges), ((0, 1), (0, 0)))
    banks.flags.writeable = False
    return banks


def _single_log(x: np.ndarray) -> np.ndarray:
    """The logarithm in float32, by the steps of Cephes' `logf` (Moshier, 1992), which end 0.7 of the last digit off at
    most.

    NumPy's and the exact one differ from torch's in as many places, but in those that count: Kaldi's narrow filters.
    """
    fraction, exponent = np.frexp(x)
    low = fraction < math.sqrt(0.5)
    y = np.where(low, 2 * fraction, fraction) - np.float32(1)
    exponent = (exponent - low).astype(np.float32)
    series = np.float32(0)
    for coefficient in _LOG_SERIES:
        series = series * y + np.float32(coefficient)
    y = y + (y * (y * y) * series - np.float32(0.5) * (y * y))
    return y + exponent * np.float32(0.693359375) - exponent * np.float32(2.12194440e-4)  # log 2, in two parts


_LOG_SERIES = (
    7.0376836e-2, -1.1514610e-1, 1.1676998e-1, -1.2420141e-1, 1.4249323e-1,
    -1.6668058e-1, 2.0000715e-1, -2.4999994e-1, 3.3333331e-1,
)  # fmt: skip


def _kaldi_clip(
    clip: Array, window: bytes, shift: int, n_fft: int, banks: tuple, snip_edges: bool, remove_dc_offset: bool,
    preemphasis: float, use_power: bool, use_log: bool, use_energy: bool, raw_energy: bool, energy_floor: float,
    energy_last: bool,
) -> Array:  # fmt: skip
    weights, floor = np.frombuffer(window).astype(clip.dtype), float(np.finfo(np.float32).eps)
    size = len(weights)
    if snip_edges:
        frames = 1 + (len(clip) - size) // shift
    else:  # frame t is centred at (t + 1/2) shift, and the clip mirrored, its first and last samples doubled
        frames, left = (len(clip) + shift // 2) // shift, size // 2 - shift // 2
        right = (frames - 1) * shift + size - left - len(clip)
        clip = jnp.pad(clip[max(-left, 0) :], (max(left, 0), max(right, 0)), mode="symmetric")
    raw = _frame(clip, size, shift, frames)
    if remove_dc_offset:
        raw = raw - jnp.mean(raw, axis=1, keepdims=True)
    x = (raw - preemphasis * jnp.concatenate([raw[:, :1], raw[:, :-1]], axis=1)) * weights[None]
    mel = _matmul(_magnitude(jnp.fft.rfft(x, n_fft), 2.0 if use_power else 1.0), _kaldi_banks(*banks))
    mel = jnp.log(jnp.maximum(mel, floor)) if use_log else mel
    if not use_energy:
        return mel
    energy = jnp.sum((raw if raw_energy else x) ** 2, axis=1, keepdims=True)
    energy = jnp.log(jnp.maximum(energy, max(floor, energy_floor)))
    return jnp.concatenate([mel, energy] if energy_last else [energy, mel], axis=1)


# In time --------------------------------------------------------------------------------------------------------------


def compute_deltas(
    specgram: Num[Array | np.ndarray, "*batch frames bins"], win_length: int = 5, mode: str = "replicate"
) -> Float[Array, "*batch frames bins"]:
    """Slope over time in a window of `win_length` frames, by least squares: sum n (x[t + n] - x[t - n]) / (2 sum n^2).

    `mode` pads the ends: "replicate" (or "edge"), "reflect", "constant", "circular". As `torchaudio.functional`'s.
    """
    _need(win_length >= 3, f"compute_deltas needs a win_length of 3 frames or more, got {win_length}")
    specgram = _floats(specgram, "compute_deltas", "features", "convert them to float32 first")
    n, frames = (win_length - 1) // 2, specgram.shape[-2]
    x = _pad(specgram, n, n, mode, axis=-2)
    slope = jnp.zeros_like(specgram)
    for k in range(1, n + 1):
        slope = slope + k * (x[..., n + k : n + k + frames, :] - x[..., n - k : n - k + frames, :])
    return slope / (n * (n + 1) * (2 * n + 1) / 3)


def pcen(
    x: Num[Array | np.ndarray, "*batch frames bins"], alpha: float | Float[Array | np.ndarray, " #bins"] = 0.98,
    delta: float | Float[Array | np.ndarray, " #bins"] = 2.0, root: float | Float[Array | np.ndarray, " #bins"] = 2.0,
    smooth: float | Float[Array | np.ndarray, " #bins"] = 0.025, floor: float = 1e-6,
) -> Float[Array, "*batch frames bins"]:  # fmt: skip
    """Per-channel energy normalisation of energies >= 0 (Wang et al., 2017, arXiv:1607.05666; defaults theirs).

        y = (x / (floor + M)^alpha + delta)^(1 / root) - delta^(1 / root),    M_t = (1 - smooth) M_{t-1} + smooth x_t

    `alpha` in [0, 1] is the strength of the automatic gain control, `delta` > 0 and `root` >= 1 compress, `smooth` in
    [0, 1] is the weight of the newest frame in the running mean M, which starts at the first frame: M_0 = x_0. As
    `librosa.pcen` of bins x frames with gain=alpha, bias=delta, power=1 / root, b=smooth and eps=floor, but that
    librosa, unless it is given a `zi`, starts from a frame of ones: M_0 = 1 - b + b x_0.
    """
    x = _floats(x, "pcen", "energies", "take mel_spectrogram(...), whose energies are")
    _need(x.shape[-2] > 0, f"pcen starts its running mean at the first frame, got {x.shape}: give it one frame or more")
    _need(floor > 0, f"pcen divides by floor + M, where M may be 0, got floor = {floor}: it must be > 0")
    numbers = (jnp.asarray(number).astype(x.dtype) for number in (alpha, delta, root, smooth))
    alpha, delta, root, smooth = (jnp.broadcast_to(number, x.shape[-1:]) for number in numbers)
    mean = jnp.moveaxis(_running_mean(jnp.moveaxis(x, -2, 0), smooth), 0, -2)
    alpha, delta, root = (jnp.broadcast_to(number, x.shape) for number in (alpha, delta, root))
    return (x / (floor + mean) ** alpha + delta) ** (1 / root) - delta ** (1 / root)


@jax.jit
def _running_mean(x: Array, smooth: Array) -> Array:
    # On CPU, at 500 x 64, a step-by-step scan takes 0.1 ms, forward and backward 0.2, the parallel one twice that. On
    # accelerators each of its 500 steps would be several launches.
    scan = _running_mean_scan
    return by_platform(x, smooth, cpu=scan, default=_running_mean_parallel, plain=scan)


def _running_mean_scan(x: Array, smooth: Array) -> Array:
    smooth = jnp.broadcast_to(smooth, x.shape[1:])

    def step(mean, now):
        mean = mean + smooth * (now - mean)
        return mean, mean

    return jax.lax.scan(step, x[0], x)[1]


def _running_mean_parallel(x: Array, smooth: Array) -> Array:
    """The steps are affine, M -> keep M + add, and affine maps compose in any order."""
    smooth = jnp.broadcast_to(smooth, x.shape)
    add = jnp.concatenate([x[:1], (smooth * x)[1:]])

    def compose(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(compose, (1 - smooth, add))[1]


def resample(
    waveform: Num[Array | np.ndarray, "*batch samples"], orig_freq: int, new_freq: int, lowpass_filter_width: int = 6,
    rolloff: float = 0.99, resampling_method: str = "sinc_interp_hann", beta: float | None = None,
) -> Float[Array, "*batch resampled"]:  # fmt: skip
    """Band-limited interpolation to ceil(samples * new_freq / orig_freq) samples, as `torchaudio.functional.resample`.

    A sinc of `lowpass_filter_width` zero crossings on either side, cut off at `rolloff` of the lower Nyquist frequency
    and windowed ("sinc_interp_hann", "sinc_interp_kaiser" with `beta`). Each pair of rates compiles anew, and the last
    8 stay: draw random speeds from a few. Source: Smith, "Digital Audio Resampling".
    """
    waveform = _samples(waveform, "resample")
    _need(min(orig_freq, new_freq) > 0, f"resample needs positive frequencies in Hz, got {orig_freq} and {new_freq}")
    _need(lowpass_filter_width > 0, f"lowpass_filter_width is {lowpass_filter_width}: it must be at least 1")
    _choice("resampling_method", resampling_method, ("sinc_interp_hann", "sinc_interp_kaiser"))
    if orig_freq == new_freq:
        return waveform
    gcd = math.gcd(orig_freq, new_freq)
    filters = (lowpass_filter_width, rolloff, resampling_method, beta)
    return _each_rate(_resample_clip, (orig_freq // gcd, new_freq // gcd, *filters), waveform)


@functools.lru_cache(_RATES)
def _sinc_blocks(
    orig: int, new: int, samples: int, dtype: str, zeros: int, rolloff: float, method: str, beta: float | None
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """The filters of `samples` samples in blocks: the first input of each, blocks x inputs x outputs, and a period.

    Neighbouring samples share most of their inputs: a block of them is one small matrix. After a period, so many inputs
    and so many outputs, the blocks repeat. Their size is that of the filters, about 13 inputs an output (more where the
    rate falls), however long the period is.

    The positions t of the taps are rounded as in torchaudio, step by step, in the dtype of the samples: that moves
    the samples by up to 3e-5.
    """
    size = min(128, 32 * max(1, round(new / orig)))  # of 16 to 160 the fastest on CPU, at the usual rates
    if size < new <= 128 and orig < 1.5 * new:
        size = new  # as is a short period as a whole
    periods = max(1, size // new)
    blocks = -(-min(periods * new, samples) // size)
    cutoff = min(orig, new) * rolloff
    reach = zeros * orig / cutoff
    taps = math.floor(2 * reach) + 1
    output = np.arange(blocks * size)
    first = np.ceil(output * (orig / new) - reach).astype(np.int64)
    inputs = (first - output // new * orig)[:, None] + np.arange(taps)
    phases = -(output % new)[:, None]
    t = phases.astype(dtype) / np.asarray(new, dtype) + inputs.astype(dtype) / np.asarray(orig, dtype)
    t = np.clip(t * np.asarray(cutoff, dtype), -zeros, zeros).astype(np.float64)
    if method == "sinc_interp_hann":
        window = np.cos(np.pi * t / zeros / 2) ** 2
    else:
        beta = 14.769656459379492 if beta is None else beta
        window = np.i0(beta * np.sqrt(1 - (t / zeros) ** 2)) / np.i0(beta)
    weights = (np.sinc(t) * window * cutoff / orig).astype(dtype)
    starts = first[::size]
    rows = (first - np.repeat(starts, size))[:, None] + np.arange(taps)
    filters = np.zeros((blocks, int(rows.max()) + 1, size), dtype)
    filters[output[:, None] // size, rows, output[:, None] % size] = weights
    return starts, filters, periods * orig, periods * new


def _resample_clip(clip: Array, orig: int, new: int, *settings: Any) -> Array:
    samples = -(-new * len(clip) // orig)
    starts, filters, hop, period = _sinc_blocks(orig, new, samples, clip.dtype.name, *settings)
    width, frames = filters.shape[1], -(-samples // period)
    left, end = -int(starts[0]), (frames - 1) * hop + int(starts[-1]) + width
    clip = jnp.pad(clip, (left, max(end - len(clip), 0)))
    starts = (left + starts[:, None] + hop * np.arange(frames)[None]).astype(np.int32)
    if len(filters) <= 16:  # on CPU one product a block is up to twice as fast as all in one
        blocks = zip(starts, filters, strict=True)
        y = jnp.concatenate([_matmul(_slices(clip, start, width), each) for start, each in blocks], axis=1)
    else:
        x = _slices(clip, starts.reshape(-1), width).reshape(*starts.shape, width)
        y = jnp.swapaxes(_matmul(x, filters), 0, 1)
    return y.reshape(frames, -1)[:, :period].reshape(-1)[:samples]


def phase_vocoder(
    complex_specgrams: Complex[Array | np.ndarray, "*batch frames freqs"], rate: float,
    phase_advance: Float[Array | np.ndarray, " freqs"] | None = None,
) -> Complex[Array, "*batch stretched freqs"]:  # fmt: skip
    """Plays an stft `rate` times faster at the same pitch, in ceil(frames / rate) frames, as `torchaudio.functional`'s.

    Magnitudes are interpolated; from one frame to the next the phase turns as it does in the original at that time.
    torchaudio takes `phase_advance` off every turn and adds it again, which changes whole turns only, that is nothing,
    but rounds: its sums in float32 are off by 0.003 rad after 100 frames. Here the turns are multiplied, which is exact
    to 1e-6, and `phase_advance` is taken for the sake of torchaudio's calls and not used.
    """
    _need(rate > 0, f"phase_vocoder needs a positive rate, got {rate}")
    x = _array(complex_specgrams)
    if rate == 1.0:
        return x
    return _each_rate(_stretch, (float(rate),), x, 2)


def _stretch(x: Array, rate: float) -> Array:
    times = np.arange(0, len(x), rate)
    now, later, fraction = times.astype(np.int32), times.astype(np.int32) + 1, (times % 1.0)[:, None]
    x = jnp.pad(x, ((0, 1), (0, 0)))
    size = _magnitude(x, 1.0)
    silent = size == 0
    unit = jnp.where(silent, 1, x / jnp.where(silent, 1, size).astype(x.dtype))  # silence has phase 0
    turns = unit[later] * jnp.conj(unit[now])
    phase = jnp.cumprod(jnp.concatenate([unit[:1], turns[:-1]]), axis=0)
    fraction = fraction.astype(size.dtype)
    return phase * (fraction * size[later] + (1 - fraction) * size[now]).astype(x.dtype)
