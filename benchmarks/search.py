"""Speed of the search of a corpus, beside NumPy, and its memory.

    python benchmarks/search.py [--rows 200000] [--width 512] [--rounds 5] [--only PATTERN]

- "Parquet" and "npz" measure the rows/s of finding the 20 nearest rows in a Parquet corpus and in an .npz: the part of
  `zoo.search` that follows the query's embedding. The rows are random, and each is there about twice. NumPy reads all
  rows at once, divides products in float32 by the rows' lengths, and sorts by a stable argsort. Both sides read the
  same files from the page cache, and have to find the same rows in the same order. A ratio above 1 is faster.
- "memory" measures the highest memory of `audax-zoo search` over `--rows` rows of width 128, and over four times as
  many.

The sides take turns in one process. Medians go to `benchmarks/results/search.json`, with the load of the machine; with
`--only` the other rows of that file stay as they are. `--small` tries everything with few rows.
"""

import argparse
import fnmatch
import pathlib
import statistics
import tempfile
import time

import numpy as np
import pyarrow.parquet
from recordings import Report, peak

import zoo
from zoo._matches import nearest
from zoo._row_files import RowFiles
from zoo._rows import Part, table, write

ROOT = pathlib.Path(__file__).resolve().parents[1]
K = 20
WINDOWS = 100  # of a recording
FILE_ROWS = 25_000


def parts(rows: np.ndarray) -> list[Part]:
    """The rows as recordings, each of a hundred windows of one second."""
    starts = np.arange(len(rows)) % WINDOWS * 1.0
    return [
        Part(f"{start}.wav", {"starts": starts[span], "ends": starts[span] + 1, "embeddings": rows[span]})
        for start in range(0, len(rows), WINDOWS)
        for span in [slice(start, start + WINDOWS)]
    ]


def write_corpus(folder: pathlib.Path, rows: np.ndarray) -> pathlib.Path:
    """Writes the rows as Parquet files, as `audax-zoo embed` does, and returns the folder."""
    folder.mkdir()
    for start in range(0, len(rows), FILE_ROWS):
        pyarrow.parquet.write_table(table(parts(rows[start : start + FILE_ROWS])), folder / f"part-{start:09}.parquet")
    return folder


def nearest_by_numpy(path: pathlib.Path, query: np.ndarray) -> list[int]:
    """The numbers of the `K` rows nearest to the query."""
    if path.suffix == ".npz":
        rows = np.load(path)["embeddings"]
    else:
        column = pyarrow.parquet.read_table(path, columns=["embeddings"])["embeddings"].combine_chunks()
        rows = column.flatten().to_numpy().reshape(len(column), -1)
    cosines = rows @ query / np.sqrt(np.einsum("rw,rw->r", rows, rows))
    return np.argsort(-cosines, kind="stable")[:K].tolist()


def compare(report: Report, row: str, path: pathlib.Path, rows: int, query: np.ndarray) -> None:
    """Adds a row that compares our search of these files with NumPy's."""
    sides = (lambda: nearest(RowFiles(path), query, K)[0], lambda: nearest_by_numpy(path, query))
    times: list[list[float]] = []
    for _ in range(report.rounds + 1):
        times.append([])
        answers = []
        for side in sides:
            start = time.perf_counter()
            answers.append(side())
            times[-1].append(time.perf_counter() - start)
        assert answers[0] == answers[1], f"{row}: {answers[0]} instead of {answers[1]}"
    medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]  # the first round compiles
    ours, numpy = (rows / seconds for seconds in medians)
    sentence = f"{ours / 1e6:.2f} million rows/s, NumPy {numpy / 1e6:.2f}, ratio {ours / numpy:.2f}, the same {K} rows"
    report.add_row(row, sentence, rows_per_second=ours, numpy=numpy, ratio=ours / numpy)


def memory(report: Report, row: str, folder: pathlib.Path, rows: int) -> None:
    """Adds a row with the memory of searches over `rows` rows and four times as many."""
    rng, peaks = np.random.default_rng(0), {}
    for count in (rows, 4 * rows):
        corpus = write_corpus(folder / str(count), rng.normal(size=(count, 128)).astype(np.float32))
        peaks[str(count)] = peak("search", str(corpus), str(zoo.example()), "--model", "resnet_fsdd")
    few, many = peaks.values()
    sentence = ", ".join(f"{count} rows: {mb:.0f} MB" for count, mb in peaks.items())
    report.add_row(row, f"{sentence}, difference {many - few:.0f} MB", **peaks, difference=many - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of the rows to measure")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "search.json")
    parser.add_argument("--small", action="store_true", help="try everything with few rows")
    options = parser.parse_args()
    if options.small:
        options.rows, options.width, options.rounds = 2000, 16, 1
    report = Report(options.output, options.rounds)
    names = fnmatch.filter(["Parquet", "npz", "memory"], options.only)
    rng = np.random.default_rng(0)
    query = rng.normal(size=options.width).astype(np.float32)
    query /= np.linalg.norm(query)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if {"Parquet", "npz"} & {*names}:
            rows = rng.normal(size=(options.rows // 2, options.width)).astype(np.float32)
            rows = rows[rng.integers(0, len(rows), options.rows)]
            write_corpus(folder / "corpus", rows)
            write(folder / "rows.npz", parts(rows))
            del rows
        for row, path in {"Parquet": "corpus", "npz": "rows.npz"}.items():
            if row in names:
                compare(report, row, folder / path, options.rows, query)
        if "memory" in names:
            memory(report, "memory", folder, options.rows)


if __name__ == "__main__":
    main()
