"""The split of clips into those that are held out and those that are trained on.

Without a column that names the split, whole recordings are drawn by their names, the same share of each label. All
recordings are sorted by label, and within a label by a hash of their names; every tenth of them is then a tenth of each
label. The draw depends on neither the recipe nor its seed, and parts of one recording stay together.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Int

from .dataset import Dataset
from .recipe import Data


def held_out(dataset: Dataset, data: Data) -> Bool[np.ndarray, " examples"]:
    """Marks the examples that a recipe's `data` holds out, by a column and its values or by a share of the recordings.

    Raises ValueError for a column or values that the dataset lacks, and for a share that amounts to no recording or to
    all of them.
    """
    share = data.hold_out_share
    if not share:
        mask = np.zeros(len(dataset), bool)
        mask[dataset.rows(data.hold_out, data.held_out, held_out=data.hold_out is not None)] = data.holds_out
        return mask
    places = file_places(dataset)
    count = int(places.max()) + 1
    edges = np.floor(np.arange(count + 1) * share + 0.5)
    draws = np.diff(edges) > 0
    if draws.all() or not draws.any():
        raise ValueError(
            f"a share of {share:g} of the {count} recordings of {dataset.folder} holds out {int(draws.sum())} of them: "
            "give another share, so that some are left on both sides."
        )
    return draws[places]


def folds(dataset: Dataset, count: int) -> Int[np.ndarray, " examples"]:
    """The number of each example's fold, from 0 on. The folds are `count` sets of recordings, whose sizes differ by at
    most one.

    Raises ValueError for fewer than two folds, and for more folds than recordings.
    """
    places = file_places(dataset)
    recordings = int(places.max()) + 1
    if not 2 <= count <= recordings:
        raise ValueError(
            f"{dataset.folder} has {recordings} recordings, which allow 2 to {recordings} folds, got {count}."
        )
    return places % count


def file_places(dataset: Dataset) -> Int[np.ndarray, " examples"]:
    """The place of each example's recording in the sorted list of recordings, from 0 on."""
    names, files = np.unique(np.array(dataset.ids, object).astype(str), return_inverse=True)
    labels = np.zeros((len(names), len(dataset.labels)))
    np.maximum.at(labels, files, dataset.targets)
    # A recording with several labels is sorted by the rarest of them
    counts = np.where(labels > 0, labels.sum(axis=0), np.inf)
    stratum = counts.argmin(axis=1) if len(dataset.labels) else np.zeros(len(names), np.int64)
    stratum = np.where(labels.any(axis=1), stratum, -1)
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names]
    order = sorted(range(len(names)), key=lambda file: (stratum[file], hashes[file]))
    places = np.empty(len(names), np.int64)
    places[order] = np.arange(len(names))
    return places[files]
