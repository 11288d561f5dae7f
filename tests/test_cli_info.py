"""`audax-zoo list` and `info`, wrong commands, and models without classes: what is printed, and the exit codes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import shell
from processes import ROOT
from shell import TINY, record, run, save_seeded

import zoo
from zoo.__main__ import main

model, workdir = shell.model, shell.workdir


# list, info


def test_list_is_a_table_of_the_models(capsys):
    assert main(["list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "task", "classes"]
    assert [row.split()[0] for row in rows] == zoo.list_models()
    (row,) = [row for row in rows if row.startswith("convnext_audioset ")]
    for part in ("multilabel", "527", "32000", "10 s", "MIT", "mAP 0.471"):
        assert part in row


def test_list_takes_a_pattern(capsys):
    assert main(["list", "panns_c*audioset"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == [
        "name",
        "panns_cnn10_audioset",
        "panns_cnn14_audioset",
    ]


def test_info_tells_all_of_a_model(capsys):
    assert main(["info", "convnext_audioset"]) == 0
    out = capsys.readouterr().out
    for part in ("topel/ConvNeXt-Tiny-AT", "527", "MIT", "2306.00830", "0.471", "the publisher", "convnext_tiny"):
        assert part in out


def test_info_tells_where_the_labels_are(capsys):
    for name, place in (
        ("ast_audioset", "config.json of MIT/ast"),
        ("panns_cnn10_audioset", "csv of topel/ConvNeXt"),
        ("timm/resnet18.a1_in1k", "none, because the classes are ImageNet's"),
    ):
        assert main(["info", name]) == 0
        (row,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("labels:")]
        assert place in row


def test_info_takes_a_folder(capsys, model):
    assert main(["info", model]) == 0
    assert "low, middle, high" in capsys.readouterr().out


def test_an_unknown_name_exits_2_and_suggests_one(capsys):
    assert main(["info", "convnext_audioset2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("audax-zoo: ")
    assert "did you mean 'convnext_audioset'" in captured.err


@pytest.mark.parametrize("arguments", [[], ["sing"], ["embed"], ["tag", "-k", "0", "a.wav"], ["embed", "a.wav"]])
def test_what_is_no_command_exits_2_with_the_usage(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: audax-zoo" in capsys.readouterr().err


def test_the_module_runs_as_a_program_and_exits_with_the_code(tmp_path):
    process = run("-m", "zoo", "info", "convnext_audioset2", folder=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("audax-zoo: The zoo has no model 'convnext_audioset2'")


# contrastive models


@pytest.fixture(scope="module")
def cola(tmp_path_factory):
    """The folder of a model without classes."""
    entry = TINY.replace(name="cola", model={"type": "COLA", "width": 6}, classes=0, task="contrastive", labels=())
    return save_seeded(entry, tmp_path_factory.mktemp("models") / "cola")


def test_tag_with_a_contrastive_model_exits_2_before_any_work(capsys, workdir, cola):
    assert main(["tag", "none.wav", "--model", cola]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"audax-zoo: {cola} has no classes and names no sounds: use it with audax-zoo embed.\n"


def test_embed_with_a_contrastive_model_is_its_networks_embedding(capsys, workdir, cola):
    file = record("a.wav", 1.0)
    assert main(["embed", file, "--model", cola, "-o", "out.npz"]) == 0
    assert "1 embeddings of width 16" in capsys.readouterr().out
    with np.load("out.npz") as columns:
        np.testing.assert_allclose(columns["embeddings"], [zoo.load(cola).embed(zoo.read(file, 16000))], rtol=1e-6)


def test_info_of_a_contrastive_model(capsys, cola):
    assert main(["info", cola]) == 0
    out = capsys.readouterr().out
    assert "contrastive" in out and "type=COLA, width=6" in out
    assert "label file" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the output")
def test_a_closed_output_is_no_fault(workdir, model):
    record("a.wav", 1.0)
    for command in ("tag a.wav --csv", "detect a.wav"):
        line = f"{sys.executable} -m zoo {command} --model {model} >&-"
        process = subprocess.run(line, shell=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
        assert (process.returncode, process.stderr) == (0, b"")
