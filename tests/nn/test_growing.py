from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.embedding import dot_rows
from ensue.nn.growing import grow_table_
from ensue.nn.hashing import start_values
from ensue.nn.table_config import TableConfig
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.next_item import NextItemObjective
from ensue.training.objectives import WindowObjective
from tests.contracts.planted import histories_of

NUM_ITEMS = 25
CONFIG = TableConfig(slab_bits=3, start_scale=0.1, seed=2)


def histories() -> Any:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 15, 30)
    return histories_of([rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in lengths])


def caser(*, is_growing: bool) -> tuple[Caser, WindowObjective]:
    torch.manual_seed(0)
    model = Caser(CaserConfig(dim=6, dropout=0.0), num_users=30, num_items=NUM_ITEMS)
    prepare(model, is_growing)
    return model, WindowObjective(model, histories(), batch_size=16, seed=0)


def m3(*, is_growing: bool) -> tuple[M3, NextItemObjective]:
    torch.manual_seed(0)
    config = M3Config(dim=6, dropout=0.0, output="own", max_len=10)
    model = M3(config, num_users=30, num_items=NUM_ITEMS)
    prepare(model, is_growing)
    return model, NextItemObjective(model, histories(), batch_size=16, seed=0)


def prepare(model: nn.Module, is_growing: bool) -> None:
    """Let items be read from a growing table, or from a static one that begins like it."""
    if is_growing:
        grow_table_(model, "item_embedding", CONFIG)
        return
    with torch.no_grad():
        items = torch.arange(1, NUM_ITEMS + 1)
        settings = {"seed": 2, "name": CONFIG.start, "scale": 0.1, "dtype": torch.float32}
        model.item_embedding[1:] = start_values(items, 6, **settings)  # type: ignore[operator,union-attr]


def loop(model: Any, objective: Any, directory: Path, **settings: Any) -> TrainingLoop:
    settings = {"epochs": 2, "learning_rate": 0.05, "weight_decay": 0.0, **settings}
    return TrainingLoop(model, objective, TrainingConfig(**settings), directory=directory)


def losses(directory: Path) -> list[float]:
    lines = (directory / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("make", [caser, m3])
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adagrad"},
        {"optimizer": "lazy_adam", "weight_decay": 0.01},
        {"optimizer": "clippy", "clip_norm": 0.5},
    ],
)
def test_a_model_trains_to_the_same_losses(make: Any, settings: Any, tmp_path: Path) -> None:
    for is_growing in (False, True):
        model, objective = make(is_growing=is_growing)
        loop(model, objective, tmp_path / str(is_growing), **settings).run()
    static, growing = (losses(tmp_path / name) for name in ("False", "True"))
    assert static[1] < static[0]
    assert growing == pytest.approx(static, rel=2e-6)
    assert len(model.item_embedding) == NUM_ITEMS


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = (caser(is_growing=True) for _ in range(3))
    settings = {"optimizer": "adagrad", "decay": "none"}
    loop(*whole, tmp_path / "whole", **settings).run()
    loop(*first, tmp_path / "parts", epochs=1, **{**settings}).run()
    loop(*second, tmp_path / "parts", **settings).run(resume=True)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name])


def test_products_with_rows_of_a_growing_table() -> None:
    table, queries = DynamicEmbedding(3, CONFIG), torch.randn(2, 3)
    ids = torch.tensor([[5, 9, 5], [9, 0, 2]])
    expected = (queries[:, None] * table(ids)).sum(2)
    torch.testing.assert_close(dot_rows(queries, table, ids), expected)


def test_what_is_no_table() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"in \['0.weight'\]; got '0.bias'"):
        grow_table_(model, "0.bias")
    with pytest.raises(ValueError, match="got 'items'"):
        grow_table_(model, "items")
