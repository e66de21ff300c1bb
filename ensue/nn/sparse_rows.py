"""Table look-ups whose gradient holds the looked-up rows alone: a step reads no other row.

`table.grad` is a sparse tensor (by coordinates, uncoalesced): the rows in the order of the look-
ups, repeated ones too, with the gradient of each. Later look-ups and backward passes are appended.
The optimizers of `ensue.optim` sum what belongs to the same row before they square it, and touch
those rows alone; `zero_grad(set_to_none=False)` empties it. Where a table also gets a dense
gradient, the sum of both is dense: the same numbers, with passes over the whole table. As in
`nn.embedding` the gradient goes to the leaf directly, and `torch.autograd.grad` does not see it.
Shapes: V table rows, D width, B bags, S look-ups, R distinct rows of them.
"""

from __future__ import annotations

from typing import Any

import numba
import torch
from torch import Tensor

from ensue.nn import cpu_kernels as kernels
from ensue.nn.bags import sum_bags
from ensue.nn.embedding import look_up
from ensue.nn.row_sums import row_sums
from ensue.nn.stretches import in_stretches

_compile: Any = numba.njit(cache=True, nogil=True)
_KERNEL_TYPES = (torch.float32, torch.float64)
BLOCK = 64  # rows asked for together
LEAST = 8192  # look-ups of a thread, at least


class _GatherRowsSparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table, ctx.ids = table, ids
        return _copies(table.detach(), ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        flat = ctx.ids.reshape(-1)
        add_rows_to_grad(ctx.table, flat, grad.reshape(len(flat), *ctx.table.shape[1:]))
        return None, None


def gather_rows_sparse(table: Tensor, ids: Tensor) -> Tensor:
    """Return table[ids] [*ids.shape, D] for a leaf `table` [V, D] or [V]; its gradient is sparse.

    Args:
        ids: int64 of any shape.

    Raises:
        IndexError: an id is not a row of the table.
    """
    if table.requires_grad and torch.is_grad_enabled():
        out: Tensor = _GatherRowsSparse.apply(table, ids)  # type: ignore[no-untyped-call]
        return out
    return look_up(table, ids)


def _copies(table: Tensor, ids: Tensor) -> Tensor:
    is_plain = table.dim() == 2 and table.is_contiguous() and table.shape[1] > 0
    if not (is_plain and table.device.type == "cpu" and table.dtype in _KERNEL_TYPES):
        return look_up(table, ids)
    out = table.new_empty(*ids.shape, table.shape[1])
    arrays = [ids.reshape(-1).numpy(), out.view(-1, table.shape[1]).numpy()]
    if not all(in_stretches(_copy_rows, arrays, (table.numpy(),), least=LEAST)):
        raise IndexError(
            f"ids must be rows 0 to {len(table) - 1} of the table; "
            f"got {int(ids.min())} to {int(ids.max())}."
        )
    return out


@_compile
def _copy_rows(ids, out, table):  # type: ignore[no-untyped-def]
    """Set out[s] = table[ids[s]], and return whether all ids are rows of the table.

    The rows of a block are asked for before they are copied: memory then answers them together.
    """
    asked = out.dtype.type(0)
    for first in range(0, len(ids), BLOCK):
        last = min(first + BLOCK, len(ids))
        for s in range(first, last):
            if ids[s] < 0 or ids[s] >= len(table):
                return False
            asked += table[ids[s], 0]
        out[first, 0] = asked  # written over below: without a use the reads would be left out
        for s in range(first, last):
            row, own = table[ids[s]], out[s]
            for d in range(row.shape[0]):
                own[d] = row[d]
    return True


class _BagSumSparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor, use_kernels: bool
    ) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids, offsets, weights)
        return sum_bags(table.detach(), ids, offsets, weights, use_kernels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        ids, offsets, weights = ctx.saved_tensors
        rows = grad.repeat_interleave(offsets.diff(), dim=0, output_size=len(ids))
        add_rows_to_grad(ctx.table, ids, rows.mul_(weights[:, None]))
        return None, None, None, None, None


def bag_sum_sparse(table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return what `nn.bags.bag_sum` does [B, D], for a leaf `table`; its gradient is sparse.

    Args:
        table: [V, D].
        ids: [S] int64; offsets: [B + 1] int64, bag b is ids[offsets[b]:offsets[b + 1]].
        weights: [S], without gradient.
    """
    use_kernels = kernels.can_run(table, weights)
    if table.requires_grad and torch.is_grad_enabled():
        out: Tensor = _BagSumSparse.apply(table, ids, offsets, weights, use_kernels)  # type: ignore[no-untyped-call]
        return out
    return sum_bags(table, ids, offsets, weights, use_kernels)


def add_rows_to_grad(
    table: Tensor, rows: Tensor, values: Tensor, *, is_coalesced: bool = False
) -> None:
    """Add values [S, D] to the rows [S] of the gradient of a leaf [V, D]; D is absent of a [V].

    Args:
        is_coalesced: the rows ascend, and none is there twice.
    """
    values = values.to(table.dtype)
    if table.grad is not None and not table.grad.is_sparse:
        table.grad.index_add_(0, rows, values)
        return
    if table.grad is not None and table.grad._nnz():
        rows = torch.cat([table.grad._indices()[0], rows])
        values = torch.cat([table.grad._values(), values])
        is_coalesced = False
    table.grad = sparse_grad(table, rows, values, is_coalesced=is_coalesced)


def sparse_grad(
    table: Tensor, rows: Tensor, values: Tensor, *, is_coalesced: bool = False
) -> Tensor:
    """Return a gradient of a table [V, D] that has values [S, D] in rows [S], repeated or not.

    Args:
        is_coalesced: the rows ascend, and none is there twice.
    """
    return torch.sparse_coo_tensor(
        rows[None], values, table.shape, is_coalesced=is_coalesced, check_invariants=False
    )


def distinct_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows [R] of a sparse gradient, and the sum of each one's values [R, D].

    >>> table = torch.zeros(9, 1, requires_grad=True)
    >>> gather_rows_sparse(table, torch.tensor([7, 3, 7])).sum().backward()
    >>> rows, sums = distinct_rows(table.grad)
    >>> rows.tolist(), sums.tolist()
    ([7, 3], [[2.0], [1.0]])
    """
    if grad.is_coalesced():
        return grad.indices()[0], grad.values()
    return row_sums(grad._indices()[0], grad._values())
