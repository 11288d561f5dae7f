"""The loop: runs of a tiny recipe on real files, and real processes of it that are killed."""

import contextlib
import dataclasses
import logging
import os
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
from lives import ROOT, fork
from runs import LABELS, changed, fill, lines, weights
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("loop"))


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
    log = lines(run)
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 91))
    losses = [line["loss"] for line in log if "loss" in line]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert {"learning_rate", "gradient_norm", "clips_per_second", "epoch"} <= set(log[0])
    assert [line["step"] for line in log if "evaluation/loss" in line] == [*range(18, 90, 18), 90]
    assert any((run / "tensorboard").iterdir())


def test_evaluation_has_every_clip_once_in_batches_of_any_size(done, folder):
    """The mean over each clip's windows, weighted by their samples, computed here clip by clip."""
    dataset, clip = Dataset(folder / "data"), zoo.load(done[0] / "model")
    rows = np.arange(len(dataset))
    outputs = []
    for devices, batch in ((1, 7), (2, 4), (8, 64)):
        scorer = Scorer(clip.entry, dataset, rows, mesh(devices), batch)
        outputs.append(scorer.outputs(clip.model, clip.state))
        assert len(outputs[-1]) == len(rows)
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-5)
    row = int(np.argmax(dataset.samples))  # three windows, the last of them shorter
    wave = dataset.read(row)
    windows = [np.pad(wave[start : start + 2000], (0, max(0, start + 2000 - len(wave)))) for start in (0, 2000, 4000)]
    sizes = [2000, 2000, len(wave) - 4000]
    assert sizes[-1] > 0
    expected = np.average([np.asarray(clip.probabilities(window)) for window in windows], axis=0, weights=sizes)
    np.testing.assert_allclose(outputs[0][row], expected, atol=1e-5)


def words(folder, out):
    return [str(folder / "tiny.py"), str(folder / "data"), str(out)]


def variables(folder):
    return {"AUDAX_CACHE": "", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}


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


def wait(process, log, condition):
    while not condition():
        assert process.is_alive(), log.read_text()
        time.sleep(0.002)


def test_a_run_that_is_killed_ends_with_the_same_weights(done, folder):
    out, log, environment = folder / "killed", folder / "killed.txt", variables(folder)
    for condition in (lambda: steps_logged(out) >= 21, lambda: steps_logged(out) >= 33 and writing(out)):
        process = fork(words(folder, out), environment, log)
        wait(process, log, condition)
        process.kill()
        process.join()
        assert scalars(out)[-1] >= steps_logged(out)
    process = fork(words(folder, out), environment, log)
    wait(process, log, lambda: steps_logged(out) >= 60)
    process.terminate()  # SIGTERM
    process.join()
    text = log.read_text()
    assert process.exitcode == 128 + signal.SIGTERM, text
    assert "SIGTERM: a checkpoint is written after the step under way" in text and "the same command goes on" in text
    last = subprocess.run(
        [sys.executable, "-m", "train", *words(folder, out)],
        env=os.environ | environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr
    assert weights(out) == weights(done[0])
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 91))
    assert scalars(out) == list(range(1, 91))
    assert len(list(folder.glob("cache/jit_step-*-cache"))) == 1  # of four processes


def test_two_processes_are_one(folder, recipe):
    """In 24 steps, with an evaluation and a checkpoint among them."""
    loop.fit(changed(recipe, run={"steps": 24}), folder / "data", folder / "one")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": flags} | variables(folder)
    logs = [folder / f"host-{number}.txt" for number in range(2)]
    processes = [
        fork([*words(folder, folder / "hosts"), "--run.steps", "24"], hosts | {"JAX_PROCESS_ID": str(number)}, log)
        for number, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        process.join(300)
        assert process.exitcode == 0, log.read_text()
    one, two = (zoo.load(run / "model") for run in (folder / "one", folder / "hosts"))
    for a, b in zip(
        *(jax.tree.leaves(eqx.filter((clip.model, clip.state), eqx.is_array)) for clip in (one, two)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-3)
    losses = [
        np.array([line["loss"] for line in lines(run) if "loss" in line]) for run in (folder / "one", folder / "hosts")
    ]
    np.testing.assert_allclose(losses[1][:20], losses[0][:20], rtol=1e-4)
    # What two hosts made of their shares of the clips is what one makes of all
    dataset = Dataset(folder / "data")
    score = Scorer(two.entry, dataset, dataset.rows("fold", ["4"], held_out=True), mesh(1), 16)
    log = lines(folder / "hosts")[-1]
    assert {f"evaluation/{name}": value for name, value in score(two.model, two.state).items()} == pytest.approx(
        {name: value for name, value in log.items() if name.startswith("evaluation/")}, rel=1e-6
    )


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
    output = capsys.readouterr().err
    assert output.count(f"audax-train: {run} is in use by another process: wait until it ends, or choose") == 2
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
