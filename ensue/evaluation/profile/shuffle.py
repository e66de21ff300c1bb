"""The control of every measure of order: the same histories, each in a random order."""

from __future__ import annotations

import numpy as np

from ensue.data.histories import COUNT_ROWS, Histories


def shuffle_histories(histories: Histories, rng: np.random.Generator) -> Histories:
    """Return the histories, each randomly permuted; a copy of the items."""
    items = np.empty(int(histories.lengths.sum()), dtype=np.int32)
    ends = np.cumsum(histories.lengths)
    place = 0
    for users in histories.user_blocks(COUNT_ROWS):
        rows, offsets = histories.rows(users)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        order = np.lexsort((rng.random(len(rows)), owners))
        items[place : place + len(rows)] = histories.items[rows[order]]
        place += len(rows)
    return Histories(items, ends - histories.lengths, ends)
