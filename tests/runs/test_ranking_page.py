from __future__ import annotations

import pytest

from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.runs.page import build_page, header
from ensue.runs.ranking_page import ranking_sections, task_tiles
from tests.evaluation.ranking.data import Rows, known
from tests.runs.page import Page, assert_self_contained


def page_of(found, title):
    return build_page(title, [header(title, [], task_tiles(found)), *ranking_sections(found)])


def test_the_page_shows_tasks_curves_calibration_and_slices():
    protocol = RankingProtocol(group="user", popularity="user", by=("day",))
    found = evaluate_ranking(known, Rows(), (0, 600), protocol).to_dict()
    html = page_of(found, title="Ranking <b>")
    assert_self_contained(html)
    texts = Page(html).texts
    auc = found["tasks"]["click"]["metrics"]["auc"]
    for text in (
        "Ranking <b>",
        f"{auc:.4f}",
        "GAUC",
        "RMSE",
        "calibration of click",
        "calibration of time",
        "ROC of click",
        "precision of click",
        "click, popularity of user",
        "time, day",
        "tail",
        "day2",
        "Intervals: normal, 95%; independent units are groups (user), in 256 random clusters.",
    ):
        assert text in texts, text
    assert "ROC of time" not in texts
    low, high = found["tasks"]["click"]["intervals"]["auc"]
    assert f"{low:.4f} to {high:.4f}" in texts


def test_what_is_undefined_is_a_dash_and_said():
    data = Rows()
    data.labels[:, 0] = 0.0
    found = evaluate_ranking(known, data, (0, 600), RankingProtocol(by=("day",))).to_dict()
    texts = Page(page_of(found, title="One class")).texts
    assert "click has no AUC: all 600 rows have the label 0." in texts
    assert "-" in texts
    assert "ROC of click" not in texts


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_without_labels_has_a_row_and_no_drawing(task: int):
    data = Rows()
    data.labels[:, task] = float("nan")
    sections = "".join(
        ranking_sections(evaluate_ranking(known, data, (0, 600), RankingProtocol()).to_dict())
    )
    name = ("click", "time")[task]
    texts = Page(sections).texts
    assert name in texts
    assert f"calibration of {name}" not in texts
    assert "Slices" not in texts
