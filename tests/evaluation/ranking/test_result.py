from __future__ import annotations

import json
from pathlib import Path

import pytest

from ensue.errors import RunError
from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.evaluation.ranking.result import RankingEvaluation
from tests.evaluation.ranking.data import Rows, known


@pytest.fixture(scope="module")
def evaluation() -> RankingEvaluation:
    return evaluate_ranking(known, Rows(), (0, 600), RankingProtocol(group="user", by=("day",)))


def test_a_stored_evaluation_is_the_same(evaluation: RankingEvaluation, tmp_path: Path):
    evaluation.save(tmp_path / "evaluation", "test")
    assert RankingEvaluation.load(tmp_path / "evaluation", "test") == evaluation
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["test.json"]


def test_metrics_by_task(evaluation: RankingEvaluation):
    assert evaluation.metrics["click/auc"] == evaluation.tasks["click"]["metrics"]["auc"]
    assert "time/rmse" in evaluation.metrics
    alone = evaluate_ranking(known, Rows(1), (0, 1))
    assert "click/auc" not in alone.metrics
    json.dumps(alone.to_dict(), allow_nan=False)


def test_missing_evaluation(tmp_path: Path):
    with pytest.raises(RunError, match=r"test\.json does not exist. Evaluate the model first"):
        RankingEvaluation.load(tmp_path, "test")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"tasks": {}, "slices": {}, "protocol": {}, "more": 1}',
     '{"tasks": {"click": {"kind": "binary"}}, "slices": {}, "protocol": {}}',
     '{"tasks": [1], "slices": {}, "protocol": {}}'],
)  # fmt: skip
def test_damaged_json(text: str, tmp_path: Path):
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(RunError, match="must hold the evaluation of a ranking model; it does not"):
        RankingEvaluation.load(tmp_path, "test")
