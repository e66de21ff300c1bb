"""A training that diverges goes back to a sound checkpoint once, and on at a lower rate."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensue.config import make_config
from ensue.errors import ConfigError
from ensue.training import loop as loops
from ensue.training import spikes
from ensue.training.checkpoints import Progress
from ensue.training.config import TrainingConfig
from ensue.training.log import read_log
from ensue.training.loop import DivergenceError, TrainingLoop
from ensue.training.objective import Batch, MultitaskObjective

NUM_BATCHES, EPOCHS = 35, 3


class Slope(nn.Module):
    """One weight, which Adam moves by the learning rate in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.still = nn.Parameter(torch.ones(2))


class CliffObjective(MultitaskObjective):
    """Down a slope, with a cliff of some height where the weight is 1."""

    def __init__(self, height: float) -> None:
        super().__init__(NUM_BATCHES, tasks=("still", "slope"), seed=0)
        self._height = height

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        for _ in range(first, NUM_BATCHES):
            yield [torch.zeros(1)]

    def task_losses(self, model: Any, batch: Batch) -> Tensor:
        cliff = self._height if float(model.weight.detach()) > 0.995 else 0.0
        return torch.stack([0 * model.still.sum(), cliff - model.weight[0]])


def train(
    folder: Path, height: float, *, resume: bool = False, **settings: Any
) -> tuple[Tensor, Progress, TrainingLoop]:
    chosen = {"learning_rate": 0.01, "rollback": True, "checkpoint_seconds": 1e9, **settings}
    config = TrainingConfig(epochs=EPOCHS, weight_decay=0.0, **chosen)
    model = Slope()
    loop = TrainingLoop(model, CliffObjective(height), config, directory=folder)
    progress = loop.run(resume=resume)
    return model.weight.detach().clone(), progress, loop


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "SOUND_STEPS", 30)
    monkeypatch.setattr(spikes, "LASTING_STEPS", 10)


@pytest.mark.parametrize(
    ("height", "rate", "step", "back"),
    [(math.inf, 0.01, 101, 90), (50.0, 0.013, 78, 60), (math.nan, 0.02, 51, 30)],
)
def test_it_equals_a_resume_by_hand_at_the_lower_rate(
    tmp_path: Path, height: float, rate: float, step: int, back: int
) -> None:
    settings = {"learning_rate": rate, "rollback_factor": 0.25}
    weight, progress, _ = train(tmp_path / "run", height, **settings)
    expected = {"from_step": step, "to_step": back, "rate_factor": 0.25}
    assert progress.rollback == expected
    assert float(weight) == pytest.approx(back * rate + (105 - back) * rate / 4, rel=1e-4)
    lines = read_log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["rollback"] == expected
    assert all(line["spikes"] == [] for line in lines)  # of what was undone nothing is left
    (tmp_path / "hand" / "checkpoints").mkdir(parents=True)
    shutil.copy(
        tmp_path / "run" / "checkpoints" / "sound.safetensors",
        tmp_path / "hand" / "checkpoints" / "last.safetensors",
    )
    by_hand, _, _ = train(
        tmp_path / "hand", height, resume=True, rollback=False, learning_rate=rate / 4
    )
    assert torch.equal(weight, by_hand)


@pytest.mark.parametrize("stopped", [40, 104])
def test_it_resumes_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    whole, _, _ = train(tmp_path / "whole", math.inf)
    step, done = TrainingLoop._step, 0

    def limited(loop: TrainingLoop, *batch: Any) -> Any:
        nonlocal done
        done += 1
        if done > stopped:
            raise OSError("gone")
        return step(loop, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", limited)
        with pytest.raises(OSError, match="gone"):
            train(tmp_path / "run", math.inf, checkpoint_seconds=0.0)
    resumed, progress, _ = train(tmp_path / "run", math.inf, resume=True)
    assert torch.equal(resumed, whole)
    assert progress.rollback["to_step"] == 90
    volatile = {"seconds", "examples_per_s", "peak_memory_bytes"}
    logs = [
        [{k: v for k, v in line.items() if k not in volatile} for line in read_log(folder)]
        for folder in (tmp_path / "run", tmp_path / "whole")
    ]
    assert logs[0] == logs[1]


def test_the_best_weights_go_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "SOUND_STEPS", 60)  # inside epoch 2; epoch 2 was the best, undone
    values = iter([0.5, 0.9, 0.4, 0.3])
    config = TrainingConfig(
        epochs=EPOCHS, weight_decay=0.0, learning_rate=0.01, rollback=True, patience=None
    )
    model = Slope()
    loop = TrainingLoop(
        model,
        CliffObjective(math.inf),
        config,
        directory=tmp_path,
        validate=lambda _: {"map": next(values)},
    )
    progress = loop.run()
    assert progress.rollback["to_step"] == 60
    assert (progress.best_epoch, progress.best_value) == (1, 0.5)
    assert float(model.weight.detach()) == pytest.approx(0.35)
    assert [line["validation"]["map"] for line in read_log(tmp_path)] == [0.5, 0.4, 0.3]


def test_a_second_divergence_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="the loss must be finite; it is inf in epoch 3"):
        train(tmp_path, math.inf, learning_rate=0.012, rollback_factor=0.999)


def test_without_a_rollback_a_spike_is_logged_and_no_more(tmp_path: Path) -> None:
    weight, progress, _ = train(tmp_path, 50.0, rollback=False, watch_spikes=True)
    assert float(weight) == pytest.approx(1.05)
    assert progress.rollback == {}
    (spike,) = read_log(tmp_path)[-1]["spikes"]
    assert (spike["step"], spike["task"], spike["steps"]) == (101, "slope", None)
    assert not (tmp_path / "checkpoints" / "sound.safetensors").exists()


def test_what_diverged_can_be_asked_for(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=EPOCHS, weight_decay=0.0, learning_rate=0.01, watch_spikes=True)
    loop = TrainingLoop(Slope(), CliffObjective(math.inf), config, directory=tmp_path)
    with pytest.raises(DivergenceError):
        loop.run()
    assert loop.watch is not None
    (spike,) = loop.watch.take()
    assert loop.watch.detector.leap == math.inf
    assert (spike["step"], spike["task"], spike["height"]) == (101, "slope", None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollback_factor": 0.25}, "rollback_factor is read with rollback=true only; got"),
        ({"clip_rule": "gc"}, "clip_rule is read with optimizer='clippy' only; got clip_rule='gc'"),
        ({"optimizer": "clippy", "clip_rule": "agc"}, "clip_rule='agc' needs clip_threshold; got"),
        ({"optimizer": "clippy", "clip_threshold": 0.1}, "clip_threshold is read with .* 'lamb'"),
        (
            {"optimizer": "clippy", "clip_rule": "gc", "clip_threshold": 1, "clip_relative": 0.1},
            r"clip_relative is read with .* and clip_rule='clippy' only; got .*0\.1",
        ),
        ({"optimizer": "adagrad", "clip_direction": "adam"}, "clip_direction is read with"),
    ],
)
def test_settings_that_nothing_would_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_config(TrainingConfig, settings)
