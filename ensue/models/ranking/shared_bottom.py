"""Shared bottom: one representation for all tasks, and a tower for each.

Caruana, "Multitask Learning", Machine Learning 1997. With towers that are linear outputs it is the
model that Tang et al., KDD 2023, arXiv:2302.09178, train with Clippy: their small one has two
shared layers of 512, their large one four of 4,096, and the largest a cross layer with LayerNorm
before these (`trunk=dcn_v2 num_crosses=1 cross_norm=true`).
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import RankingModel, TrunkOutput, add_logits
from ensue.models.ranking.trunks import TrunkConfig, make_trunk
from ensue.nn.perceptron import TaskTowers


class SharedBottomConfig(TrunkConfig):
    """What the tasks share, and their towers."""


class SharedBottom(RankingModel):
    """Towers that all read the same."""

    Config = SharedBottomConfig

    def __init__(self, config: SharedBottomConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        self.trunk = make_trunk(config, schema)
        self.towers = TaskTowers(
            self.trunk.width, config.tower, num_tasks=len(schema.tasks), dropout=config.dropout
        )

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        out: TrunkOutput = self.trunk(batch)
        return add_logits(self.towers([out.hidden] * len(self.schema.tasks)), out)
