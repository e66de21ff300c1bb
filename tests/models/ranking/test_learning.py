from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task
from ensue.losses.multitask import task_losses
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import RANKERS, build_ranker

NUM_VALUES = 6
COLUMNS = tuple(RankingColumn(name, "categorical", NUM_VALUES, name) for name in "abc")


def train(
    name: str, batch: RankingBatch, schema: RankingSchema, *, steps: int = 60, **settings: Any
) -> RankingModel:
    torch.manual_seed(0)
    model = build_ranker(name, make_config(RANKERS[name].model.Config, settings), schema)
    kinds = [task.kind for task in schema.tasks]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.04, fused=True)
    for _ in range(steps):
        losses = task_losses(model(batch), batch.labels, batch.weights, kinds)
        optimizer.zero_grad(set_to_none=False)
        losses.sum().backward()
        optimizer.step()
    return model


def draw(num_rows: int, labels: Any, *, seed: int = 0) -> RankingBatch:
    """Return rows of three columns with labels(codes) [B, M]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, NUM_VALUES + 1, (num_rows, 3), generator=generator)
    targets = labels(codes).float()
    none = torch.zeros(num_rows, 0)
    return RankingBatch(codes, (), none, (), targets, torch.ones_like(targets))


def exclusive_or(codes: Tensor) -> Tensor:
    """Return whether exactly one of the first two codes is odd: neither tells anything alone."""
    return ((codes[:, 0] + codes[:, 1]) % 2 == 1)[:, None]


@torch.no_grad()
def accuracy(model: RankingModel, batch: RankingBatch) -> float:
    return float(((model(batch) > 0) == (batch.labels > 0.5)).float().mean())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fm", {"dim": 4}),
        ("deepfm", {"dim": 4, "hidden": [16]}),
        ("wide_deep", {"dim": 4, "hidden": [32]}),
        ("dcn", {"dim": 4, "hidden": [16], "num_crosses": 1}),
        ("dcn_v2", {"dim": 4, "hidden": [16], "num_crosses": 1}),
        ("dlrm", {"dim": 4, "hidden": [16]}),
    ],
)
def test_learns_what_no_column_tells_alone(name: str, settings: dict[str, Any]) -> None:
    schema = RankingSchema(COLUMNS, (Task("t", "binary"),))
    train_rows, held_out = draw(500, exclusive_or), draw(500, exclusive_or, seed=1)
    assert accuracy(train(name, train_rows, schema, **settings), held_out) > 0.95


def test_a_linear_model_does_not() -> None:
    schema = RankingSchema(COLUMNS, (Task("t", "binary"),))
    model = train("lr", draw(500, exclusive_or), schema)
    assert accuracy(model, draw(500, exclusive_or, seed=1)) < 0.65


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shared_bottom", {"hidden": [32]}),
        ("mmoe", {"expert": [32], "num_experts": 3}),
        ("ple", {"expert": [32], "num_levels": 1}),
    ],
)
def test_learns_two_tasks_that_have_nothing_in_common(name: str, settings: dict[str, Any]) -> None:
    schema = RankingSchema(COLUMNS, (Task("odd", "binary"), Task("size", "regression")))

    def labels(codes: Tensor) -> Tensor:
        return torch.cat([exclusive_or(codes), codes[:, 2:] / 2.0], dim=1)

    model = train(name, draw(500, labels), schema, steps=100, dim=4, tower=[8], **settings)
    held_out = draw(500, labels, seed=1)
    with torch.no_grad():
        predicted = model.predict(held_out)
    assert float(((predicted[:, 0] > 0.5) == (held_out.labels[:, 0] > 0.5)).float().mean()) > 0.95
    assert float((predicted[:, 1] - held_out.labels[:, 1]).square().mean()) < 0.05


def test_linear_regression_learns_weights_of_values() -> None:
    schema = RankingSchema(COLUMNS, (Task("t", "regression"),))
    batch = draw(500, lambda codes: codes[:, :1] * 0.2 - codes[:, 1:2] * 0.1)
    model = train("lr", batch, schema)
    with torch.no_grad():
        assert float((model(batch) - batch.labels).abs().max()) < 0.05
