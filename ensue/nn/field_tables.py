"""Tables behind the columns of a ranking dataset: one with a row for each value, one that grows.

Shapes: B rows of a batch, C columns; S values of bags; V values of a vocabulary; R rows of the
table, D their width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor, nn

from ensue.errors import DataError
from ensue.nn.bags import bag_mean, mean_weights
from ensue.nn.cells import Cells, bag_means, cell_means, prepare_gradient
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.embedding import gather_rows
from ensue.nn.sparse_rows import bag_sum_sparse, gather_rows_sparse
from ensue.nn.table_config import TableConfig

# Length of a row at the start. Factorization machines add up hundreds of products of rows: those
# of length 1 would begin with logits far from zero.
START_LENGTH = 0.1


class FieldTable(nn.Module, ABC):
    """One table for several vocabularies, which are numbered by keys."""

    @abstractmethod
    def forward(self, values: Tensor, keys: Tensor) -> Tensor:
        """Return the rows [B, C, D] of values [B, C], those of column c of vocabulary keys[c]."""

    @abstractmethod
    def bag(self, values: Tensor, offsets: Tensor, key: int) -> Tensor:
        """Return the mean row of each bag [B, D], given values [S] of one vocabulary; 0 of none."""

    @abstractmethod
    def means(self, cells: Cells, keys: Tensor) -> Tensor:
        """Return the mean rows [N, b, G, D] of cells whose columns are of vocabularies keys [G].

        That of a cell is over all of its values, those that are elsewhere too, but of the rows
        here; 0 of an empty one.
        """

    def prepare_gradient(self, cells: Cells, keys: Tensor) -> None:
        """Begin, on a thread, what the gradient of these `means` needs beside what comes back."""


class StaticTable(FieldTable):
    """One table for several vocabularies, each of which has V + 1 rows of it: code 0 is the first.

    weight: [R, D].
    row_of: [R] int32, where a value is found: its own row, or that of the unknown for one that was
        seen too seldom. There is none with min_count=1.
    is_sparse: whether gradients hold the looked-up rows alone, which not every optimizer takes.
    """

    first_rows: Tensor
    row_of: Tensor

    def __init__(self, sizes: Mapping[str, int], dim: int, *, min_count: int = 1) -> None:
        super().__init__()
        self.sizes, self.min_count, self.is_sparse = dict(sizes), min_count, False
        num_rows = torch.tensor([size + 1 for size in sizes.values()], dtype=torch.long)
        first_rows = num_rows.cumsum(0) - num_rows
        self.register_buffer("first_rows", first_rows, persistent=False)
        total = sum(size + 1 for size in sizes.values())
        weight = torch.randn(total, dim) * (START_LENGTH / dim**0.5)
        # A list, for a plan makes tables without memory, of which no mask can be read.
        weight[first_rows[[n for n, size in enumerate(sizes.values()) if size >= 0]]] = 0
        self.weight = nn.Parameter(weight)
        if min_count > 1:
            self.register_buffer("row_of", torch.arange(total, dtype=torch.int32))

    def forward(self, codes: Tensor, keys: Tensor) -> Tensor:
        """Return the rows [B, C, D] of codes [B, C], those of column c of vocabulary keys[c]."""
        rows = self._rows(codes + self.first_rows[keys])
        look_up = gather_rows_sparse if self.is_sparse else gather_rows
        return look_up(self.weight, rows)

    def bag(self, values: Tensor, offsets: Tensor, key: int) -> Tensor:
        """Return the mean row of each bag [B, D], given codes [S] of one vocabulary; 0 of none."""
        rows = self._rows(values + self.first_rows[key])
        if not self.is_sparse:
            return bag_mean(self.weight, rows, offsets)
        weights = mean_weights(offsets, len(rows), self.weight.dtype)
        return bag_sum_sparse(self.weight, rows, offsets, weights)

    def means(self, cells: Cells, keys: Tensor) -> Tensor:
        """Return the mean rows [N, b, G, D] of cells whose columns are of vocabularies keys [G]."""
        firsts = self.first_rows[keys]
        if self.min_count == 1:
            return cell_means(self.weight, cells, firsts, is_sparse=self.is_sparse)
        rows = self._rows(cells.values + cells.of_values(firsts))
        return bag_means(self.weight, cells, rows, is_sparse=self.is_sparse)

    def prepare_gradient(self, cells: Cells, keys: Tensor) -> None:
        """Begin, on a thread, to find the distinct rows of the gradient."""
        if self.is_sparse and self.min_count == 1 and torch.is_grad_enabled():
            prepare_gradient(self.weight, cells, self.first_rows[keys])

    def keep_frequent_(self, counts: Mapping[str, Tensor]) -> None:
        """Let values with counts [V + 1] below min_count, in training, use the row of the unknown.

        Raises:
            DataError: there are no counts of a vocabulary, or not one for each value.
        """
        if self.min_count == 1:
            return
        for first, (name, size) in zip(self.first_rows.tolist(), self.sizes.items(), strict=True):
            if name not in counts or len(counts[name]) != size + 1:
                got = len(counts[name]) if name in counts else "none"
                raise DataError(
                    f"min_count={self.min_count} needs a count for each of the {size + 1} codes "
                    f"of {name!r}; got {got}."
                )
            rows = torch.arange(first, first + size + 1, dtype=torch.int32)
            rows[torch.as_tensor(counts[name]) < self.min_count] = first
            self.row_of[first : first + size + 1] = rows.to(self.row_of.device)

    def _rows(self, rows: Tensor) -> Tensor:
        return rows if self.min_count == 1 else self.row_of[rows].long()


class GrowingTable(FieldTable):
    """One growing table for several vocabularies, whose values are given as 64-bit ids.

    Ids differ between vocabularies already. Two parts of the table for one vocabulary, as the
    weights of a column and of its history, are told apart by the names of the parts.

    Args:
        sizes: of the parts, by name; the values there are now do not matter.
    """

    marks: Tensor

    def __init__(self, sizes: Mapping[str, int], dim: int, config: TableConfig) -> None:
        super().__init__()
        self.rows = DynamicEmbedding(dim, config)
        marks = torch.tensor([crc32(name.encode()) for name in sizes], dtype=torch.long)
        self.register_buffer("marks", marks, persistent=False)

    def forward(self, values: Tensor, keys: Tensor) -> Tensor:
        """Return the rows [B, C, D] of ids [B, C]; 0 of id 0 and of ids without a row."""
        rows: Tensor = self.rows(self._marked(values, self.marks[keys]))
        return rows

    def bag(self, values: Tensor, offsets: Tensor, key: int) -> Tensor:
        """Return the mean row of each bag [B, D], given ids [S]; 0 of an empty one."""
        return self.rows.bag(self._marked(values, self.marks[key]), offsets)

    def means(self, cells: Cells, keys: Tensor) -> Tensor:
        """Return the mean rows [N, b, G, D] of cells whose columns are of vocabularies keys [G]."""
        ids = self._marked(cells.values, cells.of_values(self.marks[keys]))
        table, rows = self.rows.fetch(ids)
        return bag_means(table, cells, rows)

    def _marked(self, ids: Tensor, marks: Tensor) -> Tensor:
        """Return the ids of parts of the table; 0 stays what it is: missing."""
        return torch.where(ids == 0, ids, ids ^ marks)
