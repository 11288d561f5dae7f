"""The embeddings of a corpus: a folder of Parquet parts. The same command adds parts until all recordings have rows.

    part-000012.parquet          rows as in `_rows.py`; the file is either whole or absent
    _failures.csv                the recordings that could not be read, and why
    _run.json                    the model and the options that all rows have in common

All rows of a recording are in one part, so a process that is killed at any moment leaves whole recordings behind, and
the next process embeds the others. The process closes parts often at first and more rarely later: a kill loses at most
a fiftieth of the time that the process has run. Shards of the same corpus write their own parts, such as
`part-0-of-8-000012.parquet`.
"""

import contextlib
import csv
import errno
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ._files import parse_json
from ._leaves import named_leaves
from ._lock import NAME, locked
from ._pretrained import Pretrained
from ._rows import Part, import_parquet, reason, table, utf8
from ._search import Shard
from ._weights import atomic

NOTE = "_run.json"
PART = 1 << 26  # bytes of rows at which a part is closed
SECONDS, SHARE = 2.0, 50  # a part is also closed after 2 s, or after a fiftieth of the run's time if that is longer


class Corpus:
    """The rows of this process and of all earlier ones. `names` is the set of recordings that have rows."""

    def __init__(self, folder: pathlib.Path, shard: Shard):
        self.folder, self.shard = folder, shard
        for name in (f".part{shard.suffix}-*.parquet", f"._failures{shard.suffix}.*.csv"):
            for temporary in folder.glob(name):  # left by a process that was killed
                temporary.unlink(missing_ok=True)
        parts = sorted(folder.glob("part-*.parquet"))
        self.names = {file for part in parts for file in _files(part)}
        self.parts, self.start = len(parts), time.monotonic()
        self.failures = self._read_failures()
        self.failures_on_disk = dict(self.failures)
        self.backlog: list[Part] = []
        self.repeats = 0

    def missing(self, files: Iterable[str]) -> Iterator[str]:
        """The files that have no rows yet, without repetitions; `repeats` counts the files that have rows."""
        old_names, listed_names = frozenset(self.names), set()
        for file in files:
            if (name := utf8(file)) in listed_names:
                continue
            listed_names.add(name)
            if name in old_names:
                self.repeats += 1
            else:
                yield file

    def write(self, parts: Iterable[Part | tuple[str, str]]) -> None:
        """Adds the rows of recordings, and the failures. A failure is a pair of a file and its error."""
        size, wait_start = 0, None
        try:
            for part in parts:
                wait_start = wait_start or time.monotonic()
                if isinstance(part, Part):
                    self.backlog.append(part)
                    size += part.size
                else:
                    self.failures[utf8(part[0])] = part[1]
                moment = time.monotonic()
                if size >= PART or moment - wait_start >= max(SECONDS, (moment - self.start) / SHARE):
                    self._close_part()
                    size, wait_start = 0, moment
        finally:
            self._close_part()

    def _close_part(self) -> None:
        """Writes the waiting rows. If the folder cannot be written, raises OSError that says what the folder holds."""
        parts, self.backlog = self.backlog, []
        try:
            if parts:
                self._write_part(parts)
            for part in parts:
                self.failures.pop(utf8(part.file), None)  # an earlier process could not read it
            if self.failures != self.failures_on_disk:
                self._write_failures()
        except OSError as error:
            raise OSError(
                f"{self.folder} cannot be written: {reason(error)}. It holds whole rows of {len(self.names)} "
                "recordings: make room, and give the same command again, which goes on from there."
            ) from None
        self.names.update(utf8(part.file) for part in parts)

    def _write_part(self, parts: list[Part]) -> None:
        _, parquet = import_parquet()
        while (path := self.folder / f"part{self.shard.suffix}-{self.parts:06}.parquet").exists():
            self.parts += 1
        with atomic(path) as temporary:
            parquet.write_table(table(parts), temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # the name must not be on the disk before the rows
        self.parts += 1

    @property
    def failures_file(self) -> pathlib.Path:
        return self.folder / f"_failures{self.shard.suffix}.csv"

    def _read_failures(self) -> dict[str, str]:
        if not self.failures_file.exists():
            return {}
        with open(self.failures_file, encoding="utf-8", newline="") as file:
            return {row[0]: row[1] for row in itertools.islice(csv.reader(file), 1, None) if len(row) == 2}

    def _write_failures(self) -> None:
        with atomic(self.failures_file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["files", "errors"])
            writer.writerows((name, utf8(error)) for name, error in self.failures.items())
        self.failures_on_disk = dict(self.failures)


@contextlib.contextmanager
def opened(folder: pathlib.Path, note: dict[str, Any], shard: Shard) -> Iterator[Corpus]:
    """Opens the corpus in a folder for this process alone. The folder is new, or the same command began it.

    Raises ValueError if the folder holds other files, or rows of another model or of other options. Raises
    BlockingIOError if another process writes the same shard.
    """
    import_parquet()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {reason(error)}.") from None
    others = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    if others and NOTE not in others:
        raise ValueError(f"{folder} holds {others[0]!r} and no {NOTE} of a corpus: name a new or an empty folder.")
    with locked(folder, f"{NAME}{shard.suffix}"):
        _check(folder, note | {"shards": shard.count})
        yield Corpus(folder, shard)


def _check(folder: pathlib.Path, note: dict[str, Any]) -> None:
    path = folder / NOTE
    if not path.exists():
        _write_once(path, json.dumps(note, indent=2) + "\n")
    old_note = parse_json(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(old_note, dict):
        raise ValueError(f"{path} is no note of a corpus: name another folder.")
    note = {name: value for name, value in note.items() if name != "source"}  # the same weights may lie elsewhere
    if note == {name: value for name, value in old_note.items() if name != "source"}:
        return
    changes = [
        f"{name} {old_note.get(name)!r} instead of {value!r}"
        for name, value in note.items()
        if old_note.get(name) != value
    ]
    raise ValueError(
        f"{folder} holds rows of {' and '.join(changes)}: give the options of its {NOTE}, or name another folder."
    )


def fingerprint(clip: Pretrained) -> str:
    """The hash of a model's arrays. It differs between models that have the same name and different weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, leaf in sorted(named_leaves(clip.model, clip.state).items()):
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)  # NumPy gives no buffer of bfloat16
    return digest.hexdigest()


def _write_once(path: pathlib.Path, text: str) -> None:
    """Writes a file that does not exist. Another shard may write it at the same moment: the first file stays."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(f"{path.parent} cannot be written: {reason(error)}.") from None
        with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:  # no file system links
            file.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def _files(part: pathlib.Path) -> list[str]:
    arrow, parquet = import_parquet()
    try:
        return parquet.read_table(part, columns=["files"])["files"].unique().to_pylist()
    except (OSError, KeyError, arrow.ArrowException) as error:
        fault = str(error).splitlines()[0]
        raise ValueError(
            f"{part} is not whole ({fault}): delete it, and the same command embeds its recordings again."
        ) from None
