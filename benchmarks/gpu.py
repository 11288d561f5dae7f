"""Speed on one GPU: training steps in bfloat16, and networks beside the same under torch.compile in one run.

    python benchmarks/gpu.py [--only PATTERN] [--seconds 510] [--peer PYTHON] [--small]

Training is `train.step` as it is: 16-bit waves of 5 s in, features on the device, SpecAugment, mixup, AdamW, 527
classes. The waves lie on the device, so this is the device's rate without reading and decoding. Each row starts at a
batch of 256, goes down until it fits, and with the time that is left doubles until memory ends or the rate rises by
less than 3 %, Transformers at a fourth of it. Targets are audax's samples/s on a whole TPU v3-8; a ratio over 1 is
faster. A network's "forward" takes features that are on the device, wav2vec2's waves, in inference mode; a "step" is
forward and backward in training mode, without optimizer. The ratio is our time by torch.compile's (timm's networks,
channels last, and transformers'), under 1 is faster. With time to spare, depthwise convolutions (XLA's "grouped", ours
"shifts", and a kernel in "pallas") and frontends alone are timed too. All ends in `--seconds`, whatever compiles.

Utilisation counts 2 operations for each multiply-add of the network's and head's convolutions, as they are defined,
and matrix products; three times a forward for a training step; no frontend. `xla_gflop` is XLA's own count of the
program. Both are for one sample.

It needs JAX, Equinox, jaxtyping, optax and safetensors, and torch, timm and transformers (of `--peer`, if elsewhere)
for the comparison; no sound, no data, no installed audax-eqx. Each side runs in processes of its own that a failure or
the clock ends. Every row is on disk once it is measured, in `benchmarks/results/gpu.json`, and as a table in `gpu.md`;
`--only "train resnet18*"` replaces the rows that it matches, if the others are of this device and JAX. `--small` tries
all of it on CPU.
"""

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import pathlib
import platform
import signal
import sys
import time

from gpu_models import BATCH, DEPTHWISE, FRONTENDS, MOST, PEERED, ROUNDS, TRAIN, batch_of
from gpu_worker import ROOT, Worker, one_line, serve

HEAD = "work | batch | samples/s | ms | ratio | to"
RULE = " | ".join(["---"] * 6)
FULL = ("out of memory", "its process ended")  # after which half as many may do
PEAKS = {"H100": 990e12, "H200": 990e12}  # FLOP/s in dense bfloat16, by the datasheets of the SXM parts


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
        temporary.write_text(self.table())
        os.replace(temporary, self.path.with_suffix(".md"))

    def table(self) -> str:
        """Markdown for the README."""
        lines = [f"On {self.results.get('device')}, in bfloat16:", "", *map("| {} |".format, (HEAD, RULE))]
        for name, row in self.results["rows"].items():
            rate = f"{row['samples_per_second']:,.0f}" if "samples_per_second" in row else ""
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            other = row.get("peer", f"audax's {row['target']:,} samples/s" if row.get("target") else "")
            times = ", ".join(f"{kind.removesuffix('_ms')} {row[kind]:.2f}" for kind in row if kind.endswith("_ms"))
            cells = (name, row.get("batch", ""), rate, times, ratio, row.get("error", other)[:60].replace("|", "/"))
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines) + "\n"

    def words(self, row: dict) -> str:
        text = []
        if "samples_per_second" in row:
            text.append(f"{row['samples_per_second']:8.0f} samples/s")
        if "ours_ms" in row:
            text.append(f"ours {row['ours_ms']:8.2f} ms")
        if "peer_ms" in row:
            text.append(f"peer {row['peer_ms']:8.2f} ms")
        text += [f"{kind[:-3]} {row[kind]:.2f} ms" for kind in row if kind.endswith(("forward_ms", "backward_ms"))]
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
    job = {"do": "prepare", "name": name, "batch": batch}
    row = {"batch": batch, "target": 1.0, "features": PEERED[name][1]}
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
    alone = not wanted(PEERED)
    for row in rows:  # each once, before any is tried with more
        guarded(
            report,
            row.name,
            lambda row=row: row.first(batch_of(row.name, options.batch), soon(90, 0.95 if alone else 0.5)),
        )
    train.close()
    for name in wanted(PEERED):
        until, batch = soon(90, 0.88), batch_of(name, options.batch)
        if until - time.monotonic() < (0 if options.small else 20):
            report.row(name, {"error": "no time was left"})
            continue
        guarded(report, name, lambda: compare(name, mine, peer, report, peak, batch, until))  # noqa: B023
        if peer:
            report.note(torch=peer.known.get("torch"), timm=peer.known.get("timm"))
    mine.close()
    if peer:
        peer.close()
    for name in wanted(DEPTHWISE):
        if (until := soon(40, 0.95)) > time.monotonic() + (0 if options.small else 15):
            answer = train.ask(until, do="depthwise", name=name, batch=options.batch)
            guarded(report, name, lambda: report.row(name, answer))  # noqa: B023
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
    print(options.output, options.output.with_suffix(".md"), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks, on CPU, without torch")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of the rows to measure")
    parser.add_argument("--seconds", type=float, default=510.0, help="when to stop")
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
