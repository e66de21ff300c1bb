"""One empty store after the other, of every kind: the servers' are slow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ensue.serving.stores.base import HistoryStore
from ensue.serving.stores.open import open_store
from tests.serving.servers import slow


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
