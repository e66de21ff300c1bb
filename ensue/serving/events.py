"""One event of a user's history, as the history stores hold it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

Context: TypeAlias = Mapping[str, str | float | int | bool | None]
NO_CONTEXT: Context = MappingProxyType({})  # one for all, hence read-only


class Event(NamedTuple):
    """A user met an item. (user, id) is its identity: the same one twice counts once.

    A named tuple and no dataclass: a store makes hundreds of them for one request.

    time: microseconds since 1970, UTC.
    """

    user: str
    id: str
    item: str
    time: int
    context: Context = NO_CONTEXT
