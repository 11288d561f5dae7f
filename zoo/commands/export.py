"""`audax-zoo export`: `zoo.export` of any model that loads."""

import argparse
import pathlib
from collections.abc import Callable

import zoo

from ._shared import check_writable, positive


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `command` makes the parser of one."""
    exporting = command(
        export,
        "write a model as one file that runs without this package",
        "StableHLO runs with jax, ONNX in its runtimes. The input is waves, the output scores or embeddings.",
    )
    exporting.add_argument("name", metavar="NAME", help="a name of `audax-zoo list`, a folder or a Hub repo")
    exporting.add_argument("path", type=pathlib.Path, metavar="OUT.stablehlo|OUT.onnx", help="the file to write")
    exporting.add_argument(
        "--values",
        choices=("scores", "logits", "embedding", "frames"),
        help="the output (default: scores of a classifier, embedding of other models)",
    )
    exporting.add_argument(
        "--window", type=float, metavar="SECONDS", help="the length of the waves (default: the native length)"
    )
    exporting.add_argument(
        "--batch", type=positive, metavar="N", help="waves at a time (default: any number, in ONNX one)"
    )


def export(options: argparse.Namespace) -> int:
    check_writable(options.path)
    settings = {name: getattr(options, name) for name in ("values", "window", "batch")}
    zoo.export(zoo.load(options.name), options.path, **settings)
    print(f"{options.path}: {options.path.stat().st_size:,} bytes")
    return 0
