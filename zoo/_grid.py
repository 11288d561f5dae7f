"""The steps of a network over a whole recording, on one grid that does not depend on the windows."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._pretrained import Pretrained, takes_length


@dataclasses.dataclass(frozen=True)
class Grid:
    """The frames of a recording. They are `stride` samples apart, and the centre of the first is at `first`.

    Windows begin on the grid and overlap by part of a stride. `count` frames of a window have their centre in the
    window. `valid(samples)` is how many of them a window has that holds this number of samples of the recording.
    """

    first: float
    stride: int
    count: int
    size: int
    width: int
    valid: Callable[[int], int]

    @staticmethod
    def of(clip: Pretrained, function: Callable, size: int) -> "Grid":
        first, second = clip.frame_times(2) * clip.sample_rate
        stride = round(second - first)
        shape = eqx.filter_eval_shape(function, clip, jax.ShapeDtypeStruct((size,), jnp.float32)).shape
        count = max(min(shape[0], math.ceil((size - first) / stride)), 1)

        def valid(samples: int) -> int:
            model: Any = clip.model
            samples = max(samples, model.frontend.min_samples)
            return model.network.steps(model.frontend.frames(samples)) if takes_length(clip) else count

        return Grid(float(first), stride, count, size, shape[1], valid)

    @property
    def hop(self) -> int:
        return max(min(self.count, self.size // self.stride), 1) * self.stride

    @property
    def rest(self) -> int:
        """The number of samples behind a window that add one more centre."""
        return max(math.floor(self.first + self.count * self.stride) - self.size + 1, 1)

    def joined(self, starts: list[int], values: list[np.ndarray]) -> np.ndarray:
        """One row per step. A frame of two windows comes from the window in which it lies farther from the edge."""
        parts, previous = [], None
        for start, rows in zip((start // self.stride for start in starts), values, strict=True):
            rows = rows[: self.count]
            if previous is not None:
                common = previous + self.count - start
                parts[-1] = parts[-1][: len(parts[-1]) - common // 2]
                rows = rows[common - common // 2 :]
            parts.append(rows)
            previous = start
        return np.concatenate(parts)
