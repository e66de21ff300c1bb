"""Sequential intensity: how many rules "after X comes Y" a log holds, for each of its users.

Tang and Wang, WSDM 2018, arXiv:1809.07426, Eq. 17. X is a run of L consecutive items of a history
and Y the item right after it. The support of a run is the number of users whose history contains
it, the confidence of X -> Y is support(XY) / support(X). Rules are kept from a support and a
confidence on; the intensity is the number of rules divided by the number of users.

Runs grow by one item at a time out of the runs that have the support, as every part of a run has
at least the support of the whole. Runs are counted by sorting, some millions at a time.

Shapes: S interactions, P positions where a frequent run starts, G distinct frequent runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data.histories import Histories
from ensue.errors import UsageError

Ints = NDArray[np.int64]

ROWS_AT_ONCE = 1 << 22  # bounds the memory of a sort, at about 60 bytes a row


@dataclass(frozen=True)
class Intensity:
    """The rules of a log.

    rules: L -> number of rules whose X has L items.
    num_users: users with a history.
    """

    rules: dict[int, int]
    num_users: int
    min_support: int
    min_confidence: float

    @property
    def value(self) -> float:
        """Rules of all L for each user."""
        return sum(self.rules.values()) / self.num_users if self.num_users else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the intensity, ready for JSON."""
        return {
            "value": self.value,
            "by_length": {
                str(length): {"rules": count, "per_user": count / max(self.num_users, 1)}
                for length, count in self.rules.items()
            },
            "rules": sum(self.rules.values()),
            "users": self.num_users,
            "min_support": self.min_support,
            "min_confidence": self.min_confidence,
        }


class _Log(NamedTuple):
    """All interactions: user [S], ascending, and item [S]."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]


class _Runs(NamedTuple):
    """Frequent runs: which one starts at each interaction [S], -1 for none, and supports [G]."""

    at: NDArray[np.int32]
    support: Ints


def sequential_intensity(
    histories: Histories,
    *,
    max_length: int = 5,
    min_support: int = 5,
    min_confidence: float = 0.5,
) -> Intensity:
    """Return the rules X -> Y of the histories, with X of 1 to `max_length` items.

    Raises:
        UsageError: a bound has no meaning.
    """
    if max_length < 1 or min_support < 1 or not 0 < min_confidence <= 1:
        raise UsageError(
            "sequential_intensity needs max_length >= 1, min_support >= 1 and 0 < min_confidence "
            f"<= 1; got {max_length}, {min_support} and {min_confidence}."
        )
    users, items = histories.flat()
    log = _Log(users.astype(np.int32), items)
    del users
    runs = _single_items(log, min_support)
    rules = {}
    for length in range(1, max_length + 1):
        runs, rules[length] = _extend(runs, length, log, min_support, min_confidence)
    return Intensity(rules, int((histories.lengths > 0).sum()), min_support, min_confidence)


def _single_items(log: _Log, min_support: int) -> _Runs:
    """Return the frequent runs of one item."""
    support = np.zeros(int(log.items.max(initial=0)) + 1, dtype=np.int64)
    size = len(support)
    first = 0
    while first < len(log.users):  # some whole users at a time
        block = first + ROWS_AT_ONCE
        last = int(np.searchsorted(log.users, log.users[min(block, len(log.users)) - 1], "right"))
        keys = log.users[first:last].astype(np.int64) * size + log.items[first:last]
        support += np.bincount(np.unique(keys) % size, minlength=size)
        first = last
    is_frequent = support >= min_support
    number = np.where(is_frequent, np.cumsum(is_frequent) - 1, -1).astype(np.int32)
    return _Runs(number[log.items], support[is_frequent])


def _extend(
    runs: _Runs, length: int, log: _Log, min_support: int, min_confidence: float
) -> tuple[_Runs, int]:
    """Return the frequent runs with one more item, and how many of them are rules.

    Args:
        length: items of the runs given.
    """
    grown = np.full(len(log.items), -1, dtype=np.int32)
    has_next = (log.users[length:] == log.users[:-length]) & (runs.at[:-length] >= 0)
    starts = np.flatnonzero(has_next)
    run = runs.at[starts]
    size = int(log.items.max(initial=0)) + 1
    supports = [np.zeros(0, dtype=np.int64)]
    num_rules = num_runs = 0
    for first, last in _pieces(np.bincount(run, minlength=len(runs.support))):
        chosen = starts[(run >= first) & (run < last)]
        keys = runs.at[chosen].astype(np.int64) * size + log.items[chosen + length]
        group, group_keys, support = _group(keys, log.users[chosen])
        is_frequent = support >= min_support
        confidence = support / runs.support[group_keys // size]
        num_rules += int((is_frequent & (confidence >= min_confidence)).sum())
        number = np.where(is_frequent, np.cumsum(is_frequent) - 1 + num_runs, -1)
        grown[chosen] = number[group]
        supports.append(support[is_frequent])
        num_runs += int(is_frequent.sum())
    return _Runs(grown, np.concatenate(supports)), num_rules


def _pieces(counts: Ints) -> list[tuple[int, int]]:
    """Return ranges of runs that hold about ROWS_AT_ONCE positions each."""
    piece = (np.cumsum(counts) - counts) // ROWS_AT_ONCE
    firsts = np.flatnonzero(np.diff(piece, prepend=-1)).tolist()
    return list(zip(firsts, [*firsts[1:], len(counts)], strict=True)) if counts.any() else []


def _group(keys: Ints, users: NDArray[np.int32]) -> tuple[Ints, Ints, Ints]:
    """Return the group of each key [P], the key of each group [G] and its distinct users [G].

    Args:
        users: ascending.
    """
    order = np.argsort(keys, kind="stable")
    keys, users = keys[order], users[order]
    is_new_key = np.diff(keys, prepend=-1) != 0
    is_new_user = is_new_key | (np.diff(users, prepend=-1) != 0)
    sorted_group = np.cumsum(is_new_key) - 1
    group = np.empty(len(keys), dtype=np.int64)
    group[order] = sorted_group
    support = np.bincount(sorted_group[is_new_user], minlength=int(is_new_key.sum()))
    return group, keys[is_new_key], support
