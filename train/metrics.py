"""Metrics of a model's predictions over clips held out, each of them once."""

import collections
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

import zoo
from audax_eqx.models import COLA, SimCLR

from .data import evaluation_batches, to_devices
from .dataset import Dataset
from .objectives import DEVICES
from .step import gathered, make_predict

BLOCK = 1024  # clips that a contrastive model tells apart at a time
SMALLEST = 1e-30  # of a probability, in front of its logarithm

NAMES = {"multiclass": ("accuracy",), "multilabel": ("mAP", "AUC", "d_prime"), "contrastive": ("accuracy",)}

Table = Float[np.ndarray, "clips classes"]


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
    share = targets.mean(axis=0)
    known = (share > 0) & (share < 1)
    if not known.any():
        return {"mAP": np.nan, "AUC": np.nan, "d_prime": np.nan, "loss": loss}
    precision = average_precision_score(targets[:, known], predicted[:, known], average="macro")
    auc = roc_auc_score(targets[:, known], predicted[:, known], average="macro")
    return {"mAP": float(precision), "AUC": float(auc), "d_prime": float(2**0.5 * norm.ppf(auc)), "loss": loss}


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
    crops of it. `batch` windows are predicted at a time, over all devices of the mesh.
    """

    def __init__(self, entry: zoo.Entry, dataset: Dataset, rows: Int[np.ndarray, " rows"], mesh: Mesh, batch: int):
        self.entry, self.dataset, self.rows, self.mesh = entry, dataset, rows, mesh
        self.batch = max(1, batch // mesh.size) * mesh.size
        self.predict = make_predict(mesh)

    def __call__(self, model: zoo.Model, state: eqx.nn.State) -> dict[str, float]:
        outputs = self._outputs(model, state)
        clips = np.stack([outputs[row] for row in self.rows.tolist()])
        if isinstance(model, COLA | SimCLR):
            return contrastive(model, clips)
        measure = multiclass if self.entry.task == "multiclass" else multilabel
        return measure(clips, self.dataset.targets[self.rows])

    def _outputs(self, model: zoo.Model, state: eqx.nn.State) -> dict[int, np.ndarray]:
        """Each row's probabilities, or its two projections."""
        contrast = self.entry.task == "contrastive"
        given = evaluation_batches(
            self.dataset, self.rows, batch=self.batch, samples=round(self.entry.window * self.entry.sample_rate),
            views=2 if contrast else 1, host=jax.process_index(), hosts=jax.process_count(),
        )  # fmt: skip
        outputs: dict[int, Any] = collections.defaultdict(float)
        weights: dict[int, int] = collections.defaultdict(int)
        for batch in to_devices(given, NamedSharding(self.mesh, P(DEVICES))):
            leaves = (self.predict(model, state, batch), batch.rows, batch.lengths)
            for value, row, length in zip(*map(gathered, leaves), strict=True):
                if row < 0:  # fills up the last batch
                    continue
                weight = 1 if contrast else int(length[0])
                outputs[int(row)] += value if contrast else weight * probabilities(value, self.entry.task)[0]
                weights[int(row)] += weight
        return {row: output / weights[row] for row, output in outputs.items()}
