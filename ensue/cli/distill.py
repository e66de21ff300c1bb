"""`ensue distill`: train a student on a dataset and on what a trained run answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def distill(
    teacher: Annotated[
        Path,
        typer.Argument(help="Run folder of the teacher; or a .npz with x and y: a classifier."),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(help="Dataset folder of the teacher, where it is not in its old place."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the student's run.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="rd (the default), kd, kd-topk, kd-pt, kd-sim, kd-rel, kd-pt+sim, kd-perm, "
            "kd-classavg or ls."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Family of the student; by default the teacher's, with its settings."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings of the student.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, of the student, its training or method; repeat."),
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="train or train+validation; by default the teacher's.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the teacher's answers; default: its run.")
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            help="The student's first weights: random, or in its tables the teacher's, reduced."
        ),
    ] = "random",
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Train students of all partial kd methods, and compare."),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Of each student, with --explain and for a classifier."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Train a small model to rank as a large one does; Ctrl-C keeps a checkpoint."""
    from ensue.cli.trained import print_run, resumable
    from ensue.config import parse_settings
    from ensue.runs.distill import distill

    options = {
        "out": output,
        "model": model,
        "preset": preset,
        "fit": fit,
        "cache": cache,
        "start": start,
        "resume": resume,
        "overwrite": overwrite,
        **parse_settings(assignments or []),
    }
    if teacher.suffix == ".npz":
        _refuse(
            "a .npz file is distilled by every method",
            {
                "DATA": data,
                "--method": method,
                "--model": model,
                "--preset": preset,
                "--fit": fit,
                "--cache": cache,
                "--start": None if start == "random" else start,
                "--explain": explain,
                "--resume": resume,
            },
        )
        _classifier(teacher, output, seeds or 1, assignments or [], overwrite, as_json=as_json)
        return
    if explain:
        _refuse("--explain trains students of all its methods", {"--method": method})
    else:
        _refuse("one student has one seed; use --set seed=N", {"--seeds": seeds})
    with resumable("A checkpoint is", output):
        if explain:
            _explain(teacher, data, seeds or 1, options, as_json=as_json)
            return
        method = method or "rd"
        run = distill(teacher, data, method=method, **options)
    title = f"{run.info['model']} by {method}"
    print_run(
        run, title=title, next_command=f"ensue tradeoff {teacher} {run.path}", as_json=as_json
    )


def _refuse(reason: str, options: dict[str, Any]) -> None:
    """Raise a UsageError for the first option that was given."""
    from ensue.errors import UsageError

    for name, value in options.items():
        if value:
            raise UsageError(f"{name} has no meaning here: {reason}.")


def _classifier(
    arrays: Path,
    output: Path,
    seeds: int,
    assignments: list[str],
    overwrite: bool,
    *,
    as_json: bool,
) -> None:
    """Distill a classifier of the arrays of a file by every method, and show the table."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.config import parse_settings
    from ensue.runs.classifier_data import load_arrays
    from ensue.runs.distill_classifier import distill_arrays

    found = distill_arrays(
        **load_arrays(arrays),
        out=output,
        seeds=range(seeds),
        overwrite=overwrite,
        **parse_settings(assignments),
    )
    if as_json:
        print_json(found.to_dict())
        return
    names = ("accuracy", "standard_error", "contrast", "calibration_error")
    rows = [
        [row["method"], *("-" if row[name] is None else row[name] for name in names)]
        for row in found.table
    ]
    title = f"students of a teacher of accuracy {found.teacher['accuracy']:.4f}"
    columns = ["method", *(name.replace("_", " ") for name in names)]
    print_table(columns, rows, title=title)
    if found.attribution is not None:
        print_text(found.attribution.sentence)


def _explain(
    teacher: Path, data: Path | None, seeds: int, options: dict[str, Any], *, as_json: bool
) -> None:
    """Compare all partial methods, and show the table."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.runs.explain import explain

    found = explain(teacher, data, seeds=range(seeds), **options)
    if as_json:
        print_json(found.to_dict())
        return
    names = {
        "value": found.metric,
        "standard_error": "standard error",
        "omega": "mean omega",
        "target_entropy": "entropy of the target",
        "calibration_error": "calibration error",
    }
    rows = [
        [row["method"], *("-" if row.get(name) is None else row[name] for name in names)]
        for row in found.table
    ]
    title = f"students of {teacher}, {found.teacher['value']:.4f}"
    print_table(["method", *names.values()], rows, title=title)
    if found.attribution is not None:
        print_text(found.attribution.sentence)
