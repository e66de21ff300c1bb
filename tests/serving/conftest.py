"""Fixtures of the serving tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.client import Caller, make_runs, serving
from tests.serving.servers import PostgresServer, RedisServer, require_postgres, require_redis


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
