"""The pictures of `audax-zoo tag --plot` and `detect --plot`: what the model hears, and what it makes of it."""

import pathlib
import warnings
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ._audio import cut, stream, window_size
from ._decode import Channel
from ._events import Event, timeline
from ._pretrained import Pretrained
from ._result import Result

COLUMNS = 2000  # of the picture, whatever the file's length


def plot(
    out: pathlib.Path, result: Result, clip: Pretrained, labels: list[str], events: Iterable[Event], channel: Channel
) -> None:
    """Draws the log-mel picture of a recording above the scores of `labels` over time, as PNG.

    `result` has the scores of its windows or frames. Events are shaded in the picture, each label in a colour, and
    framed in the scores.
    """
    picture = _log_mel(result, clip, channel)
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.2 * len(labels)))
    extent = (0, result.duration, 0, picture.shape[1])
    above.imshow(picture.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
    name = pathlib.Path(result.source).name.encode("utf-8", "backslashreplace").decode()
    above.set(ylabel="mel bin")
    above.set_title(f"{name}, {clip.entry.name}", parse_math=False)  # dollar signs are themselves
    edges, scores = timeline(result)
    rows = labels[::-1]
    shown = scores[:, [clip.labels.index(label) for label in rows]].T
    image = below.pcolormesh(edges, np.arange(len(rows) + 1), shown, vmin=0, vmax=1, cmap="Blues")
    for event in events:
        if event.label in rows:
            row = rows.index(event.label)
            color, seconds = f"C{(row + 1) % 10}", event.end - event.start
            above.axvspan(event.start, event.end, color=color, alpha=0.3, linewidth=0)
            below.add_patch(Rectangle((event.start, row), seconds, 1, fill=False, edgecolor=color, linewidth=2))
    below.set(xlabel="seconds", xlim=(0, result.duration))
    below.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    figure.colorbar(image, ax=below, label="score")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in another script is drawn as boxes
        figure.savefig(out, format="png", dpi=120)


def _log_mel(result: Result, clip: Pretrained, channel: Channel) -> Float[np.ndarray, "columns bins"]:
    """The features of the recording, brought to about COLUMNS columns by averaging."""
    columns, size = [], window_size(clip.entry.window, clip.sample_rate)
    count = int(np.ceil(result.duration / clip.entry.window))
    for window in cut(stream(result.source, clip.sample_rate, channel), size):
        x = np.asarray(clip.model.frontend(jnp.asarray(window.wave)))
        x = x[: max(round(len(x) * window.samples / len(window.wave)), 1)]
        step = max(len(x) * count // COLUMNS, 1)
        columns.append(np.stack([x[start : start + step].mean(axis=0) for start in range(0, len(x), step)]))
    return np.concatenate(columns)
