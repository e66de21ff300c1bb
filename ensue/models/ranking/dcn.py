"""DCN: cross layers with a vector of weights each, beside a deep network or before it.

Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, arXiv:1708.05123 (Eq. 3).
A layer has 2 H weights, where one of DCN-V2 has H^2 or 2 H R; it multiplies all inputs by the same
sum of them.
Shapes: B rows, H width.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ensue.models.ranking.base import DeepConfig, TrunkModel
from ensue.models.ranking.dcn_v2 import DCNv2Trunk
from ensue.nn.crosses import CrossNetwork


class DCNConfig(DeepConfig):
    """Cross layers, and the deep network of `hidden`.

    num_crosses: layers; l of them hold products of up to l + 1 inputs.
    structure: the deep network stands beside the cross layers, as in the paper, or reads what they
        give.
    """

    num_crosses: int = Field(default=3, ge=1)
    structure: Literal["parallel", "stacked"] = "parallel"


class DCNTrunk(DCNv2Trunk):
    """Cross layers over all inputs, with a deep network beside them or behind them."""

    Config = DCNConfig

    @staticmethod
    def make_crosses(config: DCNConfig, width: int) -> CrossNetwork:
        """Return the cross layers."""
        return CrossNetwork(width, config.num_crosses, kind="vector")


class DCN(TrunkModel):
    """Cross layers and a deep network, with a linear output."""

    Config = DCNConfig
    trunk_type = DCNTrunk
