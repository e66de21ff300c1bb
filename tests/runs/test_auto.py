"""`distributed="auto"`: the plan of measured sizes decides how a ranking model is divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.distributed.cluster import Workload
from ensue.distributed.config import DistributedConfig
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, UsageError
from ensue.runs.plan import plan_training
from ensue.runs.train_ranker import train_ranker
from ensue.runs.train_shared import check_scheme, count_lookups
from tests.distributed.spawn import WorkerError, run_workers
from tests.runs.test_train_ranker import make_table
from tests.training.test_resume import stop_after

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

FAST: dict[str, Any] = {"batch_size": 64, "epochs": 1, "patience": None, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    make_table(folder / "rows.csv")
    targets, features = ["click", "watch:regression"], {"tags": "multi:|"}
    prepare_ranking(folder / "rows.csv", folder / "data", targets=targets, features=features)
    return folder / "data"


def trained(
    workers: Workers, model: str, data: Path, out: Path, settings: dict[str, Any]
) -> list[Any]:
    """Train as `torchrun -m ensue train MODEL DATA --distributed auto` does."""
    with patch.object(Workers, "start", return_value=workers):
        run = train_ranker(model, data, out=out, distributed="auto", **{**FAST, **settings})
    return [line["loss"] for line in run.log()]


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("lr", {}, "des_all_reduce"),
        # Few rows of narrow vectors, and a wide first layer: it is cheapest to have them all.
        ("deepfm", {"dim": 2, "hidden": [64, 8], "optimizer": "adam"}, "replicated"),
    ],
)
def test_the_cheapest_is_taken_and_told(
    model: str, settings: dict[str, Any], expected: str, data: Path, tmp_path: Path
) -> None:
    losses = run_workers(trained, 2, model, data, tmp_path / "run", settings)
    alone = train_ranker(model, data, out=tmp_path / "alone", **{**FAST, **settings})
    for one in losses:
        assert one == pytest.approx([line["loss"] for line in alone.log()], rel=1e-3)
    told = json.loads((tmp_path / "run" / "run.json").read_text())["distributed"]
    plan = told["plan"]
    assert plan["chosen"] == expected
    assert expected in (told["scheme"], f"{told['scheme']}_{told['schedule']}")
    assert (told["workers"], told["layout"]) == (2, "auto")
    dataset = RankingDataset(data)
    work = Workload(batch_size=64, optimizer=alone.info["training"]["optimizer"])
    config = alone.model.config
    assert plan == plan_training(model, config, dataset, work, 2).summary()
    least = min(one["total"] for one in plan["bytes"].values() if one)
    assert plan["bytes"][expected]["total"] == least
    assert plan["ids_per_row"] == pytest.approx(sum(count_lookups(dataset).values()))


def test_a_training_goes_on_as_it_was_begun(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """One worker alone would have all tables; the plan of the many that began it is kept."""
    monkeypatch.setattr(Workers, "start", lambda *_, **__: Workers.alone())
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_ranker("lr", data, out=tmp_path / "run", distributed="auto", **FAST)
    stored = tmp_path / "run" / "plan.json"
    plan = json.loads(stored.read_text())
    assert plan["scheme"] == "replicated"
    stored.write_text(json.dumps({**plan, "scheme": "row_wise", "chosen": "row_wise"}))
    run = train_ranker("lr", data, out=tmp_path / "run", distributed="auto", resume=True, **FAST)
    assert run.info["distributed"]["scheme"] == "row_wise"
    assert "lr on 1 workers: row_wise, as it was begun." in capfd.readouterr().err.splitlines()
    # Another one in its place has a plan of its own.
    again = train_ranker(
        "lr", data, out=tmp_path / "run", distributed="auto", overwrite=True, **FAST
    )
    assert again.info["distributed"]["scheme"] == "replicated"


def test_the_plan_is_written_once(data: Path, tmp_path: Path, capfd: Any) -> None:
    """A worker alone sends nothing; what it says is what the first of several says."""
    with patch.object(Workers, "start", return_value=Workers.alone()):
        run = train_ranker("fm", data, out=tmp_path / "run", distributed="auto", **FAST)
    assert run.info["distributed"]["scheme"] == "replicated"
    lines = capfd.readouterr().err.splitlines()
    (first,) = [n for n, line in enumerate(lines) if line.startswith("fm on 1 workers")]
    assert lines[first] == "fm on 1 workers: replicated, the cheapest."
    assert lines[first + 1].startswith("-> replicated: 0.0000 MB a step and worker (ids 0.0000,")
    assert lines[first + 4].startswith("   des_scatter by field: 0.0000 MB")
    assert "A parameter server" in lines[first + 7]


@pytest.mark.parametrize("setting", [{"layout": "hash"}, {"schedule": "scatter"}])
def test_what_the_plan_takes_is_not_asked_for(
    data: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    (name,) = setting
    with (
        patch.object(Workers, "start", return_value=Workers.alone()),
        pytest.raises(ConfigError, match=f"the plan takes the {name}; got {name}="),
    ):
        train_ranker("fm", data, out=tmp_path / "run", distributed="auto", **FAST, **setting)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"no scheme 'hash', but auto, des, table_wise, "):
        check_scheme("hash", DistributedConfig())


def test_all_workers_say_why_no_scheme_is_possible(data: Path, tmp_path: Path) -> None:
    settings = {"growth": {}, "history": "attention"}
    with pytest.raises(WorkerError, match=r"no scheme is possible for wide_deep on 2 workers"):
        run_workers(trained, 2, "wide_deep", data, tmp_path / "run", settings)


def test_a_speed_makes_the_plan_one_of_time(data: Path, tmp_path: Path) -> None:
    """A network so fast that only the computation of all rows by all counts."""
    settings = {"dim": 8, "hidden": [8, 512, 512], "network_gbits": 1e6, "batch_size": 256}
    run_workers(trained, 2, "wide_deep", data, tmp_path / "run", settings)
    told = json.loads((tmp_path / "run" / "run.json").read_text())["distributed"]
    assert told["network_gbits"] == 1e6
    assert told["plan"]["chosen"] != "des_all_reduce"
    assert not told["plan"]["obstacles"]
