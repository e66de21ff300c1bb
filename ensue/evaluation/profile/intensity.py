"""Sequential intensity: how many rules "after X comes Y" a log holds, for each of its users.

Tang and Wang, WSDM 2018, arXiv:1809.07426, Eq. 17. X is a run of L consecutive items of a history
and Y the item right after it. The support of a run is the number of users whose history contains
it, the confidence of X -> Y is support(XY) / support(X). Rules are kept from a support and a
confidence on; the intensity is the number of rules divided by the number of users.

Runs grow by one item at a time out of the runs that have the support, as every part of a run has
at least the support of the whole. Runs are counted by sorting, some millions at a time.

Shapes: S interactions, P positions where a frequent run starts, G distinct runs.
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


class _Runs(NamedTuple):
    """Frequent runs: where each starts [P], which of them it is [P], and its support [G]."""

    starts: Ints
    run: Ints
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
    rows_of_users, items = histories.flat()
    users = rows_of_users.astype(np.int32)
    num_items = int(items.max(initial=0))
    nothing = np.zeros(len(items), dtype=np.int64)
    everywhere = _Runs(np.arange(len(items)), nothing, np.zeros(1, dtype=np.int64))
    runs, _ = _extend(everywhere, 0, users, items, num_items, min_support, min_confidence)
    rules = {}
    for length in range(1, max_length + 1):
        runs, rules[length] = _extend(
            runs, length, users, items, num_items, min_support, min_confidence
        )
    return Intensity(rules, int((histories.lengths > 0).sum()), min_support, min_confidence)


def _extend(
    runs: _Runs,
    length: int,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    num_items: int,
    min_support: int,
    min_confidence: float,
) -> tuple[_Runs, int]:
    """Return the frequent runs with one more item, and how many of them are rules."""
    has_next = runs.starts + length < len(items)
    starts, run = runs.starts[has_next], runs.run[has_next]
    is_same_user = users[starts] == users[starts + length]
    starts, run = starts[is_same_user], run[is_same_user]
    parts: list[_Runs] = []
    num_rules = num_runs = 0
    for first, last in _pieces(np.bincount(run, minlength=len(runs.support))):
        chosen = np.flatnonzero((run >= first) & (run < last))
        part_starts = starts[chosen]
        keys = run[chosen] * (num_items + 1) + items[part_starts + length]
        group, group_keys, support = _group(keys, users[part_starts])
        is_frequent = support >= min_support
        if length:
            confidence = support / runs.support[group_keys // (num_items + 1)]
            num_rules += int((is_frequent & (confidence >= min_confidence)).sum())
        number = np.cumsum(is_frequent) - 1 + num_runs
        is_kept = is_frequent[group]
        parts.append(_Runs(part_starts[is_kept], number[group[is_kept]], support[is_frequent]))
        num_runs += int(is_frequent.sum())
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return _Runs(nothing, nothing, nothing), 0
    grown = _Runs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(grown.starts, kind="stable")  # users ascend, which _group relies on
    return _Runs(grown.starts[order], grown.run[order], grown.support), num_rules


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
