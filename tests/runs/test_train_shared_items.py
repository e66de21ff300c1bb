"""Runs of several processes are those of one: files, figures, and trainings that go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ensue.data.dataset import Dataset
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, UsageError
from ensue.evaluation.evaluator import evaluate
from ensue.runs.run import load
from ensue.runs.train import train
from ensue.runs.train_shared_items import check_item_scheme
from ensue.training.loop import StopTraining, TrainingLoop
from tests.distributed.spawn import run_workers
from tests.helpers import make_dataset

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

NUM_ITEMS = 30
FAST: dict[str, Any] = {"batch_size": 8, "epochs": 2, "patience": None, "learning_rate": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "sasrec": {**FAST, "dim": 4, "num_blocks": 1, "dropout": 0.0, "prefetch": 2},
    "m3": {**FAST, "dim": 4, "dropout": 0.0, "loss": "gbce", "num_negatives": 3, "clip_norm": 0.1},
    "caser": {**FAST, "dim": 4, "dropout": 0.0, "batch_size": 50},
    "two_tower": {**FAST, "dim": 4, "id_dim": 4, "batch_size": 50},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(5, 15)] + 1).tolist() for _ in range(50)
    ]
    return make_dataset(tmp_path_factory.mktemp("data") / "d", histories, num_items=NUM_ITEMS)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Let users be ranked some at a time, and numbers have so many digits that none is a tie."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch("ensue.evaluation.evaluator.users_of_a_block", lambda num_items: 16):
            yield
    finally:
        torch.set_default_dtype(before)


def train_together(
    workers: Workers, model: str, data: str, out: str, stop: int | None, options: dict[str, Any]
) -> dict[str, Any] | None:
    """Return what the run says; None where it was stopped after so many steps."""
    step, done = TrainingLoop._step, 0

    def limited(loop: TrainingLoop, *args: Any) -> Any:
        nonlocal done
        if done == stop:
            raise StopTraining
        done += 1
        return step(loop, *args)

    with (
        small_blocks(),
        patch.object(Workers, "start", lambda *_: nullcontext(workers)),
        patch.object(TrainingLoop, "_step", limited),
    ):
        try:
            run = train(model, data, out=out, **{**SETTINGS[model], **options})
        except StopTraining:
            return None
        return run.info


def check_same(out: Path, info: dict[str, Any], alone: Path, expected: dict[str, Any]) -> None:
    for name in ("metrics", "best_epoch", "epochs", "num_parameters", "config"):
        assert info[name] == expected[name]
    state, other = (load_file(path / "model.safetensors") for path in (out, alone))
    assert state.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", sorted(SETTINGS))
def test_a_run_of_three_is_that_of_one(model: str, dataset: Dataset, tmp_path: Path) -> None:
    with small_blocks():
        alone = train(model, dataset, out=tmp_path / "alone", **SETTINGS[model])
    out, options = tmp_path / "run", {"distributed": "row_wise", "timeout_seconds": 50.0}
    path = str(dataset.path)
    infos = run_workers(train_together, 3, model, path, str(out), None, options)
    assert infos[0] is not None
    assert infos == [infos[0]] * 3
    check_same(out, infos[0], alone.path, alone.info)
    assert (infos[0]["distributed"], infos[0]["workers"]) == ("row_wise", 3)
    # Of the shares of the tables no file is left in the run.
    assert {file.name for file in out.iterdir()} == {file.name for file in alone.path.iterdir()}


def test_a_training_goes_on_with_another_number(dataset: Dataset, tmp_path: Path) -> None:
    with small_blocks():
        alone = train("sasrec", dataset, out=tmp_path / "alone", **SETTINGS["sasrec"])
    path, out = str(dataset.path), str(tmp_path / "run")
    options = {"distributed": "row_wise", "checkpoint_seconds": 0.0}
    first = run_workers(train_together, 3, "sasrec", path, out, 9, options)
    assert first == [None] * 3
    options["resume"] = True
    infos = run_workers(train_together, 2, "sasrec", path, out, None, options)
    assert infos[0] is not None
    check_same(Path(out), infos[0], alone.path, alone.info)


def test_a_training_that_stopped_is_one_that_did_not(dataset: Dataset, tmp_path: Path) -> None:
    """Bit for bit with the same number of workers, what dropout draws on each of them included."""
    path = str(dataset.path)
    options = {"distributed": "row_wise", "dropout": 0.3, "checkpoint_seconds": 0.0}
    outs = [str(tmp_path / "undisturbed"), str(tmp_path / "stopped")]
    run_workers(train_together, 2, "sasrec", path, outs[0], None, options)
    assert run_workers(train_together, 2, "sasrec", path, outs[1], 9, options) == [None] * 2
    run_workers(train_together, 2, "sasrec", path, outs[1], None, {**options, "resume": True})
    expected, found = (load_file(Path(out) / "model.safetensors") for out in outs)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_tables_on_all_workers_and_no_validation(dataset: Dataset, tmp_path: Path) -> None:
    """The last weights are kept; the vectors of items are made of them."""
    options = {"fit": "train+validation"}
    with small_blocks():
        settings = {**SETTINGS["two_tower"], **options}
        alone = train("two_tower", dataset, out=tmp_path / "alone", **settings)
    path, out = str(dataset.path), tmp_path / "run"
    options["distributed"] = "replicated"
    infos = run_workers(train_together, 2, "two_tower", path, str(out), None, options)
    assert infos[0] is not None
    check_same(out, infos[0], alone.path, alone.info)


def rank_together(workers: Workers, path: str, data: str) -> tuple[Any, ...]:
    with patch("ensue.evaluation.evaluator.users_of_a_block", lambda num_items: 16):
        found = evaluate(load(path).model, Dataset(data), num_resamples=50, workers=workers)
    return found.metrics, found.coverage, found.slices, found.intervals, found.users.to_dict()


def test_users_are_ranked_in_shares_to_the_same_figures(dataset: Dataset, tmp_path: Path) -> None:
    """Bit for bit: of the same weights, with more workers than blocks of users among them."""
    run = train("gru4rec", dataset, out=tmp_path / "run", dim=4, epochs=1)
    expected = evaluate(run.model, dataset, num_resamples=50)
    for size in (2, 4):
        for metrics, coverage, slices, intervals, users in run_workers(
            rank_together, size, str(run.path), str(dataset.path)
        ):
            assert (metrics, coverage) == (expected.metrics, expected.coverage)
            assert (slices, intervals) == (expected.slices, expected.intervals)
            assert users["mrr"].to_list() == expected.users["mrr"].to_list()


def test_auto_divides_rows() -> None:
    assert check_item_scheme("auto") == check_item_scheme("row_wise") == "row_wise"
    assert check_item_scheme("replicated") == "replicated"


def test_what_several_workers_do_not_train(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for model, settings, error, message in (
        ("sasrec", {"distributed": "des"}, UsageError, "no scheme 'des'.*auto, row_wise"),
        ("ease", {"distributed": "row_wise"}, UsageError, "ease is computed in one go"),
        ("bpr", {"distributed": "row_wise"}, ConfigError, "got BPR"),
        ("sasrec", {"distributed": "row_wise", "growth": {}}, ConfigError, "growth"),
        ("sasrec", {"distributed": "row_wise", "rollback": True}, ConfigError, "one process"),
        ("sasrec", {"timeout_seconds": 3.0}, ConfigError, "no setting 'timeout_seconds'"),
    ):
        with pytest.raises(error, match=message):
            train(model, dataset, out=out, **settings)
        assert not out.exists()


@pytest.mark.slow
def test_torchrun(dataset: Dataset, tmp_path: Path) -> None:
    settings = [f"--set={name}={value}" for name, value in SETTINGS["sasrec"].items() if value]
    settings += ["--set=patience=null", "--set=dropout=0"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher, own in (
        ("alone", [], []),
        ("run", torchrun, ["--distributed", "row_wise"]),
    ):
        arguments = ["train", "sasrec", str(dataset.path), "-o", str(tmp_path / name), *settings]
        command = [sys.executable, *launcher, "-m", "ensue", *arguments, *own]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The run is in") == 1
    alone, run = load(tmp_path / "alone"), load(tmp_path / "run")
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=0, atol=1e-4)
