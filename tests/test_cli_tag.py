"""`audax-zoo tag`: labels of recordings, in lines, JSON and pictures."""

import json
import pathlib
import sys

import numpy as np
import pytest
import shell
import soundfile
from shell import TINY, record, weighted_mean

import zoo
from zoo.__main__ import main

clip, model, workdir = shell.clip, shell.model, shell.workdir


def test_tag_prints_the_labels_of_one_window(capsys, workdir, model, clip):
    file = record("a.wav", 1.0)
    assert main(["tag", file, "--model", model, "-k", "2"]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == "a.wav"
    top = clip.top(zoo.read(file, 16000), k=2)
    assert [line.split(maxsplit=1)[1] for line in lines] == [label for label, _ in top]
    for line, (_, probability) in zip(lines, top, strict=True):
        assert float(line.split()[0]) == pytest.approx(probability, abs=6e-4)


def test_tag_prints_json_and_averages_windows_by_length(capsys, workdir, model, clip):
    files = [record("a.wav", 2.5), record("b.flac", 1.75, seed=1, sample_rate=44100)]
    assert main(["tag", *files, "--model", model, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    for line in lines:
        assert line.keys() == {"file", "model", "tags"}
        assert line["model"] == "tiny"
        answer = {tag["label"]: tag["probability"] for tag in line["tags"]}
        mean = weighted_mean(line["file"], clip, clip.probabilities)
        np.testing.assert_allclose([answer[label] for label in TINY.labels], mean, atol=2e-6)
        assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_tag_reports_unreadable_files_at_the_end_and_goes_on(capsys, workdir, model):
    pathlib.Path("text.wav").write_text("no sound")
    files = [record("a.wav", 1.0), "text.wav", "none.wav", record("b.wav", 1.0, seed=1)]
    assert main(["tag", *files, "--model", model, "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == ["a.wav", "b.wav"]
    assert "2 of 4 files could not be read" in captured.err
    assert "text.wav cannot be read as sound" in captured.err
    assert "none.wav is not a file" in captured.err


@pytest.mark.parametrize("samples, sample_rate", [(1, 16000), (256, 16000), (2, 44100), (700, 44100)])
def test_a_file_shorter_than_a_frame_is_heard_in_silence(capsys, workdir, model, clip, samples, sample_rate):
    soundfile.write("one.wav", np.full(samples, 0.1), sample_rate)
    assert main(["tag", "one.wav", "--model", model, "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wave = zoo.read("one.wav", 16000)
    top = clip.top(np.pad(wave, (0, 16000 - len(wave))), k=1)[0]
    assert row["tags"][0] == {"label": top[0], "probability": pytest.approx(top[1], abs=2e-6)}


def test_a_file_of_less_than_a_sample_is_reported(capsys, workdir, model):
    soundfile.write("one.wav", np.full(1, 0.1), 44100)
    assert main(["tag", "one.wav", "--model", model]) == 1
    assert "  one.wav is shorter than one sample at 16000 Hz." in capsys.readouterr().err


@pytest.mark.parametrize("rest", [1, 100, 1599])
def test_a_rest_shorter_than_a_tenth_of_a_window_is_not_heard_on_its_own(capsys, workdir, model, clip, rest):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000 + rest).astype(np.float32)
    soundfile.write("a.wav", wave, 16000, subtype="FLOAT")
    assert main(["tag", "a.wav", "--model", model, "--json"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    label, probability = clip.top(wave[:16000], k=1)[0]
    assert answer["tags"][0]["label"] == label
    assert answer["tags"][0]["probability"] == pytest.approx(probability, abs=2e-6)


def test_tag_with_an_unknown_model_exits_2(capsys, workdir):
    assert main(["tag", record("a.wav", 1.0), "--model", "resnet_esc"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_plot_writes_a_picture_and_nothing_else(capsys, workdir, model):
    assert main(["tag", record("a.wav", 2.5), "--model", model, "--plot", "a.png"]) == 0
    assert pathlib.Path("a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in workdir.iterdir()) == ["a.png", "a.wav"]


def test_a_plot_of_no_sound_leaves_the_old_picture(capsys, workdir, model):
    pathlib.Path("a.png").write_bytes(b"old")
    pathlib.Path("text.wav").write_text("no sound")
    assert main(["tag", "text.wav", "--model", model, "--plot", "a.png"]) == 1
    assert pathlib.Path("a.png").read_bytes() == b"old"
    assert sorted(path.name for path in workdir.iterdir()) == ["a.png", "text.wav"]


def test_plot_of_two_files_exits_2_before_any_work(capsys, workdir):
    assert main(["tag", "a.wav", "b.wav", "--model", "none", "--plot", "a.png"]) == 2
    assert "--plot draws one file, got 2" in capsys.readouterr().err


def test_plot_into_no_folder_exits_2_before_any_work(capsys, workdir):
    assert main(["tag", "a.wav", "--model", "none", "--plot", "none/a.png"]) == 2
    assert "none/a.png cannot be written" in capsys.readouterr().err


def test_without_files_the_packaged_sound_is_tagged(capsys):
    assert main(["tag", "-k", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(zoo.example())
    assert {each["label"] for each in answer["tags"]} == {"rain", "clock_tick"}


def test_a_picture_without_matplotlib_is_told_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "zoo._plot", raising=False)
    assert main(["tag", "--plot", str(tmp_path / "x.png")]) == 2
    assert 'A picture needs matplotlib: pip install "audax-eqx[plot]".' in capsys.readouterr().err
