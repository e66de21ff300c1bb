"""An evaluation by several workers has the figures of one process, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.distributed.workers import Workers
from ensue.errors import EnsueError, UsageError
from ensue.runs.ranker import RankingRun
from ensue.runs.train_ranker import train_ranker
from tests.distributed.spawn import run_workers
from tests.runs.test_train_ranker import make_table

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast


@pytest.fixture(scope="module", params=[None, {}], ids=["static", "growing"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RankingRun:
    folder = tmp_path_factory.mktemp("evaluated")
    make_table(folder / "rows.csv")
    targets = ["click", "watch:regression"]
    prepare_ranking(folder / "rows.csv", folder / "data", targets=targets)
    settings: dict[str, Any] = {"dim": 4, "hidden": [8], "epochs": 1, "batch_size": 64}
    out = folder / "run"
    return train_ranker("deepfm", folder / "data", out=out, growth=request.param, **settings)


def evaluate_as_worker(
    workers: Workers, path: Path, options: dict[str, Any], broken: int | None
) -> dict[str, Any]:
    """Return what an evaluation with the other workers found; one may be unable to read rows."""
    with pytest.MonkeyPatch.context() as patch:
        if broken == workers.rank:
            patch.setattr(RankingDataset, "rows", _refuse)
        try:
            return RankingRun(path).evaluate(workers=workers, **options).to_dict()
        except (EnsueError, OSError) as error:
            return {"error": str(error)}


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("the disk is gone")


@pytest.mark.parametrize(("size", "batch_size"), [(2, 16), (3, 7), (3, 100), (4, 1000)])
def test_the_figures_are_those_of_one_process(run: RankingRun, size: int, batch_size: int) -> None:
    options = {"by": ("item_id",), "popularity": "user_id", "batch_size": batch_size}
    expected = run.evaluate(**options).to_dict()
    stored = run.path / "evaluation" / "test.json"
    text = stored.read_text()
    stored.unlink()
    found = run_workers(evaluate_as_worker, size, run.path, options, None)
    assert stored.read_text() == text
    assert found[0]["tasks"] == expected["tasks"]
    assert found == [found[0]] * size


def test_what_goes_wrong_is_said_by_the_first_worker(run: RankingRun) -> None:
    found = run_workers(evaluate_as_worker, 3, run.path, {"batch_size": 7}, 2)
    assert found[0]["error"] == "worker 2 could not predict its rows: the disk is gone"
    assert found[2]["error"] == "the disk is gone"
    assert "error" in found[1]
    found = run_workers(evaluate_as_worker, 3, run.path, {"by": ("nothing",)}, None)
    assert "must name a categorical column; 'nothing' is none" in found[0]["error"]


def test_catalogs_are_not_divided(monkeypatch: pytest.MonkeyPatch, run: RankingRun) -> None:
    from typer.testing import CliRunner

    from ensue.cli.main import app

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    done = CliRunner().invoke(app, ["train", "bpr", "data", "-o", "run"])
    assert isinstance(done.exception, UsageError)
    assert "with --distributed" in str(done.exception)
