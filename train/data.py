"""Streams of batches from what `prepare` wrote, for training, by tf.data.

A stream is a function of its seed and the step's number alone. Neither threads nor hosts change it, a run goes on from
any step without reading what came before, and an epoch has every example once.
"""

import atexit
import collections
import contextlib
import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, Int16, Int32

from .dataset import Dataset as Dataset
from .records import tensorflow

CHUNK = 16  # examples that a thread decodes at a time: enough to hide what a call from tf.data costs
AHEAD = 2  # batches that are decoded before they are asked for
ENDLESS = 1 << 40  # steps

Plan = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Batch(NamedTuple):
    """Clips for one step. Waves are zero from their length on. They are int16 with a full scale of 32768, or float32
    where an example of the dataset needs more; `heard` makes both the same.
    """

    waves: Int16[Any, "*batch views samples"] | Float32[Any, "*batch views samples"]
    lengths: Int32[Any, "*batch views"]
    targets: Float32[Any, "*batch classes"]
    rows: Int32[Any, "*batch"]


def heard(waves: Any) -> Float32[Any, "*batch views samples"]:
    """A batch's waves at the level that `zoo.read` gives them, JAX arrays."""
    return waves if waves.dtype == jnp.float32 else waves.astype(jnp.float32) / 32768


class Sampler:
    """The order of training: an endless stream of examples, in which step `n` has those from `n * batch` on.

    An epoch is a permutation of `rows`, or with `weights` as many draws from them with these probabilities. Raises
    ValueError for no rows, and for weights that are not one nonnegative number for each row.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " rows"],
        batch: int,
        seed: int,
        weights: Float[np.ndarray, " rows"] | None = None,
    ):
        if not len(rows) or batch < 1:
            raise ValueError(f"{len(rows)} rows in batches of {batch} give no training: both must be 1 or more.")
        if weights is not None and (weights.shape != rows.shape or not (weights >= 0).all() or not weights.any()):
            raise ValueError(
                f"weights of shape {weights.shape} for {len(rows)} rows must be one number each, none of them negative."
            )
        self.rows, self.batch, self.seed = rows, batch, seed
        self.weights = None if weights is None else weights.astype(np.float64) / weights.sum(dtype=np.float64)
        self._order = functools.lru_cache(2)(self._shuffled)  # a batch may span two epochs

    def rows_of(self, step: int) -> Int[np.ndarray, " batch"]:
        """The examples of a step."""
        return self.rows_at(step * self.batch + np.arange(self.batch))

    def rows_at(self, counters: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """The examples at these places of the stream."""
        epochs, places = np.divmod(counters, len(self.rows))
        found = np.empty(len(counters), self.rows.dtype)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._order(int(epoch))[places[here]]
        return found

    def _shuffled(self, epoch: int) -> Int[np.ndarray, " rows"]:
        generator = np.random.default_rng([self.seed, epoch])
        if self.weights is None:
            return self.rows[generator.permutation(len(self.rows))]
        return self.rows[generator.choice(len(self.rows), len(self.rows), p=self.weights)]


def balanced_weights(targets: Float[np.ndarray, "examples classes"]) -> Float[np.ndarray, " examples"]:
    """Probabilities that draw rare labels as often as frequent ones: each example's sum over its labels of 1 / count.

    As PSLA (Gong et al., 2021) and AST do for AudioSet. An example without labels is as probable as the least of the
    others. Raises ValueError when none has any.
    """
    weights = targets @ (1 / np.maximum(targets.sum(axis=0, dtype=np.float64), 1))
    if not weights.any():
        raise ValueError(f"none of {len(targets)} examples has a label, so they cannot be balanced: train unbalanced.")
    weights[weights == 0] = weights[weights > 0].min()
    return weights / weights.sum()


def train_batches(
    dataset: Dataset,
    sampler: Sampler,
    *,
    samples: int,
    views: int = 1,
    accumulate: int = 1,
    start: int = 0,
    stop: int | None = None,
    host: int = 0,
    hosts: int = 1,
    threads: int | None = None,
    heard: bool = False,
) -> Generator[Batch]:
    """This host's part of each step from `start` on, endless or to before `stop`; arrays `[accumulate, local, ...]`.

    A view is a crop of `samples`, each of those that fit as likely, drawn from the sampler's seed, the example's place
    in the stream and the view's number. A part of a recording lies inside of its crop if it is shorter, and the crop in
    it if it is longer. Targets are those of the example, or, with `heard`, of all that its crop has. `threads` decode,
    by default one for each core. Raises ValueError for a batch that does not split into `accumulate` times `hosts`
    equal parts, and for a corrupt record when it is reached.
    """
    local = _share(sampler.batch, hosts, host, accumulate)
    places = np.arange(sampler.batch).reshape(accumulate, hosts, local)[:, host].reshape(-1)

    def plan(positions):
        steps, inside = np.divmod(positions, len(places))
        counters = steps * sampler.batch + places[inside]
        rows = sampler.rows_at(counters)
        return rows, crops(dataset, rows, samples, views, sampler.seed, counters)

    steps = (start, ENDLESS if stop is None else stop)
    targets = functools.partial(_heard, dataset, samples) if heard else lambda row, _: dataset.targets[row]
    return _stream(dataset, plan, targets, steps, (accumulate, local), (views, samples), threads)


def _heard(dataset: Dataset, samples: int, row: int, starts: list[int]) -> np.ndarray:
    return dataset.targets_in(row, starts[0], samples)


def to_devices(batches: Iterator[Batch], sharding: jax.sharding.Sharding, ahead: int = 2) -> Iterator[Batch]:
    """The batches as global arrays laid out by `sharding`, `ahead` of them on their way before they are asked for."""
    waiting = collections.deque()
    for batch in batches:
        waiting.append(Batch(*(jax.make_array_from_process_local_data(sharding, leaf) for leaf in batch)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _share(batch: int, hosts: int, host: int, accumulate: int) -> int:
    """A host's examples of one part of a batch."""
    if not 0 <= host < hosts:
        raise ValueError(f"host {host} is not one of {hosts}: they count from 0.")
    if batch < 1 or batch % (accumulate * hosts):
        parts = f"{accumulate} x {hosts}"
        raise ValueError(
            f"a batch of {batch} does not split into {parts} equal parts (accumulate x hosts): take a multiple of "
            f"{accumulate * hosts}."
        )
    return batch // (accumulate * hosts)


def crops(dataset: Dataset, rows: np.ndarray, samples: int, views: int, seed: int, numbers: np.ndarray) -> np.ndarray:
    """Where so many views of `samples` start in the recording of each example: as likely at each place where they lie
    in it or around it, drawn from seed and number."""
    firsts, lasts = places(dataset, rows, samples).T
    # The views count from 1: [seed, epoch] is the order's seed, and a 0 at a seed's end changes nothing
    return np.array(
        [
            [first + _draw((seed, number, view), last - first) for view in range(1, views + 1)]
            for number, first, last in zip(numbers.tolist(), firsts.tolist(), lasts.tolist(), strict=True)
        ],
        np.int64,
    ).reshape(len(rows), views)


def places(dataset: Dataset, rows: np.ndarray, samples: int) -> Int[np.ndarray, "rows 2"]:
    """The first and the last start of crops of so many samples that lie in an example, or around it if it is shorter.

    A crop that is longer than the whole recording starts with it.
    """
    start, end = dataset.spans[rows].T
    edges = np.sort(np.stack([start, end - samples], axis=1), axis=1)
    return np.clip(edges, 0, np.maximum(dataset.samples[rows] - samples, 0)[:, None])


def windows_of(dataset: Dataset, rows: np.ndarray, samples: int) -> Int[np.ndarray, "rows 2"]:
    """What is heard of each example where nothing is drawn: the whole of it, or if it is shorter than so many samples,
    these around its middle, as far as the recording goes."""
    spans, lengths = dataset.spans[rows], dataset.samples[rows]
    starts = np.clip((spans.sum(axis=1) - samples) // 2, 0, np.maximum(lengths - samples, 0))
    around = np.stack([starts, np.minimum(starts + samples, lengths)], axis=1)
    return np.where((spans[:, 1] - spans[:, 0] >= samples)[:, None], spans, around)


def _draw(seed: tuple[int, int, int], last: int) -> int:
    """A whole number from 0 to `last`."""
    return int(np.random.default_rng(seed).integers(last, endpoint=True)) if last else 0


def _stream(
    dataset: Dataset,
    plan: Plan,
    targets: Callable[[int, list[int]], np.ndarray],
    steps: tuple[int, int],
    leading: tuple[int, ...],
    wave: tuple[int, int],
    threads: int | None,
) -> Generator[Batch]:
    """Batches of the steps from the first to before the last, of arrays with these leading axes.

    `plan` gives the rows at places of the host's stream, and where their views start; `targets` those of a row whose
    views start there.
    """
    stream = _run(dataset, plan, targets, steps, leading, wave, threads or os.cpu_count() or 1)
    _streams().add(stream)
    return stream


def _run(dataset, plan, targets, steps, leading, wave, threads) -> Generator[Batch]:
    tf = tensorflow()
    size = math.prod(leading)
    parts = -(-size // CHUNK)
    # The waves stay out of TensorFlow, which would copy them twice: threads decode to where the batch has its place
    batches: dict[int, Batch] = collections.defaultdict(lambda: _empty(size, wave, dataset))
    failures: dict[int, Exception] = {}
    making = threading.Lock()

    def decode(task):
        step, part = divmod(task, parts)
        inside = np.arange(part * CHUNK, min(part * CHUNK + CHUNK, size))
        try:
            with making:
                batch = batches[step]
            rows, starts = plan(step * size + inside)
            batch.rows[inside] = rows
            for place, row, start in zip(inside.tolist(), rows.tolist(), starts.tolist(), strict=True):
                if work:
                    batch.lengths[place] = dataset.read_into(batch.waves[place], row, start)
                    batch.targets[place] = targets(row, start)
        except Exception as error:  # TensorFlow would make it its own
            failures[task] = error

    work = [decode]  # until the stream is closed: TensorFlow keeps what it calls for ever, but not what that looks up

    def call(task):
        for each in tuple(work):
            each(int(task))
        return task

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    tasks = tf.data.Dataset.range(steps[0] * parts, steps[1] * parts).map(
        lambda task: tf.numpy_function(call, [task], tf.int64), num_parallel_calls=threads, deterministic=True
    )
    iterator = tasks.prefetch(AHEAD * parts).with_options(options).as_numpy_iterator()
    try:
        for task in map(int, iterator):
            if task in failures:
                raise failures[task]
            step, part = divmod(task, parts)
            if part == parts - 1:
                yield Batch(*(leaf.reshape(*leading, *leaf.shape[1:]) for leaf in batches.pop(step)))
    finally:
        work.clear()


def _empty(size: int, wave: tuple[int, int], dataset: Dataset) -> Batch:
    return Batch(
        waves=np.zeros((size, *wave), dataset.dtype),
        lengths=np.zeros((size, wave[0]), np.int32),
        targets=np.zeros((size, len(dataset.labels)), np.float32),
        rows=np.zeros(size, np.int32),
    )


@functools.cache
def _streams() -> "weakref.WeakSet[Generator[Batch]]":
    """All streams that are open. They are closed at exit: a thread that still decodes then would hang or crash."""
    streams = weakref.WeakSet()

    def close():
        for stream in list(streams):
            with contextlib.suppress(ValueError):  # one that another thread is waiting for
                stream.close()

    tensorflow()  # what it does at exit comes after
    atexit.register(close)
    return streams
