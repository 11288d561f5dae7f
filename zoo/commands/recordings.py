"""`audax-zoo tag` and `embed`: `zoo.tag` and `zoo.embed` of files, and where the results go."""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

import zoo

from .._labels import rank
from .._rows import Part, import_parquet, utf8, write
from ._shared import (
    Progress,
    add_formats,
    add_recordings,
    add_words,
    check_labels,
    check_writable,
    count,
    engine,
    files_of,
    load_with_labels,
    mean,
    one_line,
    output,
    picture,
    positive,
    recordings,
)
from ._signals import signals


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands; `command` makes the parser of one."""
    windows = "Recordings are cut into windows of the model's native length, the last filled up with silence"
    tagging = command(tag, "name the sounds in files", f"{windows}; scores are averaged over them.")
    add_recordings(tagging, " (default: a packaged sound)")
    add_words(tagging)
    tagging.add_argument("-k", type=positive, default=5, help="how many labels (default: 5)")
    tagging.add_argument("--each", choices=("recording", "window"), default="recording", help="what gets labels")
    tagging.add_argument("-o", "--output", type=pathlib.Path, metavar="OUT.csv|OUT.json", help="default: the terminal")
    add_formats(tagging)
    tagging.add_argument(
        "--plot",
        type=pathlib.Path,
        metavar="OUT.png",
        help="draw the log-mel picture and the labels over time of one file",
    )

    embedding = command(
        embed,
        "write the embeddings of files",
        f"{windows}; a file's embedding is the mean over them. A folder is for a corpus: rows are written as they "
        "are ready, and after an interruption of any kind the same command goes on.",
    )
    add_recordings(embedding)
    embedding.add_argument("-o", "--output", required=True, metavar="OUT.npz|OUT.parquet|OUT/")
    embedding.add_argument(
        "--each", choices=("recording", "window", "frame"), default="recording", help="what gets an embedding"
    )
    embedding.add_argument("--frames", dest="each", action="store_const", const="frame", help="--each frame")


# tag ------------------------------------------------------------------------------------------------------------------


def tag(options: argparse.Namespace) -> int:
    suffix = options.output.suffix if options.output else options.format
    if suffix not in (None, ".csv", ".json", ".jsonl"):
        raise ValueError(f"tag writes .csv or .json, got {options.output.name!r}.")
    draw = picture(options)
    check_labels(options)
    files, clip = files_of(options), load_with_labels(options)
    progress = Progress(count(files), bar=options.output is not None)
    show = {None: _show_tags, ".csv": _tags_csv}.get(suffix, _tags_json)
    with output(options) as file:
        results = zoo.tag(clip, files, each=options.each, **engine(options))
        show(file, _read(progress.of(results)), clip, options)
    if draw is not None and progress.files > len(progress.failures):
        (result,) = zoo.tag(clip, files, each="window", **engine(options))
        scores = result.values.max(axis=0) if options.each == "window" else mean(result)
        draw(result, clip, [label for label, _ in rank(scores, clip.labels, options.k)])
    return progress.report()


def _read(results: Iterable[zoo.Result]) -> Iterator[zoo.Result]:
    """The results of the recordings that could be read."""
    return (result for result in results if result.error is None)


def _show_tags(file: TextIO, results: Iterable[zoo.Result], clip: zoo.Pretrained, options: argparse.Namespace) -> None:
    for result in results:
        print(one_line(result.source), file=file)
        for start, end, scores in zip(result.start, result.end, result.values, strict=True):
            if options.each == "window":
                print(f"  {start:.1f} to {end:.1f} s", file=file)
            indent = "  " if options.each == "recording" else "    "
            print(*(f"{indent}{score:.3f}  {label}" for label, score in rank(scores, clip.labels, options.k)),
                  sep="\n", file=file, flush=True)  # fmt: skip


def _tags_csv(file: TextIO, results: Iterable[zoo.Result], clip: zoo.Pretrained, options: argparse.Namespace) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("file", "start", "end", "label", "probability"))
    for result in results:
        for start, end, scores in zip(result.start, result.end, result.values, strict=True):
            for label, score in rank(scores, clip.labels, options.k):
                writer.writerow((utf8(result.source), f"{start:.3f}", f"{end:.3f}", label, f"{score:.6f}"))
        file.flush()


def _tags_json(file: TextIO, results: Iterable[zoo.Result], clip: zoo.Pretrained, options: argparse.Namespace) -> None:
    for result in results:
        for start, end, scores in zip(result.start, result.end, result.values, strict=True):
            times = {"start": round(start, 3), "end": round(end, 3)} if options.each == "window" else {}
            top = rank(scores, clip.labels, options.k)
            tags = [{"label": label, "probability": round(score, 6)} for label, score in top]
            row = {"file": result.source, "model": clip.entry.name, **times, "tags": tags}
            print(json.dumps(row), file=file, flush=True)


# embed ----------------------------------------------------------------------------------------------------------------


def embed(options: argparse.Namespace) -> int:
    path = pathlib.Path(options.output)
    slash, single = options.output.endswith(("/", os.sep)), path.suffix in (".npz", ".parquet")
    corpus = slash or not single
    if corpus and path.suffix and not slash and not path.is_dir():
        raise ValueError(
            f"embed writes .npz or .parquet, or the parts of a corpus into a folder, got {path.name!r}: end the name "
            "of a folder with /."
        )
    if path.suffix == ".parquet" or corpus:
        import_parquet()
    if not corpus:
        check_writable(path)
    elif path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder for a corpus.")
    files, clip = recordings(options), zoo.load(options.model)
    return (_embed_corpus if corpus else _embed_file)(options, path, files, clip)


def _embed_file(
    options: argparse.Namespace, path: pathlib.Path, files: list[str] | Iterator[str], clip: Pretrained
) -> int:
    progress = Progress(count(files))
    results = zoo.embed(clip, files, each=options.each, **engine(options))
    rows, width = write(path, (_part(result, clip, options) for result in _read(progress.of(results))))
    code = progress.report()
    if not rows:
        if signals.number:
            return code
        if not progress.files:
            print(f"audax-zoo: {path} is not written because this share or list has no recordings.", file=sys.stderr)
            return code
        raise ValueError(f"None of the files could be read: {path} is not written.")
    print(f"{path}: {rows} embeddings of width {width}")
    if signals.number:
        print(
            f"audax-zoo: {path} has the first {progress.files} recordings: write a folder, -o {path.stem}/, to "
            "go on after an interruption.",
            file=sys.stderr,
        )
    return code


def _embed_corpus(
    options: argparse.Namespace, folder: pathlib.Path, files: list[str] | Iterator[str], clip: Pretrained
) -> int:
    from .._corpus import fingerprint, opened  # needs JAX

    hop = options.hop or options.window or clip.entry.window
    note = {
        "model": clip.entry.name,
        "source": os.path.abspath(options.model) if os.path.isdir(options.model) else options.model,
        "weights": fingerprint(clip),
        **{name: getattr(options, name) for name in ("each", "channel", "precision")},
        "window": options.window or clip.entry.window,
        "hop": None if options.each == "frame" else hop,
    }
    zoo.embed(clip, (), each=options.each, **engine(options))  # checks the options before a folder is made
    with opened(folder, note, options.shard) as corpus:
        missing = corpus.missing(files)
        if isinstance(files, list):
            missing = list(missing)
        progress = Progress(count(missing))
        results = zoo.embed(clip, missing, each=options.each, **engine(options))
        corpus.write(
            _part(result, clip, options) if result.error is None else (result.source, result.error)
            for result in progress.of(results)
        )
        code = progress.report()
        new = progress.files - len(progress.failures)
        failures = f", {len(corpus.failures)} cannot be read ({corpus.failures_file})" if corpus.failures else ""
        print(f"{folder}: {corpus.repeats + new} recordings, {new} of them new{failures}")
    return code


def _part(result: zoo.Result, clip: zoo.Pretrained, options: argparse.Namespace) -> Part:
    columns = {"starts": result.start, "ends": result.end, "embeddings": result.values}
    if options.each == "frame":
        columns = {"times": clip.frame_times(len(result.values)), **columns}
    return Part(result.source, columns)
