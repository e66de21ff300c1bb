from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.data.ranking.schema import Task
from ensue.data.synthetic.stream import StreamConfig
from ensue.errors import ConfigError, UsageError
from ensue.runs.stability import load_stability, parse_rule, stability
from ensue.runs.stability_problem import Bench, Problem, Quality, quality_of
from ensue.runs.stability_result import Outcome, divergence, summarize
from ensue.runs.stability_stream import StreamBenchConfig, stream_bench
from ensue.training.objective import Batch, MultitaskObjective

STEPS, LEAP = 60, range(40, 45)


class Parabola(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class ParabolaObjective(MultitaskObjective):
    """A parabola of one weight with a wall at 2; seed 1 has a leap that comes back."""

    def __init__(self, seed: int) -> None:
        super().__init__(STEPS, tasks=("click", "watch"), seed=seed)
        self._leap = 100.0 * (seed == 1)

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        for step in range(first, STEPS):
            yield [torch.tensor([self._leap if step in LEAP else 0.0])]

    def task_losses(self, model: Any, batch: Batch) -> Tensor:
        bend = 0.5 * model.weight[0] ** 2
        wall = torch.inf if abs(float(model.weight.detach())) > 2 else 0.0
        return torch.stack([bend + wall, 10.0 + batch[0][0] * (1 + bend)])


class Planted:
    """Counts the problems that it makes, and may be interrupted before one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.made: list[int] = []
        self._stop_at = stop_at
        self.bench = Bench({"name": "parabola"}, self.make)

    def make(self, seed: int) -> Problem:
        if len(self.made) == self._stop_at:
            raise KeyboardInterrupt
        self.made.append(seed)

        def measure(model: nn.Module) -> Quality:
            return {"auc": {"click": 0.7 + 0.01 * seed}, "rmse": {"watch": 1.0 + seed}}

        return Problem(Parabola(), ParabolaObjective(seed), measure)


SWEEP: dict[str, Any] = {
    "rules": ("clippy", "gc:0.1", "none"),
    "rates": (40.0, 1.0, 4.0),
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stability(Planted().bench, out=tmp_path_factory.mktemp("sweep") / "out", **SWEEP)


def test_planted_divergences_are_found(found: Any) -> None:
    """Adagrad's first step is .95 times the rate, GC's a tenth of that; the wall is 3 away."""
    assert [rule.rule for rule in found.rules] == ["none", "gc:0.1", "clippy"]
    by_rule = {rule.rule: rule for rule in found.rules}
    assert {name: rule.largest_rate for name, rule in by_rule.items()} == {
        "none": 1.0,
        "gc:0.1": 4.0,
        "clippy": 40.0,
    }
    assert [point.diverged for point in by_rule["none"].points] == [0.0, 1.0, 1.0]
    point = by_rule["none"].points[0]
    assert (point.rate, point.num_runs, point.micro) == (1.0, 2, 0.5)
    assert point.auc == pytest.approx(0.705)
    assert point.auc_deviation == pytest.approx(0.01 / 2**0.5)
    assert point.rmse == pytest.approx(1.5)
    last = by_rule["none"].points[-1]
    assert (last.micro, last.auc, last.rmse) == (0.0, None, None)
    assert by_rule["clippy"].largest_calm_rate is None
    assert by_rule["clippy"].origins == {"weight": 3}
    assert by_rule["clippy"].best is by_rule["clippy"].points[0]


def test_what_is_stored_is_what_is_returned(found: Any) -> None:
    stored = json.loads((found.path / "stability.json").read_text())
    assert stored == json.loads(json.dumps(found.to_dict()))
    assert stored["bench"] == {"name": "parabola"}
    assert stored["num_runs"] == len(found.outcomes) == 18
    assert load_stability(found.path).to_dict() == found.to_dict()
    run = found.path / "runs" / "gc-0.1" / "40" / "1"
    assert {file.name for file in run.iterdir()} == {"log.jsonl", "run.json"}
    assert json.loads((run / "run.json").read_text())["reason"] == "loss"


def test_the_page_shows_curves_and_tables(found: Any) -> None:
    page = (found.path / "stability.html").read_text()
    assert page.count("<svg") == 4
    for text in ("Stability: parabola", "gc:0.1", "learning rate", "Where leaps began", "0.7050"):
        assert text in page
    assert "NaN" not in page


@pytest.mark.slow
def test_an_interrupted_sweep_repeats_nothing(found: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stability(Planted(stop_at=7).bench, out=tmp_path / "out", **SWEEP)
    rest = Planted()
    resumed = stability(rest.bench, out=tmp_path / "out", resume=True, **SWEEP)
    assert len(rest.made) == 18 - 7
    assert resumed.to_dict() == found.to_dict()
    more = Planted()
    wider = stability(
        more.bench, out=tmp_path / "out", rules=["none"], rates=[2.0], seeds=[0], resume=True
    )
    assert more.made == [0]
    assert len(wider.outcomes) == 19  # all that is there
    with pytest.raises(UsageError, match="a sweep is resumed with the settings it was started"):
        stability(
            more.bench, out=tmp_path / "out", settings={"warmup_steps": 3}, resume=True, **SWEEP
        )


@pytest.mark.slow
def test_rates_above_a_divergence_of_all_can_be_left_out(tmp_path: Path) -> None:
    planted = Planted()
    sweep = {**SWEEP, "rules": ["none"]}
    found = stability(planted.bench, out=tmp_path / "out", until_diverged=True, **sweep)
    assert [point.rate for point in found.rules[0].points] == [1.0, 4.0]


def outcome(rate: float, reason: str | None, steps: int | None = None) -> Outcome:
    spikes = [{"step": 30, "task": "a", "tensor": "w", "height": 9.0, "steps": steps}]
    return Outcome("none", rate, 0, reason, 1.0, {"auc": {}, "rmse": {}}, spikes, {}, 1.0)


def test_the_largest_rate_is_below_the_first_divergence() -> None:
    outcomes = [outcome(1, None, 4), outcome(2, None), outcome(4, "auc", 4), outcome(8, None)]
    (rule,) = summarize(outcomes, ["none", "clippy"])
    assert (rule.largest_rate, rule.largest_calm_rate) == (2, None)
    assert [point.micro for point in rule.points] == [1.0, 0.0, 0.0, 0.0]  # one lasts, one diverged


def test_quality_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 2)).astype(np.float32)
    labels[:9, 0] = np.nan
    found = rng.integers(0, 5, (60, 2)).astype(np.float32)
    quality = quality_of([Task("click", "binary"), Task("watch", "regression")], labels, found)
    positive, negative = (found[labels[:, 0] == label, 0] for label in (1, 0))
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert quality["auc"]["click"] == pytest.approx(pairs.mean())
    assert quality["rmse"]["watch"] == pytest.approx(((found - labels)[:, 1] ** 2).mean() ** 0.5)
    found[:, 0] = 1.0
    constant = quality_of([Task("click", "binary")], labels, found)
    assert constant["auc"]["click"] == 0.5
    assert divergence(constant, 2.1) == "auc"
    assert divergence(constant, 1.9) is None  # it has hardly moved
    found[20, 0] = np.nan
    broken = quality_of([Task("click", "binary")], labels, found)
    assert broken["auc"]["click"] is None
    assert divergence(broken, 2.1) == "auc"
    assert divergence(quality | {"auc": {"click": 0.506}}, 9.0) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rules": ["gc"]}, ConfigError, "clip_rule='gc' needs clip_threshold; got none"),
        ({"rules": ["sgd"]}, UsageError, r"a rule must be RULE.*; got 'sgd'"),
        ({"rules": ["gc:much"]}, UsageError, r"a rule must be RULE.*; got 'gc:much'"),
        ({"rules": ["clippy@sgd"]}, UsageError, r"a rule must be RULE.*; got 'clippy@sgd'"),
        (
            {"rates": []},
            UsageError,
            r"one rule, one rate above 0 and one seed; got .*\[\]",
        ),
        ({"settings": {"seed": 3}}, UsageError, "seed is what a sweep sets itself; leave it out"),
    ],
)
def test_bad_arguments_fail_before_any_training(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        stability(Planted(0).bench, out=tmp_path / "out", **{**SWEEP, **arguments})
    assert not (tmp_path / "out").exists()


def test_rules_name_rule_threshold_and_direction() -> None:
    assert parse_rule("none") == {"clip_rule": "none", "clip_direction": "adagrad"}
    assert parse_rule("clippy@delayed_adagrad")["clip_direction"] == "delayed_adagrad"


@pytest.mark.slow
def test_command_and_function_agree(tmp_path: Path) -> None:
    command = (
        *("stability", "-o", str(tmp_path / "cli"), "--rule", "clippy", "--rule", "lamb:0.1"),
        *("--from", "0.01", "--to", "0.02", "--seeds", "1", "--steps", "25", "--width", "8"),
        *("--batch-size", "16", "--set", "warmup_steps=2"),
    )
    result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed.pop("path") == str(tmp_path / "cli")
    found = ensue.stability(
        stream_bench(StreamBenchConfig(steps=25, width=8, batch_size=16)),
        out=tmp_path / "python",
        rules=["clippy", "lamb:0.1"],
        rates=[0.01, 0.02],
        seeds=[0],
        settings={"warmup_steps": 2},
    )
    assert printed == json.loads(json.dumps(found.to_dict()))
    again = CliRunner().invoke(app, [*command, "--resume"], catch_exceptions=False)
    assert "4 trainings" in again.stdout
    assert "stability.html" in again.stdout


@pytest.mark.slow
def test_clippy_takes_rates_at_which_adagrad_diverges(tmp_path: Path) -> None:
    config = StreamBenchConfig(steps=120, width=64, stream=StreamConfig())
    found = stability(
        stream_bench(config), out=tmp_path / "out", rules=["none", "clippy"],
        rates=[0.05, 3.2], seeds=[0],
    )  # fmt: skip
    plain, clippy = found.rules
    assert (plain.largest_rate, clippy.largest_rate) == (0.05, 3.2)
    assert clippy.points[0].auc > 0.65
