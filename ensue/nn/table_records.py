"""The rows of growing tables with all that belongs to them, to be moved to another table.

Shapes: R rows, W width of a vector and the state of its optimizer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ensue.nn.dynamic_embedding import STAMP, DynamicEmbedding


class Records(NamedTuple):
    """Rows of a table: ids [R], vectors and states [R, W], stamps and counts [R, 2]."""

    ids: Tensor
    values: Tensor
    notes: Tensor

    def where(self, is_kept: Tensor) -> Records:
        """Return the rows of a mask [R]."""
        return Records(*(tensor[is_kept] for tensor in self))


def records(table: DynamicEmbedding) -> Records:
    """Return a copy of all rows of a table."""
    return changed_records(table, -1)


def changed_records(table: DynamicEmbedding, since: int) -> Records:
    """Return a copy of the rows that may have changed after the step `since`, between two steps."""
    num_rows = table.table.num_rows
    found = [torch.zeros(0, dtype=torch.int64, device=table.device)]
    slabs = zip(table.table.ids.parts(num_rows), table.notes.parts(num_rows), strict=True)
    for number, (ids, notes) in enumerate(slabs):
        is_changed = (notes[:, STAMP] > since) | (table.unseen > since)
        own = (is_changed & (ids.squeeze(1) != 0)).nonzero().squeeze(1)
        found.append(own + (number << table.values.bits))
    rows = torch.cat(found)
    ids = table.table.ids.take(rows).squeeze(1)
    return Records(ids, table.values.take(rows), table.notes.take(rows))


@torch.no_grad()
def add_records_(table: DynamicEmbedding, added: Records) -> None:
    """Put rows into a table of the same width, in the place of those that their ids have."""
    rows, _ = table.table.insert(added.ids)
    for slabs, values in ((table.values, added.values), (table.notes, added.notes)):
        slabs.reserve(table.table.num_rows)
        slabs.put(rows, values)
