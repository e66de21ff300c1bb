"""The demo on a file of the user's; `make demo` runs it on the embedded log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ensue
from ensue.runs.demo import run_demo


@pytest.mark.slow
def test_demo_on_a_file(tmp_path: Path) -> None:
    config = ensue.SyntheticConfig(
        num_users=120, num_items=60, num_interactions=2400, num_categories=4
    )
    log = tmp_path / "log.csv"
    ensue.generate(config).interactions.select("user", "item", "timestamp").write_csv(log)
    outcome = run_demo(tmp_path / "demo", data=log)
    found = outcome.to_dict()
    baselines = {"popularity", "markov", "item_knn", "ease", "bpr"}
    assert set(found["runs"]) == baselines | {"caser", "sasrec"}
    assert found["metrics"][found["best"]]["map"] == max(
        m["map"] for m in found["metrics"].values()
    )
    for answer in outcome.answers:
        assert len(answer.items) == 5
    assert set(outcome.history).isdisjoint(outcome.answers[1].items)
    assert "<svg" in outcome.report.read_text()
    json.dumps(found, allow_nan=False)
    again = run_demo(tmp_path / "demo", data=log)  # replaces the first
    assert again.to_dict()["metrics"] == found["metrics"]
