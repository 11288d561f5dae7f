"""Recordings read ahead: threads cut a few windows of each of the next ones before they are asked for."""

import collections
import concurrent.futures
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from ._audio import Window


class Ahead:
    """The windows of one recording, cut by a thread, at most `depth` of them before they are asked for."""

    def __init__(self, source: Any, windows: Callable[[Any], Iterator[Window]], depth: int, stopped: threading.Event):
        self.source, self.windows, self.stopped = source, windows, stopped
        self.items: queue.Queue[Any] = queue.Queue(depth)

    def fill(self) -> None:
        """What the thread does. An error of any kind goes to who asks for the windows."""
        try:
            for window in self.windows(self.source):
                self._put(window)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return

    def __iter__(self) -> Iterator[Window]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def ahead(
    recordings: Iterable[Any], windows: Callable[[Any], Iterator[Window]], workers: int, depth: int
) -> Generator[Ahead, None, None]:
    """The recordings in order, the next few of which threads have begun to read."""
    stopped, begun, sources = threading.Event(), collections.deque(), iter(recordings)
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="recordings")
    try:
        while True:
            for source in itertools.islice(sources, 2 * workers - len(begun)):
                begun.append(Ahead(source, windows, depth, stopped))
                pool.submit(begun[-1].fill)
            if not begun:
                return
            yield begun.popleft()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
