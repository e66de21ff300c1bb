"""Wide & Deep: a linear model that remembers, beside a deep one that generalizes.

Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016, arXiv:1606.07792.
Departures: the wide part reads the values of all columns; products of columns, which the paper
chooses by hand, are columns of the data. Both parts have one optimizer; the paper trains the wide
one with FTRL.
Shapes: B rows, H width.
"""

from __future__ import annotations

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk, TrunkModel, TrunkOutput
from ensue.models.ranking.dnn import DNNTrunk
from ensue.nn.field_embedding import FirstOrder


class WideDeepConfig(DeepConfig):
    """Settings of both parts."""


class WideDeepTrunk(Trunk):
    """The deep part, beside the weights of the values."""

    Config = DeepConfig

    def __init__(self, config: DeepConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.deep = DNNTrunk(config, schema=schema)
        self.wide = FirstOrder(schema, tables=config.tables)
        self.width = self.deep.width

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row, and the weights of its values."""
        deep: TrunkOutput = self.deep(batch)
        return TrunkOutput(deep.hidden, self.wide(batch))


class WideDeep(TrunkModel):
    """The sum of a linear and a deep model."""

    Config = WideDeepConfig
    trunk_type = WideDeepTrunk
