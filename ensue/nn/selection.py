"""Sorting, and the largest of some numbers, for compiled code.

What numba has for this takes seconds to compile, as does assigning a slice: hence the loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_STRETCH = 16  # sorted by insertion


@njit(cache=True, nogil=True)
def sort_(values: Any) -> None:
    """Sort values [m] without NaN in place, ascending; quick where they nearly are.

    Sorts short stretches by insertion and merges them two by two.

    >>> values = np.array([3, 1, 2])
    >>> sort_(values)
    >>> values.tolist()
    [1, 2, 3]
    """
    size, width = len(values), _STRETCH
    for start in range(0, size, width):
        for place in range(start + 1, min(start + width, size)):
            value, free = values[place], place
            while free > start and values[free - 1] > value:
                values[free] = values[free - 1]
                free -= 1
            values[free] = value
    left_half = np.empty(size if size > width else 0, values.dtype)
    while width < size:
        for start in range(0, size - width, 2 * width):
            middle, end = start + width, min(start + 2 * width, size)
            if values[middle - 1] <= values[middle]:
                continue
            for n in range(width):
                left_half[n] = values[start + n]
            left, right, place = 0, middle, start
            while left < width:
                if right < end and values[right] < left_half[left]:
                    values[place] = values[right]
                    right += 1
                else:
                    values[place] = left_half[left]
                    left += 1
                place += 1
        width *= 2


@njit(cache=True, nogil=True)
def nth_largest(values: Any, n: int) -> Any:
    """Return the n-th largest of values [m], 1 <= n <= m, without NaN.

    Reorders them: the first n are the n largest, in any order. Quickselect with the median of three
    as the pivot.

    >>> float(nth_largest(np.array([3.0, 1.0, 2.0, 3.0]), 2))
    3.0
    """
    low, high, place = 0, len(values) - 1, n - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        left, right = low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            break
    return values[place]


@njit(cache=True, nogil=True)
def largest_places(values: Any, count: int) -> Any:
    """Return the places of the `count` largest values, ascending; the first ones of equal values.

    All places where there are fewer values.

    >>> largest_places(np.array([3.0, 1.0, 2.0, 2.0]), 2).tolist()
    [0, 2]
    """
    if len(values) <= count:
        return np.arange(len(values))
    threshold = nth_largest(values.copy(), count)
    num_tied = count
    for value in values:
        num_tied -= value > threshold
    places, n = np.empty(count, np.int64), 0
    for place in range(len(values)):
        is_tied = values[place] == threshold and num_tied > 0
        if is_tied or values[place] > threshold:
            places[n] = place
            n += 1
        if is_tied:
            num_tied -= 1
    return places


@njit(cache=True, nogil=True)
def keep_best(found: Any, values: Any, ids: Any, scores: Any) -> None:
    """Write the ids found [m] with the largest values [m] to ids and scores [k], in any order.

    The smallest ids of equal values; what is left of [k] keeps what was in it.

    >>> ids, scores = np.zeros(2, np.int64), np.zeros(2)
    >>> keep_best(np.array([9, 5, 7]), np.array([1.0, 1.0, 2.0]), ids, scores)
    >>> sorted(ids.tolist())
    [5, 7]
    """
    k = len(ids)
    if len(found) <= k:
        for place in range(len(found)):
            ids[place], scores[place] = found[place], values[place]
        return
    threshold = nth_largest(values.copy(), k)
    n, tied, num_tied = 0, np.empty(len(found), np.int64), 0
    for place in range(len(found)):
        if values[place] > threshold:
            ids[n], scores[n] = found[place], values[place]
            n += 1
        elif values[place] == threshold:
            tied[num_tied] = -found[place]
            num_tied += 1
    last = -nth_largest(tied[:num_tied].copy(), k - n)
    for place in range(num_tied):
        if -tied[place] <= last:
            ids[n], scores[n] = -tied[place], threshold
            n += 1


@njit(cache=True, nogil=True)
def best_of_row(scores: Any, is_hidden: Any, excluded: Any, ids: Any, values: Any) -> int:
    """Write columns and values of the largest scores [N] to ids and values [k]; return how many.

    Best first, ties by ascending column. What is hidden [N], excluded [m] or -inf is left out; a
    column excluded has -inf after that. Returns -1 if a score in the first place is not finite.

    >>> scores, hidden = np.array([0.0, 1.0, 3.0, 3.0]), np.array([True, False, False, False])
    >>> ids, values = np.zeros(2, np.int64), np.zeros(2)
    >>> best_of_row(scores, hidden, np.array([2]), ids, values), ids.tolist()
    (2, [3, 1])
    """
    k, count = len(ids), 0
    for score in scores:
        if not np.isfinite(score):
            return -1
    for column in excluded:
        scores[column] = -np.inf
    for column in range(len(scores)):
        score = scores[column]
        is_worse = count == k and score <= values[k - 1]
        if is_worse or score == -np.inf or is_hidden[column]:
            continue
        place = min(count, k - 1)
        while place > 0 and values[place - 1] < score:
            ids[place], values[place] = ids[place - 1], values[place - 1]
            place -= 1
        ids[place], values[place] = column, score
        count = min(count + 1, k)
    return count
