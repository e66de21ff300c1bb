"""`ensue similar`: the items most like an item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def similar(
    run: Annotated[Path, typer.Argument(help="Run folder made by ensue train.")],
    item: Annotated[str, typer.Argument(help="An item id of the catalogue.")],
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """List the items whose vectors are nearest to that of an item, by cosine."""
    from ensue.cli.output import print_json, print_table
    from ensue.runs.run import load

    opened = load(run)
    answer = opened.similar(item, k=k)
    if as_json:
        print_json({"item": item, **answer.to_dict()})
        return
    names = opened.item_names()
    rows = [
        [rank, other, *([names.get(other, "")] if names else []), score]
        for rank, (other, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    columns = ["rank", "item", *(["name"] if names else []), "cosine"]
    print_table(columns, rows, title=f"like {names.get(item) or item}")
