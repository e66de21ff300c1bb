"""Open a history store by its URL."""

from __future__ import annotations

from ensue.errors import UsageError
from ensue.serving.stores.base import HistoryStore, shown_address

FORMS = (
    "sqlite:///relative/path.db, sqlite:////absolute/path.db, sqlite:// (in memory), "
    "redis://HOST, rediss://HOST or postgresql://HOST/DATABASE"
)


def open_store(url: str) -> HistoryStore:
    """Return the store that a URL names, after a look whether it can be used.

    Raises:
        UsageError: the URL names no store, or one that would lose events.
        DataError: what is stored there is no store of this version of Ensue.
        ExtraError: the client of Redis or PostgreSQL is not installed.
        StoreUnavailable: the store does not answer, or refuses the user.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite" and rest[:1] in ("", "/"):
        from ensue.serving.stores.sqlite_store import SQLiteStore

        return SQLiteStore(rest[1:] or None)
    if separator and scheme in ("redis", "rediss"):
        from ensue.serving.stores.redis_store import RedisStore

        return RedisStore(url)
    if separator and scheme == "postgresql":
        from ensue.serving.stores.postgres_store import PostgresStore

        return PostgresStore(url)
    raise UsageError(f"a store must be {FORMS}; got {shown_address(url)!r}.")
