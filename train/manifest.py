"""A CSV manifest: a table of sound files and their labels, of whole files or of parts from `start` to `end`.

Every fault of the manifest is reported before a sound file is read.
"""

import collections
import csv
import difflib
import io
import math
import os
import pathlib
import re
import unicodedata
from typing import NamedTuple

from .text import amount, listing, printable

NOT_UTF8 = re.compile("[\ud800-\udfff]")  # stands for a byte that is not UTF-8
TABS = {r"\t": "\t", "tab": "\t"}  # ways to write a tab in a shell


class Row(NamedTuple):
    """A row of the manifest; `id` is the path of the file as the manifest has it.

    The labels apply to the file from `start` to `end`, in seconds, or to the whole file if both are None. Equal times
    name a point.
    """

    id: str
    path: str
    labels: list[str]
    columns: dict[str, str]
    start: float | None = None
    end: float | None = None


def read_manifest(
    manifest: pathlib.Path, delimiter: str = ",", label_delimiter: str = ";", *, unlabelled: bool = False
) -> list[Row]:
    r"""The rows of the manifest, without the blanks around names and values. A tab may be written as `\t` or `tab`.

    With columns `start` and `end` a file may have many rows. Each of them has both times in seconds, or neither if it
    labels the whole file. File names may hold bytes that are not UTF-8, as in the file system. Raises FileNotFoundError
    without the file. Raises ValueError for a manifest that has no files, that lists a whole file twice, whose times are
    not numbers of seconds, or that has no labels, unless `unlabelled`.
    """
    delimiter, label_delimiter = TABS.get(delimiter, delimiter), TABS.get(label_delimiter, label_delimiter)
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ValueError(rf"a delimiter is one character, or \t for a tab, got {delimiter!r}: give another.")
    if not label_delimiter:
        raise ValueError("a delimiter of labels has one character or more, got none: give one that no label has.")
    head, *lines = _parse(manifest, delimiter)
    names = [name.strip() for name in head]
    _check_names(manifest, names, delimiter, unlabelled)
    rows, nameless = [], False
    for number, line in enumerate(lines, 1):
        if any(cell.strip() for cell in line[len(names) :]):
            raise ValueError(f"{manifest} has more fields than columns in its row {number}: quote or remove them.")
        cells = dict(zip(names, [*line, *[""] * len(names)], strict=False))
        nameless |= bool(cells.pop("", "").strip())
        rows.append(_row(manifest, number, cells, label_delimiter))
    if not rows:
        raise ValueError(f"{manifest} has no rows: list at least one file.")
    if nameless:
        print(f"{manifest} has a column without a name, which is left out.")
    if not unlabelled and not any(row.labels for row in rows):
        raise ValueError(
            f"{manifest} has {amount(len(rows), 'row')} and no label: fill in its column labels, or prepare clips "
            "without labels by --unlabelled."
        )
    times = collections.Counter(os.path.normpath(row.path) for row in rows)
    whole = {os.path.normpath(row.path) for row in rows if row.start is None}
    if repeats := [row.id for row in rows if times[path := os.path.normpath(row.path)] > 1 and path in whole]:
        files = amount(sum(count > 1 and path in whole for path, count in times.items()), "file")
        remedy = "give each of its rows start and end, or keep one" if "start" in names else "keep one row of each"
        raise ValueError(f"{manifest} lists {files} more than once, {printable(repeats[0])} first: {remedy}.")
    return rows


def _parse(manifest: pathlib.Path, delimiter: str) -> list[list[str]]:
    """The cells of all lines that are not empty. The first line is the head, which has no cells in an empty file."""
    try:
        text = manifest.read_bytes().decode("utf-8-sig", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{manifest} is not a file: give a CSV manifest with a column files.") from None
    # A blank behind a delimiter in the head, or before a quoted field, is there for looks
    first, blank = text.lstrip("\r\n").partition("\n")[0], re.escape(delimiter) + " +"
    blanks = delimiter != " " and bool(re.search(blank, first) or re.search(blank + '"', text))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=blanks)
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"{manifest} cannot be read as CSV ({error}): save it as CSV in UTF-8.") from None
    return lines or [[]]


def _check_names(manifest: pathlib.Path, names: list[str], delimiter: str, unlabelled: bool) -> None:
    """Raises ValueError for two columns of one name, for a manifest without the column files or labels, and for one of
    start and end without the other."""
    if NOT_UTF8.search("".join(names)) or "\0" in "".join(names):
        raise ValueError(f"{manifest} cannot be read as CSV in UTF-8: save it as CSV in UTF-8.")
    if repeats := [name for name, count in collections.Counter(names).items() if name and count > 1]:
        raise ValueError(f"{manifest} has more than one column {printable(repeats[0])}: keep one.")
    columns = listing(names) if any(names) else "none"
    if "files" not in names:
        raise ValueError(
            f"{manifest} has the columns {columns} and needs one named files: {_rename('files', names)}, or give "
            f"another delimiter than {delimiter!r}."
        )
    if ("start" in names) != ("end" in names):
        column, partner = ("start", "end") if "start" in names else ("end", "start")
        raise ValueError(
            f"{manifest} has a column {column} and none named {partner}: give both, in seconds, or rename {column}."
        )
    if "labels" not in names and not unlabelled:
        raise ValueError(
            f"{manifest} has the columns {columns} and none named labels: {_rename('labels', names)}, or prepare clips "
            "without labels by --unlabelled."
        )


def _rename(column: str, names: list[str]) -> str:
    """Advice for a manifest without the column: rename the column whose name is similar, if there is one."""
    candidates = {name.lower(): name for name in names if name not in ("files", "labels")}
    matches = difflib.get_close_matches(column, candidates, n=1, cutoff=0.6)
    return f"rename {printable(candidates[matches[0]])}" if matches else "name it so"


def _row(manifest: pathlib.Path, number: int, cells: dict[str, str], label_delimiter: str) -> Row:
    """The row of that number, from its cells by column. Raises ValueError for cells that are no row."""
    name = cells.pop("files")
    path = os.path.join(manifest.parent, name)
    if name != name.strip() and not os.path.exists(path):
        name = name.strip()
        path = os.path.join(manifest.parent, name)
    if not name.strip() or "\0" in name:
        raise ValueError(f"{manifest} has no file in its row {number}: mend or remove it.")
    if NOT_UTF8.search("".join(cells.values())) or (NOT_UTF8.search(name) and not os.path.exists(path)):
        raise ValueError(f"{manifest} cannot be read as UTF-8 in its row {number}: save it as CSV in UTF-8.")
    # A letter with an accent has two encodings, which look the same and should give the same label
    text = unicodedata.normalize("NFC", cells.pop("labels", ""))
    if "\0" in text:
        raise ValueError(f"{manifest} has a label with a zero byte in its row {number}: mend it.")
    labels = (label.strip() for label in text.split(label_delimiter))
    start, end = span(cells.pop("start", ""), cells.pop("end", ""), f"{manifest} in its row {number}")
    columns = {name: cell.strip() for name, cell in cells.items()}
    return Row(name, path, list(dict.fromkeys(filter(None, labels))), columns, start, end)


def span(start: str, end: str, place: str) -> tuple[float, float] | tuple[None, None]:
    """Two cells as seconds, or None twice if both are empty. The decimal point may be a comma.

    Raises ValueError, with the `place` of the cells, for a cell that is not a time and for an end before its start.
    """
    if not start.strip() and not end.strip():
        return None, None
    seconds = []
    for name, cell in {"start": start, "end": end}.items():
        try:
            seconds.append(float(cell.strip().replace(",", ".")))
        except ValueError:
            seconds.append(math.nan)
        if not 0 <= seconds[-1] < math.inf:
            raise ValueError(
                f"{place} has the {name} {printable(cell.strip())!r}, and times are seconds from 0 on: mend or "
                "remove it."
            )
    if seconds[1] < seconds[0]:
        raise ValueError(
            f"{place} ends at {seconds[1]:g} s, in front of its start at {seconds[0]:g} s: mend or remove it."
        )
    return seconds[0], seconds[1]
