"""Labels: in a file of their own or among the weights, and by their probabilities."""

import contextlib
import csv
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ._files import line, read_text

AUDIOSET = {"label_file": "class_labels_indices.csv", "label_repo": "topel/ConvNeXt-Tiny-AT"}  # of a `Checkpoint`
CODE = re.compile(r"/m/0\w+|/g/1\w+|/t/dd\d+")  # by which AudioSet knows a sound


def read_labels(path: pathlib.Path) -> tuple[str, ...]:
    """The labels in AudioSet's kind of label file: index, mid, display_name; or one a row below the name of their list.

    Raises ValueError for another one.
    """
    with contextlib.suppress(csv.Error):
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        if len(rows) > 1 and all(len(row) == 1 and row[0] for row in rows):
            return tuple(row[0] for row in rows[1:])
    return tuple(row["display_name"] for row in _rows(path))


def read_names(path: pathlib.Path) -> dict[str, str]:
    """The labels in such a file by their codes, "/m/09x0r"."""
    return {row.get("mid", ""): row["display_name"] for row in _rows(path)}


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows by their index."""
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = sorted(csv.DictReader(text), key=lambda row: int(row["index"]))
    except (csv.Error, KeyError, TypeError, ValueError):
        rows = []
    if not rows or not all(row.get("display_name") is not None for row in rows):
        raise ValueError(f"{path} is not a table with the columns index and display_name: fetch it again.")
    return rows


def label_dict(settings: Mapping[Any, Any], where: str, classes: int) -> tuple[str, ...]:
    """The labels in the `label_dict` of a torch file, by their index in the output; none where it has none.

    Raises ValueError that names `where` for one that is not a text for each of so many classes.
    """
    labels = settings.get("label_dict")
    if labels is None:
        return ()
    by_index = {str(index): label for index, label in labels.items()} if isinstance(labels, dict) else {}
    if by_index.keys() != set(map(str, range(classes))) or not all(isinstance(each, str) for each in by_index.values()):
        given = line(str(labels))
        raise ValueError(f"{where} needs a label_dict of texts by the numbers 0 to {classes - 1}, and has {given}.")
    return tuple(by_index[str(index)] for index in range(classes))


def rank(
    probabilities: Float[np.ndarray, " classes"], labels: tuple[str, ...], k: int | np.integer
) -> list[tuple[str, float]]:
    """The `k` most probable labels, most probable first. Raises ValueError for `k` below 1."""
    if k < 1:
        raise ValueError(f"top takes k of at least 1, got {k}.")
    return [(labels[index], float(probabilities[index])) for index in np.argsort(-probabilities, kind="stable")[:k]]
