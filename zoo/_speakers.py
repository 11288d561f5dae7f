"""Pairs of recordings, and measures of how well their scores tell whether both have the same speaker.

false alarms: the share of pairs of two speakers at or above a threshold
misses:       the share of pairs of one speaker below it
"""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Bool, Float

from ._files import line

Scores = Float[np.ndarray, " pairs"]
LABELS = {"1": True, "0": False, "target": True, "nontarget": False}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two recordings, and whether both have the same speaker; None if that is not known."""

    first: str
    second: str
    same: bool | None = None


def read_pairs(path: pathlib.Path, root: pathlib.Path | None = None) -> list[Pair]:
    """The pairs of a list of trials, whose lines are `label path path`, as in VoxCeleb's lists, or `path path`.

    A label is 1 or "target" for one speaker, 0 or "nontarget" for two. Fields are separated by spaces, or by tabs if
    the line has any. Paths are relative to `root`, or to the folder of the list. Raises ValueError for other lines.
    """
    root = path.parent if root is None else root
    pairs = []
    for number, row in enumerate(path.read_bytes().splitlines(), 1):
        text = os.fsdecode(row).strip()
        fields = [field.strip() for field in text.split("\t")] if "\t" in text else text.split()
        if not fields:
            continue
        label = fields[0] if len(fields) == 3 else None
        if len(fields) not in (2, 3) or (label is not None and label not in LABELS):
            raise ValueError(
                f"Line {number} of {path} is {line(repr(text))}: a trial is `label path path`, with the label 1 for "
                "one speaker and 0 for two, or `path path`."
            )
        same = None if label is None else LABELS[label]
        pairs.append(Pair(str(root / fields[-2]), str(root / fields[-1]), same))
    if not pairs:
        raise ValueError(f"{path} has no trials: write one per line, `label path path` or `path path`.")
    if len({pair.same is None for pair in pairs}) > 1:
        raise ValueError(f"{path} has trials with a label and trials without one: give all of them a label, or none.")
    return pairs


def cosine(first: Float[np.ndarray, " width"], second: Float[np.ndarray, " width"]) -> float:
    """The cosine of the angle between two embeddings; 0 if one of them is zero."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths > 0.0 else 0.0


def equal_error_rate(scores: Scores, same: Bool[np.ndarray, " pairs"]) -> float:
    """The rate at which false alarms and misses are equal, interpolated between the two nearest thresholds.

    Raises ValueError unless there are pairs of one speaker and of two.
    """
    alarms, misses = _errors(scores, same)
    excess = misses - alarms  # falls from 1 to -1
    crossing = int(np.argmax(excess <= 0.0))
    share = excess[crossing - 1] / (excess[crossing - 1] - excess[crossing])
    return float(alarms[crossing - 1] + share * (alarms[crossing] - alarms[crossing - 1]))


def minimum_cost(scores: Scores, same: Bool[np.ndarray, " pairs"], prior: float = 0.01) -> float:
    """NIST's minDCF: the lowest cost over all thresholds. The same decision for all pairs costs 1.

    A pair has one speaker with the probability `prior`, and a false alarm costs as much as a miss. Raises ValueError
    for a prior outside of 0 to 1, and unless there are pairs of one speaker and of two.
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"minDCF takes the probability of one speaker, above 0 and below 1: got {prior}.")
    alarms, misses = _errors(scores, same)
    return float(np.min(prior * misses + (1.0 - prior) * alarms) / min(prior, 1.0 - prior))


def _errors(
    scores: Scores, same: Bool[np.ndarray, " pairs"]
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """False alarms and misses at each threshold, from one above all scores down to the lowest score."""
    count = int(np.sum(same))
    if not 0 < count < len(same):
        raise ValueError(
            f"Error rates need pairs of one speaker and pairs of two, got {count} and {len(same) - count}: give some "
            "of both."
        )
    if not np.all(np.isfinite(scores)):
        raise ValueError("Scores are finite numbers, got NaN or infinite ones: leave their pairs out.")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last of equal scores, which no threshold separates
    hits = np.cumsum(same[order])[last]
    alarms = np.cumsum(~same[order])[last]
    return np.append(0.0, alarms / (len(same) - count)), np.append(1.0, 1.0 - hits / count)
