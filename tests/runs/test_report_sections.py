from __future__ import annotations

from ensue.runs.report_sections import clipping_section, tasks_section
from tests.runs.page import Page

TASKS = [{"name": "click", "kind": "binary"}, {"name": "watch", "kind": "regression"}]
LOG = [
    {
        "epoch": epoch,
        "task_losses": {"click": 0.6 / epoch, "watch": 2.0 / epoch},
        "validation": {"click/auc": 0.6 + epoch / 100, "watch/rmse": 1.5 / epoch},
        "clipping": {"hidden.weight": 1 / epoch, "hidden.bias": 1.0},
        "skipped_steps": epoch,
    }
    for epoch in (1, 2, 4)
]


def texts(html):
    return Page(f"<main>{html}</main>").texts


def test_each_task_has_its_curves():
    shown = texts(tasks_section(LOG, TASKS))
    for text in ("loss of click", "auc of click on validation", "rmse of watch on validation"):
        assert text in shown


def test_one_task_needs_no_curves_of_its_own():
    assert tasks_section(LOG, TASKS[:1]) == ""


def test_a_tensor_that_was_clipped_is_drawn_and_all_are_listed():
    shown = texts(clipping_section(LOG))
    assert "factor of hidden.weight" in shown
    assert "factor of hidden.bias" not in shown
    assert {"hidden.weight", "hidden.bias", "0.2500", "1.0000"} <= set(shown)
    assert any("not finite: 7." in text for text in shown)


def test_without_clipping_there_is_no_section():
    assert clipping_section([{"epoch": 1, "loss": 1.0}]) == ""
