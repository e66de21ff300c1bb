"""A vector for every column of a ranking dataset, the rows of all vocabularies in one table.

A category is a row of the table, a bag the mean of its rows, a history their mean or what attention
makes of them (nn.history_attention), a number its multiple of a trained vector, a dense vector a
linear map of itself. The row of what is missing or unknown starts at zero and is trained; so are
the vectors that stand for a missing number or dense vector.
Shapes: B rows; F fields with a vector, D their width; P dense inputs; C categorical, K numeric
columns; S values of bags; V values of a vocabulary, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema
from ensue.errors import ConfigError
from ensue.nn.field_tables import START_LENGTH, FieldTable, GrowingTable, StaticTable
from ensue.nn.history_attention import HistoryAttention
from ensue.nn.table_config import TableConfig

HistoryPooling = Literal["mean", "attention"]


class TableChoice(NamedTuple):
    """The kind of table that rows are in.

    min_count: a value that fewer training rows have is taken for unknown; of a static table.
    growth: of a table that grows: rows are then asked for by 64-bit ids, not by codes.
    """

    min_count: int = 1
    growth: TableConfig | None = None

    def make(self, sizes: Mapping[str, int], dim: int) -> FieldTable:
        """Return a table for vocabularies of these sizes."""
        if self.growth is None:
            return StaticTable(sizes, dim, min_count=self.min_count)
        return GrowingTable(sizes, dim, self.growth)

    def at_zero(self) -> TableChoice:
        """Return the choice whose rows start at zero, where they would be drawn."""
        if self.growth is None:
            return self
        return self._replace(growth=self.growth.model_copy(update={"start_scale": 0.0}))


class Fields(NamedTuple):
    """Vectors [B, F, D] and dense inputs [B, P] of a batch."""

    vectors: Tensor
    dense: Tensor

    def flat(self) -> Tensor:
        """Return all side by side [B, F * D + P]."""
        vectors = self.vectors.flatten(1)
        return torch.cat([vectors, self.dense], dim=1) if self.dense.shape[1] else vectors


class LookUp(Protocol):
    """Another way to the vectors of what is looked up: rows may be with other processes."""

    def __call__(self, fields: FieldEmbedding, batch: RankingBatch) -> Tensor:
        """Return the vectors [B, number of categorical columns and bags, D]."""


class FieldEmbedding(nn.Module):
    """Vectors of the columns: categorical ones, bags and histories, then numbers, then vectors.

    names: of the F fields, in their order. num_dense: P.
    width: of all of it side by side.
    vocabulary_of: the vocabulary of each part of the table; parts are numbered in this order.
    look_up: how rows are had; None is from `table`.

    Args:
        dense: numbers and vectors are no fields but dense inputs: a number (0 where missing), all
            flags of missing numbers, and the elements of a vector with a flag behind them.
        history: how a history becomes one vector.
        tables: what kind of table the rows are in; None is a static one with all values.
        share: a history uses the rows of the column that it is of; otherwise it has its own.

    Raises:
        ConfigError: attention is asked for, and there is no history.
    """

    keys: Tensor
    zero: Tensor

    def __init__(
        self,
        schema: RankingSchema,
        dim: int,
        *,
        dense: bool = False,
        history: HistoryPooling = "mean",
        tables: TableChoice | None = None,
        share: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.is_dense = dim, dense
        self.look_up: LookUp | None = None
        self._categorical = schema.of_kind("categorical")
        self._bags = schema.of_kind("multi", "history")
        self._numeric, self._vectors = schema.of_kind("numeric"), schema.of_kind("vector")
        self.vocabulary_of = _vocabularies([*self._categorical, *self._bags], share=share)
        self._key_of = {key: n for n, key in enumerate(self.vocabulary_of)}
        self._share = share
        self.table: FieldTable | None = None
        if self._key_of:
            sizes = {key: schema.vocabularies[name] for key, name in self.vocabulary_of.items()}
            self.table = (tables or TableChoice()).make(sizes, dim)
        keys = torch.tensor([self.key(column) for column in self._categorical], dtype=torch.long)
        self.register_buffer("keys", keys, persistent=False)
        # Of the type and on the device that is computed with, where there is no parameter.
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self._add_attention(history)
        fields = [*self._categorical, *self._bags]
        self.num_dense = 0
        if dense:
            self.num_dense = 2 * len(self._numeric) + sum(c.size + 1 for c in self._vectors)
        else:
            fields += [*self._numeric, *self._vectors]
            self._add_maps()
        self.names = tuple(column.name for column in fields)
        self.width = len(fields) * dim + self.num_dense

    def forward(self, batch: RankingBatch) -> Fields:
        """Return the fields of a batch."""
        parts = self._embedded(batch)
        if not self.is_dense:
            parts += self._mapped(batch)
        if not parts:
            parts = [self.zero.new_zeros((batch.codes.shape[0], 0, self.dim))]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if not self.is_dense:
            return Fields(vectors, self.zero.new_zeros((batch.codes.shape[0], 0)))
        return Fields(vectors, self._dense(batch))

    def count_values_(self, counts: Mapping[str, Tensor]) -> None:
        """Take note of how many training rows have each value, [V + 1] of each vocabulary."""
        if isinstance(self.table, StaticTable):
            known = {k: counts[name] for k, name in self.vocabulary_of.items() if name in counts}
            self.table.keep_frequent_(known)

    def _add_attention(self, history: HistoryPooling) -> None:
        """Make the attention of each history, and note which categorical column it attends with."""
        histories = [column for column in self._bags if column.kind == "history"]
        self.attention = nn.ModuleDict()
        if history == "mean":
            return
        if not histories:
            raise ConfigError(
                "history='attention' needs a history column; the dataset has none. "
                "Use history='mean'."
            )
        places = {column.name: n for n, column in enumerate(self._categorical)}
        self._target_of = {column.name: places[column.vocabulary] for column in histories}
        for number, column in enumerate(self._bags):
            if column.kind == "history":
                self.attention[str(number)] = HistoryAttention(self.dim)

    def _add_maps(self) -> None:
        """Make what numbers and vectors are multiplied with, and what stands for missing ones."""
        scale = START_LENGTH / self.dim**0.5
        if self._numeric:
            self.numbers = nn.Parameter(torch.randn(len(self._numeric), self.dim) * scale)
            self.missing_numbers = nn.Parameter(torch.zeros(len(self._numeric), self.dim))
        self.maps = nn.ParameterList(
            torch.randn(column.size, self.dim) * (scale / column.size**0.5)
            for column in self._vectors
        )
        self.missing_vectors = nn.ParameterList(torch.zeros(self.dim) for _ in self._vectors)

    def _embedded(self, batch: RankingBatch) -> list[Tensor]:
        """Return the vectors [B, number of fields, D] of what is looked up in the table."""
        if self.look_up is not None:
            return [self.look_up(self, batch)]
        if self.table is None:
            return []
        looked_up: list[Tensor] = []
        if self._categorical:
            looked_up.append(self.table(batch.codes, self.keys))
        for number, (column, bag) in enumerate(zip(self._bags, batch.bags, strict=True)):
            if str(number) in self.attention:
                target = looked_up[0][:, self._target_of[column.name]]
                looked_up.append(self._attended(number, bag, target)[:, None])
            else:
                looked_up.append(self._bag(bag, self.key(column))[:, None])
        return looked_up

    def _bag(self, bag: Bag, key: int) -> Tensor:
        assert self.table is not None
        return self.table.bag(bag.values, bag.offsets, key)

    def _attended(self, number: int, bag: Bag, target: Tensor) -> Tensor:
        """Return the history [B, D] as a row's own value [B, D] sees it."""
        assert self.table is not None
        keys = self.keys.new_tensor([self.key(self._bags[number])])
        values = self.table(bag.values[:, None], keys)[:, 0]
        pooled: Tensor = self.attention[str(number)](values, bag.offsets, target)
        return pooled

    def _mapped(self, batch: RankingBatch) -> list[Tensor]:
        """Return the vectors [B, number of fields, D] of numbers, and of dense vectors."""
        parts: list[Tensor] = []
        if self._numeric:
            filled, is_missing = _fill(batch.numbers, self.numbers.dtype)
            multiples = filled[..., None] * self.numbers
            parts.append(torch.where(is_missing[..., None], self.missing_numbers, multiples))
        for values, matrix, missing in zip(
            batch.vectors, self.maps, self.missing_vectors, strict=True
        ):
            filled, is_missing = _fill(values, matrix.dtype)
            any_missing = is_missing.any(dim=1)[:, None]
            parts.append(torch.where(any_missing, missing, filled @ matrix)[:, None])
        return parts

    def _dense(self, batch: RankingBatch) -> Tensor:
        """Return numbers and vectors as they are, with flags of what is missing [B, P]."""
        dtype = self.zero.dtype
        filled, is_missing = _fill(batch.numbers, dtype)
        parts = [filled, is_missing.to(dtype)]
        for values in batch.vectors:
            filled, is_missing = _fill(values, dtype)
            parts += [filled, is_missing.any(dim=1, keepdim=True).to(dtype)]
        return torch.cat(parts, dim=1)

    def key(self, column: RankingColumn) -> int:
        """Return the number of the part of the table that has the rows of a column."""
        return self._key_of[column.vocabulary if self._share else column.name]


class FirstOrder(nn.Module):
    """A weight of each value of each column for each task, summed over the columns of a row.

    It is the logistic regression that wide and factorization models hold. All weights start at 0; a
    bag counts as the mean of its values.
    """

    def __init__(self, schema: RankingSchema, *, tables: TableChoice | None = None) -> None:
        super().__init__()
        # A value in a history says something else than the same value as what is scored.
        at_zero = (tables or TableChoice()).at_zero()
        self.fields = FieldEmbedding(schema, len(schema.tasks), tables=at_zero, share=False)
        for parameter in self.fields.parameters():
            nn.init.zeros_(parameter)

    def forward(self, batch: RankingBatch) -> Tensor:
        """Return the sum of each task [B, M]."""
        fields: Fields = self.fields(batch)
        return fields.vectors.sum(dim=1)


def _vocabularies(columns: Sequence[RankingColumn], *, share: bool) -> dict[str, str]:
    """Return the vocabulary of each part of a table, which is of a vocabulary or of a column."""
    return {column.vocabulary if share else column.name: column.vocabulary for column in columns}


def _fill(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return values with 0 where they are missing, and where that is."""
    is_missing = values.isnan()
    return values.masked_fill(is_missing, 0.0).to(dtype), is_missing
