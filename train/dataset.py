"""What `prepare` wrote, opened: an index in memory, and every example at random."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32, Float64, Int, Int16, Int64

from .example import byte_feature
from .records import VERSION
from .sounds import decode
from .text import shown

VERSIONS = (1, VERSION)
OPEN_SHARDS = 512  # half of what many systems let a process hold open


class Dataset:
    """A folder that `prepare` wrote: its index in memory, its audio on disk, read by any number of threads.

    `ids`, `samples` (lengths at `sample_rate` Hz), `targets` (1 at each of an example's `labels`, else 0) and `columns`
    (the manifest's others, as text) are in the order of the manifest; `digest` is one of all shards. `dtype` is that of
    batches: int16, or float32 where an example is kept in 24 bits. Raises
    FileNotFoundError for a folder that is not prepared or lacks a shard, and ValueError for a shard that is not what it
    was.
    """

    ids: list[str]
    samples: Int64[np.ndarray, " examples"]
    targets: Float32[np.ndarray, "examples classes"]
    columns: dict[str, np.ndarray]
    dtype: type[np.int16 | np.float32]

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        try:
            about = json.loads((self.folder / "dataset.json").read_text("utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.folder} has no dataset.json: prepare it first: audax-train prepare MANIFEST {self.folder}"
            ) from None
        except NotADirectoryError:
            raise FileNotFoundError(
                f"{self.folder} is a file, and data is a prepared folder: audax-train prepare {self.folder} DATA, then "
                "give DATA."
            ) from None
        if about["version"] not in VERSIONS:
            raise ValueError(
                f"{self.folder} is of version {about['version']}, this is audax-train for {VERSION}: prepare it again."
            )
        self.sample_rate: int = about["sample_rate"]
        self.labels: tuple[str, ...] = tuple(about["labels"])
        self.multilabel: bool = about["multilabel"]
        self.digest = hashlib.sha256(json.dumps(about["shards"]).encode()).hexdigest()
        self._shards = [self.folder / shard["file"] for shard in about["shards"]]
        indices = [_index(shard) for shard in self._shards]
        examples = [example for index in indices for example in index]
        self.ids = [example["id"] for example in examples]
        self.samples = np.array([example["samples"] for example in examples], np.int64)
        self.dtype = np.float32 if any("scale" in example for example in examples) else np.int16
        self._scales: Float64[np.ndarray, " examples"] = np.array([example.get("scale", 1.0) for example in examples])
        self.columns = {
            name: np.array([example["columns"][name] for example in examples], np.str_) for name in about["columns"]
        }
        self.targets = np.zeros((len(examples), len(self.labels)), np.float32)
        place = {label: number for number, label in enumerate(self.labels)}
        for target, example in zip(self.targets, examples, strict=True):
            target[[place[label] for label in example["labels"]]] = 1
        places = [(shard, each["offset"], each["size"]) for shard, index in enumerate(indices) for each in index]
        self._places = np.array(places, np.int64)
        self._open = functools.lru_cache(OPEN_SHARDS)(lambda shard: _File(self._shards[shard]))

    def __len__(self) -> int:
        return len(self.ids)

    def rows(
        self, column: str | None = None, values: Sequence[str] = (), *, held_out: bool
    ) -> Int[np.ndarray, " rows"]:
        """The examples whose `column` is one of `values`, if `held_out`, or all others. Without a column none is.

        Raises ValueError for a column that the dataset lacks, and for values that no example has.
        """
        chosen = np.zeros(len(self), bool)
        if column is not None:
            if column not in self.columns:
                there = ", ".join(self.columns) or "none besides files and labels"
                raise ValueError(f"{self.folder} has no column {column}: it has {there}.")
            there = set(self.columns[column].tolist())
            if not values or not there.issuperset(values):
                shown = ", ".join(sorted(there)[:20])
                raise ValueError(
                    f"{self.folder} has {shown} in its column {column}, not {', '.join(map(str, values)) or 'nothing'}."
                )
            chosen = np.isin(self.columns[column], list(values))
        return np.flatnonzero(chosen == held_out)

    def read(self, row: int, start: int = 0, samples: int | None = None) -> Float32[np.ndarray, " samples"]:
        """So many samples of an example from `start` on, or all there are, as `zoo.read` gives the file.

        Raises ValueError for a corrupt record.
        """
        left = max(0, int(self.samples[row]) - start)
        wave = np.empty((1, left if samples is None else min(samples, left)), np.float32)
        self.read_into(wave, row, [start])
        return wave[0]

    def read_into(
        self,
        waves: Int16[np.ndarray, "views samples"] | Float32[np.ndarray, "views samples"],
        row: int,
        starts: Sequence[int],
    ) -> list[int]:
        """Fills `waves` from each start on as far as the example goes, and returns the numbers of samples.

        They are float32, or of the dataset's `dtype`.
        """
        shard, offset, size = self._places[row].tolist()
        file = self._open(shard)
        record = os.pread(file.number, size, offset)
        try:
            if byte_feature(record, b"id") != self.ids[row].encode("utf-8", "surrogateescape"):
                raise EOFError("it is another example's")
            ends = [start + waves.shape[1] for start in starts]
            lengths = [
                max(0, min(end, int(self.samples[row])) - start) for start, end in zip(starts, ends, strict=True)
            ]
            parts = [wave[:length] for wave, length in zip(waves, lengths, strict=True)]
            decode(byte_feature(record, b"audio"), parts, starts, self._scales[row])
            return lengths
        except (soundfile.LibsndfileError, EOFError) as error:
            raise ValueError(
                f"{shown(self.ids[row])} cannot be read from {self._shards[shard]} ({error}): remove that shard and "
                "run audax-train prepare again."
            ) from None


def _index(shard: pathlib.Path) -> list[dict[str, Any]]:
    """The examples of a shard that is there and has the size that its index says."""
    try:
        index = json.loads(shard.with_suffix(".json").read_text("utf-8"))
        size = shard.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename} is missing: run audax-train prepare again.") from None
    if size != index["bytes"]:
        raise ValueError(f"{shard} has {size} bytes instead of {index['bytes']}: run audax-train prepare again.")
    return index["examples"]


class _File:
    """A file open for `os.pread`, until nobody holds it."""

    def __init__(self, path: pathlib.Path):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self):
        os.close(self.number)
