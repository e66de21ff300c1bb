"""An interrupted training, however it ended, resumes to the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.dataset import Dataset
from ensue.errors import RunError, UsageError
from ensue.runs.run import Run
from ensue.runs.train import train
from ensue.training.checkpoints import Checkpoints, Progress
from ensue.training.loop import TrainingLoop
from tests.helpers import make_dataset

SETTINGS = {"dim": 8, "batch_size": 16, "epochs": 3, "patience": None, "checkpoint_seconds": 0.0}
# An example of SASRec is a whole history: smaller batches, to have as many of them.
OF_MODEL = dict.fromkeys(("caser", "bpr"), SETTINGS)
OF_MODEL["sasrec"] = {**SETTINGS, "batch_size": 2, "max_len": 20}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [rng.permutation(30)[: rng.integers(10, 25)] + 1 for _ in range(40)]
    path = tmp_path_factory.mktemp("data") / "dataset"
    return make_dataset(path, [h.tolist() for h in histories], split="ratio", num_items=30)


@pytest.fixture(
    scope="module", params=["caser", "bpr", pytest.param("sasrec", marks=pytest.mark.slow)]
)
def undisturbed(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    out = tmp_path_factory.mktemp("runs") / request.param
    return train(request.param, dataset, out=out, **OF_MODEL[request.param])


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, error: BaseException) -> None:
    """Make the training loop raise after that many batches."""
    step = TrainingLoop._step
    done = 0

    def limited(loop: TrainingLoop, *batch: Any) -> Any:
        nonlocal done
        done += 1
        if done > batches:
            raise error
        return step(loop, *batch)

    monkeypatch.setattr(TrainingLoop, "_step", limited)


def assert_same_run(run: Run, other: Run) -> None:
    weights, expected = run.model.state_dict(), other.model.state_dict()
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name
    volatile = {"seconds", "examples_per_s", "peak_memory_bytes"}
    logs = [
        [{k: v for k, v in line.items() if k not in volatile} for line in r.log()]
        for r in (run, other)
    ]
    assert logs[0] == logs[1]
    assert run.info["metrics"] == other.info["metrics"]
    assert run.info["best_epoch"] == other.info["best_epoch"]


@pytest.mark.parametrize("batches", [1, pytest.param(20, marks=pytest.mark.slow), 34])
def test_resume_inside_an_epoch(
    undisturbed: Run,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
) -> None:
    model = undisturbed.info["model"]
    with monkeypatch.context() as patch:
        stop_after(patch, batches, OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            train(model, dataset, out=tmp_path / "run", **OF_MODEL[model])
    with pytest.raises(RunError, match="--resume"):
        Run(tmp_path / "run")
    run = train(model, dataset, out=tmp_path / "run", resume=True, **OF_MODEL[model])
    assert_same_run(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "others"),
    [
        ("gru4rec", {"batch_size": 4, "crop": "random", "max_len": 8}),
        ("m3", {"batch_size": 4, "crop": "random", "max_len": 8}),
        ("caser", {"optimizer": "clippy", "learning_rate": 0.1}),
        ("cml", {}),
        ("lightgcn", {"batch_size": 4, "num_negatives": 5}),
        ("mult_vae", {"batch_size": 4, "hidden": [8], "anneal_steps": 20}),
    ],
)
def test_other_settings_resume_inside_an_epoch(
    model: str,
    others: dict[str, Any],
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**SETTINGS, **others}
    whole = train(model, dataset, out=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 15, OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            train(model, dataset, out=tmp_path / "run", **settings)
    assert_same_run(train(model, dataset, out=tmp_path / "run", resume=True, **settings), whole)


SCRIPT = """
    import sys
    from ensue.runs.train import train
    train(sys.argv[1], sys.argv[2], out=sys.argv[3], resume=len(sys.argv) > 4,
          dim=8, batch_size=16, epochs=3, patience=None, checkpoint_seconds=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_resume_after_a_signal(dataset: Dataset, tmp_path: Path, kind: signal.Signals) -> None:
    """A real process, killed at a moment of its own, and continued."""
    expected = train("caser", dataset, out=tmp_path / "whole", **SETTINGS)
    out = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), "caser", str(dataset.path), str(out)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    checkpoint = out / "checkpoints" / "last.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, errors
    assert not (out / "run.json").exists()
    run = train("caser", dataset, out=out, resume=True, **SETTINGS)
    assert_same_run(run, expected)


def test_a_log_line_cut_off_by_a_crash_is_dropped(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Run
) -> None:
    model = undisturbed.info["model"]
    with monkeypatch.context() as patch:
        stop_after(patch, 40, OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            train(model, dataset, out=tmp_path / "run", **OF_MODEL[model])
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"epoch": 9, "loss": 0.1}\n{"epo')
    run = train(model, dataset, out=tmp_path / "run", resume=True, **OF_MODEL[model])
    assert_same_run(run, undisturbed)


def test_another_training_is_not_resumed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 5, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        train("caser", dataset, out=tmp_path / "run", **SETTINGS)
    with pytest.raises(UsageError, match="differs in training"):
        train("caser", dataset, out=tmp_path / "run", resume=True, **SETTINGS | {"epochs": 9})
    with pytest.raises(UsageError, match="--resume"):
        train("caser", dataset, out=tmp_path / "run", **SETTINGS)


@pytest.mark.parametrize("model", ["bpr", "caser"])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    dataset: Dataset, tmp_path: Path, model: str
) -> None:
    settings = SETTINGS | {"learning_rate": 1e30, "epochs": 20}
    with pytest.raises(RunError, match=r"loss must be finite.*learning_rate"):
        train(model, dataset, out=tmp_path / "run", **settings)
    from ensue.training.checkpoints import load_tensors

    tensors, metadata = load_tensors(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
    assert json.loads(metadata["counters"])["batch"] >= 1


def test_log_lines_have_the_promised_fields(undisturbed: Run) -> None:
    assert [line["epoch"] for line in undisturbed.log()] == [1, 2, 3]
    for line in undisturbed.log():
        for name in ("loss", "seconds", "examples", "examples_per_s", "peak_memory_bytes"):
            assert line[name] > 0
        assert 0 <= line["validation"]["map"] <= 1


def test_same_seed_same_weights_and_another_seed_others(
    dataset: Dataset, tmp_path: Path, undisturbed: Run
) -> None:
    model = undisturbed.info["model"]
    torch.rand(1)  # the state of the global generator has no influence
    assert_same_run(train(model, dataset, out=tmp_path / "a", **OF_MODEL[model]), undisturbed)
    other = train(model, dataset, out=tmp_path / "b", seed=1, **OF_MODEL[model]).model.state_dict()
    assert any(not torch.equal(other[n], w) for n, w in undisturbed.model.state_dict().items())


class Clock:
    """A time that stands still until it is told to go on, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_short_epochs_share_a_checkpoint_and_a_resumed_run_trains_them_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of 1 s may follow 20 s of training, which are three epochs of 7 s."""
    settings = {**SETTINGS, "epochs": 10, "validate_every": 8, "checkpoint_seconds": 60.0}
    clock, epochs, stop_in = Clock(), [], 7
    save, train_epoch = Checkpoints.save, TrainingLoop._train_epoch

    def save_slowly(self: Checkpoints, *state: Any) -> None:
        clock.now += 1.0
        epochs.append(state[-1]["epoch"] - 1)
        save(self, *state)

    def train_slowly(self: TrainingLoop, progress: Progress, advance: Any) -> None:
        if progress.epoch == stop_in:
            raise OSError("gone")
        train_epoch(self, progress, advance)
        clock.now += 7.0

    monkeypatch.setattr("ensue.training.loop.time", clock)
    monkeypatch.setattr(Checkpoints, "save", save_slowly)
    monkeypatch.setattr(TrainingLoop, "_train_epoch", train_slowly)
    with pytest.raises(OSError, match="gone"):
        train("bpr", dataset, out=tmp_path / "run", **settings)
    assert epochs == [1, 4]
    stop_in = 0
    run = train("bpr", dataset, out=tmp_path / "run", resume=True, **settings)
    assert epochs == [1, 4, 5, 8, 10]  # 8 and 10 are validated
    assert_same_run(run, train("bpr", dataset, out=tmp_path / "whole", **settings))
