"""A prepared folder: its index in memory, and random access to every example."""

import functools
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32, Float64, Int, Int16, Int64

from .events import labels_heard, mark_overlaps
from .example import byte_feature
from .sounds import decode
from .summary import TIMED, VERSION
from .text import printable

VERSIONS = (1, VERSION, TIMED)
OPEN_SHARDS = 512  # half of the files that many systems let a process open


class Dataset:
    """A folder that `prepare` wrote: its index in memory, its audio on disk, for any number of threads.

    An example is a recording, or in a `timed` dataset a part of one. These have an element for each example, in the
    order of the manifest:

    - `ids`: its file.
    - `samples`: the length of its recording at `sample_rate` Hz.
    - `spans`: its start and end in the recording, in samples.
    - `targets`: 1 for each of the `labels` that the example has, else 0. The labels of a part include those of other
      parts that share half of the shorter part with it.
    - `columns`: the other columns of the manifest, as text.

    `digest` is a hash of all shards. `dtype` is that of batches: int16, or float32 if any example has 24 bits. Raises
    FileNotFoundError for a folder that is not prepared or lacks a shard, and ValueError for a shard that has changed.
    """

    ids: list[str]
    samples: Int64[np.ndarray, " examples"]
    spans: Int64[np.ndarray, "examples 2"]
    targets: Float32[np.ndarray, "examples classes"]
    columns: dict[str, np.ndarray]
    dtype: type[np.int16 | np.float32]

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        try:
            content = json.loads((self.folder / "dataset.json").read_text("utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.folder} has no dataset.json: prepare it first: audax-train prepare MANIFEST {self.folder}"
            ) from None
        except NotADirectoryError:
            raise FileNotFoundError(
                f"{self.folder} is a file, and data is a prepared folder: audax-train prepare {self.folder} DATA, then "
                "give DATA."
            ) from None
        if content["version"] not in VERSIONS:
            raise ValueError(
                f"{self.folder} is of version {content['version']}, this is audax-train for {TIMED}: prepare it again."
            )
        self.sample_rate: int = content["sample_rate"]
        self.labels: tuple[str, ...] = tuple(content["labels"])
        self.multilabel: bool = content["multilabel"]
        self.digest = hashlib.sha256(json.dumps(content["shards"]).encode()).hexdigest()
        self._shards = [self.folder / shard["file"] for shard in content["shards"]]
        indices = [_index(shard) for shard in self._shards]
        examples = [example for index in indices for example in index]
        self.ids = [example["id"] for example in examples]
        self.samples = np.array([example["samples"] for example in examples], np.int64)
        self.timed = any("start" in example for example in examples)
        spans = [(example.get("start", 0), example.get("end", example["samples"])) for example in examples]
        self.spans = np.array(spans, np.int64).reshape(-1, 2)
        self.dtype = np.float32 if any("scale" in example for example in examples) else np.int16
        self._scales: Float64[np.ndarray, " examples"] = np.array([example.get("scale", 1.0) for example in examples])
        self.columns = {
            name: np.array([example["columns"][name] for example in examples], np.str_) for name in content["columns"]
        }
        self._part_targets = self._table(example["labels"] for example in examples)
        self.targets = self._part_targets
        if self.timed:
            self.targets = self._table(labels for index in indices for labels in labels_heard(index))
        places = [
            (shard, example["offset"], example["size"], example.get("audio", 0))
            for shard, index in enumerate(indices)
            for example in index
        ]
        self._places = np.array(places, np.int64)
        starts = np.flatnonzero(np.any(np.diff(self._places[:, :2], axis=0, prepend=-1), axis=1))
        numbers = np.searchsorted(starts, np.arange(len(examples)), side="right") - 1
        ends = np.append(starts[1:], len(examples))
        self._recordings = np.stack([starts[numbers], ends[numbers]], axis=1)  # of the examples of a recording
        self._open = functools.lru_cache(OPEN_SHARDS)(lambda shard: _File(self._shards[shard]))

    def __len__(self) -> int:
        return len(self.ids)

    def _table(self, labels: Iterable[Sequence[str]]) -> Float32[np.ndarray, "examples classes"]:
        """A table with 1 for each label of each example, else 0."""
        table = np.zeros((len(self), len(self.labels)), np.float32)
        place = {label: number for number, label in enumerate(self.labels)}
        for row, names in zip(table, labels, strict=True):
            row[[place[name] for name in names]] = 1
        return table

    def targets_in(self, row: int, start: int, samples: int) -> Float32[np.ndarray, " classes"]:
        """The labels of a crop around an example: its own, and those of parts that share half of the shorter with it.

        For an example that is a whole recording they are its `targets`.
        """
        first, end = self._recordings[row].tolist()
        if not self.timed or end - first == 1:
            return self.targets[row]
        parts = mark_overlaps(self.spans[first:end], start, min(start + samples, int(self.samples[row])))
        parts[row - first] = True
        return self._part_targets[first:end][parts].max(axis=0)

    def rows(
        self, column: str | None = None, values: Sequence[str] = (), *, held_out: bool
    ) -> Int[np.ndarray, " rows"]:
        """The examples whose `column` has one of `values` if `held_out`, else all other examples.

        Without a column no example is held out. Raises ValueError for a column that the dataset lacks, and for values
        that no example has.
        """
        mask = np.zeros(len(self), bool)
        if column is not None:
            if column not in self.columns:
                names = ", ".join(self.columns) or "none besides files and labels"
                raise ValueError(f"{self.folder} has no column {column}: it has {names}.")
            column_values = set(self.columns[column].tolist())
            if not values or not column_values.issuperset(values):
                names = ", ".join(sorted(column_values)[:20])
                raise ValueError(
                    f"{self.folder} has {names} in its column {column}, not {', '.join(map(str, values)) or 'nothing'}."
                )
            mask = np.isin(self.columns[column], list(values))
        return np.flatnonzero(mask == held_out)

    def read(self, row: int, start: int | None = None, samples: int | None = None) -> Float32[np.ndarray, " samples"]:
        """The wave of an example, as from `zoo.read`; or with `start` that of its recording from there on.

        `samples` is the length, by default up to the end. Raises ValueError for a corrupt record.
        """
        if start is None:
            first, end = self.spans[row].tolist()
            samples = end - first if samples is None else samples
        else:
            first = start
        remainder = max(0, int(self.samples[row]) - first)
        wave = np.empty((1, remainder if samples is None else min(samples, remainder)), np.float32)
        self.read_into(wave, row, [first])
        return wave[0]

    def read_into(
        self,
        waves: Int16[np.ndarray, "views samples"] | Float32[np.ndarray, "views samples"],
        row: int,
        starts: Sequence[int],
    ) -> list[int]:
        """Fills each of `waves` with its recording from one of `starts` on, and returns the numbers of valid samples.

        `waves` are float32, or of the dataset's `dtype`. Raises ValueError for a corrupt record.
        """
        shard, offset, size, audio = self._places[row].tolist()
        file = self._open(shard)
        try:
            if audio:  # a long recording, of which a crop reads a part
                flac = _Part(file, offset + audio, size - audio)
            else:
                record = os.pread(file.number, size, offset)
                if byte_feature(record, b"id") != self.ids[row].encode("utf-8", "surrogateescape"):
                    raise EOFError("it is another example's")
                flac = byte_feature(record, b"audio")
            ends = [start + waves.shape[1] for start in starts]
            lengths = [
                max(0, min(end, int(self.samples[row])) - start) for start, end in zip(starts, ends, strict=True)
            ]
            parts = [wave[:length] for wave, length in zip(waves, lengths, strict=True)]
            decode(flac, parts, starts, self._scales[row], int(self.samples[row]))
            return lengths
        except (soundfile.LibsndfileError, EOFError) as error:
            raise ValueError(
                f"{printable(self.ids[row])} cannot be read from {self._shards[shard]} ({error}): remove that shard "
                "and run audax-train prepare again."
            ) from None


def _index(shard: pathlib.Path) -> list[dict[str, Any]]:
    """The examples of a shard. Raises FileNotFoundError if it is missing, ValueError if its size is not the index's."""
    try:
        index = json.loads(shard.with_suffix(".json").read_text("utf-8"))
        size = shard.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename} is missing: run audax-train prepare again.") from None
    if size != index["bytes"]:
        raise ValueError(f"{shard} has {size} bytes instead of {index['bytes']}: run audax-train prepare again.")
    return index["examples"]


class _File:
    """A file that is open for `os.pread` as long as this object lives."""

    def __init__(self, path: pathlib.Path):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self):
        os.close(self.number)


class _Part(io.RawIOBase):
    """A range of bytes of an open file, as a file."""

    def __init__(self, file: _File, offset: int, size: int):
        self.file, self.offset, self.size, self.place = file, offset, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        content = os.pread(self.file.number, min(len(buffer), max(0, self.size - self.place)), self.offset + self.place)
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)
