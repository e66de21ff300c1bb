"""Connections that threads take in turn: one at a time each, and kept for the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Generic, Protocol, TypeVar

from ensue.serving.stores.base import MAX_CONNECTIONS, TIMEOUT_S


class Closable(Protocol):
    """A connection of any kind."""

    def close(self) -> None:
        """Let go of it."""
        ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """At most MAX_CONNECTIONS connections, opened when there is none to take.

    Args:
        connect: opens one.
        is_usable: whether one that was kept still works, as far as can be seen at no cost.
    """

    def __init__(self, connect: Callable[[], C], is_usable: Callable[[C], bool]) -> None:
        self._connect, self._is_usable = connect, is_usable
        self._kept: deque[C] = deque()
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        self._is_closed = False

    @contextmanager
    def take(self) -> Iterator[C]:
        """Yield a connection; one with which the block fails is not used again.

        Raises:
            TimeoutError: all are taken, and none came back in time.
        """
        if not self._free.acquire(timeout=TIMEOUT_S):
            raise TimeoutError(f"all {MAX_CONNECTIONS} connections are busy")
        try:
            connection = self._take_kept() or self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._kept.append(connection)
            if self._is_closed:
                self.close()
        finally:
            self._free.release()

    def _take_kept(self) -> C | None:
        while self._kept:
            try:
                connection = self._kept.pop()
            except IndexError:  # another thread was quicker
                break
            if self._is_usable(connection):
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close all connections, those in use when they come back."""
        self._is_closed = True
        while self._kept:
            try:
                self._kept.pop().close()
            except IndexError:
                break
