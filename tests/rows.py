"""Rows of embeddings in Parquet files, and their order by cosine in float64."""

import numpy as np
import pyarrow
import pyarrow.parquet

from zoo._row_files import RowFiles
from zoo._rows import Part, table


def sorted_by_cosine(rows, query):
    """All rows in the order of a stable sort of their cosines in float64, and the cosines in that order."""
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.sum(rows**2, axis=1)) * np.sqrt(np.sum(query**2))
    cosines = np.sum(rows * query, axis=1) / np.where(lengths == 0, 1, lengths)
    order = np.argsort(-cosines, kind="stable")
    return order.tolist(), cosines[order]


def parquet(folder, rows, parts=3, group=None, **columns):
    """Writes the rows as parts of about the same size, whose recordings have the numbers of rows as names."""
    folder.mkdir(exist_ok=True)
    for index, numbers in enumerate(np.array_split(np.arange(len(rows)), parts)):
        starts = numbers.astype(float)
        each = table([Part(str(numbers[0]), {"starts": starts, "ends": starts + 1, "embeddings": rows[numbers]})])
        pyarrow.parquet.write_table(each, folder / f"part-{index:06}.parquet", row_group_size=group or len(rows))
    return RowFiles(folder)
