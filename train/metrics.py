"""Metrics of a model on the clips held out, each of which counts once."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int

import zoo
from audax_eqx.layers import Length
from audax_eqx.models import COLA, SimCLR
from zoo.tools import Options, output, results, scores, window_size
from zoo.tools import equal_error_rate as equal_error_rate
from zoo.tools import minimum_cost as minimum_cost

from .data import crops, windows_of
from .dataset import Dataset
from .objectives import DEVICES
from .text import amount, listing, printable

GROUP = 1024  # clips among which a contrastive model looks for a partner
BLOCK = 1 << 20  # samples that are decoded at a time
WINDOWS = 32  # the largest number of windows on a device at a time
SMALLEST = 1e-30  # the smallest probability whose logarithm is taken

NAMES = {"multiclass": ("accuracy",), "multilabel": ("mAP", "AUC", "d_prime"), "contrastive": ("accuracy",)}

Table = Float[np.ndarray, "clips classes"]
Span = tuple[int, int, int]  # the row of a clip, its first sample, and the sample behind its last


def match_targets(entry: zoo.Entry, dataset: Dataset, rows: Int[np.ndarray, " rows"]) -> Table:
    """A table with 1 for each label of each clip, whose columns are the model's labels, matched by name.

    The dataset may have fewer labels than the model. The clip of a multilabel model is a window around a part of a
    recording, and has the labels of all parts that are heard in that window. Raises ValueError for clips that the model
    cannot be measured on: clips at another sample rate, clips with labels that the model does not know, and for a
    multiclass model clips that do not have exactly one label.
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
        raise ValueError(
            f"{name} has {entry.classes} classes without names, and labels are matched to classes by name."
        )
    if not dataset.labels:
        raise ValueError(f"{folder} has no labels, and {name} is measured by labels: prepare it with labels.")
    targets = dataset.targets[rows]
    if entry.task == "multilabel" and dataset.timed:
        spans = windows_of(dataset, rows, window_size(entry.window, entry.sample_rate)).tolist()
        parts = [dataset.targets_in(row, start, end - start) for row, (start, end) in zip(rows, spans, strict=True)]
        targets = np.stack(parts) if len(rows) else targets
    columns = np.flatnonzero(targets.any(axis=0))
    places = {label: place for place, label in enumerate(entry.labels)}
    labels = [dataset.labels[column] for column in columns]
    if strangers := [label for label in labels if label not in places]:
        raise ValueError(
            f"{folder} has clips of {listing(strangers)}, and {name} knows {listing(entry.labels)}: give them its "
            "names in the manifest, or leave those clips out, then prepare it again."
        )
    table = np.zeros((len(rows), entry.classes), np.float32)
    table[:, [places[label] for label in labels]] = targets[:, columns]
    counts = table.sum(axis=1)
    if entry.task == "multiclass" and np.any(counts != 1):
        clips = amount(np.sum(counts == 0), "clip")
        raise ValueError(
            f"{folder} has {clips} without a label and {np.sum(counts > 1)} with several among the {len(rows)} to "
            f"evaluate on, and {name} takes one label a clip: leave them out of the manifest."
        )
    return table


def multiclass(predictions: Table, targets: Table) -> dict[str, float]:
    """The accuracy of the probabilities, and their mean cross-entropy in nats."""
    loss = -(targets * np.log(np.maximum(predictions, SMALLEST))).sum(axis=1).mean()
    return {"accuracy": float(np.mean(predictions.argmax(axis=1) == targets.argmax(axis=1))), "loss": float(loss)}


def multilabel(predictions: Table, targets: Table) -> dict[str, float]:
    """mAP, the mean AUC, its d' (sqrt(2) times the normal quantile of the AUC), and the mean cross-entropy in nats.

    mAP and AUC are means over the classes that some clips have and others do not; without such a class they are NaN.
    """
    yes, no = (np.log(np.maximum(values, SMALLEST)) for values in (predictions, 1 - predictions))
    loss = float(-np.mean(targets * yes + (1 - targets) * no))
    classes = mark_classes_with_auc(targets)
    if not classes.any():
        return {"mAP": np.nan, "AUC": np.nan, "d_prime": np.nan, "loss": loss}
    from scipy.special import ndtri
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes as long to import as all of `train`

    precision = average_precision_score(targets[:, classes], predictions[:, classes], average="macro")
    auc = roc_auc_score(targets[:, classes], predictions[:, classes], average="macro")
    return {"mAP": float(precision), "AUC": float(auc), "d_prime": float(2**0.5 * ndtri(auc)), "loss": loss}


def mark_classes_with_auc(targets: Table) -> Bool[np.ndarray, " classes"]:
    """Marks the classes that some clips have and others do not, because the AUC of other classes is not defined."""
    share = targets.mean(axis=0)
    return (share > 0) & (share < 1)


def contrastive(model: COLA | SimCLR, projections: Float[np.ndarray, "clips 2 width"]) -> dict[str, float]:
    """The share of clips whose two crops are the most similar among those of at most 1024 clips at a time."""
    hits = 0
    for start in range(0, len(projections), GROUP):
        group = projections[start : start + GROUP]
        partners = np.asarray(model.similarity(group[:, 0], group[:, 1])).argmax(axis=1)
        hits += int(np.sum(partners == np.arange(len(group))))
    return {"accuracy": hits / len(projections)}


class Scorer:
    """Metrics of a model over the clips of the given rows, each of which counts once.

    The probabilities of a clip are the mean over its windows, weighted by their valid samples, as in `zoo.tag`. A
    contrastive model gets two crops of each clip. Each host runs its share of the clips on its own devices of the mesh;
    all devices together take at most `batch` windows at a time. The columns of `targets` are the model's labels. Raises
    ValueError for clips that do not fit the model, as `match_targets` does.
    """

    def __init__(self, entry: zoo.Entry, dataset: Dataset, rows: Int[np.ndarray, " rows"], mesh: Mesh, batch: int):
        self.entry, self.dataset, self.rows = entry, dataset, rows
        self.targets = match_targets(entry, dataset, rows)
        self.devices = mesh.local_devices
        self.options = Options(batch=max(1, min(batch // mesh.size, WINDOWS)) * len(self.devices))

    def __call__(
        self, model: zoo.Model, state: eqx.nn.State, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """The metrics. `check` is called after each clip, and may raise."""
        return self.measure(model, self.outputs(model, state, check))

    def measure(self, model: zoo.Model, outputs: Float[np.ndarray, "clips ..."]) -> dict[str, float]:
        """The metrics of the values that `outputs` returned."""
        if isinstance(model, COLA | SimCLR):
            return contrastive(model, outputs)
        return (multiclass if self.entry.task == "multiclass" else multilabel)(outputs, self.targets)

    @property
    def remark(self) -> str:
        """A sentence that lists the labels for which mAP and AUC are undefined, "" if there are none."""
        mask = mark_classes_with_auc(self.targets)
        if self.entry.task != "multilabel" or mask.all():
            return ""
        clips = f"the {amount(len(self.rows), 'clip')} held out"
        if not mask.any():
            return f"mAP and AUC are not defined, as each label is on all or on none of {clips}."
        labels = [label for label, mark in zip(self.entry.labels, mask, strict=True) if not mark]
        return f"mAP and AUC leave out labels that are on all or on none of {clips}: {listing(labels)}."

    def outputs(
        self, model: zoo.Model, state: eqx.nn.State, check: Callable[[], None] = lambda: None
    ) -> Float[np.ndarray, "clips ..."]:
        """The probabilities of each clip in float64, or its two projections.

        Raises FloatingPointError for NaN or infinite values, ValueError for a corrupt record, and what `check` raises.
        """
        model, state = _on_devices((model, state), self.devices)
        clip = zoo.Pretrained(model, state, self.entry)
        host, hosts = jax.process_index(), jax.process_count()
        spans, views = self._spans(self.rows[host::hosts])
        function, width = _row(clip)
        values = np.zeros((-(-len(self.rows) // hosts), views, width), np.float32)
        with contextlib.closing(results(clip, spans, function, width, self.options, self._blocks)) as stream:
            for place, result in enumerate(stream):
                check()
                values[divmod(place, views)] = result.values[0]
        outputs = _refine(self.entry.task, _of_all_hosts(values)[: len(self.rows)])
        finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
        if not finite.all():
            first = printable(self.dataset.ids[self.rows[np.argmin(finite)]])
            raise FloatingPointError(
                f"{self.entry.name} gives NaN or infinite values for {np.sum(~finite)} of {len(outputs)} clips, the "
                f"first of them {first}: train it again with a lower learning rate."
            )
        return outputs

    def _spans(self, rows: Int[np.ndarray, " rows"]) -> tuple[list[Span], int]:
        """The spans of these clips that the model hears, and their number for each clip.

        A contrastive model hears two crops of each clip, one window long; other models hear the whole of it.
        """
        lengths = self.dataset.samples[rows]
        size = window_size(self.entry.window, self.entry.sample_rate)
        if self.entry.task != "contrastive":
            spans = windows_of(self.dataset, rows, size).tolist()
            return [(row, start, end) for row, (start, end) in zip(rows.tolist(), spans, strict=True)], 1
        starts = crops(self.dataset, rows, size, 2, 0, rows)
        ends = np.minimum(starts + size, lengths[:, None])
        return list(zip(np.repeat(rows, 2).tolist(), starts.ravel().tolist(), ends.ravel().tolist(), strict=True)), 2

    def _blocks(self, span: Span) -> Iterator[np.ndarray]:
        """The wave of a span, in blocks."""
        row, start, end = span
        for place in range(start, end, BLOCK):
            yield self.dataset.read(row, place, min(BLOCK, end - place))


def _row(clip: zoo.Pretrained) -> tuple[Callable[[zoo.Pretrained, Array, Length], Array], int]:
    """The function that computes the output of one window, and the number of its values."""
    model: Any = clip.model
    if clip.entry.task == "contrastive":
        return output, model.width
    return (scores, len(clip.labels)) if clip.entry.task == "multiclass" else (_both_scores, 2 * len(clip.labels))


def _both_scores(clip: zoo.Pretrained, wave: Array, length: Length = None) -> Array:
    """The probability of each class, and that of its absence, because float32 rounds 1 - 0.99999999 to 0."""
    logits = output(clip, wave, length)
    return jnp.concatenate([jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)])


def _refine(task: str, values: Float32[np.ndarray, "clips views width"]) -> Float[np.ndarray, "clips ..."]:
    """Probabilities in float64 that are as precise near 1 as near 0; projections stay as they are."""
    if task == "contrastive":
        return values
    rows = values[:, 0].astype(np.float64)
    if task == "multiclass":
        return rows / rows.sum(axis=1, keepdims=True)
    presence, absence = np.split(rows, 2, axis=1)
    return np.where(presence < absence, presence, 1 - absence)


def _on_devices(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The tree with a copy of its arrays on each of these devices of this host."""

    def local(leaf):
        return leaf.addressable_data(0) if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable else leaf

    arrays, rest = eqx.partition(tree, eqx.is_array)
    sharding = NamedSharding(Mesh(np.array(devices), (DEVICES,)), P())
    return eqx.combine(jax.device_put(jax.tree.map(local, arrays), sharding), rest)


def _of_all_hosts(values: Float32[np.ndarray, "share views width"]) -> Float32[np.ndarray, "clips views width"]:
    """The values of the clips of all hosts; the hosts take clips by turns."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    shares = np.asarray(multihost_utils.process_allgather(values))
    return shares.swapaxes(0, 1).reshape(-1, *values.shape[1:])
