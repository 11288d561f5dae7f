"""Reads labels, from their own file or from a file of weights, and ranks them by probability."""

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

# Fields of a `Checkpoint`
AUDIOSET = {"label_file": "class_labels_indices.csv", "label_repo": "topel/ConvNeXt-Tiny-AT"}
CODE = re.compile(r"/m/0\w+|/g/1\w+|/t/dd\d+")  # AudioSet's codes of sounds


def read_labels(path: pathlib.Path) -> tuple[str, ...]:
    """The labels in a file like AudioSet's (index, mid, display_name), or in one with a title and then a label a row.

    Raises ValueError for another kind of file.
    """
    with contextlib.suppress(csv.Error):
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        if len(rows) > 1 and all(len(row) == 1 and row[0] for row in rows):
            return tuple(row[0] for row in rows[1:])
    return tuple(row["display_name"] for row in _rows(path))


def read_names(path: pathlib.Path) -> dict[str, str]:
    """The labels in a file like AudioSet's by their codes, such as "/m/09x0r"."""
    return {row.get("mid", ""): row["display_name"] for row in _rows(path)}


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows, sorted by their index."""
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = sorted(csv.DictReader(text), key=lambda row: int(row["index"]))
    except (csv.Error, KeyError, TypeError, ValueError):
        rows = []
    if not rows or not all(row.get("display_name") is not None for row in rows):
        raise ValueError(f"{path} is not a table with the columns index and display_name: fetch it again.")
    return rows


def label_dict(settings: Mapping[Any, Any], where: str, classes: int) -> tuple[str, ...]:
    """The labels in the `label_dict` of a torch file, by their index in the output; () if it has no such dictionary.

    Raises ValueError, naming the file `where`, unless there is a text for each of the `classes`.
    """
    labels = settings.get("label_dict")
    if labels is None:
        return ()
    by_index = {str(index): label for index, label in labels.items()} if isinstance(labels, dict) else {}
    if by_index.keys() != set(map(str, range(classes))) or not all(
        isinstance(label, str) for label in by_index.values()
    ):
        text = line(str(labels))
        raise ValueError(f"{where} needs a label_dict of texts by the numbers 0 to {classes - 1}, and has {text}.")
    return tuple(by_index[str(index)] for index in range(classes))


def rank(
    probabilities: Float[np.ndarray, " classes"], labels: tuple[str, ...], k: int | np.integer
) -> list[tuple[str, float]]:
    """The `k` most probable labels, most probable first. Raises ValueError for `k` below 1."""
    if k < 1:
        raise ValueError(f"top takes k of at least 1, got {k}.")
    return [(labels[index], float(probabilities[index])) for index in np.argsort(-probabilities, kind="stable")[:k]]
