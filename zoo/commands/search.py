"""`audax-zoo search`: `zoo.search` in the files of `audax-zoo embed`, and the formats of its output."""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Callable

import zoo

from .._rows import utf8
from ._shared import add_formats, one_line, positive

COLUMNS = ("file", "start", "end", "similarity")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `command` makes the parser of one."""
    searching = command(
        search,
        "find the rows of embeddings that are most similar to a recording or to words",
        "Rows are compared by the cosine of the embeddings and printed, the most similar first.",
    )
    searching.add_argument(
        "rows", type=pathlib.Path, metavar="OUT/", help="what embed wrote: a folder, an .npz or a .parquet"
    )
    searching.add_argument(
        "query",
        metavar="FILE|WORDS",
        help='a recording, or words such as "rain on a tent" for a model with words, such as CLAP',
    )
    searching.add_argument("-k", type=positive, default=20, help="how many rows (default: 20)")
    searching.add_argument(
        "--model",
        metavar="NAME",
        help="the model that made the rows, for single files (default: the model that OUT/ names)",
    )
    add_formats(searching)


def search(options: argparse.Namespace) -> int:
    clip = None if options.model is None else zoo.load(options.model)
    matches = zoo.search(options.rows, options.query, clip, k=options.k)
    {None: _show, ".csv": _csv, ".json": _json}[options.format](matches)
    return 0


def _show(matches: list[zoo.Match]) -> None:
    for match in matches:
        times = "" if match.start is None or match.end is None else f"{match.start:.1f} to {match.end:.1f} s"
        print(f"{match.similarity:6.3f}  {times:>18}  {one_line(utf8(match.file))}")


def _csv(matches: list[zoo.Match]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for match in matches:
        times = ("" if time is None else f"{time:.3f}" for time in (match.start, match.end))
        writer.writerow((utf8(match.file), *times, f"{match.similarity:.6f}"))


def _json(matches: list[zoo.Match]) -> None:
    for match in matches:
        times = (None if time is None else round(time, 3) for time in (match.start, match.end))
        values = (match.file, *times, round(match.similarity, 6))
        print(json.dumps(dict(zip(COLUMNS, values, strict=True))))
