"""A model for Ray Data. It takes batches of rows with recordings and returns batches of rows with embeddings."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._load import load
from ._recordings import Result, embed
from ._rows import utf8

COLUMNS = ("files", "starts", "ends", "embeddings", "errors")


class Embedder:
    """`zoo.embed` as a class for `map_batches` of Ray Data, which runs a pool of actors, each in its own process.

    Each row of a batch has one recording: `bytes` is the content of a file, and `path` is the path of a file that the
    actor can open. If a row has both, `path` is only a name. Names that are not UTF-8 are bytes, as `os.fsencode` gives
    them.

    The rows of the result have these columns of plain Arrow types:

    - `files`: the path, unchanged.
    - `starts`, `ends`: seconds from the start of the recording, float64.
    - `embeddings`: the embedding, a list of float32 of fixed length.
    - `errors`: the error message of a recording that cannot be read; null for other recordings. Such a recording has
      one row, in which the three columns above are null.
    - All columns of the batch except `bytes` and `path`, repeated for each row of a recording.

    With `num_gpus=1` Ray gives each actor of the pool its own GPU.
    """

    def __init__(self, name: str | os.PathLike, **options: Any):
        """Loads the model `name` as `zoo.load` does. `options` are the options of `zoo.embed` except `errors`.

        Raises what `zoo.load` and `zoo.embed` raise, and ModuleNotFoundError without the extra `cluster`.
        """
        if "errors" in options:
            raise TypeError("Embedder keeps what cannot be read as rows with an error: leave the option errors out.")
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError('Embedder needs pyarrow: pip install "audax-eqx[cluster]".') from None
        self._embed = functools.partial(embed, load(name), errors="keep", **options)
        (nothing,) = self._embed([b""])  # checks the options and shows the embedding's width
        self._missing = dataclasses.replace(nothing, error="The row has neither bytes nor a path.")

    def __call__(self, batch: Any) -> Any:
        """The result for a batch, an Arrow table whose rows keep the order of the batch.

        The batch maps names of columns to NumPy arrays, as Ray gives it, or is a table (`batch_format="pyarrow"`). A
        table keeps the types of columns in which values are missing.

        Raises TypeError or ValueError if the columns hold no recordings, or if a column has the name of an added one.
        """
        columns = _columns(batch)
        size = len(next(iter(columns.values())))
        contents, paths = (_values(name, columns.pop(name, np.full(size, None))) for name in ("bytes", "path"))
        sources = [_source(content, path) for content, path in zip(contents, paths, strict=True)]
        readable = self._embed([source for source in sources if source is not None])
        results = [self._missing if source is None else next(readable) for source in sources]
        return _table(results, self._missing, paths, columns)


def _columns(batch: Any) -> dict[str, Any]:
    """The columns of a batch by their names."""
    names = getattr(batch, "column_names", batch)
    if names is batch and not isinstance(batch, Mapping):
        raise TypeError(
            f"Embedder takes batches of NumPy arrays, as Ray gives them, or tables of Arrow, got a "
            f"{type(batch).__name__}: leave batch_format out."
        )
    columns = {name: batch[name] for name in names}
    if not {"bytes", "path"} & set(columns):
        raise ValueError(
            f"Embedder takes rows with the column bytes or path, got {', '.join(columns) or 'no columns'}: "
            'ray.data.read_binary_files(folder, include_paths=True) has both, and ds.rename_columns({"old": "path"}) '
            "gives a column another name."
        )
    if common := [name for name in COLUMNS if name in columns]:
        raise ValueError(
            f"Embedder adds the columns {', '.join(COLUMNS)}, and rows have {', '.join(common)} already: "
            f'rename with ds.rename_columns({{"{common[0]}": "other"}}) or drop with ds.drop_columns first.'
        )
    return columns


def _values(name: str, column: Any) -> list:
    """The values of a column, with None for missing values."""
    if name == "bytes" and isinstance(column, np.ndarray) and column.dtype.kind == "S":
        raise TypeError("Bytes in an array of NumPy's type S lose the zeros at their end: give it dtype=object.")
    values = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]  # Ray's null


def _source(content: Any, path: Any) -> Any:
    """The recording of a row in a form that `zoo.read` takes; None if the row has no recording."""
    for name, value, kinds in (("bytes", content, (bytes,)), ("path", path, (str, bytes))):
        if value is not None and not isinstance(value, kinds):
            raise TypeError(
                f"Embedder takes {name} of the type {' or '.join(kind.__name__ for kind in kinds)}, got "
                f"{type(value).__name__}."
            )
    path = path and os.fsdecode(path)
    return path if content is None else {"bytes": content, "path": path}


def _table(results: Sequence[Result], nothing: Result, paths: Sequence[Any], others: Mapping[str, Any]) -> Any:
    """All rows as a table. The types of its columns are the same for recordings with and without errors."""
    import pyarrow as arrow

    def joined(field: str) -> np.ndarray:
        """The values of all results, with zeros for results that have an error."""
        empty = getattr(nothing, field)
        zeros = np.zeros((1, *empty.shape[1:]), empty.dtype)
        parts = (zeros if result.error else getattr(result, field) for result in results)
        return np.concatenate([empty, *parts])

    recordings = np.repeat(np.arange(len(results)), [len(result.values) or 1 for result in results])
    errors = [result.error and utf8(result.error) for result in results]
    failures = np.array([bool(error) for error in errors], bool)[recordings]
    columns = {
        "files": _names(paths).take(recordings),
        "starts": arrow.array(joined("start"), mask=failures),
        "ends": arrow.array(joined("end"), mask=failures),
        "embeddings": arrow.FixedSizeListArray.from_arrays(
            arrow.array(joined("values").reshape(-1)), nothing.values.shape[1], mask=arrow.array(failures)
        ),
        "errors": arrow.array(errors, arrow.string()).take(recordings),
    }
    for name, column in others.items():
        columns[name] = _array(column[recordings]) if isinstance(column, np.ndarray) else column.take(recordings)
    return arrow.table(columns)


def _array(values: np.ndarray) -> Any:
    """An Arrow array. Each axis except the first becomes lists of a fixed length."""
    import pyarrow as arrow

    array = arrow.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        array = arrow.FixedSizeListArray.from_arrays(array, size)
    return array


def _names(paths: Sequence[Any]) -> Any:
    """The column `files`: bytes if any path is bytes, otherwise text."""
    import pyarrow as arrow

    if any(isinstance(path, bytes) for path in paths):
        return arrow.array([path and os.fsencode(path) for path in paths], arrow.binary())
    return arrow.array([path and utf8(path) for path in paths], arrow.string())
