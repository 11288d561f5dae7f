"""Metrics of a model's predictions over clips held out, each of them once."""

import collections
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

import zoo
from audax_eqx.models import COLA, SimCLR

from .data import evaluation_batches, to_devices
from .dataset import Dataset
from .objectives import DEVICES
from .step import gathered, make_predict
from .text import counted, listed, shown

BLOCK = 1024  # clips that a contrastive model tells apart at a time
SMALLEST = 1e-30  # of a probability, in front of its logarithm

NAMES = {"multiclass": ("accuracy",), "multilabel": ("mAP", "AUC", "d_prime"), "contrastive": ("accuracy",)}

Table = Float[np.ndarray, "clips classes"]


def matched(entry: zoo.Entry, dataset: Dataset, rows: Int[np.ndarray, " rows"]) -> Table:
    """1 for each label of each clip, in the order of the model's labels, whose names are what counts.

    The clips may have fewer labels than the model. Raises ValueError for clips that the model cannot be measured on:
    at another sample rate, with labels that it does not know, or not with one each where it takes one.
    """
    folder, name = dataset.folder, entry.name
    if entry.sample_rate != dataset.sample_rate:
        raise ValueError(
            f"{name} takes waves at {entry.sample_rate} Hz, {folder} is at {dataset.sample_rate} Hz: "
            f"prepare it with --sample-rate {entry.sample_rate}."
        )
    if entry.task == "contrastive":
        return np.zeros((len(rows), 0), np.float32)
    if len(entry.labels) != entry.classes:
        raise ValueError(f"{name} has {entry.classes} classes without names, and clips are matched to it by name.")
    if not dataset.labels:
        raise ValueError(f"{folder} has no labels, and {name} is measured by them: prepare them too.")
    targets = dataset.targets[rows]
    present = np.flatnonzero(targets.any(axis=0))
    places = {label: place for place, label in enumerate(entry.labels)}
    labels = [dataset.labels[column] for column in present]
    if unknown := [label for label in labels if label not in places]:
        raise ValueError(
            f"{folder} has clips of {listed(unknown)}, and {name} knows {listed(entry.labels)}: give them its names in "
            "the manifest or leave them out, then prepare it again."
        )
    ordered = np.zeros((len(rows), entry.classes), np.float32)
    ordered[:, [places[label] for label in labels]] = targets[:, present]
    counts = ordered.sum(axis=1)
    if entry.task == "multiclass" and np.any(counts != 1):
        without = counted(np.sum(counts == 0), "clip")
        raise ValueError(
            f"{folder} has {without} without a label and {np.sum(counts > 1)} with several among the {len(rows)} to "
            f"evaluate on, and {name} takes one each: leave them out of the manifest."
        )
    return ordered


def probabilities(logits: Float[np.ndarray, "windows classes"], task: str) -> Float[np.ndarray, "windows classes"]:
    """Softmax of a multiclass model's logits, sigmoids of a multilabel one's, in float64."""
    return softmax(logits.astype(np.float64), axis=1) if task == "multiclass" else expit(logits.astype(np.float64))


def multiclass(predicted: Table, targets: Table) -> dict[str, float]:
    """Accuracy of the probabilities, and their mean cross-entropy in nats."""
    loss = -(targets * np.log(np.maximum(predicted, SMALLEST))).sum(axis=1).mean()
    return {"accuracy": float(np.mean(predicted.argmax(axis=1) == targets.argmax(axis=1))), "loss": float(loss)}


def multilabel(predicted: Table, targets: Table) -> dict[str, float]:
    """mAP, the mean AUC with its d' (sqrt(2) times its normal quantile), and the mean cross-entropy in nats.

    mAP and AUC are means over the classes that some clips have and others do not, NaN where there is none.
    """
    yes, no = (np.log(np.maximum(each, SMALLEST)) for each in (predicted, 1 - predicted))
    loss = float(-np.mean(targets * yes + (1 - targets) * no))
    known = divided(targets)
    if not known.any():
        return {"mAP": np.nan, "AUC": np.nan, "d_prime": np.nan, "loss": loss}
    precision = average_precision_score(targets[:, known], predicted[:, known], average="macro")
    auc = roc_auc_score(targets[:, known], predicted[:, known], average="macro")
    return {"mAP": float(precision), "AUC": float(auc), "d_prime": float(2**0.5 * norm.ppf(auc)), "loss": loss}


def divided(targets: Table) -> Bool[np.ndarray, " classes"]:
    """Which classes some clips have and others do not: the others have no AUC."""
    share = targets.mean(axis=0)
    return (share > 0) & (share < 1)


def contrastive(model: COLA | SimCLR, projections: Float[np.ndarray, "clips 2 width"]) -> dict[str, float]:
    """How many clips find their other crop before all others, among at most 1024 clips at a time."""
    found = 0
    for start in range(0, len(projections), BLOCK):
        block = projections[start : start + BLOCK]
        nearest = np.asarray(model.similarity(block[:, 0], block[:, 1])).argmax(axis=1)
        found += int(np.sum(nearest == np.arange(len(block))))
    return {"accuracy": found / len(projections)}


class Scorer:
    """Metrics of a model over the clips of some rows, each of them once.

    A clip's probabilities are the mean over its windows, weighted by their valid samples; a contrastive model gets two
    crops of it. `batch` windows are predicted at a time, over all devices of the mesh. `targets` are in the order of
    the model's labels. Raises ValueError where the clips are not what the model was made for, as `matched` does.
    """

    def __init__(self, entry: zoo.Entry, dataset: Dataset, rows: Int[np.ndarray, " rows"], mesh: Mesh, batch: int):
        self.entry, self.dataset, self.rows, self.mesh = entry, dataset, rows, mesh
        self.targets = matched(entry, dataset, rows)
        self.batch = max(1, batch // mesh.size) * mesh.size
        self.predict = make_predict(mesh)

    def __call__(self, model: zoo.Model, state: eqx.nn.State) -> dict[str, float]:
        return self.measure(model, self.outputs(model, state))

    def measure(self, model: zoo.Model, outputs: Float[np.ndarray, "clips ..."]) -> dict[str, float]:
        """The metrics of what `outputs` gave."""
        if isinstance(model, COLA | SimCLR):
            return contrastive(model, outputs)
        return (multiclass if self.entry.task == "multiclass" else multilabel)(outputs, self.targets)

    @property
    def remark(self) -> str:
        """Which labels mAP and AUC say nothing about, "" where there is none."""
        known = divided(self.targets)
        if self.entry.task != "multilabel" or known.all():
            return ""
        clips = f"the {counted(len(self.rows), 'clip')} held out"
        if not known.any():
            return f"mAP and AUC are not defined, as each label is on all or on none of {clips}."
        left = [label for label, there in zip(self.entry.labels, known, strict=True) if not there]
        return f"mAP and AUC leave out labels that are on all or on none of {clips}: {listed(left)}."

    def outputs(self, model: zoo.Model, state: eqx.nn.State) -> Float[np.ndarray, "clips ..."]:
        """Each clip's probabilities, or its two projections. Raises FloatingPointError for NaN and infinite ones."""
        contrast = self.entry.task == "contrastive"
        given = evaluation_batches(
            self.dataset, self.rows, batch=self.batch, samples=round(self.entry.window * self.entry.sample_rate),
            views=2 if contrast else 1, host=jax.process_index(), hosts=jax.process_count(),
        )  # fmt: skip
        sums: dict[int, Any] = collections.defaultdict(float)
        weights: dict[int, int] = collections.defaultdict(int)
        for batch in to_devices(given, NamedSharding(self.mesh, P(DEVICES))):
            leaves = (self.predict(model, state, batch), batch.rows, batch.lengths)
            for value, row, length in zip(*map(gathered, leaves), strict=True):
                if row < 0:  # fills up the last batch
                    continue
                weight = 1 if contrast else int(length[0])
                sums[int(row)] += value if contrast else weight * probabilities(value, self.entry.task)[0]
                weights[int(row)] += weight
        outputs = np.stack([sums[row] / weights[row] for row in self.rows.tolist()])
        finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
        if not finite.all():
            first = shown(self.dataset.ids[self.rows[np.argmin(finite)]])
            raise FloatingPointError(
                f"{self.entry.name} gives NaN or infinite values for {np.sum(~finite)} of {len(outputs)} clips, the "
                f"first of them {first}: train it again with a lower learning rate."
            )
        return outputs
