"""Speed on one GPU: training steps in bfloat16, and networks beside timm's under torch.compile in the same run.

    python benchmarks/gpu.py [--only PATTERN] [--seconds 420] [--peer PYTHON] [--small]

Training is `train.step` as it is: 16-bit waves of 5 s in, features on the device, SpecAugment, mixup, AdamW, 527
classes. The waves lie on the device, so this is the device's rate without reading and decoding. Each row starts at a
batch of 256, goes down until it fits, and with the time that is left doubles until memory ends or the rate rises by
less than 3 %. Targets are audax's samples/s on a whole TPU v3-8; a ratio over 1 is faster. A network's forward takes
features that are on the device, in inference mode; its ratio is our time by torch.compile's (channels last), under 1 is
faster. With time to spare, frontends alone are timed too.

Utilisation counts 2 operations for each multiply-add of the network's and head's convolutions, as they are defined, and
matrix products; three times a forward for a training step; no frontend. `xla_gflop` is XLA's own count of the program.
Both are for one sample.

It needs JAX, Equinox, jaxtyping, optax and safetensors, and torch and timm (of `--peer`, if elsewhere) for the
comparison; no sound, no data, no installed audax-eqx. Each side runs in processes of its own that a failure or the
clock ends. Every row is on disk once it is measured, in `benchmarks/results/gpu.json`; `--only "train resnet18*"`
replaces the rows that it matches, if the others are of this device and JAX. `--small` tries all of it on CPU.
"""

import argparse
import contextlib
import datetime
import fnmatch
import functools
import json
import math
import os
import pathlib
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
ABSENT = ("soundfile", "soxr", "msgpack")  # `zoo` imports them for files, and there are no files here
LOG_MEL = {
    "type": "LogMel", "sample_rate": 16000, "bins": 64, "n_fft": 1024, "win_length": 400, "hop_length": 160,
    "f_min": 60.0, "f_max": 7800.0, "log": "natural", "floor": 1e-8,
}  # fmt: skip
LEAF, SINCNET = ({"type": name, "sample_rate": 16000, "bins": 64} for name in ("LEAF", "SincNet"))
TRAIN = {  # frontend, network, audax's samples/s on a TPU v3-8
    "train resnet18": (LOG_MEL, {"type": "resnet18"}, 7500),
    "train efficientnet_b0": (LOG_MEL, {"type": "efficientnet_b0"}, 7250),
    "train convnext_tiny": (LOG_MEL, {"type": "convnext_tiny"}, 4450),
    "train efficientnet_b0 + LEAF": (LEAF, {"type": "efficientnet_b0"}, 2048),
    "train efficientnet_b0 + SincNet": (SINCNET, {"type": "efficientnet_b0"}, 4100),
}
FORWARD = {f"forward {name}": {"type": name} for name in ("resnet18", "efficientnet_b0", "convnext_tiny")}
FRONTENDS = {"frontend LogMel": LOG_MEL, "frontend LEAF": LEAF, "frontend SincNet": SINCNET}
FRONTENDS |= {"frontend direct convolution": None}  # LEAF's filters, 128 of 401 taps, as one convolution
CLIP, CLASSES, BATCH, MOST, ROUNDS = 5.0, 527, 256, 8192, 5
SMALL = {"type": "ResNet", "depths": (1,), "widths": (8,)}
SMALL_MEL = LOG_MEL | {"sample_rate": 8000, "bins": 16, "n_fft": 256, "win_length": 200, "f_max": 3900.0}
if "--small" in sys.argv:
    TRAIN, FORWARD = {"train small": (SMALL_MEL, SMALL, None)}, {"forward small": SMALL}
    FRONTENDS = {"frontend LogMel": SMALL_MEL}
    CLIP, CLASSES, BATCH, MOST, ROUNDS = 0.25, 7, 4, 4, 2
FULL = ("out of memory", "its process ended")  # after which half as many may do
PEAKS = {"H100": 990e12, "H200": 990e12}  # FLOP/s in dense bfloat16, by the datasheets of the SXM parts


class StandIn(types.ModuleType):
    """A module whose every public name is an empty class, which will do for annotations."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def flops(jaxpr) -> float:
    """Operations of the convolutions and matrix products in a jaxpr; of a choice by platform, the branch with most."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
        elif name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "cond":
            total += max(map(flops, parameters["branches"]))
        else:
            inner = [value for value in parameters.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
            total += parameters.get("length", 1) * sum(map(flops, inner)) if inner else 0
    return total


def one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    full = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or "MemoryError" in text
    return ("out of memory: " if full else "") + text[:300]


def calls(run, seconds: float) -> int:
    """How often to call `run`, which waits for its result, for so many seconds."""
    run(), run()
    start = time.perf_counter()
    run()
    return max(1, min(1000, round(seconds / (time.perf_counter() - start))))


def ours():
    """What is known of the device, and the work that can be asked for, by name."""
    for name in ABSENT:
        sys.modules.setdefault(name, StandIn(name))

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import zoo
    from audax_eqx import frontends, networks
    from train.objectives import DEVICES, Augment, Examples, Supervised
    from train.recipe import Data, Model, Optimizer, Recipe, Run
    from train.step import begin, make_step, mesh

    device, rng = jax.devices()[0], np.random.default_rng(0)
    pool = rng.normal(scale=3000, size=(min(BATCH, 256), round(CLIP * 16000))).astype(np.int16)
    pace = 0.05 if "--small" in sys.argv else 0.5  # seconds of a round

    def on_host():
        """Weights are drawn on the CPU: on a GPU each shape would compile a program of its own."""
        with contextlib.suppress(RuntimeError):
            return jax.default_device(jax.local_devices(backend="cpu")[0])
        return contextlib.nullcontext()

    def options(description):
        return {name: value for name, value in description.items() if name != "type"}

    def noise(*shape, dtype=jnp.float32):
        return jax.device_put(jnp.asarray(rng.normal(size=shape), dtype), device)

    def train(name, batch):
        frontend, network, _ = TRAIN[name]
        recipe = Recipe(
            name="benchmark",
            model=Model(frontend=frontend, network=network),
            data=Data(seconds=CLIP, batch=batch),
            optimizer=Optimizer(learning_rate=1e-3, warmup=1.0),
            objective=Supervised("multilabel", mixup=0.5, augment=Augment(frames=48, bins=16)),
            run=Run(steps=100000, precision="bfloat16"),
        )
        chosen, rate = mesh(1), np.float32(1e-3)
        samples = round(CLIP * frontend["sample_rate"])
        with on_host():
            model, state = zoo.create(recipe.entry(tuple(map(str, range(CLASSES)))), key=jax.random.key(0))
            shape = jax.eval_shape(model.listen, jax.ShapeDtypeStruct((samples,), jnp.float32))
            infer = eqx.nn.inference_mode(model)
            work = flops(jax.make_jaxpr(lambda x: infer.classify(x, state)[0])(shape))
            carry, static = begin(model, state, recipe, chosen)
        given = Examples(
            np.resize(pool[:, :samples], (1, batch, 1, samples)),
            np.full((1, batch, 1), samples, np.int32),
            (rng.random((1, batch, CLASSES)) < 2.7 / CLASSES).astype(np.float32),
        )
        given = jax.device_put(given, NamedSharding(chosen, P(None, DEVICES)))
        start = time.perf_counter()
        program = make_step(recipe, static, chosen)
        step = functools.partial(
            program.func.lower(carry, given, rate, **program.keywords).compile(), **program.keywords
        )
        compiled = time.perf_counter() - start

        def run(count=1):
            nonlocal carry
            logs = {}
            for _ in range(count):
                carry, logs = step(carry, given, rate)
            return float(jax.block_until_ready((carry, logs))[1]["loss"])

        count, times, loss = calls(run, pace), [], math.nan
        for _ in range(ROUNDS):
            start = time.perf_counter()
            loss = run(count)
            times.append((time.perf_counter() - start) / count)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} after {int(carry.step)} steps")
        return {
            "batch": batch, "samples_per_second": batch / np.median(times), "step_ms": 1e3 * np.median(times),
            "fastest_ms": 1e3 * min(times), "slowest_ms": 1e3 * max(times), "compile_seconds": compiled, "loss": loss,
            "features": shape.shape, "gflop": 3e-9 * work, "xla_gflop": xla_flops(step.func, batch),
            "bytes": taken(step.func),
        }  # fmt: skip

    def xla_flops(compiled, batch):
        with contextlib.suppress(Exception):
            found = compiled.cost_analysis()
            found = found[0] if isinstance(found, list | tuple) else found
            return 1e-9 * found["flops"] / batch if found["flops"] > 0 else None
        return None

    def taken(compiled):
        with contextlib.suppress(Exception):
            sizes = compiled.memory_analysis()
            alias = getattr(sizes, "alias_size_in_bytes", 0)
            given, made = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
            return int(sizes.temp_size_in_bytes + given + made - alias)
        return None

    ready = {}  # what `timed` runs

    def prepare(name, batch, shape):
        ready.clear()
        description = FORWARD[name]
        with on_host():
            make = eqx.nn.make_with_state(getattr(networks, description["type"]))
            network, state = make(**options(description), key=jax.random.key(0))
            network = eqx.nn.inference_mode(network)
            single = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
            work = flops(jax.make_jaxpr(lambda x: network(x, state)[0])(single))
        cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, network)
        parts, static = eqx.partition((cast, state), eqx.is_array)
        parts, maps = jax.device_put(parts, device), noise(batch, *shape, dtype=jnp.bfloat16)

        def embed(parts, maps):
            network, state = eqx.combine(parts, static)
            return jax.vmap(lambda x: network(x, state)[0])(maps)

        start = time.perf_counter()
        compiled = jax.jit(embed).lower(parts, maps).compile()
        spent = time.perf_counter() - start

        def run(count=1):
            for _ in range(count - 1):
                compiled(parts, maps)
            jax.block_until_ready(compiled(parts, maps))

        ready["run"], ready["count"] = run, calls(run, pace)
        return {"compile_seconds": spent, "gflop": 1e-9 * work, "xla_gflop": xla_flops(compiled, batch)}

    def timed():
        return clocked(ready)

    def frontend(name, batch):
        description = FRONTENDS[name]
        rate = description["sample_rate"] if description else 16000
        waves = noise(batch, round(CLIP * rate))
        if description:
            make = getattr(frontends, description["type"])
            with on_host():
                key = {"key": jax.random.key(0)} if description["type"] == "LEAF" else {}
                parts, static = eqx.partition(make(**options(description), **key), eqx.is_array)
        else:
            parts, static = rng.normal(size=(401, 1, 128)).astype(np.float32), None

        def features(parts, waves):
            if description is None:
                layout = ("NWC", "WIO", "NWC")
                return jax.lax.conv_general_dilated(waves[..., None], parts, (1,), "SAME", dimension_numbers=layout)
            return jax.vmap(eqx.combine(parts, static))(waves)

        def loss(parts, waves):
            return jnp.sum(jnp.square(features(parts, waves)))

        roads = {"forward_ms": features} | ({"gradient_ms": jax.grad(loss)} if jax.tree.leaves(parts) else {})
        found, parts = {"batch": batch}, jax.device_put(parts, device)
        for kind, road in roads.items():
            compiled = jax.jit(road).lower(parts, waves).compile()
            count = calls(functools.partial(lambda run: jax.block_until_ready(run(parts, waves)), compiled), pace)
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for _ in range(count):
                    out = compiled(parts, waves)
                jax.block_until_ready(out)
                times.append(1e3 * (time.perf_counter() - start) / count)
            found[kind] = float(np.median(times))
        return found

    memory = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    known = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__, "limit": memory}
    return known, {"train": train, "prepare": prepare, "timed": timed, "frontend": frontend}


def theirs():
    """The same for timm under torch.compile; with eager torch where it does not compile."""
    import timm
    import torch

    device = os.environ.get("BENCHMARK_TORCH_DEVICE", "cuda")  # to try this out without a GPU
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU")
    torch.backends.cudnn.benchmark = True
    ready = {}

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def prepare(name, batch, shape):
        ready.clear()
        torch.compiler.reset()
        model = timm.create_model(name.removeprefix("forward "), in_chans=1, num_classes=0, pretrained=False).eval()
        model = model.to(device=device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        maps = torch.randn(batch, 1, *shape, device=device, dtype=torch.bfloat16)
        maps = maps.contiguous(memory_format=torch.channels_last)
        network = torch.compile(model, dynamic=False)
        found = {}

        def run(count=1):
            with torch.inference_mode():
                for _ in range(count):
                    network(maps)
            wait()

        start = time.perf_counter()
        try:
            run()
        except Exception as error:
            found["eager"], network = one_line(error), model
            run()
        spent = time.perf_counter() - start
        ready["run"], ready["count"] = run, calls(run, 0.5)
        return found | {"compile_seconds": spent}

    name = torch.cuda.get_device_name() if device == "cuda" else device
    known = {"device": name, "torch": torch.__version__, "timm": timm.__version__}
    return known, {"prepare": prepare, "timed": lambda: clocked(ready)}


def clocked(ready) -> dict[str, float]:
    start = time.perf_counter()
    ready["run"](ready["count"])
    return {"ms": 1e3 * (time.perf_counter() - start) / ready["count"]}


def serve(side: str) -> None:
    """Answers each line of standard input, a JSON object that says what to `do`, by one line; the first is a hello."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error
    sys.path[0] = str(ROOT)
    try:
        known, work = {"ours": ours, "theirs": theirs}[side]()
    except Exception as error:
        known, work = {"error": one_line(error)}, {}
    print(json.dumps(known), file=out)
    for line in sys.stdin if work else ():
        job = json.loads(line)
        try:
            answer = work[job.pop("do")](**job)
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer, default=float), file=out)


class Worker:
    """A process that serves one side. It is started when it is needed, and ended after a failure or at its time."""

    def __init__(self, python: str, side: str, **environment: str):
        self.command = [python, __file__, "--serve", side, *(["--small"] if "--small" in sys.argv else [])]
        around = {k: v for k, v in os.environ.items() if "CLIENT_MEM_FRACTION" not in k and "_PREALLOCATE" not in k}
        self.environment = around | {"JAXTYPING_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"} | environment
        self.process, self.known = None, {}

    def start(self) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
            self.lines = queue.Queue()
            threading.Thread(target=self._listen, args=(self.process.stdout, self.lines), daemon=True).start()
            self.known = None

    def hello(self, until: float) -> dict:
        """What it says of itself once it has started."""
        self.start()
        if self.known is None:
            self.known = self._answer(until)
        return self.known

    def ask(self, until: float, **job) -> dict:
        """The answer, {"error": ...} where there is none before `until`, of `time.monotonic`."""
        if "error" in (known := self.hello(until)):
            return known
        with contextlib.suppress(OSError):  # it has ended, which reading finds out
            print(json.dumps(job), file=self.process.stdin, flush=True)
        return self._answer(until)

    def _listen(self, stream, lines) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    def _answer(self, until: float) -> dict:
        try:
            line = self.lines.get(timeout=max(until - time.monotonic(), 0.1))
            answer = {"error": f"its process ended, {self.process.wait()}"} if line is None else json.loads(line)
        except queue.Empty:
            answer = {"error": "stopped, its time was over"}
        except ValueError:
            answer = {"error": f"no JSON: {line[:200]}"}
        if "error" in answer:
            self.close()
        return answer

    def close(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(OSError):  # the group, for torch compiles in processes of its own
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin = self.process.stdout = None
        self.process = None


class Report:
    """The results, on disk after every change."""

    def __init__(self, path: pathlib.Path, keep: bool, **known):
        self.path = path
        self.results = known | {"rows": {}}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            before = json.loads(path.read_text())
            if keep and all(before[name] == known[name] for name in ("device", "jax")):
                self.results["rows"] = before["rows"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def note(self, **known) -> None:
        rows = self.results.pop("rows")
        self.results |= known | {"rows": rows}
        self._write()

    def row(self, name: str, fields: dict) -> None:
        short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in fields.items() if v is not None}
        self.results["rows"][name] = short
        self._write()
        print(f"{name:34} {self.words(short)}", flush=True)

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.results, indent=2) + "\n")
        os.replace(temporary, self.path)

    def words(self, row: dict) -> str:
        text = []
        if "samples_per_second" in row:
            text.append(f"{row['samples_per_second']:8.0f} samples/s")
        if "ours_ms" in row:
            text.append(f"ours {row['ours_ms']:8.2f} ms")
        if "peer_ms" in row:
            text.append(f"peer {row['peer_ms']:8.2f} ms")
        text += [f"{kind} {row[kind]:.2f} ms" for kind in ("forward_ms", "gradient_ms") if kind in row]
        text += [f"ratio {row['ratio']:.2f}"] if "ratio" in row else []
        text += [f"batch {row['batch']}"] if "batch" in row else []
        text += [f"utilisation {row['utilisation']:.1%}"] if "utilisation" in row else []
        text += [f"compiled in {row['compile_seconds']:.0f} s"] if "compile_seconds" in row else []
        return "  ".join(text + [f"{kind}: {row[kind][:120]}" for kind in ("peer", "error") if kind in row])


class Training:
    """One row of training, over the batches that are tried."""

    def __init__(self, name: str, worker: Worker, report: Report, peak: float | None, limit: int | None):
        self.name, self.worker, self.report, self.peak, self.limit = name, worker, report, peak, limit
        self.row = {"target": TRAIN[name][2], "batches": {}}
        self.last, self.spent, self.done = 0, 0.0, False

    def attempt(self, batch: int, until: float) -> bool:
        """Whether the batch was measured; the row keeps the fastest."""
        start, self.done = time.monotonic(), True
        answer = self.worker.ask(until, do="train", name=self.name, batch=batch)
        self.spent, self.last = time.monotonic() - start, batch
        if "error" in answer:
            self.row["batches"][str(batch)] = answer["error"]
            if "samples_per_second" not in self.row:
                self.row["error"] = answer["error"]
        else:
            self.row["batches"][str(batch)] = round(answer["samples_per_second"], 1)
            best = self.row.get("samples_per_second", 0.0)
            taken = answer.pop("bytes")
            self.done = answer["samples_per_second"] < 1.03 * best or 2 * batch > MOST
            if taken is not None and self.limit is not None:
                self.done |= 2 * taken > 1.1 * self.limit  # twice as many do not fit: nothing to compile
            if answer["samples_per_second"] > best:
                self.row.pop("error", None)
                self.row |= answer | {"gib": None if taken is None else taken / 2**30}
                rate, work = answer["samples_per_second"], answer["gflop"]
                self.row["ratio"] = rate / self.row["target"] if self.row["target"] else None
                self.row["utilisation"] = 1e9 * work * rate / self.peak if self.peak else None
        self.report.row(self.name, self.row)
        return "error" not in answer

    def first(self, start: int, until: float) -> None:
        """At this batch, or at the largest half of a half of it that fits."""
        if until - time.monotonic() < 20:  # `double` may find the time at the end
            self.last, self.spent = start // 2, 30.0
            self.row["error"] = "no time was left"
            self.report.row(self.name, self.row)
            return
        batch = start
        while not self.attempt(batch, until) and batch > 8 and self.row["error"].startswith(FULL):
            batch //= 2
        self.done |= batch < start

    def double(self, until: float) -> None:
        if time.monotonic() + 1.3 * self.spent > until:
            self.done = True
        else:
            self.attempt(2 * self.last, until)


def compare(name: str, mine: Worker, peer: Worker | None, report: Report, peak: float | None, batch: int, until):
    """Our forward and torch's, which take turns; without torch, ours alone."""
    shape = (501, 64) if "--small" not in sys.argv else (64, 16)
    job = {"do": "prepare", "name": name, "batch": batch, "shape": shape}
    row = {"batch": batch, "target": 1.0, "features": shape}
    prepared = mine.ask(until, **job)
    theirs = {"error": "left out of --small"} if peer is None else peer.ask(until, **job)
    if "error" in prepared:
        report.row(name, row | {"error": prepared["error"]})
        return
    sides = {"ours_ms": mine} | ({} if "error" in theirs else {"peer_ms": peer})
    times = {side: [] for side in sides}
    for _ in range(ROUNDS + 2):
        for side, worker in sides.items():
            if "ms" in (answer := worker.ask(until, do="timed")):
                times[side].append(answer["ms"])
    row |= {side: sorted(values)[len(values) // 2] for side, values in times.items() if values} | prepared
    if "error" in theirs:
        row["peer"] = theirs["error"]
    else:
        row |= {"peer_compile_seconds": theirs["compile_seconds"]}
        row |= {"peer": f"eager, {theirs['eager']}"} if "eager" in theirs else {"peer": "torch.compile"}
    if "ours_ms" in row:
        row["samples_per_second"] = 1e3 * batch / row["ours_ms"]
        row["utilisation"] = 1e9 * prepared["gflop"] * row["samples_per_second"] / peak if peak else None
        row["ratio"] = row["ours_ms"] / row["peer_ms"] if "peer_ms" in row else None
    else:
        row["error"] = "no time was measured"
    report.row(name, row)


def guarded(report: Report, name: str, run) -> None:
    try:
        run()
    except Exception as error:
        report.row(name, report.results["rows"].get(name, {}) | {"error": one_line(error)})


def measure(options: argparse.Namespace, workers: list[Worker]) -> None:
    start = time.monotonic()

    def share(part: float) -> float:
        """When this part of the time is over."""
        return start + part * options.seconds

    def soon(seconds: float, part: float) -> float:
        return min(time.monotonic() + seconds, share(part))

    def wanted(names):
        return fnmatch.filter(names, options.only)

    cpu = {"JAX_PLATFORMS": "cpu"} if options.small else {}
    train = Worker(sys.executable, "ours", XLA_CLIENT_MEM_FRACTION="0.92", **cpu)
    mine = Worker(sys.executable, "ours", XLA_PYTHON_CLIENT_PREALLOCATE="false", **cpu)  # shares the GPU with torch
    peer = None if options.small else Worker(options.peer, "theirs")
    workers += [train, mine] + ([peer] if peer else [])
    for worker in workers:  # imports take as long as a row; none but the first takes memory yet
        worker.start()
    known = train.hello(soon(120, 1.0))
    if "error" in known:
        sys.exit(f"JAX did not start: {known['error']}.")
    if known["platform"] == "cpu" and not options.small:
        sys.exit("JAX sees no GPU here: install its CUDA plugin, or try --small.")
    limit = known.pop("limit")
    peak = next((value for name, value in PEAKS.items() if name in known["device"]), None)
    peak = None if any(name in known["device"] for name in ("PCIe", "NVL")) else peak  # slower parts
    report = Report(
        options.output, options.only != "*", **known, torch=None, timm=None, python=platform.python_version(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), peak_flops=peak, small=options.small,
        seconds=None,
    )  # fmt: skip
    print(f"{known['device']}, jax {known['jax']}", flush=True)
    rows = [Training(name, train, report, peak, limit) for name in wanted(TRAIN)]
    alone = not wanted(FORWARD)
    for row in rows:  # each once, before any is tried with more
        guarded(report, row.name, lambda row=row: row.first(options.batch, soon(120, 0.95 if alone else 0.65)))
    train.close()
    for name in wanted(FORWARD):
        until = soon(140, 0.95)
        guarded(report, name, lambda: compare(name, mine, peer, report, peak, options.batch, until))  # noqa: B023
        if peer:
            report.note(torch=peer.known.get("torch"), timm=peer.known.get("timm"))
    mine.close()
    if peer:
        peer.close()
    while open_ := [row for row in rows if not row.done]:
        for row in open_:
            guarded(report, row.name, lambda row=row: row.double(share(1.0)))
    for name in wanted(FRONTENDS):
        if (until := soon(60, 1.0)) > time.monotonic() + (0 if options.small else 25):
            answer = train.ask(until, do="frontend", name=name, batch=options.batch)
            guarded(report, name, lambda: report.row(name, answer))  # noqa: B023
    report.note(seconds=round(time.monotonic() - start, 1))
    print(f"\n{report.results['device']}, jax {report.results['jax']}, torch {report.results['torch']}")
    for name, row in report.results["rows"].items():
        target = f"  (target {row['target']})" if row.get("target") else ""
        print(f"{name:34} {report.words(row)}{target}")
    print(options.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks, on CPU, without torch")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of the rows to measure")
    parser.add_argument("--seconds", type=float, default=420.0, help="when to stop")
    parser.add_argument("--batch", type=int, default=BATCH, help="the batch to start from, and the forward's")
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch and timm")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    workers: list[Worker] = []
    try:
        measure(options, workers)
    finally:
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
