"""The file under the histories: what it survives, and what is said where it cannot be used."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from ensue.errors import DataError, UsageError
from ensue.serving.events import Event
from ensue.serving.stores import sqlite_store
from ensue.serving.stores.base import StoreUnavailable
from ensue.serving.stores.sqlite_store import SQLiteStore

ALL = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "histories.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


def count(store: SQLiteStore, user: str = "u") -> int:
    return len(store.read([user], ALL)[0])


@contextmanager
def everything_is_unavailable(store: SQLiteStore, cause: str) -> Iterator[None]:
    calls = [
        lambda: store.append([Event("u", "refused", "i", 0)]),
        lambda: store.read(["u"], 1),
        lambda: store.delete_user("u"),
        lambda: store.expire(0),
        lambda: store.add_items([{}], ["refused"]),
        store.items,
        store.check,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=rf"must be a file .*; {cause}"):
            call()
    yield
    assert count(store) == 1
    assert store.append([Event("u", "later", "i", 1)]) == [True]


def test_a_damaged_file_is_refused(path):
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(DataError, match=r"must be a SQLite file of Ensue; .*db is damaged, or"):
        SQLiteStore(path)
    SQLiteStore(path.with_name("good.db")).close()
    data = bytearray(path.with_name("good.db").read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        SQLiteStore(path)


def test_a_file_of_another_program_is_refused_and_left_alone(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE events (a)")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"must be a SQLite file of Ensue; .*another program's"):
        SQLiteStore(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_another_version_is_refused(path):
    SQLiteStore(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 2")
    with pytest.raises(DataError, match=r"must be of version 1; .* is of version 2"):
        SQLiteStore(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a file that can be read and written; .*directory"):
        SQLiteStore(tmp_path)


def test_what_an_append_has_returned_is_on_disk(store):
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_locked_file_can_be_read_and_not_written(path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "TIMEOUT_S", 0.1)
    store = SQLiteStore(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another program holds it locked"):
            store.append([Event("u", "1", "i", 0)])
        assert store.read(["u"], 1) == [[]]
        store.check()
        other.execute("ROLLBACK")
    assert store.append([Event("u", "1", "i", 0)]) == [True]
    store.close()


def test_a_thread_waits_for_another_only_so_long(store, monkeypatch):
    monkeypatch.setattr(sqlite_store, "TIMEOUT_S", 0.05)
    with store._locked(), pytest.raises(StoreUnavailable, match="it is busy"):
        store.append([Event("u", "1", "i", 0)])
    assert store.append([Event("u", "1", "i", 0)]) == [True]


def test_a_file_that_was_taken_away_is_used_again_when_it_is_back(store, path):
    store.append([Event("u", "1", "i", 0)])
    shutil.move(path, path.with_name("away"))
    with everything_is_unavailable(store, "it is gone"):
        assert not path.exists()
        shutil.move(path.with_name("away"), path)


def test_a_file_that_was_replaced_is_not_written(store, path):
    store.append([Event("u", "1", "i", 0)])
    shutil.move(path, path.with_name("away"))
    path.write_bytes(b"")
    with everything_is_unavailable(store, "another file stands in its place"):
        assert path.read_bytes() == b""
        shutil.move(path.with_name("away"), path)


def test_a_full_disk_keeps_what_is_there_and_takes_no_part_of_a_call(store, path):
    store.append([Event("u", "1", "i", 0)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = path.with_name(f"{path.name}-wal").stat().st_size + 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, limits[1]))
    try:
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            store.append([Event("u", f"big {n}", "i" * 1000, 1) for n in range(100)])
        assert count(store) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert count(store) == 1
    assert store.append([Event("u", "2", "i", 0)]) == [True]


def test_a_deleted_user_is_not_left_in_the_file(path):
    store = SQLiteStore(path)
    store.append([Event("secret user", f"secret {n}", "secret item", n) for n in range(500)])
    store.append([Event("other", f"{n}", "plain", n) for n in range(500)])
    assert store.delete_user("secret user") == 500
    store.close()
    assert b"secret" not in path.read_bytes()
    assert b"plain" in path.read_bytes()


CHILD = """
import sys
from ensue.serving.events import Event
from ensue.serving.stores.sqlite_store import SQLiteStore

store, start = SQLiteStore(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for call in range(1_000_000):
    size = 1 + call % 5
    ids = [f"{start}-{call}-{size}-{n}" for n in range(size)]
    answers = store.append([Event(f"user {n}", id, "item", call) for n, id in enumerate(ids)])
    assert answers == [True] * size
    sys.stdout.write(" ".join(ids) + "\\n")
    sys.stdout.flush()
"""


def kill_while_it_writes(path: Path, start: int, after_s: float) -> set[str]:
    """Return the ids that a process has acknowledged before it was killed."""
    command = [sys.executable, "-c", CHILD, str(path), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after_s)
        process.kill()
        *lines, last = process.stdout.read().split("\n")
    assert last == ""  # a line goes out whole
    return {id for line in lines for id in line.split()}


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_while_it_writes_loses_no_acknowledged_event(path, rounds):
    random, acknowledged = Random(rounds), set()
    for start in range(rounds):
        new = kill_while_it_writes(path, start, random.uniform(0.0, 0.05))
        acknowledged |= new
        store = SQLiteStore(path)
        histories = store.read([f"user {n}" for n in range(5)], ALL)
        stored = [event.id for history in histories for event in history]
        store.close()
        assert len(stored) == len(set(stored))
        assert acknowledged <= set(stored)
        calls: dict[str, int] = {}
        for id in stored:
            calls[id.rpartition("-")[0]] = calls.get(id.rpartition("-")[0], 0) + 1
        assert all(call.endswith(f"-{size}") for call, size in calls.items())  # all or none
    assert len(acknowledged) > rounds  # it was killed while it wrote, and not before
