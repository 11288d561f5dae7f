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
import json
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import zoo
from zoo._entry import line
from zoo._limits import check_entry
from zoo._weights import atomic

from .checkpoints import Checkpoints
from .data import Batch, Sampler, balanced_weights, to_devices, train_batches
from .dataset import Dataset
from .journal import Journal
from .metrics import NAMES, Scorer
from .objectives import DEVICES, views
from .recipe import Recipe
from .step import Carry, begin, make_step, schedule, trained_model
from .step import mesh as make_mesh

FREE = ("data.threads", "run.log", "run.keep", "run.checkpoint", "run.profile")  # may change while a run goes on


class Stopped(Exception):
    """A signal came; a checkpoint of the step is there."""

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, with a checkpoint: the same command goes on"
        )
        self.code = 128 + number


def fit(recipe: Recipe, data: pathlib.Path, out: pathlib.Path, *, devices: int | None = None) -> dict[str, float]:
    """Trains, or goes on training, in the folder `out`; gives the metrics at the end on the clips held out, if any.

    `devices` are the first so many devices of all hosts, all by default. Raises ValueError for data or a recipe that do
    not fit each other, FloatingPointError for a loss or gradient that is not finite, and `Stopped` after SIGINT or
    SIGTERM.
    """
    dataset, mesh = Dataset(data), make_mesh(devices)
    rows, held = select(recipe, dataset)
    check(recipe, dataset, rows, mesh)
    entry = recipe.entry(dataset.labels)
    check_entry(entry, f"{recipe.name} with the labels of {dataset.folder}")  # or its best model could not be saved
    _claim(recipe, dataset, out)
    carry, static = begin(*build(recipe, entry), recipe, mesh)
    weights = balanced_weights(dataset.targets[rows]) if recipe.data.balanced else None
    sampler = Sampler(rows, recipe.data.batch, recipe.run.seed, weights)
    total = recipe.total_steps(len(rows))
    evaluated, kept = (recipe.steps(each, len(rows)) for each in (recipe.run.evaluate, recipe.run.checkpoint))
    score = Scorer(entry, dataset, held, mesh, recipe.data.batch // recipe.run.accumulate) if len(held) else None
    if score is not None and score.remark and jax.process_index() == 0:
        print(score.remark)
    with Checkpoints(out / "checkpoints", recipe.run.keep) as checkpoints, Signals() as signals:
        carry, record = checkpoints.restore(carry)
        start = int(carry.step)
        step, rate = make_step(recipe, static, mesh), schedule(recipe, len(rows))
        journal = Journal(out, recipe, dataset, sampler, total, start)
        with _batches(recipe, dataset, sampler, mesh, start, total) as batches, journal:
            for done, batch in batches:
                carry, logs = step(carry, batch, np.float32(rate(done - 1)))
                journal.step(done, logs)
                came = signals.agreed(done)
                if score is not None and (done % evaluated == 0 or done == total):
                    journal.settle()
                    record["metrics"] = score(*trained_model(carry, static))
                    journal.evaluation(done, record["metrics"])
                    if _better(recipe, record):
                        _save(out / "best", recipe, carry, static, entry, record["metrics"], score)
                if done % kept == 0 or done == total or came:
                    journal.settle()
                    checkpoints.save(done, carry, record)
                if came:
                    checkpoints.close()
                    raise Stopped(came, done)
    _save(out / "model", recipe, carry, static, entry, record["metrics"], score)
    if score is not None and record["best"] is None and jax.process_index() == 0:
        print(f"There is no {out / 'best'}: {score.remark}")
    return record["metrics"]


def select(recipe: Recipe, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and the rows held out."""
    column, values = recipe.data.hold_out, recipe.data.held_out
    return dataset.rows(column, values, held_out=False), dataset.rows(column, values, held_out=True)


def check(recipe: Recipe, dataset: Dataset, rows: np.ndarray, mesh: Mesh) -> None:
    """Raises ValueError where data, recipe and devices do not fit each other."""
    rate = recipe.model.frontend.get("sample_rate") or zoo.info(recipe.model.start or "").sample_rate
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
        model, state = zoo.load(recipe.model.start).thaw(classes, task=entry.task, key=key)
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


class Signals:
    """SIGINT and SIGTERM, remembered until the step under way is done; a second one acts at once."""

    def __init__(self):
        self.came, self.before = 0, {}

    def __enter__(self) -> "Signals":
        with contextlib.suppress(ValueError):  # only the main thread may listen
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: Any) -> None:
        self.came = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agreed(self, step: int) -> int:
        """The signal that came to any host, 0 for none; hosts ask each other at every tenth step."""
        if jax.process_count() == 1:
            return self.came
        if step % 10:
            return 0
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(self.came)).max())


@contextlib.contextmanager
def _batches(
    recipe: Recipe, dataset: Dataset, sampler: Sampler, mesh: Mesh, start: int, total: int
) -> Iterator[Iterator[tuple[int, Batch]]]:
    """The batches after step `start`, on the devices, each with the number of steps done after it."""
    given = train_batches(
        dataset, sampler, samples=round(recipe.data.seconds * dataset.sample_rate), views=views(recipe.objective),
        accumulate=recipe.run.accumulate, start=start, stop=total, threads=recipe.data.threads,
        host=jax.process_index(), hosts=jax.process_count(),
    )  # fmt: skip
    batches = to_devices(given, NamedSharding(mesh, P(None, DEVICES)))
    try:
        yield enumerate(batches, start + 1)
    finally:
        given.close()


def _claim(recipe: Recipe, dataset: Dataset, out: pathlib.Path) -> None:
    """Makes the folder of the run, or raises ValueError where a run of another recipe or other data has begun in it."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / "recipe.json"
    now = {"dataset": dataset.digest} | json.loads(recipe.to_json())
    if note.exists() and any(out.glob("checkpoints/[0-9]*")):
        changed = ", ".join(_differences(json.loads(note.read_text(encoding="utf-8")), now))
        if changed:
            raise ValueError(f"{out} holds another run, which differs in {changed}: choose another folder.")
    if jax.process_index() == 0:
        with atomic(note) as temporary:
            temporary.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            name = f"{path}.{key}".lstrip(".")
            if name not in FREE:
                yield from _differences(before.get(key), now.get(key), name)
    elif before != now:
        yield f"{path} ({before} then, {now} now)"


def _better(recipe: Recipe, record: dict[str, Any]) -> bool:
    """Whether the metrics are better than the best before, which they then are."""
    found = record["metrics"]
    name = recipe.run.best or NAMES[recipe.task][0]
    better = not np.isnan(found[name]) and (record["best"] is None or found[name] > record["best"])
    record["best"] = found[name] if better else record["best"]
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
        values = line(", ".join(recipe.data.held_out))
        source = f"this project: {len(score.rows)} clips whose {recipe.data.hold_out} is {values}, unseen in training"
        common = {"dataset": line(score.dataset.folder.resolve().name), "source": line(source, 800)}
        values = {name: round(value, 4) for name, value in found.items() if name != "loss" and np.isfinite(value)}
        notes = tuple(common | {"metric": name, "value": value} for name, value in values.items())
    zoo.save(folder, *trained_model(carry, static), dataclasses.replace(entry, metrics=notes))
