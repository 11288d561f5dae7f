"""The nearest rows: the order of a stable sort of all cosines, whatever the blocks and the files."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from rows import parquet, sorted_by_cosine

from zoo import _matches
from zoo._matches import nearest
from zoo._row_files import THREADS, Piece, Place, RowFiles, read_ahead
from zoo._rows import Part, path_of, utf8, write

# The order ------------------------------------------------------------------------------------------------------------


def test_two_hundred_thousand_rows_with_ties_come_as_a_stable_argsort_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 16 * 5000)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40_000, 16)).astype(np.float32)[rng.integers(0, 40_000, 200_000)]  # each some five times
    query = rng.normal(size=16).astype(np.float32)
    order, cosines = sorted_by_cosine(rows, query)
    files = parquet(tmp_path, rows, parts=7, group=9000)
    assert len(np.unique(cosines[:20])) < 10
    for k in (1, 20, 3000, 200_000):
        numbers, similarities = nearest(files, query, k)
        assert numbers == order[:k]
        np.testing.assert_allclose(similarities, cosines[:k], rtol=0, atol=1e-15)


def test_an_argsort_in_float32_gives_the_same_rows(tmp_path):
    rng = np.random.default_rng(1)
    rows, query = rng.normal(size=(20_000, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (query / np.linalg.norm(query))
    expected = np.argsort(-cosines, kind="stable")[:20]
    gaps = -np.diff(np.sort(cosines)[::-1][:21])
    assert gaps.min() > 1e-6  # beyond the rounding of float32, by the choice of the seed
    assert nearest(parquet(tmp_path, rows), query, 20)[0] == expected.tolist()


def test_cosines_that_float32_cannot_part_are_parted(tmp_path, monkeypatch):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 32 * 500)
    rng = np.random.default_rng(2)
    query = rng.normal(size=32).astype(np.float32)
    rows = (query + 1e-4 * rng.normal(size=(4000, 32))).astype(np.float32)
    order, cosines = sorted_by_cosine(rows, query)
    assert len(np.unique(cosines.astype(np.float32))) < 10 < len(np.unique(cosines)) / 100
    for k in (1, 7, 600, 4000):
        assert nearest(parquet(tmp_path, rows), query, k)[0] == order[:k]


@pytest.mark.parametrize("rising", [True, False])
def test_the_order_of_the_rows_does_not_matter(tmp_path, monkeypatch, rising):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 8 * 100)
    rng = np.random.default_rng(3)
    rows, query = rng.normal(size=(2000, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    order, _ = sorted_by_cosine(rows, query)
    rows = rows[order[::-1] if rising else order]
    assert nearest(parquet(tmp_path, rows), query, 50)[0] == sorted_by_cosine(rows, query)[0][:50]


def test_more_than_there_are_are_all(tmp_path):
    rows = np.eye(5, dtype=np.float32)
    numbers, similarities = nearest(parquet(tmp_path, rows), rows[3], 10**9)
    assert numbers == [3, 0, 1, 2, 4] and similarities == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_rows_of_any_size_count_by_their_direction(tmp_path):
    rng = np.random.default_rng(4)
    query = rng.normal(size=8).astype(np.float32)
    rows = rng.normal(size=(12, 8)).astype(np.float32)
    with np.errstate(under="ignore"):
        scaled = (
            rows * np.float32(10.0) ** np.array([-37, -30, -20, -10, -5, 0, 5, 10, 18, 25, 30, 37], np.float32)[:, None]
        )
    scaled = np.concatenate([scaled, np.zeros((2, 8), np.float32)])
    numbers, similarities = nearest(parquet(tmp_path, scaled), query, 14)
    order, cosines = sorted_by_cosine(scaled, query)
    assert numbers == order and similarities == pytest.approx(cosines, abs=1e-15)
    assert dict(zip(numbers, similarities, strict=True))[12] == 0.0


def test_a_length_that_float32_loses_does_not_make_a_row_win(tmp_path):
    rows = np.full((2, 64), 9e-20, np.float32)  # whose squares float32 takes for 0
    rows[0, 0], rows[1] = 2e-19, 0.0
    rows[1, :2] = 0.5, 0.9
    assert nearest(parquet(tmp_path, rows, parts=1), np.eye(64, dtype=np.float32)[0], 1)[0] == [1]


def test_rows_with_nan_or_infinity_never_come(tmp_path):
    rows = np.ones((6, 4), np.float32)
    rows[1, 2], rows[2, 0], rows[4] = np.nan, np.inf, -np.inf
    assert nearest(parquet(tmp_path, rows), np.ones(4, np.float32), 20) == ([0, 3, 5], [1.0, 1.0, 1.0])
    assert nearest(parquet(tmp_path, rows), np.zeros(4, np.float32), 2) == ([0, 3], [0.0, 0.0])


def test_one_program_does_for_all_corpora_of_a_width(tmp_path, programs):
    rng = np.random.default_rng(5)
    query = rng.normal(size=11).astype(np.float32)
    counts = []
    for count in (1, 70, 500):
        nearest(parquet(tmp_path / str(count), rng.normal(size=(count, 11)).astype(np.float32), parts=1), query, count)
        counts.append(programs())
    assert counts[0] == counts[-1] > 0


# Files ----------------------------------------------------------------------------------------------------------------


def test_blocks_are_full_across_parts_and_the_rows_are_those_of_one_table(tmp_path):
    rows = np.random.default_rng(6).normal(size=(1000, 6)).astype(np.float32)
    files = parquet(tmp_path, rows, parts=9, group=50)
    blocks = list(files.blocks(6, 300))
    assert list(map(len, blocks)) == [300, 300, 300, 100]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
    whole = pyarrow.parquet.read_table(tmp_path)
    chosen = [999, 0, 444, 445, 112]
    assert files.places(chosen) == [
        Place(*(whole[name][number].as_py() for name in ("files", "starts", "ends"))) for number in chosen
    ]


def test_a_large_part_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo._row_files.SMALL", 1 << 20)
    rows = np.zeros((60_000, 256), np.float32)
    rows[:] = np.random.default_rng(7).normal(size=256)
    files = parquet(tmp_path, rows, parts=1)
    before, highest = pyarrow.total_allocated_bytes(), 0
    for _ in files.blocks(256, 1000):
        highest = max(highest, pyarrow.total_allocated_bytes() - before)
    assert 0 < highest < rows.nbytes / 5


def test_few_pieces_are_read_ahead_and_large_ones_not_at_all():
    starts, numbers = [], []

    def blocks(number):
        numbers.append(number)
        yield np.full((1, 1), number, np.float32)

    def pieces():
        for number in range(50):
            starts.append(number)
            yield Piece(1 << 40 if number == 2 else 1, blocks(number))

    values = read_ahead(pieces())
    assert [next(values).item() for _ in range(2)] == [0, 1]
    assert len(starts) <= 2 + THREADS and 2 not in numbers
    assert [block.item() for block in values] == list(range(2, 50)) and sorted(numbers) == starts


def test_an_npz_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo._row_files.SELECTION", 7)
    rows = np.random.default_rng(8).normal(size=(50, 3)).astype(np.float32)
    names = [f"{'x' * index}.wav" for index in range(50)]
    write(tmp_path / "out.npz", (Part(name, {"embeddings": row[None]}) for name, row in zip(names, rows, strict=True)))
    files = RowFiles(tmp_path / "out.npz")
    np.testing.assert_array_equal(np.concatenate(list(files.blocks(3, 8))), rows)
    assert files.places([49, 6, 7]) == [Place(names[number], None, None) for number in (49, 6, 7)]


def test_rows_of_ray_have_lists_of_any_kind_and_may_lack_values(tmp_path):
    kinds = {
        "fixed": pyarrow.list_(pyarrow.float32(), 2),
        "list": pyarrow.list_(pyarrow.float64()),
        "large": pyarrow.large_list(pyarrow.float16()),
    }
    values = [[1.0, 0.0], None, [0.0, 1.0], None]
    for name, kind in kinds.items():
        columns = {"files": pyarrow.array([b"a\xff", b"b", b"c", b"d"]), "embeddings": pyarrow.array(values, kind)}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        files = RowFiles(tmp_path / f"{name}.parquet")
        assert nearest(files, np.array([0.0, 1.0], np.float32), 9) == ([2, 0], [1.0, 0.0])
        assert files.places([0]) == [Place(os.fsdecode(b"a\xff"), None, None)]


def test_a_name_comes_back_from_its_text():
    names = [
        os.fsdecode(b"\xff.wav"),
        r"\udcff.wav",
        r"\\udcff.wav",
        r"a\b.wav",
        os.fsdecode(b"\xff") + r"\udcff\\.wav",
    ]
    assert [path_of(utf8(name)) for name in names] == names
