"""The loop: from a recipe and prepared data to a run's folder, in epochs or steps.

    recipe.json   what is trained; the same command goes on with it
    checkpoints/  by Orbax: written while training goes on, each whole or not at all, the last `keep`
    log.jsonl     losses, rates, throughput and evaluations, a JSON object a line; tensorboard/ shows the same
    best/         the best model by the recipe's metric on the clips held out, for `zoo.load`
    model/        the model at the end, for `zoo.load`
    profile/      a trace, on request

The number of steps done is the whole position: data, random keys and rates follow from it and the seed. A run that was
killed and started again ends with the same weights, bit by bit, on the same number of devices.
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
from .folder import claimed, note, plainly_named
from .journal import Callback, Journal
from .metrics import NAMES, Scorer
from .objectives import DEVICES, counted, views
from .recipe import Recipe
from .signals import Interrupted, Signals, Stopped
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
    """Trains, or goes on training, in the folder `out`; gives the metrics at the end on the clips held out, if any.

    - `devices`: the first so many devices of all hosts, all by default.
    - `callback`: called with a number of steps and a dict of numbers for each line of `log.jsonl`, on the first host:
      "loss", "gradient_norm", "learning_rate", "clips_per_second", and "evaluation/accuracy" and its kin. A run that
      goes on tells again of the steps since its last checkpoint.

    Raises ValueError for data or a recipe that do not fit each other, BlockingIOError where another process trains in
    `out`, FloatingPointError for a loss or gradient that is not finite, `Stopped` after SIGINT or SIGTERM, and what the
    callback raises.
    """
    dataset, mesh = Dataset(data), make_mesh(devices)
    rows, held = select(recipe, dataset)
    entry = recipe.entry(dataset.labels)
    check(recipe, entry, dataset, rows, mesh)
    check_entry(entry, f"{recipe.name} with the labels of {dataset.folder}")  # or its best model could not be saved
    with claimed(out), plainly_named(out) as folder:
        note(out, recipe, dataset, len(rows))
        return _train(recipe, dataset, entry, rows, held, mesh, folder, callback)


def _train(
    recipe: Recipe, dataset: Dataset, entry: zoo.Entry, rows: np.ndarray, held: np.ndarray, mesh: Mesh,
    out: pathlib.Path, callback: Callback | None,
) -> dict[str, float]:  # fmt: skip
    """`fit` in a folder that is ours."""
    recipe = dataclasses.replace(recipe, objective=counted(recipe.objective, dataset.targets[rows]))
    carry, static = begin(*build(recipe, entry), recipe, mesh)
    weights = balanced_weights(dataset.targets[rows]) if recipe.data.balanced else None
    sampler = Sampler(rows, recipe.data.batch, recipe.run.seed, weights)
    total = recipe.total_steps(len(rows))
    evaluation, checkpoint = (recipe.steps(each, len(rows)) for each in (recipe.run.evaluate, recipe.run.checkpoint))
    score = Scorer(entry, dataset, held, mesh, recipe.data.batch // recipe.run.accumulate) if len(held) else None
    if score is not None and score.remark and jax.process_index() == 0:
        print(score.remark)
    with Checkpoints(out / "checkpoints", recipe.run.keep) as checkpoints, Signals() as signals:
        carry, record = checkpoints.restore(carry)
        start = int(carry.step)
        step, rate = make_step(recipe, static, mesh), schedule(recipe, len(rows))
        journal = Journal(out, recipe, dataset, sampler, total, start, callback)

        def measure(done: int) -> None:
            """Evaluates the carry, and keeps it if it is the best, where that is due; a signal cuts it off."""
            if score is None or done == 0 or not (done % evaluation == 0 or done == total):
                return
            journal.settle()
            try:
                record["metrics"] = score(*trained_model(carry, static), signals.check)
            except Interrupted:
                return
            record["evaluated"] = done
            journal.evaluation(done, record["metrics"])
            if _better(recipe, record):
                _save(out / "best", recipe, carry, static, entry, record["metrics"], score)

        def over() -> bool:
            """Whether the metric has been no better for too long; a run that goes on asks again."""
            return 0 < recipe.run.patience <= record.get("worse", 0)

        with _batches(recipe, dataset, sampler, mesh, start, total) as batches, journal:
            if record.get("evaluated", start) != start:
                measure(start)
            for done, batch in () if over() else batches:
                carry, logs = step(carry, batch, np.float32(rate(done - 1)))
                signals.progress = True
                journal.step(done, logs)
                measure(done)
                number = signals.agreed(done)
                if done % checkpoint == 0 or done == total or number or over():
                    journal.settle()
                    checkpoints.save(done, carry, record)
                if number:
                    checkpoints.close()
                    raise Stopped(number, done)
                if over():
                    journal.tell(f"{_measure(recipe)} was no better in {record['worse']} evaluations: the run ends.")
                    break
    _save(out / "model", recipe, carry, static, entry, record["metrics"], score)
    if score is not None and record["best"] is None and jax.process_index() == 0:
        print(f"There is no best model: {score.remark}")
    return record["metrics"]


def select(recipe: Recipe, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and the rows held out."""
    chosen = held_out(dataset, recipe.data)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check(recipe: Recipe, entry: zoo.Entry, dataset: Dataset, rows: np.ndarray, mesh: Mesh) -> None:
    """Raises ValueError where data, recipe and devices do not fit each other."""
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
        raise ValueError(f"{dataset.folder} has no labels, and {recipe.name} learns from labels: prepare them too.")
    labels = dataset.targets.sum(axis=1)
    if task == "multiclass" and np.any(labels != 1):
        raise ValueError(
            f"{dataset.folder} has {np.sum(labels == 0)} clips without a label and {np.sum(labels > 1)} with several, "
            f"and {recipe.name} takes one each: leave them out of the manifest, or take an objective whose task is "
            "multilabel."
        )


def build(recipe: Recipe, entry: zoo.Entry) -> tuple[Any, eqx.nn.State]:
    """The model in training mode and its State: with random weights by the seed, or from the zoo with a fresh head."""
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
    """Raises ValueError for crops that the model's frontend cannot take, or of which it would leave out the end."""
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
    """The batches after step `start`, on the devices, each with the number of steps done after it."""
    given = train_batches(
        dataset, sampler, samples=round(recipe.data.seconds * dataset.sample_rate), views=views(recipe.objective),
        accumulate=recipe.run.accumulate, start=start, stop=total, threads=recipe.data.threads,
        host=jax.process_index(), hosts=jax.process_count(), heard=recipe.task == "multilabel",
    )  # fmt: skip
    batches = to_devices(given, NamedSharding(mesh, P(None, DEVICES)))
    try:
        yield enumerate(batches, start + 1)
    finally:
        given.close()


def _measure(recipe: Recipe) -> str:
    """The metric that the best model has the most of."""
    return recipe.run.best or NAMES[recipe.task][0]


def _better(recipe: Recipe, record: dict[str, Any]) -> bool:
    """Whether the metrics are better than the best before, which they then are."""
    value = record["metrics"][_measure(recipe)]
    better = not np.isnan(value) and (record["best"] is None or value > record["best"])
    record["best"] = value if better else record["best"]
    record["worse"] = 0 if better else record.get("worse", 0) + 1  # evaluations in a row
    return better


def _save(
    folder: pathlib.Path, recipe: Recipe, carry: Carry, static: Any, entry: zoo.Entry, found: dict[str, float],
    score: Scorer | None,
) -> None:  # fmt: skip
    """The model's folder for `zoo.load`, its metrics in its entry; the first host writes it."""
    if jax.process_index():
        return
    notes = ()
    if score is not None:
        source = f"this project: {len(score.rows)} clips {line(recipe.data.clips_held_out)}, unseen in training"
        common = {"dataset": line(score.dataset.folder.resolve().name), "source": line(source, 800)}
        values = {name: round(value, 4) for name, value in found.items() if name != "loss" and np.isfinite(value)}
        notes = tuple(common | {"metric": name, "value": value} for name, value in values.items())
    zoo.save(folder, *trained_model(carry, static), dataclasses.replace(entry, metrics=notes))
