"""Histories in Redis: of each user a sorted set of events by time, and the set of their ids.

```
ensue:format            the version of this layout
ensue:arrivals          events so far, which orders those of the same time
ensue:history:USER      sorted set: time -> arrival, id, item and context
ensue:ids:USER          set of the ids in it
ensue:items             list of new items, id and row
ensue:item_ids          set of the ids in it
```

Both keys of a user vanish with the last event. Scripts in Redis write, each as a whole. One Redis,
with replicas or without: not a cluster, whose nodes could not share a script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ensue.errors import DataError, ExtraError, UsageError
from ensue.progress import note
from ensue.serving.events import Event
from ensue.serving.stores.base import (
    EXPIRED_AT_ONCE,
    MAX_CONNECTIONS,
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

VERSION = 1
FORMAT = "ensue:format"
ARRIVALS = "ensue:arrivals"
HISTORY = "ensue:history:"
IDS = "ensue:ids:"
ITEMS = "ensue:items"
ITEM_IDS = "ensue:item_ids"
DIGITS = 14  # hexadecimal, of an arrival: members of one time are ordered as bytes

# A member is the arrival, then id, item and context with a NUL between them, which no id holds.
APPEND = f"""
local is_new = {{}}
for event = 1, #ARGV / 3 do
  local history, ids = KEYS[2 * event], KEYS[2 * event + 1]
  local id, time, rest = ARGV[3 * event - 2], ARGV[3 * event - 1], ARGV[3 * event]
  is_new[event] = redis.call('SADD', ids, id)
  if is_new[event] == 1 then
    local arrival = string.format('%0{DIGITS}x', redis.call('INCR', KEYS[1]))
    redis.call('ZADD', history, time, arrival .. id .. '\\0' .. rest)
  end
end
return is_new
"""
# One text for each user: the client reads an array element by element, five times as slowly.
READ = """
local histories = {}
for user, history in ipairs(KEYS) do
  local parts = redis.call('ZRANGE', history, ARGV[1], -1, 'WITHSCORES')
  histories[user] = table.concat(parts, '\\0')
end
return histories
"""
EXPIRE = f"""
local history, ids = KEYS[1], KEYS[2]
local old = redis.call('ZRANGEBYSCORE', history, '-inf', ARGV[1], 'LIMIT', 0, {EXPIRED_AT_ONCE})
for _, member in ipairs(old) do
  local stop = string.find(member, '\\0', {DIGITS + 1}, true)
  redis.call('SREM', ids, string.sub(member, {DIGITS + 1}, stop - 1))
  redis.call('ZREM', history, member)
end
return #old
"""
DELETE_USER = """
local size = redis.call('ZCARD', KEYS[1])
redis.call('UNLINK', KEYS[1], KEYS[2])
return size
"""
ADD_ITEMS = """
local is_new = {}
for item = 1, #ARGV / 2 do
  is_new[item] = redis.call('SADD', KEYS[2], ARGV[2 * item - 1])
  if is_new[item] == 1 then
    redis.call('RPUSH', KEYS[1], ARGV[2 * item - 1] .. '\\0' .. ARGV[2 * item])
  end
end
return is_new
"""


def import_redis() -> Any:
    """Return the module redis.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        import redis
        import redis.backoff
        import redis.retry
    except ImportError:
        raise ExtraError("redis", "redis", "a history store in Redis") from None
    return redis


class RedisStore:
    """The history store in a Redis that writes all it is told to its disk.

    Raises:
        UsageError: the URL is wrong; the Redis keeps nothing on disk, or drops keys.
        DataError: the histories there are of another version.
        StoreUnavailable: the Redis does not answer, or refuses the user.
    """

    kind = "redis"

    def __init__(self, url: str) -> None:
        redis = import_redis()
        self._error: type[Exception] = redis.RedisError
        self._client: Any = redis.Redis(connection_pool=_make_pool(redis, url))
        self._append = self._client.register_script(APPEND)
        self._read = self._client.register_script(READ)
        self._expire = self._client.register_script(EXPIRE)
        self._delete_user = self._client.register_script(DELETE_USER)
        self._add_items = self._client.register_script(ADD_ITEMS)
        try:
            _check_settings(self._client, redis.ResponseError, shown_address(url))
            _check_version(self._client, shown_address(url))
        except self._error as error:
            self.close()
            raise StoreUnavailable(
                f"the history store at {shown_address(url)} must let us in; "
                f"it says: {without_password(str(error), url)}."
            ) from error
        except BaseException:
            self.close()
            raise

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store the events in one script; return which are new."""
        check_events(events)
        keys, arguments = [ARRIVALS], []
        for event in events:
            rest = f"{event.item}\0{context_to_json(event.context) or ''}"
            keys += [HISTORY + event.user, IDS + event.user]
            arguments += [event.id, int(event.time), rest]
        if not arguments:
            return []
        with self._told():
            return [new == 1 for new in self._append(keys, arguments)]

    def read(self, users: Sequence[str], limit: int) -> list[list[Event]]:
        """Return of each user the newest events, oldest first, in one round trip."""
        check_reading(users, limit)
        with self._told():
            found = self._read([HISTORY + user for user in users], [-limit])
        return [_to_events(user, text) for user, text in zip(users, found, strict=True)]

    def delete_user(self, user: str) -> int:
        """Remove both keys of a user; return how many events those were."""
        check_id(user, "a user")
        with self._told():
            return int(self._delete_user([HISTORY + user, IDS + user]))

    def expire(self, before: int) -> int:
        """Remove the events before a time, of one user after the other; return how many."""
        removed = 0
        with self._told():
            for key in self._client.scan_iter(f"{HISTORY}*", count=EXPIRED_AT_ONCE):
                user = key[len(HISTORY) :]
                size = EXPIRED_AT_ONCE
                while size == EXPIRED_AT_ONCE:
                    size = int(self._expire([key, IDS.encode() + user], [f"({before}"]))
                    removed += size
        return removed

    def add_items(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[bool]:
        """Store the rows of new items in one script; return which are new."""
        texts = item_rows_to_json(rows, ids)
        if not texts:
            return []
        arguments = [part for pair in zip(ids, texts, strict=True) for part in pair]
        with self._told():
            return [new == 1 for new in self._add_items([ITEMS, ITEM_IDS], arguments)]

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the ids and rows of all new items, in the order of arrival."""
        with self._told():
            found = self._client.lrange(ITEMS, 0, -1)
        pairs = [entry.decode().split("\0", 1) for entry in found]
        return [(item, json.loads(row)) for item, row in pairs]

    def check(self) -> None:
        """Raise StoreUnavailable unless the Redis answers."""
        with self._told():
            self._client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._client.connection_pool.disconnect()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what the client reports."""
        try:
            yield
        except self._error as error:
            raise StoreUnavailable(
                "the history store must be reachable; the Redis does not answer as it should now."
            ) from error


def _to_events(user: str, text: bytes) -> list[Event]:
    parts = text.decode().split("\0") if text else []
    return [
        Event(user, id[DIGITS:], item, int(float(time)), context_from_json(context))
        for id, item, context, time in zip(*[iter(parts)] * 4, strict=True)
    ]


def _make_pool(redis: Any, url: str) -> Any:
    try:
        return redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # who calls may try again
        )
    except (ValueError, redis.RedisError):
        raise UsageError(
            "the URL of a Redis must be redis://USER:PASSWORD@HOST:PORT/NUMBER; "
            f"got {shown_address(url)!r}."
        ) from None


def _check_settings(client: Any, refused: type[Exception], address: str) -> None:
    """Refuse a Redis that loses events; note what it may lose, or what it does not let us know."""
    try:
        settings = client.config_get("*")
    except refused:
        client.ping()  # a wrong password is an error of its own
        note(
            f"{address} does not tell its settings; no acknowledged event is lost where they are "
            "appendonly yes, appendfsync always and maxmemory-policy noeviction."
        )
        return
    if settings["appendonly"] != "yes":
        raise UsageError(
            f"the Redis of a history store must keep what it is told on disk; {address} has "
            f"appendonly {settings['appendonly']}. Start it with --appendonly yes."
        )
    policy = settings["maxmemory-policy"]
    if policy.startswith("allkeys"):
        raise UsageError(
            f"the Redis of a history store must keep all keys; {address} has "
            f"maxmemory-policy {policy}. Set it to noeviction."
        )
    if settings["appendfsync"] != "always":
        note(
            f"{address} has appendfsync {settings['appendfsync']}: if its machine loses power, "
            "the events of about the last second are lost. Set it to always to lose none."
        )


def _check_version(client: Any, address: str) -> None:
    client.set(FORMAT, VERSION, nx=True)
    version = client.get(FORMAT).decode()
    if version != str(VERSION):
        raise DataError(
            f"a history store must be of version {VERSION}; {address} is of version {version}. "
            "Use the version of Ensue that wrote it, or another database."
        )
