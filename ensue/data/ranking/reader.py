"""Batches of a ranking dataset in the order of time, shuffled within a window that moves on.

A model of a log should see the past before the future, and neighbours in time should not make up a
batch of their own: rows are shuffled within windows of consecutive rows. Each window is read from
disk in one piece of each file, and its order depends on (seed, epoch, number of the window) alone:
a reader that begins at batch b gives what one that went through the batches before it gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.dataset import RankingDataset, RankingPart
from ensue.errors import UsageError

_READ_ROWS = 1 << 16


class RankingReader:
    """The batches of one part.

    batch_size: rows of every batch but the last, which has the rest.
    window: rows that are shuffled together, a whole number of batches.
    """

    def __init__(
        self,
        dataset: RankingDataset,
        part: RankingPart = "train",
        *,
        batch_size: int,
        window: int | None = None,
        seed: int = 0,
        as_ids: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Make a reader.

        Args:
            window: rows to shuffle within, rounded up to whole batches; 1 keeps the order of time,
                None shuffles the whole part. A window's rows are in memory at a time, but those
                of None, which are read one by one.
            as_ids: give the 64-bit ids of values in place of their codes.
            share: (rank, N), to read of each batch the rows of one of N processes: an equal number
                of rows for each, in their order, and what is left for the last ones.

        Raises:
            UsageError: a size is less than 1.
        """
        for name, size in (("batch_size", batch_size), ("window", window)):
            if size is not None and size < 1:
                raise UsageError(f"{name} is 1 or more; got {size}.")
        self.dataset, self.part = dataset, part
        self.batch_size, self.seed, self.as_ids = batch_size, seed, as_ids
        self._rank, self._num_shares = share
        self._first, end = dataset.bounds(part)
        self.num_rows = end - self._first
        self._is_shuffled = window != 1
        self._is_whole = window is None
        wanted = {None: max(self.num_rows, 1), 1: max(_READ_ROWS, batch_size)}.get(window, window)
        assert wanted is not None
        self.window = -(-wanted // batch_size) * batch_size

    def batch_rows(self, number: int) -> int:
        """Return how many rows a batch has, those of all processes together."""
        return min(self.batch_size, self.num_rows - number * self.batch_size)

    @property
    def num_batches(self) -> int:
        """Number of batches of an epoch."""
        return -(-self.num_rows // self.batch_size)

    def epoch(self, number: int, first: int = 0) -> Iterator[RankingBatch]:
        """Yield the batches first, first + 1, ... of an epoch."""
        for _, batch in self.numbered_epoch(number, first):
            yield batch

    def numbered_epoch(
        self, number: int, first: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], RankingBatch]]:
        """Yield the rows of the dataset [B] beside each batch.

        Raises:
            UsageError: the epoch has no batch `first`.
        """
        if not 0 <= first <= self.num_batches:
            raise UsageError(
                f"an epoch of {self.num_batches} batches has no batch {first} to begin with."
            )
        place = first * self.batch_size
        while place < self.num_rows:
            window = place // self.window
            start = window * self.window
            end = min(start + self.window, self.num_rows)
            order = self._order(number, window, end - start)
            stored, base = self.dataset.stored, self._first + start
            if not self._is_whole:
                stored, base = stored.read(base, self._first + end), 0
            for offset in range(place - start, end - start, self.batch_size):
                rows = order[offset : offset + self.batch_size]
                own = -(-len(rows) // self._num_shares)
                rows = rows[self._rank * own : (self._rank + 1) * own]
                batch = stored.batch(base + rows, as_ids=self.as_ids)
                yield self._first + start + rows, batch
            place = end

    def _order(self, epoch: int, window: int, num_rows: int) -> NDArray[np.int64]:
        """Return the order of the rows of a window [n]."""
        if not self._is_shuffled:
            return np.arange(num_rows)
        generator = np.random.default_rng([self.seed, epoch, window])
        order: NDArray[np.int64] = generator.permutation(num_rows)
        return order
