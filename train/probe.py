"""The probe: a linear head on embeddings of a model that are computed once, trained in seconds and cross-validated.

    clips --zoo.embed--> embeddings.npz --standardise, L-BFGS--> a head for each fold, and one for all clips

    embeddings.npz  the embeddings of these data by this model, which the next call reads
    probe.json      the metrics of each fold
    confusions.png  the confusions of labels; each clip is predicted by a head that was not trained on it
    model/          the model with the head that was trained on all clips, for `zoo.load`

The head is a multinomial logistic regression, or for several labels a clip a binary one for each label. Its penalty is
`l2 / 2 * |weights|^2`, that of scikit-learn with C = 1 / l2. Standardisation becomes part of the weights.
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
from zoo.tools import Options, atomic, embedding, fingerprint, results, window_size

from . import metrics
from .data import windows_of
from .dataset import Dataset
from .evaluation import confusion_counts, confusions, per_label, per_label_ranked
from .split import folds as folds_of

Task = Literal["multiclass", "multilabel"]
Rows = Float32[np.ndarray, "clips width"]

STEPS = 500  # the largest number of steps of L-BFGS
TOLERANCE = 1e-4  # L-BFGS stops once no entry of the gradient is larger


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
    """Trains and cross-validates a linear head, writes the folder `out`, and returns the metrics of each fold and a
    report.

    - `model`: anything that `zoo.load` takes.
    - `data`: a prepared folder at the model's sample rate.
    - `column`: the column of the manifest whose values are held out in turn.
    - `folds`: the number of sets of recordings that are held out in turn, without a column.
    - `task`: "multiclass" or "multilabel"; by default "multiclass" if each clip has one label.
    - `window`: the length in seconds of the windows that a clip is cut into; by default the model's native length.
    - `l2`: the penalty.

    Raises ValueError for data that do not fit the model, and for a model whose head is not linear.
    """
    clip, dataset, out = zoo.load(model), Dataset(data), pathlib.Path(out)
    has_single_labels = bool((dataset.targets.sum(axis=1) == 1).all())
    task = task or ("multiclass" if has_single_labels else "multilabel")
    if not 0 < l2 < np.inf:
        raise ValueError(f"l2 is a penalty of more than 0, got {l2}: 1 is the usual one.")
    model_with_head, state, entry = _fresh_head(clip, dataset, task, window, pathlib.Path(out).resolve().name)
    targets = metrics.match_targets(entry, dataset, np.arange(len(dataset)))
    parts = _parts(dataset, column, folds)
    out.mkdir(parents=True, exist_ok=True)
    features = _inputs(model_with_head, _embeddings(clip, dataset, entry.window, out / "embeddings.npz"))
    fit = functools.partial(fit_head, features, targets, task=task, l2=l2)
    predictions, scores = np.zeros_like(targets, np.float64), []
    measure = metrics.multiclass if task == "multiclass" else metrics.multilabel
    for number in range(parts.max() + 1):
        fold = parts == number
        weight, bias = fit(~fold)
        predictions[fold] = probabilities(features[fold] @ weight.T + bias, task)
        scores.append(measure(predictions[fold], targets[fold]))
    entry = entry.replace(metrics=_notes(scores, dataset, column))
    head = eqx.tree_at(lambda head: (head.weight, head.bias), model_with_head.head, tuple(map(jnp.asarray, fit(None))))
    probe_model = eqx.nn.inference_mode(eqx.tree_at(lambda model: model.head, model_with_head, head))
    zoo.save(out / "model", probe_model, state, entry)
    with atomic(out / "probe.json") as temporary:
        temporary.write_text(json.dumps({"task": task, "l2": l2, "folds": scores}, indent=2) + "\n", "utf-8")
    labels = dataset.labels
    if task == "multilabel":
        return scores, per_label_ranked(predictions, targets, labels)
    draw(confusion_counts(predictions, targets), labels, out / "confusions.png")
    return scores, f"{per_label(predictions, targets, labels)}\n{confusions(predictions, targets, labels)}"


def embed(clip: zoo.Pretrained, dataset: Dataset, window: float) -> Rows:
    """The embedding of each clip, as from `zoo.embed`. A part of a recording that is shorter than a window is embedded
    with the sound around it."""
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
    mask: np.ndarray | None = None,
    *,
    task: Task,
    l2: float = 1.0,
) -> tuple[Float32[np.ndarray, "classes width"], Float32[np.ndarray, " classes"]]:
    """Weights and bias of a head that is trained on the clips that `mask` marks, by default on all of them.

    They apply to features that are not standardised.
    """
    shares = np.ones(len(features), np.float32) if mask is None else mask.astype(np.float32)
    sample = features[shares > 0].astype(np.float64)
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    inputs = ((features - mean) / spread).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax mixes them
        weight, bias = map(np.asarray, _minimise(inputs, targets.astype(np.float32), shares, np.float32(l2), task))
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


@functools.partial(jax.jit, static_argnames="task")
def _minimise(inputs: Array, targets: Array, shares: Array, l2: Array, task: Task) -> tuple[Array, Array]:
    """L-BFGS from zero. Clips with a share of 0 do not count, so that all folds run the same program."""

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
    """Draws the confusions, with each row in shares of its clips. Without matplotlib it prints a line instead."""
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


def _fresh_head(
    clip: zoo.Pretrained, dataset: Dataset, task: Task, window: float | None, name: str
) -> tuple[Any, eqx.nn.State, zoo.Entry]:
    """The model with a fresh linear head for the labels of the data, its State and its entry."""
    if not dataset.labels:
        raise ValueError(f"{dataset.folder} has no labels, and a probe learns from labels: prepare it with labels.")
    clip_to_train = clip.thaw(labels=dataset.labels, task=task, window=window, name=name, key=jax.random.key(0))
    model: Any = clip_to_train[0]
    assert isinstance(model, Classifier)
    if not isinstance(model.head, Linear) or model.hidden is not None:
        raise ValueError(
            f"{clip.entry.name} has a head that is not linear in its embedding: train one by audax-train finetune."
        )
    projection = clip.model.projection if isinstance(clip.model, Classifier) else None
    if projection is not None:  # keeps the pretrained one
        model = eqx.tree_at(lambda model: model.projection, model, projection)
    return model, clip_to_train[1], clip_to_train.entry


def _inputs(model: Classifier, rows: Rows) -> Rows:
    """The inputs of the head for these embeddings."""
    headless_model = eqx.tree_at(lambda model: model.head, eqx.nn.inference_mode(model), _Identity(model.head_inputs))
    return np.asarray(eqx.filter_jit(lambda model, rows: jax.lax.map(model.logits, rows))(headless_model, rows))


class _Identity(eqx.Module):
    """A head that returns its input."""

    outputs: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return x


def _embeddings(clip: zoo.Pretrained, dataset: Dataset, window: float, path: pathlib.Path) -> Rows:
    """The embeddings from the file if it has those of this model and these data; else computes and writes them."""
    origin = f"{fingerprint(clip)} {dataset.digest} {window}"
    with contextlib.suppress(FileNotFoundError, KeyError, ValueError), np.load(path) as file:
        if str(file["origin"]) == origin:
            return file["embeddings"]
    rows = embed(clip, dataset, window)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, embeddings=rows, origin=np.array(origin))
    return rows


def _parts(dataset: Dataset, column: str | None, folds: int) -> Int[np.ndarray, " clips"]:
    """The number of the fold of each clip, from 0 on. Raises ValueError for a column that does not divide the data."""
    if column is None:
        return folds_of(dataset, folds)
    if column not in dataset.columns:
        dataset.rows(column, held_out=True)  # raises, with a list of the columns
    values, parts = np.unique(dataset.columns[column], return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"{dataset.folder} has one value in its column {column}: name another, or give --folds.")
    return parts


def _notes(scores: list[dict[str, float]], dataset: Dataset, column: str | None) -> tuple[dict[str, Any], ...]:
    """The metrics for the entry: the mean over the folds of each finite one, with its source."""
    parts = f"{len(scores)} parts of the recordings" if column is None else f"{len(scores)} values of {column}"
    notes = []
    for name in scores[0]:
        values = np.array([score[name] for score in scores])
        if name == "loss" or not np.isfinite(values).all():
            continue
        spread = f"standard deviation {values.std():.3f}"
        source = f"this project: a linear probe, mean over {parts}, {len(dataset)} clips, each unseen in turn, {spread}"
        value = round(float(values.mean()), 4)
        notes.append({"dataset": dataset.folder.resolve().name, "metric": name, "value": value, "source": source})
    return tuple(notes)
