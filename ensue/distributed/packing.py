"""Whole numbers in as few bits as they need, for the way between workers.

A code of a column with 20,000 values takes 15 bits in place of 64. Columns lie one after the other,
each with bits of its own. Shapes: C columns, S numbers of all of them, b rows.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_compile: Any = numba.njit(cache=True, nogil=True)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


def pack(numbers: Ints, counts: Ints, bits: Ints) -> Bytes:
    """Return numbers [S] in bits[c] bits each, counts[c] of them of column c.

    >>> pack(np.array([1, 0, 1, 5]), np.array([3, 1]), np.array([1, 3])).tolist()
    [45]

    Args:
        numbers: 0 <= number < 2 ^ bits[c]; with 64 bits any.
    """
    words = np.zeros(_num_bytes(counts, bits) // 8 + 1, np.uint64)
    _pack(numbers, counts, bits, words)
    return words.view(np.uint8)[: _num_bytes(counts, bits)]


def unpack(packed: Bytes, counts: Ints, bits: Ints) -> tuple[Ints, Bytes]:
    """Return the numbers that `pack` made bytes of, and the bytes behind these.

    Raises:
        ValueError: there are not as many bytes as the counts need.
    """
    size = _num_bytes(counts, bits)
    if len(packed) < size:
        raise ValueError(f"unpack needs {size} bytes for these counts; got {len(packed)}")
    words = np.zeros(size // 8 + 1, np.uint64)
    words.view(np.uint8)[:size] = packed[:size]
    numbers = np.empty(int(counts.sum()), np.int64)
    _unpack(words, counts, bits, numbers)
    return numbers, packed[size:]


def bits_of(largest: int) -> int:
    """Return how many bits numbers from 0 to `largest` take."""
    return int(largest).bit_length()


def _num_bytes(counts: Ints, bits: Ints) -> int:
    return -(-int((counts * bits).sum()) // 8)


@_compile
def _pack(numbers, counts, bits, words):  # type: ignore[no-untyped-def]
    place, s = 0, 0
    for c in range(len(counts)):
        width = bits[c]
        for _ in range(counts[c]):
            word, shift = place >> 6, np.uint64(place & 63)
            number = np.uint64(numbers[s])
            words[word] |= number << shift
            if (place & 63) + width > 64:
                words[word + 1] |= number >> (np.uint64(64) - shift)
            place += width
            s += 1


@_compile
def _unpack(words, counts, bits, numbers):  # type: ignore[no-untyped-def]
    place, s = 0, 0
    for c in range(len(counts)):
        width = bits[c]
        mask = ~np.uint64(0) >> np.uint64(64 - width) if width > 0 else np.uint64(0)
        for _ in range(counts[c]):
            word, shift = place >> 6, np.uint64(place & 63)
            number = words[word] >> shift
            if (place & 63) + width > 64:
                number |= words[word + 1] << (np.uint64(64) - shift)
            numbers[s] = np.int64(number & mask)
            place += width
            s += 1
