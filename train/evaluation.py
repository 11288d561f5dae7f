"""The evaluation of a run's model: metrics, figures for each label, confusions, and the prediction for every clip."""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

import zoo
from zoo.tools import atomic, line, parse_json

from .dataset import Dataset
from .metrics import Scorer, Table, mark_classes_with_auc
from .recipe import Data
from .split import held_out
from .step import mesh
from .text import amount

MATRIX = 20  # labels that are shown as a matrix of confusions; for more labels, the number of confusions shown


def evaluate(
    run: pathlib.Path,
    data: pathlib.Path,
    which: str = "model",
    *,
    all_clips: bool = False,
    out: pathlib.Path | None = None,
) -> tuple[dict[str, float], str]:
    """Metrics of the run's model on the clips that its recipe holds out, and a report.

    - `run`, `data`: the folder of the run, and a prepared folder.
    - `which`: "model", the model at the end of the run, or "best".
    - `all_clips`: evaluates on all clips, of data that the model was not trained on.
    - `out`: a CSV that is written with the probabilities of every clip.

    Raises FileNotFoundError if `run` has no such model. Raises ValueError if the run held nothing out, or if the clips
    do not fit the model: another sample rate, or labels that it does not know.
    """
    note = run / "recipe.json"
    if not (note.is_file() and (run / which).is_dir()):
        raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {note.name} or no {which}.")
    settings = parse_json(note.read_text(encoding="utf-8"), str(note))["data"]
    dataset, clip = Dataset(data), zoo.load(run / which)
    if out is not None:
        _check_out(out, clip)
    data_of_run = Data(
        seconds=1.0,  # evaluation draws no crops
        hold_out=settings["hold_out"],
        held_out=tuple(settings["held_out"]),
        hold_out_share=settings.get("hold_out_share", 0.0),  # which older runs lack
    )
    if all_clips:
        rows = np.arange(len(dataset))
    elif data_of_run.holds_out:
        rows = np.flatnonzero(held_out(dataset, data_of_run))
    else:
        raise ValueError(
            f"{run} was trained without holding clips out: evaluate it on data that it has not heard, with --all-clips."
        )
    score = Scorer(clip.entry, dataset, rows, mesh(), settings["batch"])
    outputs = score.outputs(clip.model, clip.state)
    selection = "" if all_clips else f" {data_of_run.clips_held_out}"
    parts = [f"{amount(len(rows), 'clip')} of {data}{selection}"]
    if clip.entry.task == "multiclass":
        parts += [per_label(outputs, score.targets, clip.labels), confusions(outputs, score.targets, clip.labels)]
    elif clip.entry.task == "multilabel":
        parts += [per_label_ranked(outputs, score.targets, clip.labels), score.remark]
    if out is not None:
        write_predictions(out, dataset, rows, outputs, score.targets, clip)
    return score.measure(clip.model, outputs), "\n".join(filter(None, parts))


def per_label(predictions: Table, targets: Table, labels: Sequence[str]) -> str:
    """A table of clips, precision, recall and F1 of each label of a multiclass model; "-" for an undefined figure."""
    from sklearn.metrics import precision_recall_fscore_support  # takes long to import

    truth, guess = targets.argmax(axis=1), predictions.argmax(axis=1)
    places = np.arange(len(labels))
    figures = precision_recall_fscore_support(truth, guess, labels=places, zero_division=np.nan)  # pyright: ignore
    precision, recall, f1 = map(np.asarray, figures[:3])
    clips = np.bincount(truth, minlength=len(labels))
    return _table(labels, {"clips": clips, "precision": precision, "recall": recall, "F1": f1})


def per_label_ranked(predictions: Table, targets: Table, labels: Sequence[str]) -> str:
    """A table of clips, average precision and AUC of each label of a multilabel model; "-" for an undefined figure."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # as above

    precision, auc = np.full((2, len(labels)), np.nan)
    for place in np.flatnonzero(mark_classes_with_auc(targets)):
        precision[place] = average_precision_score(targets[:, place], predictions[:, place])
        auc[place] = roc_auc_score(targets[:, place], predictions[:, place])
    return _table(labels, {"clips": targets.sum(axis=0).astype(int), "AP": precision, "AUC": auc})


def confusion_counts(predictions: Table, targets: Table) -> Int[np.ndarray, "classes classes"]:
    """The number of clips with the label of the row for which the model predicted the label of the column."""
    from sklearn.metrics import confusion_matrix  # as above

    return confusion_matrix(targets.argmax(axis=1), predictions.argmax(axis=1), labels=np.arange(targets.shape[1]))


def confusions(predictions: Table, targets: Table, labels: Sequence[str]) -> str:
    """The confusions as a matrix, or for more than `MATRIX` labels the most frequent ones as a list."""
    matrix = confusion_counts(predictions, targets)
    if len(labels) <= MATRIX:
        columns = {str(place): column for place, column in enumerate(matrix.T)}
        return "Rows are labels, columns are predictions.\n" + _table(labels, columns)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(matrix, axis=None, kind="stable")[::-1][:MATRIX]
    pairs = [(truth, guess) for truth, guess in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    lines = [f"{matrix[pair]:6d}  {labels[pair[0]]} -> {labels[pair[1]]}" for pair in pairs if matrix[pair]]
    return "\n".join(["The most frequent confusions, label -> prediction.", *map(line, lines)]) if lines else ""


def write_predictions(
    path: pathlib.Path,
    dataset: Dataset,
    rows: Int[np.ndarray, " clips"],
    predictions: Table,
    targets: Table,
    clip: zoo.Pretrained,
) -> None:
    """Writes a CSV with a row for each clip: its file, its labels, its predictions, and the probability of every label.

    Clips that are parts of recordings have start and end, in seconds, too. A multiclass model predicts the most
    probable label, a multilabel model all labels with a probability of at least 0.5.
    """

    def names(marks):
        return ";".join(label for label, mark in zip(clip.labels, marks, strict=True) if mark)

    if clip.entry.task == "multiclass":
        guesses = np.eye(len(clip.labels), dtype=bool)[predictions.argmax(axis=1)]
    else:
        guesses = predictions >= 0.5
    # The name of a file keeps the bytes that are not UTF-8, as in the manifest
    with (
        atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        times = ["start", "end"] if dataset.timed else []
        writer.writerow(["files", *times, "labels", "predicted", *(f"probability/{label}" for label in clip.labels)])
        for row, target, guess, values in zip(rows, targets > 0, guesses, predictions, strict=True):
            seconds = [f"{time:.6f}" for time in dataset.spans[row] / dataset.sample_rate] if times else []
            cells = [dataset.ids[row], *seconds, names(target), names(guess)]
            writer.writerow([*cells, *(f"{value:.6g}" for value in values)])


def _check_out(out: pathlib.Path, clip: zoo.Pretrained) -> None:
    """Raises, before the model runs, the errors that writing the predictions would raise."""
    if not clip.entry.classifies:
        raise ValueError(f"{clip.entry.name} has no classes, so that there are no predictions for {out}: leave it out.")
    if out.is_dir():
        raise ValueError(f"{out} is a folder, and predictions are written to a file: name a file, {out / 'clips.csv'}.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{out.parent} is not a folder, so {out.name} cannot be written there: create it first."
        )


def _table(labels: Sequence[str], columns: dict[str, np.ndarray]) -> str:
    """A table with a numbered line for each label: whole numbers, other numbers with three digits, "-" for NaN."""
    names = [line(label, 40) for label in labels]
    cells = {head: [_cell(value) for value in values] for head, values in columns.items()}
    widths = {head: max(5, len(head), *map(len, column)) for head, column in cells.items()}
    number, width = len(str(len(labels))), max(map(len, names))
    head = " " * (number + 1 + width) + "".join(f" {name:>{widths[name]}}" for name in columns)
    lines = [
        f"{place:>{number}} {name:<{width}}" + "".join(f" {cells[key][place]:>{widths[key]}}" for key in columns)
        for place, name in enumerate(names)
    ]
    return "\n".join([head, *lines])


def _cell(value: np.number) -> str:
    if np.isnan(value):
        return "-"
    return str(value) if isinstance(value, np.integer) else f"{value:.3f}"
