from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensue.errors import DataError, UsageError
from ensue.evaluation.ranking import metrics
from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.evaluation.ranking.slicing import Slicing
from tests.evaluation.ranking.data import SCHEMA, Rows, known

ALL = RankingProtocol(group="user", popularity="user", by=("day",), max_values=2)


def test_every_task_and_slice_equals_the_definitions():
    data = Rows()
    found = evaluate_ranking(known, data, (100, 600), ALL, about={"part": "test"})
    user, day = data.codes[100:].T
    y, t = data.labels[100:].T
    z, v = data.numbers[100:].T
    w, u = data.weights[100:].T
    click, time = found.tasks["click"], found.tasks["time"]
    assert click["metrics"]["auc"] == pytest.approx(metrics.auc(y, z, w), rel=1e-12)
    has_user = user > 0
    expected = metrics.gauc(*(column[has_user] for column in (y, z, user, w)))
    assert click["metrics"]["gauc"] == pytest.approx(expected.value, rel=1e-12)
    assert click["groups"]["rows_without_group"] == (~has_user).sum()
    has_label = ~np.isnan(t)
    expected_mae = metrics.mean_absolute_error(*(column[has_label] for column in (t, v, u)))
    assert time["metrics"]["mae"] == pytest.approx(expected_mae, rel=1e-12)
    assert time["rows"] == has_label.sum() < click["rows"] == 500
    # Days 2 and 3 have the most training rows; day 1 is "other".
    days = found.slices["day"]
    assert list(days) == ["day2", "day3", "(other)", "(missing)"]
    for name, code in (("day2", 2), ("day3", 3), ("(other)", 1), ("(missing)", 0)):
        own = day == code
        expected_auc = metrics.auc(y[own], z[own], w[own])
        assert days[name]["click"]["metrics"]["auc"] == pytest.approx(expected_auc, rel=1e-12)
        assert days[name]["time"]["rows"] == (own & has_label).sum()
        assert "curve" not in days[name]["click"]
    parts = found.slices["popularity of user"]
    assert sum(part["click"]["rows"] for part in parts.values()) == has_user.sum()
    assert parts["new"]["click"]["rows"] == (user == 40).sum()
    assert found.protocol["part"] == "test"
    assert found.protocol["rows"] == 500
    assert "groups (user), in 256 random clusters" in found.protocol["interval"]
    assert set(found.protocol["metrics"]) == set(click["metrics"]) | set(time["metrics"])


def test_batches_and_memory_do_not_matter(tmp_path: Path):
    small = RankingProtocol(
        group="user", popularity="user", by=("day",), max_values=2, batch_size=7,
        memory_bytes=1 << 20, folder=tmp_path,
    )  # fmt: skip
    data = Rows()
    expected = evaluate_ranking(known, data, (0, 600), ALL)
    assert evaluate_ranking(known, data, (0, 600), small).tasks == expected.tasks
    assert not list(tmp_path.iterdir())


def test_groups_may_come_from_elsewhere():
    data = Rows()
    given = RankingProtocol(group=lambda index: data.codes[index, 0])
    named = RankingProtocol(group="user")
    found = evaluate_ranking(known, data, (0, 600), given)
    assert found.tasks == evaluate_ranking(known, data, (0, 600), named).tasks
    assert found.protocol["group"] == "given with the rows"


def test_a_model_with_growing_tables_reads_ids_and_slices_stay():
    seen = []

    def predict(batch):
        seen.append(int(batch.codes.min()))
        return batch.numbers

    protocol = RankingProtocol(by=("day",), as_ids=True)
    found = evaluate_ranking(predict, Rows(), (0, 600), protocol)
    assert seen == [1000]
    assert found.slices["day"]["day1"]["click"]["rows"] > 0


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, batch):
        return self.dropout(batch.numbers) * self.scale


def test_a_module_is_evaluated_without_dropout_and_left_as_it_was():
    model = Model()
    found = evaluate_ranking(model, Rows(), (0, 600)).tasks["click"]["metrics"]["auc"]
    assert found == evaluate_ranking(known, Rows(), (0, 600)).tasks["click"]["metrics"]["auc"]
    assert model.training


def test_without_groups_there_is_no_gauc():
    found = evaluate_ranking(known, Rows(), (0, 600))
    assert "gauc" not in found.tasks["click"]["metrics"]
    assert "gauc" not in found.protocol["metrics"]
    assert found.protocol["interval"] == "normal, 95%; independent units are rows"


@pytest.mark.parametrize(
    ("protocol", "bounds", "error", "text"),
    [
        (RankingProtocol(), (5, 5), DataError, "evaluation needs rows; rows 5 to 5 are none"),
        (RankingProtocol(batch_size=0), (0, 9), UsageError, "batch_size must be 1 or more; got 0"),
        (RankingProtocol(group="usr"), (0, 9), UsageError, "group must name a categorical column; "
         "'usr' is none. Did you mean 'user'"),
        (RankingProtocol(popularity="age"), (0, 9), UsageError, "popularity must name a categori"),
        (RankingProtocol(by=("x",)), (0, 9), UsageError, "by must name a categorical column"),
        (RankingProtocol(max_values=0), (0, 9), UsageError, "max_values must be 1 or more; got 0"),
    ],
)  # fmt: skip
def test_errors(protocol, bounds, error, text):
    with pytest.raises(error, match=text):
        evaluate_ranking(known, Rows(), bounds, protocol)


def test_predictions_of_another_shape():
    with pytest.raises(UsageError, match=r"predict must return \[rows, tasks\], \(9, 2\); got \(9"):
        evaluate_ranking(lambda batch: batch.numbers[:, 0], Rows(), (0, 9))


def test_a_value_may_have_the_name_of_a_slice():
    slicing = Slicing.by_value("day", ["(other)", "b"], np.array([0, 3, 2]), 1)
    assert slicing.names == ("(other)", "((other))", "(missing)")
    assert slicing.slice_of_code.tolist() == [2, 0, 1]
    assert SCHEMA.vocabularies == {"user": 40, "day": 3}
