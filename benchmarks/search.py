"""Search of a corpus beside NumPy, and its memory.

    python benchmarks/search.py [--rows 200000] [--width 512] [--rounds 5] [--only PATTERN]

- The 20 nearest of random rows, each of which is there about twice, in a Parquet corpus and in an .npz: rows/s of what
  `zoo.search` does once it has the query's embedding, beside NumPy, which reads all rows at once, divides products in
  float32 by the rows' lengths, and sorts by a stable argsort. Both read the same files, which are in the page cache,
  and have to name the same rows in the same order. A ratio above 1 is faster.
- The highest memory of `audax-zoo search` over so many rows of width 128, and over four times as many.

The sides take turns in one process. Medians go into `benchmarks/results/search.json` with the load of the machine;
`--only` replaces what it measured. `--small` tries all of it with few rows.
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
K, WINDOWS, PART = 20, 100, 25_000  # windows of a recording, rows of a file


def parts(rows: np.ndarray) -> list[Part]:
    """The rows as recordings of a hundred windows of a second."""
    starts = np.arange(len(rows)) % WINDOWS * 1.0
    return [
        Part(f"{start}.wav", {"starts": starts[span], "ends": starts[span] + 1, "embeddings": rows[span]})
        for start in range(0, len(rows), WINDOWS)
        for span in [slice(start, start + WINDOWS)]
    ]


def corpus(folder: pathlib.Path, rows: np.ndarray) -> pathlib.Path:
    """Writes them as `audax-zoo embed` does."""
    folder.mkdir()
    for start in range(0, len(rows), PART):
        pyarrow.parquet.write_table(table(parts(rows[start : start + PART])), folder / f"part-{start:09}.parquet")
    return folder


def by_numpy(path: pathlib.Path, query: np.ndarray) -> list[int]:
    if path.suffix == ".npz":
        rows = np.load(path)["embeddings"]
    else:
        column = pyarrow.parquet.read_table(path, columns=["embeddings"])["embeddings"].combine_chunks()
        rows = column.flatten().to_numpy().reshape(len(column), -1)
    cosines = rows @ query / np.sqrt(np.einsum("rw,rw->r", rows, rows))
    return np.argsort(-cosines, kind="stable")[:K].tolist()


def beside_numpy(report: Report, row: str, path: pathlib.Path, rows: int, query: np.ndarray) -> None:
    sides = (lambda: nearest(RowFiles(path), query, K)[0], lambda: by_numpy(path, query))
    times: list[list[float]] = []
    for _ in range(report.rounds + 1):
        times.append([])
        answers = []
        for side in sides:
            start = time.perf_counter()
            answers.append(side())
            times[-1].append(time.perf_counter() - start)
        assert answers[0] == answers[1], f"{row}: {answers[0]} instead of {answers[1]}"
    us, them = (rows / statistics.median(column) for column in zip(*times[1:], strict=True))  # the first one compiles
    sentence = f"{us / 1e6:.2f} million rows/s, NumPy {them / 1e6:.2f}, ratio {us / them:.2f}, the same {K} rows"
    report.row(row, sentence, rows_per_second=us, numpy=them, ratio=us / them)


def memory(report: Report, row: str, folder: pathlib.Path, rows: int) -> None:
    rng, peaks = np.random.default_rng(0), {}
    for count in (rows, 4 * rows):
        made = corpus(folder / str(count), rng.normal(size=(count, 128)).astype(np.float32))
        peaks[str(count)] = peak("search", str(made), str(zoo.example()), "--model", "resnet_fsdd")
    few, many = peaks.values()
    sentence = ", ".join(f"{count} rows: {mb:.0f} MB" for count, mb in peaks.items())
    report.row(row, f"{sentence}, difference {many - few:.0f} MB", **peaks, difference=many - few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of what to measure")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "search.json")
    parser.add_argument("--small", action="store_true", help="try all of it with few rows")
    options = parser.parse_args()
    if options.small:
        options.rows, options.width, options.rounds = 2000, 16, 1
    report = Report(options.output, options.rounds)
    chosen = fnmatch.filter(["Parquet", "npz", "memory"], options.only)
    rng = np.random.default_rng(0)
    query = rng.normal(size=options.width).astype(np.float32)
    query /= np.linalg.norm(query)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if {"Parquet", "npz"} & {*chosen}:
            rows = rng.normal(size=(options.rows // 2, options.width)).astype(np.float32)
            rows = rows[rng.integers(0, len(rows), options.rows)]
            corpus(folder / "corpus", rows)
            write(folder / "rows.npz", parts(rows))
            del rows
        for row, path in {"Parquet": "corpus", "npz": "rows.npz"}.items():
            if row in chosen:
                beside_numpy(report, row, folder / path, options.rows, query)
        if "memory" in chosen:
            memory(report, "memory", folder, options.rows)


if __name__ == "__main__":
    main()
