"""Logistic regression on the values of all columns: what every other model is measured against.

Richardson, Dominowska and Ragno, "Predicting Clicks", WWW 2007; McMahan et al., "Ad Click
Prediction: a View from the Trenches", KDD 2013. For a regression it is linear regression.
Departure: trained as the other models are; McMahan et al. use FTRL-Proximal, which makes most
weights zero.
Shapes: B rows, M tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import RankingModel, TablesConfig
from ensue.nn.field_embedding import FirstOrder


class LRConfig(TablesConfig):
    """What logistic regression reads."""


class LR(RankingModel):
    """b + the sum of the weights of a row's values; b and the weights start at 0."""

    Config = LRConfig

    def __init__(self, config: LRConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.first_order = FirstOrder(schema, tables=config.tables)
        self.bias = nn.Parameter(torch.zeros(len(schema.tasks)))

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        out: Tensor = self.first_order(batch) + self.bias
        return out
