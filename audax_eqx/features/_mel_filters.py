"""Mel filterbanks: torchaudio's, librosa's and Kaldi's."""

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .._checks import require, require_choice
from ._arrays import TABLES


@dataclass(frozen=True)
class MelFilters:
    """The options of `melscale_fbanks`, where they are described."""

    n_freqs: int
    f_min: float
    f_max: float | None
    n_mels: int
    sample_rate: int
    norm: str | None = None
    mel_scale: str = "htk"
    dtype: str = "float32"
    n_fft: int | None = None

    def __post_init__(self):
        require_choice("norm", self.norm, (None, "slaney"))
        require_choice("mel_scale", self.mel_scale, ("htk", "slaney", "kaldi"))
        require_choice("dtype", self.dtype, ("float32", "float64"))
        freqs = self.points // 2 + 1
        require(
            self.n_freqs == freqs > 1,
            f"n_freqs is {self.n_freqs}, but n_fft = {self.points} has {freqs}: give n_fft // 2 + 1, at least 2",
        )
        require(
            self.mel_scale != "kaldi" or (self.norm is None and self.dtype == "float32" and self.points % 2 == 0),
            f"Kaldi's mel filters have no norm, float32 edges and an even FFT, got norm = {self.norm!r}, "
            f"dtype = {self.dtype!r} and n_fft = {self.points}: change these or the mel_scale",
        )
        require(self.n_mels >= 1, f"n_mels is {self.n_mels}: it must be at least 1")
        require(
            0 <= self.f_min < self.highest,
            f"mel filters need 0 <= f_min < f_max, got f_min = {self.f_min} and f_max = {self.highest} Hz",
        )

    @property
    def points(self) -> int:
        """The size of the FFT."""
        return 2 * (self.n_freqs - 1) if self.n_fft is None else self.n_fft

    @property
    def highest(self) -> float:
        """`f_max`, or the Nyquist frequency, which torchaudio rounds down to a whole number of Hz."""
        if self.f_max is not None:
            return self.f_max
        whole = self.dtype == "float32" and self.mel_scale != "kaldi"
        return float(self.sample_rate // 2) if whole else self.sample_rate / 2


def melscale_fbanks(
    n_freqs: int, f_min: float, f_max: float | None, n_mels: int, sample_rate: int, norm: str | None = None,
    mel_scale: str = "htk", dtype: str = "float32", n_fft: int | None = None,
) -> Float[np.ndarray, "{n_freqs} {n_mels}"]:  # fmt: skip
    """Triangular filters, evenly spaced on a mel scale: a read-only array of float32, computed once.

    - `n_freqs`: the number of frequencies, n_fft // 2 + 1.
    - `f_min`, `f_max`: Hz, the range of the filters; `f_max` None is half the sample rate.
    - `n_mels`: the number of filters.
    - `sample_rate`: Hz.
    - `norm`: "slaney" gives each filter the area 1, None the height 1.
    - `mel_scale`: "htk", "slaney" or "kaldi".
    - `dtype`: "float32" gives the filters of `torchaudio.functional`, whose edges are rounded to float32: the rounding
      moves the flank of a narrow filter by up to 4e-5 of its height. "float64" gives the exact filters, librosa's.
    - `n_fft`: the size of the FFT. Only librosa's filters of an odd size need it; None is 2 (n_freqs - 1).

    torchaudio's and librosa's filters also differ at odd sample rates and sizes. torchaudio spreads its `n_freqs`
    frequencies evenly from 0 to sample_rate // 2, and the latter is its default `f_max`. librosa uses the frequencies
    of the FFT, k sample_rate / n_fft, and the default `f_max` sample_rate / 2. `mel_scale="kaldi"` gives the filters of
    `torchaudio.compliance.kaldi.get_mel_banks`, in float32 and without a norm: their flanks are straight in mel, not in
    Hz, and no filter contains the last frequency.

    Warns, when it first computes the filters, if some are so narrow that no frequency falls into them. Raises
    ValueError for sizes, frequencies and names that make no sense.
    """
    return mel_fbanks(MelFilters(n_freqs, f_min, f_max, n_mels, sample_rate, norm, mel_scale, dtype, n_fft))


@functools.lru_cache(TABLES)
def mel_fbanks(filters: MelFilters) -> np.ndarray:
    """`melscale_fbanks`, from its options."""
    if filters.mel_scale == "kaldi":
        return kaldi_fbanks(
            KaldiFilters(filters.n_mels, filters.points, filters.sample_rate, filters.f_min, filters.highest)
        )
    if filters.dtype == "float32":
        freqs = np.linspace(0, float(filters.sample_rate // 2), filters.n_freqs)
    else:
        freqs = np.arange(filters.n_freqs) * (filters.sample_rate / filters.points)
    edges = _mel_edges(filters).astype(np.float64)
    if not np.all(np.diff(edges) > 0):
        raise ValueError(
            f"{filters.n_mels} mel filters from {filters.f_min} to {filters.highest} Hz have the same edges in "
            f"{filters.dtype}: give fewer mel bins or a wider range."
        )
    banks = _triangles(freqs, edges)
    empty = int(np.sum(banks.max(axis=0) == 0))
    if empty and filters.highest > filters.sample_rate / 2:
        cause = f"f_max is {filters.highest} Hz, more than half the sample rate; use a lower one"
    else:
        cause = (
            f"from {filters.f_min} to {filters.highest} Hz they are narrower than the distance of {filters.n_freqs} "
            "frequencies; use fewer mel bins, a larger n_fft or a higher f_min"
        )
    if empty:
        warnings.warn(f"{empty} of {filters.n_mels} mel filters are empty (always zero): {cause}", stacklevel=3)
    if filters.norm == "slaney":
        banks *= 2.0 / (edges[2:] - edges[:-2])[None]
    return _read_only(banks.astype(np.float32))


def _mel_edges(filters: MelFilters) -> np.ndarray:
    """n_mels + 2 frequencies in Hz, evenly spaced in mel, each step rounded to `dtype` in torchaudio's order."""
    number = np.dtype(filters.dtype).type
    log_step = math.log(6.4) / 27.0  # Slaney: linear below 1 kHz = 15 mel, then 27 mel for a factor of 6.4
    htk, count = filters.mel_scale == "htk", filters.n_mels + 2

    def mel(hz):
        if htk:
            return 2595.0 * math.log10(1.0 + hz / 700.0)
        return hz * 3 / 200 if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) / log_step

    low, high = number(mel(filters.f_min)), number(mel(filters.highest))
    step, steps = float((high - low) / number(count - 1)), np.arange(count)
    mels = np.where(steps < count // 2, low + step * steps, high - step * (count - 1 - steps)).astype(number)
    if htk:
        return number(700) * (np.power(10.0, mels / number(2595), dtype=np.float64).astype(number) - number(1))
    above = np.exp(number(log_step) * (mels - number(15)), dtype=np.float64).astype(number)
    return np.where(mels < 15, number(200 / 3) * mels, number(1000) * above)


def _triangles(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """points x bands: the triangle of band b rises from edges[b] to 1 at edges[b + 1] and falls to edges[b + 2]."""
    rise = (points[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])[None]
    fall = (edges[None, 2:] - points[:, None]) / (edges[2:] - edges[1:-1])[None]
    return np.maximum(0.0, np.minimum(rise, fall))


def _read_only(table: np.ndarray) -> np.ndarray:
    table.flags.writeable = False
    return table


# Kaldi's --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KaldiFilters:
    """The options of `kaldi_fbanks`: `low` and `high` in Hz; a `high` <= 0 counts from the Nyquist frequency."""

    bins: int
    n_fft: int
    sample_rate: float
    low: float
    high: float

    def __post_init__(self):
        nyquist = self.sample_rate / 2
        require(self.bins >= 1, f"num_mel_bins is {self.bins}: it must be at least 1")
        require(
            0 <= self.low < self.highest <= nyquist,
            f"Kaldi's filters need 0 <= low_freq < high_freq <= {nyquist} Hz, got low {self.low} and high "
            f"{self.highest} Hz",
        )

    @property
    def highest(self) -> float:
        """The frequency in Hz at which the last filter ends."""
        return self.high if self.high > 0 else self.high + self.sample_rate / 2


@functools.lru_cache(TABLES)
def kaldi_fbanks(filters: KaldiFilters) -> np.ndarray:
    """`freqs bins`: Kaldi's triangles, which are straight in mel, not in Hz, and exclude the Nyquist frequency."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (filters.low, filters.highest))
    single = np.float32  # torchaudio's rounding decides whether a frequency at the foot of a triangle lies inside it
    freqs = single(filters.sample_rate / filters.n_fft) * np.arange(filters.n_fft // 2, dtype=single)
    mels = single(1127) * _single_log(single(1) + freqs / single(700))
    step = single((high - low) / (filters.bins + 1))
    edges = single(low) + np.arange(filters.bins + 2, dtype=single) * step
    return _read_only(np.pad(_triangles(mels, edges), ((0, 1), (0, 0))))


def _single_log(x: np.ndarray) -> np.ndarray:
    """The logarithm in float32, computed as Cephes' `logf` (Moshier, 1992); its error is at most 0.7 of the last digit.

    torch's logarithm has the same steps. NumPy's and the exact logarithm differ from torch's for as many numbers, but
    these numbers matter in Kaldi's narrow filters.
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
