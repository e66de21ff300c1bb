"""Histories in a SQLite file: no server, and on disk when `append` returns.

One connection writes, under a lock; others read, each in one thread at a time, and neither waits
for the other (WAL). The rows lie in the order in which they are read: user, time, arrival.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from ensue.errors import DataError, UsageError
from ensue.serving.events import NO_CONTEXT, Event
from ensue.serving.stores.base import (
    EXPIRED_AT_ONCE,
    TIMEOUT_S,
    StoreUnavailable,
    check_events,
    check_id,
    check_reading,
    context_from_json,
    context_to_json,
    item_rows_to_json,
)
from ensue.serving.stores.pool import Pool

APPLICATION_ID = 0x456E7375  # "Ensu", in the header of the file
VERSION = 1
MEMORY = ":memory:"

SCHEMA = (
    """
    CREATE TABLE events (
        user TEXT NOT NULL,
        time INTEGER NOT NULL,
        arrival INTEGER NOT NULL,  -- among the events of this user and time
        id TEXT NOT NULL,
        item TEXT NOT NULL,
        context TEXT,  -- JSON, or NULL where it is empty
        PRIMARY KEY (user, time, arrival),
        UNIQUE (user, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE items (
        arrival INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        row TEXT NOT NULL  -- JSON
    )
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
APPEND = """
INSERT INTO events (user, time, id, item, context, arrival)
VALUES (?, ?, ?, ?, ?, (
    SELECT COALESCE(MAX(arrival), 0) + 1 FROM events WHERE user = ? AND time = ?
))
ON CONFLICT (user, id) DO NOTHING
"""
READ = """
SELECT id, item, time, context FROM events WHERE user = ?
ORDER BY time DESC, arrival DESC LIMIT ?
"""
OLD = f"""
SELECT user, time, arrival FROM events
WHERE (user, time, arrival) > (?, ?, ?) AND time < ?
ORDER BY user, time, arrival LIMIT {EXPIRED_AT_ONCE}
"""
REMOVE = "DELETE FROM events WHERE user = ? AND time = ? AND arrival = ?"
ADD_ITEM = "INSERT INTO items (id, row) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"

# A part of what SQLite says: what it means. Its codes have names from Python 3.11 on only.
CAUSES = {
    "locked": "another program holds it locked",
    "full": "the disk is full",
    "disk I/O error": "the disk is full or broken",
    "readonly": "it may not be written",
    "unable to open": "it cannot be opened",
    "malformed": "it is damaged",
    "not a database": "it is damaged",
}


class SQLiteStore:
    """The history store in a file; None keeps it in memory, for as long as the store lives.

    A file that is removed, or replaced by another one, makes the store unavailable, since SQLite
    would go on writing where nobody finds it. Back in its place, the same file is used again.

    Raises:
        UsageError: there can be no file at the path.
        DataError: the file is damaged, another program's, or of another version.
        StoreUnavailable: the file is locked, or the disk is full.
    """

    kind = "sqlite"

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path).absolute()
        self._lock = Lock()
        self._readers = Pool(self._connect, lambda _: True)
        if self._path is not None:
            _make_place(self._path)
        with self._told():
            self._writer = self._open()
        self._identity = self._identify()

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store the events in one transaction; return which are new."""
        check_events(events)
        rows = [
            (user, time, id, item, context_to_json(context), user, time)
            for user, id, item, time, context in events
        ]
        if not rows:
            return []
        with self._writing() as connection:
            return [connection.execute(APPEND, row).rowcount == 1 for row in rows]

    def read(self, users: Sequence[str], limit: int) -> list[list[Event]]:
        """Return of each user the newest events, oldest first."""
        check_reading(users, limit)
        with self._reading() as connection:
            found = [connection.execute(READ, (user, limit)).fetchall() for user in users]
        return [_to_events(user, rows) for user, rows in zip(users, found, strict=True)]

    def delete_user(self, user: str) -> int:
        """Remove the events of a user, and overwrite them in the file; return how many."""
        check_id(user, "a user")
        with self._writing() as connection:
            return connection.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount

    def expire(self, before: int) -> int:
        """Remove the events before a time; return how many. One pass over the table."""
        removed = 0
        last: tuple[Any, ...] = ("", 0, 0)
        while True:
            with self._reading() as connection:
                keys = connection.execute(OLD, (*last, before)).fetchall()
            if not keys:
                return removed
            with self._writing() as connection:
                removed += connection.executemany(REMOVE, keys).rowcount
            last = keys[-1]

    def add_items(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[bool]:
        """Store the rows of new items in one transaction; return which are new."""
        texts = item_rows_to_json(rows, ids)
        if not texts:
            return []
        with self._writing() as connection:
            return [
                connection.execute(ADD_ITEM, (item, text)).rowcount == 1
                for item, text in zip(ids, texts, strict=True)
            ]

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the ids and rows of all new items, in the order of arrival."""
        with self._reading() as connection:
            rows = connection.execute("SELECT id, row FROM items ORDER BY arrival").fetchall()
        return [(item, json.loads(row)) for item, row in rows]

    def check(self) -> None:
        """Raise StoreUnavailable unless the file can be read."""
        with self._reading() as connection:
            connection.execute("SELECT 1 FROM events LIMIT 1").fetchall()

    def close(self) -> None:
        """Close the file; what lies in its write-ahead log goes into it."""
        self._readers.close()
        with self._lock:
            self._writer.close()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            try:
                _prepare(connection, self._path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # locked, full and so on are subclasses
                raise
            raise DataError(
                f"a history store must be a SQLite file of Ensue; {self._path} is damaged, or "
                "something else. Choose another file, or restore it from a copy."
            ) from error
        return connection

    def _connect(self) -> sqlite3.Connection:
        place = MEMORY if self._path is None else f"{self._path.as_uri()}?mode=rw"
        connection = sqlite3.connect(
            place, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")  # what is removed leaves the file
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            if self._path is None:
                with self._locked():
                    yield self._writer
            else:
                self._check_place()
                with self._readers.take() as connection:
                    yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, which is on disk after the block."""
        with self._told(), self._locked():
            self._check_place()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself
                    self._writer.execute("ROLLBACK")
                raise
            self._check_place()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=TIMEOUT_S):
            raise TimeoutError
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what SQLite reports."""
        try:
            yield
        except TimeoutError as error:
            raise self._unavailable("it is busy") from error
        except sqlite3.Error as error:
            causes = [cause for part, cause in CAUSES.items() if part in str(error)]
            raise self._unavailable(*causes[:1] or ["it cannot be used"]) from error

    def _unavailable(self, cause: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"the history store must be a file that can be read and written; {cause}."
        )

    def _identify(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise self._unavailable("it is gone") from error
        return status.st_dev, status.st_ino

    def _check_place(self) -> None:
        if self._identify() != self._identity:
            raise self._unavailable("another file stands in its place; start again to use that")


def _to_events(user: str, rows: list[tuple[str, str, int, str | None]]) -> list[Event]:
    rows.reverse()
    new = tuple.__new__  # half the time of Event(...), and this is the longest loop of a request
    return [
        new(Event, (user, id, item, time, context_from_json(context) if context else NO_CONTEXT))
        for id, item, time, context in rows
    ]


def _make_place(path: Path) -> None:
    """Make an empty file where there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        raise UsageError(
            f"a history store must be a file that can be read and written; {path}: "
            f"{error.strerror}."
        ) from None


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables in a new file; refuse a file that is not ours."""
    _check_owner(connection, path)
    journal = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if journal != "wal" and path is not None:
        raise UsageError(
            f"a history store must lie on a file system of this machine; that of {path} "
            "allows no write-ahead log. Choose another place."
        )
    connection.execute("BEGIN IMMEDIATE")  # of two that open a new file, one makes the tables
    if _is_empty(connection):
        for statement in SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")
    _check_owner(connection, path)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]


def _check_owner(connection: sqlite3.Connection, path: Path | None) -> None:
    if _is_empty(connection):
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise DataError(
            f"a history store must be a SQLite file of Ensue; {path} is another program's. "
            "Choose another file."
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise DataError(
            f"a history store must be of version {VERSION}; {path} is of version {version}. "
            "Use the version of Ensue that wrote it, or choose another file."
        )
