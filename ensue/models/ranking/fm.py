"""Factorization machine: weights of all values, and of all pairs of values as products of vectors.

Rendle, "Factorization Machines", ICDM 2010 (Eq. 1, Lemma 3.1).
For several tasks the vectors are shared, and each task weighs the D parts of the products with
weights of its own, which start at 1; for one task it is the published model. A history uses the
vectors of the column that it is of, and weights of its own.
As a trunk it gives the D sums of products to rectified layers, as in He and Chua, "Neural
Factorization Machines", SIGIR 2017, arXiv:1708.05027.
Shapes: B rows, F fields, D width, M tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import (
    DeepConfig,
    FieldsConfig,
    RankingModel,
    Trunk,
    TrunkOutput,
    make_fields,
)
from ensue.nn.crosses import SumOfPairs, sum_of_pairs
from ensue.nn.field_embedding import Fields, FirstOrder
from ensue.nn.perceptron import Perceptron


class FMConfig(FieldsConfig):
    """What a factorization machine reads."""


class PairLogits(nn.Module):
    """The sum of the products of all pairs of fields, for each task."""

    def __init__(self, dim: int, num_tasks: int) -> None:
        super().__init__()
        self.readout: nn.Parameter | None = None
        if num_tasks > 1:
            self.readout = nn.Parameter(torch.ones(num_tasks, dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the sums [B, M] of vectors [B, F, D]."""
        pairs = sum_of_pairs(vectors)
        if self.readout is None:
            return pairs.sum(dim=1, keepdim=True)
        return pairs @ self.readout.T


class FM(RankingModel):
    """b + the weights of a row's values + the products of the vectors of every two of them."""

    Config = FMConfig

    def __init__(self, config: FMConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        num_tasks = len(schema.tasks)
        self.fields = make_fields(config, schema, dense=False)
        self.first_order = FirstOrder(schema, tables=config.tables)
        self.pairs = PairLogits(config.dim, num_tasks)
        self.bias = nn.Parameter(torch.zeros(num_tasks))

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        fields: Fields = self.fields(batch)
        out: Tensor = self.bias + self.first_order(batch) + self.pairs(fields.vectors)
        return out


class FMTrunk(Trunk):
    """The sums of products [B, D] behind rectified layers, beside the weights of the values."""

    Config = DeepConfig

    def __init__(self, config: DeepConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.fields = make_fields(config, schema, dense=False)
        self.first_order = FirstOrder(schema, tables=config.tables)
        self.pairs = SumOfPairs()
        self.layers = Perceptron(config.dim, config.hidden, config.dropout)
        self.width = self.layers.width

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row, and the weights of its values."""
        fields: Fields = self.fields(batch)
        return TrunkOutput(self.layers(self.pairs(fields.vectors)), self.first_order(batch))
