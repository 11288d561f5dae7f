"""`audax-train RECIPE DATA OUT`: cross-validates a recipe over a manifest's folds, trains it on all clips, saves it.

DATA is a folder with a `manifest.csv` of `files,labels,fold`, the files relative to it. OUT is a model's folder for
`zoo.load`. Everything is seeded.
"""

import argparse
import csv
import dataclasses
import importlib
import pathlib
import pkgutil
import sys
from collections.abc import Sequence

import numpy as np

import zoo

try:
    from . import loop, recipes
except ModuleNotFoundError as missing:
    raise SystemExit(f'audax-train needs {missing.name}: pip install "audax-eqx[train]"') from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one recipe and returns the exit code: 0, or 2 with a sentence for what cannot be done."""
    names = [module.name for module in pkgutil.iter_modules(recipes.__path__)]
    parser = argparse.ArgumentParser(prog="audax-train", description="Trains a recipe and saves the model.")
    parser.add_argument("recipe", choices=names)
    parser.add_argument("data", type=pathlib.Path, help="a folder with manifest.csv (files,labels,fold)")
    parser.add_argument("out", type=pathlib.Path, help="the model's folder")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    options = parser.parse_args(arguments)
    recipe = importlib.import_module(f"{recipes.__name__}.{options.recipe}").recipe
    if options.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=options.epochs, warmup=min(recipe.warmup, options.epochs // 2))
    try:
        run(recipe, options.data, options.out)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"audax-train: {error}", file=sys.stderr)
        return 2
    return 0


def run(recipe: loop.Recipe, data: pathlib.Path, out: pathlib.Path) -> None:
    """Cross-validation, the final model, and its folder, in float16 and with the accuracy in its entry."""
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )
    waves, classes, folds, labels = read_manifest(recipe, data)
    scores = loop.cross_validate(recipe, waves, classes, folds)
    value = round(float(np.mean(list(scores.values()))), 4)
    spread = ", ".join(f"{score:.3f}" for score in scores.values())
    source = f"this project: mean over {len(scores)} folds of {len(waves)} clips, each fold unseen ({spread})"
    metric = {"dataset": data.resolve().name, "metric": "accuracy", "value": value, "source": source}
    model, state = loop.fit(recipe, waves, classes, "all clips")
    zoo.save(out, model, state, dataclasses.replace(recipe.entry, labels=labels, metrics=(metric,)), dtype="float16")
    print(f"{out}: accuracy {value:.3f} in cross-validation ({spread})")


def read_manifest(
    recipe: loop.Recipe, data: pathlib.Path
) -> tuple[loop.Waves, loop.Classes, loop.Classes, tuple[str, ...]]:
    """All clips, cut or filled up with silence to the recipe's window; their classes, folds, and the classes' labels.

    Raises ValueError for a manifest without those columns or with another number of labels than the recipe's classes.
    """
    entry = recipe.entry
    with open(data / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"files", "labels", "fold"} <= set(rows[0]):
        raise ValueError(f"{data / 'manifest.csv'} needs rows and the columns files, labels and fold.")
    labels = tuple(sorted({row["labels"] for row in rows}))
    if len(labels) != entry.classes:
        raise ValueError(f"{entry.name} has {entry.classes} classes, {data / 'manifest.csv'} has {len(labels)} labels.")
    waves = np.zeros((len(rows), round(entry.window * entry.sample_rate)), np.float32)
    for row, wave in zip(rows, waves, strict=True):
        clip = zoo.read(data / row["files"], entry.sample_rate)[: len(wave)]
        wave[: len(clip)] = clip
    classes = np.array([labels.index(row["labels"]) for row in rows])
    return waves, classes, np.array([int(row["fold"]) for row in rows]), labels


if __name__ == "__main__":
    sys.exit(main())
