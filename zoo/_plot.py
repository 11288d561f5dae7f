"""The pictures of `audax-zoo tag --plot` and `detect --plot`, and of the page of `audax-zoo app`: the features of a
recording, and the model's scores."""

import pathlib
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ._audio import cut, stream, window_size
from ._decode import Channel
from ._events import Event, timeline
from ._pretrained import Pretrained
from ._result import Result

COLUMNS = 2000  # of the picture, for files of any length
INK, ORANGE, PALE = "#334155", "#E69F00", "#FBE5B8"  # colour-blind people can tell orange from blue


class Picture(NamedTuple):
    """A recording in columns: the smallest and the largest sample of each, and its features."""

    wave: Float[np.ndarray, "columns 2"]
    log_mel: Float[np.ndarray, "columns bins"]


def plot(
    out: pathlib.Path, result: Result, clip: Pretrained, labels: list[str], events: Iterable[Event], channel: Channel
) -> None:
    """Draws the log-mel picture of a recording above the scores of `labels` over time, as PNG.

    `result` has the scores of its windows or frames. Events are shaded in the picture, each label in a colour, and
    framed in the scores.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.2 * len(labels)))
    _draw_log_mel(top, picture(result.source, result.duration, clip, channel), result.duration)
    name = pathlib.Path(result.source).name.encode("utf-8", "backslashreplace").decode()
    top.set_title(f"{name}, {clip.entry.name}", parse_math=False)  # a dollar sign begins no formula
    rows, events = labels[::-1], [event for event in events if event.label in labels]
    colors = {label: f"C{(row + 1) % 10}" for row, label in enumerate(rows)}
    for event in events:
        top.axvspan(event.start, event.end, color=colors[event.label], alpha=0.3, linewidth=0)
    image = _draw_scores(bottom, result, clip.labels, rows, events, colors)
    figure.colorbar(image, ax=bottom, label="score")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks are drawn as boxes
        figure.savefig(out, format="png", dpi=120)


def panels(
    drawing: Picture, result: Result, names: tuple[str, ...], labels: list[str], events: Iterable[Event], narrow: bool
) -> Figure:
    """The waveform, in which events are shaded, above the log-mel picture and the scores of `labels` over time.

    `names` are those of the columns of `result`. With `narrow` the figure suits a telephone.
    """
    heights = (0.7, 1.5, 0.4 + 0.2 * len(labels))
    figure = Figure(figsize=(3.7 if narrow else 9.0, sum(heights) + 1), dpi=160, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    edges = np.linspace(0, result.duration, len(drawing.wave) + 1)
    loudest = max(float(np.abs(drawing.wave).max()), 1e-3)
    for event in (events := list(events)):
        top.axvspan(event.start, event.end, color=PALE, linewidth=0)
    top.fill_between(edges[:-1], *drawing.wave.T, step="post", color=INK, linewidth=0.5)
    top.set(yticks=(), ylim=(-1.05 * loudest, 1.05 * loudest), ylabel="wave")
    top.spines[["top", "left", "right"]].set_visible(False)
    _draw_log_mel(middle, drawing, result.duration)
    tick_labels = [label if len(label) <= 18 else f"{label[:17]}…" for label in labels] if narrow else labels
    image = _draw_scores(bottom, result, names, labels[::-1], events, dict.fromkeys(labels, ORANGE))
    bottom.set_yticks(bottom.get_yticks(), tick_labels[::-1], parse_math=False)
    placement = {"location": "bottom", "aspect": 30} if narrow else {"location": "right", "aspect": 12, "pad": 0.01}
    bar = figure.colorbar(image, ax=bottom, label="score", **placement).ax
    for axes in (top, middle, bottom, bar):
        axes.tick_params(labelsize=8, length=2)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    figure.align_ylabels()
    return figure


def picture(source: Any, seconds: float, clip: Pretrained, channel: Channel = "mean") -> Picture:
    """The samples and the features of a recording of `seconds`, reduced to about COLUMNS columns."""
    waves, columns, size = [], [], window_size(clip.entry.window, clip.sample_rate)
    count = int(np.ceil(seconds / clip.entry.window))
    for window in cut(stream(source, clip.sample_rate, channel), size):
        x = np.asarray(clip.model.frontend(jnp.asarray(window.wave)))
        x = x[: max(round(len(x) * window.samples / len(window.wave)), 1)]
        step = max(len(x) * count // COLUMNS, 1)
        columns.append(np.stack([x[start : start + step].mean(axis=0) for start in range(0, len(x), step)]))
        parts = np.array_split(window.wave[: window.samples], min(len(columns[-1]), window.samples))
        waves.append(np.array([(part.min(), part.max()) for part in parts], np.float32))
    return Picture(np.concatenate(waves), np.concatenate(columns))


def _draw_log_mel(axes: Axes, picture: Picture, seconds: float) -> None:
    extent = (0, seconds, 0, picture.log_mel.shape[1])
    axes.imshow(picture.log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set(ylabel="mel bin")


def _draw_scores(
    axes: Axes, result: Result, names: tuple[str, ...], rows: list[str], events: list[Event], colors: dict[str, str]
) -> Any:
    """Draws the scores of `rows` over time, the first at the bottom, and frames the events; returns the image."""
    edges, scores = timeline(result)
    row_scores = scores[:, [names.index(label) for label in rows]].T
    image = axes.pcolormesh(edges, np.arange(len(rows) + 1), row_scores, vmin=0, vmax=1, cmap="Blues")
    for event in events:
        if event.label in rows:
            corner, seconds = (event.start, rows.index(event.label)), event.end - event.start
            frame = Rectangle(corner, seconds, 1, fill=False, edgecolor=colors[event.label], linewidth=2)
            axes.add_patch(frame)
    axes.set(xlabel="seconds", xlim=(0, result.duration))
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    return image
