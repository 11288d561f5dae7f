"""Reads rows of embeddings from files in blocks, so that memory does not grow with their number.

A path is a corpus, as `_corpus.py` writes it, or another folder of Parquet files with the columns of `_rows.py`; or one
such file; or an .npz. Rows are numbered: row 0 is the first row of the first file by name.
"""

import bisect
import collections
import concurrent.futures
import contextlib
import itertools
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ._corpus import NOTE
from ._files import parse_json, read_text
from ._rows import import_parquet, path_of

BUFFER = 1 << 20  # bytes of a Parquet file that are read at a time
THREADS, SMALL = 4, 1 << 27  # threads that read ahead; the most bytes of the piece that each reads
SELECTION = 1 << 14  # rows of names or times of an .npz that are read at a time
TIMES = "starts", "ends"
Block = Float[np.ndarray, "_rows _width"]


class Place(NamedTuple):
    """The recording of a row, and the row's start and end there in seconds; None if the file has no times."""

    file: str
    start: float | None
    end: float | None


class Piece(NamedTuple):
    """Neighbouring rows of a file, in blocks; `size` is their number of bytes, roughly."""

    size: int
    blocks: Iterator[Block]


class RowFiles:
    """All rows of a path. `note` is a corpus's record of its model and options; None for other files."""

    def __init__(self, path: str | os.PathLike):
        """Raises OSError, and ValueError for a file or folder without rows of embeddings."""
        self.path = pathlib.Path(path)
        files = _files(self.path)
        self.note = _note(self.path / NOTE)
        self.files = [Npz(file) if file.suffix == ".npz" else Parquet(file) for file in files]
        self.starts = _starts(file.rows for file in self.files)

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def blocks(self, width: int, size: int) -> Iterator[Block]:
        """The embeddings in order, float32, `size` rows at a time and fewer at the end. Missing embeddings are NaN.

        Raises ValueError for embeddings of another width.
        """
        parts: list[np.ndarray] = []
        room = size
        for rows in read_ahead(piece for file in self.files for piece in file.pieces(width, size)):
            while len(rows):
                parts.append(rows[:room])
                rows, room = rows[room:], room - len(parts[-1])
                if room == 0:
                    yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                    parts, room = [], size
        if parts:
            yield np.concatenate(parts)

    def places(self, rows: Sequence[int]) -> list[Place]:
        """The places of these rows, in the order of `rows`, which holds no number twice."""
        places: dict[int, Place] = {}
        for number, group in _grouped(sorted(rows), self.starts):
            members = list(group)
            file_places = self.files[number].places([row - self.starts[number] for row in members])
            places.update(zip(members, file_places, strict=True))
        return [places[row] for row in rows]


class Parquet:
    """A Parquet file with `rows` rows."""

    def __init__(self, path: pathlib.Path):
        self.arrow, self.parquet = import_parquet()
        self.path, self.faults = path, (OSError, self.arrow.ArrowException)
        try:
            with self.parquet.ParquetFile(path) as file:
                groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
                counts, self.sizes = [group.num_rows for group in groups], [group.total_byte_size for group in groups]
                self.names = file.schema_arrow.names
        except self.faults as error:
            raise self._broken(error) from None
        _check_names(path, self.names)
        self.starts = _starts(counts)
        self.rows = self.starts[-1]

    def pieces(self, width: int, size: int) -> Iterator[Piece]:
        """A piece for each row group."""
        for group, count in enumerate(self.sizes):
            yield Piece(count, self._blocks(group, width, size))

    def _blocks(self, group: int, width: int, size: int) -> Iterator[Block]:
        try:
            with self.parquet.ParquetFile(self.path, buffer_size=BUFFER) as file:
                for batch in file.iter_batches(size, row_groups=[group], columns=["embeddings"]):
                    yield self._matrix(batch.column(0), width)
        except self.faults as error:
            raise self._broken(error) from None

    def places(self, rows: Sequence[int]) -> list[Place]:
        """Of rows that are sorted."""
        columns = ["files", *(name for name in TIMES if name in self.names)]
        places: list[Place] = []
        try:
            with self.parquet.ParquetFile(self.path, buffer_size=BUFFER) as file:
                for group, members in _grouped(rows, self.starts):
                    offsets = [row - self.starts[group] for row in members]
                    table = file.read_row_group(group, columns=columns).take(offsets).to_pydict()
                    places += _places(list(map(_path, table["files"])), *(table.get(name) for name in TIMES))
        except self.faults as error:
            raise self._broken(error) from None
        return places

    def _matrix(self, column: Any, width: int) -> Block:
        """A column of lists as an array. Missing lists, those of recordings that could not be read, are NaN."""
        types, kind = self.arrow.types, column.type
        lists = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
        if not (lists and types.is_floating(kind.value_type)):
            raise ValueError(
                f"{self.path} has embeddings of the type {kind}, and the zoo searches lists of floats: embed again."
            )
        valid = column.drop_null()
        is_fixed = types.is_fixed_size_list(kind)
        for length in [kind.list_size] if is_fixed else valid.value_lengths().unique().to_pylist():
            _check_width(self.path, length, width)
        rows = valid.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(valid), width)
        if len(valid) == len(column):
            return rows
        block = np.full((len(column), width), np.nan, np.float32)
        block[column.is_valid().to_numpy(zero_copy_only=False)] = rows
        return block

    def _broken(self, error: Exception) -> ValueError:
        fault = str(error).splitlines()[0]
        return ValueError(f"{self.path} is not whole ({fault}): delete it, and embed its recordings again.")


class Npz:
    """An .npz with `rows` rows. Its arrays are read as streams, because NumPy would read each array whole."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with self._archive() as archive:
            self.names = [name.removesuffix(".npy") for name in archive.namelist()]
        _check_names(path, self.names)
        with self._array("embeddings") as (_, shape, dtype):
            if len(shape) != 2 or dtype.kind != "f":
                raise ValueError(f"its embeddings are {dtype} of the shape {shape} instead of rows of floats")
        self.rows, self.width = shape
        for name in ("files", *(name for name in TIMES if name in self.names)):
            with self._array(name) as (_, shape, dtype):
                if shape != (self.rows,) or dtype.kind != ("U" if name == "files" else "f"):
                    raise ValueError(f"its {name} are {dtype} of the shape {shape} for {self.rows} embeddings")

    def pieces(self, width: int, size: int) -> Iterator[Piece]:
        """One piece, because the bytes need no decoding."""
        _check_width(self.path, self.width, width)
        blocks = (block.astype(np.float32, copy=False) for block in self._read("embeddings", size))
        yield Piece(4 * self.rows * width, blocks)

    def places(self, rows: Sequence[int]) -> list[Place]:
        """Of rows that are sorted."""
        times = (self._pick(name, rows) if name in self.names else None for name in TIMES)
        return _places(self._pick("files", rows), *times)

    def _pick(self, name: str, rows: Sequence[int]) -> list[Any]:
        """The values of an array at these rows."""
        values, start = [], 0
        for block in self._read(name, SELECTION):
            first, last = bisect.bisect_left(rows, start), bisect.bisect_left(rows, start + len(block))
            values += block[np.asarray(rows[first:last], int) - start].tolist()
            start += len(block)
        return values

    def _read(self, name: str, size: int) -> Iterator[np.ndarray]:
        """An array, `size` rows at a time."""
        with self._array(name) as (file, shape, dtype):
            row = dtype.itemsize * math.prod(shape[1:])
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                content = file.read(count * row)
                if len(content) < count * row:
                    raise ValueError(f"its {name} end too early")
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        """The file as an archive. Errors within the `with` block become ValueErrors of one sentence."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
            fault = str(error).rstrip(".")
            raise ValueError(f"{self.path} is no .npz of embeddings ({fault}): audax-zoo embed writes one.") from None

    @contextlib.contextmanager
    def _array(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """A file at the first number of an array, the array's shape and its type."""
        with self._archive() as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            if is_fortran and len(shape) > 1:
                raise ValueError(f"its {name} are stored column by column")
            yield file, shape, dtype


def read_ahead(pieces: Iterable[Piece]) -> Iterator[Block]:
    """All blocks in order. Threads read a few small pieces ahead, because decoding Parquet takes longer than comparing
    the rows, and one thread decodes one row group."""
    threads = min(os.cpu_count() or 1, THREADS)
    backlog: collections.deque[Iterator[Block] | concurrent.futures.Future[list[Block]]] = collections.deque()

    def first() -> Iterable[Block]:
        piece = backlog.popleft()
        return piece.result() if isinstance(piece, concurrent.futures.Future) else piece

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for piece in pieces:
            backlog.append(piece.blocks if piece.size > SMALL else pool.submit(list, piece.blocks))
            if len(backlog) > threads:
                yield from first()
        while backlog:
            yield from first()


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files with rows: the path itself, or a folder's Parquet files by name."""
    if path.is_file():
        if path.suffix not in (".npz", ".parquet"):
            raise ValueError(
                f"{path} holds no rows of embeddings: name what audax-zoo embed wrote, -o OUT/, .parquet or .npz."
            )
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: name what audax-zoo embed wrote, -o OUT/, .parquet or .npz.")
    files = sorted(file for file in path.glob("*.parquet") if file.name[0] not in "._")
    if files:
        return files
    if (path / NOTE).exists():
        raise ValueError(f"{path} is a corpus without rows so far: search it when audax-zoo embed has written some.")
    raise ValueError(
        f"{path} is no corpus because it has no part-*.parquet: audax-zoo embed RECORDINGS -o {path}/ makes one."
    )


def _note(path: pathlib.Path) -> dict[str, Any] | None:
    """The note of a corpus; None if there is no such file. Raises ValueError for a file of another kind."""
    if not path.exists():
        return None
    note = parse_json(read_text(path), str(path))
    if not isinstance(note, dict):
        raise ValueError(f"{path} is no note of a corpus: audax-zoo embed writes one into a new folder.")
    return note


def _starts(counts: Iterable[int]) -> list[int]:
    """The number of the first row of each group, and then the number of all rows."""
    return [0, *itertools.accumulate(counts)]


def _grouped(rows: Iterable[int], starts: Sequence[int]) -> Iterator[tuple[int, Iterator[int]]]:
    """Sorted rows, divided by their groups."""
    return itertools.groupby(rows, lambda row: bisect.bisect_right(starts, row) - 1)


def _places(files: Sequence[str], starts: Sequence[Any] | None, ends: Sequence[Any] | None) -> list[Place]:
    blanks = [None] * len(files)
    return list(map(Place, files, starts or blanks, ends or blanks))


def _path(file: str | bytes) -> str:
    """A file's name in a Parquet file; Ray may write bytes."""
    return os.fsdecode(file) if isinstance(file, bytes) else path_of(file)


def _check_names(path: pathlib.Path, names: Iterable[str]) -> None:
    """Raises ValueError for a file that lacks a column."""
    if missing := sorted({"files", "embeddings"} - {*names}):
        raise ValueError(f"{path} has no column {' and no '.join(missing)}: name what audax-zoo embed wrote.")


def _check_width(path: pathlib.Path, width: int, query_width: int) -> None:
    if width != query_width:
        raise ValueError(
            f"{path} has embeddings of {width} numbers, and the query has one of {query_width}: search with the model "
            "that made the rows."
        )
