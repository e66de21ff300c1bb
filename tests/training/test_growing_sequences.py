"""Models of sequences on growing tables: the numbers of static ones, and what rows come and go by.

Every item is admitted before the first step, and the static model begins with the same rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import Model
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.nn.growing_items import all_rows, item_tables, see_items_
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of

pytestmark = pytest.mark.slow  # trainings of seconds

NUM_ITEMS = 25
TABLES = ("item_embedding", "output_embedding", "own_output", "item_bias", "output_bias")
FAMILIES: dict[str, Any] = {
    "caser": (Caser, CaserConfig, {"window": 3}),
    "gru4rec": (GRU4Rec, GRU4RecConfig, {"max_len": 10}),
    "m3": (M3, M3Config, {"max_len": 10}),
    "sasrec": (SASRec, SASRecConfig, {"max_len": 10}),
}


def histories() -> Histories:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 15, 30)
    return histories_of([rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in lengths])


def make(family: str, growth: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    model, config, own = FAMILIES[family]
    settings = {"dim": 6, "dropout": 0.0, **own, "growth": growth, **settings}
    return model(config(**settings), num_users=30, num_items=NUM_ITEMS)


def loop(model: Model, directory: Path, **settings: Any) -> TrainingLoop:
    settings = {"epochs": 2, "learning_rate": 0.05, "weight_decay": 0.0, **settings}
    objective = make_objective(model, histories(), batch_size=16, seed=0)
    return TrainingLoop(model, objective, TrainingConfig(**settings), directory=directory)


def losses(directory: Path) -> list[float]:
    lines = (directory / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


@torch.no_grad()
def begin_like_(static: nn.Module, growing: nn.Module) -> None:
    """Give a static model the rows and the other weights of a growing one."""
    own, given = dict(static.named_parameters()), dict(growing.named_parameters())
    for name, parameter in own.items():
        if name in given:
            parameter.copy_(given[name])
        else:
            assert name in TABLES
            parameter.copy_(all_rows(getattr(growing, name)))


@pytest.mark.parametrize(
    ("family", "of_model", "of_training"),
    [
        ("sasrec", {}, {"optimizer": "adam", "weight_decay": 0.01, "clip_norm": 0.5}),
        ("sasrec", {"loss": "gbce", "num_negatives": 4}, {"optimizer": "lazy_adam"}),
        ("sasrec", {"loss": "sampled_softmax", "num_negatives": 8}, {"optimizer": "adagrad"}),
        ("gru4rec", {}, {"optimizer": "adam", "clip_norm": 0.5}),
        ("gru4rec", {"loss": "bce", "num_negatives": 4}, {"optimizer": "clippy", "clip_norm": 0.5}),
        ("m3", {}, {"optimizer": "lazy_adam", "clip_norm": 0.5}),
        ("m3", {"output": "tied"}, {"optimizer": "adagrad", "clip_norm": 0.5}),
        (
            "m3",
            {"loss": "sampled_softmax", "negatives": "in_batch"},
            {"optimizer": "lazy_adam", "weight_decay": 0.01},
        ),
        ("caser", {}, {"optimizer": "lazy_adam", "weight_decay": 0.01, "clip_norm": 0.5}),
        ("caser", {"loss": "sum"}, {"optimizer": "adagrad"}),
        ("caser", {}, {"optimizer": "clippy"}),
    ],
)
def test_losses_and_scores_are_those_of_static_tables(
    family: str, of_model: dict[str, Any], of_training: dict[str, Any], tmp_path: Path
) -> None:
    growing, static = make(family, {"slab_bits": 3}, **of_model), make(family, **of_model)
    folders = [tmp_path / "growing", tmp_path / "static"]
    pairs = zip((growing, static), folders, strict=True)
    loops = [loop(model, folder, **of_training) for model, folder in pairs]
    see_items_(growing.train(), torch.arange(1, NUM_ITEMS + 1))
    begin_like_(static, growing)
    for each in loops:
        each.run()
    found, expected = map(losses, folders)
    assert expected[1] < expected[0]
    assert found == pytest.approx(expected, rel=1e-5)
    batch = HistoryBatch.from_lists([[3, 9, 4], [7], []], users=[4, 0, 2])
    with torch.no_grad():
        torch.testing.assert_close(
            growing.score(batch)[:, 1:], static.score(batch)[:, 1:], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_hold_what_the_log_shows(family: str, tmp_path: Path) -> None:
    model = make(family, {"slab_bits": 3})
    seen = [[3, 9, 4, 9, 11, 3], [4, 9, 3, 11, 4, 4]]
    settings = TrainingConfig(epochs=1, learning_rate=0.05)
    objective = make_objective(model, histories_of(seen), batch_size=2, seed=0)
    TrainingLoop(model, objective, settings, directory=tmp_path).run()
    tables = item_tables(model)
    assert {len(table.rows) for table in tables} == {4}
    table, _ = model.item_table()
    known = torch.zeros(NUM_ITEMS + 1, dtype=torch.bool).index_fill_(0, torch.tensor(seen[0]), True)
    assert table[known].any(dim=1).all()
    assert not table[~known].any()
    with torch.no_grad():
        scores = model.score(HistoryBatch.from_lists([[3, 9, 4]], users=[1]))[0]
    assert not scores[~known].any()
    assert scores[known].all()


def test_every_event_is_one_sight(tmp_path: Path) -> None:
    lists = [[3, 9, 4, 9, 11, 3], [5, 9]]
    model = make("gru4rec", {"slab_bits": 3})
    objective = make_objective(model, histories_of(lists), batch_size=2, seed=0)
    TrainingLoop(model, objective, TrainingConfig(epochs=1), directory=tmp_path).run()
    rows = model.item_embedding.rows
    ids = torch.tensor([3, 4, 5, 9, 11])
    assert rows.notes.take(rows.table.find(ids))[:, 1].tolist() == [2, 1, 1, 3, 1]


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_items_come_by_their_count_and_go_by_their_age(loss: str, tmp_path: Path) -> None:
    growth = {"slab_bits": 3, "admission": {"min_count": 3}}
    model = make("sasrec", growth, loss=loss, num_negatives=8)
    lists = [[3, 9, 4, 9, 11, 3, 9, 3]]
    objective = make_objective(model, histories_of(lists), batch_size=1, seed=0)
    settings = TrainingConfig(epochs=1, optimizer="lazy_adam")
    TrainingLoop(model, objective, settings, directory=tmp_path).run()
    with torch.no_grad():
        known = model.item_table()[0].any(dim=1).nonzero().flatten()
    assert known.tolist() == [3, 9]


@pytest.mark.gpu
@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_same_on_the_gpu(loss: str, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        model = make("m3", {"slab_bits": 3}, loss=loss, num_negatives=4).to(device)
        loop(model, tmp_path / device, optimizer="lazy_adam", clip_norm=0.5).run()
        assert {len(table.rows) for table in item_tables(model)} == {NUM_ITEMS}
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-4)
