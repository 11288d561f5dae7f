"""The benchmark for a GPU runs on CPU without the packages that a machine with a GPU may lack; no time is checked."""

import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from audax_eqx import networks

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "gpu.py"
BLOCK = """
import sys

class Absent:
    names = {names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{{name}} is not on the machine with the GPU", name=name)

sys.meta_path.insert(0, Absent())
"""
ABSENT = {"soundfile", "soxr", "msgpack", "tensorflow", "tyro", "huggingface_hub", "tensorboard", "orbax", "sklearn"}
ABSENT |= {"beartype", "matplotlib", "torch", "timm"}


@pytest.fixture(scope="module")
def benchmarks():
    """Imports a module that lies beside the script."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def gpu(benchmarks):
    return benchmarks("gpu")


def test_small_run_writes_every_kind_of_row(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=ABSENT))
    out = tmp_path / "results" / "gpu.json"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    check = subprocess.run([sys.executable, "-c", "import soxr"], env=environment, capture_output=True, check=False)
    assert b"not on the machine" in check.stderr
    run = subprocess.run(
        [sys.executable, SCRIPT, "--small", "--output", out],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    results = json.loads(out.read_text())
    assert results["jax"] == jax.__version__
    assert {"device", "torch", "date", "python", "peak_flops", "seconds"} <= set(results)
    rows = results["rows"]
    assert list(rows) == ["train small", "forward small", "step small", "depthwise small", "frontend LogMel"]
    assert not [row for row in rows.values() if "error" in row]
    train = rows["train small"]
    assert set(train["batches"]) == {"4"}
    assert {"samples_per_second", "compile_seconds", "gflop", "step_ms", "loss", "gib"} <= set(train)
    assert math.isclose(train["samples_per_second"], train["batches"]["4"], rel_tol=1e-3)
    for row in (rows["forward small"], rows["step small"]):
        assert {"ours_ms", "samples_per_second", "compile_seconds", "gflop"} <= set(row)
        assert row["peer"] == "left out of --small"
    assert math.isclose(rows["step small"]["gflop"], 3 * rows["forward small"]["gflop"], rel_tol=1e-3)
    forward, backward = {"shifts", "grouped", "pallas"}, {"shifts", "grouped"}
    times = {f"{road} forward_ms" for road in forward} | {f"{road} backward_ms" for road in backward}
    assert set(rows["depthwise small"]) == {"batch"} | times
    assert all(name in run.stdout for name in rows)
    assert sorted(path.name for path in out.parent.iterdir()) == ["gpu.json", "gpu.md"]
    table = out.with_suffix(".md").read_text().splitlines()
    assert {line.split("|")[1].strip() for line in table[4:]} == set(rows)
    assert len({line.count("|") for line in table[2:]}) == 1


@pytest.mark.parametrize(("name", "published"), [("resnet18", 1.814e9), ("efficientnet_b0", 0.386e9)])
def test_operations_are_the_published_multiply_adds(benchmarks, name, published):
    """They are torchvision's at 224 x 224; our network lacks two of the stem's three channels and the 1000 classes."""
    network, state = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=jax.random.key(0))
    network = eqx.nn.inference_mode(network)
    wave = jax.ShapeDtypeStruct((224, 224), jnp.float32)
    jaxpr, _, _ = eqx.filter_make_jaxpr(lambda network, state, x: network(x, state)[0])(network, state, wave)
    stem = network.stem.weight.shape
    difference = 112 * 112 * math.prod(stem) * 2 + 1000 * network.width
    assert math.isclose(benchmarks("gpu_ours").flops(jaxpr), 2 * (published - difference), rel_tol=2e-3)


class FakeWorker:
    """A worker whose answers are given: samples/s for each batch, or an error."""

    def __init__(self, rates):
        self.rates, self.batches = rates, []

    def ask(self, deadline, *, do, name, batch):
        self.batches.append(batch)
        if isinstance(rate := self.rates[batch], str):
            return {"error": rate}
        return {"samples_per_second": float(rate), "gflop": 3.0, "bytes": batch, "batch": batch, "compile_seconds": 1.0}


@pytest.mark.parametrize(
    ("rates", "limit", "batches", "best"),
    [
        ({256: 100, 512: 200, 1024: 201}, None, [256, 512, 1024], 1024),  # no faster any more
        ({256: 100, 512: 200, 1024: 100}, None, [256, 512, 1024], 512),
        ({256: 100, 512: "out of memory: 9 GiB"}, None, [256, 512], 256),
        ({256: 100, 512: 200}, 900, [256, 512], 512),  # 1024 would not fit
        ({256: "out of memory", 128: "its process ended, -6", 64: 50}, None, [256, 128, 64], 64),
        ({256: "ValueError: odd"}, None, [256], None),
    ],
)
def test_batches_double_while_it_pays(gpu, tmp_path, rates, limit, batches, best):
    worker, report = FakeWorker(rates), gpu.Report(tmp_path / "gpu.json", False)
    training = gpu.Training("train resnet18", worker, report, 990e12, limit)
    deadline = time.monotonic() + 1000
    training.begin(256, deadline)
    while not training.is_over:
        training.double(deadline)
    row = json.loads((tmp_path / "gpu.json").read_text())["rows"]["train resnet18"]
    assert worker.batches == batches
    assert list(row["batches"]) == [str(batch) for batch in batches]
    assert row.get("batch") == best
    assert ("error" in row) == (best is None)
    if best is not None:
        assert math.isclose(row["ratio"], rates[best] / 7500, rel_tol=1e-3)
        assert math.isclose(row["utilisation"], 3e9 * rates[best] / 990e12, rel_tol=1e-3)


def test_a_row_without_time_is_tried_at_the_end(gpu, tmp_path):
    worker, report = FakeWorker({256: 100}), gpu.Report(tmp_path / "gpu.json", False)
    training = gpu.Training("train resnet18", worker, report, None, 300)
    training.begin(256, time.monotonic() + 5)
    assert (worker.batches, training.row["error"]) == ([], "no time was left")
    training.double(time.monotonic() + 1000)
    assert (worker.batches, training.is_over, "error" in training.row) == ([256], True, False)


def test_what_a_worker_does_wrong_is_an_error_of_its_row(gpu):
    slow_worker = gpu.Worker(sys.executable, "ours")
    slow_worker.command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert "time was over" in slow_worker.ask(time.monotonic() + 1, do="train")["error"]
    broken_worker = gpu.Worker(sys.executable, "ours")
    broken_worker.command = [sys.executable, "-c", "raise SystemExit(3)"]
    assert broken_worker.ask(time.monotonic() + 60, do="train")["error"] == "its process ended, 3"
    worker_without_torch = gpu.Worker(sys.executable, "theirs")
    worker_without_torch.command = [sys.executable, "-c", 'print(\'{"error": "no torch"}\')']
    assert worker_without_torch.ask(time.monotonic() + 60, do="prepare")["error"] == "no torch"
    assert slow_worker.process is broken_worker.process is worker_without_torch.process is None


def test_earlier_rows_are_kept_for_the_same_device_and_jax(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    gpu.Report(path, False, device="a", jax="1").add_row("one", {"batch": 1})
    gpu.Report(path, True, device="a", jax="1").add_row("two", {"batch": 2})
    assert set(json.loads(path.read_text())["rows"]) == {"one", "two"}
    gpu.Report(path, True, device="b", jax="1").add_row("three", {"batch": 3})
    assert set(json.loads(path.read_text())["rows"]) == {"three"}


@pytest.mark.parametrize("kernel", [3, 7])
def test_pallas_computes_what_xla_does(benchmarks, kernel):
    module = benchmarks("gpu_depthwise")
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 64), jnp.float32)
    weight = jax.random.normal(jax.random.key(1), (kernel, kernel, 1, 64), jnp.float32)
    ours = module.convolve_by_pallas(x, weight, interpret=True)
    padding = ((kernel // 2, kernel // 2),) * 2
    theirs = jax.lax.conv_general_dilated(
        x, weight, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64
    )
    assert ours.shape == theirs.shape
    assert jnp.max(jnp.abs(ours - theirs)) < 1e-4


def test_every_row_has_its_network_and_its_batch(benchmarks):
    models = benchmarks("gpu_models")
    names = {"resnet18", "efficientnet_b0", "convnext_tiny", "ast_base", "wav2vec2_base"}
    assert set(models.COMPARISONS) == {f"{work} {name}" for work in ("forward", "step") for name in names}
    assert {f"train {name}" for name in names} < set(models.TRAIN)
    assert [models.batch_of(f"train {name}", 256) for name in ("ast_base", "resnet18")] == [64, 256]
    assert all(hasattr(networks, network["type"]) for _, network, _ in models.TRAIN.values())
