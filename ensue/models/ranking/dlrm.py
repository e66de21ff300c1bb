"""DLRM: the products of every two vectors, beside a network over the dense inputs.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems",
2019, arXiv:1906.00091. A bottom network makes one more vector of numbers and dense vectors; the top
network reads that vector and the products of all pairs.
Shapes: B rows, F fields, D width, P dense inputs, H width.
"""

from __future__ import annotations

import torch
from pydantic import Field

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk, TrunkModel, TrunkOutput, make_fields
from ensue.nn.crosses import PairwiseDots
from ensue.nn.field_embedding import Fields
from ensue.nn.perceptron import Perceptron


class DLRMConfig(DeepConfig):
    """Both networks; `hidden` is the top one.

    bottom: widths of the layers over the dense inputs, before the last one, which has width `dim`.
    """

    bottom: list[int] = Field(default_factory=lambda: [256, 64])


class DLRMTrunk(Trunk):
    """Products of pairs and the bottom vector, behind the top network.

    Without dense inputs there is no bottom network, and one vector more or less.
    """

    Config = DLRMConfig

    def __init__(self, config: DLRMConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.fields = make_fields(config, schema, dense=True)
        self.bottom: Perceptron | None = None
        num_vectors = len(self.fields.names)
        width = 0
        if self.fields.num_dense:
            self.bottom = Perceptron(
                self.fields.num_dense, [*config.bottom, config.dim], config.dropout
            )
            num_vectors += 1
            width = config.dim
        self.dots = PairwiseDots(num_vectors)
        width += self.dots.num_pairs
        self.layers = Perceptron(width, config.hidden, config.dropout)
        self.width = self.layers.width

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row."""
        fields: Fields = self.fields(batch)
        if self.bottom is None:
            return TrunkOutput(self.layers(self.dots(fields.vectors)))
        bottom = self.bottom(fields.dense)
        dots = self.dots(torch.cat([bottom[:, None], fields.vectors], dim=1))
        return TrunkOutput(self.layers(torch.cat([bottom, dots], dim=1)))


class DLRM(TrunkModel):
    """Products of pairs behind a top network, with a linear output."""

    Config = DLRMConfig
    trunk_type = DLRMTrunk
