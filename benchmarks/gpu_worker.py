"""Processes of `gpu.py`, one for each side, which end after a failure or at a deadline.

A process reads jobs from standard input and writes answers to standard output, one line of JSON for each.
"""

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
    """The error as one line, which begins with "out of memory" if it is such an error."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    lacks_memory = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or "MemoryError" in text
    return ("out of memory: " if lacks_memory else "") + text[:300]


def calls(run, seconds: float) -> int:
    """The number of calls of `run`, which waits for its result, that take so many seconds."""
    run(), run()
    start = time.perf_counter()
    run()
    return max(1, min(1000, round(seconds / (time.perf_counter() - start))))


def time_calls(program) -> dict[str, float]:
    """The mean milliseconds of a program's calls: it has a function "run", which takes the number of calls, "count"."""
    start = time.perf_counter()
    program["run"](program["count"])
    return {"ms": 1e3 * (time.perf_counter() - start) / program["count"]}


def serve(side: str) -> None:
    """Writes a line of facts about the side, then an answer to each line of standard input.

    A line of input is a JSON object with the name of a function in `do`, and its arguments.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error
    sys.path.insert(0, str(ROOT))
    try:
        facts, work = getattr(importlib.import_module(f"gpu_{side}"), side)()
    except Exception as error:
        facts, work = {"error": one_line(error)}, {}
    print(json.dumps(facts), file=out)
    for line in sys.stdin if work else ():
        job = json.loads(line)
        try:
            answer = work[job.pop("do")](**job)
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer, default=float), file=out)


class Worker:
    """A process that serves one side. It starts when it is asked, and ends after a failure or at a deadline.

    `facts` are what the process says of itself at its start.
    """

    def __init__(self, python: str, side: str, **environment: str):
        self.command = [python, str(SCRIPT), "--serve", side, *(["--small"] if "--small" in sys.argv else [])]
        variables = {k: v for k, v in os.environ.items() if "CLIENT_MEM_FRACTION" not in k and "_PREALLOCATE" not in k}
        self.environment = variables | {"JAXTYPING_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"} | environment
        self.process, self.facts = None, {}

    def start(self) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
            self.lines = queue.Queue()
            threading.Thread(target=self._listen, args=(self.process.stdout, self.lines), daemon=True).start()
            self.facts = None

    def hello(self, deadline: float) -> dict:
        """The facts about the process, which is started if it does not run."""
        self.start()
        if self.facts is None:
            self.facts = self._answer(deadline)
        return self.facts

    def ask(self, deadline: float, **job) -> dict:
        """The answer to a job, or {"error": ...} without an answer before the deadline, a time of `time.monotonic`."""
        if "error" in (facts := self.hello(deadline)):
            return facts
        with contextlib.suppress(OSError):  # the process has ended, which `_answer` notices
            print(json.dumps(job), file=self.process.stdin, flush=True)
        return self._answer(deadline)

    def _listen(self, stream, lines) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    def _answer(self, deadline: float) -> dict:
        try:
            line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.1))
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
        with contextlib.suppress(OSError):  # ends the whole group, because torch compiles in processes of its own
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin = self.process.stdout = None
        self.process = None
