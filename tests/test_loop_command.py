"""The loop: what does not fit or fails in the midst, and the command from prepared data to a saved model."""

import json

import numpy as np
import pytest
from runs import LABELS, changed, fill

import zoo
from train import loop, records
from train.__main__ import main
from train.recipe import find


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def recipe(folder):
    return find(str(folder / "tiny.py"))[0]


def test_a_metric_that_is_never_a_number_says_why_there_is_no_best_model(folder, recipe, tmp_path, capsys):
    rows = [f"{index}.wav,{LABELS[index % 3] if index < 36 else ''},{index // 12 + 1}" for index in range(48)]
    (folder / "negatives.csv").write_text("\n".join(["files,labels,fold", *rows]) + "\n")
    records.prepare(folder / "negatives.csv", tmp_path / "data", sample_rate=8000, processes=1)
    few = changed(recipe, objective={"task": "multilabel", "mixup": 0.0}, run={"steps": 2})
    assert np.isnan(loop.fit(few, tmp_path / "data", tmp_path / "run")["mAP"])
    why = "mAP and AUC are not defined, as each label is on all or on none of the 12 clips held out."
    before, _, after = capsys.readouterr().out.partition("There is no ")
    assert why in before and after.endswith(f"best model: {why}\n")
    assert not (tmp_path / "run/best").exists() and (tmp_path / "run/model").is_dir()


def test_a_loss_that_is_not_finite_names_the_step_and_its_clips(folder, recipe, tmp_path):
    broken = changed(recipe, optimizer={"learning_rate": 1e30, "clip": 0.0, "method": "sgd"}, run={"steps": 20})
    with pytest.raises(FloatingPointError, match=r"loss of step \d+ is (nan|inf).*They were \d+\.wav, ") as error:
        loop.fit(broken, folder / "data", tmp_path / "run")
    assert str(error.value).count(".wav") == 16


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"data": {"batch": 12}}, "batch of 12 cannot be shared by 8 devices in 1 parts: take a multiple of 8"),
        ({"data": {"hold_out": "speaker"}}, "has no column speaker: it has fold, kind"),
        ({"data": {"held_out": ("9",)}}, "has 1, 2, 3, 4 in its column fold, not 9"),
        ({"data": {"held_out": ("1", "2", "3", "4")}}, "holds out all 48 clips"),
        ({"model": {"frontend": {"type": "LogMel", "sample_rate": 16000}}}, "prepare it with --sample-rate 16000"),
        ({"model": {"network": {"type": "ResNeXt"}}}, "names 'ResNeXt', which is not in"),
        ({"data": {"seconds": 4000.0}}, "a window of seconds 4000, and the zoo builds up to 3600"),
    ],
)
def test_what_does_not_fit_is_one_sentence(parts, sentence, folder, recipe, tmp_path):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        loop.fit(changed(recipe, **parts), folder / "data", tmp_path / "run")


def test_the_command_prepares_trains_evaluates_and_saves(folder, tmp_path, capsys):
    data, run, model = (str(tmp_path / name) for name in ("data", "run", "model"))
    prepare = ["prepare", str(folder / "manifest.csv"), data, "--sample-rate", "8000", "--processes", "1"]
    assert main(prepare) == 0
    few = ["--run.steps", "8", "--data.batch", "8", "--optimizer.ema", "0", "--objective.mixup", "0"]
    assert main([str(folder / "tiny.py"), data, run, *few]) == 0
    assert main(["evaluate", run, data]) == 0
    assert main(["save", run, model, "--dtype", "float16"]) == 0
    output = capsys.readouterr().out
    (metrics,) = {line.partition(": ")[2] for line in output.splitlines() if "accuracy" in line and "model:" in line}
    assert f"{metrics}" in output and "3 classes" in output
    assert zoo.load(model).entry.name == "model"
    assert main(["fsdd", data, str(tmp_path / "other")]) == 2
    assert main(["no_such_recipe", data, run]) == 2
    assert "There is no recipe 'no_such_recipe'" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), data]) == 2
    assert "is not the folder of a finished run" in capsys.readouterr().err
    assert main([]) == 2


def test_cross_validation_holds_each_fold_out_and_then_none(folder, tmp_path, capsys):
    out = tmp_path / "folds"
    few = ["--run.steps", "4", "--run.evaluate", "100"]
    assert main(["cross-validate", str(folder / "tiny.py"), str(folder / "data"), str(out), *few]) == 0
    folds = [json.loads((out / f"fold-{fold}" / "recipe.json").read_text())["data"]["held_out"] for fold in "1234"]
    assert folds == [["1"], ["2"], ["3"], ["4"]]
    values = [zoo.load(out / f"fold-{fold}" / "model").entry.metrics[0]["value"] for fold in "1234"]
    (note,) = zoo.load(out / "model").entry.metrics
    assert note["value"] == pytest.approx(np.mean(values), abs=1e-4)
    assert "mean over 4 values of fold, 48 clips" in note["source"]
    assert "mean accuracy" in capsys.readouterr().out
