"""Collects a model's outputs for the windows of one recording into a result."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from ._audio import Window
from ._grid import Grid


@dataclasses.dataclass(frozen=True)
class Result:
    """A model's outputs for one recording: one row in all, or a row for each window or each frame.

    - `source`: the recording, as the caller gave it.
    - `start`, `end`: the start and end of each row, in seconds from the start of the recording.
    - `values`: embeddings or scores, float32.
    - `duration`: the length of the recording in seconds.
    - `error`: why the recording cannot be read, in a sentence; it then has no rows. None for all others.
    """

    source: Any
    start: Float[np.ndarray, " rows"]
    end: Float[np.ndarray, " rows"]
    values: Float[np.ndarray, "rows width"]
    duration: float
    error: str | None = None


class Rows:
    """The rows of one recording, as its windows are computed. With `unit` the mean over them is scaled to length 1."""

    def __init__(self, source: Any, rate: int, width: int, each: str, grid: Grid | None, unit: bool = False):
        self.source, self.rate, self.each, self.grid, self.unit = source, rate, each, grid, unit
        self.width = grid.width if grid else width
        self.backlog, self.end, self.whole = 0, 0, False
        self.error: str | None = None
        self.spans: list[tuple[int, int]] = []
        self.values: list[np.ndarray] = []
        self.sum, self.weight = np.zeros(self.width), 0

    def take(self, window: Window, value: Float[np.ndarray, "..."]) -> None:
        """Takes the value of the next window."""
        self.backlog -= 1
        if self.each == "recording":
            self.sum, self.weight = self.sum + window.samples * value.astype(np.float64), self.weight + window.samples
        else:
            self.spans.append((window.start, window.end))
            self.values.append(value if self.grid is None else value[: self.grid.valid(window.samples)])

    def result(self) -> Result:
        """The rows, once all windows have their values."""
        duration = self.end / self.rate
        if self.error is not None or self.end == 0:
            empty = np.zeros(0)
            return Result(self.source, empty, empty, np.zeros((0, self.width), np.float32), duration, self.error)
        if self.each == "recording":
            scale = np.linalg.norm(self.sum) if self.unit else self.weight
            values, starts, ends = (self.sum / (scale or 1.0))[None], np.zeros(1), np.array([self.end])
        elif self.grid is None:
            values, (starts, ends) = np.stack(self.values), np.array(self.spans).T
        else:
            values = self.grid.joined([start for start, _ in self.spans], self.values)
            centres = self.grid.first + self.grid.stride * np.arange(len(values))
            mask = centres < self.end
            mask[0] = True
            values, centres = values[mask], centres[mask]
            starts, ends = (
                np.clip(centres + half, 0, self.end) for half in (-self.grid.stride / 2, self.grid.stride / 2)
            )
        return Result(self.source, starts / self.rate, ends / self.rate, values.astype(np.float32), duration)
