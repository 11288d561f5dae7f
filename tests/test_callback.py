"""What a run tells others, and when it ends early: callbacks, trackers and patience."""

import csv
import dataclasses
import json
import os

import numpy as np
import pytest
import soundfile

from train import loop, records
from train.objectives import Supervised
from train.recipe import Data, Model, Optimizer, Recipe, Run
from train.records import tensorflow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared data: 24 clips, low and high tones."""
    folder = tmp_path_factory.mktemp("callback")
    rng = np.random.default_rng(0)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["files", "labels"])
        for number in range(24):
            pitch = rng.uniform(100, 200) * (1 + 9 * (number % 4 == 0))
            soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(np.arange(2000) * 2 * np.pi * pitch / 8000), 8000)
            writer.writerow([f"{number}.wav", "high" if number % 4 == 0 else "low"])
    records.prepare(folder / "manifest.csv", folder / "data", sample_rate=8000, processes=1)
    return folder / "data"


RECIPE = Recipe(
    name="tones",
    model=Model(
        frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5},
        network={"type": "ResNet", "depths": (1,), "widths": (4,)},
    ),
    data=Data(seconds=0.2, batch=8, hold_out_share=1 / 3, threads=1),
    optimizer=Optimizer(learning_rate=0.0, schedule="constant"),
    objective=Supervised(class_weights=1.0),
    run=Run(steps=20, evaluate=0.5, log=1),
)


def patient(patience, **run):
    return dataclasses.replace(RECIPE, run=dataclasses.replace(RECIPE.run, patience=patience, **run))


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run without a learning rate, so that it never gets better, and what its callback was told."""
    out, calls = tmp_path_factory.mktemp("runs") / "early", []
    loop.fit(patient(3), data, out, devices=1, callback=lambda step, metrics: calls.append((step, metrics)))
    return out, calls


def test_a_callback_gets_each_line_of_the_log(run):
    out, calls = run
    assert [{"step": step} | values for step, values in calls] == [
        {name: value for name, value in line.items() if name != "epoch"} for line in lines(out)
    ]
    assert {"loss", "evaluation/accuracy"} <= {name for _, values in calls for name in values}


def test_a_run_ends_where_its_metric_is_no_better(run):
    steps = [line["step"] for line in lines(run[0])]
    assert steps[-1] == 4  # the first evaluation is the best, and three follow
    assert (run[0] / "model").is_dir() and (run[0] / "best").is_dir()
    assert [path.name for path in (run[0] / "checkpoints").iterdir() if path.name.isdecimal()][-1] == "4"


def test_a_run_that_ended_early_has_ended_and_goes_on_with_more_patience(run, data, capsys):
    out, _ = run
    loop.fit(patient(3), data, out, devices=1)
    assert lines(out)[-1]["step"] == 4
    loop.fit(patient(5), data, out, devices=1)
    assert lines(out)[-1]["step"] == 6
    assert "accuracy was no better in 5 evaluations: the run ends." in capsys.readouterr().out


def test_an_interrupted_run_is_as_patient_as_a_whole_one(data, tmp_path):
    loop.fit(patient(3, steps=2), data, tmp_path / "cut", devices=1)
    loop.fit(patient(3), data, tmp_path / "cut", devices=1)
    assert lines(tmp_path / "cut")[-1]["step"] == 4


def test_patience_takes_clips_to_evaluate_on():
    with pytest.raises(ValueError, match=r"tones has a patience of 2: .* takes clips to evaluate on"):
        dataclasses.replace(patient(2), data=Data(seconds=0.2, batch=8))
    with pytest.raises(ValueError, match="tones has a patience of -1"):
        patient(-1)


def test_what_a_callback_raises_ends_the_run(data, tmp_path):
    def broken(step, metrics):
        raise RuntimeError(f"no network at step {step}")

    with pytest.raises(RuntimeError, match="no network at step 1"):
        loop.fit(patient(0, steps=2), data, tmp_path / "run", devices=1, callback=broken)


def test_a_tracker_in_three_lines(data, tmp_path):
    tf = tensorflow()
    writer = tf.summary.create_file_writer(str(tmp_path / "board"))
    with writer.as_default():
        loop.fit(
            patient(0, steps=2), data, tmp_path / "run", devices=1,
            callback=lambda step, metrics: [tf.summary.scalar(name, value, step) for name, value in metrics.items()],
        )  # fmt: skip
    writer.close()
    (file,) = (tmp_path / "board").iterdir()
    values = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            values[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    logged = {(name, line["step"]): line[name] for line in lines(tmp_path / "run") for name in line}
    assert {tag for tag, _ in values} >= {"loss", "learning_rate", "evaluation/accuracy"}
    assert values == pytest.approx({key: logged[key] for key in values}, rel=1e-6)


def test_mlflow_in_three_lines(data, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    with mlflow.start_run() as tracked:
        callback = lambda step, metrics: mlflow.log_metrics(metrics, step)  # noqa: E731
        loop.fit(patient(0, steps=2), data, tmp_path / "run", devices=1, callback=callback)
    (file,) = (tmp_path / "mlruns").glob(f"*/{tracked.info.run_id}/metrics/loss")
    logged = [(line["step"], line["loss"]) for line in lines(tmp_path / "run") if "loss" in line]
    rows = [line.split() for line in file.read_text().splitlines()]
    assert [(int(row[2]), float(row[1])) for row in rows] == pytest.approx(logged)
