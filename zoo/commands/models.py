"""`audax-zoo list`, `info`, `convert`, `publish` and `verify`: commands on models."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import tqdm

import zoo

from .._source import source_of
from ._shared import positive


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands; `command` makes the parser of one."""
    listing = command(list_, "print a table of the models")
    listing.add_argument("pattern", nargs="?", default="*", help="a shell pattern, '*audioset*'")
    about = command(info, "print the facts about a model")
    about.add_argument("name", metavar="NAME")

    conversion = command(
        convert,
        "convert a file of weights, of torch, safetensors or audax, to a model's folder",
        "The model is recognised by its arrays, and nothing in the file runs. The options give what no array shows.",
    )
    conversion.add_argument(
        "source", type=pathlib.Path, metavar="SRC", help="Cnn14_mAP=0.431.pth or path/to/checkpoint_123"
    )
    conversion.add_argument("folder", type=pathlib.Path, metavar="DST", help="the folder to write, for zoo.load")
    conversion.add_argument("--sample-rate", type=positive, metavar="HZ", help="default: the family's")
    conversion.add_argument("--window", type=float, metavar="SECONDS", help="the native length (default: the family's)")
    conversion.add_argument("--labels", type=pathlib.Path, metavar="FILE", help="the labels, UTF-8, one per line")
    conversion.add_argument("--task", choices=("multiclass", "multilabel"), help="default: multilabel for 527 labels")
    conversion.add_argument(
        "--model",
        choices=("COLA", "SimCLR"),
        help="the model of audax: COLA with the dot product and SimCLR have the same arrays (default: COLA)",
    )

    publication = command(
        publish,
        "upload a model to the Hub",
        "The files become one commit, unless the repo has them already. HF_TOKEN or `hf auth login` gives the token.",
    )
    publication.add_argument("name", metavar="FOLDER|NAME", help="what zoo.save wrote, or any name that loads")
    publication.add_argument("repo", metavar="USER/NAME", help="created if it does not exist")
    publication.add_argument("--private", action="store_true", help="create it as a private repo")
    publication.add_argument("--revision", metavar="R", help="the branch, created if it does not exist")
    publication.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        help="the type of the weights (default: that of a folder that zoo.save wrote, float32 for other models)",
    )
    publication.add_argument(
        "--layout",
        choices=("audax", "transformers"),
        help="the layout of the files (default: that of a folder that zoo.save wrote, audax for other models)",
    )
    publication.add_argument(
        "--exports",
        type=_formats,
        default=(),
        metavar="FORMAT,FORMAT",
        help="also upload the model as one file for other programs: stablehlo, onnx or both",
    )
    publication.add_argument("--dry-run", action="store_true", help="print the files and their sizes, and send nothing")

    verification = command(
        verify,
        "check that models still match their entries",
        "For a model on the Hub: its repo, its labels, its licence, and the names and shapes of its arrays, without a "
        "download of them. For a folder or a packaged model: its golden output. The exit code is 1 if a check fails.",
    )
    verification.add_argument(
        "names", nargs="*", metavar="NAME", help="names of `audax-zoo list`, folders or Hub repos (default: all names)"
    )
    verification.add_argument(
        "--full",
        action="store_true",
        help="also fetch and run the models, and compare their outputs with the known ones",
    )


def list_(options: argparse.Namespace) -> int:
    rows = [("name", "task", "classes", "Hz", "window", "license", "metric")]
    for name in zoo.list_models(options.pattern):
        entry = zoo.info(name)
        sizes = str(entry.classes), str(entry.sample_rate), f"{entry.window:g} s"
        rows.append((name, entry.task, *sizes, entry.license or "", _metrics(entry)))
    _table(rows)
    return 0


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def info(options: argparse.Namespace) -> int:
    entry = zoo.info(options.name)
    for key, value in dataclasses.asdict(entry).items():
        if key == "labels":
            value = ", ".join(value)
            if not value and entry.classifies and (checkpoint := entry.checkpoint) and checkpoint.label_file:
                value = f"in {checkpoint.label_file} of {checkpoint.label_repo or checkpoint.repo}"
            elif not value and any(each["dataset"] == "ImageNet-1k" for each in entry.metrics):
                value = "none, because the classes are ImageNet's, which name no sounds"
        elif isinstance(value, dict):
            value = ", ".join(f"{option}={setting}" for option, setting in value.items())
        elif key == "metrics":
            value = _metrics(entry)
        if value not in (None, "", ()):
            print(f"{key + ':':12}{value}")
    return 0


def _metrics(entry: zoo.Entry) -> str:
    return "; ".join(f"{each['dataset']} {each['metric']} {each['value']} ({each['source']})" for each in entry.metrics)


def convert(options: argparse.Namespace) -> int:
    labels = [] if options.labels is None else options.labels.read_text(encoding="utf-8").splitlines()
    settings = {name: getattr(options, name) for name in ("sample_rate", "window", "task", "model")}
    folder = zoo.convert(options.source, options.folder, labels=labels, **settings)
    entry = zoo.info(folder)
    parts = (entry.frontend["type"], entry.network["type"], entry.model["type"])
    print(f"{folder}: {', '.join(parts)}" + (f" with {entry.classes} classes" if entry.classes else ""))
    return 0


def publish(options: argparse.Namespace) -> int:
    from .._publish import republish  # needs JAX

    names = ("private", "revision", "dtype", "layout", "exports", "dry_run")
    settings = {name: getattr(options, name) for name in names}
    print(republish(options.name, options.repo, **settings))
    return 0


def _formats(text: str) -> tuple[str, ...]:
    """The formats of --exports, which `publish` checks."""
    return tuple(format.strip() for format in text.split(","))


def verify(options: argparse.Namespace) -> int:
    from .._verify import verify as verify_model  # needs JAX

    names = options.names or zoo.list_models()
    for name in names:
        source_of(name)  # an unknown name is an error before any download
    reports = [verify_model(name, full=options.full) for name in tqdm.tqdm(names, unit="model", disable=None)]
    rows = [(each.name, each.repo, ", ".join(each.checks) or "-", each.result) for each in reports]
    _table([("name", "repo", "checked", "result"), *rows])
    return 1 if any(each.fault for each in reports) else 0
