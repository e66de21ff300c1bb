"""`ensue serve`: the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders made by ensue train; the first answers by default."),
    ] = None,
    retriever: Annotated[
        Path | None, typer.Option(help="Run whose items a ranker orders anew.")
    ] = None,
    ranker: Annotated[
        Path | None,
        typer.Option(help="Run, of train on a log or on a table, that orders what is retrieved."),
    ] = None,
    ranker_items: Annotated[
        Path | None,
        typer.Option("--items", help="Table of items with columns that the ranker reads."),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="Kind or folder of an index (ensue index): ask it, not every item."),
    ] = None,
    store: Annotated[
        str,
        typer.Option(help="Where events are: sqlite:///FILE, redis://HOST, postgresql://HOST/DB."),
    ] = "sqlite:///ensue-events.db",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of API keys, one a line; needed with another --host.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a limit (max_k, rate, keep_days...); repeat."),
    ] = None,
) -> None:
    """Answer over HTTP: recommendations, events, similar items, new items, and a page at /."""
    from ensue.config import parse_settings
    from ensue.serving.server import serve as run_service

    run_service(
        runs or [],
        retriever=retriever,
        ranker=ranker,
        ranker_items=ranker_items,
        index=index,
        store=store,
        host=host,
        port=port,
        api_key_file=api_key_file,
        **parse_settings(set_ or []),
    )
