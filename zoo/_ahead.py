"""Recordings read ahead: threads cut a few windows of each of the next ones before they are asked for."""

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
    """The windows of one recording, cut by a thread, at most `depth` of them before they are asked for."""

    def __init__(self, source: Any, windows: Callable[[Any], Generator], depth: int, stopped: threading.Event):
        self.source, self.windows, self.stopped = source, windows, stopped
        self.items: queue.Queue[Any] = queue.Queue(depth)

    def fill(self) -> None:
        """What the thread does. An error of any kind goes to who asks for the windows."""
        if self.stopped.is_set():
            return
        try:
            with contextlib.closing(self.windows(self.source)) as windows:
                if all(map(self._put, windows)):
                    self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Waits for room. False once nobody asks any more."""
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
    """The recordings in order, the next few of which threads have begun to read.

    An error of the caller's iterator is raised behind what it gave before.
    """
    stopped, begun, sources, failure = threading.Event(), collections.deque(), iter(recordings), None
    todo: queue.SimpleQueue[Ahead | None] = queue.SimpleQueue()
    # Daemons: an interpreter that ends waits for no others, while somebody may still hold an unfinished iterator
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
                for source in itertools.islice(sources, 2 * workers - len(begun)):
                    begun.append(Ahead(source, windows, depth, stopped))
                    todo.put(begun[-1])
            except Exception as error:
                failure, sources = error, iter(())
            if begun:
                yield begun.popleft()
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
