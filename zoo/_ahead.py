"""Recordings read ahead: threads cut the first windows of the next recordings before the caller asks for them."""

import atexit
import collections
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from ._audio import Window


class Ahead:
    """The windows of one recording, which a thread cuts. At most `depth` windows wait for the caller."""

    def __init__(self, source: Any, windows: Callable[[Any], Generator], depth: int, stopped: threading.Event):
        self.source, self.windows, self.stopped = source, windows, stopped
        self.items: queue.Queue[Any] = queue.Queue(depth)

    def fill(self) -> None:
        """Cuts the windows, in a thread. An error of any kind is raised where the windows are iterated."""
        if self.stopped.is_set():
            return
        try:
            with contextlib.closing(self.windows(self.source)) as windows:
                if all(map(self._put, windows)):
                    self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Waits for room in the queue. False if the caller has stopped."""
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return True
        return False

    def __iter__(self) -> Iterator[Window]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def ahead(
    recordings: Iterable[Any], windows: Callable[[Any], Generator], workers: int, depth: int
) -> Generator[Ahead, None, None]:
    """The recordings in order. Threads have already pending to read the next few of them.

    If the caller's iterator raises an error, the recordings before the error come first, and then the error is raised.
    """
    stopped, pending, sources, failure = threading.Event(), collections.deque(), iter(recordings), None
    todo: queue.SimpleQueue[Ahead | None] = queue.SimpleQueue()
    # Daemon threads: an interpreter that exits would wait for others, even for those of an unfinished iterator
    threads = [
        threading.Thread(target=_work, args=(todo,), name=f"recordings_{n}", daemon=True) for n in range(workers)
    ]

    def stop() -> None:
        stopped.set()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()

    atexit.register(stop)
    try:
        for thread in threads:
            thread.start()
        while True:
            try:
                for source in itertools.islice(sources, 2 * workers - len(pending)):
                    pending.append(Ahead(source, windows, depth, stopped))
                    todo.put(pending[-1])
            except Exception as error:
                failure, sources = error, iter(())
            if pending:
                yield pending.popleft()
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        stop()
        atexit.unregister(stop)


def _work(todo: queue.SimpleQueue) -> None:
    while (item := todo.get()) is not None:
        item.fill()
