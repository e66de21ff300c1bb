"""`ensue encode`: features of images, by an encoder that is trained without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def encode(
    images: Annotated[
        Path, typer.Argument(help="A .npy or .npz file of images: x, and y, x_test, y_test.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the features.")],
    encoder: Annotated[
        Path | None,
        typer.Option(help="Folder made by ensue encode: use its encoder, and train none."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE: epochs, temperature, channels, dim, rotation, ...; repeat."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished training.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what ensue encode wrote there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Train an image encoder without labels and write features; Ctrl-C keeps a checkpoint."""
    from ensue.cli.output import print_json, print_text
    from ensue.cli.trained import resumable
    from ensue.config import parse_settings
    from ensue.runs.encode import encode as run

    settings = parse_settings(assignments or [])
    with resumable("A checkpoint is", output):
        found = run(
            images, out=output, encoder=encoder, resume=resume, overwrite=overwrite, **settings
        )
    if as_json:
        print_json({"path": str(output), **found.info})
        return
    rows = " and ".join(f"{count:,} {part}" for part, count in found.info["rows"].items())
    file = output / "features.npz"
    print_text(
        f"{found.info['dim']} features of {rows} images are in {file}. Next:\n"
        f"  ensue cluster {file}"
    )
