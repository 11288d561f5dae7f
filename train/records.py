"""A CSV manifest of sound files becomes sharded TFRecords of FLAC, with an index that finds every example.

Beside each `shard-00000-of-00006.tfrecord` lies a `.json` that lists its examples and says, by being there, that the
shard is whole: a run that was killed goes on where it stopped. `dataset.json` comes last.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import json
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

from .manifest import Row, read_manifest
from .sounds import Sound, encode
from .text import counted, shown

VERSION = 2  # 1 had no sounds in 24 bits
HEADER, FOOTER = 12, 4  # bytes around a TFRecord's data: its length and checksums


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
) -> dict[str, Any]:
    """Writes the manifest's files to the folder `out`, mono at `sample_rate` Hz, and returns what `dataset.json` says.

    The manifest has a column `files`, with paths relative to its own folder, and `labels`, several of them separated by
    `label_delimiter`, unless clips without labels are wanted, `unlabelled`; all other columns are kept as text. A shard
    has `shard_size` of its rows, in order. `processes` read files, by default one for each core; the bytes written do
    not depend on them. Shards that an earlier run finished from the same rows and the same files are kept.

    Files that cannot be read are listed and left out; with `strict` they raise ValueError. So do a manifest that
    `read_manifest` refuses and one where no file can be read. Raises FileNotFoundError without a manifest or `out`'s
    parent, and BlockingIOError where another process prepares `out`.
    """
    manifest, out = pathlib.Path(manifest), pathlib.Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )
    if sample_rate < 1 or shard_size < 1:
        raise ValueError(f"sample_rate {sample_rate} and shard_size {shard_size} must be 1 or more.")
    rows = read_manifest(manifest, delimiter, label_delimiter, unlabelled=unlabelled)
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


@functools.cache
def tensorflow():
    """TensorFlow, imported when it is needed, as that takes seconds, and kept off the accelerators, which are JAX's.

    It says nothing about drivers that are missing there, unless TF_CPP_MIN_LOG_LEVEL asks for it: 0 for all.
    """
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if level == "1" else level  # JAX sets 1
    with contextlib.nullcontext() if level == "0" else _quiet():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
    return tf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps C++'s remarks on missing drivers off the terminal; TensorFlow writes its first whatever its level is.

    Shown all the same when the import fails.
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
        temporary = re.fullmatch(r"\.(shard-\d+-of-\d+|dataset)\.\d+(-\d+)?\.(tfrecord|json)", path.name)
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
        yield from (encode(path, sample_rate) for path in paths)
        return
    pool = concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    try:
        ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        for path in paths:
            ahead.append(pool.submit(encode, path, sample_rate))
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
    clipped, counts = {"files": 0, "samples": 0}, collections.Counter()
    with atomic(out / f"{name}.tfrecord") as temporary:
        with tensorflow().io.TFRecordWriter(os.fsencode(temporary)) as writer:  # pyright: ignore[reportArgumentType]
            for row in rows:
                sound = next(sounds)
                progress.update()
                if isinstance(sound, str):
                    unreadable.append({"id": row.id, "reason": sound})
                    continue
                data = _record(row, sound, sample_rate)
                writer.write(data)
                example = {"id": row.id, "labels": row.labels, "samples": sound.samples}
                example |= {} if sound.scale is None else {"scale": sound.scale}
                place = {"offset": end + HEADER, "size": len(data)}
                examples.append(example | place | {"columns": row.columns})
                end += HEADER + len(data) + FOOTER
                clipped["files"] += sound.clipped > 0
                clipped["samples"] += sound.clipped
                counts["rounded"] += sound.rounded
                counts["beyond"] += sound.beyond
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = {"signature": signature, "sha256": digest, "bytes": end, "examples": examples, "unreadable": unreadable}
    index |= {"clipped": clipped, "rounded_to_16_bits": counts["rounded"], "beyond_full_scale": counts["beyond"]}
    _write_json(out / f"{name}.json", index, None)
    return index


def _record(row: Row, sound: Sound, sample_rate: int) -> bytes:
    """One `tf.train.Example`."""
    train = tensorflow().train

    def text(*values):
        encoded = [value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape") for value in values]
        return train.Feature(bytes_list=train.BytesList(value=encoded))

    def whole(value):
        return train.Feature(int64_list=train.Int64List(value=[value]))

    def real(value):
        return train.Feature(float_list=train.FloatList(value=[value]))

    features = {"id": text(row.id), "audio": text(sound.flac), "labels": text(*row.labels)}
    features |= {"sample_rate": whole(sample_rate), "samples": whole(sound.samples)}
    features |= {"duration": real(sound.samples / sample_rate)}
    features |= {} if sound.scale is None else {"scale": real(sound.scale)}
    features |= {f"column/{name}": text(value) for name, value in row.columns.items()}
    return train.Example(features=train.Features(feature=features)).SerializeToString(deterministic=True)


def _finish(
    out: pathlib.Path, names: Sequence[str], indices: Sequence[dict[str, Any]], sample_rate: int, strict: bool
) -> dict[str, Any]:
    """Sums the shards up on the terminal and in `dataset.json`, which is returned."""
    unreadable = [fault for index in indices for fault in index["unreadable"]]
    examples = [example for index in indices for example in index["examples"]]
    reasons = "".join(f"\n  {shown(fault['id'])}: {shown(fault['reason'])}" for fault in unreadable)
    if not examples or (strict and unreadable):
        files = counted(len(examples) + len(unreadable), "file")
        raise ValueError(f"{len(unreadable)} of {files} cannot be read:{reasons}")
    counts = collections.Counter(label for example in examples for label in example["labels"])
    numbers = all(re.fullmatch(r"[0-9]+", label) for label in counts)
    labels = sorted(counts, key=lambda label: (int(label) if numbers else 0, label))
    dataset = {
        "version": VERSION,
        "sample_rate": sample_rate,
        "labels": labels,
        "counts": {label: counts[label] for label in labels},
        "without_labels": sum(not example["labels"] for example in examples),
        "multilabel": any(len(example["labels"]) > 1 for example in examples),
        "columns": list(examples[0]["columns"]),
        "examples": len(examples),
        "seconds": sum(example["samples"] for example in examples) / sample_rate,
        "shards": [
            {"file": f"{name}.tfrecord", "examples": len(index["examples"]), "sha256": index["sha256"]}
            for name, index in zip(names, indices, strict=True)
        ],
        "unreadable": unreadable,
        "clipped": {name: sum(index["clipped"][name] for index in indices) for name in ("files", "samples")},
        "rounded_to_16_bits": sum(index["rounded_to_16_bits"] for index in indices),
        "kept_in_24_bits": sum("scale" in example for example in examples),
        "beyond_full_scale": sum(index["beyond_full_scale"] for index in indices),
    }
    _write_json(out / "dataset.json", dataset, 1)
    print("\n".join(_summary(out, dataset)))
    if unreadable:
        verb = "cannot be read and is" if len(unreadable) == 1 else "cannot be read and are"
        print(f"{counted(len(unreadable), 'file')} {verb} left out:{reasons}", file=sys.stderr)
    return dataset


def _summary(out: pathlib.Path, dataset: dict[str, Any]) -> Iterator[str]:
    """What there is, and what was done to it."""
    parts = [counted(dataset["examples"], "example"), f"{dataset['seconds'] / 3600:.2f} hours"]
    parts += [counted(len(dataset[name]), name[:-1]) for name in ("labels", "shards")]
    yield f"{out}: {', '.join(parts)}"
    if dataset["labels"] and dataset["without_labels"]:
        yield f"Without a label: {counted(dataset['without_labels'], 'file')}."
    for separator in ",|":
        if sum(separator in label for label in dataset["labels"]) > len(dataset["labels"]) / 2:
            yield f"Most labels hold {separator!r}: give --label-delimiter {separator!r} if it separates labels."
    if dataset["clipped"]["files"]:
        samples, files = (counted(dataset["clipped"][f"{noun}s"], noun) for noun in ("sample", "file"))
        yield f"Beyond full scale and cut off there: {samples} of {files}."
    if dataset["beyond_full_scale"]:
        yield f"Far beyond full scale, and kept so: {counted(dataset['beyond_full_scale'], 'file')}."
    if dataset["kept_in_24_bits"]:
        yield f"Kept in 24 bits, as 16 would lose too much: {counted(dataset['kept_in_24_bits'], 'file')}."
    if dataset["rounded_to_16_bits"]:
        yield f"Rounded to 16 bits: {counted(dataset['rounded_to_16_bits'], 'file')}."


def _write_json(path: pathlib.Path, value: Any, indent: int | None) -> None:
    """Half a character, which stands for a byte that is no UTF-8, becomes JSON's escape for it."""
    with atomic(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=indent) + "\n"
        temporary.write_text(text, "utf-8", "backslashreplace")
