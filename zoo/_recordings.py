"""Many recordings through one model: any length and format, one program, all devices, bounded memory.

    recordings --threads--> windows --> batches of one shape --devices--> rows --> Results, in the order given

Threads decode, resample and cut a few windows of each recording ahead of the device. The last batch is filled up with
silence, so that one program does for recordings of all lengths. Models that can tell padding from sound leave out the
zeros behind a recording, which so gets what a call with it alone gives. The host fills a batch while two others are
under way on the devices.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from audax_eqx.layers import Length

from ._audio import UNREADABLE, Window, cut, stream, window_size
from ._decode import Channel, SoundError, name_of
from ._pretrained import Pretrained, embedding, frame_scores, frames, scores, takes_length
from ._wave import check_process, warn_of_scale

UNDER_WAY = 2  # batches on the devices
AHEAD = 1 << 26  # bytes of windows that wait for the device, of all recordings together
BATCH = {"cpu": 4}  # windows on a device at a time: `benchmarks/recordings.py` measures; 32 elsewhere
DEVICES = "data"

Each = Literal["recording", "window", "frame"]
Last = Literal["pad", "full", "drop"]
Precision = Literal["float32", "bfloat16"]
Errors = Literal["raise", "keep"]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a model makes of one recording: a row for the whole of it, for each window or for each frame.

    - `source`: the recording as it was given.
    - `start`, `end`: of each row, in seconds from the start of the recording.
    - `values`: embeddings or scores, float32.
    - `duration`: of the recording, in seconds.
    - `error`: the sentence about a recording that cannot be read, which has no rows; None for others.
    """

    source: Any
    start: Float[np.ndarray, " rows"]
    end: Float[np.ndarray, " rows"]
    values: Float[np.ndarray, "rows width"]
    duration: float
    error: str | None = None


def embed(
    clip: Pretrained,
    recordings: Iterable[Any],
    *,
    each: str = "recording",
    window: float | None = None,
    hop: float | None = None,
    last: str = "pad",
    channel: Channel = "mean",
    batch: int | None = None,
    workers: int | None = None,
    precision: str = "float32",
    errors: str = "raise",
) -> Iterator[Result]:
    """The embeddings of recordings, one `Result` each, in the order given, as they are done.

    - `recordings`: paths, or whatever `zoo.read` takes; they may come from a generator without end. Memory depends
      neither on their number nor on their lengths, but for the rows of a Result.
    - `each`: what has a row. "recording": the mean over its windows, weighted by their samples. "window": one each.
      "frame": each step of the network's last feature map, all on one grid; windows overlap by part of a step.
    - `window`, `hop`: seconds; the model's native length, and as much, unless given.
    - `last`: what becomes of the end of a recording that fills no window. "pad": zeros fill it up, unless it is less
      than a tenth of a window. "full": the last window begins earlier. "drop": it is left out.
    - `channel`: the mean of the channels, or the number of one.
    - `batch`: windows that all devices hear at a time; some that fit unless given.
    - `workers`: threads that decode; as many as there are cores, and at most 16, unless given.
    - `precision`: what network and head compute in.
    - `errors`: whether a recording that cannot be read raises its error, once all before it are done, or is a Result
      with that sentence.

    Raises ValueError for options that make no sense, before anything is read.
    """
    function = frames if each == "frame" else embedding
    options = Options(each, window, hop, last, channel, batch, workers, precision, errors)
    return results(clip, recordings, function, clip.model.network.width, options)


def tag(
    clip: Pretrained,
    recordings: Iterable[Any],
    *,
    each: str = "recording",
    window: float | None = None,
    hop: float | None = None,
    last: str = "pad",
    channel: Channel = "mean",
    batch: int | None = None,
    workers: int | None = None,
    precision: str = "float32",
    errors: str = "raise",
) -> Iterator[Result]:
    """The scores of a classifier, `Pretrained.probabilities`, for recordings; all else is as in `embed`.

    With each="frame" they are class activation scores: the head applied to each step of the feature map as if the map
    had no other. That is possible where the embedding is pooled from the map alone, in all networks but AST.

    Raises ValueError as `embed` does, for a model that has no classes, and for a head of others than the entry's.
    """
    if not clip.entry.classifies:
        raise ValueError(f"{clip.entry.name} has no classes and names no sounds: zoo.embed uses it.")
    if each == "frame" and not hasattr(clip.model.network, "pool_map"):
        raise ValueError(
            f"{clip.entry.name} does not make its embedding of frames, which so have no scores: use each='window'."
        )
    function = frame_scores if each == "frame" else scores
    options = Options(each, window, hop, last, channel, batch, workers, precision, errors)
    return results(clip, recordings, function, len(clip.labels), options)  # the labels are checked against the head


class Options(NamedTuple):
    """What `embed` and `tag` take."""

    each: str = "recording"
    window: float | None = None
    hop: float | None = None
    last: str = "pad"
    channel: Channel = "mean"
    batch: int | None = None
    workers: int | None = None
    precision: str = "float32"
    errors: str = "raise"


def results(
    clip: Pretrained,
    recordings: Iterable[Any],
    function: Callable[[Pretrained, Array, Length], Array],
    width: int,
    options: Options,
    read: Callable[[Any], Iterable[np.ndarray]] | None = None,
) -> Generator[Result, None, None]:
    """Checks the options, and starts with the recordings when the first Result is asked for.

    `function` makes a row of `width` numbers, or one a frame, of each window, of which the first so many samples are
    the recording's; where the model cannot leave padding out it is given None for their number. `read`, which threads
    call, gives the blocks of a recording at the model's sample rate: for recordings that `zoo.read` does not take.
    """
    for name, choices in {"each": Each, "last": Last, "precision": Precision, "errors": Errors}.items():
        if (value := getattr(options, name)) not in get_args(choices):
            raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, get_args(choices)))}.")
    check_process(clip.entry.name)
    size, hop = _window(clip, options)
    for name, count in {"batch": options.batch, "workers": options.workers}.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} can do nothing: give 1 or more, or None to have it chosen.")
    grid = _Grid.of(clip, function, size) if options.each == "frame" else None

    def windows(source: Any) -> Iterator[Window]:
        blocks = stream(source, clip.sample_rate, options.channel) if read is None else read(source)
        if grid is not None:
            yield from cut(blocks, size, grid.hop, rest=grid.rest, step=grid.stride)
            return
        end = 0
        for window in cut(blocks, size, hop, step=1 if options.last == "full" else None):
            if window.samples == size or options.last != "drop":
                end = window.end
                yield window
        if not end:
            raise SoundError(
                f"{name_of(source)} is shorter than a window of {size / clip.sample_rate:g} s, which "
                "last='drop' leaves out."
            )

    def run() -> Generator[Result, None, None]:
        device = _Device(clip, function, size, options)
        workers = options.workers or min(os.cpu_count() or 1, 16)
        depth = max(2, min(2 * device.batch, AHEAD // (4 * size * workers)))
        unfinished: collections.deque[_Rows] = collections.deque()
        with contextlib.closing(_ahead(recordings, windows, workers, depth)) as aheads:
            for ahead in aheads:
                unfinished.append(_Rows(ahead.source, clip.sample_rate, width, options.each, grid))
                try:
                    for window in ahead:
                        device.add(window, unfinished[-1])
                        yield from _finished(unfinished)
                except UNREADABLE as error:
                    if options.errors == "raise":
                        unfinished.pop()
                        device.finish()
                        yield from _finished(unfinished)
                        raise
                    unfinished[-1].error = str(error)
                unfinished[-1].whole = True
                yield from _finished(unfinished)
            device.finish()
            yield from _finished(unfinished)

    return run()


def _window(clip: Pretrained, options: Options) -> tuple[int, int]:
    """Window and hop in samples. Raises ValueError for what makes no sense."""
    name, rate, frontend = clip.entry.name, clip.sample_rate, clip.model.frontend
    size = window_size(clip.entry.window if options.window is None else options.window, rate)
    longest = getattr(frontend, "max_samples", None) or math.inf
    if not frontend.min_samples <= size <= longest:
        raise ValueError(
            f"{name} hears windows of {frontend.min_samples / rate:g} to {longest / rate:g} s, got {size / rate:g} s."
        )
    hop = size if options.hop is None else options.hop * rate
    if not 1 <= hop <= size:
        raise ValueError(
            f"hop={options.hop} is the distance of windows in seconds: it is more than 0 and at most a window, "
            f"{size / rate:g} s."
        )
    if options.hop is not None and options.each == "frame":
        raise ValueError("Frames have the distance of the network's steps: leave hop out, or take each='window'.")
    return size, round(hop)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The frames of a recording, `stride` samples apart, the first centred at `first`.

    Windows begin on the grid and overlap by part of a stride. `count` frames of a window have their centre in it;
    `valid` says how many of them are made of so many samples of a recording.
    """

    first: float
    stride: int
    count: int
    size: int
    width: int
    valid: Callable[[int], int]

    @staticmethod
    def of(clip: Pretrained, function: Callable, size: int) -> "_Grid":
        first, second = clip.frame_times(2) * clip.sample_rate
        stride = round(second - first)
        shape = eqx.filter_eval_shape(function, clip, jax.ShapeDtypeStruct((size,), jnp.float32)).shape
        count = max(min(shape[0], math.ceil((size - first) / stride)), 1)

        def valid(samples: int) -> int:
            model: Any = clip.model
            samples = max(samples, model.frontend.min_samples)
            return model.network.steps(model.frontend.frames(samples)) if takes_length(clip) else count

        return _Grid(float(first), stride, count, size, shape[1], valid)

    @property
    def hop(self) -> int:
        return max(min(self.count, self.size // self.stride), 1) * self.stride

    @property
    def rest(self) -> int:
        """Samples behind a window that bring one more centre."""
        return max(math.floor(self.first + self.count * self.stride) - self.size + 1, 1)

    def joined(self, starts: list[int], values: list[np.ndarray]) -> np.ndarray:
        """One row a step. Of the frames that two windows have, each has those which lie deeper in it."""
        parts, before = [], None
        for start, rows in zip((start // self.stride for start in starts), values, strict=True):
            rows = rows[: self.count]
            if before is not None:
                common = before + self.count - start
                parts[-1] = parts[-1][: len(parts[-1]) - common // 2]
                rows = rows[common - common // 2 :]
            parts.append(rows)
            before = start
        return np.concatenate(parts)


# Threads --------------------------------------------------------------------------------------------------------------


class _Ahead:
    """The windows of one recording, cut by a thread, at most `depth` of them before they are asked for."""

    def __init__(self, source: Any, windows: Callable[[Any], Iterator[Window]], depth: int, stopped: threading.Event):
        self.source, self.windows, self.stopped = source, windows, stopped
        self.items: queue.Queue[Any] = queue.Queue(depth)

    def fill(self) -> None:
        """What the thread does. An error of any kind goes to who asks for the windows."""
        try:
            for window in self.windows(self.source):
                self._put(window)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return

    def __iter__(self) -> Iterator[Window]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def _ahead(
    recordings: Iterable[Any], windows: Callable[[Any], Iterator[Window]], workers: int, depth: int
) -> Generator[_Ahead, None, None]:
    """The recordings in order, the next few of which threads have begun to read."""
    stopped, begun, sources = threading.Event(), collections.deque(), iter(recordings)
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="recordings")
    try:
        while True:
            for source in itertools.islice(sources, 2 * workers - len(begun)):
                begun.append(_Ahead(source, windows, depth, stopped))
                pool.submit(begun[-1].fill)
            if not begun:
                return
            yield begun.popleft()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


# Devices --------------------------------------------------------------------------------------------------------------


class _Device:
    """Batches of windows on all local devices: `UNDER_WAY` of them are computed while the host fills another."""

    def __init__(self, clip: Pretrained, function: Callable, size: int, options: Options):
        devices = _devices(clip)
        share = math.ceil(options.batch / len(devices)) if options.batch else BATCH.get(devices[0].platform, 32)
        self.batch, self.size, self.name = share * len(devices), size, clip.entry.name
        self.shortest = clip.model.frontend.min_samples  # of less a recording is padded, as one does for a call
        mesh = Mesh(np.array(devices), (DEVICES,))
        leaves, structure = jax.tree.flatten(_half(clip) if options.precision == "bfloat16" else clip)
        arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
        others = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
        arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))  # once, not for each batch
        self.sharding = NamedSharding(mesh, SHARES)
        self.program = functools.partial(_program, function, structure, others, mesh, arrays)
        self.filled: list[tuple[Window, _Rows]] = []
        self.computed: collections.deque[tuple[Array, list[tuple[Window, _Rows]]]] = collections.deque()

    def add(self, window: Window, rows: "_Rows") -> None:
        """Puts a window into the batch, whose values `rows` are to have. A full batch goes to the devices."""
        warn_of_scale(window.wave, self.name)
        rows.awaited += 1
        self.filled.append((window, rows))
        if len(self.filled) == self.batch:
            self._launch()
            self._collect(UNDER_WAY)

    def finish(self) -> None:
        """Waits until all rows have their values."""
        if self.filled:
            self._launch()
        self._collect(0)

    def _launch(self) -> None:
        waves, lengths = np.zeros((self.batch, self.size), np.float32), np.full(self.batch, self.size, np.int32)
        for place, (window, _) in enumerate(self.filled):
            waves[place], lengths[place] = window.wave, max(window.samples, self.shortest)
        values = self.program(*jax.device_put((waves, lengths), self.sharding))
        values.copy_to_host_async()
        self.computed.append((values, [(window._replace(wave=EMPTY), rows) for window, rows in self.filled]))
        self.filled = []

    def _collect(self, under_way: int) -> None:
        while len(self.computed) > under_way:
            values, places = self.computed.popleft()
            for value, (window, rows) in zip(np.asarray(values, np.float32), places, strict=False):
                rows.take(window, value)


EMPTY, SHARES = np.zeros(0, np.float32), PartitionSpec(DEVICES)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _program(
    function: Callable, structure: Any, others: tuple, mesh: Mesh, arrays: list, waves: Array, lengths: Array
) -> Array:
    """`function` of each wave by the clip of this structure, whose leaves are `arrays` and, where None, `others`.

    Models that can tell padding are told how many samples of a wave are the recording's. `eqx.filter_jit` would wait
    for the values.
    """

    def share(arrays, waves, lengths):
        leaves = [other if array is None else array for array, other in zip(arrays, others, strict=True)]
        clip = jax.tree.unflatten(structure, leaves)
        return jax.vmap(lambda wave, length: function(clip, wave, length if takes_length(clip) else None))(
            waves, lengths
        )

    specs = PartitionSpec(), SHARES, SHARES
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=SHARES, check_vma=False)(arrays, waves, lengths)


def _devices(clip: Pretrained) -> list[jax.Device]:
    """Where the model was put, as far as that is on this host, or else all devices of this host."""
    for leaf in jax.tree.leaves(clip):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return sorted(leaf.sharding.addressable_devices, key=lambda device: device.id)
    return jax.local_devices()


def _half(clip: Pretrained) -> Pretrained:
    """The clip with all parameters but the frontend's in bfloat16."""

    def cast(leaf):
        return leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf

    model = eqx.tree_at(lambda tree: tree.frontend, jax.tree.map(cast, clip.model), clip.model.frontend)
    return eqx.tree_at(lambda tree: tree.model, clip, model)


# Rows -----------------------------------------------------------------------------------------------------------------


class _Rows:
    """What becomes of the windows of one recording."""

    def __init__(self, source: Any, rate: int, width: int, each: str, grid: _Grid | None):
        self.source, self.rate, self.each, self.grid = source, rate, each, grid
        self.width = grid.width if grid else width
        self.awaited, self.end, self.whole = 0, 0, False
        self.error: str | None = None
        self.spans: list[tuple[int, int]] = []
        self.values: list[np.ndarray] = []
        self.sum, self.weight = np.zeros(self.width), 0

    def take(self, window: Window, value: Float[np.ndarray, "..."]) -> None:
        """The values of a window, in order."""
        self.awaited, self.end = self.awaited - 1, window.end
        if self.each == "recording":
            self.sum, self.weight = self.sum + window.samples * value.astype(np.float64), self.weight + window.samples
        else:
            self.spans.append((window.start, window.end))
            self.values.append(value if self.grid is None else value[: self.grid.valid(window.samples)])

    def result(self) -> Result:
        """The rows, once all windows have their values."""
        duration = self.end / self.rate
        if self.error is not None or self.end == 0:
            nothing = np.zeros(0)
            return Result(self.source, nothing, nothing, np.zeros((0, self.width), np.float32), duration, self.error)
        if self.each == "recording":
            values, starts, ends = (self.sum / self.weight)[None], np.zeros(1), np.array([self.end])
        elif self.grid is None:
            values, (starts, ends) = np.stack(self.values), np.array(self.spans).T
        else:
            values = self.grid.joined([start for start, _ in self.spans], self.values)
            centres = self.grid.first + self.grid.stride * np.arange(len(values))
            inside = centres < self.end
            inside[0] = True
            values, centres = values[inside], centres[inside]
            starts, ends = (
                np.clip(centres + half, 0, self.end) for half in (-self.grid.stride / 2, self.grid.stride / 2)
            )
        return Result(self.source, starts / self.rate, ends / self.rate, values.astype(np.float32), duration)


def _finished(unfinished: collections.deque[_Rows]) -> Iterator[Result]:
    """The results of the first recordings, as far as they are done."""
    while unfinished and unfinished[0].whole and not unfinished[0].awaited:
        yield unfinished.popleft().result()
