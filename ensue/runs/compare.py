"""Compare stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensue.errors import RunError
from ensue.evaluation.result import Evaluation
from ensue.evaluation.significance import Comparison, compare
from ensue.runs.run import Run, load


def compare_runs(
    runs: Sequence[Run | str | Path], *, split: str = "test", **options: Any
) -> Comparison:
    """Return paired tests between every two runs, from their stored evaluations.

    Runs are called by the names of their folders, by their paths where those are the same.

    Args:
        options: of `ensue.evaluation.significance.compare` (metrics, correction, ...).

    Raises:
        RunError: a run was not evaluated on the split.
        UsageError: the evaluations are not of the same users and protocol, or lack a metric.
    """
    opened = [run if isinstance(run, Run) else load(run) for run in runs]
    names = [run.path.name for run in opened]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in opened]
    return compare([_stored(run, split) for run in opened], names, **options)


def _stored(run: Run, split: str) -> Evaluation:
    folder = run.path / "evaluation"
    if not (folder / f"{split}.json").is_file():
        raise RunError(
            f"compare needs runs evaluated on {split}; {run.path} was not. "
            f"Run ensue evaluate {run.path} --split {split}."
        )
    return Evaluation.load(folder, split)
