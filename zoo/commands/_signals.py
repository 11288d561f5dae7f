"""SIGINT and SIGTERM of a command: they interrupt whatever waits, and let what is being written be written.

JAX runs Python in callbacks that swallow an exception, so a signal is noted too, and asked for later.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Signals:
    """The number of the signal that came, 0 while none has, and whether the command writes now."""

    def __init__(self):
        self.number, self.writing = 0, False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals of the process meanwhile, in its main thread."""
        self.number, self.writing = 0, False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _leave(self) -> None:
        """Ends the process at once: XLA crashes if a batch is under way while the interpreter is taken apart."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(128 + self.number)

    def _handle(self, number: int, frame: Any) -> None:
        if not self.number:
            atexit.register(self._leave)
        self.number = number
        if not self.writing:
            raise KeyboardInterrupt


signals = Signals()
