"""Writes rows of embeddings to one .npz or Parquet file as results come; memory does not grow with their number.

    files         the recording of each row
    starts, ends  the start and end of each row, in seconds from the start of the recording
    times         the centre of each row, in seconds, if rows are frames
    embeddings    rows x width, float32

An interruption ends the file early, with the rows so far.
"""

import contextlib
import itertools
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ._weights import atomic

NO_TEXT = re.compile(r"\\udc[89a-f][0-9a-f]|[\udc80-\udcff]")  # half a character, or the text that replaces it
GROUP = 1 << 25  # bytes of embeddings in one row group of a Parquet file


class Part(NamedTuple):
    """The rows of one recording, by column."""

    file: str
    columns: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        return len(self.columns["embeddings"])

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(column.nbytes for column in self.columns.values())


def write(path: pathlib.Path, parts: Iterable[Part]) -> tuple[int, int]:
    """Writes the rows to an .npz or a .parquet, by the suffix, and returns their number and width.

    Without rows it writes nothing.
    """
    try:
        return (_write_parquet if path.suffix == ".parquet" else _write_npz)(path, iter(parts))
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {reason(error)}. Nothing is kept: make room, or write into a folder, which "
            "keeps what is done."
        ) from None


def utf8(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are written as `\\udcff`. Different names give different texts:
    if a name has such bytes or such a text, its backslashes are doubled.
    """
    if not NO_TEXT.search(name):
        return name
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def path_of(text: str) -> str:
    """The file's name from which `utf8` made the text."""
    if not NO_TEXT.search(text):
        return text
    return re.sub(
        r"\\\\|\\udc([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] else "\\", text
    )


def reason(error: OSError) -> str:
    """The operating system's reason for an error; Arrow puts the error's number into its text."""
    number = error.errno or next(map(int, re.findall(r"\[errno (\d+)\]", str(error))), 0)
    return os.strerror(number) if number else str(error)


def import_parquet() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet. Raises ModuleNotFoundError that names the extra to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Parquet needs pyarrow: pip install "audax-eqx[parquet]", or write an .npz.'
        ) from None
    return pyarrow, pyarrow.parquet


def table(parts: list[Part]) -> Any:
    """The rows as an Arrow table."""
    arrow, _ = import_parquet()
    files = arrow.array([utf8(part.file) for part in parts for _ in range(part.rows)], arrow.string())
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    embeddings = columns.pop("embeddings")
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.ravel()), embeddings.shape[1])
    return arrow.table({"files": files, **columns, "embeddings": lists})


def _write_parquet(path: pathlib.Path, parts: Iterator[Part]) -> tuple[int, int]:
    _, parquet = import_parquet()
    first = next(parts, None)
    if first is None:
        return 0, 0
    rows, backlog, size = 0, [first], first.size
    with atomic(path) as temporary, parquet.ParquetWriter(temporary, table([first]).schema) as writer:
        for part in parts:
            if size >= GROUP:
                writer.write_table(table(backlog))
                rows, backlog, size = rows + sum(item.rows for item in backlog), [], 0
            backlog.append(part)
            size += part.size
        writer.write_table(table(backlog))
    return rows + sum(part.rows for part in backlog), first.columns["embeddings"].shape[1]


def _write_npz(path: pathlib.Path, parts: Iterator[Part]) -> tuple[int, int]:
    """An .npz states its number of rows at the start, so each column goes to a temporary file until that is known."""
    first = next(parts, None)
    if first is None:
        return 0, 0
    with contextlib.ExitStack() as stack:
        files_by_column = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in first.columns}
        files: list[tuple[str, int]] = []
        for part in itertools.chain([first], parts):
            files.append((part.file, part.rows))
            for name, column in part.columns.items():
                files_by_column[name].write(np.ascontiguousarray(column).data)
        rows = sum(count for _, count in files)
        text = np.dtype(f"<U{max(len(file) for file, _ in files)}")
        with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            with _array(archive, "files", text, (rows,)) as write_bytes:
                for file, count in files:
                    write_bytes(np.full(count, file, text).tobytes())
            for name, column in first.columns.items():
                files_by_column[name].seek(0)
                with _array(archive, name, column.dtype, (rows, *column.shape[1:])) as write_bytes:
                    while block := files_by_column[name].read(1 << 20):
                        write_bytes(block)
    return rows, first.columns["embeddings"].shape[1]


@contextlib.contextmanager
def _array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[Callable[[bytes], Any]]:
    """The function that writes the bytes of an array into the archive."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file.write
