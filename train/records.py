"""A CSV manifest of sound files becomes sharded TFRecords of 16-bit FLAC, with an index that finds every example.

Beside each `shard-00000-of-00006.tfrecord` lies a `.json` that lists its examples and says, by being there, that the
shard is whole: a run that was killed goes on where it stopped. `dataset.json` comes last.
"""

import collections
import concurrent.futures
import contextlib
import csv
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
import tqdm

import zoo
from zoo._weights import atomic

from .lock import locked

VERSION = 1
DEEPER = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # than the 16 bits that are kept
HEADER, FOOTER = 12, 4  # bytes around a TFRecord's data: its length and checksums


class Row(NamedTuple):
    """A line of the manifest; `id` is the file's path as it stands there."""

    id: str
    path: str
    labels: list[str]
    columns: dict[str, str]


class Sound(NamedTuple):
    """A file as FLAC, with what 16 bits did to it: samples cut off at full scale, and whether the source was deeper."""

    flac: bytes
    samples: int
    clipped: int
    rounded: bool


def prepare(
    manifest: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sample_rate: int,
    delimiter: str = ",",
    label_delimiter: str = ";",
    shard_size: int = 512,
    processes: int | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Writes the manifest's files to the folder `out`, mono at `sample_rate` Hz, and returns what `dataset.json` says.

    The manifest has a column `files`, with paths relative to its own folder, and may have `labels`, several of them
    separated by `label_delimiter`, and any others, which are kept as text. A shard has `shard_size` of its rows, in
    order. `processes` read files, by default one for each core; the bytes written do not depend on them. Shards that an
    earlier run finished from the same rows and the same files are kept.

    Files that cannot be read are listed and left out; with `strict` they raise ValueError. So do a manifest without
    files and one where no file can be read. Raises FileNotFoundError without a manifest or `out`'s parent, and
    BlockingIOError where another process prepares `out`.
    """
    manifest, out = pathlib.Path(manifest), pathlib.Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )
    if sample_rate < 1 or shard_size < 1:
        raise ValueError(f"sample_rate {sample_rate} and shard_size {shard_size} must be 1 or more.")
    rows = read_manifest(manifest, delimiter, label_delimiter)
    shards = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    names = [f"shard-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
    signatures = [_signature(shard, sample_rate, shard_size, delimiter, label_delimiter) for shard in shards]
    out.mkdir(exist_ok=True)
    with locked(out):
        _tidy(out, names)
        indices = [_finished(out, *pair) for pair in zip(names, signatures, strict=True)]
        paths = [row.path for shard, index in zip(shards, indices, strict=True) if index is None for row in shard]
        with (
            contextlib.closing(_sounds(paths, sample_rate, processes or os.cpu_count() or 1)) as sounds,
            tqdm.tqdm(total=len(rows), initial=len(rows) - len(paths), unit="file") as progress,
        ):
            for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
                if indices[number] is None:
                    indices[number] = _write(out, name, shard, sounds, sample_rate, signatures[number], progress)
        return _finish(out, names, [index for index in indices if index is not None], sample_rate, strict)


def read_manifest(manifest: pathlib.Path, delimiter: str, label_delimiter: str) -> list[Row]:
    """The manifest's rows. Raises FileNotFoundError, and ValueError for one that names no files, or a file twice."""
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restval="", strict=True)
            names = list(reader.fieldnames or ())
            lines = list(reader)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{manifest} is not a file: give a CSV manifest with a column files.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{manifest} cannot be read as CSV ({error}): save it as CSV in UTF-8.") from None
    if "files" not in names:
        raise ValueError(
            f"{manifest} has the columns {', '.join(names) or 'none'} and needs one named files: name it so, or give "
            f"another delimiter than {delimiter!r}."
        )
    if not lines:
        raise ValueError(f"{manifest} has no rows: list at least one file.")
    rows = []
    for number, line in enumerate(lines, 1):
        if None in line or not line["files"]:
            fault = "more fields than the manifest has columns" if None in line else "no file"
            raise ValueError(f"{manifest} has {fault} in its row {number}: mend or remove it.")
        labels = (label.strip() for label in line.get("labels", "").split(label_delimiter))
        columns = {name: line[name] for name in names if name not in ("files", "labels")}
        path = str(manifest.parent / line["files"])
        rows.append(Row(line["files"], path, list(dict.fromkeys(filter(None, labels))), columns))
    twice = [name for name, count in collections.Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{manifest} lists {len(twice)} files more than once, {twice[0]} first: keep one row of each.")
    return rows


@functools.cache
def tensorflow():
    """TensorFlow, imported when it is needed, as that takes seconds, and kept off the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def _signature(rows: Sequence[Row], *settings: int | str) -> str:
    """What a shard is made from, as one number: it changes with a setting, a row, or the size or date of a file."""
    digest = hashlib.sha256(json.dumps([VERSION, *settings]).encode())
    for row in rows:
        try:
            status = os.stat(row.path)
            # Root aside, a file whose permissions have been mended is another one
            file = [status.st_size, status.st_mtime_ns, os.access(row.path, os.R_OK)]
        except OSError:
            file = None
        digest.update(json.dumps([row.id, row.labels, row.columns, file]).encode())
    return digest.hexdigest()


def _tidy(out: pathlib.Path, names: Sequence[str]) -> None:
    """Removes what killed runs and other manifests left, and `dataset.json`, which holds only when all is written."""
    for path in out.iterdir():
        temporary = re.fullmatch(r"\.(shard-\d+-of-\d+|dataset)\.\d+\.(tfrecord|json)", path.name)
        shard = re.fullmatch(r"shard-\d+-of-\d+\.(tfrecord|json)", path.name)
        if temporary or (shard and path.stem not in names) or path.name == "dataset.json":
            path.unlink()


def _finished(out: pathlib.Path, name: str, signature: str) -> dict[str, Any] | None:
    """The index of a shard that an earlier run finished from the same source, if there is one."""
    try:
        index = json.loads((out / f"{name}.json").read_text("utf-8"))
        size = os.path.getsize(out / f"{name}.tfrecord")
    except (FileNotFoundError, ValueError):
        return None
    return index if (index.get("signature"), index.get("bytes")) == (signature, size) else None


def _sounds(paths: Sequence[str], sample_rate: int, processes: int) -> Generator[Sound | str]:
    """The files in order, each as FLAC or as the reason why it cannot be read."""
    if processes == 1 or len(paths) < 2:
        yield from (_encode(path, sample_rate) for path in paths)
        return
    pool = concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    try:
        ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        for path in paths:
            ahead.append(pool.submit(_encode, path, sample_rate))
            if len(ahead) == 8 * processes:  # bounds the memory that waits to be written
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """A worker leaves interrupts to its parent, and ends with it: after a SIGKILL nobody else would tell it to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encode(path: str, sample_rate: int) -> Sound | str:
    try:
        wave = zoo.read(path, sample_rate)
        if not len(wave):
            raise ValueError(f"{path} holds no samples at {sample_rate} Hz.")
        # int16 files come as n / 32768: scaled by the same they come back bit by bit
        samples = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
        flac = io.BytesIO()
        soundfile.write(flac, samples, sample_rate, format="FLAC", subtype="PCM_16")
        clipped = int(np.sum(np.abs(wave) > 1))
        return Sound(flac.getvalue(), len(samples), clipped, soundfile.info(path).subtype in DEEPER)
    except (OSError, ValueError) as error:
        return str(error)


def _write(
    out: pathlib.Path,
    name: str,
    rows: Sequence[Row],
    sounds: Iterator[Sound | str],
    sample_rate: int,
    signature: str,
    progress: tqdm.tqdm,
) -> dict[str, Any]:
    """Writes one shard, then its index, which it returns."""
    examples, unreadable, end = [], [], 0
    clipped, rounded = {"files": 0, "samples": 0}, 0
    with atomic(out / f"{name}.tfrecord") as temporary:
        with tensorflow().io.TFRecordWriter(str(temporary)) as writer:
            for row in rows:
                sound = next(sounds)
                progress.update()
                if isinstance(sound, str):
                    unreadable.append({"id": row.id, "reason": sound})
                    continue
                data = _record(row, sound, sample_rate)
                writer.write(data)
                place = {"offset": end + HEADER, "size": len(data)}
                examples.append(
                    {"id": row.id, "labels": row.labels, "samples": sound.samples, **place, "columns": row.columns}
                )
                end += HEADER + len(data) + FOOTER
                clipped["files"] += sound.clipped > 0
                clipped["samples"] += sound.clipped
                rounded += sound.rounded
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = {"signature": signature, "sha256": digest, "bytes": end, "examples": examples, "unreadable": unreadable}
    index |= {"clipped": clipped, "rounded_to_16_bits": rounded}
    with atomic(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(index, ensure_ascii=False) + "\n", "utf-8")
    return index


def _record(row: Row, sound: Sound, sample_rate: int) -> bytes:
    """One `tf.train.Example`."""
    train = tensorflow().train

    def text(*values):
        encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
        return train.Feature(bytes_list=train.BytesList(value=encoded))

    def whole(value):
        return train.Feature(int64_list=train.Int64List(value=[value]))

    duration = train.Feature(float_list=train.FloatList(value=[sound.samples / sample_rate]))
    features = {"id": text(row.id), "audio": text(sound.flac), "labels": text(*row.labels)}
    features |= {"sample_rate": whole(sample_rate), "samples": whole(sound.samples), "duration": duration}
    features |= {f"column/{name}": text(value) for name, value in row.columns.items()}
    return train.Example(features=train.Features(feature=features)).SerializeToString(deterministic=True)


def _finish(
    out: pathlib.Path, names: Sequence[str], indices: Sequence[dict[str, Any]], sample_rate: int, strict: bool
) -> dict[str, Any]:
    """Sums the shards up on the terminal and in `dataset.json`, which is returned."""
    unreadable = [fault for index in indices for fault in index["unreadable"]]
    examples = [example for index in indices for example in index["examples"]]
    reasons = "".join(f"\n  {fault['id']}: {fault['reason']}" for fault in unreadable)
    if not examples or (strict and unreadable):
        raise ValueError(f"{len(unreadable)} of {len(examples) + len(unreadable)} files cannot be read:{reasons}")
    counts = collections.Counter(label for example in examples for label in example["labels"])
    numbers = all(re.fullmatch(r"[0-9]+", label) for label in counts)
    labels = sorted(counts, key=lambda label: (int(label) if numbers else 0, label))
    clipped = {name: sum(index["clipped"][name] for index in indices) for name in ("files", "samples")}
    seconds = sum(example["samples"] for example in examples) / sample_rate
    dataset = {
        "version": VERSION,
        "sample_rate": sample_rate,
        "labels": labels,
        "counts": {label: counts[label] for label in labels},
        "multilabel": any(len(example["labels"]) > 1 for example in examples),
        "columns": list(examples[0]["columns"]),
        "examples": len(examples),
        "seconds": seconds,
        "shards": [
            {"file": f"{name}.tfrecord", "examples": len(index["examples"]), "sha256": index["sha256"]}
            for name, index in zip(names, indices, strict=True)
        ],
        "unreadable": unreadable,
        "clipped": clipped,
        "rounded_to_16_bits": sum(index["rounded_to_16_bits"] for index in indices),
    }
    with atomic(out / "dataset.json") as temporary:
        temporary.write_text(json.dumps(dataset, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(f"{out}: {len(examples)} examples, {seconds / 3600:.2f} hours, {len(labels)} labels, {len(names)} shards")
    if clipped["files"]:
        print(f"{clipped['samples']} samples of {clipped['files']} files were beyond full scale and are cut off there.")
    if dataset["rounded_to_16_bits"]:
        print(f"{dataset['rounded_to_16_bits']} files had more than 16 bits and are rounded.")
    if unreadable:
        print(f"{len(unreadable)} files cannot be read and are left out:{reasons}", file=sys.stderr)
    return dataset
