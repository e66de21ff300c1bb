"""The largest scores of many rows, kept while the columns pass by in blocks.

A row has room for somewhat more than k scores. One enters when it is above the k-th largest that
the row had when it last was full; a full row gives up all but its best k. Few scores ever enter:
of I in random order about k (1 + log(I / k)), so what counts is the comparison, made for 32 scores
at a time as one bit mask.

A score and its id are kept as one number, the larger the better: the bits of the score, in an order
that is that of the scores, above those of the id, inverted, so that of equal scores the one with
the smaller id is better.
Shapes: B rows, N columns of a block, C room of a row, k answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numpy.typing import NDArray

from ensue.nn.selection import nth_largest, sort_

_intrinsic: Any = extending.intrinsic  # its type hides that numba passes the first argument

LANES = 32  # scores compared at a time, one bit each
MIN_SPARE, MAX_SPARE = 64, 4096  # room beyond k
_ID_BITS = np.uint64(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)


def room(k: int, num_columns: int) -> int:
    """Return C: the larger, the less often a row is sorted out, and the more memory it takes."""
    return max(1, min(num_columns, k + min(max(MIN_SPARE, 2 * k), MAX_SPARE)))


class Selection:
    """The best k of each of B rows so far; columns must come in ascending order of their ids."""

    def __init__(self, num_rows: int, k: int, num_columns: int) -> None:
        self.k = min(k, num_columns)
        self._keys = np.empty((num_rows, room(self.k, num_columns)), dtype=np.uint64)
        self._counts = np.zeros(num_rows, dtype=np.int64)
        self._thresholds = np.full(num_rows, -np.inf, dtype=np.float32)

    def add(self, block: NDArray[np.float32], first: int) -> None:
        """Take note of the scores [B, N] of ids first, first + 1, ...; NaN is never taken."""
        _add(block.reshape(-1), first, self._thresholds, self._counts, self._keys, self.k)

    def best(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids [B, k] and scores [B, k], best first, ties by ascending id; then 0 and -inf.

        Args:
            k: as many as were asked for.
        """
        ids = np.zeros((len(self._counts), k), dtype=np.int64)
        scores = np.full(ids.shape, -np.inf, dtype=np.float32)
        _finish(self._counts, self._keys, ids, scores)
        return ids, scores


@_intrinsic
def _above(typing_context, scores, start, threshold):  # type: ignore[no-untyped-def]
    """Return a mask of the flat scores[start : start + LANES] above the threshold, first bit first.

    Written in LLVM's vectors: numba makes no bit masks of comparisons.
    """
    signature = types.uint32(scores, types.intp, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        vector, bits = ir.VectorType(ir.FloatType(), LANES), ir.IntType(LANES)
        data = context.make_array(signature.args[0])(context, builder, array).data
        place = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
        block = builder.load(place)
        block.align = 4
        zero = ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, zero)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        is_above = builder.fcmp_ordered(">", block, builder.shuffle_vector(one, one, lanes))
        return builder.bitcast(is_above, bits)

    return signature, generate


@_intrinsic
def _lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Return the place of the lowest bit of a mask that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


@_intrinsic
def _bits_of(typing_context, score):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as a whole number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@_intrinsic
def _float_of(typing_context, bits):  # type: ignore[no-untyped-def]
    """Return the float32 that has these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit(cache=True, nogil=True)
def _to_key(score, item):  # type: ignore[no-untyped-def]
    """Return the number that stands for a score and an id."""
    bits = _bits_of(np.float32(score + np.float32(0)))  # -0 and 0 are equal scores
    bits = ~bits if bits & _SIGN else bits | _SIGN
    return (np.uint64(bits) << np.uint64(32)) | (_ID_BITS - np.uint64(item))


@njit(cache=True, nogil=True)
def _to_score(key):  # type: ignore[no-untyped-def]
    """Return the score of a key."""
    bits = np.uint32(key >> np.uint64(32))
    return _float_of(np.uint32(bits ^ _SIGN) if bits & _SIGN else ~bits)


@njit(cache=True, nogil=True)
def _add(scores, first, thresholds, counts, keys, k):  # type: ignore[no-untyped-def]
    """Add the scores [B * N] above the thresholds [B] to the rows of keys [B, C]."""
    num_columns = len(scores) // max(len(counts), 1)
    num_whole = num_columns - num_columns % LANES
    for b in range(len(counts)):
        begin = b * num_columns
        threshold, count = thresholds[b], counts[b]
        for start in range(0, num_columns, LANES):
            if start < num_whole:
                mask = _above(scores, begin + start, threshold)
            else:
                mask = np.uint32(0)
                for column in range(start, num_columns):
                    is_above = np.uint32(scores[begin + column] > threshold)
                    mask |= is_above << np.uint32(column - start)
            while mask != 0:
                column = start + np.int64(_lowest_bit(mask))
                mask &= mask - np.uint32(1)
                score = scores[begin + column]
                if score > threshold:  # which may have risen since the mask was made
                    keys[b, count] = _to_key(score, first + column)
                    count += 1
                    if count == keys.shape[1]:
                        threshold = _keep_best(keys[b], k)
                        count = k
        thresholds[b], counts[b] = threshold, count


@njit(cache=True, nogil=True)
def _keep_best(keys, k):  # type: ignore[no-untyped-def]
    """Move the best k of some keys to the front, in any order; return the smallest of their scores.

    Ids ascend with time, so what comes later with just that score is not among the best k.
    """
    return _to_score(nth_largest(keys, k))


@njit(cache=True, nogil=True)
def _finish(counts, keys, ids, scores):  # type: ignore[no-untyped-def]
    """Fill the first places of ids and scores [B, k] with the best of every row."""
    for b in range(len(counts)):
        own = keys[b, : counts[b]].copy()
        sort_(own)
        for place in range(min(len(own), ids.shape[1])):
            key = own[len(own) - 1 - place]
            ids[b, place] = np.int64(_ID_BITS - (key & _ID_BITS))
            scores[b, place] = _to_score(key)
