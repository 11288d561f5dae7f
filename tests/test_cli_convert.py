"""`audax-zoo convert`: folders of the zoo made of checkpoints of audax."""

import json
import pathlib

import pytest
import shell
from audax_files import classifier, contrastive, resnet, seed, write_checkpoint
from shell import record

import zoo
from zoo.__main__ import main

model, workdir = shell.model, shell.workdir


def write_small(name, classes):
    """Writes a small ResNet of audax and gives the file's name; with 0 classes it is a COLA."""
    head = classifier(8, classes) if classes else contrastive(8, 5, False)
    write_checkpoint(pathlib.Path(name), seed(resnet((1, 1), 4, False) | head))
    return name


def test_convert_writes_a_folder_that_tags(capsys, workdir):
    pathlib.Path("labels.txt").write_text("dog\ncat\n", encoding="utf-8")
    options = ["--labels", "labels.txt", "--task", "multilabel", "--window", "0.5", "--sample-rate", "22050"]
    assert main(["convert", write_small("checkpoint_7", 2), "made", *options]) == 0
    assert capsys.readouterr().out == "made: audax_log_mel, ResNet, Classifier with 2 classes\n"
    entry = zoo.info("made")
    assert (entry.name, entry.labels, entry.task) == ("made", ("dog", "cat"), "multilabel")
    assert (entry.window, entry.sample_rate) == (0.5, 22050)
    assert entry.network["depths"] == (1, 1)
    assert main(["tag", record("a.wav", 0.5, sample_rate=22050), "--model", "made", "--json"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {tag["label"] for tag in answer["tags"]} == {"dog", "cat"}


def test_convert_without_options_takes_audaxs_own_settings(capsys, workdir):
    assert main(["convert", write_small("checkpoint_7", 3), "made"]) == 0
    entry = zoo.info("made")
    assert (entry.classes, entry.labels, entry.task) == (3, (), "multiclass")
    assert (entry.window, entry.sample_rate) == (5.0, 16000)


@pytest.mark.parametrize("options, model", [([], "COLA"), (["--model", "SimCLR"], "SimCLR")])
def test_convert_is_told_which_contrastive_model_it_is(capsys, workdir, options, model):
    assert main(["convert", write_small("checkpoint_7", 0), "made", *options]) == 0
    assert capsys.readouterr().out == f"made: audax_log_mel, ResNet, {model}\n"
    assert zoo.info("made").model["type"] == model


@pytest.mark.parametrize(
    "source, options, fault",
    [
        ("none", [], "none does not exist"),
        (".", [], "is a folder: name the checkpoint in it"),
        ("text", [], "text is not a whole audax checkpoint"),
        ("source", ["--labels", "none.txt"], "none.txt"),
        ("source", ["--labels", "text"], "2 classes and 1 labels"),
        ("source", ["--window", "0"], "a window of some seconds"),
        ("source", ["--window", "-1"], "a window of some seconds"),
    ],
)
def test_what_cannot_be_converted_exits_2_with_a_sentence(capsys, workdir, source, options, fault):
    write_small("source", 2)
    pathlib.Path("text").write_text("no checkpoint")
    assert main(["convert", source, "made", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("audax-zoo: ") and captured.err.count("\n") == 1
    assert fault in captured.err
    assert sorted(path.name for path in workdir.iterdir()) == ["source", "text"]


def test_convert_into_no_folder_exits_2(capsys, workdir):
    assert main(["convert", write_small("source", 2), "none/made"]) == 2
    assert "none is no folder, so made cannot be made there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["source"], ["source", "made", "--task", "guess"], ["source", "made", "--model", "CLAP"]]
)
def test_convert_with_wrong_options_exits_2_with_the_usage(capsys, workdir, options):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", *options])
    assert "usage: audax-zoo convert" in capsys.readouterr().err


def test_labels_may_be_in_any_line_ending_and_script(capsys, workdir):
    pathlib.Path("labels.txt").write_bytes("Hündin\r\n猫\r\n".encode())
    assert main(["convert", write_small("source", 2), "made", "--labels", "labels.txt"]) == 0
    assert zoo.info("made").labels == ("Hündin", "猫")
