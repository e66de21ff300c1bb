"""DeepFM: a factorization machine and a deep model on the same vectors.

Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017,
arXiv:1703.04247 (Eq. 1 to 4). Numbers are multiples of a vector in both parts.
Shapes: B rows, F fields, D width of a field, H width of the deep part.
"""

from __future__ import annotations

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk, TrunkModel, TrunkOutput, make_fields
from ensue.models.ranking.fm import PairLogits
from ensue.nn.field_embedding import Fields, FirstOrder
from ensue.nn.perceptron import Perceptron


class DeepFMConfig(DeepConfig):
    """Settings of both parts."""


class DeepFMTrunk(Trunk):
    """The deep part, beside what the factorization machine says."""

    Config = DeepConfig

    def __init__(self, config: DeepConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.fields = make_fields(config, schema, dense=False)
        self.first_order = FirstOrder(schema, tables=config.tables)
        self.pairs = PairLogits(config.dim, len(schema.tasks))
        self.layers = Perceptron(self.fields.width, config.hidden, config.dropout)
        self.width = self.layers.width

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row, and the logits of the factorization machine."""
        fields: Fields = self.fields(batch)
        logits = self.first_order(batch) + self.pairs(fields.vectors)
        return TrunkOutput(self.layers(fields.flat()), logits)


class DeepFM(TrunkModel):
    """The sum of a factorization machine and a deep model."""

    Config = DeepFMConfig
    trunk_type = DeepFMTrunk
