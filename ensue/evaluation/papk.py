"""pAp@k: the AUC between a user's best positives and best negatives.

Budhiraja, Hiranandani et al., "Rich-Item Recommendations for Rich-Users", arXiv:2001.10495;
Hiranandani, Vijitbenjaronk, Koyejo and Jain, "Optimization and Analysis of the pAp@k Metric for
Recommender Systems", ICML 2020. Their texts were not at hand: the definition is that of their
abstracts and of RecTools, which cites both.

Of n+ positives and n- negatives, with beta = min(k, n+),

    pAp@k = 1 / (beta K) * sum over the beta best positives p and the k best negatives q of [p > q]

pAUC@k has all n+ positives in place of the best beta. A user with few positives is judged as by
pAUC@k, one with many as by precision@k: pAp@k is 1 only where the first k are positives.

Ties: "strict" counts a tie as lost, "half" as half won, "rank" goes by the order given.
Short lists, of fewer than k negatives: "shrink" takes K = min(k, n-); "rectools" takes K = k and
counts a negative that is missing as beaten, as RecTools does.
Shapes: U users, S pairs of all users' lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.errors import UsageError
from ensue.nn.selection import nth_largest, sort_

Floats = NDArray[np.float64]
Ties = Literal["strict", "half", "rank"]
ShortLists = Literal["shrink", "rectools"]
TIES: tuple[Ties, ...] = ("strict", "half", "rank")
SHORT_LISTS: tuple[ShortLists, ...] = ("shrink", "rectools")


@dataclass(frozen=True)
class PartialAUC:
    """pAp@k or pAUC@k of users, and how many pairs each counts.

    values: [U]; NaN for a user without positives or without negatives.
    pairs: [U], the pairs (positive, negative) that each value is a share of; 0 where it is NaN.
    """

    values: Floats
    pairs: NDArray[np.int64]

    @property
    def macro(self) -> float:
        """The mean over users that have a value; NaN where none has."""
        known = self.values[self.pairs > 0]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def micro(self) -> float:
        """The share of all users' pairs: users count by how many pairs they have."""
        is_known = self.pairs > 0
        total = int(self.pairs.sum())
        return float(self.values[is_known] @ self.pairs[is_known]) / total if total else np.nan


def pap_at_k(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    k: int,
    *,
    ties: Ties = "half",
    short_lists: ShortLists = "shrink",
    all_positives: bool = False,
) -> PartialAUC:
    """Return pAp@k of users with lists of scored items.

    Args:
        scores: [S], user after user, in any order; for ties="rank" the earlier of equal ones is
            the better.
        labels: [S], which items are positives.
        offsets: [U + 1]; user u has scores[offsets[u]:offsets[u + 1]].
        all_positives: pAUC@k in place of pAp@k.

    Raises:
        UsageError: the lists do not fit together, k < 1, or a score is NaN.

    >>> labels = np.array([0, 1, 0, 1, 1, 0, 0, 1], dtype=bool)
    >>> pap_at_k(np.arange(8.0, 0, -1), labels, np.array([0, 8]), k=2).values.tolist()
    [0.25]
    """
    check_choices(k, ties, short_lists)
    scores, labels = np.asarray(scores), np.asarray(labels, dtype=np.bool_)
    offsets = np.asarray(offsets, dtype=np.int64)
    _check_offsets(offsets, len(scores), len(labels))
    if np.isnan(scores).any():
        raise UsageError("scores must be numbers; got NaN.")
    num_positive = np.diff(np.concatenate([[0], np.cumsum(labels)])[offsets])
    num_negative = np.diff(offsets) - num_positive
    wide = np.minimum(k, num_negative) if short_lists == "shrink" else np.full(len(num_negative), k)
    wide = np.where((num_positive > 0) & (num_negative > 0), wide, 0)
    high = num_positive if all_positives else np.minimum(num_positive, k)
    if ties == "rank":
        owners = np.repeat(np.arange(len(num_positive)), np.diff(offsets))
        own = slice(offsets[0], offsets[-1])
        order = np.lexsort((-scores[own], owners))
        return _of_hits(labels[own][order], offsets - offsets[0], high, wide)
    values = np.full(len(wide), np.nan)
    _fill_by_scores(scores, labels, offsets, high, wide, ties == "half", values)
    return PartialAUC(values, high * wide)


def pooled_pap_at_k(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    k: int,
    *,
    ties: Ties = "half",
    short_lists: ShortLists = "shrink",
) -> float:
    """Return pAp of the pairs of all users as one list, with k for each user; see `pap_at_k`."""
    offsets = np.asarray(offsets, dtype=np.int64)
    num_users = max(len(offsets) - 1, 1)
    whole = offsets[[0, -1]] if len(offsets) else offsets
    found = pap_at_k(scores, labels, whole, num_users * k, ties=ties, short_lists=short_lists)
    return found.macro


def pap_of_lists(
    hits: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    num_positives: NDArray[np.int64],
    k: int,
    *,
    all_positives: bool = False,
) -> PartialAUC:
    """Return pAp@k of recommended lists, best first, as RecTools counts it.

    A positive that is not in the list loses against all k negatives, and a negative that the list
    lacks is beaten by every positive in it: with fewer than 2k items a value may be too low.

    Args:
        hits: [S], which recommended items are positives.
        num_positives: [U], in the list or not.
        all_positives: pAUC@k in place of pAp@k.

    Raises:
        UsageError: the lists do not fit together, or k < 1.

    >>> pap_of_lists(np.array([False, True]), np.array([0, 2]), np.array([2]), k=3).values.round(6)
    array([0.333333])
    """
    check_choices(k, "rank", "rectools")
    hits, offsets = np.asarray(hits, dtype=np.bool_), np.asarray(offsets, dtype=np.int64)
    num_positives = np.asarray(num_positives, dtype=np.int64)
    _check_offsets(offsets, len(hits), len(hits))
    if len(num_positives) != len(offsets) - 1:
        raise UsageError(
            f"num_positives must be one number for each of {len(offsets) - 1} users; "
            f"got {len(num_positives)}."
        )
    wide = np.where(num_positives > 0, k, 0)
    high = num_positives if all_positives else np.minimum(num_positives, k)
    return _of_hits(hits, offsets, high, wide)


def _of_hits(
    hits: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    high: NDArray[np.int64],
    wide: NDArray[np.int64],
) -> PartialAUC:
    values = np.full(len(wide), np.nan)
    _fill_by_order(hits, offsets, high, wide, values)
    return PartialAUC(values, high * wide)


def check_choices(k: int, ties: str, short_lists: str) -> None:
    """Check how pAp@k is to be counted.

    Raises:
        UsageError: a choice is unknown, or k < 1.
    """
    if k < 1:
        raise UsageError(f"pAp@k needs k >= 1; got {k}.")
    for name, value, known in (("ties", ties, TIES), ("short_lists", short_lists, SHORT_LISTS)):
        if value not in known:
            raise UsageError(f"{name} must be one of {', '.join(known)}; got {value!r}.")


def _check_offsets(offsets: NDArray[np.int64], num_scores: int, num_labels: int) -> None:
    fits = len(offsets) > 0 and offsets[0] >= 0 and offsets[-1] <= num_scores == num_labels
    if not fits or (np.diff(offsets) < 0).any():
        raise UsageError(
            "lists need a label for each score, and ascending offsets within them; got "
            f"{num_scores} scores, {num_labels} labels and offsets {offsets[:5].tolist()}."
        )


@njit(cache=True, nogil=True)
def _fill_by_scores(scores, labels, offsets, high, wide, half, values):  # type: ignore[no-untyped-def]
    """Fill the values of users with pairs; a tie counts for nothing, or for half.

    Both sides are sorted, so that each positive starts to count where the one before it stopped.
    """
    for u in range(len(values)):
        if high[u] * wide[u] == 0:
            continue
        own, is_positive = scores[offsets[u] : offsets[u + 1]], labels[offsets[u] : offsets[u + 1]]
        positives, negatives = (
            _best(own, is_positive, True, high[u]),
            _best(own, is_positive, False, wide[u]),
        )
        won, ahead, level = 0.0, 0, 0
        for i in range(len(positives)):
            while ahead < len(negatives) and negatives[ahead] > positives[i]:
                ahead += 1
            level = max(level, ahead)
            while level < len(negatives) and negatives[level] == positives[i]:
                level += 1
            won += wide[u] - (0.5 * (ahead + level) if half else level)
        values[u] = won / (high[u] * wide[u])


@njit(cache=True, nogil=True)
def _best(scores, labels, label, count):  # type: ignore[no-untyped-def]
    """Return the `count` largest scores with a label, the largest first; fewer if there are."""
    chosen, num_chosen = np.empty(len(scores), scores.dtype), 0
    for i in range(len(scores)):
        if labels[i] == label:
            chosen[num_chosen] = scores[i]
            num_chosen += 1
    chosen = chosen[:num_chosen]
    if count < num_chosen:
        nth_largest(chosen, count)
        chosen = chosen[:count]
    sort_(chosen)
    return chosen[::-1]


@njit(cache=True, nogil=True)
def _fill_by_order(hits, offsets, high, wide, values):  # type: ignore[no-untyped-def]
    """Fill the values of users with pairs from their lists, best first."""
    for u in range(len(values)):
        if high[u] * wide[u] == 0:
            continue
        won, ahead, found = 0, 0, 0
        for place in range(offsets[u], offsets[u + 1]):
            if not hits[place]:
                ahead += 1
                continue
            won += max(wide[u] - ahead, 0)
            found += 1
            if found == high[u]:
                break
        values[u] = won / (high[u] * wide[u])
