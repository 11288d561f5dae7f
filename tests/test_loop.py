"""The loop: runs of a tiny recipe on real files, by the command and by real processes that are killed."""

import contextlib
import csv
import dataclasses
import json
import logging
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import equinox as eqx
import jax
import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from train import loop, records
from train.__main__ import main
from train.dataset import Dataset
from train.metrics import Scorer
from train.recipe import find
from train.signals import SignalExit
from train.step import mesh
from zoo._lock import locked

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = '''
"""Three kinds of sound, and next to no network."""

from train.objectives import Augment, Supervised
from train.recipe import Data, Model, Optimizer, Recipe, Run

recipe = Recipe(
    name="tiny",
    model=Model(
        frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5},
        network={"type": "ResNet", "depths": (1,), "widths": (8,)},
        dropout=0.1,
    ),
    data=Data(seconds=0.25, batch=16, hold_out="fold", held_out=("4",), threads=2),
    optimizer=Optimizer(learning_rate=0.3, ema=0.8),
    objective=Supervised(mixup=0.2, augment=Augment(frames=3, bins=3)),
    run=Run(steps=90, evaluate=4.0, checkpoint=4.0, log=1),
)
'''
LABELS = ("buzz", "hiss", "hum")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest of 48 files of three kinds and four folds, prepared, and the recipe."""
    folder = tmp_path_factory.mktemp("loop")
    rng = np.random.default_rng(0)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["files", "labels", "fold", "kind"])
        for index in range(48):
            label = LABELS[index % 3]
            seconds = np.arange(rng.integers(1500, 4500)) / 8000
            noise, pitch = rng.normal(size=seconds.shape), rng.uniform(100, 300)
            hum = np.sin(2 * np.pi * pitch * seconds)
            wave = {"hiss": 0.1 * noise, "hum": 0.3 * hum, "buzz": 0.2 * np.sign(np.sin(12 * np.pi * pitch * seconds))}
            soundfile.write(folder / f"{index}.wav", wave[label] + 0.001 * noise, 8000)
            writer.writerow([f"{index}.wav", label, index // 12 + 1, label])
    records.prepare(folder / "manifest.csv", folder / "data", sample_rate=8000, shard_size=20, processes=1)
    (folder / "tiny.py").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return find(str(folder / "tiny.py"))[0]


@pytest.fixture(scope="module")
def done(folder, recipe):
    """A run from beginning to end, on eight devices, and the programs that it compiled."""
    with compilations() as programs:
        metrics = loop.fit(recipe, folder / "data", folder / "done")
    return folder / "done", metrics, programs


@contextlib.contextmanager
def compilations():
    """Counts the step and the program of the evaluation, each time that one is compiled."""
    programs = []
    logger = logging.getLogger("jax._src.dispatch")
    handler = logging.Handler()
    handler.emit = lambda record: programs.extend(
        re.findall(r"Finished XLA compilation of jit\((step|_program)\)", record.getMessage())
    )
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield programs
    finally:
        logger.removeHandler(handler)


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_model_that_the_zoo_loads(done, folder):
    run, metrics, _ = done
    clip = zoo.load(run / "model")
    assert clip.labels == LABELS and clip.entry.window == 0.25
    assert metrics["accuracy"] > 0.6
    (note,) = clip.entry.metrics
    assert note["metric"] == "accuracy" and note["value"] == round(metrics["accuracy"], 4)
    assert "12 clips whose fold is 4, unseen" in note["source"]
    top = [clip.top(zoo.read(folder / f"{index}.wav", 8000)[:2000], k=1)[0][0] for index in range(36, 48)]
    assert np.mean([label == LABELS[index % 3] for index, label in enumerate(top)]) > 0.6
    best = max(line["evaluation/accuracy"] for line in lines(run) if "evaluation/accuracy" in line)
    assert zoo.load(run / "best").entry.metrics[0]["value"] == round(best, 4)


def test_a_run_compiles_its_step_and_its_evaluation_once(done):
    assert sorted(done[2]) == ["_program", "step"]


def test_the_log_has_every_step_once(done):
    run, *_ = done
    logged = lines(run)
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 91))
    losses = [line["loss"] for line in logged if "loss" in line]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert {"learning_rate", "gradient_norm", "clips_per_second", "epoch"} <= set(logged[0])
    assert [line["step"] for line in logged if "evaluation/loss" in line] == [*range(9, 90, 9), 90]
    assert any((run / "tensorboard").iterdir())


def test_evaluation_has_every_clip_once_in_batches_of_any_size(done, folder):
    """The mean over each clip's windows, weighted by their samples, computed here clip by clip."""
    dataset, clip = Dataset(folder / "data"), zoo.load(done[0] / "model")
    rows = np.arange(len(dataset))
    found = []
    for devices, batch in ((1, 7), (2, 4), (8, 64)):
        scorer = Scorer(clip.entry, dataset, rows, mesh(devices), batch)
        found.append(scorer.outputs(clip.model, clip.state))
        assert len(found[-1]) == len(rows)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
    row = int(np.argmax(dataset.samples))  # three windows, the last of them shorter
    wave = dataset.read(row)
    windows = [np.pad(wave[start : start + 2000], (0, max(0, start + 2000 - len(wave)))) for start in (0, 2000, 4000)]
    sizes = [2000, 2000, len(wave) - 4000]
    assert sizes[-1] > 0
    expected = np.average([np.asarray(clip.probabilities(window)) for window in windows], axis=0, weights=sizes)
    np.testing.assert_allclose(found[0][row], expected, atol=1e-5)


def start(folder, out, **environment):
    command = [sys.executable, "-m", "train", str(folder / "tiny.py"), str(folder / "data"), str(out)]
    compiled = {"AUDAX_CACHE": "", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=os.environ | compiled | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def steps_logged(out):
    with contextlib.suppress(FileNotFoundError):
        return (out / "log.jsonl").read_text().count("clips_per_second")
    return 0


def scalars(out):
    """The steps whose losses TensorBoard shows."""
    board = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in board.Scalars("loss")]


def writing(out):
    """Whether a checkpoint is being written."""
    return any(out.glob("checkpoints/*tmp*"))


def wait(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def test_a_run_that_is_killed_ends_with_the_same_weights(done, folder):
    out = folder / "killed"
    for condition in (lambda: steps_logged(out) >= 12, lambda: steps_logged(out) >= 30 and writing(out)):
        process = start(folder, out)
        wait(process, condition)
        process.kill()
        process.communicate()
        assert scalars(out)[-1] >= steps_logged(out)
    process = start(folder, out)
    wait(process, lambda: steps_logged(out) >= 60)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, text
    assert "SIGTERM: a checkpoint is written after the step under way" in text and "the same command goes on" in text
    process = start(folder, out)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert weights(out) == weights(done[0])
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 91))
    assert scalars(out) == list(range(1, 91))
    assert len(list(folder.glob("cache/jit_step-*-cache"))) == 1  # of four processes


def test_two_processes_are_one(done, folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": flags}
    processes = [start(folder, folder / "hosts", JAX_PROCESS_ID=str(number), **hosts) for number in range(2)]
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text
    one, two = (zoo.load(run / "model") for run in (done[0], folder / "hosts"))
    for a, b in zip(
        *(jax.tree.leaves(eqx.filter((clip.model, clip.state), eqx.is_array)) for clip in (one, two)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-3)
    losses = [np.array([line["loss"] for line in lines(run) if "loss" in line]) for run in (done[0], folder / "hosts")]
    np.testing.assert_allclose(losses[1][:20], losses[0][:20], rtol=1e-4)
    # What two hosts made of their shares of the clips is what one makes of all
    dataset = Dataset(folder / "data")
    score = Scorer(two.entry, dataset, dataset.rows("fold", ["4"], held_out=True), mesh(1), 16)
    logged = lines(folder / "hosts")[-1]
    assert {f"evaluation/{name}": value for name, value in score(two.model, two.state).items()} == pytest.approx(
        {name: value for name, value in logged.items() if name.startswith("evaluation/")}, rel=1e-6
    )


def changed(recipe, **parts):
    """The recipe with fields of its parts replaced, `data={"batch": 8}`."""
    fields = {name: dataclasses.replace(getattr(recipe, name), **values) for name, values in parts.items()}
    return dataclasses.replace(recipe, **fields)


@pytest.fixture(scope="module")
def long(folder, recipe):
    """A recipe of 8 steps at one rate, its run, and the metrics at its end."""
    few = changed(recipe, optimizer={"schedule": "constant"}, run={"steps": 8, "evaluate": 3 * 16 / 36, "log": 1})
    return few, folder / "long", loop.fit(few, folder / "data", folder / "long", devices=1)


def test_a_lengthened_run_is_the_long_run(folder, long, tmp_path):
    """In a folder of any name; only what is not done yet may differ, so the weights are the same bit by bit."""
    few, whole, metrics = long
    out = tmp_path / os.fsdecode(b"caf\xe9 [1]\\\n%s")
    loop.fit(changed(few, run={"steps": 4, "evaluate": 100.0, "keep": 1}), folder / "data", out, devices=1)
    longer = changed(few, run={"steps": None, "epochs": 8 * 16 / 36, "keep": 1, "log": 2}, data={"threads": 1})
    with compilations() as programs:
        assert loop.fit(longer, folder / "data", out, devices=1) == metrics
    assert programs == ["step"]  # evaluation has a program from the run before, in this process
    assert weights(out) == weights(whole)
    assert os.listdir(out / "checkpoints") == ["8"] and not any(path.is_symlink() for path in out.rglob("*"))
    with pytest.raises(ValueError, match="has done 8 steps, and a run of 5 is over by then: ask for at least 8"):
        loop.fit(changed(few, run={"steps": 5}), folder / "data", out, devices=1)


def test_a_run_on_parts_of_recordings_goes_on_and_is_the_same_on_eight_devices(folder, long, tmp_path):
    """Two parts of each file; the steps are the programs that `long` and `done` compiled."""
    few, *_ = long
    rows = [
        f"{index}.wav,{start},{start + 0.08},{LABELS[index % 3]},{index // 12 + 1}"
        for index in range(48)
        for start in (0.0, 0.1)
    ]
    (folder / "parts.csv").write_text("\n".join(["files,start,end,labels,fold", *rows]) + "\n")
    records.prepare(folder / "parts.csv", tmp_path / "data", sample_rate=8000, shard_size=20, processes=1)
    assert Dataset(tmp_path / "data").timed
    metrics = loop.fit(few, tmp_path / "data", tmp_path / "one", devices=1)
    loop.fit(changed(few, run={"steps": 3, "evaluate": 100.0}), tmp_path / "data", tmp_path / "cut", devices=1)
    assert loop.fit(few, tmp_path / "data", tmp_path / "cut", devices=1) == metrics
    assert weights(tmp_path / "cut") == weights(tmp_path / "one")
    loop.fit(few, tmp_path / "data", tmp_path / "eight")
    one, cut, eight = (
        np.array([line["loss"] for line in lines(tmp_path / run) if "loss" in line]) for run in ("one", "cut", "eight")
    )
    assert len(one) == 8 and np.ptp(one) > 1e-2
    np.testing.assert_array_equal(cut, one)
    np.testing.assert_allclose(eight, one, rtol=1e-4)


def test_a_cosine_that_was_to_end_is_not_lengthened_silently(done, folder, recipe):
    rate = 0.3 * 16 / 256 * (1 + np.cos(np.pi * 89 / 180)) / 2
    sentence = rf"its cosine at step 90: with an end at step 180 the rate of step 90 would be {rate:.3g}, not 5.71e-06"
    with pytest.raises(ValueError, match=sentence):
        loop.fit(changed(recipe, run={"steps": 180}), folder / "data", done[0])


def test_a_second_process_leaves_the_first_alone(done, folder, capsys):
    run, *_ = done
    before = weights(run)
    with locked(run):
        assert main([str(folder / "tiny.py"), str(folder / "data"), str(run)]) == 2
        assert main(["cross-validate", str(folder / "tiny.py"), str(folder / "data"), str(run)]) == 2
    captured = capsys.readouterr().err
    assert captured.count(f"audax-train: {run} is in use by another process: wait until it ends, or choose") == 2
    assert weights(run) == before


def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(folder, long, tmp_path, monkeypatch):
    """A signal during the evaluation at step 3 leaves a checkpoint; weights and metrics are those of a whole run."""
    few, whole, metrics = long
    measure, out = Scorer.__call__, tmp_path / "cut"

    def cut_off(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*given)

    with monkeypatch.context() as patch, pytest.raises(SignalExit, match="SIGTERM after step 3, with a checkpoint"):
        patch.setattr(Scorer, "__call__", cut_off)
        loop.fit(few, folder / "data", out, devices=1)
    assert not any("evaluation/loss" in line for line in lines(out))
    assert loop.fit(few, folder / "data", out, devices=1) == metrics
    assert weights(out) == weights(whole)
    evaluations = [
        [(line["step"], line["evaluation/loss"]) for line in lines(run) if "evaluation/loss" in line]
        for run in (out, whole)
    ]
    assert evaluations[0] == evaluations[1] and [step for step, _ in evaluations[0]] == [3, 6, 8]


def test_a_finished_run_is_left_as_it_is(done, folder, recipe):
    run, metrics, _ = done
    before = weights(run)
    assert loop.fit(recipe, folder / "data", run) == metrics
    assert weights(run) == before


def test_another_recipe_does_not_go_on_with_a_run(done, folder, recipe):
    other = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"differs in optimizer.learning_rate \(0.3 then, 0.5 now\): choose"):
        loop.fit(other, folder / "data", done[0])


def test_a_run_does_not_go_on_with_other_labels(done, folder, recipe, tmp_path):
    text = (folder / "manifest.csv").read_text().replace(",hum,", ",purr,")
    (folder / "renamed.csv").write_text(text)
    records.prepare(folder / "renamed.csv", tmp_path / "data", sample_rate=8000, shard_size=20, processes=1)
    with pytest.raises(ValueError, match="holds another run, which differs in dataset"):
        loop.fit(recipe, tmp_path / "data", done[0])


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
    printed = capsys.readouterr().out
    (trained,) = {line.partition(": ")[2] for line in printed.splitlines() if "accuracy" in line and "model:" in line}
    assert f"{trained}" in printed and "3 classes" in printed
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
    held = [json.loads((out / f"fold-{fold}" / "recipe.json").read_text())["data"]["held_out"] for fold in "1234"]
    assert held == [["1"], ["2"], ["3"], ["4"]]
    values = [zoo.load(out / f"fold-{fold}" / "model").entry.metrics[0]["value"] for fold in "1234"]
    (note,) = zoo.load(out / "model").entry.metrics
    assert note["value"] == pytest.approx(np.mean(values), abs=1e-4)
    assert "mean over 4 values of fold, 48 clips" in note["source"]
    assert "mean accuracy" in capsys.readouterr().out
