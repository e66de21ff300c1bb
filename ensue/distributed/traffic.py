"""Bytes that a worker sends, by purpose: the formulas, and a counter of them.

A ring of N workers passes on (N - 1) / N of what it sums or gathers in one round (Patarasuk and
Yuan, JPDC 2009); no algorithm sends less. What a library adds (headers, another algorithm for tiny
messages) is not in the formulas: the counters of a network interface show it.
"""

from __future__ import annotations

import threading
from typing import Literal, get_args

Purpose = Literal["ids", "forward", "backward", "dense", "other"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def reduce_scatter_bytes(num_bytes: int, num_workers: int) -> int:
    """Return what a worker sends of the `num_bytes` that it gives: the parts of all others.

    >>> reduce_scatter_bytes(1024 * 9 * 4, num_workers=4)
    27648
    """
    return num_bytes // num_workers * (num_workers - 1)


def all_gather_bytes(num_bytes: int, num_workers: int) -> int:
    """Return what a worker sends when each of them gives `num_bytes`.

    >>> all_gather_bytes(256 * 9 * 4, num_workers=4)
    27648
    """
    return num_bytes * (num_workers - 1)


def all_reduce_bytes(num_elements: int, element_bytes: int, num_workers: int) -> int:
    """Return what a worker sends: a reduce-scatter and an all-gather, 2 (N - 1) / N of all bytes.

    Elements that N does not divide are counted as if padded until it does: as much for every
    worker, and no fraction of a byte.

    >>> all_reduce_bytes(1024 * 9, 4, num_workers=4)
    55296
    >>> all_reduce_bytes(1, 8, num_workers=3)
    32
    """
    return 2 * (num_workers - 1) * -(-num_elements // num_workers) * element_bytes


class Traffic:
    """Counter of the bytes sent and of the collectives called, for each purpose.

    Several threads may add to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: dict[Purpose, int] = dict.fromkeys(PURPOSES, 0)
        self.calls: dict[Purpose, int] = dict.fromkeys(PURPOSES, 0)

    @property
    def total(self) -> int:
        """Bytes sent for all purposes."""
        return sum(self.sent.values())

    def add(self, purpose: Purpose, num_bytes: int) -> None:
        """Count one collective that made this worker send `num_bytes`."""
        with self._lock:
            self.sent[purpose] += num_bytes
            self.calls[purpose] += 1

    def take(self) -> dict[Purpose, int]:
        """Return the bytes sent for each purpose since the last call, and count from zero again."""
        with self._lock:
            sent, self.sent = self.sent, dict.fromkeys(PURPOSES, 0)
            self.calls = dict.fromkeys(PURPOSES, 0)
        return sent
