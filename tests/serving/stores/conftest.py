"""One empty store after the other, of every kind: the servers' are slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ensue.serving.stores.base import HistoryStore
from ensue.serving.stores.open import open_store

SERVERS = ["redis", "postgresql"]
slow = [pytest.param(kind, marks=pytest.mark.slow) for kind in SERVERS]


def empty_redis(url: str) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushall()


def empty_postgres(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS ensue_events, ensue_items, ensue_format;"
            "DROP SEQUENCE IF EXISTS ensue_arrivals"
        )


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is made; a test names the kinds that it is for."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        empty_redis(server.url)
        return server.url
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        empty_postgres(server.url)
        return server.url
    return f"sqlite:///{tmp_path / 'histories.db'}" if request.param == "sqlite" else "sqlite://"


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    store = open_store(url)
    yield store
    store.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "url" in metafunc.fixturenames and not any(
        mark.name == "parametrize" and "url" in mark.args[0]
        for mark in metafunc.definition.iter_markers()
    ):
        metafunc.parametrize("url", ["sqlite", "memory", *slow], indirect=True)
