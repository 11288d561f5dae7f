"""The loop: trains a recipe on prepared data, and writes the folder of the run.

    recipe.json   the recipe; the same command continues the run
    checkpoints/  the last `keep` checkpoints by Orbax, which writes them in the background, each whole or not at all
    log.jsonl     losses, rates, throughput and evaluations, one JSON object in each line; tensorboard/ shows the same
    best/         the best model by the recipe's metric on the clips held out, for `zoo.load`
    model/        the model at the end, for `zoo.load`
    profile/      a trace, on request

The position of a run is the number of its steps: data, random keys and rates follow from that number and the seed. A
run that was killed and started again ends with the same weights, bit by bit, on the same number of devices.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import zoo
from audax_eqx import lora
from zoo.tools import check_entry, line

from .checkpoints import Checkpoints
from .data import Batch, Sampler, balanced_weights, to_devices, train_batches
from .dataset import Dataset
from .folder import claim, note, plain_name
from .journal import Callback, Journal
from .metrics import NAMES, Scorer
from .objectives import DEVICES, counted, views
from .recipe import Recipe
from .signals import Interruption, SignalExit, Signals
from .split import held_out
from .step import Carry, begin, make_step, schedule, trained_model
from .step import mesh as make_mesh


def fit(
    recipe: Recipe,
    data: pathlib.Path,
    out: pathlib.Path,
    *,
    devices: int | None = None,
    callback: Callback | None = None,
) -> dict[str, float]:
    """Trains the recipe in the folder `out`, or continues the run there, and returns the metrics at its end.

    The metrics are those on the clips held out; without such clips the dict is empty.

    - `data`: a prepared folder.
    - `devices`: the number of devices, the first of all hosts; all by default.
    - `callback`: a function that the first host calls for each line of `log.jsonl`, with the number of steps and a dict
      of numbers: "loss", "gradient_norm", "learning_rate", "clips_per_second", or "evaluation/accuracy" and the like. A
      run that is continued repeats the calls for the steps since its last checkpoint.

    Raises ValueError for data and a recipe that do not fit each other, BlockingIOError while another process trains in
    `out`, FloatingPointError for a loss or gradient that is not finite, `SignalExit` after SIGINT or SIGTERM, and every
    error of the callback.
    """
    dataset, mesh = Dataset(data), make_mesh(devices)
    rows, test_rows = select(recipe, dataset)
    entry = recipe.entry(dataset.labels)
    check(recipe, entry, dataset, rows, mesh)
    check_entry(entry, f"{recipe.name} with the labels of {dataset.folder}")  # now, because a save would fail later
    with claim(out), plain_name(out) as folder:
        note(out, recipe, dataset, len(rows))
        return _train(recipe, dataset, entry, rows, test_rows, mesh, folder, callback)


def _train(
    recipe: Recipe, dataset: Dataset, entry: zoo.Entry, rows: np.ndarray, test_rows: np.ndarray, mesh: Mesh,
    out: pathlib.Path, callback: Callback | None,
) -> dict[str, float]:  # fmt: skip
    """`fit`, once the folder is locked and the recipe is checked."""
    recipe = dataclasses.replace(recipe, objective=counted(recipe.objective, dataset.targets[rows]))
    carry, static = begin(*build(recipe, entry), recipe, mesh)
    weights = balanced_weights(dataset.targets[rows]) if recipe.data.balanced else None
    sampler = Sampler(rows, recipe.data.batch, recipe.run.seed, weights)
    total = recipe.total_steps(len(rows))
    evaluation, checkpoint = (
        recipe.steps(epochs, len(rows)) for epochs in (recipe.run.evaluate, recipe.run.checkpoint)
    )
    batch_part = recipe.data.batch // recipe.run.accumulate
    score = Scorer(entry, dataset, test_rows, mesh, batch_part) if len(test_rows) else None
    if score is not None and score.remark and jax.process_index() == 0:
        print(score.remark)
    with Checkpoints(out / "checkpoints", recipe.run.keep) as checkpoints, Signals() as signals:
        carry, record = checkpoints.restore(carry)
        start = int(carry.step)
        step, rate = make_step(recipe, static, mesh), schedule(recipe, len(rows))
        journal = Journal(out, recipe, dataset, sampler, total, start, callback)

        def measure(steps: int) -> None:
            """Evaluates the carry if that is due after this step, and saves it if it is the best so far.

            A signal interrupts the evaluation.
            """
            if score is None or steps == 0 or not (steps % evaluation == 0 or steps == total):
                return
            journal.settle()
            try:
                record["metrics"] = score(*trained_model(carry, static), signals.check)
            except Interruption:
                return
            record["evaluated"] = steps
            journal.evaluation(steps, record["metrics"])
            if _better(recipe, record):
                _save(out / "best", recipe, carry, static, entry, record["metrics"], score)

        def out_of_patience() -> bool:
            """Whether the run has used up its patience. A run that is continued asks this again."""
            return 0 < recipe.run.patience <= record.get("worse", 0)

        with _batches(recipe, dataset, sampler, mesh, start, total) as batches, journal:
            if record.get("evaluated", start) != start:
                measure(start)
            for steps, batch in () if out_of_patience() else batches:
                carry, logs = step(carry, batch, np.float32(rate(steps - 1)))
                signals.progress = True
                journal.step(steps, logs)
                measure(steps)
                number = signals.agree(steps)
                if steps % checkpoint == 0 or steps == total or number or out_of_patience():
                    journal.settle()
                    checkpoints.save(steps, carry, record)
                if number:
                    checkpoints.close()
                    raise SignalExit(number, steps)
                if out_of_patience():
                    journal.tell(
                        f"{_best_metric(recipe)} was no better in {record['worse']} evaluations: the run ends."
                    )
                    break
    _save(out / "model", recipe, carry, static, entry, record["metrics"], score)
    if score is not None and record["best"] is None and jax.process_index() == 0:
        print(f"There is no best model: {score.remark}")
    return record["metrics"]


def select(recipe: Recipe, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and the rows held out."""
    mask = held_out(dataset, recipe.data)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def check(recipe: Recipe, entry: zoo.Entry, dataset: Dataset, rows: np.ndarray, mesh: Mesh) -> None:
    """Raises ValueError if data, recipe and devices do not fit each other."""
    rate = entry.sample_rate
    if rate != dataset.sample_rate:
        raise ValueError(
            f"{recipe.name} takes waves at {rate} Hz, {dataset.folder} is at {dataset.sample_rate} Hz: "
            f"prepare it with --sample-rate {rate}."
        )
    task = recipe.task
    if recipe.run.best not in (None, *NAMES[task]):
        raise ValueError(
            f"{recipe.name} keeps the best model by {recipe.run.best!r}: a {task} one has {', '.join(NAMES[task])}."
        )
    parts = recipe.run.accumulate * mesh.size
    if recipe.data.batch % parts:
        raise ValueError(
            f"A batch of {recipe.data.batch} cannot be shared by {mesh.size} devices in {recipe.run.accumulate} parts: "
            f"take a multiple of {parts}."
        )
    if not len(rows):
        raise ValueError(f"{recipe.name} holds out all {len(dataset)} clips of {dataset.folder}: hold out fewer.")
    if task != "contrastive" and not dataset.labels:
        raise ValueError(
            f"{dataset.folder} has no labels, and {recipe.name} learns from labels: prepare it with labels."
        )
    labels = dataset.targets.sum(axis=1)
    if task == "multiclass" and np.any(labels != 1):
        raise ValueError(
            f"{dataset.folder} has {np.sum(labels == 0)} clips without a label and {np.sum(labels > 1)} with several, "
            f"and {recipe.name} takes one label a clip: leave those clips out of the manifest, or take an objective "
            "whose task is multilabel."
        )


def build(recipe: Recipe, entry: zoo.Entry) -> tuple[Any, eqx.nn.State]:
    """The model in training mode and its State: with random weights from the seed, or a zoo model with a fresh head."""
    key = jax.random.key(recipe.run.seed)
    if recipe.model.start is None:
        model, state = zoo.create(entry, key=key)
    else:
        classes = None if entry.task == "contrastive" else entry.classes
        clip = zoo.load(recipe.model.start)
        model, state = clip.thaw(classes, task=entry.task, layers=recipe.model.layers, key=key)
    if recipe.model.lora:
        model = lora.adapt(model, recipe.model.lora, key=jax.random.fold_in(key, 1))
    _check_window(model, entry)
    return model, state


def _check_window(model: zoo.Model, entry: zoo.Entry) -> None:
    """Raises ValueError for crops that are too short for the model's frontend, or so long that it would cut them."""
    samples, shortest = round(entry.window * entry.sample_rate), model.frontend.min_samples
    longest = getattr(model.frontend, "max_samples", None)
    if not shortest <= samples <= (longest or samples):
        span = f"{shortest / entry.sample_rate:.3g} s "
        span += "or more" if longest is None else f"to {longest / entry.sample_rate:.4g} s"
        raise ValueError(f"{entry.name} hears {span}, and crops have {entry.window:g} s: give another data.seconds.")


@contextlib.contextmanager
def _batches(
    recipe: Recipe, dataset: Dataset, sampler: Sampler, mesh: Mesh, start: int, total: int
) -> Iterator[Iterator[tuple[int, Batch]]]:
    """The batches after step `start`, on the devices, each with the number of steps that end with it."""
    host_batches = train_batches(
        dataset, sampler, samples=round(recipe.data.seconds * dataset.sample_rate), views=views(recipe.objective),
        accumulate=recipe.run.accumulate, start=start, stop=total, threads=recipe.data.threads,
        host=jax.process_index(), hosts=jax.process_count(), crop_labels=recipe.task == "multilabel",
    )  # fmt: skip
    batches = to_devices(host_batches, NamedSharding(mesh, P(None, DEVICES)))
    try:
        yield enumerate(batches, start + 1)
    finally:
        host_batches.close()


def _best_metric(recipe: Recipe) -> str:
    """The name of the metric by which the best model is chosen. Its best value is the highest."""
    return recipe.run.best or NAMES[recipe.task][0]


def _better(recipe: Recipe, record: dict[str, Any]) -> bool:
    """Whether the metrics are better than all earlier ones. Updates the best value and the count of worse ones."""
    value = record["metrics"][_best_metric(recipe)]
    better = not np.isnan(value) and (record["best"] is None or value > record["best"])
    record["best"] = value if better else record["best"]
    record["worse"] = 0 if better else record.get("worse", 0) + 1  # consecutive evaluations
    return better


def _save(
    folder: pathlib.Path, recipe: Recipe, carry: Carry, static: Any, entry: zoo.Entry, metrics: dict[str, float],
    score: Scorer | None,
) -> None:  # fmt: skip
    """Writes the model's folder for `zoo.load`, with the metrics in its entry, on the first host."""
    if jax.process_index():
        return
    notes = ()
    if score is not None:
        source = f"this project: {len(score.rows)} clips {line(recipe.data.clips_held_out)}, unseen in training"
        common = {"dataset": line(score.dataset.folder.resolve().name), "source": line(source, 800)}
        values = {name: round(value, 4) for name, value in metrics.items() if name != "loss" and np.isfinite(value)}
        notes = tuple(common | {"metric": name, "value": value} for name, value in values.items())
    zoo.save(folder, *trained_model(carry, static), dataclasses.replace(entry, metrics=notes))
