"""Filters of log rows, given as text and applied in the order given.

```
k-core=5                 users and items with at least 5 rows each, repeated until none is dropped
user-core=5,item-core=3  the same with a bound for each; one alone looks at that side only
min-length=3             users with at least 3 rows
since=2020-01-01         rows at that time or later
until=2021-01-01         rows before that time
rating>=4                rows whose label passes; also > <= < ==
drop-repeats             only the first of an item's consecutive rows in a user's history
```
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.data.partition import sorted_parts
from ensue.data.row_store import Columns, RowStore
from ensue.data.times import parse_moment
from ensue.errors import UsageError, did_you_mean

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_NAMES = ("k-core", "user-core", "item-core", "min-length", "since", "until", "drop-repeats")
_COUNT = re.compile(r"(k-core|user-core|item-core|min-length)=(\d+)")


@dataclass(frozen=True)
class CoreFilter:
    """At least so many rows per user and per item, repeated until it holds."""

    text: str
    min_user_rows: int
    min_item_rows: int

    def apply(self, store: RowStore, num_users: int, num_items: int, memory_bytes: int) -> RowStore:
        """Return the remaining rows in a new store and give `store` up."""
        keep_user = np.ones(num_users, dtype=np.bool_)
        keep_item = np.ones(num_items, dtype=np.bool_)
        is_stable = False
        while not is_stable:
            user_rows = np.zeros(num_users, dtype=np.int64)
            item_rows = np.zeros(num_items, dtype=np.int64)
            for chunk in store.chunks(["user", "item"]):
                _count_kept(
                    chunk["user"], chunk["item"], keep_user, keep_item, user_rows, item_rows
                )
            enough_user = keep_user & (user_rows >= self.min_user_rows)
            enough_item = keep_item & (item_rows >= self.min_item_rows)
            is_stable = bool((enough_user == keep_user).all() and (enough_item == keep_item).all())
            keep_user, keep_item = enough_user, enough_item
        return _select(store, lambda rows: keep_user[rows["user"]] & keep_item[rows["item"]])


@dataclass(frozen=True)
class ValueFilter:
    """Rows whose time or label compares as wanted with a bound."""

    text: str
    column: str
    comparison: str
    bound: float

    def apply(self, store: RowStore, num_users: int, num_items: int, memory_bytes: int) -> RowStore:
        """Return the remaining rows in a new store and give `store` up."""
        compare = _COMPARISONS[self.comparison]
        return _select(store, lambda rows: compare(rows[self.column], self.bound))


@dataclass(frozen=True)
class RepeatFilter:
    """Only the first of consecutive rows of one user with the same item."""

    text: str

    def apply(self, store: RowStore, num_users: int, num_items: int, memory_bytes: int) -> RowStore:
        """Return the remaining rows, by user and time, in a new store and give `store` up."""
        kept = store.like(store.folder.name + "-filtered")
        counts = count_rows(store, "user", num_users)
        everyone = np.arange(num_users, dtype=np.int32)
        for part in sorted_parts(store, everyone, counts, memory_bytes):
            items = part.column("item")
            keep = np.ones(len(items), dtype=np.bool_)
            keep[1:] = items[1:] != items[:-1]
            starts = part.offsets[:-1]
            keep[starts[starts < part.offsets[1:]]] = True
            kept.append({name: part.column(name)[keep] for name in store.dtypes})
        return kept


Filter = CoreFilter | ValueFilter | RepeatFilter


def parse_filters(
    texts: Sequence[str], *, labels: Sequence[str], has_time: bool = True
) -> list[Filter]:
    """Return the filters that `texts` describe.

    Args:
        labels: label columns there are.
        has_time: whether the log has times.

    Raises:
        UsageError: a text describes no filter, or one that needs a column that is not there.
    """
    return [_parse(text.strip(), labels, has_time) for text in texts]


def count_rows(store: RowStore, role: str, size: int) -> NDArray[np.int64]:
    """Return the number of rows of each code [size]; code -1, no value, is not counted."""
    counts = np.zeros(size + 1, dtype=np.int64)
    for chunk in store.chunks([role]):
        counts += np.bincount(chunk[role] + 1, minlength=size + 1)
    return counts[1:]


def _parse(text: str, labels: Sequence[str], has_time: bool) -> Filter:
    if text == "drop-repeats":
        return RepeatFilter(text)
    counts = [_COUNT.fullmatch(part.strip()) for part in text.split(",")]
    if all(counts):
        return _core_filter(text, {match[1]: int(match[2]) for match in counts if match})
    name, equals, value = text.partition("=")
    if name in ("since", "until") and equals:
        if not has_time:
            raise UsageError(f"filter {text!r} needs times, and the log has no time column.")
        return ValueFilter(text, "time", ">=" if name == "since" else "<", parse_moment(value))
    match = re.fullmatch(r"(.+?)\s*(>=|<=|==|>|<)\s*(\S+)", text)
    if match and match[1] not in _NAMES:
        return _label_filter(text, match, labels)
    problem = f"filter {name.strip()!r} is unknown.{did_you_mean(name.strip(), _NAMES)}"
    if name in _NAMES:
        problem = f"filter {name!r} needs a whole number, as in {name}=5; got {text!r}."
    raise UsageError(problem)


def _core_filter(text: str, bounds: dict[str, int]) -> CoreFilter:
    if len(bounds) > 1 and set(bounds) != {"user-core", "item-core"}:
        raise UsageError(f"only user-core and item-core go together in one filter; got {text!r}.")
    both = bounds.get("k-core", 0)
    user = bounds.get("user-core", bounds.get("min-length", both))
    return CoreFilter(text, user, bounds.get("item-core", both))


def _label_filter(text: str, match: re.Match[str], labels: Sequence[str]) -> ValueFilter:
    label, comparison, value = match[1], match[2], match[3]
    if label not in labels:
        raise UsageError(
            f"filter {text!r} needs a label column {label!r}; the labels are {list(labels)}. "
            f"Pass --label {label} if the input has it."
        )
    try:
        return ValueFilter(text, label, comparison, float(value))
    except ValueError:
        raise UsageError(f"filter {text!r} needs a number after {comparison}.") from None


def _select(store: RowStore, keep: Callable[[Columns], NDArray[np.bool_]]) -> RowStore:
    """Return the rows that `keep` marks in a new store and give `store` up."""
    kept = store.like(store.folder.name + "-filtered")
    for chunk in store.chunks():
        mask = keep(chunk)
        kept.append({name: values[mask] for name, values in chunk.items()})
    store.clear()
    return kept


@njit(cache=True)
def _count_kept(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    keep_user: NDArray[np.bool_],
    keep_item: NDArray[np.bool_],
    user_rows: NDArray[np.int64],
    item_rows: NDArray[np.int64],
) -> None:
    """Count the rows of kept users with kept items."""
    for row in range(len(users)):
        user, item = users[row], items[row]
        if keep_user[user] and keep_item[item]:
            user_rows[user] += 1
            item_rows[item] += 1
