"""Labels of parts of recordings: from manifests to the crops that are drawn around them."""

import json

import numpy as np
import pytest
from spans import RATE, manifest, parts, prepared, record

from train import dataset, events, records
from train.data import Dataset, Sampler, crops, train_batches, windows_of
from train.manifest import read_manifest
from train.metrics import match_targets
from train.records import prepare
from zoo import Entry


@pytest.fixture
def ten(tmp_path):
    """A folder with a recording of ten seconds, and its samples."""
    return tmp_path, record(tmp_path / "a.wav", 10)


def test_a_recording_is_stored_once_and_has_an_example_for_each_part(ten):
    folder, samples = ten
    record(folder / "b.wav", 2, seed=1)
    data = prepared(folder, "a.wav,4,4.5,wren", "b.wav,,,robin", "a.wav,1.5,2.25,robin", "a.wav,8,9,")
    assert list(parts(data)) == [
        ("a.wav", 1.5, 2.25, "robin"),
        ("a.wav", 4.0, 4.5, "wren"),
        ("a.wav", 8.0, 9.0, ""),
        ("b.wav", 0.0, 2.0, "robin"),
    ]
    assert data.timed and not data.multilabel and data.samples.tolist() == [10000] * 3 + [2000]
    np.testing.assert_array_equal(data.read(0) * 32768, samples[1500:2250])
    np.testing.assert_array_equal(data.read(1, 0, 10) * 32768, samples[:10])
    about = json.loads((folder / "out/dataset.json").read_text())
    assert (about["version"], about["examples"], about["recordings"], about["seconds"]) == (3, 4, 2, 12.0)
    index = json.loads(next((folder / "out").glob("shard-*.json")).read_text())
    assert len({each["offset"] for each in index["examples"]}) == 2


def test_a_record_has_its_parts_as_parallel_lists(ten):
    prepared(ten[0], "a.wav,1,2,robin;wren", "a.wav,4,5,")
    (shard,) = (ten[0] / "out").glob("*.tfrecord")
    (record,) = records.tensorflow().data.TFRecordDataset(str(shard)).as_numpy_iterator()
    feature = records.tensorflow().train.Example.FromString(record).features.feature
    assert list(feature["labels"].bytes_list.value) == [b"robin", b"wren", b""]
    assert list(feature["start"].float_list.value) == [1, 1, 4] and list(feature["end"].float_list.value) == [2, 2, 5]


def test_a_dataset_of_whole_recordings_is_what_it_was(ten):
    folder, samples = ten
    path = manifest(folder, "a.wav,robin", head="files,labels")
    about = prepare(path, folder / "out", sample_rate=RATE, processes=1)
    (example,) = json.loads(next((folder / "out").glob("shard-*.json")).read_text())["examples"]
    assert about["version"] == 2 and list(example) == ["id", "labels", "samples", "offset", "size", "columns"]
    data = Dataset(folder / "out")
    assert not data.timed and data.spans.tolist() == [[0, 10000]]
    np.testing.assert_array_equal(data.read(0) * 32768, samples)


@pytest.mark.parametrize(
    "row, sentence",
    [
        ("a.wav,3,2,x", r"in its row 1 ends at 2 s, in front of its start at 3 s: mend or remove it"),
        ("a.wav,-1,2,x", "has the start '-1', and times are seconds from 0 on"),
        ("a.wav,1,nan,x", "has the end 'nan', and times are seconds from 0 on"),
        ("a.wav,1,inf,x", "has the end 'inf'"),
        ("a.wav,1,two,x", "has the end 'two'"),
        ("a.wav,1,,x", "has the end ''"),
        ("a.wav,0:03,0:05,x", "has the start '0:03'"),
    ],
)
def test_times_that_make_no_sense_get_one_sentence(row, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence) as error:
        read_manifest(manifest(tmp_path, row))
    assert "\n" not in str(error.value)


def test_times_take_both_columns_and_a_file_is_listed_whole_or_by_parts(tmp_path):
    with pytest.raises(ValueError, match="has a column start and none named end: give both"):
        read_manifest(manifest(tmp_path, "a.wav,1,x", head="files,start,labels"))
    for rows in (("a.wav,1,2,x", "a.wav,,,x"), ("a.wav,,,x", "./a.wav,,,y")):
        with pytest.raises(ValueError, match=r"lists 1 file more than once, a\.wav first: give each .* start and end"):
            read_manifest(manifest(tmp_path, *rows))


def test_parts_end_with_their_recording_or_are_left_out_behind_it(ten, capsys):
    rows = ("a.wav,9,12,robin", "a.wav,10,11,wren", "a.wav,1,1,point")
    data = prepared(ten[0], *rows)
    assert list(parts(data)) == [("a.wav", 1.0, 1.001, "point"), ("a.wav", 9.0, 10.0, "robin")]
    printed = capsys.readouterr()
    assert "Ending with their recording, which is shorter: 1 example." in printed.out
    assert "a.wav: a part starts at 10 s, and the recording has 10 s." in printed.err
    with pytest.raises(ValueError, match="a part starts at 10 s"):
        prepare(manifest(ten[0], *rows), ten[0] / "strict", sample_rate=RATE, processes=1, strict=True)


def test_labels_that_overlap_by_half_of_the_shorter_are_heard_together(ten):
    data = prepared(ten[0], "a.wav,1,3,robin", "a.wav,2,4,wren", "a.wav,3.5,8,crow", "a.wav,1,3,robin", "a.wav,1,3,owl")
    assert list(parts(data)) == [
        ("a.wav", 1.0, 3.0, "owl;robin;wren"),
        ("a.wav", 2.0, 4.0, "owl;robin;wren"),
        ("a.wav", 3.5, 8.0, "crow"),
    ]
    assert data.multilabel


def test_parts_that_hardly_touch_have_one_label_each(ten):
    data = prepared(ten[0], "a.wav,1,3,robin", "a.wav,2.99,5,wren")
    assert data.targets.sum(axis=1).tolist() == [1, 1] and not data.multilabel


def test_short_parts_lie_inside_of_their_crops_and_crops_inside_of_long_parts(ten):
    data = prepared(ten[0], "a.wav,0.2,0.5,x", "a.wav,5,5.5,x", "a.wav,2,4.5,x", "a.wav,9.5,10,x")
    rows, numbers = np.repeat(np.arange(4), 2000), np.arange(8000)
    starts = crops(data, rows, 1000, 1, 0, numbers)[:, 0].reshape(4, 2000)
    order = [(start, end) for start, end in data.spans.tolist()]
    assert order == [(200, 500), (2000, 4500), (5000, 5500), (9500, 10000)]
    limits = [(0, 200), (2000, 3500), (4500, 5000), (9000, 9000)]
    for each, (low, high) in zip(starts, limits, strict=True):
        assert each.min() == low and each.max() >= high - 10 and each.max() <= high
        assert abs(each.mean() - (low + high) / 2) <= 0.05 * (high - low)
    assert crops(data, np.array([1]), 20000, 1, 0, np.array([5])).tolist() == [[0]]


def test_what_is_evaluated_is_the_part_or_what_lies_around_its_middle(ten):
    data = prepared(ten[0], "a.wav,0.2,0.4,x", "a.wav,2,4.5,x", "a.wav,5,5.5,x", "a.wav,9.5,10,x")
    assert windows_of(data, np.arange(4), 1000).tolist() == [
        [0, 1000],
        [2000, 4500],
        [4750, 5750],
        [9000, 10000],
    ]
    assert windows_of(data, np.array([1]), 20000).tolist() == [[0, 10000]]


def test_a_stream_of_parts_is_a_function_of_seed_and_step(ten):
    folder, samples = ten
    data = prepared(folder, "a.wav,2,2.3,robin", "a.wav,2.6,2.9,wren", "a.wav,7,9,crow")

    def stream(**settings):
        return list(
            train_batches(data, Sampler(np.arange(3), 24, 5), samples=1000, stop=4, crop_labels=True, **settings)
        )

    batches = stream()
    for one, other in ((batches, stream(threads=1)), (batches[2:], stream(start=2))):
        assert all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
    both = 0
    for batch in batches:
        for row, wave, target in zip(batch.rows[0], batch.waves[0, :, 0], batch.targets[0], strict=True):
            (start,) = (k for k in range(9001) if samples[k] == wave[0] and np.array_equal(samples[k:][:1000], wave))
            crow, robin, wren = target.tolist()
            assert crow == (row == 2)
            assert robin == (row == 0 or (row == 1 and start <= 2150))  # where half of it is heard
            assert wren == (row == 1 or (row == 0 and start >= 1750))
            both += bool(robin and wren)
    assert both > 0
    (single,) = train_batches(data, Sampler(np.arange(3), 24, 5), samples=1000, stop=1)
    np.testing.assert_array_equal(single.targets[0], data.targets[single.rows[0]])
    np.testing.assert_array_equal(single.waves, batches[0].waves)


def test_a_multilabel_model_is_measured_by_all_that_is_heard(ten):
    data = prepared(ten[0], "a.wav,2,2.3,robin", "a.wav,2.6,2.9,wren")
    frontend = {"type": "LogMel", "sample_rate": RATE, "bins": 8}
    for window, task, targets in (
        (1.5, "multilabel", [[1, 1], [1, 1]]),
        (1.5, "multiclass", [[1, 0], [0, 1]]),
        (0.3, "multilabel", [[1, 0], [0, 1]]),
    ):
        entry = Entry("m", frontend, {"type": "resnet18"}, 2, labels=("robin", "wren"), window=window, task=task)
        assert match_targets(entry, data, np.arange(2)).tolist() == targets


def test_negatives_are_pieces_of_what_is_not_labelled(ten):
    record(ten[0] / "whole.wav", 5)
    rows = ("a.wav,2.5,3,robin", "a.wav,2.9,6,", "whole.wav,,,wren")
    data = prepared(ten[0], *rows, negatives=1.2)
    pieces = [(0.0, 1.2), (1.2, 2.4), (6.0, 7.2), (7.2, 8.4), (8.4, 9.6)]
    assert [(start, end) for _, start, end, label in parts(data) if not label] == [
        *pieces[:2],
        (2.9, 6.0),
        *pieces[2:],
    ]
    named = prepared(ten[0], *rows, negatives=1.2, negative_label="none")
    assert [(start, end) for _, start, end, label in parts(named) if label == "none"] == pieces
    assert len(prepared(ten[0], *rows)) == 3


@pytest.mark.parametrize("settings", [{"negatives": -1}, {"negatives": float("nan")}, {"negative_label": "none"}])
def test_negatives_of_nothing_raise(ten, settings):
    with pytest.raises(ValueError, match=r"negatives (are|of)"):
        prepared(ten[0], "a.wav,1,2,x", **settings)


def test_the_same_parts_are_not_prepared_again_and_others_are(ten, capfd):
    def shard(*rows, **settings):
        prepared(ten[0], *rows, **settings)
        return next((ten[0] / "out").glob("*.tfrecord")).stat().st_mtime_ns

    first = shard("a.wav,1,2,x")
    assert shard("a.wav,1,2,x") == first
    assert shard("a.wav,1,2.5,x") != first
    assert shard("a.wav,1,2,x", negatives=1.0) != first


# Long recordings ------------------------------------------------------------------------------------------------------


def test_of_a_long_recording_only_a_part_is_read(ten, monkeypatch):
    folder, samples = ten
    monkeypatch.setattr(records, "LARGE", 1)
    sizes = []
    (folder / "large").mkdir()
    long = record(folder / "large/b.wav", 200, seed=3)
    data = prepared(folder, "large/b.wav,4,5,x", "large/b.wav,150,151,y", "a.wav,4,5,x")
    pread = dataset.os.pread
    monkeypatch.setattr(dataset.os, "pread", lambda *arguments: sizes.append(arguments[1]) or pread(*arguments))
    np.testing.assert_array_equal(data.read(1) * 32768, long[150000:151000])
    assert 0 < sum(sizes) < 0.2 * long.nbytes
    np.testing.assert_array_equal(data.read(0, 0, 200000) * 32768, long)
    np.testing.assert_array_equal(data.read(2) * 32768, samples[4000:5000])
    index = next((folder / "out").glob("shard-*.json"))
    content = json.loads(index.read_text())
    content["examples"][0] |= {key: content["examples"][2][key] for key in ("offset", "size", "audio")}
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"b\.wav cannot be read from .* \(it is another example's\)"):
        Dataset(folder / "out").read(0)


def test_pieces_and_shares_in_closed_form():
    assert list(events._pieces([(3, 5), (4, 4)], 12, 3)) == [(0, 3), (5, 8), (8, 11)]
    spans = np.array([[0, 4], [3, 5], [6, 7]])
    assert events.mark_overlaps(spans, 2, 4).tolist() == [True, True, False]
