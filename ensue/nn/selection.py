"""The largest of some numbers, for compiled code: numba's own sorting takes long to compile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


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
