"""Fixtures of the serving tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.client import Caller, make_runs, serving
from tests.serving.forking import Services
from tests.serving.servers import (
    PostgresServer,
    RedisServer,
    empty_postgres,
    empty_redis,
    require_postgres,
    require_redis,
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs "m3", "towers" and "popular"."""
    return make_runs(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def caller(runs: Path) -> Iterator[Caller]:
    """Asks one service of all runs; tests share it, so each has users of its own."""
    with serving(runs) as caller:
        yield caller


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Starts services in processes of their own."""
    services = Services(tmp_path_factory.mktemp("services"))
    try:
        yield services
    finally:
        services.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    require_redis()
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    require_postgres()
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


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
