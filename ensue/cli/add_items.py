"""`ensue add-items`: put new items into a run by their features, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_items(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train two_tower.")],
    table: Annotated[
        Path, typer.Argument(help="Table of the new items: CSV, Parquet, Arrow or JSON lines.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new run.")],
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column of the item ids, if it has no usual name.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Add items to the catalogue of a run; it can recommend them at once."""
    from ensue.cli.output import print_json, print_text
    from ensue.progress import note
    from ensue.runs.features import read_rows
    from ensue.runs.run import load

    made = load(run).add_items(
        read_rows(table), out=output, id_column=id_column, overwrite=overwrite
    )
    step = made.info["added_items"][-1]
    if as_json:
        print_json({"path": str(made.path), "num_items": made.model.num_items, **step})
        return
    if step["unknown_values"]:
        note(f"Not known from training, taken for missing: {', '.join(step['unknown_values'])}.")
    print_text(
        f"{step['items']:,} items were added; the run in {made.path} has {made.model.num_items:,}."
    )
