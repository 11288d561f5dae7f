"""Files of events: CSV, JSON lines, labels of Audacity, and selection tables of Raven.

https://manual.audacityteam.org/man/importing_and_exporting_labels.html
https://ravensoundsoftware.com/knowledge-base/selection-tables/
"""

import csv
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from ._events import Event
from ._result import Result
from ._rows import utf8

COLUMNS = ("file", "label", "start", "end", "score")
RAVEN = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "File Offset (s)", "Label", "Score"),
)

Detections = Iterable[tuple[Result, list[Event]]]


def write_csv(file: Any, detections: Detections, sample_rate: int) -> None:
    """Writes a row for each event. Its times are seconds from the start of its recording."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for event in _events(file, detections):
        times = f"{event.start:.3f}", f"{event.end:.3f}"
        writer.writerow((_name(event.source), event.label, *times, f"{event.score:.4f}"))


def write_json(file: Any, detections: Detections, sample_rate: int) -> None:
    """Writes one line for each event, with one JSON object."""
    for event in _events(file, detections):
        name = os.fsdecode(event.source)
        values = (name, event.label, round(event.start, 3), round(event.end, 3), round(event.score, 4))
        print(json.dumps(dict(zip(COLUMNS, values, strict=True))), file=file)


def write_audacity(file: Any, detections: Detections, sample_rate: int) -> None:
    """Writes the labels of one recording: start, end and label, with tabs between them."""
    for event in _events(file, detections):
        print(f"{event.start:.6f}", f"{event.end:.6f}", _cell(event.label), sep="\t", file=file)


def write_raven(file: Any, detections: Detections, sample_rate: int) -> None:
    """Writes a selection for each event.

    Raven opens several recordings as one: its times count from the start of the first recording, and
    "File Offset (s)" counts from the start of the event's own recording.
    """
    print(*RAVEN, sep="\t", file=file)
    offset, selection = 0.0, 0
    for result, events in detections:
        for event in events:
            selection += 1
            times = f"{offset + event.start:.6f}", f"{offset + event.end:.6f}"
            place = _cell(_name(event.source)), f"{event.start:.6f}"
            row = (selection, "Spectrogram 1", 1, *times, 0, sample_rate / 2, *place, _cell(event.label))
            print(*row, f"{event.score:.4f}", sep="\t", file=file)
        offset += result.duration
        file.flush()


FORMATS = {
    ".csv": write_csv, ".json": write_json, ".jsonl": write_json,
    ".selections.txt": write_raven, ".txt": write_audacity,
}  # fmt: skip


def format_of(path: pathlib.Path) -> str:
    """The key of `FORMATS` with which the file's name ends. Raises ValueError for other names."""
    for suffix in FORMATS:
        if path.name.endswith(suffix):
            return suffix
    raise ValueError(
        f"Events are written as .csv, .json, .txt (labels of Audacity) or .selections.txt (Raven), got {path.name!r}."
    )


def _events(file: Any, detections: Detections) -> Iterator[Event]:
    for _, events in detections:
        yield from events
        file.flush()


def _name(source: str | os.PathLike) -> str:
    return utf8(os.fsdecode(source))


def _cell(text: str) -> str:
    """The text with spaces in place of tabs and ends of lines, which would end the cell."""
    return "".join(character if character.isprintable() else " " for character in text)
