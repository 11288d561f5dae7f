"""Prepared datasets: what is read back, and what a broken one says."""

import json
import threading

import numpy as np
import pytest
from clips import LABELS, LENGTHS, flip, make, make_six

from train.data import Dataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"), LENGTHS, LABELS)


@pytest.fixture(scope="module")
def dataset(prepared):
    return Dataset(prepared[0])


@pytest.fixture
def own(tmp_path):
    return make_six(tmp_path)


def test_a_dataset_is_what_was_prepared(prepared, dataset):
    assert dataset.folder == prepared[0] and dataset.sample_rate == 8000
    assert len(dataset) == len(LENGTHS)
    assert dataset.ids == [f"{number}.wav" for number in range(len(LENGTHS))]
    assert dataset.labels == ("a", "b", "c") and dataset.multilabel
    assert dataset.samples.tolist() == LENGTHS and dataset.samples.dtype == np.int64
    assert dataset.targets.dtype == np.float32
    assert dataset.targets.tolist() == [[float(name in label.split(";")) for name in "abc"] for label in LABELS]
    assert dataset.columns["fold"].tolist() == [str(number % 3) for number in range(len(LENGTHS))]


def test_read_gives_any_part_of_an_example(prepared, dataset):
    for row in (12, 0, 5, 10):
        clip = prepared[1][row]
        for start, samples in [(0, None), (0, 10), (3, None), (40, 700), (len(clip) - 1, 5), (len(clip), 1)]:
            wave = dataset.read(row, start, samples)
            assert wave.dtype == np.float32
            np.testing.assert_array_equal(wave * 32768, clip[start:][:samples])


def test_threads_read_at_once(prepared, dataset):
    wrong = []

    def read(seed):
        for row in np.random.default_rng(seed).integers(len(dataset), size=50).tolist():
            if not np.array_equal(dataset.read(row) * 32768, prepared[1][row]):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_rows_of_a_column(dataset):
    held_out = dataset.rows("fold", ["1", "2"], held_out=True)
    assert held_out.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
    assert dataset.rows("fold", ["1", "2"], held_out=False).tolist() == [0, 3, 6, 9, 12]
    assert dataset.rows(held_out=False).tolist() == list(range(13))
    assert dataset.rows(held_out=True).tolist() == []


@pytest.mark.parametrize(
    "column, values, sentence",
    [
        ("split", ["1"], "has no column split: it has fold"),
        ("fold", ["1", "9"], "has 0, 1, 2 in its column fold, not 1, 9"),
        ("fold", [], "has 0, 1, 2 in its column fold, not nothing"),
    ],
)
def test_rows_that_are_not_there_raise(dataset, column, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataset.rows(column, values, held_out=True)


def test_a_folder_that_is_not_prepared_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare it first: audax-train prepare MANIFEST"):
        Dataset(tmp_path)


def test_a_missing_and_a_cut_shard_raise(own):
    shard = own / "shard-00001-of-00002.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"00002\.tfrecord has {len(content) - 1} bytes instead of {len(content)}"):
        Dataset(own)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001-of-00002\.tfrecord is missing"):
        Dataset(own)


def test_another_version_raises(own):
    about = json.loads((own / "dataset.json").read_text())
    (own / "dataset.json").write_text(json.dumps(about | {"version": 0}))
    with pytest.raises(ValueError, match="is of version 0"):
        Dataset(own)


@pytest.mark.parametrize("place", [0.0, 0.4, 0.7])
def test_a_corrupt_record_raises(own, place):
    flip(own, 3, place)
    dataset = Dataset(own)
    with pytest.raises(ValueError, match=r"3\.wav cannot be read from .*shard-00000-of-00002\.tfrecord"):
        dataset.read(3)
    assert len(dataset.read(2)) == 900


def test_the_record_of_another_example_raises(own):
    index = own / "shard-00000-of-00002.json"
    content = json.loads(index.read_text())
    first, second = content["examples"][:2]
    first["offset"], first["size"] = second["offset"], second["size"]
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"0\.wav cannot be read from .* \(it is another example's\)"):
        Dataset(own).read(0)
