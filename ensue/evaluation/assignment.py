"""The linear assignment problem: distinct columns for rows, so that their values sum highest.

Shortest augmenting paths with potentials (Kuhn, 1955; Jonker and Volgenant, 1987; for rectangular
tables Crouse, IEEE TAES 2016): R^2 C steps at most for R rows, R <= C.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_compile: Any = numba.njit(cache=True, nogil=True)


def best_assignment(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the column of each row [R] of values [R, C], -1 for rows without one if R > C.

    No column is given twice, min(R, C) rows have one, and the sum of their values is the largest.

    >>> best_assignment(np.array([[5, 0], [4, 3], [0, 2]])).tolist()
    [0, 1, -1]
    """
    num_rows, num_columns = values.shape
    columns = np.full(num_rows, -1, dtype=np.int64)
    if min(num_rows, num_columns) == 0:
        return columns
    costs = -values.astype(np.float64)
    if num_rows <= num_columns:
        return _shortest_paths(costs)
    rows = _shortest_paths(np.ascontiguousarray(costs.T))
    columns[rows] = np.arange(num_columns)
    return columns


@_compile
def _shortest_paths(costs):  # type: ignore[no-untyped-def]
    """Return the column of each row of costs [R, C], R <= C; one row is added after another."""
    num_rows, num_columns = costs.shape
    u, v = np.zeros(num_rows), np.zeros(num_columns)  # potentials: costs - u - v >= 0
    row_of = np.full(num_columns, -1)
    column_of = np.full(num_rows, -1)
    before = np.empty(num_columns, dtype=np.int64)  # the row from which a column is reached
    length = np.empty(num_columns)
    open_columns = np.empty(num_columns, dtype=np.int64)
    for new in range(num_rows):
        length[:] = np.inf
        open_columns[:] = np.arange(num_columns)
        num_open, row, end, shortest = num_columns, new, -1, 0.0
        while end < 0:
            place, least = -1, np.inf
            for i in range(num_open):
                column = open_columns[i]
                reached = shortest + costs[row, column] - u[row] - v[column]
                if reached < length[column]:
                    length[column], before[column] = reached, row
                if length[column] < least or (
                    length[column] == least and row_of[column] < 0  # a free one ends the path
                ):
                    place, least = i, length[column]
            shortest, column = least, open_columns[place]
            num_open -= 1  # closed columns are kept behind the open ones
            open_columns[place], open_columns[num_open] = open_columns[num_open], column
            row = row_of[column]
            end = column if row < 0 else -1
        u[new] += shortest
        for i in range(num_open, num_columns):
            column = open_columns[i]
            if row_of[column] >= 0:
                u[row_of[column]] += shortest - length[column]
            v[column] -= shortest - length[column]
        column = end
        while column >= 0:
            row = before[column]
            row_of[column], column_of[row], column = row, column, column_of[row]
    return column_of
