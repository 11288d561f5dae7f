"""Speed on one GPU: training steps in bfloat16, and networks beside the same networks under torch.compile.

    python benchmarks/gpu.py [--only PATTERN] [--seconds 510] [--peer PYTHON] [--small]

"train" rows run `train.step` as it is: 16-bit waves of 5 s, features on the device, SpecAugment, mixup, AdamW, and 527
classes. The waves lie on the device, so that the rate excludes reading and decoding. A row starts at a batch of 256,
or of 64 for a Transformer, and halves the batch until it fits. Time that remains after the rows of networks doubles
the batch, until memory is full or the rate rises by less than 3 %. The ratio divides our samples/s by those of audax on
a whole TPU v3-8, so that a ratio above 1 is faster.

"forward" rows run a network in inference mode, "step" rows forward and backward in training mode, without optimizer.
The network takes features that are on the device; wav2vec2 takes waves. The ratio divides our time by that of
torch.compile, on networks of timm (channels last) and of transformers, so that a ratio below 1 is faster.

If time remains, rows of depthwise convolutions compare XLA's ("grouped"), ours ("shifts") and a kernel in Pallas
("pallas"), and rows of frontends time these alone. The run ends after `--seconds`, even during a compilation.

The utilisation counts two operations for each multiply-add of network and head: those of matrix products, and those of
convolutions by their definition. A training step counts as three forwards, and a frontend does not count. `xla_gflop`
is XLA's own count for the program. Both are for one sample.

It needs JAX, Equinox, jaxtyping, optax and safetensors, but no sound files, no data and no installed audax-eqx. The
comparison needs torch, timm and transformers; `--peer` is the Python that has them, if it is another one. Each side
runs in processes of its own, which end after a failure or at their deadline. Every row is written at once, to
`benchmarks/results/gpu.json` and as a table to `gpu.md`. `--only "train resnet18*"` replaces the rows that it matches;
the other rows stay if they are of the same device and JAX. `--small` tries everything on CPU.
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

from gpu_models import BATCH, COMPARISONS, DEPTHWISE, FRONTENDS, MAX_BATCH, ROUNDS, TRAIN, batch_of
from gpu_worker import ROOT, Worker, one_line, serve

HEAD = "work | batch | samples/s | ms | ratio | to"
RULE = " | ".join(["---"] * 6)
MEMORY_ERRORS = ("out of memory", "its process ended")  # after which half the batch may fit
PEAKS = {"H100": 990e12, "H200": 990e12}  # FLOP/s in dense bfloat16, by the datasheets of the SXM parts


class Report:
    """The results, which are written after every change.

    With `keep` the rows that the file has stay, if they are of the same device and JAX. `facts` describe the run.
    """

    def __init__(self, path: pathlib.Path, keep: bool, **facts):
        self.path = path
        self.results = facts | {"rows": {}}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            old_results = json.loads(path.read_text())
            if keep and all(old_results[name] == facts[name] for name in ("device", "jax")):
                self.results["rows"] = old_results["rows"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def note(self, **facts) -> None:
        """Adds facts about the run."""
        rows = self.results.pop("rows")
        self.results |= facts | {"rows": rows}
        self._write()

    def add_row(self, name: str, fields: dict) -> None:
        """Adds or replaces a row, with four digits of each number and without the fields that are None."""
        row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in fields.items() if v is not None}
        self.results["rows"][name] = row
        self._write()
        print(f"{name:34} {self.words(row)}", flush=True)

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.results, indent=2) + "\n")
        os.replace(temporary, self.path)
        temporary.write_text(self.table())
        os.replace(temporary, self.path.with_suffix(".md"))

    def table(self) -> str:
        """The rows as a table in Markdown."""
        lines = [f"On {self.results.get('device')}, in bfloat16:", "", *map("| {} |".format, (HEAD, RULE))]
        for name, row in self.results["rows"].items():
            rate = f"{row['samples_per_second']:,.0f}" if "samples_per_second" in row else ""
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            peer = row.get("peer", f"audax's {row['target']:,} samples/s" if row.get("target") else "")
            times = ", ".join(f"{kind.removesuffix('_ms')} {row[kind]:.2f}" for kind in row if kind.endswith("_ms"))
            cells = (name, row.get("batch", ""), rate, times, ratio, row.get("error", peer)[:60].replace("|", "/"))
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines) + "\n"

    def words(self, row: dict) -> str:
        """The row as a line of text."""
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
    """One row of training, which tries several batches and keeps the fastest.

    `peak` is the device's FLOP/s, and `limit` its memory in bytes; both are None if they are unknown.
    """

    def __init__(self, name: str, worker: Worker, report: Report, peak: float | None, limit: int | None):
        self.name, self.worker, self.report, self.peak, self.limit = name, worker, report, peak, limit
        self.row = {"target": TRAIN[name][2], "batches": {}}
        self.last_batch, self.seconds, self.is_over = 0, 0.0, False

    def attempt(self, batch: int, deadline: float) -> bool:
        """Measures a batch, and returns whether that succeeded."""
        start, self.is_over = time.monotonic(), True
        answer = self.worker.ask(deadline, do="train", name=self.name, batch=batch)
        self.seconds, self.last_batch = time.monotonic() - start, batch
        if "error" in answer:
            self.row["batches"][str(batch)] = answer["error"]
            if "samples_per_second" not in self.row:
                self.row["error"] = answer["error"]
        else:
            self.row["batches"][str(batch)] = round(answer["samples_per_second"], 1)
            best = self.row.get("samples_per_second", 0.0)
            size = answer.pop("bytes")
            self.is_over = answer["samples_per_second"] < 1.03 * best or 2 * batch > MAX_BATCH
            if size is not None and self.limit is not None:
                self.is_over |= 2 * size > 1.1 * self.limit  # twice the batch does not fit, so it is not compiled
            if answer["samples_per_second"] > best:
                self.row.pop("error", None)
                self.row |= answer | {"gib": None if size is None else size / 2**30}
                rate, gflop = answer["samples_per_second"], answer["gflop"]
                self.row["ratio"] = rate / self.row["target"] if self.row["target"] else None
                self.row["utilisation"] = 1e9 * gflop * rate / self.peak if self.peak else None
        self.report.add_row(self.name, self.row)
        return "error" not in answer

    def begin(self, start: int, deadline: float) -> None:
        """Measures the batch `start`, which it halves until it fits."""
        if deadline - time.monotonic() < 20:  # `double` may find time for `start` at the end
            self.last_batch, self.seconds = start // 2, 30.0
            self.row["error"] = "no time was left"
            self.report.add_row(self.name, self.row)
            return
        batch = start
        while not self.attempt(batch, deadline) and batch > 8 and self.row["error"].startswith(MEMORY_ERRORS):
            batch //= 2
        self.is_over |= batch < start

    def double(self, deadline: float) -> None:
        """Measures twice the last batch if there is time for it, else ends the row."""
        if time.monotonic() + 1.3 * self.seconds > deadline:
            self.is_over = True
        else:
            self.attempt(2 * self.last_batch, deadline)


def compare(
    name: str, our_worker: Worker, peer: Worker | None, report: Report, peak: float | None, batch: int, deadline: float
) -> None:
    """Adds a row that compares a network of ours with the peer's, in rounds in which they take turns.

    Without a peer the row has our time alone.
    """
    job = {"do": "prepare", "name": name, "batch": batch}
    row = {"batch": batch, "target": 1.0, "features": COMPARISONS[name][1]}
    our_answer = our_worker.ask(deadline, **job)
    peer_answer = {"error": "left out of --small"} if peer is None else peer.ask(deadline, **job)
    if "error" in our_answer:
        report.add_row(name, row | {"error": our_answer["error"]})
        return
    sides = {"ours_ms": our_worker} | ({} if "error" in peer_answer else {"peer_ms": peer})
    times = {side: [] for side in sides}
    for _ in range(ROUNDS + 2):
        for side, worker in sides.items():
            if "ms" in (answer := worker.ask(deadline, do="measure")):
                times[side].append(answer["ms"])
    row |= {side: sorted(values)[len(values) // 2] for side, values in times.items() if values} | our_answer
    if "error" in peer_answer:
        row["peer"] = peer_answer["error"]
    else:
        row |= {"peer_compile_seconds": peer_answer["compile_seconds"]}
        row |= {"peer": f"eager, {peer_answer['eager']}"} if "eager" in peer_answer else {"peer": "torch.compile"}
    if "ours_ms" in row:
        row["samples_per_second"] = 1e3 * batch / row["ours_ms"]
        row["utilisation"] = 1e9 * our_answer["gflop"] * row["samples_per_second"] / peak if peak else None
        row["ratio"] = row["ours_ms"] / row["peer_ms"] if "peer_ms" in row else None
    else:
        row["error"] = "no time was measured"
    report.add_row(name, row)


def report_error(report: Report, name: str, run) -> None:
    """Calls `run`, and adds its error to the row of that name."""
    try:
        run()
    except Exception as error:
        report.add_row(name, report.results["rows"].get(name, {}) | {"error": one_line(error)})


def measure(options: argparse.Namespace, workers: list[Worker]) -> None:
    """Measures all rows, and adds every process that it starts to `workers`."""
    start = time.monotonic()

    def end_of(share: float) -> float:
        """The moment at which this share of the time is over."""
        return start + share * options.seconds

    def deadline_in(seconds: float, share: float) -> float:
        """The moment in so many seconds, but at the latest the end of this share of the time."""
        return min(time.monotonic() + seconds, end_of(share))

    def select(names):
        return fnmatch.filter(names, options.only)

    cpu = {"JAX_PLATFORMS": "cpu"} if options.small else {}
    train = Worker(sys.executable, "ours", XLA_CLIENT_MEM_FRACTION="0.92", **cpu)
    our_worker = Worker(sys.executable, "ours", XLA_PYTHON_CLIENT_PREALLOCATE="false", **cpu)  # torch has memory, too
    peer = None if options.small else Worker(options.peer, "theirs")
    workers += [train, our_worker] + ([peer] if peer else [])
    for worker in workers:  # all at once, because imports take as long as a row; only `train` takes memory so early
        worker.start()
    facts = train.hello(deadline_in(120, 1.0))
    if "error" in facts:
        sys.exit(f"JAX did not start: {facts['error']}.")
    if facts["platform"] == "cpu" and not options.small:
        sys.exit("JAX sees no GPU here: install its CUDA plugin, or try --small.")
    limit = facts.pop("limit")
    peak = next((value for name, value in PEAKS.items() if name in facts["device"]), None)
    peak = None if any(name in facts["device"] for name in ("PCIe", "NVL")) else peak  # these are slower
    report = Report(
        options.output, options.only != "*", **facts, torch=None, timm=None, python=platform.python_version(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), peak_flops=peak, small=options.small,
        seconds=None,
    )  # fmt: skip
    print(f"{facts['device']}, jax {facts['jax']}", flush=True)
    rows = [Training(name, train, report, peak, limit) for name in select(TRAIN)]
    share = 0.5 if select(COMPARISONS) else 0.95
    for row in rows:  # each is measured once, before any batch is doubled
        report_error(
            report,
            row.name,
            lambda row=row: row.begin(batch_of(row.name, options.batch), deadline_in(90, share)),
        )
    train.close()
    for name in select(COMPARISONS):
        deadline, batch = deadline_in(90, 0.88), batch_of(name, options.batch)
        if deadline - time.monotonic() < (0 if options.small else 20):
            report.add_row(name, {"error": "no time was left"})
            continue
        report_error(report, name, lambda: compare(name, our_worker, peer, report, peak, batch, deadline))  # noqa: B023
        if peer:
            report.note(torch=peer.facts.get("torch"), timm=peer.facts.get("timm"))
    our_worker.close()
    if peer:
        peer.close()
    for name in select(DEPTHWISE):
        if (deadline := deadline_in(40, 0.95)) > time.monotonic() + (0 if options.small else 15):
            answer = train.ask(deadline, do="depthwise", name=name, batch=options.batch)
            report_error(report, name, lambda: report.add_row(name, answer))  # noqa: B023
    while open_rows := [row for row in rows if not row.is_over]:
        for row in open_rows:
            report_error(report, row.name, lambda row=row: row.double(end_of(1.0)))
    for name in select(FRONTENDS):
        if (deadline := deadline_in(60, 1.0)) > time.monotonic() + (0 if options.small else 25):
            answer = train.ask(deadline, do="frontend", name=name, batch=options.batch)
            report_error(report, name, lambda: report.add_row(name, answer))  # noqa: B023
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
    parser.add_argument("--seconds", type=float, default=510.0, help="the length of the run")
    parser.add_argument("--batch", type=int, default=BATCH, help="the first batch of training, and that of other rows")
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch, timm and transformers")
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
