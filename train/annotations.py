"""Labels of people who listened: selection tables of Raven and label tracks of Audacity, beside the recordings.

    recordings/dawn.wav   dawn.Table.1.selections.txt   Raven: a head, then a line for each selection, by tabs
    recordings/dusk.flac  dusk.txt                      Audacity: start, end and label, by tabs

A file of annotations belongs to the recording whose name it begins with; a table of Raven whose selections name their
recordings, as `audax-zoo detect` writes them, may be of many.

https://ravensoundsoftware.com/knowledge-base/selection-tables/
https://manual.audacityteam.org/man/importing_and_exporting_labels.html
"""

import csv
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from zoo._search import FOREIGN, SUFFIXES

from .events import Recording
from .manifest import Row, read_manifest, span
from .text import counted, listed, shown

BEGIN, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
FILES = ("Begin Path", "Begin File")  # Raven's names of the column that says in which recording a selection begins
LABELS = ("annotation", "annotations", "label", "labels", "species", "common name", "species code", "class", "tag")
SOUNDS = SUFFIXES | FOREIGN


class Annotation(NamedTuple):
    """A label from `start` to `end`, in seconds, None where the line has none; `file` is the recording if named."""

    file: str
    label: str | None
    start: float
    end: float


def annotated(
    manifest: pathlib.Path,
    annotations: pathlib.Path,
    delimiter: str = ",",
    label_delimiter: str = ";",
    label_column: str | None = None,
) -> list[Recording]:
    """The recordings that `annotations`, a file or a folder, tell of, each with its annotations as rows.

    `manifest` is a folder of recordings, or a CSV without labels, whose other columns the rows get. A recording of
    which no file tells is left out, with a line that says so; one whose file is empty has no rows, for somebody has
    heard that nothing is there. Raises FileNotFoundError for what is not there, and ValueError for annotations that
    cannot be read or that belong to no recording.
    """
    recordings = _recordings(manifest, delimiter, label_delimiter)
    if not annotations.exists():
        raise FileNotFoundError(f"{annotations} is not a file and no folder: give annotations of Raven or Audacity.")
    files, root = [annotations], annotations.parent
    if annotations.is_dir():
        files = sorted(path for path in annotations.rglob("*.txt") if path.is_file())
        root = annotations
    rows: dict[str, list[Row]] = {}
    strangers = []
    for file in files:
        owner = _owner(file, root, recordings, alone=annotations.is_file())
        try:
            lines = list(_read(file, label_column))
        except ValueError:
            if owner is None and annotations.is_dir():  # a text of another kind
                strangers.append(file.name)
                continue
            raise
        if owner is None and not (lines and all(line.file for line in lines)):
            strangers.append(file.name)
            continue
        if owner is not None:
            rows.setdefault(owner.id, [])
        for line in lines:
            of = owner if owner is not None else _named(line.file, recordings, file)
            labels = [] if line.label is None else [line.label]
            rows.setdefault(of.id, []).append(of._replace(labels=labels, start=line.start, end=line.end))
    if not rows:
        raise ValueError(
            f"{annotations} has no annotations of the {counted(len(recordings), 'recording')} of {manifest}: name each "
            "file like its recording, dawn.txt or dawn.Table.1.selections.txt for dawn.wav."
        )
    for names, fault in (
        (strangers, "tell of no recording"),
        ([name for name in recordings if name not in rows], "have no annotations"),
    ):
        if names:
            print(f"{counted(len(names), 'file')} that {fault} and are left out: {listed(names)}.")
    return [Recording(row.id, row.path, row.columns, rows[row.id]) for row in recordings.values() if row.id in rows]


def _recordings(manifest: pathlib.Path, delimiter: str, label_delimiter: str) -> dict[str, Row]:
    """A row without labels and times for each recording, by its id."""
    if manifest.is_dir():
        paths = sorted(path for path in manifest.rglob("*") if path.suffix.lower() in SOUNDS and path.is_file())
        if not paths:
            raise ValueError(f"{manifest} holds no sound files: give the folder of the recordings, or a CSV of them.")
        ids = [os.fspath(path.relative_to(manifest)) for path in paths]
        return {name: Row(name, os.fspath(path), [], {}) for name, path in zip(ids, paths, strict=True)}
    rows = read_manifest(manifest, delimiter, label_delimiter, unlabelled=True)
    if own := [row.id for row in rows if row.labels or row.start is not None]:
        raise ValueError(
            f"{manifest} has labels or times of its own, of {shown(own[0])} first, and --annotations brings others: "
            "leave out one of them."
        )
    return {row.id: row for row in rows}


def _owner(file: pathlib.Path, root: pathlib.Path, recordings: dict[str, Row], *, alone: bool) -> Row | None:
    """The recording whose name the file's begins with, of several the longest; the only recording has a lone file.

    Where recordings of several folders have one name the file has to lie in a folder of the same path.
    """
    if alone and len(recordings) == 1:
        return next(iter(recordings.values()))
    parent = os.path.relpath(file.parent, root)
    found: list[tuple[bool, int, Row]] = []
    for row in recordings.values():
        folder, name = os.path.split(os.path.normpath(row.id))
        for stem in (name, os.path.splitext(name)[0]):
            if file.name.startswith(f"{stem}."):
                found.append(((folder or ".") == parent, len(stem), row))
                break
    if not found:
        return None
    near, size, row = max(found, key=lambda each: each[:2])
    if len({each[2].id for each in found if each[:2] == (near, size)}) > 1:
        raise ValueError(
            f"{file} may be of {listed([each[2].id for each in found])}: put it into a folder of the same path as its "
            "recording's."
        )
    return row


def _named(name: str, recordings: dict[str, Row], file: pathlib.Path) -> Row:
    """The recording of that name or path, as a table of Raven has it."""
    path = name.replace("\\", "/")
    for same in (
        [row for row in recordings.values() if path in (row.id, row.path) or path.endswith(f"/{row.id}")],
        [row for row in recordings.values() if os.path.basename(row.id) == path.rpartition("/")[2]],
    ):
        if len(same) == 1:
            return same[0]
    raise ValueError(
        f"{file} has a selection of {shown(name)}, which is {'several' if same else 'none'} of the "
        f"{counted(len(recordings), 'recording')}: list it, or remove that selection."
    )


def _read(file: pathlib.Path, label_column: str | None) -> Iterator[Annotation]:
    """The annotations of a file, in order. Raises ValueError for what is neither Raven's nor Audacity's."""
    try:
        text = unicodedata.normalize("NFC", file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{file} cannot be read as UTF-8: save it in UTF-8.") from None
    lines = list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    lines = [(number, line) for number, line in enumerate(lines, 1) if any(cell.strip() for cell in line)]
    if lines and {BEGIN, END} <= {cell.strip() for cell in lines[0][1]}:
        yield from _raven(file, lines, label_column)
        return
    for number, line in lines:
        if line[0].strip() == "\\":  # the frequencies of the label above
            continue
        place = f"{file} in its line {number}"
        if len(line) < 2:
            raise ValueError(
                f"{place} has no start, end and label with tabs between them, nor has the file a head of Raven with "
                f"{BEGIN}: export labels by Audacity, or a selection table by Raven."
            )
        yield _annotation(line[0], line[1], " ".join(line[2:]), "", place)


def _raven(file: pathlib.Path, lines: list[tuple[int, list[str]]], label_column: str | None) -> Iterator[Annotation]:
    """The selections of a table; one that stands there for each view comes more than once."""
    names = [cell.strip() for cell in lines[0][1]]
    wanted = LABELS if label_column is None else (label_column.lower(),)
    lower = [name.lower() for name in names]
    column = next((names[lower.index(name)] for name in wanted if name in lower), None)
    if column is None:
        what = "known as one of labels" if label_column is None else f"named {label_column}"
        raise ValueError(
            f"{file} has the columns {listed(names)}, and none {what}: name the one that has the labels, "
            "--label-column NAME."
        )
    path = next((name for name in FILES if name in names), None)
    for number, line in lines[1:]:
        cells = dict(zip(names, [*line, *[""] * len(names)], strict=False))
        found = _annotation(
            cells[BEGIN], cells[END], cells[column], cells[path].strip() if path else "", f"{file} in its line {number}"
        )
        if cells.get(OFFSET, "").strip():  # times count from the start of the first of several recordings
            start, _ = span(cells[OFFSET], cells[OFFSET], f"{file} in its line {number}")
            assert start is not None
            found = found._replace(start=start, end=start + found.end - found.start)
        yield found
    several = {cells[path] for _, line in lines[1:] for cells in [dict(zip(names, line, strict=False))]} if path else ()
    if len(several) > 1 and OFFSET not in names:
        raise ValueError(
            f"{file} has selections of several recordings and no column {OFFSET}: add that measurement in Raven, for "
            "the other times count from the start of the first recording."
        )


def _annotation(start: str, end: str, label: str, name: str, place: str) -> Annotation:
    first, last = span(start, end, place)
    if first is None or last is None:
        raise ValueError(f"{place} has no times: give start and end in seconds, or remove it.")
    return Annotation(name, label.strip() or None, first, last)
