"""Handles SIGINT and SIGTERM of a command: they interrupt any waiting, but let the command finish what it writes.

JAX runs Python in callbacks that swallow exceptions, so a signal is also recorded, and the command checks it later.
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
    """The number of the last signal, 0 before any, and whether the command is writing."""

    def __init__(self):
        self.number, self.is_writing = 0, False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the process's signals during the `with` block, if it runs in the main thread."""
        self.number, self.is_writing = 0, False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _leave(self) -> None:
        """Ends the process at once: XLA crashes if a batch is running while the interpreter shuts down."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(128 + self.number)

    def _handle(self, number: int, frame: Any) -> None:
        if not self.number:
            atexit.register(self._leave)
        self.number = number
        if not self.is_writing:
            raise KeyboardInterrupt


signals = Signals()
