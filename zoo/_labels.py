"""Labels that lie in a file of their own."""

import csv
import io
import pathlib

from ._files import read_text

AUDIOSET = {"label_file": "class_labels_indices.csv", "label_repo": "topel/ConvNeXt-Tiny-AT"}  # of a `Checkpoint`


def read_labels(path: pathlib.Path) -> tuple[str, ...]:
    """The labels in AudioSet's kind of label file: index, mid, display_name.

    Raises ValueError for another one.
    """
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = sorted(csv.DictReader(text), key=lambda row: int(row["index"]))
        labels = tuple(row["display_name"] for row in rows)
    except (csv.Error, KeyError, TypeError, ValueError):
        labels = ()
    if not labels or None in labels:
        raise ValueError(f"{path} is not a table with the columns index and display_name: fetch it again.")
    return labels
