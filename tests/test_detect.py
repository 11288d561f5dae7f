"""`audax-zoo detect`, and `tag` of windows: tables, labels of Audacity, selections of Raven."""

import csv
import json
import pathlib

import pytest

import zoo
from zoo.__main__ import main

OPTIONS = ["--label", "rain", "--label", "clock_tick", "--window", "2", "--hop", "0.5", "--max-gap", "2"]


@pytest.fixture(scope="module")
def events():
    clip = zoo.load("resnet_esc10")
    labels = ["rain", "clock_tick"]
    return list(zoo.detect(clip, [zoo.example()], labels=labels, window=2.0, hop=0.5, max_gap=2.0))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A working folder with the packaged sound under two names, and one file that is no sound."""
    monkeypatch.chdir(tmp_path)
    for name in ("a\tb.ogg", "c.ogg"):
        pathlib.Path(name).symlink_to(zoo.example())
    pathlib.Path("text.wav").write_text("no sound")
    return tmp_path


def detect(*arguments):
    return main(["detect", *OPTIONS, *arguments])


def values(events):
    return [(each.label, pytest.approx(each.start, abs=1e-3), pytest.approx(each.end, abs=1e-3)) for each in events]


def test_events_are_csv_and_json(capsys, workdir, events):
    files = ["a\tb.ogg", "text.wav", "c.ogg"]
    assert detect(*files, "--csv") == 1
    captured = capsys.readouterr()
    rows = list(csv.DictReader(captured.out.splitlines()))
    assert "1 of 3 files could not be read:\n  text.wav cannot be read as sound" in captured.err
    for name in ("a\tb.ogg", "c.ogg"):
        chosen = [row for row in rows if row["file"] == name]
        assert [(row["label"], float(row["start"]), float(row["end"])) for row in chosen] == values(events)
        assert [float(row["score"]) for row in chosen] == pytest.approx([each.score for each in events], abs=1e-4)
    assert detect(*files, "-o", "out.csv") == 1
    assert pathlib.Path("out.csv").read_text() == captured.out
    assert detect(*files, "-o", "out.json") == 1
    lines = [json.loads(line) for line in pathlib.Path("out.json").read_text().splitlines()]
    assert [line["file"] for line in lines] == [row["file"] for row in rows]
    assert [(line["label"], line["start"], line["end"]) for line in lines[: len(events)]] == values(events)


def test_audacity_has_the_labels_of_one_recording(capsys, workdir, events):
    assert detect("c.ogg", "-o", "out.txt") == 0
    lines = [line.split("\t") for line in pathlib.Path("out.txt").read_text().splitlines()]
    assert [(label, float(start), float(end)) for start, end, label in lines] == values(events)
    assert detect("c.ogg", "a\tb.ogg", "-o", "two.txt") == 2
    assert "An Audacity label file holds one recording, and two.txt would hold several" in capsys.readouterr().err
    assert not pathlib.Path("two.txt").exists()


def test_raven_has_the_selections_of_all_recordings_one_behind_the_other(workdir, events):
    assert detect("a\tb.ogg", "text.wav", "c.ogg", "-o", "out.selections.txt") == 1
    with open("out.selections.txt", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [int(row["Selection"]) for row in rows] == list(range(1, 2 * len(events) + 1))
    for number, name in enumerate(("a b.ogg", "c.ogg")):  # a tab would end the cell
        chosen = rows[number * len(events) :][: len(events)]
        assert {row["Begin Path"] for row in chosen} == {name}
        for row, event in zip(chosen, events, strict=True):
            assert float(row["File Offset (s)"]) == pytest.approx(event.start, abs=1e-3)
            assert float(row["Begin Time (s)"]) == pytest.approx(20 * number + event.start, abs=1e-3)
            assert float(row["End Time (s)"]) == pytest.approx(20 * number + event.end, abs=1e-3)
            assert (float(row["Low Freq (Hz)"]), float(row["High Freq (Hz)"])) == (0, 8000)
            assert (row["Label"], float(row["Score"])) == (event.label, pytest.approx(event.score, abs=1e-4))


def test_thresholds_are_for_all_labels_or_for_some(capsys, workdir):
    def labels(*options):
        assert detect("c.ogg", "--csv", *options) == 0
        return {row["label"] for row in csv.DictReader(capsys.readouterr().out.splitlines())}

    assert labels("--threshold", "0.999") == set()
    assert labels("--threshold", "0.999", "--threshold", "rain=0.3") == {"rain"}
    assert labels("--threshold", "rain=0.999") == {"clock_tick"}
    assert labels("--threshold", "0.3", "--release", "0.2", "--release", "rain=0.1") == {"rain", "clock_tick"}


@pytest.mark.parametrize(
    "options, fault",
    [
        (["-o", "out.tsv"], "Events are written as .csv, .json, .txt (labels of Audacity) or .selections.txt (Raven)"),
        (["--threshold", "rain"], "--threshold takes a score, 0.4 or Dog=0.4, got 'rain'."),
        (["--threshold", "reign=0.4"], "has no label 'reign': did you mean 'rain'?"),
        (["--label", "reign"], "has no label 'reign': did you mean 'rain'?"),
        (["--threshold", "2"], "threshold=2.0 is no score"),
        (["--release", "0.6"], "release 0.6 is above threshold 0.5"),
        (["--hop", "0"], "is the distance of windows in seconds"),
        (["--hop", "3"], "is the distance of windows in seconds"),
        (["-o", "none/out.csv"], "none/out.csv cannot be written"),
        (["--model", "cola_small"], "has no classes and names no sounds"),
        (["--plot", "out.svg"], "--plot writes a .png, got 'out.svg'."),
    ],
)
def test_what_makes_no_sense_exits_2_with_a_sentence(capsys, workdir, options, fault):
    assert detect("c.ogg", *options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and fault in captured.err and captured.err.count("\n") == 1


def test_events_are_shaded_in_a_picture(capsys, workdir, events):
    assert detect("c.ogg", "--plot", "out.png") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "c.ogg" and len(lines) == len(events)
    assert lines[0].split()[-1] == events[0].label and lines[0].split()[3] == "s"
    assert pathlib.Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert detect("c.ogg", "--threshold", "1", "--plot", "none.png") == 0  # no events are a picture too
    assert pathlib.Path("none.png").exists()


def test_without_files_the_packaged_sound_is_searched(capsys, workdir):
    assert detect("--json") == 0
    assert {json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()} == {str(zoo.example())}


def test_windows_are_tagged_with_their_times(capsys, workdir):
    (result,) = zoo.tag(zoo.load("resnet_esc10"), [zoo.example()], each="window", hop=2.5)
    options = ["tag", "c.ogg", "--each", "window", "--hop", "2.5", "-k", "2"]
    assert main([*options, "--csv"]) == 0
    text = capsys.readouterr().out
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["start"]) for row in rows[::2]] == result.start.tolist()
    assert [float(row["end"]) for row in rows[1::2]] == result.end.tolist()
    assert [float(row["probability"]) for row in rows[::2]] == pytest.approx(result.values.max(axis=1), abs=1e-5)
    assert main([*options, "-o", "out.csv"]) == 0 and pathlib.Path("out.csv").read_text() == text
    assert main([*options, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["start"] for line in lines] == result.start.tolist()
    assert [line["tags"][0]["label"] for line in lines] == [row["label"] for row in rows[::2]]
    assert main(options) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["c.ogg", "  0.0 to 5.0 s"] and shown[2].split()[1] == rows[0]["label"]
