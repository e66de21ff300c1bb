"""Runs of sequential models on growing tables, from the dataset to the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ensue.data.dataset import Dataset
from ensue.data.ranking.value_ids import value_ids
from ensue.errors import ConfigError, EnsueError, UsageError
from ensue.models.sequential.m3 import M3
from ensue.nn.growing_items import count_numbers, item_tables, name_items_, take_rows_
from ensue.runs.distill import distill
from ensue.runs.run import Run, load
from ensue.runs.train import item_ids, train
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.objectives import make_objective
from tests.helpers import make_dataset
from tests.training.test_resume import assert_same_run, stop_after

pytestmark = pytest.mark.slow  # trainings of seconds

NUM_ITEMS = 40
FAST: dict[str, Any] = {"dim": 8, "epochs": 2, "growth": {"slab_bits": 4}}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "caser": {**FAST, "batch_size": 32, "window": 3},
    "gru4rec": {**FAST, "batch_size": 8},
    "m3": {**FAST, "batch_size": 8},
    "sasrec": {**FAST, "batch_size": 8, "max_len": 12},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(30)[: rng.integers(6, 16)] + 1).tolist() for _ in range(40)]
    histories[3][-2:] = [38, 39]  # held out: training never sees them
    return make_dataset(tmp_path_factory.mktemp("data") / "d", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module", params=OF_FAMILY)
def run(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    family: str = request.param
    out = tmp_path_factory.mktemp("runs") / family
    train(family, dataset, out=out, **OF_FAMILY[family])
    return load(out)


def test_a_stored_run_answers_and_is_evaluated(run: Run, dataset: Dataset) -> None:
    validation = run.evaluate(split="validation").metrics["ndcg@10"]
    assert validation == pytest.approx(run.info["metrics"]["validation"]["ndcg@10"])
    (answer,) = run.recommend(users=["u1"], k=5)
    assert len(set(answer.items)) == 5
    index = run.build_index("exact")
    (indexed,) = run.recommend(users=["u1"], k=5, index=index)
    assert indexed.items == answer.items
    follower = run.follow("u1")
    assert follower.recommend(k=5).items == answer.items
    assert follower.recommend(k=5).scores == pytest.approx(answer.scores, abs=1e-5)
    assert run.info["config"]["growth"]["slab_bits"] == 4
    assert run.info["num_parameters"] == count_numbers(run.model)


def test_items_are_found_by_their_raw_ids(run: Run, dataset: Dataset) -> None:
    for table in item_tables(run.model):
        assert table.ids[1:].tolist() == value_ids("item", dataset.item_ids.raw).tolist()
        assert len(table.rows) == 30  # items of the training part
    vectors, bias = run.model.item_table()  # type: ignore[operator]
    assert vectors[1:31].any(dim=1).all()
    assert not vectors[31:].any()
    assert bias is None or not bias[31:].any()


def test_resume_after_an_interruption(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = run.info["model"]
    settings = {**OF_FAMILY[family], "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patch:
        stop_after(patch, 7, OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            train(family, dataset, out=tmp_path / "run", **settings)
    again = train(family, dataset, out=tmp_path / "run", resume=True, **settings)
    assert_same_run(again, run)


def test_rows_outlive_a_new_catalogue(tmp_path: Path) -> None:
    histories = [[1, 2, 3, 4, 2, 1], [3, 4, 1, 2, 3, 2]]
    old = make_dataset(tmp_path / "old", histories, split="none")
    new = make_dataset(tmp_path / "new", [[2, 4, 6], [1, 5, 3]], split="none")
    table = pl.DataFrame({"raw_id": ["x", "i4", "y", "i2", "i1", "i3"]})
    table.write_ipc(new.path / "items.arrow")
    run = train("m3", old, out=tmp_path / "run", **{**FAST, "epochs": 1})
    given: Any = run.model
    model: Any = M3(given.config, num_users=2, num_items=6)
    name_items_(model, item_ids(Dataset(new.path)))
    objective = make_objective(model, new.histories(), batch_size=2, seed=0)
    loop = TrainingLoop(model, objective, TrainingConfig(epochs=1), directory=tmp_path / "again")
    take_rows_(model, given)
    with torch.no_grad():
        for before, after in zip(given.item_table(), model.item_table(), strict=True):
            assert torch.equal(after[[5, 4, 6, 2]], before[[1, 2, 3, 4]])
            assert not after[[1, 3]].any()
        loop_began = model.item_table()[0].clone()
    loop.run()
    with torch.no_grad():
        change = model.item_table()[0] - loop_began
    assert change[[2, 4, 5, 6]].any(dim=1).all()  # rows of before are trained on
    assert 0 < change[[2, 4, 5, 6]].abs().max() < 0.01


def test_what_has_static_tables_says_so(dataset: Dataset, tmp_path: Path) -> None:
    grown = train("gru4rec", dataset, out=tmp_path / "grown", **OF_FAMILY["gru4rec"])
    refused: list[tuple[type[EnsueError], str, Any]] = [
        (
            ConfigError,
            "leave out growth",
            lambda out: train("deep_retrieval", dataset, out=out, growth={}),
        ),
        (ConfigError, "no setting 'growth'", lambda out: train("bpr", dataset, out=out, growth={})),
        (UsageError, "static tables.*growth=null", lambda out: distill(grown, out=out)),
        (
            UsageError,
            "static ones.*start=random",
            lambda out: distill(grown, out=out, start="teacher", growth=None),
        ),
    ]
    for number, (error, message, work) in enumerate(refused):
        with pytest.raises(error, match=message) as found:
            work(tmp_path / str(number))
        assert "\n" not in str(found.value)
        assert not (tmp_path / str(number)).exists()


@pytest.mark.parametrize(
    ("family", "method"), [("gru4rec", "rd"), ("m3", "kd"), ("gru4rec", "kd-sim")]
)
def test_a_teacher_may_have_growing_tables(
    dataset: Dataset, tmp_path: Path, family: str, method: str
) -> None:
    settings = {**OF_FAMILY[family], "epochs": 1}
    teacher = train(family, dataset, out=tmp_path / "teacher", **settings)
    student = distill(teacher, out=tmp_path / "student", method=method, growth=None)
    assert item_tables(student.model) == []
    assert np.isfinite(student.log()[-1]["loss"])
