"""Windows, and the frames of a wave."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require, require_choice
from ._arrays import PAD_MODES, TABLES, pad_ends

WINDOWS = {
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
Window = str | np.ndarray | Array  # a name, or numbers that are known at trace time


@functools.lru_cache(TABLES)
def named_window(name: str, length: int, periodic: bool) -> np.ndarray:
    """`length` numbers in float64. A periodic window is the next longer symmetric one without its last number."""
    require_choice("window", name, WINDOWS)
    return np.ones(1) if length == 1 else WINDOWS[name](length + periodic)[:length]


@dataclass(frozen=True)
class Framing:
    """The frames of a wave and their window, in samples. Raises ValueError for sizes and names that make no sense.

    - `window`: a name, or `win_length` numbers.
    - `normalized`: the norm by which the window is divided: False, none; True or "window", the window's norm;
      "frame_length", sqrt(n_fft).
    - `center`: whether `n_fft // 2` samples are added on both sides, as `pad_mode` says.
    """

    n_fft: int
    hop_length: int
    win_length: int
    window: str | tuple[float, ...]
    periodic: bool = True
    normalized: bool | str = False
    center: bool = True
    pad_mode: str = "reflect"

    def __post_init__(self):
        require(
            0 < self.win_length <= self.n_fft,
            f"win_length {self.win_length} is not in 1 .. n_fft = {self.n_fft}: use a larger n_fft",
        )
        require(self.hop_length > 0, f"hop_length is {self.hop_length} samples: it must be at least 1")
        require_choice("normalized", self.normalized, (False, True, "window", "frame_length"))
        require_choice("pad_mode", self.pad_mode, PAD_MODES)
        if isinstance(self.window, str):
            require_choice("window", self.window, WINDOWS)

    @property
    def left(self) -> int:
        """The number of zeros in front of the window: torch puts the window in the middle of the `n_fft` samples."""
        return (self.n_fft - self.win_length) // 2

    def weights(self, dtype: np.dtype) -> np.ndarray:
        """The window, divided by its norm."""
        if isinstance(self.window, str):
            values = named_window(self.window, self.win_length, self.periodic)
        else:
            values = np.array(self.window)
        if self.normalized == "frame_length":
            values = values / math.sqrt(self.n_fft)
        elif self.normalized:
            values = values / math.sqrt(np.sum(values**2))
        return values.astype(dtype)

    def windows(self, clip: Array) -> Array:
        """The frames of one clip, `frames n_fft`, multiplied by the window."""
        if self.center:
            clip = pad_ends(clip, self.n_fft // 2, self.n_fft // 2, self.pad_mode)
        size = len(clip)
        require(
            size >= self.n_fft, f"{size} samples are less than one frame of n_fft = {self.n_fft}: give a longer clip"
        )
        # Only the samples under the window are cut out; the zeros around them make the phase the same as torch's.
        frames = 1 + (size - self.n_fft) // self.hop_length
        x = cut(clip[self.left :], self.win_length, self.hop_length, frames) * self.weights(clip.dtype)[None]
        return jnp.pad(x, ((0, 0), (self.left, self.n_fft - self.win_length - self.left)))


def window_numbers(window: Window, win_length: int | None, n_fft: int) -> tuple[str | tuple[float, ...], int]:
    """The window of a `Framing`, and its length: `win_length`, or the length of an array, or `n_fft`."""
    if isinstance(window, str):
        return window, n_fft if win_length is None else win_length
    numbers = np.asarray(window, np.float64)
    require(
        numbers.ndim == 1 and win_length in (None, len(numbers)),
        f"a window of shape {numbers.shape} does not fit win_length {win_length}: give win_length numbers",
    )
    return tuple(numbers.tolist()), len(numbers)


def cut(samples: Array, length: int, hop: int, frames: int) -> Array:
    """`frames length`: frame t starts at sample t * hop.

    A frame consists of a few whole hops and a part of a hop. The first hops of all frames are one slice of the samples,
    the second hops another slice, and so on. On CPU, with a window, these slices take three quarters of the time of a
    slice for each frame, and their derivative takes a quarter.
    """
    parts = -(-length // hop)
    if parts > 16:
        starts = jnp.arange(frames, dtype=jnp.int32) * hop
        return jax.vmap(lambda start: jax.lax.dynamic_slice(samples, (start,), (length,)))(starts)
    end = (frames + parts - 1) * hop
    hops = jnp.pad(samples, (0, max(end - len(samples), 0)))[:end].reshape(-1, hop)
    widths = [hop] * (parts - 1) + [length - (parts - 1) * hop]
    return jnp.concatenate([hops[part : part + frames, :width] for part, width in enumerate(widths)], axis=1)
