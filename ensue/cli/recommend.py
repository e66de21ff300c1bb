"""`ensue recommend`: ranked items for users and for histories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ensue.runs.cascade import Cascade
    from ensue.runs.requests import Recommendation
    from ensue.runs.run import Run


def recommend(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    user: Annotated[
        list[str] | None, typer.Option("--user", help="A user id of the log; repeat.")
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option("--history", help="Item ids ID,ID,..., oldest first; repeat."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    exclude_seen: Annotated[
        bool,
        typer.Option("--exclude-seen/--include-seen", help="Leave out items of the history."),
    ] = True,
    allow: Annotated[
        Path | None, typer.Option(help="File of item ids, one a line: only these.")
    ] = None,
    deny: Annotated[
        Path | None, typer.Option(help="File of item ids, one a line: never these.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="NAME=VALUE, known of the request (context_out); repeat."),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="Kind or folder of an index (ensue index): ask it, not every item."),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option("--search", help="NAME=VALUE, of searches with the index; repeat."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="NAME=VALUE of the user, known or not; repeat."),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines, each {"user": ID} or {"history": [ID, ...]}; or Parquet, a file or '
            "folder, with a column user or history.",
        ),
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Every user of the log, to Parquet (-o).")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Read item ids from standard input, or {"
            '"item": ID, "context": {...}, "request": {...}}; answer after each.',
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="One answer a request: JSON lines, or Parquet where the requests are. Parquet is "
            "made in parts: the same command goes on where it was interrupted.",
        ),
    ] = None,
    ranker: Annotated[
        Path | None,
        typer.Option(help="Run folder of any kind: it ranks what RUN retrieves."),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Number of items to rank, 200 by default; with --ranker.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds for all requests: as many are ranked as fit."),
    ] = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="Tell the time of each stage; with --ranker.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(help="Task of a ranking model to rank by; its first by default.")
    ] = None,
    user_column: Annotated[
        str | None, typer.Option(help="Column of user ids of a ranking model.")
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(help="Column of item ids of a ranking model.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Table of items with columns that a ranking model reads.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Recommend items for known users or for any history, seen in training or not."""
    from ensue.cli.cascade import open_cascade
    from ensue.config import parse_settings
    from ensue.errors import UsageError
    from ensue.runs.batches import read_ids
    from ensue.runs.run import load

    options: dict[str, Any] = {
        "k": k,
        "exclude_seen": exclude_seen,
        "allow": read_ids(allow) if allow else None,
        "deny": read_ids(deny) if deny else None,
        "context": _parse_pairs(context or [], "--context"),
    }
    if feature:
        options["features"] = _parse_pairs(feature, "--feature")
    opened = load(run)
    second_stage = {
        **{"--candidates": candidates, "--budget-ms": budget_ms, "--timings": timings or None},
        **{"--task": task, "--user-column": user_column, "--item-column": item_column},
        "--items": items,
    }
    cascade = open_cascade(opened, ranker, second_stage)
    if cascade is not None and (batch is not None or all_users or follow):
        raise UsageError("--ranker goes with --user, --history and --feature.")
    if search and index is None:
        raise UsageError("--search NAME=VALUE goes with --index.")
    if index is not None and follow:
        raise UsageError("--follow keeps the scores of all items; it takes no --index.")
    settings = parse_settings(search or [])
    if batch is not None or all_users:
        if output is None or user or history:
            raise UsageError(
                "--batch FILE and --all-users need -o FILE, and no --user or --history beside it."
            )
        if index is not None:
            options |= {"index": index, "search": settings}
        _answer_file(opened, batch, output, options, all_users=all_users, as_json=as_json)
        return
    if index is not None:
        options["index"] = opened.index(index, **settings)
    if follow:
        if output is not None or history or feature or len(user or []) > 1:
            raise UsageError(
                "--follow takes at most one --user, and no --history, --feature or -o beside it."
            )
        _follow(opened, user[0] if user else None, options, as_json)
        return
    if output is not None:
        raise UsageError("-o FILE goes with --batch FILE or --all-users.")
    if not user and not history and not feature:
        raise UsageError(
            "ensue recommend needs --user ID, --history ID,ID,..., --feature NAME=VALUE, "
            "--batch FILE, --all-users or --follow."
        )
    histories = [[item for item in text.split(",") if item] for text in history or []]
    options |= {"users": user or None, "histories": histories or None}
    _answer(opened, cascade, options, budget_ms=budget_ms, timings=timings, as_json=as_json)


def _answer(
    run: Run,
    cascade: Cascade | None,
    options: dict[str, Any],
    *,
    budget_ms: float | None,
    timings: bool,
    as_json: bool,
) -> None:
    """Print the answers of a run, or of two stages."""
    from ensue.cli.cascade import note_missing, print_stages
    from ensue.cli.output import print_json

    told: dict[str, Any] = {}
    if cascade is None:
        answers: Sequence[Recommendation] = run.recommend(**options)
    else:
        note_missing(cascade, options)
        answers = cascade.recommend(**options, budget_ms=budget_ms)
        told["timings"] = timings
    if as_json:
        requests = [answer.to_dict(**told) for answer in answers]
        print_json(requests[0] if len(requests) == 1 else {"requests": requests})
        return
    nobody = "for the history" if options["histories"] else "for the features"
    for answer in answers:
        _print_answer(answer, run.item_names(), nobody)
        if cascade is not None:
            print_stages(answer, timings=timings)


def _parse_pairs(assignments: list[str], flag: str) -> dict[str, str]:
    """Return {"page": "home"} for ["page=home"], given with `flag`."""
    from ensue.errors import UsageError

    pairs = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} takes NAME=VALUE; got {assignment!r}.")
        pairs[name] = value
    return pairs


def _answer_file(
    run: Run,
    requests: Path | None,
    out: Path,
    options: dict[str, Any],
    *,
    all_users: bool,
    as_json: bool,
) -> None:
    """Answer all requests of a file, or all users, and tell how many.

    Args:
        options: `index` is the name of one, `search` settings of searches with it.
    """
    from ensue.cli.output import print_json, print_text
    from ensue.errors import UsageError
    from ensue.runs.batch_tables import SUFFIXES, recommend_table
    from ensue.runs.batches import recommend_file

    if requests is not None and all_users:
        raise UsageError("--all-users needs no --batch FILE beside it.")
    is_table = out.suffix in SUFFIXES
    if requests is None and not is_table:
        raise UsageError(f"--all-users writes Parquet, -o NAME.parquet; got {out}.")
    if requests is not None and is_table != (requests.is_dir() or requests.suffix in SUFFIXES):
        raise UsageError(
            "requests and answers are both Parquet (NAME.parquet; requests may be a folder), or "
            f"both JSON lines; got --batch {requests} -o {out}."
        )
    if is_table:
        if "features" in options:
            raise UsageError("--feature goes with JSON lines; Parquet takes what the run stores.")
        count = recommend_table(run, requests, out, **options)
    elif requests is not None:
        if "index" in options:
            options = options | {"index": run.index(options["index"], **options["search"])}
            del options["search"]
        count = recommend_file(run, requests, out, **options)
    if as_json:
        print_json({"path": str(out), "requests": count})
    else:
        print_text(f"{count:,} answers are in {out}.")


def _follow(run: Run, user: str | None, options: dict[str, Any], as_json: bool) -> None:
    """Read one event a line, and write the answer to the history so far after each."""
    import sys

    from ensue.cli.output import print_json

    follower, names = run.follow(user), run.item_names()
    for line in sys.stdin:
        if text := line.strip():
            event = _parse_event(text)
            follower.add(event["item"], event.get("context"))
            context = {**options["context"], **event.get("request", {})}
            answer = follower.recommend(**{**options, "context": context})
            if as_json:
                print_json(answer.to_dict())
            else:
                _print_answer(answer, names, "for the history")


def _parse_event(line: str) -> dict[str, Any]:
    """Return {"item": ID} of an item id, or what a line of JSON holds."""
    import json

    from ensue.errors import UsageError

    if not line.startswith("{"):
        return {"item": line}
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        event = {}
    parts = {name: value for name, value in event.items() if name != "item"}
    if (
        not isinstance(event.get("item"), (str, int))
        or not parts.keys() <= {"context", "request"}
        or not all(isinstance(values, dict) for values in parts.values())
    ):
        raise UsageError(
            'a line of --follow must be an item id or {"item": ID, "context": {...}, "request": '
            f"{{...}}}}, of which the last two may be absent; got {line}."
        )
    return event


def _print_answer(answer: Recommendation, names: dict[str, str], nobody: str) -> None:
    """Write one answer as a table, with what a person should know beside it.

    Args:
        nobody: its title where no user is named.
    """
    from ensue.cli.output import print_table
    from ensue.progress import note

    if answer.user is not None and not answer.is_known:
        note(f"User {answer.user} is not in the log; this is for an empty history.")
    if answer.unknown_items:
        note(f"Not in the catalogue, left out: {', '.join(answer.unknown_items)}.")
    if answer.unknown_context:
        note(f"Not in the log, taken for missing: {', '.join(answer.unknown_context)}.")
    title = nobody if answer.user is None else f"for user {answer.user}"
    columns = ["rank", "item", *(["name"] if names else []), "score"]
    rows = [
        [rank, item, *([names.get(item, "")] if names else []), score]
        for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    print_table(columns, rows, title=title)
