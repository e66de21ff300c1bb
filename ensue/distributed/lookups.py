"""Pooled vectors of columns whose rows are with several workers.

Two ways to the vectors of a worker's rows: each worker has all rows of its columns, and sends
everyone the finished vectors ("table_wise"); or each has a share of the rows of all columns, and
the parts are summed where they are needed ("row_wise").
Shapes: N workers; b rows of each; F columns, G of them with rows here; D width; S values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.distributed.batch import SharedBatch
from ensue.distributed.owners import Owners
from ensue.distributed.reductions import exchange, sum_scatter
from ensue.distributed.workers import Workers
from ensue.nn.cells import Cells
from ensue.nn.field_embedding import FieldEmbedding


def own_vectors(fields: FieldEmbedding, keys: Tensor, cells: Cells) -> Tensor:
    """Return the vectors [N, b, G, D] of the rows of all workers in the columns of this one.

    Of a column with several holders it is what this worker has rows of: a part of the sum. Where
    vectors are divided, it is the elements that this worker has.

    Args:
        fields: with the table of this worker. keys: [G] int64, the parts of the columns in it.
    """
    num_workers, num_columns, num_rows = cells.lengths.shape
    if fields.table is None or num_columns == 0:
        return fields.zero.new_zeros(num_workers, num_rows, num_columns, fields.dim)
    return fields.table.means(cells, keys.to(cells.lengths.device))


class TableWise:
    """Whole columns are with one worker each; finished vectors are sent.

    A step sends 2 b F D numbers, less those that stay.
    """

    def __init__(
        self,
        owners: Owners,
        workers: Workers,
        keys: Tensor,
        *,
        wire: torch.dtype | None = None,
    ) -> None:
        self.workers, self.keys, self.wire = workers, keys, wire
        columns = [owners.columns_of(rank) for rank in range(owners.size)]
        self._sizes = [len(own) for own in columns]
        order = torch.tensor([column for own in columns for column in own], dtype=torch.long)
        self._places = order.argsort()

    def __call__(self, fields: FieldEmbedding, batch: RankingBatch) -> Tensor:
        """Return the vectors [b, F, D] of the rows of this worker."""
        assert isinstance(batch, SharedBatch)
        vectors = own_vectors(fields, self.keys, batch.cells).flatten(2)
        widths = [size * fields.dim for size in self._sizes]
        joined = exchange(vectors, widths, self.workers, wire=self.wire)[: len(batch)]
        places = self._places.to(joined.device)
        return joined.view(len(batch), len(places), fields.dim).index_select(1, places)


class RowWise:
    """Columns are with several workers; what each has of the sums is added up.

    A step sends 2 N b F D numbers, less the N-th part that stays.
    """

    def __init__(
        self,
        owners: Owners,
        workers: Workers,
        keys: Tensor,
        *,
        wire: torch.dtype | None = None,
    ) -> None:
        self.workers, self.keys, self.wire = workers, keys, wire
        self._num_columns = len(owners.columns)
        self._columns = torch.tensor(owners.columns_of(workers.rank), dtype=torch.long)

    def __call__(self, fields: FieldEmbedding, batch: RankingBatch) -> Tensor:
        """Return the vectors [b, F, D] of the rows of this worker."""
        assert isinstance(batch, SharedBatch)
        vectors = own_vectors(fields, self.keys, batch.cells).flatten(0, 1)
        columns = self._columns.to(vectors.device)
        if len(columns) < self._num_columns:
            shape = (len(vectors), self._num_columns, fields.dim)
            vectors = vectors.new_zeros(shape).index_copy(1, columns, vectors)
        else:
            vectors = vectors.index_select(1, columns.argsort())
        summed = sum_scatter(vectors.flatten(1), self.workers, wire=self.wire)
        return summed.view(batch.num_rows, self._num_columns, fields.dim)[: len(batch)]


def part_keys(fields: FieldEmbedding, owners: Owners, rank: int) -> Tensor:
    """Return the part of the table of each column of a worker [G]."""
    columns = [owners.columns[number] for number in owners.columns_of(rank)]
    return torch.tensor([fields.key(column) for column in columns], dtype=torch.long)
