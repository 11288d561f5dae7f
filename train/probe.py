"""What does a model know? A linear head on embeddings that are computed once, in seconds, and cross-validated.

    clips --zoo.embed--> embeddings.npz --standardised, L-BFGS--> a head for each fold, and one on all clips

    embeddings.npz  of this model and these data; the same command takes them from there
    probe.json      metrics of each fold
    confusions.png  which label was taken for which, each clip by the head that has not seen it
    model/          the model with the head of all clips, for `zoo.load`

The head is that of multinomial or, for several labels a clip, binary logistic regression with a penalty of
`l2 / 2 * |weights|^2`, as scikit-learn's with C = 1 / l2. Standardisation becomes part of its weights.
"""

import contextlib
import functools
import json
import os
import pathlib
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jaxtyping import Array, Float, Float32, Int

import zoo
from audax_eqx.layers import Linear
from audax_eqx.models import Classifier
from zoo._audio import window_size
from zoo._fingerprint import fingerprint
from zoo._pretrained import embedding
from zoo._recordings import Options, results
from zoo._weights import atomic

from . import metrics
from .data import windows_of
from .dataset import Dataset
from .evaluation import confusion_counts, confusions, per_label, per_label_ranked
from .split import folds as folds_of

Task = Literal["multiclass", "multilabel"]
Rows = Float32[np.ndarray, "clips width"]

STEPS, TOLERANCE = 500, 1e-4  # of L-BFGS, and the gradient's largest number that ends it earlier


def probe(
    model: str | os.PathLike,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    column: str | None = None,
    folds: int = 5,
    task: Task | None = None,
    window: float | None = None,
    l2: float = 1.0,
) -> tuple[list[dict[str, float]], str]:
    """Trains and cross-validates a linear head, writes the folder `out`, and gives metrics of each fold and a report.

    - `model`: anything that `zoo.load` takes; `data`: a prepared folder at its sample rate.
    - `column`: each of its values is held out in turn; without one, `folds` parts of the recordings.
    - `task`: "multiclass" where each clip has one label, else "multilabel", unless given.
    - `window`: seconds that a clip is cut into; the model's native length unless given.
    - `l2`: the penalty.

    Raises ValueError for data that do not fit the model, and for a model whose head is not linear.
    """
    clip, dataset, out = zoo.load(model), Dataset(data), pathlib.Path(out)
    one_each = bool((dataset.targets.sum(axis=1) == 1).all())
    task = task or ("multiclass" if one_each else "multilabel")
    if not 0 < l2 < np.inf:
        raise ValueError(f"l2 is a penalty of more than 0, got {l2}: 1 is the usual one.")
    thawed = _thawed(clip, dataset, task, window, pathlib.Path(out).resolve().name)
    targets = metrics.matched(thawed.entry, dataset, np.arange(len(dataset)))
    parts = _parts(dataset, column, folds)
    out.mkdir(parents=True, exist_ok=True)
    features = _inputs(thawed[0], _cached(clip, dataset, thawed.entry.window, out / "embeddings.npz"))
    fit = functools.partial(fit_head, features, targets, task=task, l2=l2)
    predicted, scores = np.zeros_like(targets, np.float64), []
    measure = metrics.multiclass if task == "multiclass" else metrics.multilabel
    for number in range(parts.max() + 1):
        held = parts == number
        weight, bias = fit(~held)
        predicted[held] = probabilities(features[held] @ weight.T + bias, task)
        scores.append(measure(predicted[held], targets[held]))
    entry = thawed.entry.replace(metrics=_notes(scores, dataset, column))
    head = eqx.tree_at(lambda head: (head.weight, head.bias), thawed[0].head, tuple(map(jnp.asarray, fit(None))))
    trained = eqx.nn.inference_mode(eqx.tree_at(lambda model: model.head, thawed[0], head))
    zoo.save(out / "model", trained, thawed[1], entry)
    with atomic(out / "probe.json") as temporary:
        temporary.write_text(json.dumps({"task": task, "l2": l2, "folds": scores}, indent=2) + "\n", "utf-8")
    labels = dataset.labels
    if task == "multilabel":
        return scores, per_label_ranked(predicted, targets, labels)
    draw(confusion_counts(predicted, targets), labels, out / "confusions.png")
    return scores, f"{per_label(predicted, targets, labels)}\n{confusions(predicted, targets, labels)}"


def embed(clip: zoo.Pretrained, dataset: Dataset, window: float) -> Rows:
    """An embedding a clip, as `zoo.embed` gives it, of parts of recordings with what is around them in a window."""
    spans = windows_of(dataset, np.arange(len(dataset)), window_size(window, clip.sample_rate)).tolist()

    def blocks(span: tuple[int, int, int]) -> Any:
        row, start, end = span
        for place in range(start, end, metrics.BLOCK):
            yield dataset.read(row, place, min(metrics.BLOCK, end - place))

    clips = [(row, *span) for row, span in enumerate(spans)]
    width = clip.model.network.width
    rows = np.empty((len(clips), width), np.float32)
    with contextlib.closing(results(clip, clips, embedding, width, Options(window=window), blocks)) as stream:
        for place, result in enumerate(tqdm.tqdm(stream, total=len(clips), unit="clip", desc=clip.entry.name)):
            rows[place] = result.values[0]
    return rows


def fit_head(
    features: Rows,
    targets: Float[np.ndarray, "clips classes"],
    chosen: np.ndarray | None = None,
    *,
    task: Task,
    l2: float = 1.0,
) -> tuple[Float32[np.ndarray, "classes width"], Float32[np.ndarray, " classes"]]:
    """Weights and bias of the head that the `chosen` clips give, all unless given, for features as they are."""
    shares = np.ones(len(features), np.float32) if chosen is None else chosen.astype(np.float32)
    counted = features[shares > 0].astype(np.float64)
    mean, spread = counted.mean(axis=0), counted.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    inputs = ((features - mean) / spread).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax mixes them
        weight, bias = map(np.asarray, _minimise(inputs, targets.astype(np.float32), shares, np.float32(l2), task))
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


@functools.partial(jax.jit, static_argnames="task")
def _minimise(inputs: Array, targets: Array, shares: Array, l2: Array, task: Task) -> tuple[Array, Array]:
    """L-BFGS from zero; clips with a share of 0 do not count, so that all folds are one program."""

    def loss(head: tuple[Array, Array]) -> Array:
        logits = jnp.matmul(inputs, head[0].T, precision="highest") + head[1]
        if task == "multiclass":
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=1)
        return (jnp.sum(shares * losses) + l2 / 2 * jnp.sum(head[0] ** 2)) / jnp.sum(shares)

    optimizer, value_and_gradient = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        head, state, _, number = carry
        value, gradient = value_and_gradient(head, state=state)
        updates, state = optimizer.update(gradient, state, head, value=value, grad=gradient, value_fn=loss)
        size = optax.tree.norm(gradient, ord=jnp.inf)
        return optax.apply_updates(head, updates), state, size, number + 1

    start = jnp.zeros((targets.shape[1], inputs.shape[1])), jnp.zeros(targets.shape[1])
    carry = start, optimizer.init(start), jnp.float32(jnp.inf), jnp.int32(0)
    return jax.lax.while_loop(lambda carry: (carry[2] > TOLERANCE) & (carry[3] < STEPS), step, carry)[0]


def probabilities(logits: Float[np.ndarray, "clips classes"], task: Task) -> Float[np.ndarray, "clips classes"]:
    """Softmax of each row, or a sigmoid of each number, in float64."""
    logits = logits.astype(np.float64)
    if task == "multilabel":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def draw(counts: Int[np.ndarray, "classes classes"], labels: tuple[str, ...], path: pathlib.Path) -> None:
    """A picture of the confusions, each row in shares of its clips; a line says so where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f'{path} is not drawn without matplotlib: pip install "audax-eqx[plot]"')
        return
    size = min(3 + 0.3 * len(labels), 40)
    figure = Figure(figsize=(size, size), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90, parse_math=False)
    axes.set_yticks(places, labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="label")
    for truth, guess in np.argwhere(counts) if len(labels) <= 50 else ():
        dark = counts[truth, guess] > counts[truth].sum() / 2
        axes.text(guess, truth, str(counts[truth, guess]), ha="center", va="center", color="white" if dark else "black")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def _thawed(clip: zoo.Pretrained, dataset: Dataset, task: Task, window: float | None, name: str) -> Any:
    """The model with a fresh linear head for the data's labels, behind what it has in front of one."""
    if not dataset.labels:
        raise ValueError(f"{dataset.folder} has no labels, and a probe learns from labels: prepare them too.")
    thawed = clip.thaw(labels=dataset.labels, task=task, window=window, name=name, key=jax.random.key(0))
    model: Any = thawed[0]
    assert isinstance(model, Classifier)
    if not isinstance(model.head, Linear) or model.hidden is not None:
        raise ValueError(
            f"{clip.entry.name} has a head that is not linear in its embedding: train one by audax-train finetune."
        )
    before = clip.model.projection if isinstance(clip.model, Classifier) else None
    if before is not None:
        model = eqx.tree_at(lambda model: model.projection, model, before)
    return type(thawed)(model, thawed[1], thawed.entry)


def _inputs(model: Classifier, rows: Rows) -> Rows:
    """What the head hears of embeddings."""
    bare = eqx.tree_at(lambda model: model.head, eqx.nn.inference_mode(model), _Identity(model.head_inputs))
    return np.asarray(eqx.filter_jit(lambda model, rows: jax.lax.map(model.logits, rows))(bare, rows))


class _Identity(eqx.Module):
    """A head that gives what it hears."""

    outputs: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return x


def _cached(clip: zoo.Pretrained, dataset: Dataset, window: float, path: pathlib.Path) -> Rows:
    """The embeddings in the file, or those that are then written there."""
    origin = f"{fingerprint(clip)} {dataset.digest} {window}"
    with contextlib.suppress(FileNotFoundError, KeyError, ValueError), np.load(path) as file:
        if str(file["origin"]) == origin:
            return file["embeddings"]
    rows = embed(clip, dataset, window)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, embeddings=rows, origin=np.array(origin))
    return rows


def _parts(dataset: Dataset, column: str | None, folds: int) -> Int[np.ndarray, " clips"]:
    """The number of each clip's part, from 0 on. Raises ValueError for a column that does not divide the data."""
    if column is None:
        return folds_of(dataset, folds)
    if column not in dataset.columns:
        dataset.rows(column, held_out=True)  # which raises, and lists the columns
    values, parts = np.unique(dataset.columns[column], return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"{dataset.folder} has one value in its column {column}: name another, or give --folds.")
    return parts


def _notes(scores: list[dict[str, float]], dataset: Dataset, column: str | None) -> tuple[dict[str, Any], ...]:
    """The mean over the folds of each metric that is a number, with its source, for the entry."""
    parts = f"{len(scores)} parts of the recordings" if column is None else f"{len(scores)} values of {column}"
    notes = []
    for name in scores[0]:
        values = np.array([each[name] for each in scores])
        if name == "loss" or not np.isfinite(values).all():
            continue
        spread = f"standard deviation {values.std():.3f}"
        source = f"this project: a linear probe, mean over {parts}, {len(dataset)} clips, each unseen in turn, {spread}"
        value = round(float(values.mean()), 4)
        notes.append({"dataset": dataset.folder.resolve().name, "metric": name, "value": value, "source": source})
    return tuple(notes)
