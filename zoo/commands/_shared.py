"""Shared parts of the commands on recordings: options, the list of recordings, the progress bar, and the output."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TextIO, TypeVar

import numpy as np
import tqdm
from jaxtyping import Float

import zoo

from .._files import CONTROL
from .._models import DEFAULT
from .._search import Shard, sounds
from .._weights import atomic
from ._signals import signals

ENGINE = ("window", "hop", "channel", "batch", "workers", "precision")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text!r}")
    return int(text)


def _channel(text: str) -> Any:
    if text != "mean" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"takes 'mean' or the number of a channel, from 0 on, got {text!r}")
    return text if text == "mean" else int(text)


def _shard(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(count) > 0 and int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"takes a share and the number of shares, such as 0/8, got {text!r}")
    return Shard(int(index) % int(count), int(count))


def add_recordings(parser: argparse.ArgumentParser, default: str = "", hop: str = "a window") -> None:
    """Adds options for the recordings, the model and the engine."""
    parser.add_argument(
        "files", nargs="*", metavar="FILE|FOLDER", help=f"recordings, or folders with recordings{default}"
    )
    parser.add_argument(
        "--from",
        dest="list",
        metavar="LIST",
        help="a file of paths, one per line or separated by zero bytes; - is stdin",
    )
    hearing = add_hearing(parser, hop=hop)
    hearing.add_argument(
        "--shard",
        type=_shard,
        default=Shard(),
        metavar="I/N",
        help="a fixed share of the recordings, I from 0 to N - 1 or from 1 to N, by the hashes of their paths",
    )


def add_hearing(
    parser: argparse.ArgumentParser, model: str = DEFAULT, hop: str = "a window"
) -> argparse._ArgumentGroup:
    """Adds options for the model and the engine, and returns the engine's group."""
    parser.add_argument(
        "--model",
        default=model,
        metavar="NAME",
        help=f"a name of `audax-zoo list`, a folder or a Hub repo (default: {model})",
    )
    hearing = parser.add_argument_group("how recordings are read")
    hearing.add_argument("--window", type=float, metavar="SECONDS", help="default: the model's native length")
    hearing.add_argument("--hop", type=float, metavar="SECONDS", help=f"from window to window (default: {hop})")
    hearing.add_argument(
        "--channel", type=_channel, default="mean", help="mean, or a channel from 0 on (default: mean)"
    )
    hearing.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    hearing.add_argument("--batch", type=positive, metavar="N", help="windows at a time (default: what fits)")
    hearing.add_argument("--workers", type=positive, metavar="N", help="threads that decode (default: one per core)")
    return hearing


def engine(options: argparse.Namespace) -> dict[str, Any]:
    """The options for `zoo.embed` and similar functions. A recording that cannot be read does not stop the others."""
    return {name: getattr(options, name) for name in ENGINE} | {"errors": "keep"}


def recordings(options: argparse.Namespace) -> list[str] | Iterator[str]:
    """The paths of this share: a list, or an iterator if they come from stdin.

    Raises ValueError if no recordings are named, and FileNotFoundError if none of them exists.
    """
    share = options.shard.has
    files = [file for file in sounds(options.files) if share(file)] if options.files else []
    if options.list == "-":
        return itertools.chain(files, filter(share, _lines(sys.stdin.buffer)))
    if options.list is not None:
        with open(options.list, "rb") as file:
            files += [path for path in _lines(file) if share(path)]
    elif not options.files:
        raise ValueError("No recordings: name files or folders, or a list of them, --from LIST.")
    return files


def _lines(file: BinaryIO) -> Iterator[str]:
    """The paths of a list. If zero bytes separate them, as from `find -print0`, names may have several lines."""
    begin = getattr(file, "peek", lambda size: b"")(1 << 16)
    if begin.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    end = b"\0" if b"\0" in begin else b"\n"
    rest = b""
    while block := file.readline() if end == b"\n" else file.read(1 << 16):
        *paths, rest = (rest + block).split(end)
        yield from (os.fsdecode(path.removesuffix(b"\r") if end == b"\n" else path) for path in paths if path.strip())
    if rest.strip():
        yield os.fsdecode(rest)


Item = TypeVar("Item")


class Progress:
    """Passes results on, and keeps the failures. A bar shows the rate, the sound per minute and the time left.

    SIGINT and SIGTERM end the results, so that those so far can be written.
    """

    def __init__(self, total: int | None, bar: bool = True):
        self.bar = tqdm.tqdm(total=total, unit="file", disable=None if bar else True, smoothing=0.05)
        self.failures: list[str] = []
        self.files, self.seconds = 0, 0.0

    def of(self, items: Iterable[Item], result_of: Callable[[Any], zoo.Result] = lambda item: item) -> Iterator[Item]:
        """All items, also those of recordings that cannot be read. `result_of` returns the result of an item."""
        iterator = iter(items)
        with self.bar:
            while not signals.number:
                try:
                    signals.is_writing = False
                    item = next(iterator)
                except (StopIteration, KeyboardInterrupt):
                    return
                finally:
                    signals.is_writing = True
                self._count(result_of(item))
                yield item

    def _count(self, result: zoo.Result) -> None:
        self.files += 1
        self.seconds += result.duration
        if result.error is not None:
            name = os.fsdecode(result.source)
            self.failures.append(f"  {result.error if name in result.error else f'{name}: {result.error}'}")
        if (elapsed := self.bar.format_dict["elapsed"]) > 0:
            self.bar.set_postfix_str(f"{self.seconds / 60 / elapsed:.2g} h of sound/min", refresh=False)
        self.bar.update()

    def report(self) -> int:
        """Lists on stderr the recordings that could not be read, and returns the exit code."""
        if self.failures:
            first_failures = self.failures[:100]
            more = [f"  and {len(self.failures) - 100} more"] if len(self.failures) > 100 else []
            title = f"audax-zoo: {len(self.failures)} of {self.files} files could not be read:"
            print(title, *first_failures, *more, sep="\n", file=sys.stderr)
        if signals.number:
            print("audax-zoo: interrupted", file=sys.stderr)
            return 128 + signals.number
        return 1 if self.failures else 0


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Adds options for the printed format, as `format`."""
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--csv", dest="format", action="store_const", const=".csv", help="print CSV")
    formats.add_argument(
        "--json", dest="format", action="store_const", const=".json", help="print JSON, one object per line"
    )


def one_line(name: str) -> str:
    """A file's name for a line in the terminal: control characters, such as an end of line, are written as escapes."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], name)


def mean(result: zoo.Result) -> Float[np.ndarray, " width"]:
    """The mean over the rows, weighted by their seconds."""
    return np.average(result.values, axis=0, weights=result.end - result.start)


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds options for labels in words, for a model with words."""
    parser.add_argument(
        "--labels", metavar="LABEL,LABEL", help="labels in your own words, for a model with words such as clap_unfused"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="the text for each label of --labels (default: This is a sound of {}.)"
    )


def check_labels(options: argparse.Namespace) -> None:
    """Raises ValueError, before a download, for a model without classes, and for --labels if it has no words."""
    entry = zoo.info(options.model)
    if options.labels is None and options.prompt is not None:
        raise ValueError("--prompt makes texts of labels: give them too, --labels LABEL,LABEL.")
    if options.labels is not None and "text" not in entry.model:
        raise ValueError(f"{options.model} has no words, so it takes no --labels: use --model clap_unfused.")
    if options.labels is None and "text" in entry.model:
        raise ValueError(f"{options.model} has words instead of classes: give labels, --labels LABEL,LABEL.")
    if options.labels is None and not entry.classifies:
        raise ValueError(f"{options.model} has no classes and names no sounds: use it with audax-zoo embed.")


def load_with_labels(options: argparse.Namespace) -> zoo.Pretrained:
    """The model, with the labels of --labels if they are given."""
    clip = zoo.load(options.model)
    if options.labels is None:
        return clip
    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    if not labels:
        raise ValueError("--labels names no labels: give some with commas between them, --labels dog,rain,siren.")
    return clip.zero_shot(labels) if options.prompt is None else clip.zero_shot(labels, options.prompt)


def files_of(options: argparse.Namespace) -> list[str] | Iterator[str]:
    """The recordings, or the packaged sound; with --plot a single one. Raises as `recordings` does."""
    if not options.files and options.list is None:
        options.files = [str(zoo.example())]
    files = recordings(options)
    if options.plot is not None and not (isinstance(files, list) and len(files) == 1):
        raise ValueError(
            f"--plot draws one file, got {'a list' if count(files) is None else count(files)}: take them one by one."
        )
    return files


def count(files: list[str] | Iterator[str]) -> int | None:
    """The number of files; None if they come from stdin."""
    return len(files) if isinstance(files, list) else None


@contextlib.contextmanager
def output(options: argparse.Namespace) -> Iterator[TextIO]:
    """Standard output, or the file of -o, which appears when it is complete."""
    if options.output is None:
        yield sys.stdout
        return
    check_writable(options.output)
    with atomic(options.output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


def check_writable(path: pathlib.Path) -> None:
    """Raises OSError, before the work rather than after it, for a file that cannot be written."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {path.parent}: {error.strerror}.") from None


def picture(options: argparse.Namespace) -> Callable[..., None] | None:
    """The function that draws the picture of --plot; None without it. Raises its errors before the work starts."""
    path = options.plot
    if path is None:
        return None
    if len(options.files) > 1:
        raise ValueError(f"--plot draws one file, got {len(options.files)}: take them one by one.")
    if path.suffix != ".png":
        raise ValueError(f"--plot writes a .png, got {path.name!r}.")
    check_writable(path)
    try:
        from .._plot import plot  # matplotlib takes long to import
    except ModuleNotFoundError:
        raise ModuleNotFoundError('A picture needs matplotlib: pip install "audax-eqx[plot]".') from None

    def draw(result: zoo.Result, clip: zoo.Pretrained, labels: list[str], events: Iterable[zoo.Event] = ()) -> None:
        with atomic(path) as temporary:
            plot(temporary, result, clip, labels, events, options.channel)

    return draw
