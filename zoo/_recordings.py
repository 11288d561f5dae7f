"""Many recordings through one model: any length and format, one program, all devices, bounded memory.

    recordings --threads--> windows --> batches of one shape --devices--> rows --> Results, in the order given

Threads decode, resample and cut a few windows of each recording ahead of the device. The last batch is filled up with
silence, so that one program serves recordings of all lengths. Models that take a length ignore the zeros behind a
recording, so that its result equals that of a call with the recording alone. The host fills a batch while the devices
work on two others.
"""

import collections
import contextlib
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array

from audax_eqx.layers import Length

from ._ahead import read_ahead
from ._audio import NOTHING, UNREADABLE, Window, cut, stream, window_size
from ._batches import Batches
from ._decode import Channel, SoundError, is_source, name_of
from ._grid import Grid
from ._pretrained import Pretrained, embedding, frame_scores, frames, scores
from ._result import Result, Rows
from ._text import has_words
from ._wave import check_process

BACKLOG = 1 << 26  # bytes of windows that wait for the device, of all recordings together

Each = Literal["recording", "window", "frame"]
Last = Literal["pad", "full", "drop"]
Precision = Literal["float32", "bfloat16"]
Errors = Literal["raise", "keep"]


def embed(
    clip: Pretrained,
    recordings: Any,
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
    """The embeddings of recordings: one `Result` for each, in the given order, as soon as it is done.

    - `recordings`: paths, or whatever `zoo.read` takes; an endless generator will do. Except for the rows of a Result,
      memory depends neither on their number nor on their lengths. Two for each worker are taken ahead.
    - `each`: what a row stands for. "recording": the mean over all windows, weighted by their samples, and of length 1
      if the model's embeddings have length 1. "window": one window. "frame": one step of the network's last feature
      map; all steps lie on one grid, and windows overlap by part of a step.
    - `window`, `hop`: seconds; by default the model's native length, and the length of a window.
    - `last`: how to treat an end of a recording that does not fill a window. "pad": zeros fill it up, unless it is
      less than a tenth of a window. "full": the last window begins earlier. "drop": it is left out.
    - `channel`: the mean of the channels, or the number of one.
    - `batch`: the number of windows that all devices take at a time; by default a number that fits into memory.
    - `workers`: the number of threads that decode; by default that of the cores, and at most 16.
    - `precision`: the number format in which network and head compute.
    - `errors`: what to do about a recording that cannot be read. "raise": raise its error when all recordings before it
      are done. "keep": return a Result that holds the error's sentence.

    Raises ValueError for options that make no sense, before anything is read.
    """
    function = frames if each == "frame" else embedding
    options = Options(each, window, hop, last, channel, batch, workers, precision, errors)
    return results(clip, recordings, function, clip.model.network.width, options)


def tag(
    clip: Pretrained,
    recordings: Any,
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

    With each="frame" they are class activation scores: the head is applied to each step of the feature map as if the
    map had no other step. This needs a network that pools its embedding from the map alone, as all but AST do.

    Raises ValueError as `embed` does, for a model without classes, and for a head with other classes than the entry's.
    """
    if not clip.entry.classifies:
        remedy = "clip.zero_shot(labels) gives it classes in words" if has_words(clip.model) else "use zoo.embed"
        raise ValueError(f"{clip.entry.name} has no classes and names no sounds: {remedy}.")
    if each == "frame" and not hasattr(clip.model.network, "pool_map"):
        raise ValueError(
            f"{clip.entry.name} does not pool its embedding from frames, so frames have no scores: use each='window'."
        )
    function = frame_scores if each == "frame" else scores
    options = Options(each, window, hop, last, channel, batch, workers, precision, errors)
    return results(clip, recordings, function, len(clip.labels), options)  # the labels are checked against the head


class Options(NamedTuple):
    """The options of `embed` and `tag`."""

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
    recordings: Any,
    function: Callable[[Pretrained, Array, Length], Array],
    width: int,
    options: Options,
    read: Callable[[Any], Iterable[np.ndarray]] | None = None,
) -> Generator[Result, None, None]:
    """Checks the options at once, and reads the first recordings when the caller takes the first Result.

    `function` computes a row of `width` numbers for each window, or a row for each frame. Its last argument is the
    number of samples in the window that belong to the recording, or None if the model takes no length. `read` is for
    recordings that `zoo.read` does not take: threads call it for the blocks of one at the model's sample rate.
    """
    for name, choices in {"each": Each, "last": Last, "precision": Precision, "errors": Errors}.items():
        if (value := getattr(options, name)) not in get_args(choices):
            raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, get_args(choices)))}.")
    if is_source(recordings):
        raise TypeError(f"{name_of(recordings)} is one recording, and this takes any number: give a list of them.")
    if options.channel != "mean" and (isinstance(options.channel, str) or options.channel < 0):
        raise ValueError(f"channel={options.channel!r} is neither 'mean' nor the number of a channel, from 0 on.")
    check_process(clip.entry.name)
    size, hop = _window(clip, options)
    for name, count in {"batch": options.batch, "workers": options.workers}.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} is too small: give 1 or more, or None for the default.")
    grid = Grid.of(clip, function, size) if options.each == "frame" else None
    unit = function is embedding and clip.model.network.unit_length

    def windows(source: Any) -> Generator[Window, None, None]:
        blocks = stream(source, clip.sample_rate, options.channel) if read is None else read(source)
        if grid is not None:
            yield from cut(blocks, size, grid.hop, rest=grid.rest, step=grid.stride)
            return
        end = 0
        for window in cut(blocks, size, hop, step=1 if options.last == "full" else None):
            if window.samples == size or options.last != "drop":
                end = window.end
                yield window
            elif end:
                yield window._replace(wave=NOTHING)  # an end that is left out still belongs to the recording
        if not end:
            raise SoundError(
                f"{name_of(source)} is shorter than a window of {size / clip.sample_rate:g} s, which "
                "last='drop' leaves out."
            )

    def run() -> Generator[Result, None, None]:
        batches = Batches(clip, function, size, options.batch, options.precision == "bfloat16")
        workers = options.workers or min(os.cpu_count() or 1, 16)
        depth = max(2, min(2 * batches.size, BACKLOG // (4 * size * workers)))
        queue: collections.deque[Rows] = collections.deque()
        with contextlib.closing(batches), contextlib.closing(read_ahead(recordings, windows, workers, depth)) as items:
            try:
                for reader in items:
                    rows = Rows(reader.source, clip.sample_rate, width, options.each, grid, unit)
                    queue.append(rows)
                    try:
                        for window in reader:
                            rows.end = window.end
                            if len(window.wave):
                                batches.add(window, rows)
                            yield from _finished(queue)
                    except UNREADABLE as error:
                        if options.errors == "raise":
                            raise
                        rows.error = str(error)
                    rows.whole = True
                    yield from _finished(queue)
            except Exception:
                batches.finish()
                yield from _finished(queue)  # the recordings before the faulty one
                raise
            batches.finish()
            yield from _finished(queue)

    return run()


def _window(clip: Pretrained, options: Options) -> tuple[int, int]:
    """Window and hop in samples. Raises ValueError for a window or hop that makes no sense."""
    name, rate, frontend = clip.entry.name, clip.sample_rate, clip.model.frontend
    size = window_size(clip.entry.window if options.window is None else options.window, rate)
    longest = getattr(frontend, "max_samples", None) or math.inf
    if not frontend.min_samples <= size <= longest:
        raise ValueError(
            f"{name} hears windows of {frontend.min_samples / rate:g} to {longest / rate:g} s, got {size / rate:g} s."
        )
    hop = size if options.hop is None else round(options.hop * rate) if math.isfinite(options.hop) else 0
    if not 1 <= hop <= size:
        raise ValueError(
            f"hop={options.hop} is the distance of windows in seconds: it is more than 0 and at most a window, "
            f"{size / rate:g} s."
        )
    if options.hop is not None and options.each == "frame":
        raise ValueError("Frames have the distance of the network's steps: leave hop out, or take each='window'.")
    return size, hop


def _finished(queue: collections.deque[Rows]) -> Iterator[Result]:
    """The results of the recordings at the front of the queue that are done."""
    while queue and queue[0].whole and not queue[0].backlog:
        yield queue.popleft().result()
