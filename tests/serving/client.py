"""Tiny runs of three kinds, and a service around them that is asked in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import polars as pl

import ensue
from ensue.serving.app import create_app
from ensue.serving.config import ServeConfig
from ensue.serving.middleware import ApiKeys
from ensue.serving.served import ModelPlace
from ensue.serving.service import Service
from ensue.serving.stores.base import HistoryStore
from ensue.serving.stores.open import open_store

NUM_ITEMS, NUM_USERS = 40, 30
COLORS = ("red", "green", "blue", "gray")
TINY: dict[str, Any] = {"dim": 8, "epochs": 1, "batch_size": 64, "fit": "train+validation"}
MODELS = ("m3", "towers", "popular")
LAST_TIME = 1_700_000_000 + 100 * 12  # seconds; no event of the log is later
T = TypeVar("T")


def make_runs(folder: Path) -> Path:
    """Train a model that reads context, one that reads features, and one that reads nothing."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 1_700_000_000 + 100 * n, ("home", "detail")[item % 2])
        for user in range(NUM_USERS)
        for n, item in enumerate(rng.permutation(NUM_ITEMS)[: 5 + user % 8])
    ]
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp", "page"], orient="row")
    log.write_csv(folder / "log.csv")
    pl.DataFrame(
        {
            "item": [f"i{item}" for item in range(NUM_ITEMS)],
            "title": [f"Thing {item}" for item in range(NUM_ITEMS)],
            "color": [COLORS[item % 4] for item in range(NUM_ITEMS)],
        }
    ).write_csv(folder / "items.csv")
    users = {
        "user": [f"u{n}" for n in range(NUM_USERS)],
        "country": ["fr", "de"] * (NUM_USERS // 2),
    }
    pl.DataFrame(users).write_csv(folder / "users.csv")
    data = ensue.prepare(
        folder / "log.csv",
        folder / "data",
        context="page",
        items=folder / "items.csv",
        users=folder / "users.csv",
    )
    context = {"context_in": ["page"], "context_out": ["page"]}
    ensue.train("m3", data, out=folder / "m3", **TINY, **context)
    ensue.train("two_tower", data, out=folder / "towers", id_dim=8, feature_dim=8, **TINY)
    ensue.train("popularity", data, out=folder / "popular")
    return folder


class Caller:
    """Asks an application as a client would, without a socket.

    A failure of the application is an answer with the status 500, as with a server.
    """

    def __init__(self, service: Service, **options: Any) -> None:
        self.service = service
        app = create_app(service, **options)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost:8000")
        self._loop = asyncio.new_event_loop()

    def run(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(work)  # type: ignore[arg-type]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.client.request(method, path, **options))

    def get(self, path: str, **query: Any) -> Any:
        return ok(self.ask("GET", path, params=query))

    def post(self, path: str, **body: Any) -> Any:
        return ok(self.ask("POST", path, json=body))

    def recommend(self, **body: Any) -> list[str]:
        """Ids of items alone."""
        return self.post("/v1/recommend", **body)["items"]

    def send(self, *events: dict[str, Any]) -> Any:
        return self.post("/v1/events", events=list(events))

    def close(self) -> None:
        self.run(self.client.aclose())
        self.run(asyncio.to_thread(self.service.close))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


@contextmanager
def serving(
    folder: Path,
    models: Sequence[str | ModelPlace] = MODELS,
    *,
    store: str | HistoryStore = "sqlite://",
    keys: ApiKeys | None = None,
    hosts: frozenset[str] | None = None,
    **settings: Any,
) -> Iterator[Caller]:
    """Yield what asks a service of the runs in a folder."""
    opened = open_store(store) if isinstance(store, str) else store
    places = [m if isinstance(m, ModelPlace) else ModelPlace(m, folder / m) for m in models]
    caller = Caller(Service(places, opened, ServeConfig(**settings)), keys=keys, hosts=hosts)
    try:
        yield caller
    finally:
        caller.close()


def fault(response: httpx.Response, status: int, code: str, *secrets: str) -> str:
    """Return the sentence of an error after a look at its form; it tells no internals."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    assert body["error"]["code"] == code
    for secret in ("Traceback", "site-packages", ".py", "ensue/", "/tmp", "object at 0x", *secrets):
        assert secret not in response.text
    message: str = body["error"]["message"]
    assert message.endswith((".", "?"))
    return message
