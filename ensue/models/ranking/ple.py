"""PLE: experts of each task beside shared ones, in several levels, so that tasks do not seesaw.

Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
Personalized Recommendations", RecSys 2020 (Eq. 3 to 8). With one level it is CGC, section 4.2. In
the paper the experts read the inputs: `trunk=dnn` with no hidden layers, the default. Departure:
gates are all equal at the start.
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.models.ranking.base import RankingModel, TrunkOutput, add_logits
from ensue.models.ranking.trunks import TrunkConfig, make_trunk
from ensue.nn.experts import ProgressiveExtraction
from ensue.nn.perceptron import TaskTowers


class PLEConfig(TrunkConfig):
    """Levels of experts between the trunk and the towers.

    num_levels: each reads what the one before it gives.
    task_experts, shared_experts: of each level, for each task and for all.
    expert: widths of the layers of an expert.
    """

    hidden: list[int] = Field(default_factory=list)
    tower: list[int] = Field(default_factory=lambda: [64])
    num_levels: int = Field(default=2, ge=1)
    task_experts: int = Field(default=2, ge=1)
    shared_experts: int = Field(default=2, ge=0)
    expert: list[int] = Field(default_factory=lambda: [256], min_length=1)


class PLE(RankingModel):
    """Towers behind levels of experts."""

    Config = PLEConfig

    def __init__(self, config: PLEConfig, *, schema: RankingSchema) -> None:
        super().__init__(config, schema=schema)
        num_tasks = len(schema.tasks)
        self.trunk = make_trunk(config, schema)
        self.experts = ProgressiveExtraction(
            self.trunk.width,
            config.expert,
            counts=(config.task_experts, config.shared_experts),
            num_tasks=num_tasks,
            num_levels=config.num_levels,
            dropout=config.dropout,
        )
        self.towers = TaskTowers(
            self.experts.width, config.tower, num_tasks=num_tasks, dropout=config.dropout
        )

    def outputs(self, batch: RankingBatch) -> Tensor:
        """Return [B, M]."""
        out: TrunkOutput = self.trunk(batch)
        return add_logits(self.towers(self.experts(out.hidden)), out)
