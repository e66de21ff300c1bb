"""What commands that train say: how to go on after Ctrl-C, and what the run came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ensue.cli.output import print_json, print_table, print_text
from ensue.progress import note
from ensue.runs.ranker import RankingRun
from ensue.runs.run import Run

SHOWN_METRICS = ("map", "ndcg@10", "recall@10", "hr@10", "mrr")


@contextmanager
def resumable(what: str, output: Path) -> Iterator[None]:
    """Say after Ctrl-C where `what` is, and that --resume continues from it."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"{what} in {output}; the same command with --resume continues.")
        raise


def print_run(run: Run, *, title: str, next_command: str, as_json: bool) -> None:
    """Print a finished run: one JSON object, or its metrics and what to do next."""
    if as_json:
        print_json({"path": str(run.path), **run.info})
        return
    validation = run.info["metrics"].get("validation", {})
    names = [name for name in SHOWN_METRICS if name in validation]
    if names:
        epoch = run.info.get("best_epoch")
        title = f"{title} on the validation part" + (f", best epoch {epoch}" if epoch else "")
        print_table(names, [[validation[name] for name in names]], title=title)
    print_text(f"The run is in {run.path}. Next:\n  {next_command}")


def print_ranking_run(run: RankingRun, *, as_json: bool) -> None:
    """Print a finished run of a ranking model: one JSON object, or its metrics by task."""
    if as_json:
        print_json({"path": str(run.path), **run.info})
        return
    validation = run.info["metrics"].get("validation", {})
    if validation:
        title = f"{run.info['model']} on the validation part, best epoch {run.info['best_epoch']}"
        print_task_metrics(
            {
                task.name: {
                    name.removeprefix(f"{task.name}/"): value
                    for name, value in validation.items()
                    if name.startswith(f"{task.name}/")
                }
                for task in run.schema.tasks
            },
            title=title,
        )
    print_text(f"The run is in {run.path}. Next:\n  ensue evaluate {run.path}")


def print_task_metrics(
    metrics: Mapping[str, Mapping[str, float | None]], *, title: str, first: str = "task"
) -> None:
    """Print a row for each task, or what else `first` says, and a column for each metric."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[task, *(values.get(name) for name in names)] for task, values in metrics.items()]
    print_table([first, *(name.replace("_", " ") for name in names)], rows, title=title)
