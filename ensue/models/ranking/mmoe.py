"""MMoE: experts that all tasks share, and for each task a gate that says how far each counts.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018 (Eq. 6 and 7). In the paper the experts read the inputs: `trunk=dnn` with no hidden layers,
the default. Departure: gates are all equal at the start.
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import RankingModel, TrunkOutput, add_logits
from ensue.models.ranking.trunks import TrunkConfig, make_trunk
from ensue.nn.experts import MultiGateExperts
from ensue.nn.perceptron import TaskTowers


class MMoEConfig(TrunkConfig):
    """Experts between the trunk and the towers.

    expert: widths of the layers of an expert.
    """

    hidden: list[int] = Field(default_factory=list)
    tower: list[int] = Field(default_factory=lambda: [64])
    num_experts: int = Field(default=8, ge=1)
    expert: list[int] = Field(default_factory=lambda: [256], min_length=1)


class MMoE(RankingModel):
    """Towers that each read their own mixture of the same experts."""

    Config = MMoEConfig

    def __init__(self, config: MMoEConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        num_tasks = len(schema.tasks)
        self.trunk = make_trunk(config, schema)
        self.experts = MultiGateExperts(
            self.trunk.width,
            config.expert,
            num_experts=config.num_experts,
            num_tasks=num_tasks,
            dropout=config.dropout,
        )
        self.towers = TaskTowers(
            self.experts.width, config.tower, num_tasks=num_tasks, dropout=config.dropout
        )

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        out: TrunkOutput = self.trunk(batch)
        return add_logits(self.towers(self.experts(out.hidden)), out)
