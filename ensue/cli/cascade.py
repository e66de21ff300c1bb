"""The second stage on the command line: a ranker behind what a run retrieves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.runs.cascade import Cascade
    from ensue.runs.requests import Recommendation
    from ensue.runs.run import Run

_SETTINGS = {
    "--candidates": "num_candidates",
    "--task": "task",
    "--user-column": "user_column",
    "--item-column": "item_column",
    "--items": "items",
}


def open_cascade(run: Run, ranker: Path | None, flags: Mapping[str, Any]) -> Cascade | None:
    """Return the run with the ranker behind it; None where there is no ranker.

    Args:
        flags: flags that go with a ranker, and their values; None is not given.

    Raises:
        UsageError: a flag is given, and no ranker.
    """
    from ensue.errors import UsageError

    given = {flag: value for flag, value in flags.items() if value is not None}
    if ranker is None:
        if given:
            raise UsageError(f"{next(iter(given))} goes with --ranker RUN.")
        return None
    from ensue.runs.cascade import Cascade, open_ranker

    settings = {_SETTINGS[flag]: value for flag, value in given.items() if flag in _SETTINGS}
    return Cascade(run, open_ranker(ranker), **settings)


def note_missing(cascade: Cascade, options: Mapping[str, Any]) -> None:
    """Say which columns the ranker reads and nothing gives.

    Args:
        options: of `Cascade.recommend`, with the context and the features of all requests.
    """
    from ensue.progress import note

    given = {**(options.get("context") or {}), **(options.get("features") or {})}
    if missing := [name for name in cascade.missing_columns if name not in given]:
        note(f"The ranker reads {', '.join(missing)}, which nothing gives: they count as missing.")


def print_stages(answer: Recommendation, *, timings: bool) -> None:
    """Say how an answer of two stages came about, where that is asked or is not as usual."""
    from ensue.cli.output import print_text
    from ensue.progress import note
    from ensue.runs.cascade import CascadeAnswer

    assert isinstance(answer, CascadeAnswer)
    if answer.second_stage != "complete":
        note(f"The second stage was {answer.second_stage} to stay within the budget.")
    if timings:
        parts = [f"{s.name} {s.milliseconds:.1f} ms, {s.num_items} items" for s in answer.stages]
        print_text("; ".join(parts) + ".")
