"""The public testbed of `ensue stability`: a ranker of several tasks on a stream that moves.

After Tang et al., KDD 2023, arXiv:2302.09178: a bottom of ReLU layers that the tasks share, and a
linear head for each. See `ensue.data.synthetic.stream`.
Shapes: B rows, M tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.data.synthetic.stream import StreamConfig, SyntheticStream
from ensue.runs.stability_problem import Bench, Problem, Quality, quality_of
from ensue.training.stream import StreamObjective

EMBEDDING_DIM = 8
FRESH_ROWS = 8192  # that the final quality is measured on


class StreamBenchConfig(Config):
    """The sizes of the bench.

    steps, batch_size: of a training; every row is seen once. width, depth: of the shared bottom.
    """

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=128, ge=1)
    width: int = Field(default=128, ge=1)
    depth: int = Field(default=4, ge=1)
    stream: StreamConfig = StreamConfig()


class StreamNetwork(nn.Module):
    """Embeddings and dense features, a shared bottom of ReLU layers, a linear head for each task.

    Layers start with the deviations of He et al. 2015, biases with zero.
    """

    def __init__(self, schema: RankingSchema, *, width: int, depth: int) -> None:
        super().__init__()
        codes = schema.of_kind("categorical")
        self.embeddings = nn.ModuleList(nn.Embedding(c.size + 1, EMBEDDING_DIM) for c in codes)
        dim = EMBEDDING_DIM * len(codes) + sum(c.size for c in schema.of_kind("vector"))
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(dim, width), nn.ReLU()]
            dim = width
        self.bottom = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(dim, 1) for _ in schema.tasks)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, batch: RankingBatch) -> Tensor:
        """Return logits of binary tasks and values of the others [B, M]."""
        embedded = [table(batch.codes[:, n]) for n, table in enumerate(self.embeddings)]
        hidden = self.bottom(torch.cat([*embedded, *batch.vectors], dim=1))
        return torch.cat([head(hidden) for head in self.heads], dim=1)


def stream_bench(
    config: StreamBenchConfig | None = None,
    build: Callable[[RankingSchema], nn.Module] | None = None,
) -> Bench:
    """Return the bench of the synthetic stream.

    Args:
        build: makes a network that takes a `RankingBatch`; None is the shared bottom of the config.
    """
    config = config or StreamBenchConfig()

    def make(seed: int) -> Problem:
        stream = SyntheticStream(config.stream, seed=seed)
        model = (
            build(stream.schema)
            if build
            else StreamNetwork(stream.schema, width=config.width, depth=config.depth)
        )
        objective = StreamObjective(stream, num_steps=config.steps, batch_size=config.batch_size)

        def measure(trained: nn.Module) -> Quality:
            fresh = stream.batch(config.steps - 1, FRESH_ROWS, draw=1)
            device = next(trained.parameters()).device
            tensors = [tensor.to(device) for tensor in fresh.tensors()]
            found = trained(RankingBatch.from_tensors(tensors, stream.schema))
            return quality_of(stream.schema.tasks, fresh.labels.numpy(), found.cpu().numpy())

        return Problem(model, objective, measure)

    return Bench({"name": "synthetic stream", **config.model_dump()}, make)
