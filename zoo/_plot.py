"""The picture that `audax-zoo tag --plot` draws: what the model hears, and what it makes of it."""

import pathlib
import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ._audio import cut, stream, window_size
from ._pretrained import Pretrained

COLUMNS = 2000  # of the picture, whatever the file's length


def plot(
    out: pathlib.Path,
    file: str,
    clip: Pretrained,
    probabilities: Float[np.ndarray, "windows classes"],
    labels: list[str],
) -> None:
    """Draws the log-mel picture of `file` above the probabilities of `labels` over its windows, as PNG."""
    picture, seconds = _log_mel(file, clip, len(probabilities))
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1 + 0.2 * len(labels)))
    above.imshow(picture.T, origin="lower", aspect="auto", extent=(0, seconds, 0, picture.shape[1]), cmap="magma")
    name = pathlib.Path(file).name.encode("utf-8", "backslashreplace").decode()
    above.set(ylabel="mel bin")
    above.set_title(f"{name}, {clip.entry.name}", parse_math=False)  # dollar signs are themselves
    shown = probabilities[:, [clip.labels.index(label) for label in labels]].T
    edges = np.minimum(np.arange(len(probabilities) + 1) * clip.entry.window, seconds)
    image = below.pcolormesh(edges, np.arange(len(labels) + 1), shown[::-1], vmin=0, vmax=1, cmap="Blues")
    below.set(xlabel="seconds", xlim=(0, seconds))
    below.set_yticks(np.arange(len(labels)) + 0.5, labels[::-1], parse_math=False)
    figure.colorbar(image, ax=below, label="probability")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in another script is drawn as boxes
        figure.savefig(out, format="png", dpi=120)


def _log_mel(file: str, clip: Pretrained, count: int) -> tuple[Float[np.ndarray, "columns bins"], float]:
    """The features of the file, brought to about COLUMNS columns by averaging, and the file's length in seconds."""
    columns, total = [], 0
    for window in cut(stream(file, clip.sample_rate), window_size(clip.entry.window, clip.sample_rate)):
        x = np.asarray(clip.model.frontend(jnp.asarray(window.wave)))
        x = x[: max(round(len(x) * window.samples / len(window.wave)), 1)]
        step = max(len(x) * count // COLUMNS, 1)
        columns.append(np.stack([x[start : start + step].mean(axis=0) for start in range(0, len(x), step)]))
        total += window.samples
    return np.concatenate(columns), total / clip.sample_rate
