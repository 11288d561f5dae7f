"""Annotations of recordings by people: selection tables of Raven and label tracks of Audacity.

    recordings/dawn.wav   dawn.Table.1.selections.txt   Raven: a head, then a line for each selection, with tabs
    recordings/dusk.flac  dusk.txt                      Audacity: start, end and label, with tabs

A file of annotations belongs to the recording with whose name its own name begins. A table of Raven whose selections
name their recordings, like that of `audax-zoo detect`, may belong to many recordings.

https://ravensoundsoftware.com/knowledge-base/selection-tables/
https://manual.audacityteam.org/man/importing_and_exporting_labels.html
"""

import csv
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from zoo.tools import FOREIGN, SUFFIXES

from .events import Recording
from .manifest import Row, read_manifest, span
from .text import amount, listing, printable

BEGIN, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
FILES = ("Begin Path", "Begin File")  # Raven's names of the column with the recording of a selection
LABELS = ("annotation", "annotations", "label", "labels", "species", "common name", "species code", "class", "tag")
SOUNDS = SUFFIXES | FOREIGN


class Annotation(NamedTuple):
    """A label from `start` to `end`, in seconds.

    `label` is None for a line without one, and `file` is "" for a line that does not name its recording.
    """

    file: str
    label: str | None
    start: float
    end: float


def annotated_recordings(
    manifest: pathlib.Path,
    annotations: pathlib.Path,
    delimiter: str = ",",
    label_delimiter: str = ";",
    label_column: str | None = None,
) -> list[Recording]:
    """The recordings that have `annotations`, a file or a folder, each with its annotations as rows.

    `manifest` is a folder of recordings, or a CSV without labels, whose other columns the rows get. A recording without
    a file of annotations is left out, and a printed line says so. A recording whose file is empty has no rows: somebody
    has heard that nothing is there. Raises FileNotFoundError for a missing file or folder, and ValueError for
    annotations that cannot be read or that belong to no recording.
    """
    recordings = _recordings(manifest, delimiter, label_delimiter)
    if not annotations.exists():
        raise FileNotFoundError(f"{annotations} is neither a file nor a folder: give annotations of Raven or Audacity.")
    files, root = [annotations], annotations.parent
    if annotations.is_dir():
        files = sorted(path for path in annotations.rglob("*.txt") if path.is_file())
        root = annotations
    rows: dict[str, list[Row]] = {}
    strangers = []
    for file in files:
        owner = _owner(file, root, recordings, is_only_file=annotations.is_file())
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
            recording = owner if owner is not None else _recording_by_name(line.file, recordings, file)
            labels = [] if line.label is None else [line.label]
            row = recording._replace(labels=labels, start=line.start, end=line.end)
            rows.setdefault(recording.id, []).append(row)
    if not rows:
        raise ValueError(
            f"{annotations} has no annotations of the {amount(len(recordings), 'recording')} of {manifest}: name each "
            "file like its recording, dawn.txt or dawn.Table.1.selections.txt for dawn.wav."
        )
    for names, fault in (
        (strangers, "of no recording"),
        ([name for name in recordings if name not in rows], "without annotations"),
    ):
        if names:
            verb = "is" if len(names) == 1 else "are"
            print(f"{amount(len(names), 'file')} {fault} {verb} left out: {listing(names)}.")
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
    if names := [row.id for row in rows if row.labels or row.start is not None]:
        raise ValueError(
            f"{manifest} has labels or times of its own, of {printable(names[0])} first, and --annotations brings "
            "others: leave out one of them."
        )
    return {row.id: row for row in rows}


def _owner(file: pathlib.Path, root: pathlib.Path, recordings: dict[str, Row], *, is_only_file: bool) -> Row | None:
    """The recording with whose name the name of the file begins; of several names the longest counts.

    The only file of annotations belongs to the only recording, if there is one recording. If recordings in several
    folders have one name, the file has to lie in a folder of the same path. Raises ValueError if that leaves several.
    """
    if is_only_file and len(recordings) == 1:
        return next(iter(recordings.values()))
    parent = os.path.relpath(file.parent, root)
    candidates: list[tuple[bool, int, Row]] = []
    for row in recordings.values():
        folder, name = os.path.split(os.path.normpath(row.id))
        for stem in (name, os.path.splitext(name)[0]):
            if file.name.startswith(f"{stem}."):
                candidates.append(((folder or ".") == parent, len(stem), row))
                break
    if not candidates:
        return None
    same_folder, size, row = max(candidates, key=lambda candidate: candidate[:2])
    if len({candidate[2].id for candidate in candidates if candidate[:2] == (same_folder, size)}) > 1:
        raise ValueError(
            f"{file} may be of {listing([candidate[2].id for candidate in candidates])}: put it into a folder with the "
            "same path as that of its recording."
        )
    return row


def _recording_by_name(name: str, recordings: dict[str, Row], file: pathlib.Path) -> Row:
    """The recording of that name or path in a table of Raven. Raises ValueError unless it is exactly one."""
    path = name.replace("\\", "/")
    for matches in (
        [row for row in recordings.values() if path in (row.id, row.path) or path.endswith(f"/{row.id}")],
        [row for row in recordings.values() if os.path.basename(row.id) == path.rpartition("/")[2]],
    ):
        if len(matches) == 1:
            return matches[0]
    raise ValueError(
        f"{file} has a selection of {printable(name)}, which is {'several' if matches else 'none'} of the "
        f"{amount(len(recordings), 'recording')}: list it, or remove that selection."
    )


def _read(file: pathlib.Path, label_column: str | None) -> Iterator[Annotation]:
    """The annotations of a file, in order. Raises ValueError for a file that is neither Raven's nor Audacity's."""
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
                f"{place} has no start, end and label with tabs between them, and the file has no head of Raven with "
                f"{BEGIN}: export labels from Audacity, or a selection table from Raven."
            )
        yield _annotation(line[0], line[1], " ".join(line[2:]), "", place)


def _raven(file: pathlib.Path, lines: list[tuple[int, list[str]]], label_column: str | None) -> Iterator[Annotation]:
    """The selections of a table, in order. A table may list a selection several times, once for each view."""
    names = [cell.strip() for cell in lines[0][1]]
    label_names = LABELS if label_column is None else (label_column.lower(),)
    lower_names = [name.lower() for name in names]
    column = next((names[lower_names.index(name)] for name in label_names if name in lower_names), None)
    if column is None:
        fault = "with a usual name for labels" if label_column is None else f"named {label_column}"
        raise ValueError(
            f"{file} has the columns {listing(names)}, and none {fault}: name the column that has the labels, "
            "--label-column NAME."
        )
    path = next((name for name in FILES if name in names), None)
    for number, line in lines[1:]:
        cells = dict(zip(names, [*line, *[""] * len(names)], strict=False))
        annotation = _annotation(
            cells[BEGIN], cells[END], cells[column], cells[path].strip() if path else "", f"{file} in its line {number}"
        )
        if cells.get(OFFSET, "").strip():  # the other times count from the start of the first recording
            start, _ = span(cells[OFFSET], cells[OFFSET], f"{file} in its line {number}")
            assert start is not None
            annotation = annotation._replace(start=start, end=start + annotation.end - annotation.start)
        yield annotation
    files = {cells[path] for _, line in lines[1:] for cells in [dict(zip(names, line, strict=False))]} if path else ()
    if len(files) > 1 and OFFSET not in names:
        raise ValueError(
            f"{file} has selections of several recordings and no column {OFFSET}: add that measurement in Raven, "
            "because the other times count from the start of the first recording."
        )


def _annotation(start: str, end: str, label: str, name: str, place: str) -> Annotation:
    """The annotation of these cells. Raises ValueError, with their `place`, for cells without times."""
    start_time, end_time = span(start, end, place)
    if start_time is None or end_time is None:
        raise ValueError(f"{place} has no times: give start and end in seconds, or remove it.")
    return Annotation(name, label.strip() or None, start_time, end_time)
