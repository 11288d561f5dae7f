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


class Reader:
    """The windows of one recording, which a thread cuts. At most `depth` windows wait for the caller."""

    def __init__(self, source: Any, windows: Callable[[Any], Generator], depth: int, end_event: threading.Event):
        self.source, self.windows, self.end_event = source, windows, end_event
        self.items: queue.Queue[Any] = queue.Queue(depth)

    def fill(self) -> None:
        """Cuts the windows, in a thread. An error of any kind is raised where the windows are iterated."""
        if self.end_event.is_set():
            return
        try:
            with contextlib.closing(self.windows(self.source)) as windows:
                if all(map(self._put, windows)):
                    self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Waits for room in the queue. False if the caller has stopped."""
        while not self.end_event.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return True
        return False

    def __iter__(self) -> Iterator[Window]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def read_ahead(
    recordings: Iterable[Any], windows: Callable[[Any], Generator], workers: int, depth: int
) -> Generator[Reader, None, None]:
    """The recordings in order. Threads already read the next few of them.

    If the caller's iterator raises an error, the recordings before the error come first, and then the error is raised.
    """
    end_event, backlog, sources, failure = threading.Event(), collections.deque(), iter(recordings), None
    jobs: queue.SimpleQueue[Reader | None] = queue.SimpleQueue()
    # Daemon threads: an interpreter that exits would wait for others, even for those of an unfinished iterator
    threads = [
        threading.Thread(target=_work, args=(jobs,), name=f"recordings_{n}", daemon=True) for n in range(workers)
    ]

    def stop() -> None:
        end_event.set()
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join()

    atexit.register(stop)
    try:
        for thread in threads:
            thread.start()
        while True:
            try:
                for source in itertools.islice(sources, 2 * workers - len(backlog)):
                    backlog.append(Reader(source, windows, depth, end_event))
                    jobs.put(backlog[-1])
            except Exception as error:
                failure, sources = error, iter(())
            if backlog:
                yield backlog.popleft()
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        stop()
        atexit.unregister(stop)


def _work(jobs: queue.SimpleQueue) -> None:
    while (item := jobs.get()) is not None:
        item.fill()
