"""Operators put in the place of a model's own, equal to them, that send sums in place of rows.

After Rong et al., "Distributed Equivalent Substitution Training for Large-Scale Recommender
Systems", SIGIR 2020, arXiv:1909.04823: what an operator makes of its inputs is a small function of
sums over the columns, so each worker sums over what it has rows of, for the rows of all workers,
and the sums are added up. No row of a table is sent, and no gradient of one.
The model stays as it is: modules give way to operators with the same parameters, or pieces of them.
The sums of all are sent as one.
Shapes: N workers; b rows of each, B = N b; G columns with rows here; D width; M tasks; H width of
the first layer; c numbers of an operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import RankingBatch
from ensue.distributed.batch import SharedBatch
from ensue.distributed.lookups import own_vectors, part_keys
from ensue.distributed.owners import Owners
from ensue.distributed.reductions import sum_all, sum_scatter
from ensue.distributed.replicas import gather, sum_gradient
from ensue.distributed.shards import Piece, keep_piece_, under
from ensue.distributed.workers import Workers
from ensue.models.ranking.fm import PairLogits
from ensue.nn.cells import Cells
from ensue.nn.crosses import SumOfPairs, field_sums
from ensue.nn.field_embedding import FieldEmbedding, Fields, FirstOrder

if TYPE_CHECKING:
    from ensue.distributed.crosses import CrossSums

Schedule = Literal["scatter", "all_reduce"]


class Withheld:
    """A look-up of nothing: the vectors stay where they are, and operators send sums of them."""

    def __call__(self, fields: FieldEmbedding, batch: RankingBatch) -> Tensor:
        """Return [b, 0, D]."""
        return fields.zero.new_zeros(len(batch), 0, fields.dim)


class Source:
    """The vectors, for the rows of all workers, of the columns that this one has rows of.

    fields: what is replicated of them, numbers and dense vectors, they give as before.
    columns: of the F, in the order of `vectors`.
    dim: D. elements: [D'] of a vector that this worker has: all, but where vectors are divided.
    vectors: [B, G, D'] of the batch that is computed.

    Args:
        whole_rows: of a table whose rows are divided, where the layout divides vectors.
    """

    vectors: Tensor

    def __init__(
        self, fields: FieldEmbedding, owners: Owners, rank: int, *, whole_rows: bool = False
    ) -> None:
        self.fields, self.columns = fields, owners.columns_of(rank)
        self._keys = part_keys(fields, owners, rank)
        self._owners, self._rank = owners, rank
        self._has_own_rows = whole_rows and owners.by_element
        self.elements = owners.elements(fields.dim, rank)
        self.dim = fields.dim
        fields.look_up = Withheld()

    def read(self, batch: SharedBatch) -> None:
        """Look the vectors of a batch up."""
        cells = batch.cells
        if self._has_own_rows:
            cells = Cells(*batch.own.of_rows(self._owners, self._rank))
        self._cells = cells
        self.vectors = own_vectors(self.fields, self._keys, cells).flatten(0, 1)
        self._sums: tuple[Tensor, Tensor] | None = None

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return the sums over own columns of the vectors, and of their squares, [B, D'] each."""
        if self._sums is None:
            self._sums = field_sums(self.vectors)
        return self._sums

    def prepare_gradient(self) -> None:
        """Begin what the gradient of the vectors needs, while sums are on their way."""
        if self.fields.table is not None and self.columns:
            self.fields.table.prepare_gradient(self._cells, self._keys)

    def parted(self, split: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Return where whole columns are in `vectors`, where split ones, and these among `split`.

        Args:
            split: columns that several workers have rows of.
        """
        whole = [place for place, column in enumerate(self.columns) if column not in split]
        parts = [place for place, column in enumerate(self.columns) if column in split]
        return whole, parts, [split.index(self.columns[place]) for place in parts]

    def wide(self, own: Tensor) -> Tensor:
        """Return [B, D] with own elements [B, D'] in their places, and zeros."""
        if own.shape[1] == self.dim:
            return own
        elements = self.elements.to(own.device)
        return own.new_zeros(len(own), self.dim).index_copy(1, elements, own)

    def inputs(self, columns: Sequence[int]) -> Tensor:
        """Return which inputs of a layer over all columns side by side are own elements of these.

        Args:
            columns: of the F.
        """
        first = torch.tensor(list(columns), dtype=torch.long)[:, None] * self.dim
        return (first + self.elements).flatten()


class Pieces(nn.Module):
    """A part of a model of whose parameters a worker has pieces."""

    def pieces(self) -> dict[str, Piece]:
        """Return what of the parameters is not with all workers."""
        return {}


class Operator(Pieces, ABC):
    """A part of a model that needs sums over the columns, known when a batch begins.

    summed: [b, c] of the rows of this worker; of all rows, where each worker computes them all.
    """

    summed: Tensor

    @abstractmethod
    def partial(self) -> Tensor:
        """Return what the columns of this worker add to the sums [B, c]."""


class Substitution:
    """The operators of a model, whose sums are sent together.

    schedule: "scatter" gives each worker the sums of its own rows; with "all_reduce" each has those
        of all, and computes the rest of the model for all rows, so that no dense gradient is sent.
    wire: the type that is sent, such as bfloat16; None is that of the sums.
    split: columns that several workers have rows of.
    """

    def __init__(
        self,
        owners: Owners,
        workers: Workers,
        schedule: Schedule,
        *,
        wire: torch.dtype | None = None,
    ) -> None:
        self.owners, self.workers, self.schedule, self.wire = owners, workers, schedule, wire
        self.num_columns = len(owners.columns)
        self.split = [number for number in range(self.num_columns) if owners.is_split(number)]
        self.sources: list[Source] = []
        self.operators: list[Operator] = []

    def begin(self, batch: SharedBatch) -> None:
        """Look up, add up and send what all operators need of a batch."""
        for source in self.sources:
            source.read(batch)
        partials = [operator.partial() for operator in self.operators]
        if not partials:
            return
        for source in self.sources:
            source.prepare_gradient()
        summed = self.sum(torch.cat(partials, dim=1))[: len(batch)]
        widths = [partial.shape[1] for partial in partials]
        for operator, own in zip(self.operators, torch.split(summed, widths, dim=1), strict=True):
            operator.summed = own

    def sum_for_all(self, partial: Tensor, rest: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return sums that own columns and replicated inputs are both computed from.

        Args:
            partial: [B, c]. rest: [b, c], what replicated inputs add of the rows of this worker.

        Returns:
            The sums of all rows [B, c], for own columns, and of the rows of this worker [b, c].
        """
        summed = self.sum(partial)
        if rest is not None:
            padding = summed.new_zeros(len(summed) - len(rest), summed.shape[1])
            summed = summed + torch.cat([rest, padding])
        if self.schedule == "all_reduce":
            return sum_gradient(summed, self.workers, wire=self.wire), summed
        return gather(summed, self.workers, wire=self.wire), summed

    def sum(self, partial: Tensor) -> Tensor:
        """Return the sums over workers [b, c], or [B, c], of what each has [B, c]."""
        if self.schedule == "all_reduce":
            return sum_all(partial, self.workers, wire=self.wire)
        return sum_scatter(partial, self.workers, wire=self.wire)

    def pieces(self, model: nn.Module) -> dict[str, Piece]:
        """Return what of the operators' parameters this worker holds alone, by name."""
        found: dict[str, Piece] = {}
        for name, module in model.named_modules():
            if isinstance(module, Pieces):
                found |= under(f"{name}.", module.pieces())
        return found

    def replicated(self, parameter: Tensor) -> Tensor:
        """Return a parameter of all, for use in what the workers do each with columns of its own.

        Where the rest of the model is computed by all for all rows, gradients of the rest are equal
        everywhere, and those of such a use have to be added up at once.
        """
        if self.schedule == "all_reduce":
            return sum_gradient(parameter, self.workers)
        return parameter


class FirstOrderSum(Operator):
    """The weights of a row's values, summed over the columns: c = M.

    Args:
        less: products of pairs, whose squares of columns are taken off in the same M numbers.
    """

    def __init__(
        self, first_order: FirstOrder, source: Source, less: PairSums | None = None
    ) -> None:
        super().__init__()
        self.fields = first_order.fields
        self._source, self._squares = source, less and less.squares

    def partial(self) -> Tensor:
        """Return the sums over own columns [B, M]."""
        summed = self._source.vectors.sum(dim=1)
        return summed if self._squares is None else summed - self._squares()

    def forward(self, batch: RankingBatch) -> Tensor:
        """Return the sum of each task [b, M]."""
        rest: Fields = self.fields(batch)
        return self.summed + rest.vectors.sum(dim=1)


class PairSums(Operator):
    """The products of all pairs of fields by their sum: c = D.

    0.5 * (|S|^2 - sum |v|^2), where both sums are over columns. Local sums of products would leave
    out pairs of columns of different workers. The squares are taken off the first order where the
    products are read for each task, and are D numbers more where layers read them (`SumOfPairs`).
    Of bags that several workers have rows of, a square is known after the sum alone: each sends D
    numbers more.
    """

    def __init__(self, pairs: PairLogits | SumOfPairs, source: Source, group: Substitution) -> None:
        super().__init__()
        # A value of a categorical column is with one worker: nothing is left out of its square.
        split = [n for n in group.split if group.owners.columns[n].kind != "categorical"]
        self._is_read = isinstance(pairs, PairLogits)
        self.readout = pairs.readout if isinstance(pairs, PairLogits) else None
        self._source, self._group = source, group
        self._whole, self._parts, self._places = source.parted(split)
        self._num_split = len(split)

    def squares(self) -> Tensor:
        """Return half the squares of own whole columns, for each task [B, M]."""
        squares = 0.5 * self._own_squares()
        if self.readout is None:
            return squares.sum(dim=1, keepdim=True)
        return squares @ self._group.replicated(self.readout)[:, self._source.elements].T

    def partial(self) -> Tensor:
        """Return own parts of S, and of split bags [B, c]."""
        vectors, wide = self._source.vectors, self._source.wide
        parts = [wide(self._source.sums()[0])]
        if not self._is_read:
            parts.append(wide(self._own_squares()))
        if self._num_split:
            split = vectors.new_zeros(len(vectors), self._num_split, vectors.shape[2])
            places = torch.tensor(self._places, dtype=torch.long, device=vectors.device)
            parts.append(split.index_copy(1, places, vectors[:, self._parts]).flatten(1))
        return torch.cat(parts, dim=1)

    def forward(self, rest: Tensor) -> Tensor:
        """Return the products [b, M], or [b, D], of all, given replicated vectors [b, F', D]."""
        dim = rest.shape[2]
        sums, others = self.summed[:, :dim], self.summed[:, dim:]
        squares = rest.square().sum(dim=1)
        if not self._is_read:
            squares, others = squares + others[:, :dim], others[:, dim:]
        split = others.reshape(len(others), self._num_split, dim)
        pairs = 0.5 * ((sums + rest.sum(dim=1)).square() - squares - split.square().sum(dim=1))
        if not self._is_read:
            return pairs
        return pairs.sum(dim=1, keepdim=True) if self.readout is None else pairs @ self.readout.T

    def _own_squares(self) -> Tensor:
        if not self._parts:
            return self._source.sums()[1]
        return self._source.vectors[:, self._whole].square().sum(dim=1)


class FirstLayerSum(Operator):
    """A linear layer over the vectors of all columns side by side: c = H.

    What a worker multiplies its columns with it has alone, so that it is in no sum of gradients;
    what belongs to columns that several have, and to replicated inputs, all have.

    Args:
        at_once: its inputs are known when a batch begins; else its sums are sent when it is called.
    """

    def __init__(
        self,
        layer: nn.Linear,
        source: Source | CrossSums,
        group: Substitution,
        *,
        at_once: bool = True,
    ) -> None:
        super().__init__()
        split = group.split
        self.weight, self.bias = layer.weight, layer.bias
        self._source, self._group, self._at_once = source, group, at_once
        self._whole, self._parts, places = source.parted(split)
        own = source.inputs([source.columns[n] for n in self._whole])
        shared = source.inputs(split)
        rest = torch.arange(group.num_columns * source.dim, layer.in_features)
        self._own, self._num_split = len(own), len(shared)
        self._rows = source.inputs(places)  # of the shared ones, those of columns with rows here
        self._piece = Piece(1, torch.cat([own, shared, rest]), shared=len(shared) + len(rest))
        keep_piece_(self, "weight", self._piece)

    def pieces(self) -> dict[str, Piece]:
        """Return the columns of the weight that this worker has."""
        return {"weight": self._piece}

    def partial(self) -> Tensor:
        """Return own columns times their weights [B, H]."""
        vectors = self._source.vectors
        out = _columns(vectors, self._whole).flatten(1) @ self.weight[:, : self._own].T
        if self._num_split:  # with no such column here too: all take part in sums of gradients
            shared = self.weight[:, self._own : self._own + self._num_split]
            used = self._group.replicated(shared)[:, self._rows]
            out = out + vectors[:, self._parts].flatten(1) @ used.T
        return out

    def forward(self, rest: Tensor) -> Tensor:
        """Return the layer's output [b, H], given replicated inputs side by side [b, P]."""
        if not self._at_once:
            self.summed = self._group.sum(self.partial())[: len(rest)]
        weight = self.weight[:, self._own + self._num_split :]
        return torch.addmm(self.bias, rest, weight.T) + self.summed


def _columns(vectors: Tensor, places: list[int]) -> Tensor:
    """Return vectors of some columns, whose places ascend; without a copy where they are all."""
    return vectors if len(places) == vectors.shape[1] else vectors[:, places]
