"""Work that a background thread does ahead, a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over ``items`` in a thread, ``depth`` finished items and the one in its hands ahead of its consumer.

    What the iterator raises is raised to the consumer as itself, at the item that it would have been. The thread ends
    with the iterator, with an error, or at :meth:`close`.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._ready: queue.Queue[tuple[T] | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        # A daemon: a consumer that died without closing cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, args=(items,), name="fmsci-prefetch", daemon=True)
        self._thread.start()

    def _work(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                self._ready.put((item,))
                if self._stop.is_set():
                    return
            raise StopIteration
        except BaseException as error:
            if not self._stop.is_set():
                self._ready.put(error)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        found = self._ready.get()
        if isinstance(found, BaseException):
            self.close()
            raise found
        return found[0]

    def close(self) -> None:
        """Stop the thread, wait for it and drop what it made; an item that it is making is finished first."""
        self._stop.set()
        while self._thread.is_alive():
            while not self._ready.empty():  # makes room for a put that waits
                self._ready.get()
            self._thread.join(0.01)
