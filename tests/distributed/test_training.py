"""A training over several workers is the training of one process, interrupted or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.prepare import prepare_ranking
from ensue.runs.train_ranker import train_ranker
from ensue.training.checkpoints import load_tensors
from tests.distributed.spawn import WorkerError
from tests.distributed.training_runs import FAST, assert_equal_runs, start_on, train_on
from tests.runs.test_train_ranker import make_table

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

DEEPFM = {"model": "deepfm", "dim": 4, "hidden": [8], **FAST}
GROWTH = {"expiry": {"max_age": 2, "every": 1}, "admission": {"min_count": 2}}
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
        ("des", 3, "growing adagrad"),
        ("row_wise", 2, "growing clippy"),
    ],
)
def test_the_run_of_workers_is_that_of_one_process(
    data: Path, tmp_path: Path, scheme: str, size: int, optimizer: str
) -> None:
    settings = {**DEEPFM, "optimizer": optimizer.split()[-1]}
    if "clippy" in optimizer:
        settings["learning_rate"] = 0.5  # so that steps are held back
    if "growing" in optimizer:
        settings["growth"] = {"expiry": GROWTH["expiry"]}
    run = train_on(size, data, tmp_path / "shared", scheme, settings)
    assert_equal_runs(run, alone(settings, data, tmp_path / "alone"), tolerance=CLOSE)
    if "clippy" in optimizer:
        assert any(factor < 0.9 for factor in run.log()[0]["clipping"].values())


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
    assert (
        start_on(2, data, out, "des", {**settings, "resume": True}, crash_after=6)
        == ["OSError"] * 2
    )
    run = train_on(2, data, out, "des", {**settings, "resume": True})
    assert_equal_runs(run, whole)
    assert run.info["distributed"]["workers"] == 2


@pytest.mark.parametrize(
    ("optimizer", "growth"), [("clippy", None), ("lazy_adam", None), ("adagrad", GROWTH)]
)
def test_four_processes_write_and_three_read(
    data: Path, tmp_path: Path, optimizer: str, growth: dict[str, Any] | None
) -> None:
    settings = {**DEEPFM, "optimizer": optimizer, "growth": growth, "checkpoint_seconds": 0.0}
    whole = train_on(4, data, tmp_path / "whole", "des", settings)
    out = tmp_path / "run"
    assert set(start_on(4, data, out, "des", settings, crash_after=5)) == {"OSError"}
    run = train_on(3, data, out, "des", {**settings, "resume": True})
    assert_equal_runs(run, whole, tolerance=CLOSE)  # up to the order of sums


@pytest.mark.parametrize(("before", "after"), [("field", "hash"), ("hash", "field")])
def test_a_training_goes_on_in_another_layout(
    data: Path, tmp_path: Path, before: str, after: str
) -> None:
    settings = {**DEEPFM, "optimizer": "lazy_adam", "checkpoint_seconds": 0.0}
    whole = train_on(3, data, tmp_path / "whole", "des", {**settings, "layout": before})
    out = tmp_path / "run"
    start_on(3, data, out, "des", {**settings, "layout": before}, crash_after=5)
    run = train_on(3, data, out, "des", {**settings, "layout": after, "resume": True})
    assert_equal_runs(run, whole, tolerance=CLOSE)


def test_growing_tables_of_workers_have_the_losses_of_static_ones(
    data: Path, tmp_path: Path
) -> None:
    # logistic regression starts with rows of zero in both
    settings = {"model": "lr", **FAST, "optimizer": "adagrad"}
    static = alone(settings, data, tmp_path / "static")
    growing = train_on(3, data, tmp_path / "growing", "des", {**settings, "growth": {}})
    losses = [[line["loss"] for line in run.log()] for run in (static, growing)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_checkpoints_between_full_ones_hold_what_changed(data: Path, tmp_path: Path) -> None:
    settings = {**DEEPFM, "growth": GROWTH, "checkpoint_seconds": 0.0, "full_every": 4}
    whole = train_on(2, data, tmp_path / "whole", "des", settings)
    out, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    start_on(2, data, out, "des", settings, crash_after=7)
    stored = json.loads((folder / "last.json").read_text())
    assert stored["base"] == ["last-5-0.safetensors", "last-5-1.safetensors"]  # after 1, 2, 3, 4
    assert stored["files"] == ["last-7-0.safetensors", "last-7-1.safetensors"]
    names = {path.name for path in folder.glob("*.safetensors")}
    assert names == {*stored["base"], *stored["files"]}
    for file, base in zip(stored["files"], stored["base"], strict=True):
        changed, _ = load_tensors(folder / file)
        full, _ = load_tensors(folder / base)
        tables = [name.removesuffix("counters") for name in full if name.endswith("rows.counters")]
        assert len(tables) == 2
        for table in tables:
            stamps = changed[f"{table}changed.notes"][:, 0]
            assert 7 in stamps
            assert stamps.min() > 5
            rows = len(full[f"{table}values.0"])
            assert 0 < len(stamps) < rows
            assert not any(name.startswith(f"{table}values.") for name in changed)
            assert (changed[f"{table}changed.deleted"][:, 1] >= 5).all()
    run = train_on(2, data, out, "des", {**settings, "resume": True})
    assert_equal_runs(run, whole)


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        ("des", {"optimizer": "clippy", "clip_rule": "gc", "clip_threshold": 1.0}, "clip_rule=gc"),
        ("des", {"watch_spikes": True}, "watch_spikes looks at whole gradients"),
        ("replicated", {"growth": {}}, "tables that grow are divided"),
    ],
)
def test_what_workers_cannot_do_is_one_sentence(
    data: Path, tmp_path: Path, scheme: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(WorkerError, match=message):
        start_on(2, data, tmp_path / "run", scheme, {**DEEPFM, **settings})
    assert not (tmp_path / "run").exists()
