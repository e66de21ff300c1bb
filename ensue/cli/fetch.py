"""`ensue fetch`: download a public data set, checked against the host's checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch(
    name: Annotated[
        str | None, typer.Argument(help="Data set, for example ml-1m; see --list.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder that receives a folder NAME.")
    ] = Path("data"),
    list_sources: Annotated[
        bool, typer.Option("--list", help="Show the known data sets and their licenses.")
    ] = False,
    base_url: Annotated[
        str | None,
        typer.Option(help="Mirror to download from, in place of the official host."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Download a public data set: resumed, checked, unpacked."""
    from ensue.cli.output import print_json, print_text
    from ensue.data import sources
    from ensue.errors import UsageError
    from ensue.progress import note

    if list_sources:
        _print_sources(as_json=as_json)
        return
    if name is None:
        raise UsageError(
            f"ensue fetch needs the name of a data set; known: {', '.join(sources.SOURCES)}."
        )
    fetched = sources.fetch(name, output, base_url=base_url)
    if as_json:
        print_json(fetched.to_dict())
        return
    checksum = fetched.checksum
    if fetched.is_new and checksum.published_at:
        note(f"{checksum.algorithm} {checksum.value}, as at {checksum.published_at}")
    elif fetched.is_new:
        note(
            f"{checksum.algorithm} {checksum.value}; the host publishes no checksum to compare with"
        )
    place = "is in" if fetched.is_new else "was there already, in"
    print_text(f"{fetched.name} {place} {fetched.path}. Next:\n  {fetched.prepare}")


def _print_sources(*, as_json: bool) -> None:
    from dataclasses import asdict

    from ensue.cli.output import print_json, print_table
    from ensue.data.sources import SOURCES

    if as_json:
        print_json({"sources": [asdict(source) for source in SOURCES.values()]})
        return
    rows = [
        (source.name, source.title, source.megabytes, source.license, source.homepage)
        for source in SOURCES.values()
    ]
    print_table(("name", "data", "MB", "license", "terms"), rows)
