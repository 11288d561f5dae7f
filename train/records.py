"""A CSV manifest of sound files becomes sharded TFRecords of FLAC, with an index that finds every example.

A recording is one record. The index lists an example for each part of it that has labels. Beside each
`shard-00000-of-00006.tfrecord` lies a `.json` with its examples, which is written once the shard is whole, so that a
run that was killed continues where it stopped. `dataset.json` is written last.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import tqdm

from zoo.tools import atomic, locked

from .annotations import annotated_recordings
from .events import Negatives, Recording, place, recordings
from .manifest import read_manifest
from .sounds import Sound, encode
from .summary import VERSION, finish, write_json

LARGE = 1 << 20  # bytes of a record from which on a crop reads a part of it
HEADER, FOOTER = 12, 4  # bytes around the data of a TFRecord: its length and checksums


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
    unlabelled: bool = False,
    annotations: str | os.PathLike | None = None,
    label_column: str | None = None,
    negatives: float = 0.0,
    negative_label: str | None = None,
) -> dict[str, Any]:
    """Writes the manifest's files to the folder `out`, mono at `sample_rate` Hz, and returns the content of its
    `dataset.json`.

    - `manifest`: a CSV with a column `files`, whose paths are relative to the folder of the manifest, a column
      `labels`, and any other columns, which are stored as text. With columns `start` and `end`, in seconds, a row
      labels that part of its file, and a file may have many rows.
    - `delimiter`, `label_delimiter`: the characters between columns, and between the labels of a clip.
    - `shard_size`: the number of files in a shard. Shards that an earlier run finished from the same rows and files
      stay as they are.
    - `processes`: the number of processes that read files, by default one for each core. The bytes that are written do
      not depend on it.
    - `strict`: raises ValueError for a file that cannot be read, and for a part that starts behind the end of its
      file. Without it both are listed and left out.
    - `unlabelled`: accepts a manifest without labels.
    - `annotations`: a file or folder with selection tables of Raven or label files of Audacity. The manifest then has
      no labels, or is the folder of the recordings. `label_column` names the column of Raven's tables with the labels.
    - `negatives`: the length in seconds of examples that are cut from the unlabelled time of recordings with parts or
      with empty annotations; 0 for none. They have no label, or `negative_label`.

    Raises ValueError for a manifest that `read_manifest` refuses and if no file can be read, FileNotFoundError without
    the manifest or the parent of `out`, and BlockingIOError while another process prepares `out`.
    """
    manifest, out = pathlib.Path(manifest), pathlib.Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )
    if sample_rate < 1 or shard_size < 1:
        raise ValueError(f"sample_rate {sample_rate} and shard_size {shard_size} must be 1 or more.")
    pieces = _negatives(negatives, negative_label, sample_rate)
    if annotations is None:
        files = recordings(read_manifest(manifest, delimiter, label_delimiter, unlabelled=unlabelled))
    else:
        files = annotated_recordings(manifest, pathlib.Path(annotations), delimiter, label_delimiter, label_column)
    files = [file for file in files if file.rows or pieces.seconds]
    shards = [files[start : start + shard_size] for start in range(0, len(files), shard_size)]
    names = [f"shard-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
    settings = (sample_rate, shard_size, delimiter, label_delimiter, *(pieces if pieces.seconds else ()))
    signatures = [_signature(shard, *settings) for shard in shards]
    out.mkdir(exist_ok=True)
    with locked(out):
        _tidy(out, names)
        indices = [_finished_index(out, *pair) for pair in zip(names, signatures, strict=True)]
        paths = [file.path for shard, index in zip(shards, indices, strict=True) if index is None for file in shard]
        with (
            contextlib.closing(_sounds(paths, sample_rate, processes or os.cpu_count() or 1)) as sounds,
            tqdm.tqdm(total=len(files), initial=len(files) - len(paths), unit="file") as progress,
        ):
            for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
                if indices[number] is None:
                    progress_of = (signatures[number], progress)
                    indices[number] = _write(out, name, shard, sounds, sample_rate, pieces, *progress_of)
        return finish(out, names, [index for index in indices if index is not None], sample_rate, strict)


def _negatives(seconds: float, label: str | None, sample_rate: int) -> Negatives:
    """The negatives of these options. Raises ValueError for a length that is too short, and for a label without one."""
    if not (seconds == 0 or 1 / sample_rate <= seconds < math.inf):
        raise ValueError(
            f"negatives are of some seconds each, or 0 for none, got {seconds}: give the length of a crop."
        )
    if label is not None and not (seconds and label.strip()):
        raise ValueError(f"negatives of {seconds:g} s cannot have the label {label!r}: give --negatives and a name.")
    return Negatives(seconds, None if label is None else label.strip())


@functools.cache
def tensorflow():
    """Imports TensorFlow on demand, because that takes seconds, and hides the accelerators from it, which JAX uses.

    Its remarks on missing drivers are suppressed unless TF_CPP_MIN_LOG_LEVEL is 0.
    """
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if level == "1" else level  # JAX sets 1
    with contextlib.nullcontext() if level == "0" else _quiet():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
    return tf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps remarks of C++ on missing drivers off the terminal, unless the block raises.

    TensorFlow writes the first of them at any level of its log.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as remarks:
        terminal = os.dup(2)
        os.dup2(remarks.fileno(), 2)
        try:
            yield
        except Exception:
            remarks.seek(0)
            os.write(terminal, remarks.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _signature(files: Sequence[Recording], *settings: int | float | str | None) -> str:
    """A hash of the source of a shard, which changes with a setting, a row, or the size or date of a file."""
    digest = hashlib.sha256(json.dumps([VERSION, *settings]).encode())
    for recording in files:
        try:
            status = os.stat(recording.path)
            # Other permissions count as another file, because it may have become readable
            file = [status.st_size, status.st_mtime_ns, os.access(recording.path, os.R_OK)]
        except OSError:
            file = None
        for row in recording.rows:
            times = [] if row.start is None else [row.start, row.end]
            digest.update(json.dumps([row.id, row.labels, row.columns, *times, file]).encode())
        if not recording.rows:
            digest.update(json.dumps([recording.id, recording.columns, file]).encode())
    return digest.hexdigest()


def _tidy(out: pathlib.Path, names: Sequence[str]) -> None:
    """Removes the remains of killed runs and other manifests, and `dataset.json`, which is written again at the end."""
    for path in out.iterdir():
        temporary = re.fullmatch(r"\.(shard-\d+-of-\d+|dataset)\.\d+(-\d+)?\.(tfrecord|json)", path.name)
        shard = re.fullmatch(r"shard-\d+-of-\d+\.(tfrecord|json)", path.name)
        if temporary or (shard and path.stem not in names) or path.name == "dataset.json":
            path.unlink()


def _finished_index(out: pathlib.Path, name: str, signature: str) -> dict[str, Any] | None:
    """The index of a shard that an earlier run finished from the same source, None without one."""
    try:
        index = json.loads((out / f"{name}.json").read_text("utf-8"))
        size = os.path.getsize(out / f"{name}.tfrecord")
    except (FileNotFoundError, ValueError):
        return None
    return index if (index.get("signature"), index.get("bytes")) == (signature, size) else None


def _sounds(paths: Sequence[str], sample_rate: int, processes: int) -> Generator[Sound | str]:
    """The files in order, each as FLAC or as the reason why it cannot be read."""
    if processes == 1 or len(paths) < 2:
        yield from (encode(path, sample_rate) for path in paths)
        return
    pool = concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    try:
        queue: collections.deque[concurrent.futures.Future] = collections.deque()
        for path in paths:
            queue.append(pool.submit(encode, path, sample_rate))
            if len(queue) == 8 * processes:  # bounds the memory of sounds that wait to be written
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Makes a worker ignore interrupts, which are its parent's, and end with its parent, even after a SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(
    out: pathlib.Path,
    name: str,
    files: Sequence[Recording],
    sounds: Iterator[Sound | str],
    sample_rate: int,
    negatives: Negatives,
    signature: str,
    progress: tqdm.tqdm,
) -> dict[str, Any]:
    """Writes one shard and its index, and returns the index."""
    examples, faults, end = [], [], 0
    clips, counts = {"files": 0, "samples": 0}, collections.Counter()
    with atomic(out / f"{name}.tfrecord") as temporary:
        with tensorflow().io.TFRecordWriter(os.fsencode(temporary)) as writer:  # pyright: ignore[reportArgumentType]
            for recording in files:
                sound = next(sounds)
                progress.update()
                if isinstance(sound, str):
                    faults.append({"id": recording.id, "reason": sound})
                    continue
                parts, part_faults, cuts = place(recording, sound.samples, sample_rate, negatives)
                faults += part_faults
                if not parts:
                    continue
                data = _record(parts, sound, sample_rate)
                writer.write(data)
                common = {} if sound.scale is None else {"scale": sound.scale}
                common |= {"offset": end + HEADER, "size": len(data)}
                if len(data) >= LARGE:
                    common["audio"] = data.index(sound.flac)
                for part in parts:
                    columns = part.pop("columns")
                    examples.append(part | common | {"columns": columns})
                counts["cut"] += cuts
                end += HEADER + len(data) + FOOTER
                clips["files"] += sound.clipped > 0
                clips["samples"] += sound.clipped
                counts["rounded"] += sound.rounded
                counts["beyond"] += sound.beyond
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = {"signature": signature, "sha256": digest, "bytes": end, "examples": examples, "unreadable": faults}
    index |= {"clipped": clips, "rounded_to_16_bits": counts["rounded"], "beyond_full_scale": counts["beyond"]}
    index["cut"] = counts["cut"]
    write_json(out / f"{name}.json", index, None)
    return index


def _record(parts: Sequence[dict[str, Any]], sound: Sound, sample_rate: int) -> bytes:
    """One `tf.train.Example`: the recording with its labels and columns.

    The labels of parts are parallel lists with an element for each label of each part, in order: the label, "" for a
    part without one, the columns, and start and end in seconds.
    """
    train = tensorflow().train

    def text(*values):
        texts = [value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape") for value in values]
        return train.Feature(bytes_list=train.BytesList(value=texts))

    def integer(value):
        return train.Feature(int64_list=train.Int64List(value=[value]))

    def real(*values):
        return train.Feature(float_list=train.FloatList(value=values))

    example = parts[0]  # all parts have the same fields
    labels, rows = example["labels"], [example]
    if "start" in example:
        labels, rows = zip(*((label, part) for part in parts for label in part["labels"] or [""]), strict=True)
    features = {"id": text(example["id"]), "audio": text(sound.flac), "labels": text(*labels)}
    features |= {"sample_rate": integer(sample_rate), "samples": integer(sound.samples)}
    features |= {"duration": real(sound.samples / sample_rate)}
    features |= {} if sound.scale is None else {"scale": real(sound.scale)}
    features |= {f"column/{name}": text(*(part["columns"][name] for part in rows)) for name in example["columns"]}
    if "start" in example:
        features |= {name: real(*(part[name] / sample_rate for part in rows)) for name in ("start", "end")}
    return train.Example(features=train.Features(feature=features)).SerializeToString(deterministic=True)
