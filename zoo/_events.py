"""Events, the times at which a label sounds. Two thresholds find them in scores over time.

score  release ....____....../^^^^\\.....     an event begins where the score reaches `threshold`
              /             /      \\         and ends where it falls below `release`
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ._decode import Channel
from ._pretrained import Pretrained
from ._recordings import Result, tag

ROUNDING = 1e-6  # seconds between the end of a row and the start of the next; a sample is far longer


@dataclasses.dataclass(frozen=True)
class Event:
    """A sound in a recording: its label, its start and end in seconds, and its highest score."""

    source: Any
    label: str
    start: float
    end: float
    score: float


def detect(
    clip: Pretrained,
    recordings: Any,
    *,
    labels: Sequence[str] | None = None,
    threshold: float | Mapping[str, float] = 0.5,
    release: float | Mapping[str, float] | None = None,
    smooth: float = 0.0,
    min_duration: float = 0.0,
    max_gap: float = 0.0,
    each: str = "window",
    window: float | None = None,
    hop: float | None = None,
    channel: Channel = "mean",
    batch: int | None = None,
    workers: int | None = None,
    precision: str = "float32",
    errors: str = "raise",
) -> Iterator[Event]:
    """The events of recordings, in the order of the recordings, and within a recording in the order of their starts.

    - `labels`: the classes to detect; default: all.
    - `threshold`: the score at which an event begins, for all labels or by label; labels left out have 0.5.
    - `release`: the score below which an event ends; default: the threshold.
    - `smooth`: scores are first averaged over this number of seconds.
    - `max_gap`, `min_duration`: in seconds. Gaps up to `max_gap` between events of a label are closed, and then events
      shorter than `min_duration` are left out.
    - `each`, `window`, `hop`: the scores are of windows, or of frames as in `zoo.tag`. Windows are half a window apart
      unless `hop` says otherwise, and their scores are averaged where they overlap.

    The other arguments are those of `zoo.tag`. With errors="keep" a recording that cannot be read has no events. Raises
    ValueError as `zoo.tag` does, and for a label that the model does not have; the message names the nearest label.
    """
    pairs = detections(
        clip, recordings, labels=labels, threshold=threshold, release=release, smooth=smooth, min_duration=min_duration,
        max_gap=max_gap, each=each, window=window, hop=hop, channel=channel, batch=batch, workers=workers,
        precision=precision, errors=errors,
    )  # fmt: skip
    return (event for _, events in pairs for event in events)


def detections(
    clip: Pretrained,
    recordings: Any,
    *,
    labels: Sequence[str] | None,
    threshold: float | Mapping[str, float],
    release: float | Mapping[str, float] | None,
    smooth: float,
    min_duration: float,
    max_gap: float,
    each: str,
    window: float | None,
    hop: float | None,
    **options: Any,
) -> Iterator[tuple[Result, list[Event]]]:
    """The scores of each recording, as `zoo.tag` gives them, with its events, as `detect` gives them."""
    if isinstance(labels, str) or (labels is not None and not len(labels)):
        raise ValueError(
            f"labels={labels!r} names no labels: give a list of them, for example {list(clip.labels[:1])!r}."
        )
    if each not in ("window", "frame"):
        raise ValueError(f"each={each!r} has no scores over time: take 'window' or 'frame'.")
    names = clip.labels if labels is None else tuple(dict.fromkeys(labels))
    starts = _by_label(clip, names, threshold, 0.5, "threshold")
    ends = starts if release is None else _by_label(clip, names, release, None, "release", starts)
    if (ends > starts).any():
        raise ValueError(
            f"release {release} is above threshold {threshold}: an event ends at or below where it begins."
        )
    for name, value in {"smooth": smooth, "min_duration": min_duration, "max_gap": max_gap}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} is no number of seconds: give 0 or more.")
    columns = [clip.labels.index(label) for label in names]
    if each == "window" and hop is None:
        hop = (clip.entry.window if window is None else window) / 2
    results = tag(clip, recordings, each=each, window=window, hop=hop, **options)

    def run() -> Iterator[tuple[Result, list[Event]]]:
        for result in results:
            events = []
            if len(result.values):
                edges, scores = timeline(result)
                scores = _smoothed(edges, scores[:, columns], smooth)
                events = find_events(result.source, names, edges, scores, starts, ends, max_gap, min_duration)
            yield result, events

    return run()


def timeline(result: Result) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, "steps width"]]:
    """Values over time without overlap: the edges of the steps in seconds, and for each step the mean of its rows.

    The edges are the starts and ends of all rows; a row counts for every step that it covers. Edges that differ by
    rounding alone are merged.
    """
    edges = np.unique(np.concatenate([result.start, result.end]))
    edges = edges[np.diff(edges, prepend=-np.inf) > ROUNDING]
    first, last = (np.searchsorted(edges, times + ROUNDING) - 1 for times in (result.start, result.end))
    changes = np.zeros((len(edges), result.values.shape[1] + 1))
    rows = np.concatenate([result.values, np.ones((len(result.values), 1), np.float32)], axis=1)
    np.add.at(changes, first, rows)
    np.add.at(changes, last, -rows)
    sums = np.cumsum(changes, axis=0)[:-1]
    return edges, (sums[:, :-1] / np.maximum(np.round(sums[:, -1:]), 1)).astype(np.float32)


def _smoothed(edges: np.ndarray, scores: np.ndarray, seconds: float) -> np.ndarray:
    """The mean over `seconds` around the middle of each step."""
    if not seconds:
        return scores
    area = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores * np.diff(edges)[:, None], axis=0)])
    middles = (edges[:-1] + edges[1:]) / 2
    low, high = (np.clip(middles + half, edges[0], edges[-1]) for half in (-seconds / 2, seconds / 2))
    sums = [np.interp(high, edges, column) - np.interp(low, edges, column) for column in area.T]
    return (np.stack(sums, axis=1) / (high - low)[:, None]).astype(np.float32)


def find_events(
    source: Any, labels: Sequence[str], edges: np.ndarray, scores: np.ndarray, starts: np.ndarray, ends: np.ndarray,
    max_gap: float = 0.0, min_duration: float = 0.0,
) -> list[Event]:  # fmt: skip
    """The events in scores between `edges`. A column has a label, a threshold in `starts` and a release in `ends`."""
    events = []
    for label, column, start, end in zip(labels, scores.T, starts, ends, strict=True):
        spans: list[tuple[int, int]] = []
        for low, high in _stretches(column >= end):
            peaks = np.flatnonzero(column[low:high] >= start)
            if not len(peaks):
                continue
            first = low + int(peaks[0])
            if spans and edges[first] - edges[spans[-1][1]] <= max_gap:
                spans[-1] = (spans[-1][0], high)
            else:
                spans.append((first, high))
        events += [
            Event(source, label, float(edges[low]), float(edges[high]), float(column[low:high].max()))
            for low, high in spans
            if edges[high] - edges[low] >= min_duration
        ]
    return sorted(events, key=lambda event: (event.start, event.end, event.label))


def _stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches in which a mask is true: the first index, and the index behind the last."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(low), int(high)) for low, high in changes.reshape(-1, 2)]


def _by_label(
    clip: Pretrained, labels: Sequence[str], value: float | Mapping[str, float], default: float | None, name: str,
    others: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """One number per label. A label that the mapping leaves out has the default, or its number in `others`."""
    for label in (*labels, *(value if isinstance(value, Mapping) else ())):
        if label not in clip.labels:
            near = difflib.get_close_matches(label, clip.labels, n=1, cutoff=0.0)[0]
            raise ValueError(f"{clip.entry.name} has no label {label!r}: did you mean {near!r}?")
    defaults = np.full(len(labels), default, np.float64) if others is None else others
    if isinstance(value, Mapping):
        numbers = np.array([value.get(label, each) for label, each in zip(labels, defaults, strict=True)], np.float64)
    else:
        numbers = np.full(len(labels), value, np.float64)
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError(f"{name}={value} is no score: scores lie between 0 and 1.")
    return numbers
