"""Batches made ahead on a thread, while the model trains on the ones before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.1


def prefetch(batches: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yield the same batches in the same order, up to `depth` of them made ahead.

    Close the generator to end the thread before the last batch. An error in the making of a batch
    is raised where that batch was due.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(batch: T | None, error: BaseException | None = None) -> None:
        while not is_closed.is_set():
            try:
                return ready.put((batch, error), timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for batch in batches:
                put(batch)
                if is_closed.is_set():
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(None)

    thread = threading.Thread(target=make, name="ensue-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        is_closed.set()
        thread.join()
