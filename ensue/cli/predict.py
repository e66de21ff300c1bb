"""`ensue predict`: what a ranking model says of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensue.errors import UsageError


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of a ranking model.")],
    table: Annotated[
        Path | None, typer.Argument(help="Table of rows, as the one that was prepared.")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", help='A row in place of TABLE: {"COLUMN": VALUE, ...}; repeat.'),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .parquet or .csv file, for TABLE.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column of TABLE to write beside; repeat.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Predict every task of a ranking model: probabilities of 1, or values."""
    from ensue.cli.output import print_json, print_table, print_text
    from ensue.runs.predict import predict_table
    from ensue.runs.ranker import load_ranker

    if bool(row) == bool(table):
        both = "both" if row else "neither"
        raise UsageError(f"what to predict is a TABLE, or rows by --row; got {both}.")
    opened = load_ranker(run)
    if table is not None:
        if output is None:
            raise UsageError("predictions for a table are written to a file; pass --output.")
        num_rows = predict_table(opened, table, output, keep=keep or ())
        if as_json:
            print_json({"path": str(output), "rows": num_rows})
        else:
            print_text(f"The predictions for {num_rows:,} rows are in {output}.")
        return
    for name, value in (("--output", output), ("--keep", keep)):
        if value:
            raise UsageError(f"{name} is for a TABLE, not for --row.")
    found = opened.predict([_parse(text) for text in row or ()])
    values = {task: scores.tolist() for task, scores in found.items()}
    if as_json:
        print_json({"predictions": values})
    else:
        print_table(list(values), list(zip(*values.values(), strict=True)))


def _parse(text: str) -> dict[str, object]:
    import json

    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--row takes JSON; {error}; got {text!r}.") from None
    if not isinstance(row, dict):
        raise UsageError(f'--row takes {{"COLUMN": VALUE, ...}}; got {text!r}.')
    return row
