"""Finds the rows of a corpus that are nearest to a text or a sound, by the cosine of embeddings: an exact search.

    blocks of rows --device--> cosines in float32 --those that may be among the k--> cosines in float64 --> the k

The error of float32 has a known bound. By it the device excludes nearly all rows, which cannot be among the k highest,
and the host computes the cosines of the few others again. The result is that of a stable sort of all cosines in
float64, on any device and with blocks of any size.
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._corpus import fingerprint
from ._decode import is_source
from ._load import load
from ._pretrained import Pretrained
from ._recordings import embed
from ._row_files import RowFiles
from ._search import FOREIGN, SUFFIXES

BLOCK = 1 << 24  # bytes of rows that the device takes at a time
SQUARES = 1e-20, 1e30  # sums of squares that float32 holds without loss


@dataclasses.dataclass(frozen=True)
class Match:
    """A row of a corpus: its recording, its start and end there in seconds, and its cosine with the query, -1 to 1.

    `start` and `end` are None if the rows have no times.
    """

    file: str
    start: float | None
    end: float | None
    similarity: float


def search(
    folder: str | os.PathLike, query: Any, clip: Pretrained | None = None, *, k: int | np.integer = 20
) -> list[Match]:
    """The `k` rows of a corpus that are most similar to the query, most similar first; ties keep the order of the rows.

    - `folder`: what `audax-zoo embed` wrote: OUT/, which may still grow, or a .parquet or .npz.
    - `query`: words, for a model that was trained with texts (CLAP), or a recording, for any model. A string that names
      a file is a recording, and so is anything else that `zoo.read` takes. Any other string is words, unless it has a
      slash or the suffix of a sound file: that is an error, because it is a mistyped path. A recording longer than a
      window is represented by the mean of its windows, as `zoo.embed` returns it.
    - `clip`: the model that made the rows; by default the one that the corpus names. Single files name none.

    The order is that of all cosines in float64. Rows of zeros have the similarity 0, and rows with NaN are left out.
    Memory depends on `k` and not on the number of rows. Raises ValueError for another model than that of the rows, for
    words if the model takes none, and for a folder or file without rows; and for the recording as `zoo.read` does.
    """
    if k < 1:
        raise ValueError(f"search takes k of at least 1, got {k}.")
    words = is_words(query)
    rows = RowFiles(folder)
    clip = _model(rows, clip)
    vector = np.asarray(clip.embed_text(query))[0] if words else _of_sound(clip, query, rows.note or {})
    numbers, similarities = nearest(rows, vector, int(k))
    places = rows.places(numbers)
    return [Match(*place, similarity) for place, similarity in zip(places, similarities, strict=True)]


def nearest(rows: RowFiles, query: Float[np.ndarray, " width"], k: int) -> tuple[list[int], list[float]]:
    """The numbers of the `k` rows with the highest cosines, highest first, and these cosines."""
    size = max(BLOCK // (4 * len(query)), 1)
    best = Best(query, k)
    on_device = jax.device_put(best.query.astype(np.float32))
    previous: tuple[np.ndarray, Array] | None = None
    for block in rows.blocks(len(query), size):
        full_block = block if len(block) == size else np.pad(block, ((0, size - len(block)), (0, 0)))
        cosines = _cosines(full_block, on_device)  # the device computes while the host takes the previous block
        if previous is not None:
            best.take(*previous)
        previous = block, cosines
    if previous is not None:
        best.take(*previous)
    best.sort()
    return best.numbers.tolist(), np.clip(best.cosines, -1.0, 1.0).tolist()


@jax.jit
def _cosines(rows: Float[Array, "rows width"], query: Float[Array, " width"]) -> Float[Array, " rows"]:
    """The cosines with a query of length 1; NaN for rows whose length float32 cannot hold, and for rows of zeros."""
    squares = jnp.sum(jnp.square(rows), axis=1)
    products = jnp.matmul(rows, query, precision=jax.lax.Precision.HIGHEST)
    return jnp.where((squares > SQUARES[0]) & (squares < SQUARES[1]), products * jax.lax.rsqrt(squares), jnp.nan)


class Best:
    """The `k` rows with the highest cosines among the blocks so far: their `numbers` and `cosines`, sorted."""

    def __init__(self, query: Float[np.ndarray, " width"], k: int):
        query = query.astype(np.float64)
        self.query = query / (np.linalg.norm(query) or 1.0)  # all cosines with a query of zeros are 0
        self.k = k
        # A sum of n products in float32 is off by at most n 2^-24 of the lengths' product, in any order of the products
        self.error = 2.0 * (len(query) + 16) * 2.0**-24
        self.numbers, self.cosines, self.rows = np.zeros(0, np.int64), np.zeros(0), 0
        self.backlog: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, block: Float[np.ndarray, "rows width"], estimates: Array) -> None:
        """Takes the next rows, and the device's estimates of their cosines."""
        candidates = self._candidates(np.asarray(estimates)[: len(block)])
        rows = block[candidates].astype(np.float64)
        with np.errstate(invalid="ignore"):  # the cosines of infinite rows are NaN
            lengths = np.sqrt(np.sum(np.square(rows), axis=1))  # NumPy adds all rows in the same order: equal rows tie
            cosines = np.sum(rows * self.query, axis=1) / np.where(lengths == 0.0, 1.0, lengths)
        is_number = ~np.isnan(cosines)
        self.backlog.append((self.rows + candidates[is_number], cosines[is_number]))
        self.rows += len(block)
        if sum(len(numbers) for numbers, _ in self.backlog) >= self.k:
            self.sort()

    def _candidates(self, estimates: Float[np.ndarray, " rows"]) -> np.ndarray:
        """The places of all rows of a block that may be among the k highest."""
        lowest = self.cosines[-1] - self.error if len(self.cosines) == self.k else -np.inf
        candidates = np.flatnonzero(~(estimates < lowest))  # keeps NaN, which may stand for any cosine
        numbers = estimates[candidates]
        numbers = numbers[~np.isnan(numbers)]
        if len(numbers) > self.k:  # the k highest of these exclude others
            lowest = np.partition(numbers, -self.k)[-self.k] - 2.0 * self.error
            candidates = candidates[~(estimates[candidates] < lowest)]
        return candidates

    def sort(self) -> None:
        """Keeps the k highest of all rows so far."""
        parts = [(self.numbers, self.cosines), *self.backlog]
        numbers, cosines = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(-cosines, kind="stable")[: self.k]
        self.numbers, self.cosines, self.backlog = numbers[order], cosines[order], []


def is_words(query: Any) -> bool:
    """Whether a query is a text.

    Raises FileNotFoundError for a path without a file, ValueError for an empty text, and TypeError for anything
    that is neither a text nor a recording."""
    if not is_source(query):
        raise TypeError(f"A query is a text, or a recording as zoo.read takes it, got a {type(query).__name__}.")
    if not isinstance(query, str) or os.path.isfile(query):
        return False
    suffix = pathlib.PurePath(query).suffix.lower()
    if os.sep in query or "/" in query or suffix in SUFFIXES | FOREIGN:
        raise FileNotFoundError(
            f"{query} is neither a file nor a text, because a text has no slash and no suffix of a sound file: name a "
            "recording that exists, or write other words."
        )
    if not query.strip():
        raise ValueError("The query is an empty text: give words, or a recording.")
    return True


def _model(rows: RowFiles, clip: Pretrained | None) -> Pretrained:
    """The model of the rows. Raises ValueError if the rows do not name it, it does not load, or `clip` differs."""
    if rows.note is None:
        if clip is None:
            raise ValueError(
                f"{rows.path} does not say which model made its rows: give that model, --model NAME in the shell."
            )
        return clip
    name, weights = rows.note.get("model"), rows.note.get("weights")
    has_clip = clip is not None
    if clip is None:
        try:
            clip = load(str(rows.note.get("source", name)))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{rows.path} holds rows of the model {name!r}, which does not load from where it was: give the model, "
                f"--model FOLDER in the shell. {error}"
            ) from None
    if fingerprint(clip) != weights:
        remedy = "give that model, or none so that the zoo loads it" if has_clip else "give the model that made them"
        raise ValueError(
            f"{rows.path} holds rows of the model {name!r}, with other weights than {clip.entry.name} has: {remedy}."
        )
    return clip


def _of_sound(clip: Pretrained, source: Any, note: dict[str, Any]) -> Float[np.ndarray, " width"]:
    """The embedding of a recording, with the window and precision of the rows."""
    options = {name: note[name] for name in ("window", "precision") if name in note}
    (result,) = embed(clip, [source], **options)
    return result.values[0]
