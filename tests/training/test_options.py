"""Each setting of the training does what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ensue.data.dataset import Dataset
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.runs.run import Run
from ensue.runs.train import train
from ensue.training import loop
from ensue.training.config import TrainingConfig
from ensue.training.loop import StopTraining, TrainingLoop
from ensue.training.objectives import WindowObjective
from tests.contracts.planted import histories_of
from tests.helpers import make_dataset

FAST = {"dim": 8, "epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(30)[: rng.integers(8, 20)] + 1).tolist() for _ in range(60)]
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", histories, num_items=30)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in run.model.state_dict().values()])


def test_bfloat16_is_near_float32(dataset: Dataset, tmp_path: Path) -> None:
    exact, coarse = (
        train("caser", dataset, out=tmp_path / name, precision=name, dropout=0.0, **FAST)
        for name in ("float32", "bfloat16")
    )
    assert weights(coarse).dtype == torch.float32
    assert not torch.equal(weights(exact), weights(coarse))
    assert coarse.log()[-1]["loss"] == pytest.approx(exact.log()[-1]["loss"], rel=0.02)


def test_clip_norm_bounds_every_step(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    clip = loop.clip_whole_gradient_

    def watched(parameters: Iterable[torch.Tensor], **options: Any) -> torch.Tensor:
        tensors = list(parameters)
        total = clip(tensors, **options)
        norms.append(nn.utils.get_total_norm([p.grad for p in tensors if p.grad is not None]))
        return total

    monkeypatch.setattr(loop, "clip_whole_gradient_", watched)
    train("caser", dataset, out=tmp_path / "run", clip_norm=0.01, **FAST)
    assert norms
    assert max(norms) <= 0.0101


def test_lazy_adam_leaves_unused_rows(tmp_path: Path) -> None:
    """Item 30 is in no window, so its input row has no gradient: only Adam's decay moves it."""
    dataset = make_dataset(tmp_path / "d", [[1, 2, 3, 4, 5, 6]] * 20, num_items=30, split="none")
    for optimizer, is_same in (("lazy_adam", True), ("adam", False)):
        run = train("caser", dataset, out=tmp_path / optimizer, optimizer=optimizer, **FAST)
        torch.manual_seed(0)
        start = Caser(CaserConfig(dim=8), num_users=20, num_items=30)
        row = run.model.state_dict()["item_embedding"][30]
        assert torch.equal(row, start.item_embedding[30]) == is_same


def test_clippy_bounds_each_step_of_what_is_no_table(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: dict[str, list[float]] = {}
    step = TrainingLoop._step

    def watched(loop: TrainingLoop, *batch: Any) -> Any:
        before = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
        out = step(loop, *batch)
        for name, parameter in loop.model.named_parameters():
            bound = 0.25 * before[name].abs() + 0.002
            moved.setdefault(name, []).append(
                float(((parameter.detach() - before[name]).abs() / bound).max())
            )
        return out

    monkeypatch.setattr(TrainingLoop, "_step", watched)
    limits = {"clip_relative": 0.25, "clip_absolute": 0.002, "learning_rate": 0.5}
    run = train("caser", dataset, out=tmp_path / "run", optimizer="clippy", **limits, **FAST)
    tables = {"user_embedding", "item_embedding", "output_embedding", "output_bias"}
    factors = run.log()[-1]["clipping"]
    assert factors.keys() == moved.keys() - tables
    assert all(0 < factor <= 1 for factor in factors.values())
    assert min(factors.values()) < 0.9
    assert run.log()[-1]["skipped_steps"] == 0
    assert max(max(moved[name]) for name in factors) <= 1 + 1e-4
    assert max(max(moved[name]) for name in tables) > 1


def test_patience_ends_the_training_and_the_best_epoch_is_kept(
    dataset: Dataset, tmp_path: Path
) -> None:
    settings = FAST | {"epochs": 40, "patience": 2, "learning_rate": 0.02}
    run = train("caser", dataset, out=tmp_path / "run", **settings)
    values = [line["validation"]["map"] for line in run.log()]
    best = int(np.argmax(values)) + 1
    assert run.info["best_epoch"] == best
    assert len(values) == best + 2 < 40
    assert run.info["metrics"]["validation"]["map"] == max(values)
    stored = run.evaluate(dataset, split="validation", num_resamples=0, ks=(10, 20))
    assert stored.metrics["map"] == pytest.approx(max(values), abs=1e-9)


def test_validate_every(dataset: Dataset, tmp_path: Path) -> None:
    run = train("caser", dataset, out=tmp_path / "run", validate_every=2, **FAST | {"epochs": 3})
    assert ["validation" in line for line in run.log()] == [False, True, True]


def test_tensorboard_files(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train("caser", dataset, out=tmp_path / "run", tensorboard=True, **FAST)
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.*"))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_overfits_a_small_log(loss: str, tmp_path: Path) -> None:
    """20 users, 30 items, no dropout, no L2: the loss falls below 0.05 a term."""
    rng = np.random.default_rng(1)
    histories = histories_of([(rng.permutation(30)[:12] + 1).tolist() for _ in range(20)])
    torch.manual_seed(0)
    config = CaserConfig(dim=32, num_targets=2, dropout=0.0, loss=loss, num_negatives=4)
    model = Caser(config, num_users=20, num_items=30)
    objective = WindowObjective(model, histories, batch_size=32, seed=0)
    training = TrainingConfig(
        epochs=200, batch_size=32, weight_decay=0.0, learning_rate=3e-3, checkpoint_seconds=1e9
    )
    loop = TrainingLoop(model, objective, training, directory=tmp_path)
    loop.run()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    final = json.loads(lines[-1])["loss"]
    num_terms = 2 if loss == "mean" else 6
    assert final / num_terms < 0.05


@pytest.mark.gpu
def test_gpu_and_cpu_agree(dataset: Dataset, tmp_path: Path) -> None:
    """Different rounding, the same model: losses and scores stay close."""
    runs = [
        train("caser", dataset, out=tmp_path / device, device=device, dropout=0.0, **FAST)
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(weights(runs[0]), weights(runs[1]), rtol=1e-2, atol=1e-3)
    assert runs[0].log()[-1]["loss"] == pytest.approx(runs[1].log()[-1]["loss"], rel=1e-3)


def test_on_validation_is_told_every_validation(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    settings = {**FAST, "epochs": 5, "validate_every": 2, "patience": None}
    run = train(
        "bpr",
        dataset,
        out=tmp_path / "run",
        on_validation=lambda epoch, metrics: told.append((epoch, metrics)),
        **settings,
    )
    lines = [(line["epoch"], line["validation"]) for line in run.log() if "validation" in line]
    assert told == lines
    assert [epoch for epoch, _ in told] == [2, 4, 5]
    assert torch.equal(weights(run), weights(train("bpr", dataset, out=tmp_path / "b", **settings)))


def test_stop_training_gives_up_and_can_be_resumed(dataset: Dataset, tmp_path: Path) -> None:
    def stop(epoch: int, metrics: dict[str, float]) -> None:
        raise StopTraining

    settings = {**FAST, "epochs": 3}
    with pytest.raises(StopTraining):
        train("bpr", dataset, out=tmp_path / "run", on_validation=stop, **settings)
    assert not (tmp_path / "run" / "run.json").exists()
    resumed = train("bpr", dataset, out=tmp_path / "run", resume=True, **settings)
    whole = train("bpr", dataset, out=tmp_path / "whole", **settings)
    assert torch.equal(weights(resumed), weights(whole))


def test_prefetch_changes_no_number(dataset: Dataset, tmp_path: Path) -> None:
    settings = {**FAST, "loss": "gbce", "num_negatives": 4}
    runs = [
        train("sasrec", dataset, out=tmp_path / str(depth), prefetch=depth, **settings)
        for depth in (0, 3)
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_the_learning_rate_warms_up_and_decays(
    decay: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = TrainingLoop._step

    def watched(loop: TrainingLoop, *batch: Any) -> Any:
        rates.append(loop.optimizer.param_groups[0]["lr"])
        return step(loop, *batch)

    monkeypatch.setattr(TrainingLoop, "_step", watched)
    train(
        "caser", dataset, out=tmp_path / "run", learning_rate=0.1, decay=decay, warmup_steps=4,
        **{**FAST, "epochs": 3},
    )  # fmt: skip
    assert rates[:4] == sorted(rates[:4])
    assert rates[1] > 1.5 * rates[0]
    done = (len(rates) - 1) / len(rates)
    expected = {"none": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    assert rates[-1] == pytest.approx(0.1 * expected[decay], abs=0.005)
    halfway = {"none": 0.1, "linear": 0.05, "cosine": 0.05}[decay]
    assert rates[len(rates) // 2] == pytest.approx(halfway, rel=0.1)
