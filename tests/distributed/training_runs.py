"""Whole trainings over several workers, for tests: `train_ranker` with the workers of a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.distributed.workers import Workers
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.table_records import records
from ensue.runs.ranker import RankingRun
from ensue.runs.train_ranker import train_ranker
from ensue.training.loop import TrainingLoop
from tests.distributed.spawn import run_workers
from tests.training.test_resume import stop_after

VOLATILE = {"seconds", "examples_per_s", "peak_memory_bytes"}
FAST: dict[str, Any] = {"batch_size": 64, "epochs": 2, "patience": None, "learning_rate": 0.05}


def train_as_worker(
    workers: Workers,
    model: str,
    data: Path,
    out: Path,
    scheme: str,
    settings: dict[str, Any],
    crash_after: int | None = None,
    interrupt: tuple[int, int] | None = None,
) -> str:
    """Train with the other workers, and return how it ended.

    Args:
        crash_after: all workers fail after so many batches.
        interrupt: (rank, step), a worker that gets Ctrl-C while it takes a step.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workers, "start", lambda *_, **__: workers)
        if crash_after is not None:
            stop_after(patch, crash_after, OSError("gone"))
        if interrupt is not None and interrupt[0] == workers.rank:
            _interrupt_in(patch, interrupt[1])
        try:
            train_ranker(model, data, out=out, distributed=scheme, **settings)
        except (OSError, KeyboardInterrupt) as ending:
            return type(ending).__name__
    return "done"


def _interrupt_in(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have a loop asked to stop while it takes its step of that number."""
    step, taken = TrainingLoop._step, 0

    def asked(loop: TrainingLoop, *batch: Any) -> Any:
        nonlocal taken
        taken += 1
        loop._stop_requested |= taken == number
        return step(loop, *batch)

    patch.setattr(TrainingLoop, "_step", asked)


def train_on(
    size: int, data: Path, out: Path, scheme: str, settings: dict[str, Any], **how: Any
) -> RankingRun:
    """Train "model" of the settings over `size` workers to the end, and return the run."""
    assert set(start_on(size, data, out, scheme, settings, **how)) == {"done"}
    return RankingRun(out)


def start_on(
    size: int,
    data: Path,
    out: Path,
    scheme: str,
    settings: dict[str, Any],
    crash_after: int | None = None,
    interrupt: tuple[int, int] | None = None,
) -> list[str]:
    """Return how the training ended on each worker; how as in `train_as_worker`."""
    model, rest = settings["model"], {k: v for k, v in settings.items() if k != "model"}
    arguments = (model, data, out, scheme, rest, crash_after, interrupt)
    return run_workers(train_as_worker, size, *arguments, timeout_seconds=240.0)


def assert_equal_runs(run: RankingRun, other: RankingRun, *, tolerance: float = 0.0) -> None:
    """Fail where weights, rows of growing tables, the log or the figures differ."""
    weights, expected = all_weights(run.model), all_weights(other.model)
    assert weights.keys() == expected.keys()
    torch.testing.assert_close(weights, expected, rtol=tolerance, atol=tolerance)
    for line, wanted in zip(run.log(), other.log(), strict=True):
        assert_equal_lines(line, wanted, tolerance=tolerance)
    assert run.info["best_epoch"] == other.info["best_epoch"]


def assert_equal_lines(line: Any, wanted: Any, *, tolerance: float) -> None:
    """Fail where a line of a log has other keys or other numbers."""
    if isinstance(wanted, dict):
        assert line.keys() == wanted.keys()
        for name in wanted.keys() - VOLATILE:
            assert_equal_lines(line[name], wanted[name], tolerance=tolerance)
        return
    assert line == (pytest.approx(wanted, rel=tolerance, abs=tolerance) if tolerance else wanted)


def all_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the weights by name; of growing tables ids, rows with their state, and notes."""
    tables = {n: m for n, m in model.named_modules() if isinstance(m, DynamicEmbedding)}
    found = {
        name: value
        for name, value in model.state_dict().items()
        if not any(name.startswith(f"{table}.") for table in tables)
    }
    for name, table in tables.items():
        own = records(table)
        order = own.ids.argsort()
        found |= {f"{name}.{kind}": own._asdict()[kind][order] for kind in own._fields}
        found[f"{name}.step"] = torch.tensor(table.step)
        found[f"{name}.deleted"] = table.deleted[table.deleted[:, 0].argsort(stable=True)]
    return found
