"""What runs cost and give, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ensue
from ensue.errors import UsageError
from ensue.runs.run import Run
from ensue.runs.tradeoff import tradeoff
from tests.cli.test_end_to_end import call
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

NUM_ITEMS = 25


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A large and a small Caser, the second a student of the first."""
    folder = tmp_path_factory.mktemp("tradeoff")
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(4, 12)] + 1).tolist() for _ in range(30)
    ]
    data = make_dataset(folder / "data", histories, num_items=NUM_ITEMS)
    large = ensue.train("caser", data, out=folder / "large", dim=16, epochs=1, num_targets=1)
    small = ensue.distill(large, data, out=folder / "small", dim=4)
    return [large, small]


def test_each_figure_is_that_of_the_run(runs: list[Run], tmp_path: Path) -> None:
    found = tradeoff(runs, metric="ndcg@10", repeats=2, out=tmp_path / "page", num_resamples=50)
    assert [cost.name for cost in found.costs] == ["large", "small"]
    assert [cost.method for cost in found.costs] == [None, "rd"]
    for cost, run in zip(found.costs, runs, strict=True):
        evaluation = run.evaluate(num_resamples=50)
        assert cost.value == evaluation.metrics["ndcg@10"]
        assert cost.interval == tuple(evaluation.intervals["ndcg@10"])
        assert cost.num_parameters == sum(t.numel() for t in run.model.state_dict().values())
        assert cost.file_bytes == (run.path / "model.safetensors").stat().st_size
        assert set(cost.ms) == {"1", "256"}
        assert min(cost.ms.values()) > 0
    assert found.costs[0].file_bytes > found.costs[1].file_bytes
    stored = json.loads((tmp_path / "page" / "tradeoff.json").read_text())
    assert stored == json.loads(json.dumps(found.to_dict()))
    html = (tmp_path / "page" / "tradeoff.html").read_text()
    assert_self_contained(html)
    assert {"large", "small", "caser, rd"} <= set(Page(html).texts)


def test_runs_of_the_same_name_are_called_by_their_paths(runs: list[Run]) -> None:
    names = [cost.name for cost in tradeoff([runs[1], runs[1]], repeats=1).costs]
    assert names == [str(runs[1].path)] * 2


def test_the_command_says_the_same(runs: list[Run], tmp_path: Path) -> None:
    paths = [str(run.path) for run in runs]
    printed = call("tradeoff", *paths, "--repeats", "1", "--json")
    found = tradeoff(paths, repeats=1)
    for cost, other in zip(found.costs, printed["costs"], strict=True):
        assert cost.value == other["value"]
        assert cost.num_parameters == other["num_parameters"]


def test_wrong_use_is_one_sentence(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="needs runs; got none"):
        tradeoff([])
    with pytest.raises(UsageError, match="repeats >= 1; got 0"):
        tradeoff(runs, repeats=0)
    with pytest.raises(UsageError, match=r"metric must be one of .*; got 'mapp'"):
        tradeoff(runs, metric="mapp")
