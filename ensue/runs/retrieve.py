"""The best items that may be shown, from an index that knows nothing of what may not be shown.

An index is asked for more items than are wanted, by the number of those that the answer may lose;
where too few remain it is asked again, for more. A request that an index cannot answer well is left
to the model itself: one whose query says nothing, and one that most items are hidden from.
Shapes: B queries, D width, I items, k answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensue.indexes.base import Index

WIDEST = 4096  # items asked for at a time; scoring all of them is better than to search for more
WIDEN = 4

Best = tuple[NDArray[np.int64], NDArray[np.float32]]


def retrieve(
    index: Index,
    queries: NDArray[np.float32],
    seen: Sequence[NDArray[np.int64]],
    hidden: NDArray[np.bool_],
    k: int,
) -> list[Best | None]:
    """Return ids and scores of the best k items of each query, or None where they are not known.

    Fewer than k are the answer only where no more may be shown.

    Args:
        queries: [B, D]; zeros stand for histories that are no query.
        seen: of each query, items that may not be shown.
        hidden: [I + 1], items that no query may show, item 0 among them.
    """
    num_items = index.num_items
    num_visible = num_items + 1 - int(np.count_nonzero(hidden))
    answers: list[Best | None] = [None] * len(queries)
    if num_visible == 0:
        return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    own = [items[~hidden[items]] for items in map(np.unique, seen)]
    wanted = [min(k, num_visible - len(items)) for items in own]
    pending: dict[int, list[int]] = {}  # how many items to ask for -> rows
    for row in np.flatnonzero(queries.any(axis=1)).tolist():
        width = -(-(wanted[row] + len(own[row])) * num_items // num_visible)
        pending.setdefault(_step(width, num_items), []).append(row)
    while pending:
        width = min(pending)
        rows = pending.pop(width)
        if width > WIDEST:
            continue
        ids, scores = index.search(queries[rows], width)
        for place, row in enumerate(rows):
            is_shown = ~hidden[ids[place]] & ~np.isin(ids[place], own[row])
            if is_shown.sum() >= wanted[row]:
                kept = np.flatnonzero(is_shown)[: wanted[row]]
                answers[row] = ids[place, kept], scores[place, kept]
            elif width < num_items and ids[place, -1] > 0:
                pending.setdefault(_step(WIDEN * width, num_items), []).append(row)
    return answers


def _step(width: int, num_items: int) -> int:
    """Return a width of at least this, one of few, so that queries are searched together."""
    return min(1 << max(width - 1, 0).bit_length(), num_items)
