"""`ensue audit`: how far fake users push items in a model, whether one notices, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensue.runs.audit_result import Audit

LIMIT_EXCEEDED = 3  # exit code


def audit(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of ensue train, of one dataset.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the audit.")],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="Items to promote: head, torso, upper-torso, lower-torso or tail, or raw ids "
            "joined by commas; repeat. Default: tail."
        ),
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            help="Fake users: a percentage of the real ones, or a number; repeat. Default: 1%.",
        ),
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="By name, see docs/audit.md; repeat. Default: wrmf-sgd."),
    ] = None,
    defences: Annotated[
        list[str] | None,
        typer.Option(
            "--defence", help="drop[:SHARE][@DETECTOR] or cap[:SHARE], to measure; repeat."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, where it is not in its old place.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="A target among the first k is a hit.")] = 50,
    num_targets: Annotated[int, typer.Option("--num-targets", help="Items of a band.")] = 5,
    seeds: Annotated[int, typer.Option(help="Targets, attacks and trainings of each kind.")] = 3,
    order: Annotated[
        str, typer.Option(help="Of a fake user's clicks: spread (at random), or last (targets).")
    ] = "spread",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="[ATTACK.]NAME=VALUE, a setting of the attacks; repeat."),
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above", help="Exit with 3 where the hit rate after an attack is above this."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the audit in the output folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the audit that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Attack models with fake users on a copy of their data, and measure how far items get."""
    from ensue.cli.output import print_json
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.errors import UsageError
    from ensue.progress import note
    from ensue.runs.audit import audit

    if fail_above is not None and not 0 <= fail_above <= 1:
        raise UsageError(f"--fail-above takes a hit rate from 0 to 1; got {fail_above}.")
    with resumable("The audit so far is", output):
        found = audit(
            runs,
            data,
            out=output,
            targets=targets or ("tail",),
            budgets=budgets or ("1%",),
            attacks=attacks or ("wrmf-sgd",),
            defences=defences or (),
            k=k,
            num_targets=num_targets,
            seeds=range(seeds),
            order=order,  # type: ignore[arg-type]  # audit checks it
            settings=parse_settings(assignments or []),
            resume=resume,
            overwrite=overwrite,
        )
    if as_json:
        print_json({"path": str(found.path), **found.to_dict()})
    else:
        _print(found)
    worst = found.worst
    if fail_above is not None and worst.after > fail_above:
        note(
            f"failed: the hit rate must not be above {fail_above:g}; {worst.attack} takes targets "
            f"({worst.targets}) in {worst.victim} to {worst.after:.4f} with {worst.budget} fake "
            "users."
        )
        raise typer.Exit(LIMIT_EXCEEDED)


def _print(found: Audit) -> None:
    """Print the effects as a table, and where the rest is."""
    from ensue.cli.output import print_table, print_text
    from ensue.runs.audit_result import describe_strongest

    k = found.facts["k"]
    recall = f"recall@{k}"
    rows = [
        [
            effect.victim,
            effect.attack,
            effect.targets,
            effect.budget,
            effect.defence,
            effect.before,
            effect.after,
            effect.lift,
            f"{effect.interval[0]:.4f} to {effect.interval[1]:.4f}",
            effect.accuracy[recall][1] - effect.accuracy[recall][0],
        ]
        for effect in found.effects
    ]
    columns = ["model", "attack", "targets", "budget", "defence"]
    columns += [f"hit rate@{k} before", "after", "lift", "interval", f"change of {recall}"]
    print_table(columns, rows, title=f"Means over {len(found.facts['seeds'])} seeds")
    print_text(describe_strongest(found))
    names = [name for name in ("audit.html", "audit.json") if (found.path / name).is_file()]
    print_text(f"All of it is in {found.path}: {' and '.join(names)}.")
