"""What commands that train say: how to go on after Ctrl-C, and what the run came to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensue.cli.output import print_json, print_table, print_text
from ensue.progress import note
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
