"""What a run's model makes of clips: figures for each label, which label it takes for which, and every prediction."""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

import zoo
from zoo.tools import atomic, line, parse_json

from .dataset import Dataset
from .metrics import Scorer, Table, divided
from .recipe import Data
from .split import held_out
from .step import mesh
from .text import counted

MATRIX = 20  # labels whose confusions are shown as a matrix; of more labels, so many confusions, the most frequent


def evaluate(
    run: pathlib.Path,
    data: pathlib.Path,
    which: str = "model",
    *,
    all_clips: bool = False,
    out: pathlib.Path | None = None,
) -> tuple[dict[str, float], str]:
    """Metrics of the run's model, "model" or "best", on the clips that its recipe holds out, and a report.

    `all_clips` are for data that the model was not trained on. `out` becomes a CSV of every clip's probabilities.
    Raises FileNotFoundError where `run` has no such model, and ValueError where nothing was held out or where the
    clips are not what the model was made for: another sample rate, labels that it does not know.
    """
    note = run / "recipe.json"
    if not (note.is_file() and (run / which).is_dir()):
        raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {note.name} or no {which}.")
    settings = parse_json(note.read_text(encoding="utf-8"), str(note))["data"]
    dataset, clip = Dataset(data), zoo.load(run / which)
    if out is not None:
        _check_out(out, clip)
    data_of_run = Data(
        seconds=1.0,  # of crops, which are not drawn here
        hold_out=settings["hold_out"],
        held_out=tuple(settings["held_out"]),
        hold_out_share=settings.get("hold_out_share", 0.0),  # older runs have none
    )
    if all_clips:
        rows = np.arange(len(dataset))
    elif data_of_run.holds_out:
        rows = np.flatnonzero(held_out(dataset, data_of_run))
    else:
        raise ValueError(
            f"{run} was trained without holding clips out: evaluate it on data that it has not heard, by --all-clips."
        )
    score = Scorer(clip.entry, dataset, rows, mesh(), settings["batch"])
    outputs = score.outputs(clip.model, clip.state)
    chosen = "" if all_clips else f" {data_of_run.clips_held_out}"
    parts = [f"{counted(len(rows), 'clip')} of {data}{chosen}"]
    if clip.entry.task == "multiclass":
        parts += [per_label(outputs, score.targets, clip.labels), confusions(outputs, score.targets, clip.labels)]
    elif clip.entry.task == "multilabel":
        parts += [per_label_ranked(outputs, score.targets, clip.labels), score.remark]
    if out is not None:
        write_predictions(out, dataset, rows, outputs, score.targets, clip)
    return score.measure(clip.model, outputs), "\n".join(filter(None, parts))


def per_label(predicted: Table, targets: Table, labels: Sequence[str]) -> str:
    """A table of clips, precision, recall and F1 of each label of a multiclass model; "-" where there is none."""
    truth, guess = targets.argmax(axis=1), predicted.argmax(axis=1)
    places = np.arange(len(labels))
    figures = precision_recall_fscore_support(truth, guess, labels=places, zero_division=np.nan)  # pyright: ignore
    precision, recall, f1 = map(np.asarray, figures[:3])
    clips = np.bincount(truth, minlength=len(labels))
    return _table(labels, {"clips": clips, "precision": precision, "recall": recall, "F1": f1})


def per_label_ranked(predicted: Table, targets: Table, labels: Sequence[str]) -> str:
    """A table of clips, average precision and AUC of each label of a multilabel model; "-" where there is none."""
    precision, auc = np.full((2, len(labels)), np.nan)
    for place in np.flatnonzero(divided(targets)):
        precision[place] = average_precision_score(targets[:, place], predicted[:, place])
        auc[place] = roc_auc_score(targets[:, place], predicted[:, place])
    return _table(labels, {"clips": targets.sum(axis=0).astype(int), "AP": precision, "AUC": auc})


def confusion_counts(predicted: Table, targets: Table) -> Int[np.ndarray, "classes classes"]:
    """How many clips of a row's label were taken for a column's."""
    return confusion_matrix(targets.argmax(axis=1), predicted.argmax(axis=1), labels=np.arange(targets.shape[1]))


def confusions(predicted: Table, targets: Table, labels: Sequence[str]) -> str:
    """How many clips of a row's label were taken for a column's; of many labels the most frequent confusions."""
    matrix = confusion_counts(predicted, targets)
    if len(labels) <= MATRIX:
        columns = {str(place): column for place, column in enumerate(matrix.T)}
        return "Rows are labels, columns are what was predicted.\n" + _table(labels, columns)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(matrix, axis=None, kind="stable")[::-1][:MATRIX]
    pairs = [(truth, guess) for truth, guess in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    wrong = [f"{matrix[pair]:6d}  {labels[pair[0]]} -> {labels[pair[1]]}" for pair in pairs if matrix[pair]]
    return "\n".join(["The most frequent confusions, label -> prediction.", *map(line, wrong)]) if wrong else ""


def write_predictions(
    path: pathlib.Path,
    dataset: Dataset,
    rows: Int[np.ndarray, " clips"],
    predicted: Table,
    targets: Table,
    clip: zoo.Pretrained,
) -> None:
    """A CSV with each clip's file, of parts their start and end in seconds, labels, predictions, and the probability of
    every label.

    A multiclass model predicts the most probable label, a multilabel one those from 0.5 on.
    """

    def names(chosen):
        return ";".join(label for label, there in zip(clip.labels, chosen, strict=True) if there)

    if clip.entry.task == "multiclass":
        guesses = np.eye(len(clip.labels), dtype=bool)[predicted.argmax(axis=1)]
    else:
        guesses = predicted >= 0.5
    # A file's name keeps the bytes that are not UTF-8, as in the manifest
    with (
        atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        times = ["start", "end"] if dataset.timed else []
        writer.writerow(["files", *times, "labels", "predicted", *(f"probability/{label}" for label in clip.labels)])
        for row, target, guess, values in zip(rows, targets > 0, guesses, predicted, strict=True):
            seconds = [f"{each:.6f}" for each in dataset.spans[row] / dataset.sample_rate] if times else []
            cells = [dataset.ids[row], *seconds, names(target), names(guess)]
            writer.writerow([*cells, *(f"{value:.6g}" for value in values)])


def _check_out(out: pathlib.Path, clip: zoo.Pretrained) -> None:
    """Raises what writing predictions would, before time is spent on them."""
    if not clip.entry.classifies:
        raise ValueError(f"{clip.entry.name} has no classes and predicts none: leave out {out}.")
    if out.is_dir():
        raise ValueError(f"{out} is a folder, and predictions are written to a file: name one, {out / 'clips.csv'}.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )


def _table(labels: Sequence[str], columns: dict[str, np.ndarray]) -> str:
    """A numbered line for each label: whole numbers as they are, others with three digits, "-" for NaN."""
    names = [line(label, 40) for label in labels]
    cells = {head: [_cell(value) for value in values] for head, values in columns.items()}
    widths = {head: max(5, len(head), *map(len, column)) for head, column in cells.items()}
    number, width = len(str(len(labels))), max(map(len, names))
    head = " " * (number + 1 + width) + "".join(f" {name:>{widths[name]}}" for name in columns)
    lines = [
        f"{place:>{number}} {name:<{width}}" + "".join(f" {cells[each][place]:>{widths[each]}}" for each in columns)
        for place, name in enumerate(names)
    ]
    return "\n".join([head, *lines])


def _cell(value: np.number) -> str:
    if np.isnan(value):
        return "-"
    return str(value) if isinstance(value, np.integer) else f"{value:.3f}"
