"""Labels of a part of a recording: which samples they are of, what else is heard there, and where nothing is.

recording  ---[robin]-----[wren]--------------------------   rows with `start` and `end`
                      [ crop  ]                              has what shares half of the shorter with it
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
    """A file of the manifest with its rows: one of the whole of it, or any number of parts. `columns` are those of
    examples that no row is of."""

    id: str
    path: str
    columns: dict[str, str]
    rows: list[Row]


class Negatives(NamedTuple):
    """Which examples are made of what no label is of: pieces of so many `seconds`, 0 for none, with a `label` or
    without."""

    seconds: float = 0.0
    label: str | None = None


class Placed(NamedTuple):
    """The examples of a recording as the index has them, what is wrong with the others, and how many were cut at the
    end of the recording."""

    examples: list[dict[str, Any]]
    faults: list[dict[str, str]]
    cut: int


def recordings(rows: Iterable[Row]) -> list[Recording]:
    """The rows by their files, in the order in which these come first."""
    files: dict[str, Recording] = {}
    for row in rows:
        files.setdefault(os.path.normpath(row.path), Recording(row.id, row.path, row.columns, [])).rows.append(row)
    return list(files.values())


def place(recording: Recording, samples: int, sample_rate: int, negatives: Negatives) -> Placed:
    """The recording's examples, of which the parts are in order and have `start` and `end` in samples.

    Rows of the same part become one with the labels of all. A part that goes on behind the end of the recording ends
    there; one that starts there is left out, with a sentence.
    """
    parts: dict[tuple[int, int], tuple[list[str], dict[str, str]]] = {}
    examples, faults, cut = [], [], 0
    for row in sorted(recording.rows, key=lambda row: (row.start or 0, row.end or 0)):
        if row.start is None or row.end is None:
            examples.append({"id": recording.id, "labels": row.labels, "samples": samples, "columns": row.columns})
            continue
        start, end = round(row.start * sample_rate), round(row.end * sample_rate)
        if start >= samples:
            length = f"the recording has {samples / sample_rate:g} s"
            faults.append({"id": recording.id, "reason": f"a part starts at {row.start:g} s, and {length}."})
            continue
        cut += end > samples
        labels, _ = parts.setdefault((start, max(start + 1, min(end, samples))), ([], row.columns))
        labels += [label for label in row.labels if label not in labels]
    if negatives.seconds and not examples:
        labels = [] if negatives.label is None else [negatives.label]
        size = round(negatives.seconds * sample_rate)
        parts |= dict.fromkeys(_pieces(sorted(parts), samples, size), (labels, recording.columns))
    for (start, end), (labels, columns) in sorted(parts.items()):
        times = {"start": start, "end": end}
        examples.append({"id": recording.id, "labels": labels, "samples": samples, **times, "columns": columns})
    return Placed(examples, faults, cut)


def _pieces(spans: Sequence[tuple[int, int]], samples: int, size: int) -> Iterable[tuple[int, int]]:
    """Pieces of `size` of what lies between the spans, in front of them and behind; a rest is left out."""
    place = 0
    for start, end in [*spans, (samples, samples)]:
        yield from ((piece, piece + size) for piece in range(place, start - size + 1, size))
        place = max(place, end)


def shared(
    spans: Int64[np.ndarray, "spans 2"], start: int | np.integer, end: int | np.integer
) -> Bool[np.ndarray, " spans"]:
    """Which spans have at least half of the shorter in common with what lies between `start` and `end`."""
    common = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
    return 2 * common >= np.minimum(spans[:, 1] - spans[:, 0], end - start)


def labels_heard(examples: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """The labels of each example of a shard's index: its own, and those of parts that share half with it."""
    for _, group in itertools.groupby(examples, key=lambda example: example["offset"]):
        parts = list(group)
        if "start" not in parts[0]:
            yield from (part["labels"] for part in parts)
            continue
        spans = np.array([(part["start"], part["end"]) for part in parts], np.int64)
        for part, span in zip(parts, spans, strict=True):
            others = (parts[place]["labels"] for place in np.flatnonzero(shared(spans, *span)))
            yield list(dict.fromkeys(itertools.chain(part["labels"], *others)))
