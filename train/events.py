"""Labels of parts of recordings: their samples, the labels that a crop hears together, and the time without labels.

recording  ---[robin]-----[wren]--------------------------   rows with `start` and `end`
                      [ crop  ]                              has each label that shares half of the shorter with it
                                [ none ][ none ][ none ]     negatives, on request
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from .manifest import Row


class Recording(NamedTuple):
    """A file of the manifest with its rows: one for the whole file, or any number for parts of it.

    `columns` are those of negatives, for which there is no row.
    """

    id: str
    path: str
    columns: dict[str, str]
    rows: list[Row]


class Negatives(NamedTuple):
    """Examples from the unlabelled time of a recording: pieces of `seconds`, 0 for none, with or without a `label`."""

    seconds: float = 0.0
    label: str | None = None


class Placement(NamedTuple):
    """The examples of a recording for the index, the faults of parts that are left out, and the number of parts that
    are cut at the end of the recording."""

    examples: list[dict[str, Any]]
    faults: list[dict[str, str]]
    cut: int


def recordings(rows: Iterable[Row]) -> list[Recording]:
    """The rows grouped by file, in the order in which the files first appear."""
    files: dict[str, Recording] = {}
    for row in rows:
        files.setdefault(os.path.normpath(row.path), Recording(row.id, row.path, row.columns, [])).rows.append(row)
    return list(files.values())


def place(recording: Recording, samples: int, sample_rate: int, negatives: Negatives) -> Placement:
    """The examples of a recording; parts are sorted by time and have `start` and `end` in samples.

    Rows of the same part become one example with the labels of all. A part that continues behind the end of the
    recording is cut there. A part that starts behind the end is left out, and gives a fault.
    """
    parts: dict[tuple[int, int], tuple[list[str], dict[str, str]]] = {}
    examples, faults, cuts = [], [], 0
    for row in sorted(recording.rows, key=lambda row: (row.start or 0, row.end or 0)):
        if row.start is None or row.end is None:
            examples.append({"id": recording.id, "labels": row.labels, "samples": samples, "columns": row.columns})
            continue
        start, end = round(row.start * sample_rate), round(row.end * sample_rate)
        if start >= samples:
            length = f"the recording has {samples / sample_rate:g} s"
            faults.append({"id": recording.id, "reason": f"a part starts at {row.start:g} s, and {length}."})
            continue
        cuts += end > samples
        labels, _ = parts.setdefault((start, max(start + 1, min(end, samples))), ([], row.columns))
        labels += [label for label in row.labels if label not in labels]
    if negatives.seconds and not examples:
        labels = [] if negatives.label is None else [negatives.label]
        size = round(negatives.seconds * sample_rate)
        parts |= dict.fromkeys(_pieces(sorted(parts), samples, size), (labels, recording.columns))
    for (start, end), (labels, columns) in sorted(parts.items()):
        times = {"start": start, "end": end}
        examples.append({"id": recording.id, "labels": labels, "samples": samples, **times, "columns": columns})
    return Placement(examples, faults, cuts)


def _pieces(spans: Sequence[tuple[int, int]], samples: int, size: int) -> Iterable[tuple[int, int]]:
    """Pieces of `size` samples between the spans, before them and behind them; a shorter remainder is left out."""
    place = 0
    for start, end in [*spans, (samples, samples)]:
        yield from ((piece, piece + size) for piece in range(place, start - size + 1, size))
        place = max(place, end)


def mark_overlaps(
    spans: Int64[np.ndarray, "spans 2"], start: int | np.integer, end: int | np.integer
) -> Bool[np.ndarray, " spans"]:
    """Marks the spans that overlap the span from `start` to `end` by at least half of the shorter of the two."""
    common = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
    return 2 * common >= np.minimum(spans[:, 1] - spans[:, 0], end - start)


def labels_heard(examples: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """The labels that are heard in each example of a shard's index: its own, and those of the parts of its recording
    that `mark_overlaps` marks."""
    for _, group in itertools.groupby(examples, key=lambda example: example["offset"]):
        parts = list(group)
        if "start" not in parts[0]:
            yield from (part["labels"] for part in parts)
            continue
        spans = np.array([(part["start"], part["end"]) for part in parts], np.int64)
        for part, span in zip(parts, spans, strict=True):
            overlaps = (parts[place]["labels"] for place in np.flatnonzero(mark_overlaps(spans, *span)))
            yield list(dict.fromkeys(itertools.chain(part["labels"], *overlaps)))
