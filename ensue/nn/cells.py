"""Mean rows of a table over the cells of a batch, which is laid out column by column.

A cell has the values of a row of the batch in a column, maybe none. The rows, places and weights of
values, which are as many as the values, are not written down: compiled loops have them from the
cells. A sparse gradient holds each row once, ascending: a mark for each row of the table finds the
distinct ones without sorting; tables of the same vocabularies share the marks of a batch.
Elsewhere than in memory, and for other types than float32 and float64, tensor operations.
Shapes: N stretches of b rows, G columns; S values; V rows of a table, D width; R distinct rows.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ensue.nn.bags import bag_sum
from ensue.nn.embedding import grad_of
from ensue.nn.row_sums import group_rows
from ensue.nn.slabs import AHEAD, LINE, prefetch
from ensue.nn.sparse_rows import add_rows_to_grad, bag_sum_sparse

_compile: Any = numba.njit(cache=True, nogil=True, fastmath={"contract"})
_KERNEL_TYPES = (torch.float32, torch.float64)
MOST = 8  # rows of a table for each value, at which rows are marked: beyond they are hashed


class Cells:
    """The values of the cells of N stretches of b rows, in each stretch column by column.

    values: [S] int64, in the order of the cells.
    lengths: [N, G, b] int32, how many each cell has here. totals: [N, G, b] int32, how many there
        are in all, which a mean is over.
    """

    def __init__(self, values: Tensor, lengths: Tensor, totals: Tensor) -> None:
        self.values, self.lengths, self.totals = values, lengths, totals
        self._grouped: dict[tuple[bytes, int], Future[tuple[Tensor, Tensor, bool]]] = {}

    @cached_property
    def counts(self) -> Tensor:
        """How many values each column has in each stretch [N, G] int64."""
        return self.lengths.sum(dim=2, dtype=torch.int64)

    @cached_property
    def offsets(self) -> Tensor:
        """Where each cell begins among the values, and where the last one ends [N * G * b + 1]."""
        zero = self.lengths.new_zeros(1, dtype=torch.int64)
        return torch.cat([zero, self.lengths.flatten().cumsum(0)])

    def of_values(self, of_columns: Tensor) -> Tensor:
        """Return for each value [S] what its column has of [G]."""
        each = of_columns.to(self.values.device).repeat(len(self.lengths))
        return each.repeat_interleave(self.counts.flatten(), output_size=len(self.values))

    def weights(self, dtype: torch.dtype) -> Tensor:
        """Return 1 / (number of all values of its cell) for each value [S]."""
        shares = 1.0 / self.totals.flatten().clamp(min=1).to(dtype)
        return shares.repeat_interleave(self.offsets.diff(), output_size=len(self.values))

    def grouped(self, firsts: Tensor, num_rows: int) -> tuple[Tensor, Tensor, bool]:
        """Return the distinct rows [R] of the values, and which one each is of [S] int32.

        Returns:
            And whether the rows ascend; else they are in the order of first sight.

        Args:
            firsts: [G], the row of value 0 of each column. num_rows: V.
        """
        return self.group_ahead(firsts, num_rows).result()

    def group_ahead(self, firsts: Tensor, num_rows: int) -> Future[tuple[Tensor, Tensor, bool]]:
        """Begin what `grouped` returns, on a thread; a second time it is not begun again."""
        key = firsts.numpy().tobytes(), num_rows
        if key not in self._grouped:
            self._grouped[key] = _thread().submit(self._group, firsts, num_rows)
        return self._grouped[key]

    def _group(self, firsts: Tensor, num_rows: int) -> tuple[Tensor, Tensor, bool]:
        if num_rows <= MOST * len(self.values):
            return *self._marked(firsts, num_rows), True
        rows, groups = group_rows(self.values + self.of_values(firsts))
        return rows, groups.int(), False

    def _marked(self, firsts: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        marks = np.zeros(num_rows, np.int32)
        rows = np.empty(min(num_rows, len(self.values)) + 1, np.int64)
        groups = np.empty(len(self.values), np.int32)
        arrays = self.values.numpy(), self.counts.numpy(), firsts.numpy()
        count = _number_rows(*arrays, marks, rows, groups)
        return torch.from_numpy(rows[:count].copy()), torch.from_numpy(groups)


def cell_means(table: Tensor, cells: Cells, firsts: Tensor, *, is_sparse: bool = False) -> Tensor:
    """Return the mean rows [N, b, G, D] of the cells, of a leaf `table`; 0 of an empty one.

    The gradient goes to `table.grad`, as in nn.embedding.

    Args:
        table: [V, D]. firsts: [G] int64, the row of value 0 of each column.
        is_sparse: whether the gradient holds the looked-up rows alone.
    """
    if not _in_memory(table):
        rows = cells.values + cells.of_values(firsts)
        return bag_means(table, cells, rows, is_sparse=is_sparse)
    if table.requires_grad and torch.is_grad_enabled():
        out: Tensor = _CellMeans.apply(table, cells, firsts, is_sparse)  # type: ignore[no-untyped-call]
        return out
    return _means(table, cells, firsts)


def prepare_gradient(table: Tensor, cells: Cells, firsts: Tensor) -> None:
    """Begin, on a thread, to find the rows of the sparse gradient of `cell_means`."""
    if _in_memory(table):
        cells.group_ahead(firsts, len(table))


def bag_means(table: Tensor, cells: Cells, rows: Tensor, *, is_sparse: bool = False) -> Tensor:
    """Return what `cell_means` does, given the row of each value [S], also of no leaf."""
    add_up = bag_sum_sparse if is_sparse else bag_sum
    sums = add_up(table, rows, cells.offsets, cells.weights(table.dtype))
    return sums.view(*cells.lengths.shape, sums.shape[1]).transpose(1, 2)


class _CellMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, cells: Cells, firsts: Tensor, is_sparse: bool) -> Tensor:
        ctx.table, ctx.cells, ctx.firsts, ctx.is_sparse = table, cells, firsts, is_sparse
        return _means(table, cells, firsts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        table, cells = ctx.table, ctx.cells
        own = grad.to(table.dtype).contiguous().numpy()
        lengths, totals = cells.lengths.numpy(), cells.totals.numpy()
        if ctx.is_sparse:
            rows, groups, is_ascending = cells.grouped(ctx.firsts, len(table))
            sums = table.new_zeros(len(rows), table.shape[1])
            nowhere = np.zeros(lengths.shape[1], np.int64)
            _add(groups.numpy(), lengths, totals, nowhere, own, sums.numpy())
            add_rows_to_grad(table, rows, sums, is_coalesced=is_ascending)
        else:
            into = grad_of(table).numpy()
            _add(cells.values.numpy(), lengths, totals, ctx.firsts.numpy(), own, into)
        return None, None, None, None


def _means(table: Tensor, cells: Cells, firsts: Tensor) -> Tensor:
    num_stretches, num_columns, num_rows = cells.lengths.shape
    out = table.new_empty(num_stretches, num_rows, num_columns, table.shape[1])
    lengths, totals = cells.lengths.numpy(), cells.totals.numpy()
    _sum(cells.values.numpy(), lengths, totals, firsts.numpy(), table.detach().numpy(), out.numpy())
    return out


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="cells")


def _in_memory(table: Tensor) -> bool:
    is_plain = table.device.type == "cpu" and table.is_contiguous()
    return is_plain and table.dtype in _KERNEL_TYPES


@_compile
def _ask(values, s, first, base, size):  # type: ignore[no-untyped-def]
    """Have a row that is read soon fetched, if it is of the same column; the address may be any."""
    if s + AHEAD < len(values):
        address = base + size * (first + values[s + AHEAD])
        for offset in range(0, size, LINE):
            prefetch(address + offset)


@_compile
def _sum(values, lengths, totals, firsts, table, out):  # type: ignore[no-untyped-def]
    """Set out[n, i, g] to the mean of table[firsts[g] + value] over the values of the cell.

    Eight elements at a time are added up in registers.
    """
    s, zero, width = 0, table.dtype.type(0), table.shape[1]
    base, size, wide = table.ctypes.data, width * table.itemsize, width // 8 * 8
    for n in range(lengths.shape[0]):
        for g in range(lengths.shape[1]):
            first = firsts[g]
            for i in range(lengths.shape[2]):
                share = table.dtype.type(1 / max(totals[n, g, i], 1))
                stop, own = s + lengths[n, g, i], out[n, i, g]
                for j in range(s, stop):
                    _ask(values, j, first, base, size)
                for d in range(0, wide, 8):
                    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zero
                    for j in range(s, stop):
                        row = first + values[j]
                        a0 += share * table[row, d]
                        a1 += share * table[row, d + 1]
                        a2 += share * table[row, d + 2]
                        a3 += share * table[row, d + 3]
                        a4 += share * table[row, d + 4]
                        a5 += share * table[row, d + 5]
                        a6 += share * table[row, d + 6]
                        a7 += share * table[row, d + 7]
                    own[d], own[d + 1], own[d + 2], own[d + 3] = a0, a1, a2, a3
                    own[d + 4], own[d + 5], own[d + 6], own[d + 7] = a4, a5, a6, a7
                for d in range(wide, width):
                    a0 = zero
                    for j in range(s, stop):
                        a0 += share * table[first + values[j], d]
                    own[d] = a0
                s = stop


@_compile
def _add(values, lengths, totals, firsts, grad, into):  # type: ignore[no-untyped-def]
    """Add to into[firsts[g] + value] what grad[n, i, g] of the mean of the cell gives."""
    s, width = 0, into.shape[1]
    base, size, wide = into.ctypes.data, width * into.itemsize, width // 8 * 8
    for n in range(lengths.shape[0]):
        for g in range(lengths.shape[1]):
            first = firsts[g]
            for i in range(lengths.shape[2]):
                share = into.dtype.type(1 / max(totals[n, g, i], 1))
                stop, own = s + lengths[n, g, i], grad[n, i, g]
                for j in range(s, stop):
                    _ask(values, j, first, base, size)
                for d in range(0, wide, 8):
                    g0, g1, g2, g3 = own[d], own[d + 1], own[d + 2], own[d + 3]
                    g4, g5, g6, g7 = own[d + 4], own[d + 5], own[d + 6], own[d + 7]
                    for j in range(s, stop):
                        row = first + values[j]
                        into[row, d] += share * g0
                        into[row, d + 1] += share * g1
                        into[row, d + 2] += share * g2
                        into[row, d + 3] += share * g3
                        into[row, d + 4] += share * g4
                        into[row, d + 5] += share * g5
                        into[row, d + 6] += share * g6
                        into[row, d + 7] += share * g7
                for d in range(wide, width):
                    for j in range(s, stop):
                        into[first + values[j], d] += share * own[d]
                s = stop


@_compile
def _number_rows(values, counts, firsts, marks, rows, groups):  # type: ignore[no-untyped-def]
    """Fill rows, and groups [S], and return R; marks [V] must be 0, rows has a place for one more.

    A mark becomes the number of its row. Without a branch: most rows may be met or not.
    """
    s = 0
    for n in range(counts.shape[0]):
        for g in range(counts.shape[1]):
            for _ in range(counts[n, g]):
                marks[firsts[g] + values[s]] = 1
                s += 1
    count = 0
    for row in range(len(marks)):
        rows[count] = row
        is_met = marks[row]
        marks[row] = count
        count += is_met
    s = 0
    for n in range(counts.shape[0]):
        for g in range(counts.shape[1]):
            for _ in range(counts[n, g]):
                groups[s] = marks[firsts[g] + values[s]]
                s += 1
    return count
