from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from ensue.errors import RunError
from ensue.evaluation.evaluator import evaluate
from ensue.evaluation.result import Evaluation
from tests.evaluation.models import LastItemModel
from tests.helpers import make_dataset


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    histories = [[1, 2, 3, 4], [4, 3, 2, 1, 5], [2, 5, 1]]
    data = make_dataset(tmp_path / "data", histories, notes=["a note"])
    return evaluate(LastItemModel(5), data, num_resamples=50)


def test_a_stored_evaluation_is_the_same(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path / "evaluation", "test")
    loaded = Evaluation.load(tmp_path / "evaluation", "test")
    assert loaded.to_dict() == evaluation.to_dict()
    assert loaded.users.equals(evaluation.users)
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {
        "test.json",
        "test_users.arrow",
    }


def test_saving_again_replaces(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path, "test")
    first = Evaluation.load(tmp_path, "test")
    evaluation.save(tmp_path, "test")
    assert first.users.equals(Evaluation.load(tmp_path, "test").users)


def test_the_json_object(evaluation: Evaluation) -> None:
    found = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert set(found) == {
        *("metrics", "intervals", "protocol", "slices", "user_slices", "coverage")
    }
    assert {"map", "mrr", "ndcg@10", "recall@10", "precision@5", "hr@10"} <= set(found["metrics"])
    assert set(found["metrics"]) == set(found["intervals"])
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high
    for values in evaluation.users.drop("user", "num_targets"):
        assert found["metrics"][values.name] == pytest.approx(values.mean())


def test_missing_evaluation(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"test\.json does not exist. Run ensue evaluate first"):
        Evaluation.load(tmp_path, "test")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metrics": {}, "unknown": 1}'])
def test_damaged_json(text: str, evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path, "test")
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(RunError, match="must be what ensue evaluate wrote; they are not"):
        Evaluation.load(tmp_path, "test")


def test_files_of_two_evaluations(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path, "test")
    evaluation.users.head(2).write_ipc(tmp_path / "test_users.arrow")
    with pytest.raises(RunError, match="the one tells of 3 users, the other holds 2"):
        Evaluation.load(tmp_path, "test")


def test_damaged_table(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path, "test")
    (tmp_path / "test_users.arrow").write_bytes(b"ARROW1\0\0 but no more")
    with pytest.raises(RunError, match="must be what ensue evaluate wrote"):
        Evaluation.load(tmp_path, "test")


def test_an_interrupted_save_leaves_the_old_evaluation(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation.save(tmp_path, "test")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_ipc", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluation.save(tmp_path, "test")
    assert Evaluation.load(tmp_path, "test").users.equals(evaluation.users)
    assert not list(tmp_path.glob(".*"))
