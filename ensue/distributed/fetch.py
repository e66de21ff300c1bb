"""Rows of a table that is divided among workers, fetched from those that have them.

Each id is asked for once, whatever the number of times that a worker's part of a batch has it: its
number goes to the owner (4 bytes), its row comes back, and after the backward pass the gradient of
the row goes to the owner, who alone takes the optimizer's step.
Rows are dealt out in turn: row i to worker i mod N, where i counts from the first one that is not
padding. Padding, row 0 of a table of items, is with all workers: zero, and without a gradient.
Shapes: N workers; V rows of the whole table, V_r those of worker r; R distinct rows of one worker's
part of a batch; A rows that others and itself ask a worker for; D width, or none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ensue.distributed.workers import Workers
from ensue.nn.embedding import gather_rows


class Division(NamedTuple):
    """Which worker has which row of a table.

    num_rows: V. size: N. has_padding: whether row 0 is with all.
    """

    num_rows: int
    size: int
    has_padding: bool

    def keys(self, ids: Tensor) -> Tensor:
        """Return numbers of rows of the same shape, in the order of workers and of their rows.

        Key k is row k mod `width` of worker k // `width`; padding has key 0.
        """
        first = int(self.has_padding)
        shifted = ids - first
        keys = shifted % self.size * self.width + shifted // self.size + first
        return torch.where(ids < first, 0, keys) if first else keys

    def ids(self, keys: Tensor) -> Tensor:
        """Return the ids of which these are the keys."""
        first = int(self.has_padding)
        local, owner = keys % self.width, keys // self.width
        return ((local - first) * self.size + owner + first).clamp(min=0)

    def own_ids(self, rank: int) -> Tensor:
        """Return the ids of the rows of a worker [V_r], in its order."""
        start = min(rank + self.has_padding, self.num_rows)
        own = torch.arange(start, self.num_rows, self.size)
        return torch.cat([own.new_zeros(1), own]) if self.has_padding else own

    def local(self, ids: Tensor, rank: int) -> Tensor:
        """Return ids, none of them padding, as rows of a worker; 0 for those that others have.

        Raises:
            ValueError: the table has no padding, so that 0 is a row of it.
        """
        if not self.has_padding:
            raise ValueError("local needs a table with padding, whose row 0 stands for no row")
        keys = self.keys(ids)
        return torch.where(keys // self.width == rank, keys % self.width, 0)

    @property
    def width(self) -> int:
        """How many rows the worker with the most has."""
        first = int(self.has_padding)
        return first - (first - self.num_rows) // self.size


class Wanted(NamedTuple):
    """What a worker takes of the others' rows, and what it gives them.

    keys: [R] int64, distinct and ascending: of the rows that it takes, one worker after the other.
    asked: [A] int64, its own rows that it gives, to one worker after the other.
    counts: [2, N] int64, of rows that it takes from each and gives to each.
    """

    keys: Tensor
    asked: Tensor
    counts: Tensor


def exchange_wanted(ids: Tensor, division: Division, workers: Workers) -> Wanted:
    """Return the rows that workers take of each other; all of them call it, maybe a batch ahead.

    Args:
        ids: of any shape, of this worker; repeated or not. Padding is among what is taken.
    """
    ids = ids.reshape(-1)
    if division.has_padding:
        ids = torch.cat([ids.new_zeros(1), ids])
    keys = division.keys(torch.unique(ids)).sort().values
    take = torch.bincount(keys // division.width, minlength=workers.size)
    ones = [1] * workers.size
    # No worker has more rows than int32 can count.
    give = workers.all_to_all(take.int(), ones, ones, purpose="ids").long()
    local = (keys % division.width).int()
    asked = workers.all_to_all(local, take.tolist(), give.tolist(), purpose="ids").long()
    return Wanted(keys, asked, torch.stack([take, give]))


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Tensor, workers: Workers) -> Tensor:
        ctx.take, ctx.give = counts.tolist()
        ctx.workers = workers
        if workers.size == 1:
            return rows.view_as(rows)
        return workers.all_to_all(rows, ctx.give, ctx.take, purpose="forward")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.workers.all_to_all(grad, ctx.take, ctx.give, purpose="backward"), None, None


def fetch(weight: Tensor, wanted: Wanted, workers: Workers, *, has_padding: bool) -> Tensor:
    """Return the rows [R, D] that a worker wants, in the order of their keys.

    The gradient goes back to the owners and is added to `weight.grad`, as in nn.embedding; all
    workers must run the backward pass.

    Args:
        weight: [V_r, D] or [V_r], this worker's rows, a leaf.
        has_padding: whether row 0 of it gets no gradient.
    """
    given = gather_rows(weight, wanted.asked, padding_idx=0 if has_padding else None)
    rows: Tensor = _Swap.apply(given, wanted.counts, workers)  # type: ignore[no-untyped-call]
    return rows
