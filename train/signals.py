"""SIGINT and SIGTERM end a run with a checkpoint, and the run says so at once.

Python's own handlers wait until a compilation or a step is over. So a thread reads the number of each signal from a
socket, to which Python writes it immediately.
"""

import os
import signal
import socket
import sys
import threading

import jax
import numpy as np
import tqdm

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class SignalExit(Exception):
    """A signal ended the run, after a checkpoint was written."""

    def __init__(self, number: int, step: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}, with a checkpoint: the same command goes on")
        self.code = 128 + number


class Interruption(Exception):
    """A signal arrived during work that need not be finished."""


class Signals:
    """A context that listens for signals.

    The first signal asks the run to end, or ends the process at once while there is no `progress` to save. A second
    signal always ends the process at once.
    """

    def __init__(self):
        self.number = 0
        """The first signal, 0 for none."""
        self.progress = False
        """Whether the run has done a step that a checkpoint would save."""
        self.has_one_host = jax.process_count() == 1

    def __enter__(self) -> "Signals":
        self.listens = threading.current_thread() is threading.main_thread()  # other threads may not set handlers
        if self.listens:
            self.reader, self.writer = socket.socketpair()
            self.writer.setblocking(False)
            self.descriptor = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
            self.handlers = {number: signal.signal(number, self._note) for number in NUMBERS}
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.listens:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self.descriptor)
            self.writer.close()  # this ends the thread
            self.thread.join()

    def _note(self, number: int, _: object) -> None:
        """Handles a signal in the main thread, where Python may run it late."""
        self.number = self.number or number

    def _watch(self) -> None:
        """Answers each signal at once, even while the main thread is busy."""
        with self.reader:
            count = 0
            while numbers := self.reader.recv(1):
                (number,) = numbers
                if number in NUMBERS:
                    self._answer(number, first=count == 0)
                    count += 1

    def _answer(self, number: int, first: bool) -> None:
        """Says what the signal does, and ends the process if it does that."""
        name = signal.Signals(number).name
        if first and (self.progress or not self.has_one_host):
            _say(f"{name}: a checkpoint is written after the step under way; a second signal ends the run without it.")
            return
        _say(f"{name}: ended " + ("before the first step." if first else "without a checkpoint of the last steps."))
        os._exit(128 + number)  # at once, because a checkpoint on disk is whole or absent

    def agree(self, step: int) -> int:
        """The signal that any of the hosts received, 0 for none. Several hosts exchange this at every tenth step."""
        if self.has_one_host:
            return self.number
        if step % 10:
            return 0
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(self.number)).max())

    def check(self) -> None:
        """Raises `Interruption` after a signal; never on several hosts, because the others would wait for this one."""
        if self.number and self.has_one_host:
            raise Interruption


def _say(text: str) -> None:
    """Writes a line beside the progress bar."""
    tqdm.tqdm.write(f"audax-train: {text}", file=sys.stderr)
    sys.stderr.flush()
