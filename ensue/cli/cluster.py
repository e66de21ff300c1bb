"""`ensue cluster`: what vectors say without labels, and how well that agrees with labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensue.runs.cluster import Clustering


SHOWN = (
    "hungarian, fitted on train",
    "majority, fitted on train",
    "ari",
    "ami",
    "variance_explained",
)


def cluster(
    features: Annotated[
        Path,
        typer.Argument(
            help="Run folder; or a .npy, .npz (x, y, x_test, y_test) or .parquet file of vectors."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder for clusters and page.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Clusters; default: as many as classes.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Column of the table, or of the run's items; or a .npy file."),
    ] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of ids of a table.")] = None,
    of: Annotated[str, typer.Option(help="Of a run: items, or users.")] = "items",
    test_share: Annotated[
        float | None, typer.Option(help="Hold this share of the rows out, and score on it.")
    ] = None,
    over: Annotated[str | None, typer.Option(help="Factors of -k to measure too: 1.5,2,3.")] = None,
    dims: Annotated[
        str | None, typer.Option(help="Numbers of principal components to measure too: 8,16,32.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds of k-means.")] = 1,
    permutations: Annotated[
        int, typer.Option(min=0, help="Permutations for the figures by chance.")
    ] = 10,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE: dim, whiten, spherical, restarts, lloyd_passes, ...; repeat."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the clusters that are in the folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Cluster vectors by k-means, and score the clusters against classes that were not told."""
    from ensue.cli.output import print_json
    from ensue.config import parse_settings
    from ensue.errors import UsageError
    from ensue.runs.cluster import cluster as run

    if of not in ("items", "users"):
        raise UsageError(f"--of must be items or users; got {of!r}.")
    found = run(
        features,
        k,
        labels=labels,
        id_column=id_column,
        of="users" if of == "users" else "items",
        test_share=test_share,
        over=_numbers("--over", over),
        dims=[int(number) for number in _numbers("--dims", dims)],
        seeds=range(seeds),
        permutations=permutations,
        out=output,
        overwrite=overwrite,
        **parse_settings(assignments or []),
    )
    if as_json:
        print_json({**found.info, "path": str(output) if output else None})
        return
    _print(found, output)


def _numbers(name: str, text: str | None) -> list[float]:
    from ensue.errors import UsageError

    try:
        numbers = [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{name} must be numbers, separated by commas; got {text!r}.") from None
    if any(not number > 0 for number in numbers):
        raise UsageError(f"{name} must be numbers above 0; got {text!r}.")
    return numbers


def _print(found: Clustering, output: Path | None) -> None:
    from ensue.cli.output import print_table, print_text
    from ensue.runs.cluster_page import name_of, scored_part

    table = found.info["table"]
    main, part = table[0], scored_part(table[0])
    chance = main.get("chance", {}).get(part, {})
    rows = [
        [name_of(name), value, main["deviations"][part][name], chance.get(name)]
        for name, value in main["scores"][part].items()
    ]
    title = (
        f"{main['k']:,} clusters in {main['dim']:,} components, scored on "
        f"{found.info['rows'][part]:,} rows ({part})"
    )
    print_table(["", "value", "deviation", "by chance"], rows, title=title)
    if len(table) > 1:
        names = [name for name in SHOWN if name in main["scores"][part]]
        print_table(
            ["clusters", "components", *map(name_of, names)],
            [[r["k"], r["dim"], *(r["scores"][part][name] for name in names)] for r in table],
        )
    if output:
        print_text(f"The clusters are in {output}.")
