"""Which clips are held out where no column says so: whole recordings, drawn by their names, with all labels alike.

Recordings stand in a line, label after label and in each by a hash of their names. Every tenth of them is a tenth of
each label; neither the recipe nor its seed changes which they are, and parts of a recording stay together.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Int

from .dataset import Dataset
from .recipe import Data


def held_out(dataset: Dataset, data: Data) -> Bool[np.ndarray, " examples"]:
    """Which examples a recipe's `data` holds out: those of its column and values, or a share of the recordings.

    Raises ValueError for a column or values that the dataset lacks, and for a share that is no recording or all.
    """
    share = data.hold_out_share
    if not share:
        chosen = np.zeros(len(dataset), bool)
        chosen[dataset.rows(data.hold_out, data.held_out, held_out=data.hold_out is not None)] = data.holds_out
        return chosen
    places = file_places(dataset)
    count = int(places.max()) + 1
    edges = np.floor(np.arange(count + 1) * share + 0.5)
    drawn = np.diff(edges) > 0
    if drawn.all() or not drawn.any():
        raise ValueError(
            f"a share of {share:g} of the {count} recordings of {dataset.folder} holds out {int(drawn.sum())} of them: "
            "give another, so that some are left on both sides."
        )
    return drawn[places]


def folds(dataset: Dataset, count: int) -> Int[np.ndarray, " examples"]:
    """The number of each example's fold, from 0 on: one of `count` parts of the recordings that are equal but for one.

    Raises ValueError for fewer than two, and for more than there are recordings.
    """
    places = file_places(dataset)
    recordings = int(places.max()) + 1
    if not 2 <= count <= recordings:
        raise ValueError(f"{dataset.folder} has {recordings} recordings, which give 2 to as many folds, got {count}.")
    return places % count


def file_places(dataset: Dataset) -> Int[np.ndarray, " examples"]:
    """The place of each example's recording in the line, from 0 on."""
    names, files = np.unique(np.array(dataset.ids, object).astype(str), return_inverse=True)
    labels = np.zeros((len(names), len(dataset.labels)))
    np.maximum.at(labels, files, dataset.targets)
    # A recording with several labels stands with the rarest of them
    counts = np.where(labels > 0, labels.sum(axis=0), np.inf)
    stratum = counts.argmin(axis=1) if len(dataset.labels) else np.zeros(len(names), np.int64)
    stratum = np.where(labels.any(axis=1), stratum, -1)
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names]
    order = sorted(range(len(names)), key=lambda file: (stratum[file], hashes[file]))
    places = np.empty(len(names), np.int64)
    places[order] = np.arange(len(names))
    return places[files]
