"""Features over time: slopes, per-channel energy normalisation, and changes of speed."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Num

from .._checks import require
from .._portable import by_platform
from ._arrays import as_array, as_floats, magnitude, pad_ends
from ._clips import stretch_each_clip


def compute_deltas(
    specgram: Num[Array | np.ndarray, "*batch frames bins"], win_length: int = 5, mode: str = "replicate"
) -> Float[Array, "*batch frames bins"]:
    """Slope over time by least squares, sum n (x[t + n] - x[t - n]) / (2 sum n^2), as in `torchaudio.functional`.

    - `specgram`: `*batch frames bins`.
    - `win_length`: the number of frames to which a line is fitted, 3 or more; of an even number, one frame fewer.
    - `mode`: the padding at the ends: "replicate" (or "edge"), "reflect", "constant", "circular".
    """
    require(win_length >= 3, f"compute_deltas needs a win_length of 3 frames or more, got {win_length}")
    specgram = as_floats(specgram, "compute_deltas", "features", "convert them to float32 first")
    n, frames = (win_length - 1) // 2, specgram.shape[-2]
    x = pad_ends(specgram, n, n, mode, axis=-2, option="mode", remedy="a smaller win_length, or mode='replicate'")
    slope = jnp.zeros_like(specgram)
    for k in range(1, n + 1):
        slope = slope + k * (x[..., n + k : n + k + frames, :] - x[..., n - k : n - k + frames, :])
    return slope / (n * (n + 1) * (2 * n + 1) / 3)


def pcen(
    x: Num[Array | np.ndarray, "*batch frames bins"], alpha: float | Float[Array | np.ndarray, " #bins"] = 0.98,
    delta: float | Float[Array | np.ndarray, " #bins"] = 2.0, root: float | Float[Array | np.ndarray, " #bins"] = 2.0,
    smooth: float | Float[Array | np.ndarray, " #bins"] = 0.025, floor: float = 1e-6,
) -> Float[Array, "*batch frames bins"]:  # fmt: skip
    """Per-channel energy normalisation (Wang et al., 2017, arXiv:1607.05666), with the defaults of the paper.

        y = (x / (floor + M)^alpha + delta)^(1 / root) - delta^(1 / root),    M_t = (1 - smooth) M_{t-1} + smooth x_t

    - `x`: `*batch frames bins`, energies >= 0.
    - `alpha`: in [0, 1], the strength of the automatic gain control.
    - `delta`, `root`: > 0 and >= 1; they set the compression that follows the gain control.
    - `smooth`: in [0, 1], the weight of the newest frame in the running mean M, which starts at the first frame,
      M_0 = x_0.
    - `floor`: > 0, an energy.

    Each option except `floor` is one number, or one number for each bin. `librosa.pcen` of bins x frames gives the same
    numbers with gain=alpha, bias=delta, power=1 / root, b=smooth and eps=floor, except that its running mean starts
    from a frame of ones, M_0 = 1 - b + b x_0, unless `zi` is given.
    """
    x = as_floats(x, "pcen", "energies", "take mel_spectrogram(...), whose energies are")
    require(
        x.shape[-2] > 0, f"pcen starts its running mean at the first frame, got {x.shape}: give it one frame or more"
    )
    require(floor > 0, f"pcen divides by floor + M, where M may be 0, got floor = {floor}: it must be > 0")
    numbers = (jnp.asarray(number).astype(x.dtype) for number in (alpha, delta, root, smooth))
    alpha, delta, root, smooth = (jnp.broadcast_to(number, x.shape[-1:]) for number in numbers)
    mean = jnp.moveaxis(_running_mean(jnp.moveaxis(x, -2, 0), smooth), 0, -2)
    alpha, delta, root = (jnp.broadcast_to(number, x.shape) for number in (alpha, delta, root))
    return (x / (floor + mean) ** alpha + delta) ** (1 / root) - delta ** (1 / root)


@jax.jit
def _running_mean(x: Array, smooth: Array) -> Array:
    # On CPU, at 500 x 64, a step-by-step scan takes 0.1 ms forward and 0.2 ms forward and backward; the parallel scan
    # takes twice as long. On accelerators each of the 500 steps would take several launches.
    scan = running_mean_scan
    return by_platform(x, smooth, cpu=scan, default=running_mean_parallel, plain=scan)


def running_mean_scan(x: Array, smooth: Array) -> Array:
    """The running mean M of `pcen`, computed step by step over the first axis."""
    smooth = jnp.broadcast_to(smooth, x.shape[1:])

    def step(mean, frame):
        mean = mean + smooth * (frame - mean)
        return mean, mean

    return jax.lax.scan(step, x[0], x)[1]


def running_mean_parallel(x: Array, smooth: Array) -> Array:
    """The same, computed in parallel: a step is an affine map, M -> keep M + add, and composition is associative."""
    smooth = jnp.broadcast_to(smooth, x.shape)
    add = jnp.concatenate([x[:1], (smooth * x)[1:]])

    def compose(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(compose, (1 - smooth, add))[1]


def phase_vocoder(
    complex_specgrams: Complex[Array | np.ndarray, "*batch frames freqs"], rate: float,
    phase_advance: Float[Array | np.ndarray, " freqs"] | None = None,
) -> Complex[Array, "*batch stretched freqs"]:  # fmt: skip
    """Plays an stft faster at the same pitch, in ceil(frames / rate) frames, as in `torchaudio.functional`.

    - `complex_specgrams`: `*batch frames freqs`, the result of `stft`.
    - `rate`: 2 for twice as fast. Each rate compiles a program, and the last 8 programs stay in memory.
    - `phase_advance`: `freqs`, in radians; accepted so that torchaudio's calls work, and not used.

    Magnitudes are interpolated. From one frame to the next the phase turns as it does in the original at that time.
    torchaudio subtracts `phase_advance` from each turn and adds it again. This changes a phase only by whole turns, but
    it rounds: torchaudio's sums in float32 are off by 0.003 rad after 100 frames. Here the turns are multiplied as
    complex numbers, which are off by about 2e-6 rad after 1,000 frames and 1e-5 rad after 100,000.
    """
    require(rate > 0, f"phase_vocoder needs a positive rate, got {rate}")
    x = as_array(complex_specgrams)
    return x if rate == 1.0 else stretch_each_clip(_stretch, float(rate), x, 2)


def _stretch(x: Array, options: float) -> Array:
    """`stretched freqs`, from the `frames freqs` of one clip; `options` is the rate."""
    times = np.arange(0, len(x), options)
    index, fraction = times.astype(np.int32), (times % 1.0)[:, None]
    x = jnp.pad(x, ((0, 1), (0, 0)))
    size = magnitude(x, 1.0)
    silent = size == 0
    unit = jnp.where(silent, 1, x / jnp.where(silent, 1, size).astype(x.dtype))  # silence has phase 0
    turns = unit[index + 1] * jnp.conj(unit[index])
    phase = jnp.cumprod(jnp.concatenate([unit[:1], turns[:-1]]), axis=0)
    fraction = fraction.astype(size.dtype)
    return phase * (fraction * size[index + 1] + (1 - fraction) * size[index]).astype(x.dtype)
