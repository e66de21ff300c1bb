"""Sorting more pairs of integers than fit in memory.

Sorters share one limit. What they take stays in memory until it fills a quarter of the limit; then
the sorter with the most spills all it holds, sorted, to a file: a run. In the end the runs are
merged a block at a time (Knuth, The Art of Computer Programming 3, section 5.4): of all the blocks
in memory, what does not exceed the smallest of the last rows of blocks with more to come is final.
Equal rows are the same integers, so the result does not depend on the limit or on how rows came.

Shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numba import njit

from ensue.evaluation.ranking.records import Words
from ensue.nn.selection import sort_

Pair = tuple[Words, Words]

ROW_BYTES = 16
ADD_BYTES = 320  # of memory for two arrays, however short
MERGE_BYTES = 128  # of memory for each row in a block: read, joined, sorted, unpacked
MAX_RUNS = 128  # merged at once, so that blocks do not get too small to be read fast
MIN_BLOCK = 64  # rows of one run
MAX_BLOCK = 1 << 18  # rows of all runs: more would leave the cache and gain nothing


class SortPool:
    """Sorters that share a limit on memory and a folder for what exceeds it."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._sorters: list[Sorter] = []
        self._held_bytes = 0

    def sorter(self) -> Sorter:
        """Return a new sorter of this pool."""
        self._sorters.append(Sorter(self))
        return self._sorters[-1]

    def changed(self, num_bytes: int) -> None:
        """Take note that a sorter holds so much more (or less); make one spill at the limit."""
        self._held_bytes += num_bytes
        if self._held_bytes > self.memory_bytes // 4:
            max(self._sorters, key=lambda sorter: sorter.held_bytes).spill()


class Sorter:
    """Takes pairs of integers in any order, gives them back in ascending order."""

    def __init__(self, pool: SortPool) -> None:
        self._pool = pool
        self._held: list[Pair] = []
        self._runs: list[_File] = []
        self.held_bytes = 0

    def add(self, high: Words, low: Words) -> None:
        """Take rows: arrays [n], which are kept."""
        if len(high):
            self._held.append((high, low))
            num_bytes = ROW_BYTES * len(high) + ADD_BYTES
            self.held_bytes += num_bytes
            self._pool.changed(num_bytes)

    def spill(self) -> None:
        """Move what is held in memory to a sorted file."""
        pair = self._take_held()
        self._runs.append(_File(self._pool.folder))
        self._runs[-1].write(*pair)

    def blocks(self) -> Iterator[Pair]:
        """Yield all rows, sorted, a block at a time, and forget them."""
        rows = min(self._pool.memory_bytes // (2 * MERGE_BYTES), MAX_BLOCK)
        while len(self._runs) > MAX_RUNS:
            merged = _File(self._pool.folder)
            for pair in merge(self._runs[:MAX_RUNS], rows):
                merged.write(*pair)
            self._runs = [*self._runs[MAX_RUNS:], merged]
        runs: list[_Run] = [*self._runs]
        if self._held:
            runs.append(_Held(*self._take_held()))
        self._runs = []
        yield from merge(runs, rows)

    def _take_held(self) -> Pair:
        """Return what is held, sorted, and hold nothing."""
        high = np.concatenate([pair[0] for pair in self._held])
        low = np.concatenate([pair[1] for pair in self._held])
        self._held = []
        num_bytes, self.held_bytes = self.held_bytes, 0
        self._pool.changed(-num_bytes)
        return sort_pairs(high, low)


def sort_pairs(high: Words, low: Words) -> Pair:
    """Return the rows [n] in ascending order of (high, low).

    >>> sort_pairs(np.array([2, 1, 2], np.uint64), np.array([0, 5, 7], np.uint64))[1].tolist()
    [5, 0, 7]
    """
    order = np.argsort(high)
    high, low = high[order], low[order]
    _sort_ties(high, low)
    return high, low


@njit(cache=True, nogil=True)
def _sort_ties(high: Any, low: Any) -> None:
    """Sort low [n] in place within the rows of equal high [n]."""
    first = 0
    for row in range(1, len(high) + 1):
        if row == len(high) or high[row] != high[first]:
            if row - first > 1:
                sort_(low[first:row])
            first = row


class _Run(Protocol):
    """Sorted rows that are read once, from the first on."""

    def read(self, num_rows: int) -> Pair:
        """Return the next rows; fewer at the end, none after it."""
        ...


class _Held:
    """A run in memory."""

    def __init__(self, high: Words, low: Words) -> None:
        self._high, self._low = high, low
        self._next = 0

    def read(self, num_rows: int) -> Pair:
        rows = slice(self._next, self._next + num_rows)
        self._next += num_rows
        return self._high[rows], self._low[rows]


class _File:
    """A run in a file, which is removed once it is read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid4().hex}.run"
        self._num_rows = 0
        self._next = 0

    def write(self, high: Words, low: Words) -> None:
        """Append rows; in pieces, so that little memory is needed to interleave them."""
        with self._path.open("ab") as file:
            for first in range(0, len(high), 1 << 16):
                rows = slice(first, first + (1 << 16))
                np.column_stack([high[rows], low[rows]]).tofile(file)
        self._num_rows += len(high)

    def read(self, num_rows: int) -> Pair:
        num_rows = min(num_rows, self._num_rows - self._next)
        if num_rows == 0:
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        offset = ROW_BYTES * self._next
        rows = np.fromfile(self._path, np.uint64, 2 * num_rows, offset=offset).reshape(-1, 2)
        self._next += num_rows
        if self._next == self._num_rows:
            self._path.unlink()
        return rows[:, 0].copy(), rows[:, 1].copy()


@dataclass
class _Front:
    """The rows of a run that are in memory, and whether there may be more in the run."""

    run: _Run
    high: Words
    low: Words
    has_more: bool

    def fill(self, size: int) -> None:
        """Read on, up to `size` rows in memory, where fewer than half of that are left.

        Waiting for a front to run empty would leave the fronts at all stages of their blocks, and
        each step would settle few rows.
        """
        left = len(self.high)
        if self.has_more and left <= size // 2:
            high, low = self.run.read(size - left)
            self.has_more = len(high) == size - left
            if left:
                high, low = np.concatenate([self.high, high]), np.concatenate([self.low, low])
            self.high, self.low = high, low

    def count(self, bound: tuple[int, int]) -> int:
        """Return the number of rows up to `bound`, included."""
        high, low = (np.uint64(word) for word in bound)
        first = int(np.searchsorted(self.high, high, "left"))
        last = int(np.searchsorted(self.high, high, "right"))
        return first + int(np.searchsorted(self.low[first:last], low, "right"))

    def take(self, num_rows: int) -> Pair:
        """Return and forget the first rows."""
        taken = self.high[:num_rows], self.low[:num_rows]
        self.high, self.low = self.high[num_rows:], self.low[num_rows:]
        return taken


def merge(runs: Sequence[_Run], num_rows: int) -> Iterator[Pair]:
    """Yield the rows of sorted runs in ascending order, with about `num_rows` in memory."""
    size = max(num_rows // max(len(runs), 1), MIN_BLOCK)
    fronts = [_Front(run, *run.read(0), has_more=True) for run in runs]
    while True:
        for front in fronts:
            front.fill(size)
        fronts = [front for front in fronts if len(front.high)]
        if not fronts:
            return
        lasts = [(int(f.high[-1]), int(f.low[-1])) for f in fronts if f.has_more]
        bound = min(lasts) if lasts else None
        counts = [len(f.high) if bound is None else f.count(bound) for f in fronts]
        taken = [front.take(n) for front, n in zip(fronts, counts, strict=True) if n]
        if len(taken) == 1:
            yield taken[0]
        else:
            yield sort_pairs(*(np.concatenate(words) for words in zip(*taken, strict=True)))
