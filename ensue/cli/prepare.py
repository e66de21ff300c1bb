"""`ensue prepare`: log files to a dataset, or tables of rows to one for ranking models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensue.errors import UsageError

if TYPE_CHECKING:
    from ensue.data.dataset import DatasetInfo


def prepare(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the dataset to make.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            help="CSV, TSV, RecBole .inter, JSON lines (also .gz), Parquet, folders of Parquet, or "
            "one user per line.",
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of items.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Column of numbers such as a rating; repeat.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Make a dataset for ranking models that predict this: COLUMN, COLUMN:binary, "
            "COLUMN:regression, 'COLUMN>=4', 'COLUMN=TEXT', any with ' as NAME'; repeat."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="With --target: column of row weights, or TARGET=COLUMN for one target; repeat."
        ),
    ] = None,
    history_length: Annotated[
        int | None,
        typer.Option(
            help="With --target: the most values of a history; 0 is none of the log. 50 where the "
            "input has users, items and times."
        ),
    ] = None,
    history_where: Annotated[
        str | None,
        typer.Option(help="With --target: rows that count as events of histories, as click=1."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="Another column to keep; NAME:text keeps numbers as text; repeat."),
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between columns of text.")] = None,
    format: Annotated[
        str | None, typer.Option(help="delimited, json-lines, parquet or sequences.")
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option(
            help="k-core=5, user-core=5,item-core=3, min-length=3, since=2020-01-01, "
            "until=2021-01-01, rating>=4 or drop-repeats; repeat, in order."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="leave-one-out (the default), ratio:0.7,0.1,0.2, time:0.8,0.9, "
            "time:2020-01-01,2020-02-01, files or none; with --target ratio:0.8,0.1,0.1 of all "
            "rows in the order of time is the default."
        ),
    ] = None,
    train: Annotated[
        list[Path] | None, typer.Option(help="File for training, in place of INPUT; repeat.")
    ] = None,
    validation: Annotated[list[Path] | None, typer.Option(help="File for validation.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="File for test.")] = None,
    items: Annotated[
        list[Path] | None,
        typer.Option(help="Table with an item column, and titles or features of items; repeat."),
    ] = None,
    users: Annotated[
        list[Path] | None,
        typer.Option(help="Table with a user column and features of users; repeat."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=ROLE for a column of these tables: id, title, categorical, multi (multi:SEP "
            "says what splits text), numeric, vector or ignore; items.NAME and users.NAME are "
            "columns of one side; repeat. With --target also of the rows, and there numeric:log, "
            "numeric:plain, history:COLUMN:SEP or group."
        ),
    ] = None,
    graph: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE, a table of edges between users, items and other entities, as "
            "tags=item_tags.csv; repeat, also for more files of a graph."
        ),
    ] = None,
    graph_columns: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=COLUMN[:TYPE],COLUMN[:TYPE][,weight=COLUMN][,time=COLUMN] where the names "
            "of a graph's columns do not tell, as friends=user,other:user; repeat."
        ),
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory to work in, as 500MB or 4GB.")] = "2GB",
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Make a dataset of log files: checked, filtered, split and sorted by user and time.

    With --target it is one for ranking models: rows with features and labels, sorted by time.
    """
    from ensue.cli.prepare_ranking import check_ranking_flags, parse_weights, print_ranking_summary
    from ensue.data.prepare import prepare as prepare_dataset
    from ensue.data.ranking.prepare import prepare_ranking

    files = _choose_inputs(inputs, {"train": train, "validation": validation, "test": test})
    check_ranking_flags(
        is_ranking=bool(target),
        ranking={
            "--weight": weight,
            "--history-length": history_length,
            "--history-where": history_where,
        },
        other={
            "--label": label,
            "--context": context,
            "--filter": filter,
            "--graph": graph,
            "--graph-columns": graph_columns,
        },
    )
    shared: dict[str, Any] = {
        "user": user,
        "item": item,
        "time": time,
        "format": format,
        "delimiter": delimiter.replace("\\t", "\t") if delimiter else None,
        "split": split,
        "items": items,
        "users": users,
        "features": dict(_parse_pairs("--feature NAME=ROLE", feature or ())),
        "memory": memory,
        "name": name,
        "overwrite": overwrite,
    }
    if target:
        rows = prepare_ranking(
            files,
            out,
            targets=target,
            weights=parse_weights(weight or ()),
            history_length=history_length,
            history_where=history_where,
            **shared,
        )
        print_ranking_summary(out, rows.info, as_json=as_json)
        return
    dataset = prepare_dataset(
        files,
        out,
        labels=label or (),
        context=context or (),
        filters=filter or (),
        **_parse_graphs(graph or (), graph_columns or ()),
        **shared,
    )
    _print_summary(out, dataset.info, as_json=as_json)


def _choose_inputs(
    inputs: list[Path] | None, parts: Mapping[str, list[Path] | None]
) -> list[Path] | dict[str, list[Path]]:
    """Return the files, or those of each part."""
    by_part = {part: files for part, files in parts.items() if files}
    if bool(by_part) == bool(inputs):
        raise UsageError(
            "the input is either files, or --train with --validation and --test; got "
            f"{'both' if inputs else 'neither'}."
        )
    return inputs or by_part


def _parse_pairs(usage: str, assignments: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, value) for each "NAME=VALUE".

    Args:
        usage: "--feature NAME=ROLE", for the message.
    """
    pairs = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name or not value:
            flag, form = usage.split(" ")
            raise UsageError(f"{flag} takes {form}; got {assignment!r}.")
        pairs.append((name, value))
    return pairs


def _parse_graphs(files: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """Return the options on graphs of `prepare` for "NAME=FILE" and "NAME=COLUMNS"."""
    graphs: dict[str, list[str | Path]] = {}
    for name, file in _parse_pairs("--graph NAME=FILE", files):
        graphs.setdefault(name, []).append(file)
    named = _parse_pairs("--graph-columns NAME=COLUMNS", columns)
    return {"graphs": graphs, "graph_columns": dict(named)}


def _print_summary(out: Path, info: DatasetInfo, *, as_json: bool) -> None:
    from ensue.cli.output import print_json, print_table

    if as_json:
        print_json({"path": str(out), **info.model_dump()})
        return
    split = ", ".join(_show(value) for value in info.split.values())
    rows: list[tuple[str, object]] = [
        *((name.replace("_", " "), count) for name, count in info.counts.items()),
        *_table_rows(info),
        ("split", split),
        ("hash", info.hash[:16]),
    ]
    print_table(["", str(out)], rows)
    if features := _feature_rows(info):
        print_table(["of", "feature", "kind", "size", "missing", "why"], features)
    if info.graphs:
        print_table(
            ["graph", "from", "to", "number of", "and of", "edges", "rows of no edge", "times"],
            [
                [
                    name,
                    *of.types,
                    *of.sizes,
                    of.edges,
                    of.unknown_rows,
                    "yes" if of.has_time else "no",
                ]
                for name, of in info.graphs.items()
            ],
        )


def _table_rows(info: DatasetInfo) -> list[tuple[str, object]]:
    """Return what was found in the tables of items and users."""
    rows: list[tuple[str, object]] = []
    for side, found in info.features.items():
        for table in found.tables:
            name = Path(table.path).name
            rows.append((f"{side} with a row in {name}", table.found))
            if table.unknown_rows:
                rows.append((f"rows of {name} of {side} not in the log", table.unknown_rows))
            if table.repeated_rows:
                rows.append((f"more rows of {name} of the same {side}", table.repeated_rows))
    return rows


def _feature_rows(info: DatasetInfo) -> list[list[object]]:
    """Return a row for each feature, and for each column that is none."""
    rows: list[list[object]] = []
    for side, found in info.features.items():
        for one in found.columns:
            rows.append([side, one.name, one.kind, one.size, f"{one.missing:.2%}", one.reason])
        for table in found.tables:
            for name, reason in table.unused.items():
                rows.append([side, name, "left out", None, None, reason])
    return rows


def _show(setting: object) -> str:
    return ", ".join(map(str, setting)) if isinstance(setting, list) else str(setting)
