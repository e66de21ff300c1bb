"""DCN-V2: layers of explicit products of features, before or beside a deep network.

Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to
Rank Systems", WWW 2021, arXiv:2008.13535.
A LayerNorm behind the cross layers is an option, as in the largest model of Tang et al., KDD 2023,
arXiv:2302.09178.
Shapes: B rows, H width.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from ensue.config import Config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import DeepConfig, Trunk, TrunkModel, TrunkOutput, make_fields
from ensue.nn.crosses import CrossNetwork
from ensue.nn.field_embedding import Fields
from ensue.nn.perceptron import Perceptron


class DCNv2Config(DeepConfig):
    """Cross layers, and the deep network of `hidden`.

    num_crosses: layers; l of them hold products of up to l + 1 inputs.
    cross_rank: of the matrix of a layer; None is full.
    cross_experts: low-rank crosses that a layer mixes.
    cross_norm: a LayerNorm behind the last layer.
    structure: the deep network reads what the cross layers give, or stands beside them.
    """

    num_crosses: int = Field(default=3, ge=1)
    cross_rank: int | None = Field(default=None, ge=1)
    cross_experts: int = Field(default=1, ge=1)
    cross_norm: bool = False
    structure: Literal["stacked", "parallel"] = "stacked"

    @model_validator(mode="after")
    def _experts_have_a_rank(self) -> DCNv2Config:
        if self.cross_experts > 1 and self.cross_rank is None:
            raise ValueError(
                f"cross_experts={self.cross_experts} needs a cross_rank; a full one is not mixed"
            )
        return self


class DCNv2Trunk(Trunk):
    """Cross layers over all inputs, with a deep network behind them or beside them."""

    Config: ClassVar[type[Config]] = DCNv2Config

    def __init__(self, config: Any, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.fields = make_fields(config, schema, dense=True)
        width = self.fields.width
        self.crosses = self.make_crosses(config, width)
        self.layers = Perceptron(width, config.hidden, config.dropout)
        self.is_stacked = config.structure == "stacked"
        self.width = self.layers.width + (0 if self.is_stacked else width)

    @staticmethod
    def make_crosses(config: Any, width: int) -> CrossNetwork:
        """Return the cross layers of a config of this class."""
        return CrossNetwork(
            width,
            config.num_crosses,
            rank=config.cross_rank,
            num_experts=config.cross_experts,
            normalize=config.cross_norm,
        )

    def forward(self, batch: RankingBatch) -> TrunkOutput:
        """Return the representation of each row."""
        fields: Fields = self.fields(batch)
        inputs = fields.flat()
        crossed = self.crosses(inputs)
        if self.is_stacked:
            return TrunkOutput(self.layers(crossed))
        return TrunkOutput(torch.cat([crossed, self.layers(inputs)], dim=1))


class DCNv2(TrunkModel):
    """Cross layers and a deep network, with a linear output."""

    Config = DCNv2Config
    trunk_type = DCNv2Trunk
