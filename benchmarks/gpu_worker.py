"""A side of `gpu.py` in a process of its own, which a failure or the clock ends: one line of JSON in, one out."""

import contextlib
import importlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

SCRIPT = pathlib.Path(__file__).resolve().with_name("gpu.py")
ROOT = SCRIPT.parents[1]


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


def clocked(ready) -> dict[str, float]:
    start = time.perf_counter()
    ready["run"](ready["count"])
    return {"ms": 1e3 * (time.perf_counter() - start) / ready["count"]}


def serve(side: str) -> None:
    """Answers each line of standard input, a JSON object that says what to `do`, by one line; the first is a hello."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error
    sys.path.insert(0, str(ROOT))
    try:
        known, work = getattr(importlib.import_module(f"gpu_{side}"), side)()
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
        self.command = [python, str(SCRIPT), "--serve", side, *(["--small"] if "--small" in sys.argv else [])]
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
