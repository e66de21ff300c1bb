"""Sums over the clicks of a batch of users, compiled: each vector is read once and nothing kept.

The squared error r^2 of all items is a matter of products [D, D]; what is left for each click is
weight (1 - r)^2 - r^2, with the score r = user . item, and its derivatives
-2 (weight (1 - r) + r) and 2 (weight - 1) by r.
The order of the sums is fixed: a thread owns all that it adds to.
Shapes: B users of the batch, N users, I items, D width.
"""

from __future__ import annotations

from typing import Any

import numba

# Sums may be reordered to use the vector units; NaN and infinity keep their meaning.
_compile: Any = numba.njit(
    cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy"
)


@_compile
def add_gradient(  # type: ignore[no-untyped-def]
    rows, offsets, columns, weight, users, items, to_users, to_items
):
    """Return the sum over the clicks of users `rows` [B], and add its gradient to the last two."""
    one, two = users.dtype.type(1), users.dtype.type(2)
    loss = 0.0
    for row in rows:
        user, to_user = users[row], to_users[row]
        for place in range(offsets[row], offsets[row + 1]):
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
    offsets,
    columns,
    weight,
    users,
    items,
    user_directions,
    item_directions,
    to_users,
    to_items,
):
    """Add the Hessian of the sum over the clicks, times the directions, to the last two."""
    one, two = users.dtype.type(1), users.dtype.type(2)
    curve = two * (weight - one)
    for row in rows:
        user, user_direction, to_user = users[row], user_directions[row], to_users[row]
        for place in range(offsets[row], offsets[row + 1]):
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
