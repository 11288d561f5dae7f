"""`audax-train`: from a manifest of recordings to a model of the zoo.

    audax-train prepare MANIFEST OUT           writes sharded TFRecords from a CSV of files and labels
    audax-train RECIPE DATA OUT [--FIELD ...]  trains, or continues a run; RECIPE is a name or a Python file
    audax-train cross-validate RECIPE DATA OUT [--FIELD ...]
                                               trains once for each value of the hold-out column, then on all clips
    audax-train probe MODEL DATA OUT           trains a linear head on embeddings in seconds, and cross-validates it
    audax-train evaluate RUN DATA              evaluates the model of a run on the clips that it held out
    audax-train save RUN FOLDER                saves the model of a run as a folder of the zoo

Every field of a recipe is an option; `audax-train esc10 --help` shows all of them. For several hosts, set
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID on each, or start the command by Slurm or Open MPI. All
hosts take the same folders.
"""

import dataclasses
import importlib.util
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
    from .folder import claim

    if not importlib.util.find_spec("sklearn"):  # imported late, since it takes long
        raise ModuleNotFoundError(name="sklearn")
except ModuleNotFoundError as error:
    raise SystemExit(f'audax-train needs {error.name}: pip install "audax-eqx[train]"') from None

import jax
import numpy as np

import zoo
from zoo.tools import keep_programs, line

Folder = Annotated[pathlib.Path, tyro.conf.Positional]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 after an error, or 128 plus the number of a signal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of a name
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(f"{__doc__}\nRecipes: {', '.join(recipe.names())}")
        return 0 if words else 2
    commands = {"prepare": prepare, "probe": probe, "evaluate": evaluate, "save": save}
    try:
        if words[0] in commands:
            prog = f"audax-train {words[0]}"
            return tyro.cli(commands[words[0]], prog=prog, args=words[1:], use_underscores=False)
        function, place = (cross_validate, 1) if words[0] == "cross-validate" else (train, 0)
        if len(words) <= place:
            raise ValueError(f"cross-validate takes a recipe: a Python file, or one of {', '.join(recipe.names())}.")
        return _with_recipe(function, words[place], words[place + 1 :])
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"audax-train: {error}", file=sys.stderr)
        return 2
    except signals.SignalExit as signal_exit:
        print(f"audax-train: {signal_exit}", file=sys.stderr)
        return signal_exit.code
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
    r"""Writes sharded TFRecords of FLAC from a manifest.

    Args:
        manifest: A CSV with the columns `files`, relative to its folder, and `labels`; `start` and `end`, in seconds,
            for labels of parts; and any others, by which clips can be held out. With annotations it is a CSV without
            labels, or a folder of recordings.
        out: The folder to write; the same command continues an interrupted preparation.
        sample_rate: The sample rate in Hz; files are resampled and mixed down to mono.
        delimiter: The character between columns, or \t for a tab.
        label_delimiter: The characters between the labels of a clip.
        shard_size: The number of files in a shard.
        processes: The number of processes that decode; by default one for each core.
        strict: Whether an unreadable file is an error.
        unlabelled: Whether clips need no labels, as for COLA and SimCLR.
        annotations: A file or folder of Raven's selection tables and Audacity's label files, for labels with times.
        label_column: The column of Raven's tables that has the labels, if its name is not a usual one.
        negatives: The length in seconds of examples without a label, which are cut from the unlabelled time of
            recordings with annotated parts.
        negative_label: The label of these examples, which multiclass models need.
    """
    records.prepare(
        manifest, out, sample_rate=sample_rate, delimiter=delimiter, label_delimiter=label_delimiter,
        shard_size=shard_size, processes=processes, strict=strict, unlabelled=unlabelled, annotations=annotations,
        label_column=label_column, negatives=negatives, negative_label=negative_label,
    )  # fmt: skip
    return 0


def train(recipe: recipe.Recipe, data: pathlib.Path, out: pathlib.Path) -> int:
    """Trains the recipe on prepared data, or continues the run in `out`."""
    _start()
    metrics = loop.fit(recipe, data, out)
    if jax.process_index() == 0:
        print(f"{out / 'model'}: {_text(metrics) or 'trained on all clips'}")
    return 0


def cross_validate(recipe: recipe.Recipe, data: pathlib.Path, out: pathlib.Path) -> int:
    """Trains a run for each value of the hold-out column, and one on all clips, whose model gets the mean metrics."""
    column = recipe.data.hold_out
    if column is None:
        raise ValueError(f"{recipe.name} holds no clips out: name a column, --data.hold-out fold --data.held-out 1.")
    dataset = loop.Dataset(data)
    if column not in dataset.columns:
        dataset.rows(column, recipe.data.held_out, held_out=True)
    _start()
    metrics_of = {}
    with claim(out):
        for value in sorted(set(dataset.columns[column])):
            fold = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out=(value,)))
            metrics_of[value] = loop.fit(fold, data, out / f"{column}-{value}".replace(os.sep, "_"))
        full_recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, hold_out=None))
        loop.fit(full_recipe, data, out / "all")
        if jax.process_index() == 0:
            for value, metrics in metrics_of.items():
                print(f"{column} {value}: {_text(metrics)}")
            _save_mean(out, list(metrics_of.values()), f"{len(dataset)} clips", column, data)
    return 0


def _save_mean(out: pathlib.Path, folds: list[dict[str, float]], clips: str, column: str, data: pathlib.Path) -> None:
    """Saves the model of all clips, with the mean over the folds as its metrics."""
    notes = []
    for name in folds[0]:
        values = [metrics[name] for metrics in folds]
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
    """Trains and cross-validates a linear head on a model's embeddings, which are computed once, and saves the model.

    Args:
        model: A name of the zoo, a folder or a Hub repo.
        data: The prepared data, at the model's sample rate.
        out: The folder to write; the next call reads the embeddings from it.
        column: The column of the manifest whose values are held out in turn.
        folds: The number of sets of recordings that are held out in turn, without a column.
        task: The task of the head; by default multiclass if each clip has one label, else multilabel.
        window: The length in seconds of the windows that clips are cut into; by default the model's native length.
        l2: The penalty of large weights, 1 / C of scikit-learn.
    """
    keep_programs()
    scores, report = linear.probe(model, data, out, column=column, folds=folds, task=task, window=window, l2=l2)
    for name in scores[0]:
        values = [metrics[name] for metrics in scores]
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
    """Evaluates a run's model on the clips that it held out: metrics, figures for each label, and confusions.

    Args:
        run: The folder of the run.
        data: The prepared data; its labels are matched to the model's by name.
        which: "model", the model at the end of the run, or "best".
        all_clips: Whether to evaluate on all clips, of data that the model was not trained on.
        out: A CSV to write, with each clip's labels, predictions and probabilities.
        recipe: The recipe's file, if it registers classes that the model uses.
    """
    _register(recipe)
    metrics, report = evaluation.evaluate(run, data, which, all_clips=all_clips, out=out)
    print(f"{run / which}: {_text(metrics)}\n{report}")
    return 0


def save(
    run: Folder,
    folder: Folder,
    which: Literal["model", "best"] = "model",
    dtype: Literal["float32", "float16"] = "float32",
    recipe: str | None = None,
) -> int:
    """Saves a run's model as a folder for `zoo.load`.

    Args:
        run: The folder of the run.
        folder: The folder to write.
        which: "model", the model at the end of the run, or "best".
        dtype: The type of the weights in the file; float16 halves its size.
        recipe: The recipe's file, if it registers classes that the model uses.
    """
    _register(recipe)
    if not (run / which).is_dir():
        raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {which}.")
    name = folder_name(folder)
    if not name:
        raise ValueError(f"{folder} has no name, which would be the name of the model: give another folder.")
    clip = zoo.load(run / which)
    zoo.save(folder, clip.model, clip.state, dataclasses.replace(clip.entry, name=name), dtype=dtype)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {clip.entry.classes} classes, {size / 1e6:.1f} MB")
    return 0


def _register(name: str | None) -> None:
    """Runs the recipe's file, which may register classes."""
    if name is not None:
        recipe.find(name)


def folder_name(folder: pathlib.Path) -> str:
    """The name of the folder as a line of text, also for "." and ".."; "" for the root."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    return line(os.fsencode(folder.name).decode("utf-8", "replace"))


def _with_recipe(function: Any, name: str, arguments: list[str]) -> int:
    """Calls `function(recipe, data, out)`, with each field of the recipe as an option."""
    default, about = recipe.find(name)

    def command(data: Folder, out: Folder, recipe: Annotated[recipe.Recipe, tyro.conf.arg(name="")] = default) -> int:
        return function(recipe, data, out)

    command.__doc__ = about
    return tyro.cli(command, prog=f"audax-train {name}", args=arguments, use_underscores=False)


def _start() -> None:
    """Joins the other hosts, if there are any, and turns on the cache of compiled programs."""
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


def _text(metrics: dict[str, float]) -> str:
    """The metrics as a line of text."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
