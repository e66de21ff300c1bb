"""A ranking model over several workers: its tables are divided, the rest is with all of them.

Each worker computes rows of its own; the weights after a step are those that one process gets from
the rows of all, up to the order of sums.
Shapes: N workers; B rows of all, b of this one; M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.batch import SharedBatch, rows_of_one
from ensue.distributed.entries import KeyExchange, OwnEntries
from ensue.distributed.lookups import RowWise, TableWise, part_keys
from ensue.distributed.owners import Owners
from ensue.distributed.replicas import add_up_
from ensue.distributed.shards import Piece, keep_own_, under
from ensue.distributed.substitute import substitute_
from ensue.distributed.substitution import Schedule, Substitution
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError
from ensue.models.ranking.base import RankingModel
from ensue.nn.field_embedding import FieldEmbedding, FirstOrder
from ensue.nn.field_tables import StaticTable
from ensue.nn.sparse_rows import distinct_rows, sparse_grad

Scheme = Literal["des", "table_wise", "row_wise", "replicated"]


class SharedRanker(nn.Module):
    """A ranking model whose tables are with several workers.

    model: the model, with the part of the tables that this worker has.
    pieces: what of the parameters is not with all workers, by name.

    Args:
        model: of the same weights on all workers; it gives up what others hold.
        scheme: sums that operators need are sent ("des"), or pooled vectors of columns, from one
            worker each ("table_wise") or in parts ("row_wise"); "replicated" tables are with all
            workers, and their gradients are sent.
        holders: the workers of each vocabulary; "table_wise" takes one of each. None, of "des",
            divides vectors by element.
        schedule: of "des", see `Substitution`.
        wire: the type of the sums and vectors that are sent.

    Raises:
        ConfigError: the model has no such substitution, or the layout does not fit the scheme.
    """

    def __init__(
        self,
        model: RankingModel,
        workers: Workers,
        *,
        scheme: Scheme,
        holders: Mapping[str, Sequence[int]] | None,
        schedule: Schedule = "scatter",
        wire: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model, self.workers = model, workers
        self.is_redundant = scheme == "des" and schedule == "all_reduce"
        owners = Owners(model.schema, holders, workers.size, grows=model.reads_ids)
        self._owners, self._known = owners, _KnownValues(model, owners)
        self._keys = None if scheme == "replicated" else KeyExchange(owners, workers)
        self._substitution: Substitution | None = None
        self.pieces: dict[str, Piece] = {}
        if scheme == "replicated":
            if model.reads_ids and workers.size > 1:
                raise ConfigError(
                    "tables that grow are divided among workers: each row is made in one place. "
                    "Use scheme des or row_wise."
                )
            return
        named = {name: m for name, m in model.named_modules() if isinstance(m, FieldEmbedding)}
        first_orders = {
            f"{name}.fields" for name, m in model.named_modules() if isinstance(m, FirstOrder)
        }
        for name, fields in named.items():
            kept = keep_own_(fields, owners, workers.rank, whole_rows=name in first_orders)
            self.pieces |= under(f"{name}.", kept)
        if scheme == "des":
            self._substitution = substitute_(model, owners, workers, schedule, wire=wire)
            self.pieces |= self._substitution.pieces(model)
        else:
            look_up = TableWise if scheme == "table_wise" else RowWise
            for fields in named.values():
                keys = part_keys(fields, owners, workers.rank)
                fields.look_up = look_up(owners, workers, keys, wire=wire)

    def owns(self, ids: Tensor) -> Tensor:
        """Return of which ids of tables that grow this worker has the rows [n]."""
        return self._owners.places(ids, self.workers.size) == self.workers.rank

    @property
    def schema(self) -> RankingSchema:
        """The columns that the model reads, and its tasks."""
        return self.model.schema

    @property
    def reads_ids(self) -> bool:
        """Whether values are given as 64-bit ids."""
        return self.model.reads_ids

    def share(self, whole: RankingBatch) -> SharedBatch:
        """Return what this worker computes of rows that all workers have read."""
        if self.is_redundant:
            return self.share_own(whole, len(whole))
        num_rows = rows_of_one(len(whole), self.workers.size)
        start = self.workers.rank * num_rows
        return self.share_own(whole.rows(start, start + num_rows), len(whole))

    def share_own(self, rows: RankingBatch, total: int) -> SharedBatch:
        """Return a batch of this worker's rows, after an exchange of values with the others.

        Args:
            rows: of `total` ones, divided in their order; all, where each worker computes all.
        """
        num_rows = rows_of_one(total, self.workers.size)
        if self._keys is None:
            return SharedBatch.join(rows, OwnEntries.none(num_rows), num_rows)
        known = self._known(rows)
        if self.is_redundant:
            # As many as where rows are divided: a wire has them summed by the workers in parts.
            num_rows *= self.workers.size
            return SharedBatch.join(known, self._keys.own_of(known, num_rows), num_rows)
        return SharedBatch.join(known, self._keys(known, num_rows), num_rows)

    def sum_ahead(self, numbers: Tensor) -> Tensor:
        """Return the sums over workers of numbers [n] about a batch that is being made."""
        if self.is_redundant:
            return numbers
        return self.workers.all_reduce_(numbers.clone(), purpose="ids")

    def forward(self, batch: SharedBatch) -> Tensor:
        """Return [b, M]: logits of binary tasks, values of regressions."""
        if self._substitution is not None:
            self._substitution.begin(batch)
        out: Tensor = self.model(batch)
        return out

    @torch.no_grad()
    def outputs_of_all(self, whole: RankingBatch) -> Tensor:
        """Return what `forward` of one process gives for the rows of all [B, M], on all workers."""
        batch = self.share(whole)  # by the processor; then to the model
        tensors = [tensor.to(self.workers.device) for tensor in batch.tensors()]
        own = self(SharedBatch.from_tensors(tensors, self.schema))
        if self.is_redundant:
            return own
        padded = own.new_zeros(batch.num_rows, own.shape[1])
        padded[: len(own)] = own
        return self.workers.all_gather(padded, purpose="other")[: len(whole)]

    def _replicated_gradients(self) -> list[Tensor]:
        """Return the gradients, or views of their parts, of what all workers have."""
        grads = []
        for name, parameter in self.model.named_parameters():
            piece = self.pieces.get(name)
            if piece is not None and not piece.shared:
                continue
            if parameter.grad is not None and parameter.grad.is_sparse:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grad = parameter.grad
            if piece is not None:
                first = len(piece.places) - piece.shared
                grad = grad.narrow(piece.axis, first, piece.shared)
            grads.append(grad)
        return grads

    def _gather_sparse_gradients(self) -> None:
        """Have of replicated tables the gradients of the rows that any worker has read."""
        if self._keys is not None:  # tables are divided: owners have whole gradients
            return
        for table in self._sparse_tables():
            grad = table.grad
            assert grad is not None
            rows, values = distinct_rows(grad)
            counts = self.workers.all_gather(torch.tensor([len(rows)]), purpose="dense").tolist()
            parts = []
            for own in (rows, values):
                padded = own.new_zeros(max(counts), *own.shape[1:])
                padded[: len(own)] = own
                gathered = self.workers.all_gather(padded, purpose="dense")
                of_each = gathered.view(len(counts), -1, *own.shape[1:])
                parts.append(
                    torch.cat([one[:count] for one, count in zip(of_each, counts, strict=True)])
                )
            table.grad = sparse_grad(table, *parts)

    def _sparse_tables(self) -> Iterator[nn.Parameter]:
        """Yield the tables whose gradients hold the looked-up rows alone."""
        for module in self.model.modules():
            if isinstance(module, StaticTable) and module.is_sparse:
                if module.weight.grad is None:
                    none = torch.zeros(0, dtype=torch.int64)
                    values = module.weight.detach()[none]
                    module.weight.grad = sparse_grad(module.weight, none, values)
                yield module.weight

    @torch.no_grad()
    def sum_gradients_(self, extra: Tensor) -> Tensor:
        """Add up the gradients of what all workers hold, and some numbers with them.

        Args:
            extra: [n] numbers of this worker.

        Returns:
            The sums of the numbers over workers [n]; of those that compute all rows, their mean.
        """
        if self.is_redundant:
            return self.workers.all_reduce_(extra.clone(), purpose="dense") / self.workers.size
        self._gather_sparse_gradients()
        return add_up_(extra, self._replicated_gradients(), self.workers)


class _KnownValues:
    """Takes values that training saw too seldom for unknown, as `StaticTable` does by itself."""

    def __init__(self, model: RankingModel, owners: Owners) -> None:
        self._firsts: Tensor | None = None
        for fields in model.field_embeddings():
            table = fields.table
            if isinstance(table, StaticTable) and table.min_count > 1:
                parts = [fields.key(column) for column in owners.columns]
                self._firsts, self._rows = table.first_rows[parts], table.row_of
                return

    def __call__(self, batch: RankingBatch) -> RankingBatch:
        """Return the batch with 0 in the place of rare values."""
        if self._firsts is None:
            return batch
        num_categorical = batch.codes.shape[1]
        codes = self._known(batch.codes, self._firsts[:num_categorical])
        bags = tuple(
            Bag(self._known(values, first), offsets)
            for (values, offsets), first in zip(
                batch.bags, self._firsts[num_categorical:], strict=True
            )
        )
        return replace(batch, codes=codes, bags=bags)

    def _known(self, codes: Tensor, first: Tensor) -> Tensor:
        return self._rows[codes + first] - first
