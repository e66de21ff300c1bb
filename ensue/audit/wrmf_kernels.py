"""Sums over the clicks of a batch of users, compiled: each vector is read once and nothing kept.

The squared error r^2 of all items is a matter of products [D, D]; what is left for each click is
weight (1 - r)^2 - r^2, with the score r = user . item, and its derivatives
-2 (weight (1 - r) + r) and 2 (weight - 1) by r.
Clicks come in two parts, of the items below a column and of the others, for a thread each: it owns
all that it adds to, and results do not depend on the number of threads.
Shapes: B users of the batch, N users, I items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ensue.audit.clicks import Clicks

# Sums may be reordered to use the vector units; NaN and infinity keep their meaning.
_compile: Any = numba.njit(
    cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy"
)


class Halves(NamedTuple):
    """Clicks whose rows are cut in two: user n has columns[starts[p][n]:ends[p][n]] in part p.

    starts, ends: [2][N] int64.
    """

    starts: tuple[NDArray[np.int64], NDArray[np.int64]]
    ends: tuple[NDArray[np.int64], NDArray[np.int64]]
    columns: NDArray[np.int32]

    @classmethod
    def of(cls, clicks: Clicks) -> Halves:
        """Cut the rows at one column, so that both parts have about as many clicks."""
        columns, first, last = clicks.columns, clicks.offsets[:-1], clicks.offsets[1:]
        middle = np.median(columns) if len(columns) else 0
        before = np.concatenate([[0], np.cumsum(columns < middle)])
        cut = first + before[last] - before[first]
        return cls((first, cut), (cut, last), columns)


def in_halves(
    kernel: Any, rows: NDArray[np.int64], clicks: Halves, tables: Sequence[Any], to_batch: Any
) -> list[Any]:
    """Return what a kernel below returns for each part of the clicks of users `rows` [B].

    Args:
        to_batch: [B, D], added to.
    """
    other = np.zeros_like(to_batch)
    parts = [
        (rows, clicks.starts[part], clicks.ends[part], clicks.columns, *tables, own)
        for part, own in enumerate((to_batch, other))
    ]
    if torch.get_num_threads() > 1:
        found = list(_threads().map(lambda part: kernel(*part), parts))
    else:
        found = [kernel(*part) for part in parts]
    to_batch += other
    return found


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="clicks")


@_compile
def add_gradient(  # type: ignore[no-untyped-def]
    rows, starts, ends, columns, weight, users, items, to_items, to_batch
):
    """Return the sum over clicks of users `rows` [B], and add its gradient to the last two."""
    one, two = users.dtype.type(1), users.dtype.type(2)
    loss = 0.0
    for b in range(len(rows)):
        row = rows[b]
        user, to_user = users[row], to_batch[b]
        for place in range(starts[row], ends[row]):
            item, to_item = items[columns[place]], to_items[columns[place]]
            score = users.dtype.type(0)
            for d in range(len(user)):
                score += user[d] * item[d]
            loss += weight * (one - score) * (one - score) - score * score
            slope = -two * (weight * (one - score) + score)
            for d in range(len(user)):
                to_user[d] += slope * item[d]
            for d in range(len(user)):
                to_item[d] += slope * user[d]
    return loss


@_compile
def add_hessian_product(  # type: ignore[no-untyped-def]
    rows,
    starts,
    ends,
    columns,
    weight,
    users,
    items,
    user_directions,
    item_directions,
    to_items,
    to_batch,
):
    """Add the Hessian of the sum over clicks, times the directions, to the last two."""
    one, two = users.dtype.type(1), users.dtype.type(2)
    curve = two * (weight - one)
    for b in range(len(rows)):
        row = rows[b]
        user, user_direction, to_user = users[row], user_directions[row], to_batch[b]
        for place in range(starts[row], ends[row]):
            column = columns[place]
            item, item_direction, to_item = items[column], item_directions[column], to_items[column]
            score = change = users.dtype.type(0)
            for d in range(len(user)):
                score += user[d] * item[d]
                change += user_direction[d] * item[d] + user[d] * item_direction[d]
            slope = -two * (weight * (one - score) + score)
            change *= curve
            # One output a loop: more could not be told apart from the inputs, and not vectorized.
            for d in range(len(user)):
                to_user[d] += change * item[d] + slope * item_direction[d]
            for d in range(len(user)):
                to_item[d] += change * user[d] + slope * user_direction[d]
