"""What `ensue prepare --target` adds to the verb: its flags, and the summary for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ensue.errors import UsageError

if TYPE_CHECKING:
    from ensue.data.ranking.info import RankingInfo


def check_ranking_flags(
    *, is_ranking: bool, ranking: Mapping[str, object], other: Mapping[str, object]
) -> None:
    """Check that no flag is given that has no meaning with, or without, --target.

    Raises:
        UsageError: one is.
    """
    for flag, value in (other if is_ranking else ranking).items():
        if value is not None and value != []:
            how = "is not for a ranking dataset" if is_ranking else "is for a ranking dataset"
            remedy = (
                "Leave it out: every column that is no target is a feature."
                if is_ranking
                else "Pass --target too."
            )
            raise UsageError(f"{flag} {how}, which --target makes; got {value!r}. {remedy}")


def parse_weights(assignments: Sequence[str]) -> dict[str, str]:
    """Return target -> column of weights for "TARGET=COLUMN"; "" is every other target."""
    weights: dict[str, str] = {}
    for assignment in assignments:
        target, equals, column = assignment.partition("=")
        weights[target if equals else ""] = column if equals else assignment
    return weights


def print_ranking_summary(out: Path, info: RankingInfo, *, as_json: bool) -> None:
    """Write what a ranking dataset holds to standard output: for people, or as one JSON object."""
    from ensue.cli.output import print_json, print_table

    if as_json:
        print_json({"path": str(out), **info.model_dump()})
        return
    split = ", ".join(
        ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in info.split.values()
    )
    rows: list[tuple[str, object]] = [
        *info.counts.items(),
        ("split", split),
        ("hash", info.hash[:16]),
    ]
    print_table(["", str(out)], rows)
    tasks = [
        [
            task.name,
            task.kind,
            part,
            labels.labeled,
            labels.mean,
            task.weight,
            f"{task.column}{task.comparison}",
        ]
        for task in info.tasks
        for part, labels in task.labels.items()
        if info.counts[part]
    ]
    print_table(["target", "kind", "part", "labels", "mean", "weight", "from"], tasks)
    columns: list[list[object]] = [
        [
            one.table,
            one.name,
            f"{one.kind}, log" if one.log else one.kind,
            one.size,
            f"{one.missing:.2%}",
            one.reason,
        ]
        for one in info.columns
    ]
    columns += [
        ["rows", name, "left out", None, None, reason] for name, reason in info.unused.items()
    ]
    print_table(["of", "feature", "kind", "size", "missing", "why"], columns)
