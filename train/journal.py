"""The journal of a run: progress bar, `log.jsonl`, TensorBoard, a profile on request, and a check of the losses."""

import collections
import json
import math
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter

from zoo.tools import atomic

from .data import Sampler
from .dataset import Dataset
from .recipe import Recipe
from .step import schedule

Callback = Callable[[int, dict[str, float]], Any]

LEAD = 2  # the last steps, whose losses the devices may still compute, so that they never wait
WARM_UP = 10  # steps before a profile begins


class Board:
    """An event file of TensorBoard, to which each value is written at once, in a folder of any name."""

    def __init__(self, folder: pathlib.Path, start: int):
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(folder / name, "xb")  # noqa: SIM115
        self._write(file_version="brain.Event:2")
        # Tells TensorBoard to drop the values that an earlier process wrote after its last checkpoint
        self._write(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: dict[str, float]) -> None:
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

    def _write(self, **fields: Any) -> None:
        RecordWriter(self.file).write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Journal:
    """The record of a run from step `start` on, which the first host writes.

    Lines that an earlier process wrote after its last checkpoint are removed, because those steps are repeated. The
    first host also calls `callback` with the content of each line.
    """

    def __init__(
        self,
        out: pathlib.Path,
        recipe: Recipe,
        dataset: Dataset,
        sampler: Sampler,
        total: int,
        start: int,
        callback: Callback | None = None,
    ):
        self.callback = callback
        self.out, self.recipe, self.dataset, self.sampler = out, recipe, dataset, sampler
        self.total, self.start, self.is_first_host = total, start, jax.process_index() == 0
        self.rate = schedule(recipe, len(sampler.rows))
        self.queue: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()
        self.losses: list[float] = []
        self.clock = self.settle_time = time.perf_counter()
        self.is_profiling = False

    def __enter__(self) -> "Journal":
        self.bar = tqdm.tqdm(
            total=self.total * self.recipe.data.batch, initial=self.start * self.recipe.data.batch, unit="clip",
            unit_scale=True, desc=self.recipe.name, disable=not self.is_first_host,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a file gets a line twice a minute
        )  # fmt: skip
        if self.is_first_host:
            path = self.out / "log.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            with atomic(path) as temporary:
                temporary.write_text("".join(filter(self._is_past, lines)), encoding="utf-8")
            self.lines = open(path, "a", encoding="utf-8", buffering=1)
            self.board = Board(self.out / "tensorboard", self.start)
        return self

    def _is_past(self, line: str) -> bool:
        """Whether a line of the log is of a step that the run does not repeat."""
        try:
            return json.loads(line)["step"] <= self.start
        except (ValueError, KeyError):  # a line that a killed process left unfinished
            return False

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            if self.is_profiling:
                jax.profiler.stop_trace()
            self.bar.close()
            if self.is_first_host:
                self.lines.close()
                self.board.close()

    def step(self, number: int, logs: dict[str, Any]) -> None:
        """Records the logs of a step, which the devices may still be computing.

        Raises FloatingPointError, with the step and the ids of its batch, if a loss or a gradient is not finite.
        """
        self.queue.append((number, logs))
        if self.recipe.run.profile and number == self.start + WARM_UP:
            jax.profiler.start_trace(str(self.out / "profile"))
            self.is_profiling = True
        if self.is_profiling and number == self.start + WARM_UP + self.recipe.run.profile:
            self.settle()
            jax.profiler.stop_trace()
            self.is_profiling = False
        while len(self.queue) > LEAD:
            self._settle_one()

    def settle(self) -> None:
        """Waits for all losses."""
        while self.queue:
            self._settle_one()
        self.settle_time = time.perf_counter()

    def _settle_one(self) -> None:
        """Waits for the losses of the oldest step in the queue, checks them, and writes a line if one is due."""
        step, logs = self.queue.popleft()
        loss, norm = float(logs["loss"]), float(logs["gradient_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            ids = ", ".join(self.dataset.ids[row] for row in self.sampler.rows_of(step - 1))
            raise FloatingPointError(
                f"The loss of step {step} is {loss}, the norm of its gradient {norm}: lower the learning rate, or look "
                f"at its clips. They were {ids}."
            )
        self.losses.append(loss)
        self.bar.update(self.recipe.data.batch)
        if step % self.recipe.run.log and step != self.total:
            return
        seconds = time.perf_counter() - self.clock
        mean = float(np.mean(self.losses))
        self.bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
        self._write(step, {
            "loss": mean, "gradient_norm": norm, "learning_rate": self.rate(step - 1),
            "clips_per_second": len(self.losses) * self.recipe.data.batch / seconds,
        })  # fmt: skip
        self.losses, self.clock = [], time.perf_counter()

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Records the metrics after a step."""
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        if self.is_first_host:
            tqdm.tqdm.write(f"{self.recipe.name}, epoch {self._epoch(step):.1f}: {text}")
        self._write(step, {f"evaluation/{name}": value for name, value in metrics.items()})
        self.clock += time.perf_counter() - self.settle_time  # evaluation does not count as training time

    def tell(self, text: str) -> None:
        """Writes a line beside the progress bar, on the first host."""
        if self.is_first_host:
            tqdm.tqdm.write(f"{self.recipe.name}: {text}")

    def _epoch(self, step: int) -> float:
        return step * self.recipe.data.batch / len(self.sampler.rows)

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self.is_first_host:
            return
        self.board.add(step, values)
        self.lines.write(json.dumps({"step": step, "epoch": round(self._epoch(step), 3)} | values) + "\n")
        if self.callback is not None:
            self.callback(step, values)
