"""`ensue evaluate`: how well a run ranks the catalogue, or predicts rows, that it was not shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensue.errors import UsageError
from ensue.progress import num_processes

if TYPE_CHECKING:
    from ensue.evaluation.ranking.result import RankingEvaluation


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, where it is not in its old place.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", help="A cut-off; repeat. Default 1 5 10 20.")
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--include-seen",
            help="Rank only items not in the user's history (the default), or all.",
        ),
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(help="Bootstrap resamples, by default 1000; 0 for no intervals.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a ranking model: a categorical column, with a slice for each of its most "
            "frequent values; repeat."
        ),
    ] = None,
    popularity: Annotated[
        str | None,
        typer.Option(
            help="Of a ranking model: a categorical column, with slices by how often its value was "
            "seen in training."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Measure a run, with intervals and slices; the result is stored in the run."""
    from ensue.runs.ranker import KIND
    from ensue.runs.stored import kind_of, read_info

    of_catalog = {"-k": k, "--exclude-seen": exclude_seen, "--resamples": resamples}
    of_rows = {"--by": by, "--popularity": popularity}
    if kind_of(read_info(run)) == KIND:
        _refuse(of_catalog, "a model that ranks the catalogue")
        _evaluate_rows(
            run, data, split, {"by": tuple(by or ()), "popularity": popularity}, as_json=as_json
        )
        return
    _refuse(of_rows, "a ranking model")
    if num_processes() > 1:
        raise UsageError(
            "torchrun divides the evaluation of ranking models; this run ranks the catalogue. "
            "Start ensue evaluate without torchrun."
        )
    options: dict[str, Any] = {
        "ks": tuple(k) if k else (1, 5, 10, 20),
        "exclude_seen": exclude_seen is not False,
        "num_resamples": 1000 if resamples is None else resamples,
    }
    _evaluate_catalog(run, data, split, options, as_json=as_json)


def _refuse(options: Mapping[str, object], of: str) -> None:
    """Raise a UsageError for the first option that was given."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} is for {of}; this run is of another one. Leave it out.")


def _evaluate_catalog(
    run: Path, data: Path | None, split: str, options: Mapping[str, Any], *, as_json: bool
) -> None:
    """Rank the held-out items of every user among the whole catalogue."""
    from ensue.cli.output import print_json, print_table
    from ensue.progress import note
    from ensue.runs.run import load

    evaluation = load(run).evaluate(
        data,
        split=split,  # type: ignore[arg-type]  # evaluate checks it
        progress=True,
        **options,
    )
    if as_json:
        print_json(evaluation.to_dict())
        return
    rows = []
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals.get(name, (None, None))
        rows.append([name, value, low, high])
    protocol = evaluation.protocol
    title = (
        f"{run}, {split}: {protocol['num_users']:,} users, {protocol['num_targets']:,} targets, "
        f"{protocol['num_candidates']:,} candidates"
    )
    print_table(["metric", "mean", "from", "to"], rows, title=title)
    cut = f"recall@{protocol['ks'][-1]}"
    slices = [
        [name, part["items"], part["targets"], part["metrics"].get(cut)]
        for name, part in evaluation.slices.items()
    ]
    print_table(["slice", "items", "targets", cut], slices)
    if evaluation.user_slices:
        _print_user_slices(evaluation.user_slices)
    note(f"Intervals: {protocol['interval']}.")
    for text in protocol["notes"]:
        note(f"Note: {text}")


def _print_user_slices(slices: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics of users with few and with many targets."""
    from ensue.cli.output import print_table
    from ensue.evaluation.slices import SHOWN_OF_USERS

    rows = [
        [name, part["users"], part["targets"]]
        + [part["metrics"][f"{metric}@{part['k']}"] for metric in SHOWN_OF_USERS]
        for name, part in slices.items()
    ]
    print_table(["users with", "users", "targets", *(f"{m}@k" for m in SHOWN_OF_USERS)], rows)


def _evaluate_rows(
    run: Path, data: Path | None, split: str, options: Mapping[str, Any], *, as_json: bool
) -> None:
    """Measure the predictions for the rows of a part, task by task."""
    from ensue.cli.output import print_json
    from ensue.distributed.workers import Workers
    from ensue.progress import is_first_process
    from ensue.runs.ranker import load_ranker

    with Workers.start(device="cpu") as workers:
        evaluation = load_ranker(run).evaluate(
            data,
            split=split,  # type: ignore[arg-type]  # evaluate checks it
            progress=True,
            workers=workers,
            **options,
        )
    if not is_first_process():
        return
    if as_json:
        print_json(evaluation.to_dict())
    else:
        _print_rows(run, split, evaluation)


def _print_rows(run: Path, split: str, evaluation: RankingEvaluation) -> None:
    """Print the metrics of each task, with intervals and slices."""
    from ensue.cli.output import print_table
    from ensue.cli.trained import print_task_metrics
    from ensue.progress import note

    metrics = {task: figures["metrics"] for task, figures in evaluation.tasks.items()}
    print_task_metrics(metrics, title=f"{run}, {split}: {evaluation.protocol['rows']:,} rows")
    intervals = [
        [task, name, figures["metrics"][name], *interval]
        for task, figures in evaluation.tasks.items()
        for name, interval in figures["intervals"].items()
    ]
    print_table(["task", "metric", "value", "from", "to"], intervals)
    for slicing, parts in evaluation.slices.items():
        for task in evaluation.tasks:
            of_parts = {part: found[task]["metrics"] for part, found in parts.items()}
            print_task_metrics(of_parts, title=f"{task} by {slicing}", first="slice")
    note(f"Intervals: {evaluation.protocol['interval']}.")
    for task, figures in evaluation.tasks.items():
        for name, reason in figures["undefined"].items():
            note(f"Note: {task} has no {name}: {reason}.")
