"""What a model costs and what it gives: size, time of an answer, and quality, run beside run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensue.data.dataset import Dataset
from ensue.errors import UsageError
from ensue.evaluation.evaluator import Split
from ensue.files import atomic_file, write_json
from ensue.runs.page import Mean, build_page, header, notes, plots, section, table
from ensue.runs.plots import draw_intervals, draw_places, require_plots
from ensue.runs.run import Run, load

BATCHES = (1, 256)  # requests answered at a time
NUM_USERS = 2048  # whose histories are asked for in turn


@dataclass(frozen=True)
class Cost:
    """A run of the table.

    file_bytes: of the weights. ms: of a request, in answers to 1 and to 256 at a time.
    value, interval: of the metric, over users.
    """

    name: str
    model: str
    method: str | None
    num_parameters: int
    file_bytes: int
    ms: dict[str, float]
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Tradeoff:
    """The table of several runs."""

    metric: str
    split: str
    costs: list[Cost]

    def to_dict(self) -> dict[str, Any]:
        """Return the table, ready for JSON."""
        return asdict(self)


def tradeoff(
    runs: Sequence[Run | str | Path],
    data: Dataset | str | Path | None = None,
    *,
    metric: str = "map",
    split: Split = "test",
    k: int = 10,
    repeats: int = 30,
    out: str | Path | None = None,
    **options: Any,
) -> Tradeoff:
    """Return size, time and quality of runs, measured side by side: for a teacher and students.

    The first k items are asked for, of stored histories, seen items left out. The runs take turns,
    so that what else the machine does slows all of them; times are medians.

    Args:
        runs: called by the names of their folders, by their paths where those are the same.
        data: the dataset; None is where each run's was at training time.
        metric: of the evaluation, "map", "ndcg@10", ...
        repeats: answers timed for each run and size of request.
        out: a folder for tradeoff.json and a page, tradeoff.html; None writes nothing.
        options: of `ensue.evaluate` (num_resamples, exclude_seen, ...).

    Raises:
        UsageError: there is no such metric, or no run.
    """
    if not runs:
        raise UsageError("tradeoff needs runs; got none.")
    if repeats < 1:
        raise UsageError(f"tradeoff needs repeats >= 1; got {repeats}.")
    opened = [run if isinstance(run, Run) else load(run) for run in runs]
    names = [run.path.name for run in opened]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in opened]
    if out is not None:
        require_plots()
    evaluations = [run.evaluate(data, split=split, **options) for run in opened]
    for evaluation in evaluations:
        if metric not in evaluation.metrics:
            raise UsageError(f"metric must be one of {sorted(evaluation.metrics)}; got {metric!r}.")
    times = _time(opened, k=k, repeats=repeats)
    costs = [
        Cost(
            name=name,
            model=run.info["model"],
            method=run.info.get("distillation", {}).get("method"),
            num_parameters=run.info["num_parameters"],
            file_bytes=(run.path / "model.safetensors").stat().st_size,
            ms=ms,
            value=evaluation.metrics[metric],
            interval=_pair(evaluation.intervals.get(metric)),
        )
        for name, run, evaluation, ms in zip(names, opened, evaluations, times, strict=True)
    ]
    found = Tradeoff(metric, split, costs)
    if out is not None:
        _write(Path(out), found)
    return found


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _time(runs: Sequence[Run], *, k: int, repeats: int) -> list[dict[str, float]]:
    """Return milliseconds of a request by size of batch, for each run."""
    times: list[dict[str, float]] = [{} for _ in runs]
    requests = [_users(run) for run in runs]
    for size in BATCHES:
        taken: list[list[float]] = [[] for _ in runs]
        for turn in range(repeats + 1):
            for number, run in enumerate(runs):
                first = turn * size % max(1, len(requests[number]) - size + 1)
                users = requests[number][first : first + size]
                started = time.perf_counter()
                run.recommend(users=users, k=k)
                if turn > 0:  # the first answer reads the model
                    taken[number].append((time.perf_counter() - started) / len(users))
        for number, seconds in enumerate(taken):
            times[number][str(size)] = 1e3 * statistics.median(seconds)
    return times


def _users(run: Run) -> list[str]:
    """Return raw ids of users with a history, the same for runs of the same dataset."""
    recommender = run.recommender
    known = np.flatnonzero(recommender.histories.lengths > 0)
    chosen = np.random.default_rng(0).permutation(known)[:NUM_USERS]
    return recommender.user_ids.to_raw(chosen)


def _write(out: Path, found: Tradeoff) -> None:
    """Write the table and a page about it."""
    with atomic_file(out / "tradeoff.html") as temporary:
        temporary.write_text(_page(found), encoding="utf-8")
    write_json(out / "tradeoff.json", found.to_dict())


def _page(found: Tradeoff) -> str:
    """Return the page."""
    costs = found.costs
    spans = [cost.interval or (cost.value, cost.value) for cost in costs]
    names = [cost.name for cost in costs]
    values = [cost.value for cost in costs]
    size = str(BATCHES[0])
    drawings = [
        draw_places(
            f"{found.metric} against the time of an answer",
            {cost.name: (cost.ms[size], cost.value) for cost in costs},
            x_label="ms for one request",
        ),
        draw_places(
            f"{found.metric} against the number of parameters",
            {cost.name: (float(cost.num_parameters), cost.value) for cost in costs},
            x_label="parameters",
        ),
        draw_intervals(f"{found.metric} and its interval", names, values, spans),
    ]
    rows = [
        [
            cost.name,
            cost.model if cost.method is None else f"{cost.model}, {cost.method}",
            Mean(cost.value, cost.interval),
            cost.num_parameters,
            f"{cost.file_bytes / 1e6:.2f}",
            *(f"{cost.ms[str(size)]:.3f}" for size in BATCHES),
        ]
        for cost in costs
    ]
    heads = ["run", "model", found.metric, "parameters", "MB"]
    heads += [f"ms, {size} at a time" for size in BATCHES]
    facts = [f"{len(costs)} runs", f"{found.metric} on {found.split}"]
    explanation = notes(
        [
            "Times are of one request, medians of answers in turn, run after run: compare them "
            "with each other, not with another machine's.",
            "Intervals are over users: they say how sure a value is, not how sure a difference is. "
            "For that see ensue compare.",
        ]
    )
    body = table(heads, rows)
    title = "What a model costs and what it gives"
    return build_page(
        title,
        [
            header(title, facts, []),
            section("Runs", body + explanation),
            section("Plots", plots(drawings)),
        ],
    )
