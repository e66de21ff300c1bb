"""Compiled loops over a hash table of ids: open addressing, one probe after the other.

A slot is 0 where empty; else its low `log` bits are the number of a row and the others a piece of
the id's hash, so that the id itself, which lies with the row, is read once, as good as always. A
removed id leaves no mark: what stands behind it moves up. Shapes: N ids, 2 ^ log slots (uint32).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ensue.nn.hashing import mix
from ensue.nn.slabs import AHEAD, prefetch, slab_of

_compile: Any = numba.njit(cache=True, nogil=True)
# Places in what `insert` counts.
NEXT, NUM_FREE, NUM_LIVE, NUM_NEW = range(4)


@_compile
def _home(key, log):  # type: ignore[no-untyped-def]
    """Return where a search for the id begins, and the piece of its hash, in its place."""
    hashed = mix(np.uint64(key))
    tag = np.int64(hashed & np.uint64(0xFFFFFFFF)) & ~((1 << log) - 1)
    return np.int64(hashed >> np.uint64(64 - log)), tag


@_compile
def _id_of(pointers, bits, row, like):  # type: ignore[no-untyped-def]
    return slab_of(pointers, bits, 1, row, like)[row & ((1 << bits) - 1), 0]


@_compile
def _seek(key, slots, log, pointers, bits, like):  # type: ignore[no-untyped-def]
    """Return the place of the id, or the empty one where it would be; and its tag."""
    place, tag = _home(key, log)
    low = (1 << log) - 1
    while slots[place] != 0:
        slot = np.int64(slots[place])
        if slot & ~low == tag and _id_of(pointers, bits, slot & low, like) == key:
            break
        place = (place + 1) & low
    return place, tag


@_compile
def _look_ahead(ids, n, slots, log, pointers, bits):  # type: ignore[no-untyped-def]
    """Have the slots of an id on their way to the cache, and of an earlier one what they name."""
    if n + 2 * AHEAD < len(ids):
        home, _ = _home(ids[n + 2 * AHEAD], log)
        prefetch(slots.ctypes.data + 4 * home)
    if n + AHEAD < len(ids):
        place, tag = _home(ids[n + AHEAD], log)
        low = (1 << log) - 1
        slot = np.int64(slots[place])
        while slot != 0 and slot & ~low != tag:
            place = (place + 1) & low
            slot = np.int64(slots[place])
        row = slot & low
        prefetch(pointers[row >> bits] + 8 * (row & ((1 << bits) - 1)))


@_compile
def find(ids, slots, log, pointers, bits, rows):  # type: ignore[no-untyped-def]
    """Fill rows [N]: 0 of an id without one, and of id 0."""
    low = (1 << log) - 1
    for n in range(len(ids)):
        _look_ahead(ids, n, slots, log, pointers, bits)
        rows[n] = 0
        if ids[n] != 0:
            place, _ = _seek(ids[n], slots, log, pointers, bits, ids)
            rows[n] = np.int64(slots[place]) & low


@_compile
def insert(  # type: ignore[no-untyped-def]
    ids, first, slots, log, pointers, bits, free, counts, limits, rows, new
):
    """Fill rows[first:], giving an id without a row the last free one, or the next.

    Returns where it stopped: at N, or where a row is needed and counts [NEXT, NUM_FREE, NUM_LIVE,
    NUM_NEW] reach limits [rows in the slabs, ids in the slots]. new: the places of ids with new
    rows.
    """
    low, last = (1 << log) - 1, (1 << bits) - 1
    for n in range(first, len(ids)):
        _look_ahead(ids, n, slots, log, pointers, bits)
        rows[n] = 0
        if ids[n] == 0:
            continue
        place, tag = _seek(ids[n], slots, log, pointers, bits, ids)
        row = np.int64(slots[place]) & low
        if row == 0:
            if counts[NUM_LIVE] >= limits[1]:
                return n
            if counts[NUM_FREE] > 0:
                counts[NUM_FREE] -= 1
                row = free[counts[NUM_FREE]]
            elif counts[NEXT] < limits[0]:
                row = counts[NEXT]
                counts[NEXT] += 1
            else:
                return n
            slots[place] = np.uint32(tag | row)
            slab_of(pointers, bits, 1, row, ids)[row & last, 0] = ids[n]
            new[counts[NUM_NEW]] = n
            counts[NUM_NEW] += 1
            counts[NUM_LIVE] += 1
        rows[n] = row
    return len(ids)


@_compile
def rebuild(num_rows, slots, log, pointers, bits, like):  # type: ignore[no-untyped-def]
    """Fill empty slots with rows 1 .. num_rows - 1, without those of id 0; like: any int64."""
    low = (1 << log) - 1
    for row in range(1, num_rows):
        if row + AHEAD < num_rows:
            home, _ = _home(_id_of(pointers, bits, row + AHEAD, like), log)
            prefetch(slots.ctypes.data + 4 * home)
        key = _id_of(pointers, bits, row, like)
        if key != 0:
            place, tag = _home(key, log)
            while slots[place] != 0:
                place = (place + 1) & low
            slots[place] = np.uint32(tag | row)


@_compile
def remove(rows, slots, log, pointers, bits):  # type: ignore[no-untyped-def]
    """Empty the slots of distinct rows [N] that have ids, and set these to 0."""
    low, last = (1 << log) - 1, (1 << bits) - 1
    for n in range(len(rows)):
        hole, _ = _seek(_id_of(pointers, bits, rows[n], rows), slots, log, pointers, bits, rows)
        place = (hole + 1) & low
        while slots[place] != 0:
            other = _id_of(pointers, bits, np.int64(slots[place]) & low, rows)
            home, _ = _home(other, log)
            if (place - home) & low >= (place - hole) & low:  # it may stand in the hole
                slots[hole] = slots[place]
                hole = place
            place = (place + 1) & low
        slots[hole] = 0
        slab_of(pointers, bits, 1, rows[n], rows)[rows[n] & last, 0] = 0
