"""Compiled loops that find where items rank among drawn ones, as those of `cpu_kernels`.

Shapes: B queries, D width, V table rows, C items to be ranked, E drawn items, G users of the
queries, S rows of a log.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Sums may be reordered to use the vector units; NaN and infinity keep their meaning.
_compile: Any = numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, nogil=True)


@_compile
def count_above(  # type: ignore[no-untyped-def]
    scores, drawn, has, groups, queries, table, bias, ids, above, num_left
):
    """Fill above [B, C]: how many of the items drawn [E] are above each of ids [B, C].

    scores [B, E] are the products of the drawn items, changed here. What has [G, E] holds for the
    group [B] of a query is left out; num_left [B] is what remains. An id that is drawn has the
    score that it has there. A bias of no elements is none.
    """
    values = np.empty(ids.shape[1], dtype=scores.dtype)
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    place = np.full(len(table), -1, dtype=np.int32)
    for e in range(len(drawn)):
        place[drawn[e]] = e
    for b in range(len(ids)):
        row, is_out = scores[b], has[groups[b]]
        if len(bias):
            for e in range(len(row)):
                row[e] += bias[drawn[e]]
        for c in range(len(values)):
            own = place[ids[b, c]]
            logit = bias[ids[b, c]] if len(bias) else zero
            for d in range(queries.shape[1]):
                logit += queries[b, d] * table[ids[b, c], d]
            values[c] = logit if own < 0 else row[own]
        left = zero
        for e in range(len(row)):
            left += zero if is_out[e] else one
            row[e] = -np.inf if is_out[e] else row[e]
        num_left[b] = left
        for c in range(len(values)):
            value, total = values[c], zero  # floats count exactly up to 2^24, many at a time
            for e in range(len(row)):
                total += one if row[e] > value else zero
            above[b, c] = total


@_compile
def group_rows(order, rows, ends, users, owner):  # type: ignore[no-untyped-def]
    """Return how many users G the rows [S] are of; fill users [:G] and owner [S], numbers of these.

    User u has the rows before ends[u] that no user before has; `order` sorts the rows.
    """
    count = 0
    for s in order:
        row = rows[s]
        if count == 0 or row >= ends[users[count - 1]]:
            low, high = users[count - 1] + 1 if count else 0, len(ends)
            while low < high:
                middle = (low + high) // 2
                if ends[middle] <= row:
                    low = middle + 1
                else:
                    high = middle
            users[count] = low
            count += 1
        owner[s] = count - 1
    return count


@_compile
def mark_owned(offsets, items, users, place, has):  # type: ignore[no-untyped-def]
    """Set has[g, place[item]] for what user users[g] has, items[offsets[u]:offsets[u + 1]].

    Items whose place is -1 have none.
    """
    for g in range(len(users)):
        for n in range(offsets[users[g]], offsets[users[g] + 1]):
            if place[items[n]] >= 0:
                has[g, place[items[n]]] = True
