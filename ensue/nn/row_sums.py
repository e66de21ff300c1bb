"""Sums of what belongs to the same row: the gradient of a table from those of its look-ups.

In memory a hash table of 8 to 16 bytes a look-up finds the distinct rows: nothing is sorted, and
nothing has the size of the table. One pass over the rows and one over the values. Elsewhere the
rows are sorted. Sums are taken in the order of the look-ups, so a result can be had again.
Shapes: N look-ups, R distinct rows, D width.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_compile: Any = numba.njit(cache=True, nogil=True)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2 ^ 64 over the golden ratio: spreads neighbors


def row_sums(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows [R] in the order of first sight, and the sum of each one's values.

    Args:
        rows: [N] int64, any numbers.
        values: [N, D] or [N].

    Raises:
        ValueError: there is not one value for each row.

    >>> row_sums(torch.tensor([7, 3, 7]), torch.tensor([1.0, 2.0, 4.0]))
    (tensor([7, 3]), tensor([5., 2.]))
    """
    if rows.dim() != 1 or values.shape[:1] != rows.shape:
        raise ValueError(
            "row_sums needs rows [N] and values [N, D]; "
            f"got {tuple(rows.shape)} and {tuple(values.shape)}"
        )
    distinct, groups = group_rows(rows)
    sums = values.new_zeros(len(distinct), *values.shape[1:])
    if _in_memory(values):
        wide = values.detach().reshape(len(values), -1 if values.numel() else 0)
        _add(groups.numpy(), wide.contiguous().numpy(), sums.view(len(sums), wide.shape[1]).numpy())
    elif values.device.type == "cpu":
        sums.index_add_(0, groups, values)
    else:  # on a GPU the order of index_add_ is that of chance; index_put_ sorts
        sums.index_put_((groups,), values, accumulate=True)
    return distinct, sums


def group_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows [R] in the order of first sight, and which one each row is [N].

    >>> group_rows(torch.tensor([7, 3, 7]))
    (tensor([7, 3]), tensor([0, 1, 0]))
    """
    if rows.device.type != "cpu":
        return group_rows_by_sorting(rows)
    flat = rows.contiguous().numpy()
    bits = max(1, 2 * len(flat) - 1).bit_length()
    slots = np.full(1 << bits, -1, dtype=np.int32)
    distinct, groups = np.empty_like(flat), np.empty_like(flat)
    count = _group(flat, np.uint64(64 - bits), slots, distinct, groups)
    return torch.from_numpy(distinct[:count].copy()), torch.from_numpy(groups)


def group_rows_by_sorting(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `group_rows` does, on any device."""
    ascending, inverse = rows.unique(return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = places.new_full((len(ascending),), len(rows))
    first.scatter_reduce_(0, inverse, places, "amin")
    order = first.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=rows.device)
    return ascending[order], rank[inverse]


def _in_memory(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


@_compile
def _group(rows, shift, slots, distinct, groups):  # type: ignore[no-untyped-def]
    """Fill distinct and groups [N]; slots [2 ^ (64 - shift)], at least 2 N of them, must be -1."""
    last, count = np.int64(len(slots) - 1), 0
    for n in range(len(rows)):
        row = rows[n]
        slot = np.int64((np.uint64(row) * _GOLDEN) >> shift)
        while slots[slot] >= 0 and distinct[slots[slot]] != row:
            slot = (slot + 1) & last
        if slots[slot] < 0:
            slots[slot] = count
            distinct[count] = row
            count += 1
        groups[n] = slots[slot]
    return count


@_compile
def _add(groups, values, sums):  # type: ignore[no-untyped-def]
    for n in range(len(groups)):
        own = sums[groups[n]]
        for d in range(values.shape[1]):
            own[d] += values[n, d]
