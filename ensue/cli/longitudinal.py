"""`ensue longitudinal`: a direction of time in repeated measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensue.data.longitudinal.visits import Visits
    from ensue.runs.longitudinal_result import Longitudinal


def longitudinal(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, Parquet or the like, a row for each visit; or a dataset of ensue prepare."
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the result.")],
    entity: Annotated[str | None, typer.Option(help="Column: who or what was measured.")] = None,
    time: Annotated[str | None, typer.Option(help="Column: when; a number or a date.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Columns that were measured, joined by commas; default: all numbers."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Column of files (.npy, .npz, .nii, .nii.gz), or one .npy with a row for each "
            "row of the table, in place of features."
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Of a dataset: interactions of a window; default 20.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="lssl, ae, vae, beta-vae, simclr or pca; repeat. The first is kept."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of entities, whose slopes are compared.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Column that the coordinate is compared with; repeat."),
    ] = None,
    probes: Annotated[
        list[str] | None, typer.Option("--probe", help="Column to predict from codes; repeat.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train encoders for the probes, too.")
    ] = False,
    folds: Annotated[int, typer.Option(help="Of entities; 0 holds none out.")] = 5,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, a setting of method, pairs or training; repeat."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result that is in the output folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Find a direction of time in repeated measurements, and what moves along it."""
    from ensue.cli.output import print_json
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.runs.longitudinal import longitudinal

    others = [*(against or []), *(probes or []), *([group] if group else [])]
    visits = _read(table, entity, time, features, images, window, others)
    with resumable("The trainings so far are", output):
        found = longitudinal(
            visits,
            out=output,
            methods=methods or ("lssl",),
            group=group,
            against=against or (),
            probes=probes or (),
            fine_tune=fine_tune,
            folds=folds,
            settings=parse_settings(assignments or []),
            resume=resume,
            overwrite=overwrite,
        )
    if as_json:
        print_json({"path": str(found.path), **found.to_dict()})
    else:
        _print(found)


def _read(
    table: Path,
    entity: str | None,
    time: str | None,
    features: str | None,
    images: str | None,
    window: int | None,
    others: list[str],
) -> Visits:
    """Return the visits that the command names.

    Raises:
        UsageError: the options do not belong together.
    """
    from ensue.data.dataset import Dataset
    from ensue.data.longitudinal.history_windows import history_windows
    from ensue.data.longitudinal.images import read_images
    from ensue.data.longitudinal.tables import read_visits
    from ensue.errors import UsageError

    if table.is_dir():
        given = {"entity": entity, "time": time, "features": features, "images": images}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"--{name} is for a table; {table} is a dataset. Leave it out.")
        return history_windows(Dataset(table), **({} if window is None else {"length": window}))
    if window is not None:
        raise UsageError(f"--window is for a dataset; {table} is a file. Leave it out.")
    if entity is None or time is None:
        raise UsageError("a table of visits needs --entity and --time; name its columns.")
    if images is None:
        names = None if features is None else [name.strip() for name in features.split(",")]
        return read_visits(table, entity=entity, time=time, features=names, others=others)
    if features is not None:
        raise UsageError("visits have --features or --images; got both.")
    return read_images(table, images, entity=entity, time=time, others=others)


def _print(found: Longitudinal) -> None:
    """Print the figures of the methods, and where the rest is."""
    from ensue.cli.output import print_table, print_text

    against = list(found.methods[0].agreements)
    columns = ["method", "pairs in order", "cosine", "error", *(f"with {n}" for n in against)]
    rows = []
    for method in found.methods:
        known = [method.agreements[name] for name in against]
        shown = [a.r2 if a.spearman is None else a.spearman for a in known]
        rows.append(
            [method.method, method.order.ordered, method.order.cosine, method.error, *shown]
        )
    print_table(columns, rows, title=f"{found.facts['entities']:,} entities")
    if found.facts["group"]:
        slopes = [
            [
                method.method,
                group.group,
                group.num_entities,
                f"{group.slope:.4g}",
                f"{group.p_value:.2g}",
            ]
            for method in found.methods
            for group in method.slopes.groups
        ]
        print_table(["method", "group", "entities", "slope", "p"], slopes, title="Slopes")
    names = ["longitudinal.html", "coordinates.parquet", "slopes.parquet"]
    present = [name for name in names if (found.path / name).is_file()]
    print_text(f"All of it is in {found.path}: {', '.join(present)}.")
