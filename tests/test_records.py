"""Manifests become TFRecords: what is kept bit by bit, what is counted, what is refused, and runs that are killed."""

import csv
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import zoo
from train.records import prepare, tensorflow

ROOT = pathlib.Path(__file__).parents[1]


def noise(samples, seed=0, level=0.5):
    return np.random.default_rng(seed).uniform(-level, level, samples).astype(np.float32)


def write(path, samples, sample_rate=8000, subtype="PCM_16"):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, samples, sample_rate, subtype=subtype)
    return path


def manifest(folder, rows, columns=("files", "labels"), **form):
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **form).writerows([columns, *rows])
    return folder / "manifest.csv"


def clips(folder, count, samples=800):
    """A manifest of so many clips, with labels and a fold."""
    for number in range(count):
        write(folder / f"audio/{number}.wav", noise(samples + number, number))
    rows = [(f"audio/{number}.wav", "ab"[number % 2], number % 3) for number in range(count)]
    return manifest(folder, rows, ("files", "labels", "fold"))


def index(out, number=0):
    return json.loads(sorted(out.glob("shard-*.json"))[number].read_text("utf-8"))


def features(out):
    """Every example of a dataset, as TensorFlow itself reads it."""
    tf = tensorflow()
    found = []
    for record in tf.data.TFRecordDataset([str(path) for path in sorted(out.glob("*.tfrecord"))]).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        found.append(
            {name: list(getattr(value, value.WhichOneof("kind")).value) for name, value in dict(feature).items()}
        )
    return found


def audio(feature):
    wave, sample_rate = soundfile.read(io.BytesIO(feature["audio"][0]), dtype="int16")
    assert sample_rate == feature["sample_rate"][0]
    return wave


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_int16_samples_survive_bit_by_bit(tmp_path):
    samples = np.concatenate([np.arange(-32768, 32768, 7), [32767, -32768, 0, -1, 1]]).astype(np.int16)
    write(tmp_path / "a.wav", samples)
    about = prepare(manifest(tmp_path, [("a.wav", "x")]), tmp_path / "out", sample_rate=8000, processes=1)
    (feature,) = features(tmp_path / "out")
    np.testing.assert_array_equal(audio(feature), samples)
    assert about["clipped"] == {"files": 0, "samples": 0} and about["rounded_to_16_bits"] == 0


def test_other_rates_and_channels_are_what_the_zoo_reads(tmp_path):
    path = write(tmp_path / "a.flac", noise((3000, 2)), 11025)
    prepare(manifest(tmp_path, [("a.flac", "x")]), tmp_path / "out", sample_rate=8000, processes=1)
    (feature,) = features(tmp_path / "out")
    wave = zoo.read(path, 8000)
    assert np.abs(audio(feature) / 32768 - wave).max() <= 0.5 / 32768
    assert feature["samples"] == [len(wave)]


def test_a_record_holds_what_the_manifest_says(tmp_path):
    write(tmp_path / "sub/a, b.ogg", noise(4000), subtype="VORBIS")
    rows = [("sub/a, b.ogg", "rain; dog;rain", "3", "Zoë")]
    about = prepare(
        manifest(tmp_path, rows, ("files", "labels", "fold", "speaker")), tmp_path / "out", sample_rate=8000
    )
    (feature,) = features(tmp_path / "out")
    del feature["audio"]
    assert feature == {
        "id": [b"sub/a, b.ogg"],
        "labels": [b"rain", b"dog"],
        "sample_rate": [8000],
        "samples": [4000],
        "duration": [0.5],
        "column/fold": [b"3"],
        "column/speaker": ["Zoë".encode()],
    }
    (example,) = index(tmp_path / "out")["examples"]
    assert (example["id"], example["labels"], example["samples"]) == ("sub/a, b.ogg", ["rain", "dog"], 4000)
    assert example["columns"] == {"fold": "3", "speaker": "Zoë"}
    assert about["columns"] == ["fold", "speaker"] and about["multilabel"]
    assert about == json.loads((tmp_path / "out/dataset.json").read_text("utf-8"))


def test_the_index_finds_every_record_and_its_checksum(tmp_path):
    prepare(clips(tmp_path, 5), tmp_path / "out", sample_rate=8000, shard_size=2, processes=1)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord"))
    assert names == [f"shard-0000{number}-of-00003.tfrecord" for number in range(3)]
    ids = []
    about = json.loads((tmp_path / "out/dataset.json").read_text("utf-8"))
    for number, name in enumerate(names):
        data = (tmp_path / "out" / name).read_bytes()
        shard = index(tmp_path / "out", number)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest() == about["shards"][number]["sha256"]
        assert about["shards"][number] | {"sha256": ""} == {"file": name, "examples": 2 - number // 2, "sha256": ""}
        for example in shard["examples"]:
            record = data[example["offset"] : example["offset"] + example["size"]]
            feature = tensorflow().train.Example.FromString(record).features.feature
            ids.append(feature["id"].bytes_list.value[0].decode())
    assert ids == [f"audio/{number}.wav" for number in range(5)]


def test_labels_are_counted_and_sorted(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.wav", noise(800))
    path = manifest(tmp_path, [("a.wav", "10"), ("b.wav", "9"), ("c.wav", "10")])
    about = prepare(path, tmp_path / "numbers", sample_rate=8000, processes=1)
    assert about["labels"] == ["9", "10"] and about["counts"] == {"9": 1, "10": 2}
    assert not about["multilabel"] and about["columns"] == [] and about["seconds"] == 0.3
    path = manifest(tmp_path, [("a.wav", "10"), ("b.wav", "9"), ("c.wav", "x")])
    assert prepare(path, tmp_path / "names", sample_rate=8000, processes=1)["labels"] == ["10", "9", "x"]


def test_clips_need_no_labels(tmp_path):
    write(tmp_path / "a.wav", noise(800))
    path = manifest(tmp_path, [("a.wav",)], ("files",))
    with pytest.raises(
        ValueError, match=r"has the columns files and none named labels: name it so, .* by --unlabelled"
    ):
        prepare(path, tmp_path / "out", sample_rate=8000)
    about = prepare(path, tmp_path / "out", sample_rate=8000, processes=1, unlabelled=True)
    assert about["labels"] == [] and about["examples"] == 1


def test_other_delimiters_and_quoted_names(tmp_path):
    write(tmp_path / "a\tb.wav", noise(800))
    path = manifest(tmp_path, [("a\tb.wav", "dog, small|cat", "1")], ("files", "labels", "fold"), delimiter="\t")
    about = prepare(path, tmp_path / "out", sample_rate=8000, processes=1, delimiter="\t", label_delimiter="|")
    assert about["labels"] == ["cat", "dog, small"]
    assert index(tmp_path / "out")["examples"][0]["id"] == "a\tb.wav"


def test_paths_are_relative_to_the_manifest_or_absolute(tmp_path, monkeypatch):
    other = write(tmp_path / "other/b.wav", noise(900))
    write(tmp_path / "data/a.wav", noise(800))
    monkeypatch.chdir(tmp_path / "other")
    manifest(tmp_path / "data", [("a.wav", "x"), (str(other), "x")])
    prepare("../data/manifest.csv", "../out", sample_rate=8000, processes=1)
    assert [example["id"] for example in index(tmp_path / "out")["examples"]] == ["a.wav", str(other)]


def test_rows_without_a_label_are_counted(tmp_path, capsys):
    for name in "abc":
        write(tmp_path / f"{name}.wav", noise(800))
    path = manifest(tmp_path, [("a.wav", "x"), ("b.wav", " "), ("c.wav", ";")])
    assert prepare(path, tmp_path / "out", sample_rate=8000, processes=1)["without_labels"] == 2
    assert "Without a label: 2 files." in capsys.readouterr().out


@pytest.mark.parametrize("subtype, rounded", [("PCM_16", 0), ("PCM_24", 1), ("FLOAT", 1), ("PCM_U8", 0)])
def test_sources_deeper_than_16_bits_are_counted(tmp_path, subtype, rounded, capsys):
    write(tmp_path / "a.wav", noise(800), subtype=subtype)
    about = prepare(manifest(tmp_path, [("a.wav", "x")]), tmp_path / "out", sample_rate=8000, processes=1)
    assert about["rounded_to_16_bits"] == rounded
    assert ("Rounded to 16 bits: 1 file." in capsys.readouterr().out) == bool(rounded)


def test_a_few_samples_beyond_full_scale_are_cut_off_and_counted(tmp_path, capsys):
    wave = noise(8000, level=1.0)
    wave[[5, 600, 4000]] = 1.01, -1.01, 1.02
    write(tmp_path / "a.wav", wave, subtype="FLOAT")
    write(tmp_path / "b.wav", noise(800), subtype="FLOAT")
    path = manifest(tmp_path, [("a.wav", "x"), ("b.wav", "x")])
    about = prepare(path, tmp_path / "out", sample_rate=8000, processes=1)
    assert about["clipped"] == {"files": 1, "samples": 3}
    np.testing.assert_array_equal(audio(features(tmp_path / "out")[0])[[5, 600, 4000]], [32767, -32768, 32767])
    assert "Beyond full scale and cut off there: 3 samples of 1 file." in capsys.readouterr().out


def with_unreadable(folder):
    write(folder / "a.wav", noise(800))
    (folder / "text.wav").write_text("no sound at all\n" * 20)
    write(folder / "empty.wav", noise(0))
    return manifest(folder, [(name, "x") for name in ("none.wav", "a.wav", "text.wav", "empty.wav")])


def test_files_that_cannot_be_read_are_listed(tmp_path, capsys):
    about = prepare(with_unreadable(tmp_path), tmp_path / "out", sample_rate=8000, shard_size=1, processes=1)
    assert [fault["id"] for fault in about["unreadable"]] == ["none.wav", "text.wav", "empty.wav"]
    assert "is not a file" in about["unreadable"][0]["reason"]
    assert about["examples"] == 1 and [shard["examples"] for shard in about["shards"]] == [0, 1, 0, 0]
    error = capsys.readouterr().err
    assert "3 files cannot be read and are left out" in error and "text.wav cannot be read as sound" in error


def test_strict_raises_for_files_that_cannot_be_read_until_they_can(tmp_path):
    path = with_unreadable(tmp_path)
    with pytest.raises(ValueError, match=r"3 of 4 files cannot be read:(\n.*){3}holds no samples"):
        prepare(path, tmp_path / "out", sample_rate=8000, processes=1, strict=True)
    assert not (tmp_path / "out/dataset.json").exists()
    for name in ("none.wav", "text.wav", "empty.wav"):
        write(tmp_path / name, noise(900))
    assert prepare(path, tmp_path / "out", sample_rate=8000, processes=1, strict=True)["examples"] == 4


def test_nothing_readable_raises(tmp_path):
    with pytest.raises(ValueError, match="2 of 2 files cannot be read"):
        prepare(manifest(tmp_path, [("a.wav", "x"), ("b.wav", "x")]), tmp_path / "out", sample_rate=8000, processes=1)


def test_a_folder_that_is_not_there_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.csv is not a file"):
        prepare(tmp_path / "manifest.csv", tmp_path / "out", sample_rate=8000)
    with pytest.raises(FileNotFoundError, match="is not a folder, so out cannot be written there"):
        prepare(clips(tmp_path, 1), tmp_path / "none/out", sample_rate=8000)


def test_a_second_run_keeps_its_shards_and_a_changed_file_renews_its_own(tmp_path):
    path = clips(tmp_path, 6)
    prepare(path, tmp_path / "out", sample_rate=8000, shard_size=2, processes=1)
    before = content(tmp_path / "out")
    for shard in (tmp_path / "out").glob("shard-*"):
        os.utime(shard, (1, 1))
    prepare(path, tmp_path / "out", sample_rate=8000, shard_size=2, processes=1)
    assert content(tmp_path / "out") == before
    write(tmp_path / "audio/3.wav", noise(500))
    prepare(path, tmp_path / "out", sample_rate=8000, shard_size=2, processes=1)
    kept = [shard.stat().st_mtime == 1 for shard in sorted((tmp_path / "out").glob("*.tfrecord"))]
    assert kept == [True, False, True]
    assert index(tmp_path / "out", 1)["examples"][1]["samples"] == 500


def test_other_settings_renew_all_and_leave_other_files_alone(tmp_path):
    path, out = clips(tmp_path, 6), tmp_path / "out"
    prepare(path, out, sample_rate=8000, shard_size=2, processes=1)
    (out / "notes.tfrecord").write_text("mine")
    (out / ".shard-00001-of-00003.123.tfrecord").write_text("what a killed run left")
    prepare(path, out, sample_rate=4000, shard_size=3, processes=1)
    names = {f"shard-0000{number}-of-00002.{suffix}" for number in range(2) for suffix in ("tfrecord", "json")}
    assert {file.name for file in out.iterdir()} == names | {"dataset.json", "notes.tfrecord", ".lock"}
    (out / "notes.tfrecord").unlink()
    assert {feature["sample_rate"][0] for feature in features(out)} == {4000}


def test_processes_do_not_change_a_byte(tmp_path):
    path = clips(tmp_path, 7)
    (tmp_path / "audio/4.wav").write_text("not sound")
    prepare(path, tmp_path / "one", sample_rate=4000, shard_size=3, processes=1)
    prepare(path, tmp_path / "two", sample_rate=4000, shard_size=3, processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


RUN = """
import sys
from train.records import prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], sample_rate=4000, shard_size=2, processes=2)
"""


def wait_for(condition):
    """Returns once the condition holds; the limit is for a run that hangs, whatever the machine has to do besides."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "ten minutes have passed"
        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(os, "mkfifo") or not os.path.exists("/proc"), reason="needs named pipes and /proc")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    path, out = clips(tmp_path, 8), tmp_path / "out"
    slow = tmp_path / "audio/5.wav"
    slow.rename(tmp_path / "kept.wav")
    os.mkfifo(slow)  # whoever reads it waits: the third shard gets its first record and no second
    (tmp_path / "run.py").write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "run.py", path, out], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    wait_for(lambda: process.poll() is not None or list(out.glob(".shard-00002-of-00004.*.tfrecord")))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    wait_for(lambda: not workers_in(tmp_path))
    names = {f"shard-0000{number}-of-00004.{suffix}" for number in range(2) for suffix in ("tfrecord", "json")}
    assert names < {file.name for file in out.iterdir()}
    assert not (out / "dataset.json").exists() and not (out / "shard-00002-of-00004.tfrecord").exists()
    finished = {name: (out / name).stat().st_mtime_ns for name in names}
    slow.unlink()
    (tmp_path / "kept.wav").rename(slow)

    prepare(path, out, sample_rate=4000, shard_size=2, processes=1)
    assert {name: (out / name).stat().st_mtime_ns for name in names} == finished
    prepare(path, tmp_path / "whole", sample_rate=4000, shard_size=2, processes=1)
    assert content(out) == content(tmp_path / "whole")


def workers_in(folder):
    """Processes that were started in `folder`."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if os.readlink(process / "cwd") == str(folder) else []
        except OSError:
            continue
    return found


def test_tensorflow_is_silent_unless_the_user_wants_to_hear_it():
    code = "from train.records import tensorflow; tensorflow(); import sys; print('the end', file=sys.stderr)"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

    def remarks(**level):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment | level, capture_output=True)
        return done.stderr.decode()

    assert remarks() == remarks(TF_CPP_MIN_LOG_LEVEL="3") == "the end\n"
    assert len(remarks(TF_CPP_MIN_LOG_LEVEL="0")) > len("the end\n")


def test_worker_processes_do_not_import_tensorflow():
    code = "import sys, train.records, train.data; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
