"""A training over several workers is the training of one process, interrupted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.prepare import prepare_ranking
from ensue.runs.train_ranker import train_ranker
from tests.distributed.training_runs import FAST, assert_equal_runs, start_on, train_on
from tests.runs.test_train_ranker import make_table

DEEPFM = {"model": "deepfm", "dim": 4, "hidden": [8], **FAST}
CLOSE = 2e-5  # float32, sums in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    make_table(folder / "rows.csv")
    prepare_ranking(folder / "rows.csv", folder / "data", targets=["click", "watch:regression"])
    return folder / "data"


def alone(settings: dict[str, Any], data: Path, out: Path) -> Any:
    model, rest = settings["model"], {k: v for k, v in settings.items() if k != "model"}
    return train_ranker(model, data, out=out, **rest)


@pytest.mark.parametrize(
    ("scheme", "size", "optimizer"),
    [
        ("des", 2, "clippy"),
        ("des", 3, "adam"),
        ("des", 3, "lazy_adam"),
        ("row_wise", 3, "clippy"),
        ("table_wise", 2, "lazy_adam"),
        ("replicated", 3, "adagrad"),
    ],
)
def test_the_run_of_workers_is_that_of_one_process(
    data: Path, tmp_path: Path, scheme: str, size: int, optimizer: str
) -> None:
    settings = {**DEEPFM, "optimizer": optimizer}
    run = train_on(size, data, tmp_path / "shared", scheme, settings)
    assert_equal_runs(run, alone(settings, data, tmp_path / "alone"), tolerance=CLOSE)


@pytest.mark.parametrize("growth", [None, {}])
def test_an_interrupted_training_goes_on_to_the_same_numbers(
    data: Path, tmp_path: Path, growth: dict[str, Any] | None
) -> None:
    settings = {**DEEPFM, "optimizer": "lazy_adam", "checkpoint_seconds": 0.0, "growth": growth}
    whole = train_on(2, data, tmp_path / "whole", "des", settings)
    out = tmp_path / "run"
    # Ctrl-C may reach one worker alone, or first: all stop behind the same step.
    endings = start_on(2, data, out, "des", settings, interrupt=(1, 3))
    assert endings == ["KeyboardInterrupt"] * 2
    assert start_on(2, data, out, "des", {**settings, "resume": True}, crash_after=6) == [
        "OSError"
    ] * 2
    run = train_on(2, data, out, "des", {**settings, "resume": True})
    assert_equal_runs(run, whole)
    assert run.info["distributed"]["workers"] == 2


@pytest.mark.parametrize("optimizer", ["clippy", "lazy_adam"])
def test_four_processes_write_and_three_read(data: Path, tmp_path: Path, optimizer: str) -> None:
    settings = {**DEEPFM, "optimizer": optimizer, "checkpoint_seconds": 0.0}
    whole = train_on(4, data, tmp_path / "whole", "des", settings)
    out = tmp_path / "run"
    assert set(start_on(4, data, out, "des", settings, crash_after=5)) == {"OSError"}
    run = train_on(3, data, out, "des", {**settings, "resume": True})
    assert_equal_runs(run, whole, tolerance=CLOSE)  # up to the order of sums
