"""Recordings to embed, and the rows of a corpus."""

import pathlib

import numpy as np
import pyarrow.parquet
import soundfile
from tiny_resnet import RATE

from zoo.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]


def record(folder, count, seconds=(0.2, 0.9)):
    """Writes recordings of noise, of different lengths, and gives their names."""
    rng = np.random.default_rng(0)
    pathlib.Path(folder).mkdir(exist_ok=True)
    names = [f"{folder}/{index:03}.wav" for index in range(count)]
    for name in names:
        soundfile.write(name, rng.uniform(-0.5, 0.5, round(rng.uniform(*seconds) * RATE)), RATE)
    return names


def rows(folder):
    """All rows of a corpus, as tuples, sorted; each part can be read by itself and all of them at once."""
    table = pyarrow.parquet.read_table(folder)
    assert table.num_rows == sum(pyarrow.parquet.read_table(part).num_rows for part in folder.glob("part*.parquet"))
    columns = table.to_pydict()
    values = zip(*(columns[name] for name in ("files", "starts", "ends", "embeddings")), strict=True)
    return sorted((file, start, end, tuple(np.float32(row))) for file, start, end, row in values)


def same(ours, theirs):
    """The same rows; the batches in which they were computed differ, and so may the last bits."""
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    np.testing.assert_allclose(*(np.array([row[3] for row in each]) for each in (ours, theirs)), rtol=1e-5, atol=1e-6)


def embed(*arguments, model):
    return main(["embed", *arguments, "--model", model])
