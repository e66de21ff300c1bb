"""Vectors of the columns and dense inputs side by side, behind rectified layers.

The plain network that the others add products of features to; Covington et al., RecSys 2016.
Shapes: B rows, H width.
"""

from __future__ import annotations

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk, TrunkOutput, make_fields
from ensue.nn.field_embedding import Fields
from ensue.nn.perceptron import Perceptron


class DNNTrunk(Trunk):
    """Rectified layers over all inputs; without layers the inputs themselves."""

    Config = DeepConfig

    def __init__(self, config: DeepConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.fields = make_fields(config, schema, dense=True)
        self.layers = Perceptron(self.fields.width, config.hidden, config.dropout)
        self.width = self.layers.width

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row."""
        fields: Fields = self.fields(batch)
        return TrunkOutput(self.layers(fields.flat()))
