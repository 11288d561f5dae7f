"""`audax-train`: from a manifest of recordings to a model of the zoo.

    audax-train prepare MANIFEST OUT           sharded TFRecords from a CSV of files and labels
    audax-train RECIPE DATA OUT [--FIELD ...]  trains, or goes on training; RECIPE is a name or a Python file
    audax-train cross-validate RECIPE DATA OUT [--FIELD ...]
                                               once for each value of the recipe's hold-out column, then on all clips
    audax-train probe MODEL DATA OUT           a linear head on embeddings, in seconds, cross-validated
    audax-train evaluate RUN DATA              the run's model on the clips that it held out
    audax-train save RUN FOLDER                the run's model as a folder of the zoo

Every field of a recipe is an option, `audax-train esc10 --help` shows all. Several hosts: set JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID on each, or start the command by Slurm or Open MPI, and give all the same folders.
"""

import dataclasses
import io
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

try:
    import tyro

    from . import evaluation, loop, recipe, records, signals
    from . import probe as linear
    from .folder import claimed
except ModuleNotFoundError as missing:
    raise SystemExit(f'audax-train needs {missing.name}: pip install "audax-eqx[train]"') from None

import jax
import numpy as np

import zoo
from zoo.tools import keep_programs, line

Folder = Annotated[pathlib.Path, tyro.conf.Positional]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 with a sentence for what cannot be done, 128 plus the signal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not have all characters of names
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(f"{__doc__}\nRecipes: {', '.join(recipe.names())}")
        return 0 if given else 2
    commands = {"prepare": prepare, "probe": probe, "evaluate": evaluate, "save": save}
    try:
        if given[0] in commands:
            prog = f"audax-train {given[0]}"
            return tyro.cli(commands[given[0]], prog=prog, args=given[1:], use_underscores=False)
        function, at = (cross_validate, 1) if given[0] == "cross-validate" else (train, 0)
        if len(given) <= at:
            raise ValueError(f"cross-validate takes a recipe: a Python file, or one of {', '.join(recipe.names())}.")
        return _with_recipe(function, given[at], given[at + 1 :])
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"audax-train: {error}", file=sys.stderr)
        return 2
    except signals.Stopped as stopped:
        print(f"audax-train: {stopped}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:  # before the first step, or after the last checkpoint
        print("audax-train: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT


def prepare(
    manifest: Folder,
    out: Folder,
    sample_rate: int,
    delimiter: str = ",",
    label_delimiter: str = ";",
    shard_size: int = 512,
    processes: int | None = None,
    strict: bool = False,
    unlabelled: bool = False,
    annotations: pathlib.Path | None = None,
    label_column: str | None = None,
    negatives: float = 0.0,
    negative_label: str | None = None,
) -> int:
    r"""Sharded TFRecords of FLAC from a manifest.

    Args:
        manifest: CSV with a column `files`, relative to its folder, `labels`, if these are of parts `start` and `end`
            in seconds, and any others to hold clips out by. With annotations a CSV without labels, or a folder.
        out: The folder to write; an interrupted preparation goes on.
        sample_rate: In Hz; files are resampled and downmixed.
        delimiter: Between columns, one character, or \t for a tab.
        label_delimiter: Between the labels of a clip.
        shard_size: Clips a shard.
        processes: That decode; as many as there are cores unless given.
        strict: Whether an unreadable file is an error.
        unlabelled: Whether clips need no labels, as for COLA and SimCLR.
        annotations: A file or folder of Raven's selection tables and Audacity's label files, for labels with times.
        label_column: The column of Raven's tables that has the labels, where it is not one of the usual names.
        negatives: Seconds of examples without a label, made of all that no label is of in the recordings with times.
        negative_label: A label for these, which multiclass models need.
    """
    records.prepare(
        manifest, out, sample_rate=sample_rate, delimiter=delimiter, label_delimiter=label_delimiter,
        shard_size=shard_size, processes=processes, strict=strict, unlabelled=unlabelled, annotations=annotations,
        label_column=label_column, negatives=negatives, negative_label=negative_label,
    )  # fmt: skip
    return 0


def train(recipe: recipe.Recipe, data: pathlib.Path, out: pathlib.Path) -> int:
    """Trains the recipe on prepared data, or goes on where the run in `out` stopped."""
    _start()
    found = loop.fit(recipe, data, out)
    if jax.process_index() == 0:
        print(f"{out / 'model'}: {_text(found) or 'trained on all clips'}")
    return 0


def cross_validate(recipe: recipe.Recipe, data: pathlib.Path, out: pathlib.Path) -> int:
    """A run for each value of the hold-out column, and one on all clips, whose model notes the mean of the others."""
    column = recipe.data.hold_out
    if column is None:
        raise ValueError(f"{recipe.name} holds no clips out: name a column, --data.hold-out fold --data.held-out 1.")
    dataset = loop.Dataset(data)
    if column not in dataset.columns:
        dataset.rows(column, recipe.data.held_out, held_out=True)
    _start()
    found = {}
    with claimed(out):
        for value in sorted(set(dataset.columns[column])):
            fold = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out=(value,)))
            found[value] = loop.fit(fold, data, out / f"{column}-{value}".replace(os.sep, "_"))
        everything = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, hold_out=None))
        loop.fit(everything, data, out / "all")
        if jax.process_index() == 0:
            for value, metrics in found.items():
                print(f"{column} {value}: {_text(metrics)}")
            _note(out, list(found.values()), f"{len(dataset)} clips", column, data)
    return 0


def _note(out: pathlib.Path, found: list[dict[str, float]], clips: str, column: str, data: pathlib.Path) -> None:
    """Copies the model of all clips, with the mean over the folds as its metrics."""
    notes = []
    for name in found[0]:
        values = [each[name] for each in found]
        spread = ", ".join(f"{value:.3f}" for value in values)
        source = f"this project: mean over {len(values)} values of {column}, {clips}, each unseen in turn ({spread})"
        print(f"mean {name} {np.mean(values):.4f}, standard deviation {np.std(values):.4f}")
        if name != "loss":
            value = round(float(np.mean(values)), 4)
            notes.append({"dataset": data.resolve().name, "metric": name, "value": value, "source": source})
    clip = zoo.load(out / "all" / "model")
    zoo.save(out / "model", clip.model, clip.state, dataclasses.replace(clip.entry, metrics=tuple(notes)))


def probe(
    model: Annotated[str, tyro.conf.Positional],
    data: Folder,
    out: Folder,
    column: str | None = None,
    folds: int = 5,
    task: Literal["multiclass", "multilabel"] | None = None,
    window: float | None = None,
    l2: float = 1.0,
) -> int:
    """A linear head on a model's embeddings, which are computed once: metrics by cross-validation, and the model.

    Args:
        model: A name of the zoo, a folder or a Hub repo.
        data: The prepared data, at the model's sample rate.
        out: The folder to write; the same command takes the embeddings from there.
        column: The manifest's column of which each value is held out in turn.
        folds: So many parts of the recordings are held out in turn, where no column is named.
        task: What the head is for; by the labels of the clips unless given.
        window: Seconds that clips are cut into; the model's native length unless given.
        l2: The penalty of large weights, 1 / C of scikit-learn.
    """
    keep_programs()
    scores, report = linear.probe(model, data, out, column=column, folds=folds, task=task, window=window, l2=l2)
    for name in scores[0]:
        values = [each[name] for each in scores]
        spread = ", ".join(f"{value:.3f}" for value in values)
        print(f"{name} {np.mean(values):.4f}, standard deviation {np.std(values):.4f} ({spread})")
    print(f"{report}\n{out / 'model'}: a head on all clips")
    return 0


def evaluate(
    run: Folder,
    data: Folder,
    which: Literal["model", "best"] = "model",
    all_clips: bool = False,
    out: pathlib.Path | None = None,
    recipe: str | None = None,
) -> int:
    """The run's model on the clips that it held out, each once: metrics, figures for each label, and confusions.

    Args:
        run: The folder of the run.
        data: The prepared data; its labels are matched to the model's by name.
        which: The model at the end, or the best on the way.
        all_clips: Whether to take all clips, of data that the model was not trained on.
        out: A CSV to write, with each clip's labels, predictions and probabilities.
        recipe: The recipe's file, where it registers classes of its own that the model has.
    """
    _register(recipe)
    found, report = evaluation.evaluate(run, data, which, all_clips=all_clips, out=out)
    print(f"{run / which}: {_text(found)}\n{report}")
    return 0


def save(
    run: Folder,
    folder: Folder,
    which: Literal["model", "best"] = "model",
    dtype: Literal["float32", "float16"] = "float32",
    recipe: str | None = None,
) -> int:
    """The run's model as a folder for `zoo.load`.

    Args:
        run: The folder of the run.
        folder: The folder to write.
        which: The model at the end, or the best on the way.
        dtype: float16 halves the file.
        recipe: The recipe's file, where it registers classes of its own that the model has.
    """
    _register(recipe)
    if not (run / which).is_dir():
        raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {which}.")
    name = folder_name(folder)
    if not name:
        raise ValueError(f"{folder} is no folder with a name, which the model would get: give another.")
    clip = zoo.load(run / which)
    zoo.save(folder, clip.model, clip.state, dataclasses.replace(clip.entry, name=name), dtype=dtype)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {clip.entry.classes} classes, {size / 1e6:.1f} MB")
    return 0


def _register(name: str | None) -> None:
    """Makes the classes known that a recipe's file registers."""
    if name is not None:
        recipe.find(name)


def folder_name(folder: pathlib.Path) -> str:
    """The folder's own name, of "." and ".." too, as a line of text; "" for the root."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    return line(os.fsencode(folder.name).decode("utf-8", "replace"))


def _with_recipe(function: Any, name: str, arguments: list[str]) -> int:
    """Calls `function(recipe, data, out)`, each field of the recipe an option."""
    default, about = recipe.find(name)

    def command(data: Folder, out: Folder, recipe: Annotated[recipe.Recipe, tyro.conf.arg(name="")] = default) -> int:
        return function(recipe, data, out)

    command.__doc__ = about
    return tyro.cli(command, prog=f"audax-train {name}", args=arguments, use_underscores=False)


def _start() -> None:
    """Joins the other hosts, if there are any, and keeps compiled programs."""
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment:
        if not {"JAX_NUM_PROCESSES", "JAX_PROCESS_ID"} <= environment.keys():
            raise ValueError("JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and JAX_PROCESS_ID too.")
        jax.distributed.initialize(
            num_processes=int(environment["JAX_NUM_PROCESSES"]), process_id=int(environment["JAX_PROCESS_ID"])
        )
    elif int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("OMPI_COMM_WORLD_SIZE", 1))) > 1:
        jax.distributed.initialize()
    keep_programs()


def _text(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())


if __name__ == "__main__":
    sys.exit(main())
