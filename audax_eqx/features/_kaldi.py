"""Kaldi's log-mel filterbank (Povey et al., 2011).

wave -> frames minus their mean -> pre-emphasis -> window -> |FFT|^power -> mel filterbank -> log
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray

from .._checks import require, require_choice
from ._arrays import as_samples, magnitude, matmul
from ._clips import each_clip
from ._framing import named_window
from ._mel_filters import KaldiFilters, kaldi_fbanks

_FLOOR = float(np.finfo(np.float32).eps)  # the floor of the logarithm's argument
WINDOW_TYPES = ("hanning", "hamming", "povey", "rectangular", "blackman")


@dataclass(frozen=True)
class KaldiOptions:
    """The options of `kaldi_fbank`, where they are described. Raises ValueError for options that make no sense."""

    blackman_coeff: float
    energy_floor: float
    frame_length: float
    frame_shift: float
    high_freq: float
    htk_compat: bool
    low_freq: float
    num_mel_bins: int
    preemphasis_coefficient: float
    raw_energy: bool
    remove_dc_offset: bool
    round_to_power_of_two: bool
    sample_frequency: float
    snip_edges: bool
    use_energy: bool
    use_log_fbank: bool
    use_power: bool
    window_type: str

    def __post_init__(self):
        require(
            self.size > 1 and self.shift > 0 and self.n_fft % 2 == 0,
            "kaldi_fbank needs frames of 2 samples or more, a shift of 1 or more and an even FFT, got "
            f"{self.size}, {self.shift} and {self.n_fft} at {self.sample_frequency} Hz: change frame_length, "
            "frame_shift or round_to_power_of_two",
        )
        require_choice("window_type", self.window_type, WINDOW_TYPES)

    @property
    def size(self) -> int:
        """The number of samples of a frame."""
        return int(self.sample_frequency * self.frame_length * 0.001)

    @property
    def shift(self) -> int:
        """The number of samples from frame to frame."""
        return int(self.sample_frequency * self.frame_shift * 0.001)

    @property
    def n_fft(self) -> int:
        return 1 << (self.size - 1).bit_length() if self.round_to_power_of_two else self.size

    @property
    def filters(self) -> KaldiFilters:
        return KaldiFilters(self.num_mel_bins, self.n_fft, self.sample_frequency, self.low_freq, self.high_freq)

    @property
    def shortest(self) -> int:
        """The number of samples of the shortest clip, which has one frame."""
        return self.size if self.snip_edges else (self.shift + 1) // 2

    @property
    def window(self) -> np.ndarray:
        """The window, `size` numbers."""
        if self.window_type != "blackman":
            return named_window(self.window_type, self.size, False)
        angle, coefficient = 2 * np.pi * np.arange(self.size) / (self.size - 1), self.blackman_coeff
        return coefficient - 0.5 * np.cos(angle) + (0.5 - coefficient) * np.cos(2 * angle)


def kaldi_fbank(
    waveform: Num[Array | np.ndarray, "*batch samples"], blackman_coeff: float = 0.42, dither: float = 0.0,
    energy_floor: float = 1.0, frame_length: float = 25.0, frame_shift: float = 10.0, high_freq: float = 0.0,
    htk_compat: bool = False, low_freq: float = 20.0, num_mel_bins: int = 23, preemphasis_coefficient: float = 0.97,
    raw_energy: bool = True, remove_dc_offset: bool = True, round_to_power_of_two: bool = True,
    sample_frequency: float = 16000.0, snip_edges: bool = True, subtract_mean: bool = False, use_energy: bool = False,
    use_log_fbank: bool = True, use_power: bool = True, window_type: str = "povey", *, key: PRNGKeyArray | None = None,
) -> Float[Array, "*batch frames bins"]:  # fmt: skip
    """Kaldi's log-mel filterbank, as `torchaudio.compliance.kaldi.fbank` (without VTLN).

    - `waveform`: `*batch samples`. Kaldi's samples have the range of 16 bits: multiply by 32768 to get Kaldi's numbers.
    - `blackman_coeff`: the first coefficient of the window "blackman".
    - `dither`: the standard deviation of Gaussian noise that is added to the samples, drawn with `key`. (Kaldi draws
      new noise for each of the overlapping frames.)
    - `energy_floor`: the floor of a frame's energy, before its logarithm.
    - `frame_length`, `frame_shift`: milliseconds.
    - `low_freq`, `high_freq`: Hz; a `high_freq` <= 0 counts from half the sample rate.
    - `num_mel_bins`: the number of filters.
    - `preemphasis_coefficient`: the factor times which the previous sample is subtracted from each sample of a frame.
    - `remove_dc_offset`: whether the mean of each frame is subtracted from it.
    - `round_to_power_of_two`: whether the FFT is as long as the next power of two.
    - `sample_frequency`: Hz.
    - `snip_edges`: whether only whole frames are used; otherwise the clip is mirrored at its ends.
    - `subtract_mean`: whether the mean over time is subtracted from each bin.
    - `use_energy`: whether the log energy of each frame is added as the first bin; with `htk_compat` it is the last
      bin. With `raw_energy` it is the energy before pre-emphasis and window.
    - `use_log_fbank`: whether the result is a logarithm.
    - `use_power`: whether the filters apply to energies; otherwise they apply to magnitudes.
    - `window_type`: "hanning", "hamming", "povey", "rectangular" or "blackman".
    - `key`: the key of the noise; a `dither` above 0 needs one.

    Raises ValueError for a clip that is shorter than one frame, and for options that make no sense.
    """
    waveform = as_samples(waveform, "kaldi_fbank")
    options = KaldiOptions(
        blackman_coeff, energy_floor, frame_length, frame_shift, high_freq, htk_compat, low_freq, num_mel_bins,
        preemphasis_coefficient, raw_energy, remove_dc_offset, round_to_power_of_two, sample_frequency, snip_edges,
        use_energy, use_log_fbank, use_power, window_type,
    )  # fmt: skip
    kaldi_fbanks(options.filters)  # outside of the trace, so that its errors are raised first
    shortest, samples = options.shortest, waveform.shape[-1]
    require(
        samples >= shortest,
        f"kaldi_fbank needs {shortest} samples for a frame of {frame_length} ms, got {samples}: pad the clip",
    )
    if dither:
        if key is None:
            raise ValueError(f"kaldi_fbank with dither = {dither} draws noise: give it a key, or dither=0.0")
        waveform = waveform + dither * jax.random.normal(key, waveform.shape, waveform.dtype)
    y = each_clip(_fbank, options, waveform)
    return y - jnp.mean(y, axis=-2, keepdims=True) if subtract_mean else y


def _fbank(clip: Array, options: KaldiOptions) -> Array:
    """`frames bins` of one clip."""
    raw = _frames(clip, options)
    if options.remove_dc_offset:
        raw = raw - jnp.mean(raw, axis=1, keepdims=True)
    previous = jnp.concatenate([raw[:, :1], raw[:, :-1]], axis=1)
    x = (raw - options.preemphasis_coefficient * previous) * options.window.astype(clip.dtype)[None]
    spectrum = magnitude(jnp.fft.rfft(x, options.n_fft), 2.0 if options.use_power else 1.0)
    mel = matmul(spectrum, kaldi_fbanks(options.filters))
    mel = jnp.log(jnp.maximum(mel, _FLOOR)) if options.use_log_fbank else mel
    if not options.use_energy:
        return mel
    energy = jnp.sum((raw if options.raw_energy else x) ** 2, axis=1, keepdims=True)
    energy = jnp.log(jnp.maximum(energy, max(_FLOOR, options.energy_floor)))
    return jnp.concatenate([mel, energy] if options.htk_compat else [energy, mel], axis=1)


def _frames(clip: Array, options: KaldiOptions) -> Array:
    """`frames size`: the frames of the clip, which is mirrored at its ends without `snip_edges`."""
    size, shift = options.size, options.shift
    if options.snip_edges:
        frames = 1 + (len(clip) - size) // shift
    else:  # frame t is centred at (t + 1/2) shift; mirroring repeats the first and the last sample
        frames, left = (len(clip) + shift // 2) // shift, size // 2 - shift // 2
        right = (frames - 1) * shift + size - left - len(clip)
        clip = jnp.pad(clip[max(-left, 0) :], (max(left, 0), max(right, 0)), mode="symmetric")
    # One slice a frame: with `cut`, XLA takes the mean of a frame in an order that rounds more
    starts = jnp.arange(frames, dtype=jnp.int32) * shift
    return jax.vmap(lambda start: jax.lax.dynamic_slice(clip, (start,), (size,)))(starts)
