"""Histories in PostgreSQL: two tables, one statement for each call.

Rows of an `append` go in by user and id, so that two calls never wait for each other in a circle;
`arrival` counts the calls, `place` is that in the call, and both order events of the same time.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ensue.errors import DataError, ExtraError, UsageError
from ensue.serving.events import Event
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
    shown_address,
    without_password,
)
from ensue.serving.stores.pool import Pool

VERSION = 1
LOCK = 0x456E737565  # "Ensue": held while the tables are made

# Orders of texts are those of their bytes: quick, and the same on every machine.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS ensue_format (version integer NOT NULL);
INSERT INTO ensue_format SELECT {VERSION} WHERE NOT EXISTS (SELECT FROM ensue_format);
CREATE SEQUENCE IF NOT EXISTS ensue_arrivals;
CREATE TABLE IF NOT EXISTS ensue_events (
    user_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    item_id text NOT NULL,
    time bigint NOT NULL,
    arrival bigint NOT NULL,
    place integer NOT NULL,
    context text,
    PRIMARY KEY (user_id, event_id)
);
CREATE INDEX IF NOT EXISTS ensue_histories ON ensue_events (user_id, time, arrival, place);
CREATE INDEX IF NOT EXISTS ensue_times ON ensue_events (time);
CREATE TABLE IF NOT EXISTS ensue_items (
    item_id text COLLATE "C" PRIMARY KEY,
    arrival bigint NOT NULL,
    place integer NOT NULL,
    item_row text NOT NULL
);
"""
APPEND = """
WITH call AS MATERIALIZED (SELECT nextval('ensue_arrivals') AS arrival)
INSERT INTO ensue_events (user_id, event_id, item_id, time, context, arrival, place)
SELECT e.user_id, e.event_id, e.item_id, e.time, e.context, call.arrival, e.place
FROM call, unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])
    WITH ORDINALITY AS e (user_id, event_id, item_id, time, context, place)
ORDER BY e.user_id COLLATE "C", e.event_id COLLATE "C", e.place
ON CONFLICT (user_id, event_id) DO NOTHING
RETURNING user_id, event_id
"""
READ = """
SELECT asked.place, found.event_id, found.item_id, found.time, found.context
FROM unnest(%s::text[]) WITH ORDINALITY AS asked (user_id, place)
CROSS JOIN LATERAL (
    SELECT * FROM ensue_events AS e WHERE e.user_id = asked.user_id COLLATE "C"
    ORDER BY e.time DESC, e.arrival DESC, e.place DESC LIMIT %s
) AS found
ORDER BY asked.place, found.time, found.arrival, found.place
"""
EXPIRE = f"""
DELETE FROM ensue_events WHERE (user_id, event_id) IN (
    SELECT user_id, event_id FROM ensue_events WHERE time < %s
    ORDER BY time LIMIT {EXPIRED_AT_ONCE}
)
"""
ADD_ITEMS = """
WITH call AS MATERIALIZED (SELECT nextval('ensue_arrivals') AS arrival)
INSERT INTO ensue_items (item_id, item_row, arrival, place)
SELECT i.item_id, i.item_row, call.arrival, i.place
FROM call, unnest(%s::text[], %s::text[]) WITH ORDINALITY AS i (item_id, item_row, place)
ORDER BY i.item_id COLLATE "C", i.place
ON CONFLICT (item_id) DO NOTHING
RETURNING item_id
"""
ITEMS = "SELECT item_id, item_row FROM ensue_items ORDER BY arrival, place"


def import_psycopg() -> Any:
    """Return the module psycopg.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError:
        raise ExtraError("psycopg", "postgres", "a history store in PostgreSQL") from None
    return psycopg


class PostgresStore:
    """The history store in a PostgreSQL database of UTF-8.

    Raises:
        UsageError: the URL is wrong; the database cannot hold histories, or would lose them.
        DataError: the histories there are of another version.
        StoreUnavailable: the server does not answer, or refuses the user.
    """

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        self._psycopg = import_psycopg()
        try:
            self._options = self._psycopg.conninfo.conninfo_to_dict(
                url,
                connect_timeout=int(TIMEOUT_S),
                tcp_user_timeout=int(1000 * TIMEOUT_S),
                application_name="ensue",
            )
        except self._psycopg.Error:
            raise UsageError(
                "the URL of a PostgreSQL must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE; "
                f"got {shown_address(url)!r}."
            ) from None
        self._pool = Pool(self._connect, _is_usable)
        try:
            with self._pool.take() as connection:
                _check_server(connection, shown_address(url))
                _prepare(connection, shown_address(url))
        except (self._psycopg.Error, TimeoutError) as error:
            raise StoreUnavailable(
                f"the history store at {shown_address(url)} must let us in, and make tables; "
                f"it says: {without_password(str(error), url)}."
            ) from error

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store the events in one statement; return which are new."""
        check_events(events)
        rows = [
            (user, id, item, int(time), context_to_json(context))
            for user, id, item, time, context in events
        ]
        if not rows:
            return []
        added = set(self._fetch(APPEND, [list(column) for column in zip(*rows, strict=True)]))
        return _first_of_each([row[:2] for row in rows], added)

    def read(self, users: Sequence[str], limit: int) -> list[list[Event]]:
        """Return of each user the newest events, oldest first, in one round trip."""
        check_reading(users, limit)
        histories: list[list[Event]] = [[] for _ in users]
        if not histories:
            return []
        for place, id, item, when, context in self._fetch(READ, [list(users), limit]):
            event = Event(users[place - 1], id, item, when, context_from_json(context))
            histories[place - 1].append(event)
        return histories

    def delete_user(self, user: str) -> int:
        """Remove the events of a user; return how many."""
        check_id(user, "a user")
        return self._remove("DELETE FROM ensue_events WHERE user_id = %s", user)

    def expire(self, before: int) -> int:
        """Remove the events before a time, the oldest first; return how many."""
        removed, size = 0, EXPIRED_AT_ONCE
        while size == EXPIRED_AT_ONCE:
            size = self._remove(EXPIRE, before)
            removed += size
        return removed

    def add_items(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[bool]:
        """Store the rows of new items in one statement; return which are new."""
        texts = item_rows_to_json(rows, ids)
        if not texts:
            return []
        added = set(self._fetch(ADD_ITEMS, [list(ids), texts]))
        return _first_of_each([(item,) for item in ids], added)

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the ids and rows of all new items, in the order of arrival."""
        return [(item, json.loads(row)) for item, row in self._fetch(ITEMS, [])]

    def check(self) -> None:
        """Raise StoreUnavailable unless the server answers."""
        self._fetch("SELECT 1", [])

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _fetch(self, statement: str, arguments: list[Any]) -> list[tuple[Any, ...]]:
        with self._told(), self._pool.take() as connection:
            return connection.execute(statement, arguments, prepare=True).fetchall()

    def _remove(self, statement: str, argument: Any) -> int:
        with self._told(), self._pool.take() as connection:
            return connection.execute(statement, [argument], prepare=True).rowcount

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what the client reports."""
        try:
            yield
        except (self._psycopg.Error, TimeoutError) as error:
            raise StoreUnavailable(
                "the history store must be reachable; PostgreSQL does not answer as it should now."
            ) from error

    def _connect(self) -> Any:
        connection = self._psycopg.connect(**self._options, autocommit=True)
        wait = connection.wait
        # psycopg asks every 0.1 s whether there is an answer, and of itself for ever.
        connection.wait = lambda steps, *args, **kwargs: wait(_bounded(steps), *args, **kwargs)
        try:
            connection.execute("SET synchronous_commit = on")
            # A statement that we no longer wait for ends there too.
            connection.execute(f"SET statement_timeout = {int(1000 * TIMEOUT_S)}")
        except BaseException:
            connection.close()
            raise
        return connection


def _bounded(steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Do what the steps of psycopg do, for TIMEOUT_S at most."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:  # 0: neither to read nor to write
                raise TimeoutError("no answer in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value


def _is_usable(connection: Any) -> bool:
    """Return False where the server has gone: at rest there is nothing to read but its farewell."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _first_of_each(keys: Sequence[tuple[Any, ...]], added: set[tuple[Any, ...]]) -> list[bool]:
    """Return, for each key, whether it was added and is the first of its kind; empties `added`.

    >>> _first_of_each([(1,), (2,), (1,)], {(1,)})
    [True, False, False]
    """
    is_new = []
    for key in keys:
        is_new.append(key in added)
        added.discard(key)
    return is_new


def _check_server(connection: Any, address: str) -> None:
    encoding, flushes = (
        connection.execute(f"SHOW {name}").fetchone() for name in ("server_encoding", "fsync")
    )
    if encoding != ("UTF8",):
        raise UsageError(
            f"the database of a history store must be of UTF8; {address} is of {encoding[0]}. "
            "Make one with createdb --encoding UTF8 --template template0."
        )
    if flushes != ("on",):
        raise UsageError(
            f"the PostgreSQL of a history store must keep what it is told on disk; {address} has "
            "fsync off. Set it to on."
        )


def _prepare(connection: Any, address: str) -> None:
    """Make the tables where there are none, one program at a time."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        connection.execute("SET LOCAL client_min_messages = warning")  # not that a table is there
        connection.execute(SCHEMA)
        (version,) = connection.execute("SELECT MAX(version) FROM ensue_format").fetchone()
    if version != VERSION:
        raise DataError(
            f"a history store must be of version {VERSION}; {address} is of version {version}. "
            "Use the version of Ensue that wrote it, or another database."
        )
