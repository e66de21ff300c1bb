"""Running the service: models and store are opened, then requests are answered until a signal."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensue.config import make_config
from ensue.errors import ExtraError, UsageError
from ensue.progress import note
from ensue.serving.config import ServeConfig
from ensue.serving.middleware import LOOPBACK, ApiKeys
from ensue.serving.served import ModelPlace
from ensue.serving.stores.open import open_store

SECONDS_TO_FINISH = 10  # given to requests that are being answered when the service is to end


def model_places(
    runs: Sequence[str | Path],
    *,
    index: str | None = None,
    retriever: str | Path | None = None,
    ranker: str | Path | None = None,
    ranker_items: str | Path | None = None,
) -> list[ModelPlace]:
    """Return the places of models, named after their folders; one of two stages comes first.

    Raises:
        UsageError: there is none, two have one name, or one of two stages is missing.
    """
    if retriever is not None and ranker is None:
        raise UsageError("a retriever hands its items to a ranker; there is none. Pass --ranker.")
    if ranker_items is not None and ranker is None:
        raise UsageError("a table of items is for a ranker; there is none. Pass --ranker.")
    if ranker is not None and retriever is None:
        retriever, runs = (runs[0], runs[1:]) if runs else (None, runs)
    places = [ModelPlace(_name(run), Path(run), index) for run in runs]
    if retriever is not None and ranker is not None:
        items = None if ranker_items is None else Path(ranker_items)
        name = f"{_name(retriever)}+{_name(ranker)}"
        places.insert(0, ModelPlace(name, Path(retriever), index, Path(ranker), items))
    if not places:
        raise UsageError("a service needs a run; got none.")
    names = [place.name for place in places]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"runs are told apart by the names of their folders; two are {name!r}."
            )
    return places


def _name(run: str | Path) -> str:
    return Path(run).resolve().name


def serve(
    runs: Sequence[str | Path],
    *,
    retriever: str | Path | None = None,
    ranker: str | Path | None = None,
    ranker_items: str | Path | None = None,
    index: str | None = None,
    store: str = "sqlite:///ensue-events.db",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
    **settings: Any,
) -> None:
    """Serve runs over HTTP until the process is told to end (SIGINT, SIGTERM).

    Requests that are being answered then are answered, and their events are stored.

    Args:
        runs: folders of runs; the first one answers where a request names none.
        retriever, ranker: two stages, served as one model, the first: what the retriever finds the
            ranker, a run of either kind, orders anew. Without a retriever the first run is it.
        ranker_items: a table of items with columns that the ranker reads; see `Cascade`.
        index: kind or folder of an index of the runs' items (`ensue index`).
        store: where live events are: sqlite:///FILE, redis://..., postgresql://....
        host: address to listen at; others than this machine's own need API keys.
        port: 0 takes a free one.
        api_key_file: keys, one a line.
        settings: of `ServeConfig`, by field name.

    Raises:
        EnsueError: a run, an index, the store or a setting cannot be used.
        ExtraError: the packages of ensue[serve] are not installed.
    """
    try:
        import uvicorn

        from ensue.serving.app import create_app
        from ensue.serving.service import Service
    except ImportError as error:
        raise ExtraError(error.name or "uvicorn", "serve", "ensue serve") from None
    config = make_config(ServeConfig, settings)
    keys = None if api_key_file is None else ApiKeys.read(api_key_file)
    if keys is None and host not in LOOPBACK:
        raise UsageError(
            f"a service that others can reach needs API keys; it is to listen at {host} and has "
            "none. Pass --api-key-file FILE, or listen at 127.0.0.1."
        )
    places = model_places(
        runs, index=index, retriever=retriever, ranker=ranker, ranker_items=ranker_items
    )
    opened = open_store(store)
    listening = _listen(host, port)
    service = Service(places, opened, config)
    app = create_app(service, keys=keys, hosts=LOOPBACK if host in LOOPBACK else None)
    settings_of_server = uvicorn.Config(
        app,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    note(
        f"Serving {', '.join(service.models)} at http://{host}:{listening.getsockname()[1]}/ "
        f"with events in {opened.kind}."
    )
    uvicorn.Server(settings_of_server).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UsageError: the address is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"a service needs a free address of this machine; {host}, port {port}: "
            f"{error.strerror}. Pass another --host or --port."
        ) from None
