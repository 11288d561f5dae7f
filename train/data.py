"""Streams of training batches from a prepared folder, decoded by threads.

    Sampler: step -> rows of the dataset --crops--> places in the recordings --threads decode--> Batch --> devices

The batch of a step depends on the seed and the number of the step alone, neither on threads nor on hosts. So a run
continues from any step without reading the earlier ones. An epoch has every example once, unless weights draw them.
"""

import collections
import functools
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, Int16, Int32

from .dataset import Dataset as Dataset

PART = 16  # examples that a thread decodes at a time
LEAD = 2  # batches that are decoded in advance


class Batch(NamedTuple):
    """The clips of one step.

    - `waves`: `views` crops of each example, zero from their length on. They are int16 with a full scale of 32768, or
      float32 if an example of the dataset needs more than 16 bits; `to_float32` gives both the same level.
    - `lengths`: the number of valid samples of each crop.
    - `targets`: 1 for each label of the example, or of its first crop, else 0.
    - `rows`: the number of each example in the dataset.
    """

    waves: Int16[Any, "*batch views samples"] | Float32[Any, "*batch views samples"]
    lengths: Int32[Any, "*batch views"]
    targets: Float32[Any, "*batch classes"]
    rows: Int32[Any, "*batch"]


def to_float32(waves: Any) -> Float32[Any, "*batch views samples"]:
    """The waves of a batch on devices, in float32 at the level of `zoo.read`."""
    return waves if waves.dtype == jnp.float32 else waves.astype(jnp.float32) / 32768


class Sampler:
    """The order of training: an endless stream of examples, of which step `n` takes `batch` from place `n * batch` on.

    The stream is one epoch after another. An epoch is a permutation of `rows`, or with `weights` the same number of
    draws from `rows` with these probabilities. Raises ValueError for no rows, for a seed that has no 64 bits, and for
    weights that are not one finite nonnegative number for each row, or all 0.
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
        if not 0 <= seed < 2**64:
            raise ValueError(f"The seed is {seed}: it must be at least 0 and less than 2**64.")
        if weights is not None and weights.shape != rows.shape:
            raise ValueError(f"{len(rows)} rows take one weight each, got weights of shape {weights.shape}.")
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError("weights are finite numbers, none of them negative and at least one of them positive.")
        self.rows, self.batch, self.seed = rows, batch, seed
        self.weights = None if weights is None else weights.astype(np.float64) / weights.sum(dtype=np.float64)
        self._order = functools.lru_cache(2)(self._shuffle)  # a batch may span two epochs

    def rows_of(self, step: int) -> Int[np.ndarray, " batch"]:
        """The rows of the examples of a step."""
        return self.rows_at(step * self.batch + np.arange(self.batch))

    def rows_at(self, places: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """The rows of the examples at these places of the stream."""
        epochs, places_in_epoch = np.divmod(places, len(self.rows))
        rows = np.empty(len(places), self.rows.dtype)
        for epoch in np.unique(epochs):
            mask = epochs == epoch
            rows[mask] = self._order(int(epoch))[places_in_epoch[mask]]
        return rows

    def _shuffle(self, epoch: int) -> Int[np.ndarray, " rows"]:
        """The rows of an epoch in their order, which depends on the seed and the epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        if self.weights is None:
            return self.rows[generator.permutation(len(self.rows))]
        return self.rows[generator.choice(len(self.rows), len(self.rows), p=self.weights)]


def balanced_weights(targets: Float[np.ndarray, "examples classes"]) -> Float[np.ndarray, " examples"]:
    """Probabilities that draw rare labels as often as frequent ones, as PSLA (Gong et al., 2021) and AST do.

    The weight of an example is the sum of 1 / count over its labels. An example without labels is as probable as the
    least probable of the others. Raises ValueError if no example has a label.
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
    crop_labels: bool = False,
) -> Generator[Batch]:
    """This host's share of the batch of each step, as arrays of the shape `[accumulate, examples, ...]`.

    Each example gives `views` crops of `samples`. All crops that fit are equally likely; the draw depends on the
    seed of the sampler, the place of the example in the stream and the number of the crop. A part of a recording that
    is shorter than the crop lies inside it; a longer part contains it.

    - `accumulate`: the number of parts of a batch, which a step computes one after the other.
    - `start`, `stop`: the first step, and the step behind the last; by default the stream has no end.
    - `host`, `hosts`: the number of this host, from 0 on, and the number of hosts.
    - `threads`: the number of threads that decode, by default one for each core.
    - `crop_labels`: gives as targets all labels that the first crop has, instead of those of the example.

    Raises ValueError for counts below 1, for a batch that does not split into `accumulate` times `hosts` equal parts,
    and for a corrupt record once the stream reaches it.
    """
    counts = {"samples": samples, "views": views, "accumulate": accumulate, "threads": threads}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1.")
    examples = _share(sampler.batch, hosts, host, accumulate)
    share = np.arange(sampler.batch).reshape(accumulate, hosts, examples)[:, host].reshape(-1)  # places in a batch

    def begin(pool, step):
        """A batch of zeros, and the tasks that fill it."""
        batch = _zeros(dataset, sampler.rows_of(step)[share], views, samples)
        places = step * sampler.batch + share
        parts = [slice(start, start + PART) for start in range(0, len(share), PART)]
        tasks = [pool.submit(_fill, dataset, batch, part, sampler.seed, places[part], crop_labels) for part in parts]
        return Batch(*(leaf.reshape(accumulate, examples, *leaf.shape[1:]) for leaf in batch)), tasks

    steps = itertools.count(start) if stop is None else range(start, stop)
    return _batches_in_order(begin, steps, threads or os.cpu_count() or 1)


def to_devices(batches: Iterator[Batch], sharding: jax.sharding.Sharding, lead: int = 2) -> Iterator[Batch]:
    """The batches of all hosts as global arrays that `sharding` lays out. `lead` of them are transferred in advance."""
    queue = collections.deque()
    for batch in batches:
        queue.append(Batch(*(jax.make_array_from_process_local_data(sharding, leaf) for leaf in batch)))
        if len(queue) > lead:
            yield queue.popleft()
    yield from queue


def _share(batch: int, hosts: int, host: int, accumulate: int) -> int:
    """The number of examples that a host has in one part of a batch.

    Raises ValueError for a `host` outside of 0 to hosts - 1, and for a batch that does not split into equal parts.
    """
    if not 0 <= host < hosts:
        raise ValueError(f"host {host} is not one of {hosts}: number the hosts from 0 on.")
    if batch < 1 or batch % (accumulate * hosts):
        parts = f"{accumulate} x {hosts}"
        raise ValueError(
            f"a batch of {batch} does not split into {parts} equal parts (accumulate x hosts): take a multiple of "
            f"{accumulate * hosts}."
        )
    return batch // (accumulate * hosts)


def crops(
    dataset: Dataset, rows: np.ndarray, samples: int, views: int, seed: int, numbers: np.ndarray
) -> Int[np.ndarray, "rows views"]:
    """The starts of `views` crops of each example, in samples of its recording.

    All crops of `samples` that lie inside the example, or around a shorter one, are equally likely. The draw depends on
    the seed, the number of the example in `numbers`, and the number of the crop.
    """
    firsts, lasts = np.split(_start_ranges(dataset, rows, samples), 2, axis=1)
    bits = functools.reduce(_scramble, (seed, numbers[:, None], np.arange(views)), np.zeros((1, 1), np.uint64))
    fractions = (bits >> np.uint64(11)) * 2.0**-53  # 53 random bits, from 0 to below 1
    return firsts + (fractions * (lasts - firsts + 1)).astype(np.int64)


def _start_ranges(dataset: Dataset, rows: np.ndarray, samples: int) -> Int[np.ndarray, "rows 2"]:
    """The first and the last start of a crop of `samples` that lies inside each example, or around a shorter one.

    A crop that is longer than the whole recording starts with it.
    """
    start, end = dataset.spans[rows].T
    edges = np.sort(np.stack([start, end - samples], axis=1), axis=1)
    return np.clip(edges, 0, np.maximum(dataset.samples[rows] - samples, 0)[:, None])


def windows_of(dataset: Dataset, rows: np.ndarray, samples: int) -> Int[np.ndarray, "rows 2"]:
    """The start and end of each example in evaluation: its own, or for an example of less than `samples` those of a
    window of `samples` around its middle, within the recording."""
    spans, lengths = dataset.spans[rows], dataset.samples[rows]
    starts = np.clip((spans.sum(axis=1) - samples) // 2, 0, np.maximum(lengths - samples, 0))
    windows = np.stack([starts, np.minimum(starts + samples, lengths)], axis=1)
    return np.where((spans[:, 1] - spans[:, 0] >= samples)[:, None], spans, windows)


def _scramble(state: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """64 random bits for each pair of a state and a number; a state is zero at first, then the bits of another call.

    They come from SplitMix64 (Steele et al., 2014, doi:10.1145/2660193.2660195).
    """
    bits = state + np.asarray(numbers).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _batches_in_order(
    begin: Callable[[Executor, int], tuple[Batch, list[Future]]], steps: Iterable[int], threads: int
) -> Generator[Batch]:
    """The batches of the steps, in order, of which `LEAD` are begun in advance.

    `begin` gives the batch of a step, still of zeros, and the tasks that fill it. An error of a task is raised when the
    turn of its batch comes. When the generator is closed or collected, it waits for the tasks that run and drops the
    others.
    """
    pool = ThreadPoolExecutor(threads, "train-data")
    is_finalizing = sys.is_finalizing  # bound now, because the names of a module may be gone when Python ends
    queue = collections.deque()
    try:
        for step in steps:
            queue.append(begin(pool, step))
            if len(queue) > LEAD:
                yield _wait(*queue.popleft())
        while queue:
            yield _wait(*queue.popleft())
    finally:
        if not is_finalizing():  # at its end Python has already waited for all threads
            pool.shutdown(cancel_futures=True)


def _wait(batch: Batch, tasks: list[Future]) -> Batch:
    """The batch, once its tasks have filled it."""
    for task in tasks:
        task.result()
    return batch


def _zeros(dataset: Dataset, rows: np.ndarray, views: int, samples: int) -> Batch:
    """A batch of these examples whose waves and lengths are still zero."""
    return Batch(
        waves=np.zeros((len(rows), views, samples), dataset.dtype),
        lengths=np.zeros((len(rows), views), np.int32),
        targets=dataset.targets[rows],
        rows=rows.astype(np.int32),
    )


def _fill(dataset: Dataset, batch: Batch, part: slice, seed: int, places: np.ndarray, crop_labels: bool) -> None:
    """Decodes the crops of a part of the batch. `places` are those of its examples in the stream.

    With `crop_labels` the targets become those of the first crop of each example.
    """
    waves, lengths, targets, rows = (leaf[part] for leaf in batch)
    _, views, samples = waves.shape
    starts = crops(dataset, rows, samples, views, seed, places)
    for index, (row, row_starts) in enumerate(zip(rows.tolist(), starts.tolist(), strict=True)):
        lengths[index] = dataset.read_into(waves[index], row, row_starts)
        if crop_labels:
            targets[index] = dataset.targets_in(row, row_starts[0], samples)
