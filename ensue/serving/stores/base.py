"""What every history store gives, and what may be put into it.

The same events are refused by every store, so that one can take another's place: an id is held by
an index of PostgreSQL, which takes neither NUL nor long keys; a time is a score of Redis, a double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from ensue.errors import EnsueError, UsageError
from ensue.serving.events import NO_CONTEXT, Context, Event

MAX_ID_BYTES = 1000  # two of them fit in a row of an index of PostgreSQL, 2,704 bytes
MAX_TIME = 2**53 - 1  # whole numbers up to it are doubles; the year 2255
TIMEOUT_S = 2.0  # after that long without an answer a store counts as away
MAX_CONNECTIONS = 16
EXPIRED_AT_ONCE = 1000  # events removed in one transaction, some milliseconds
SCALAR = (str, int, float, bool, type(None))


class StoreUnavailable(EnsueError):  # noqa: N818, a state and no mistake
    """The store cannot be reached, or cannot write, now; the same call may succeed later."""


@runtime_checkable
class HistoryStore(Protocol):
    """Events of users, and rows of items that came after the training.

    Several threads may call every method. Each blocks, for about TIMEOUT_S at most where the store
    is away, raises StoreUnavailable then, and works again by itself once the store is back. Ids
    and events that no store could hold are a UsageError, and then nothing of the call is done.
    """

    kind: str

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store the events, all or none; they are on disk when it returns.

        Returns, for each event, whether it is new: one whose (user, id) is there already, or
        earlier in the call, changes nothing.
        """
        ...

    def read(self, users: Sequence[str], limit: int) -> list[list[Event]]:
        """Return of each user the newest `limit` events, oldest first: by time, then arrival."""
        ...

    def delete_user(self, user: str) -> int:
        """Remove all that is held of a user; return how many events that were."""
        ...

    def expire(self, before: int) -> int:
        """Remove the events of a time before `before`; return how many.

        Many small transactions, so that it never holds up others for long. Of an event that
        arrives meanwhile with such a time it depends on its place whether it is removed.
        """
        ...

    def add_items(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[bool]:
        """Store the rows of new items, all or none; the first row of an id stays.

        Returns, for each id, whether it is new.
        """
        ...

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the ids and rows of all new items, in the order of arrival."""
        ...

    def check(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        ...

    def close(self) -> None:
        """Let go of files and connections; the store is not used after that."""
        ...


def check_id(text: str, name: str) -> None:
    """Raise UsageError unless every store can hold this id of a user, an event or an item."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        size = 0
    if not 0 < size <= MAX_ID_BYTES or "\0" in text:
        raise UsageError(
            f"{name} must be text of 1 to {MAX_ID_BYTES} bytes in UTF-8, without NUL; "
            f"got {_shortened(text)}."
        )


def check_events(events: Sequence[Event]) -> None:
    """Raise UsageError unless every store can hold the ids and times of these events."""
    for event in events:
        check_id(event.user, "the user of an event")
        check_id(event.id, "the id of an event")
        check_id(event.item, "the item of an event")
        if not -MAX_TIME <= event.time <= MAX_TIME:
            raise UsageError(
                f"the time of an event must be in microseconds since 1970, {MAX_TIME} at most; "
                f"got {event.time}."
            )


def check_reading(users: Sequence[str], limit: int) -> None:
    """Raise UsageError unless there can be histories of these users, and of this length."""
    for user in users:
        check_id(user, "a user")
    if limit < 1:
        raise UsageError(f"the limit of a history must be at least 1; got {limit}.")


def context_to_json(context: Context) -> str | None:
    """Return the context as JSON, None for an empty one.

    Raises:
        UsageError: a key is no text, a value neither text nor a finite number nor a truth value.
    """
    if not context:
        return None
    flat = all(isinstance(key, str) for key in context)
    if not flat or not all(isinstance(value, SCALAR) for value in context.values()):
        raise UsageError(
            "the context of an event must be names with texts, numbers, true, false or null; "
            f"got {_shortened(dict(context))}."
        )
    return _to_json(dict(context), "the context of an event")


def context_from_json(text: str | None) -> Context:
    """Return the context that `context_to_json` has written."""
    return json.loads(text) if text else NO_CONTEXT


def item_rows_to_json(rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[str]:
    """Return each row as JSON, after a look at the ids.

    Raises:
        UsageError: there are not as many rows as ids; an id or a row cannot be held.
    """
    if len(rows) != len(ids):
        raise UsageError(f"each new item must have a row; got {len(ids)} ids, {len(rows)} rows.")
    for item in ids:
        check_id(item, "the id of an item")
    return [_to_json(dict(row), "the row of an item") for row in rows]


def _to_json(value: dict[str, Any], name: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, TypeError):  # NaN, half of a surrogate pair; an object JSON has not
        raise UsageError(
            f"{name} must be JSON of finite numbers and of text that UTF-8 can hold; "
            f"got {_shortened(value)}."
        ) from None
    return text


def _shortened(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def shown_address(url: str) -> str:
    """Return the scheme, host, port and path of a URL, without user, password and options.

    >>> shown_address("redis://me:secret@localhost:6379/1?protocol=3")
    'redis://localhost:6379/1'
    """
    scheme, separator, rest = url.rpartition("://")
    address, _, options = rest.partition("?")
    if "@" in options:  # of the password, or of an option: it cannot be told where the host begins
        address = ""
    return scheme + separator + address.rpartition("@")[2]


def without_password(text: str, url: str) -> str:
    """Return what a client says of a failure, on one line and without the password of the URL.

    >>> without_password("secret is wrong.", "redis://:secret@localhost")
    '*** is wrong'
    """
    query = [pair.partition("=")[2] for pair in urlsplit(url).query.split("&") if "pass" in pair]
    for secret in (urlsplit(url).password, *query):
        for form in {secret, unquote(secret)} if secret else ():
            text = text.replace(form, "***")
    return " ".join(text.split()).rstrip(".")
