"""Which paths each item lies on: coordinate descent on a penalized likelihood.

Gao et al., CIKM 2021, arXiv:2007.07203, Algorithm 2. The objective of an assignment is

    sum over items v of N_v log(sum of its paths' scores)  -  alpha * sum over paths f(their items)

with f(t) = t ** power / power, N_v the occurrences of v, and scores as in `path_scores`. The J
paths of an item are filled one after the other, each by the largest gain. Items are visited in
random order, ties are broken by the smallest code. A sum below 1e-30 counts as 1e-30, so an item
without scores costs a finite amount.
"published" is the algorithm as printed: path sizes start at 0 in the first sweep, and an item's old
paths count against it until their slot is filled anew. "safe" starts at the sizes of the present
assignment, takes all J paths of an item away before it fills them, and keeps the old set where the
new one is worse: no step lowers the objective (the greedy filling of several slots is not exact).
Shapes: I items, S candidates of an item, J paths of an item, C path codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEAST_SUM = 1e-30
MAX_TABLE = 1 << 27  # path codes that are counted in a plain table
ALPHA_STEPS = 12
LOG10_ALPHA = (-12.0, 6.0)
LARGER_SHARE = 0.001  # of the paths, that an automatic alpha leaves larger than it should

Method = Literal["safe", "published"]


@dataclass(frozen=True)
class Candidates:
    """What may be assigned: items 1..I are rows 0..I-1.

    codes: [I, S] int64; -1 is none. Distinct in each row.
    scores: [I, S] float32.
    counts: [I] float64, N_v.
    """

    codes: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: NDArray[np.float64]


@dataclass(frozen=True)
class Penalty:
    """alpha * sum over paths t ** power / power."""

    alpha: float
    power: int = 4

    def value(self, sizes: NDArray[np.integer]) -> float:
        """Return the penalty of paths with these numbers of items.

        >>> Penalty(2.0).value(np.array([1, 2]))
        8.5
        """
        return float(self.alpha * (sizes.astype(np.float64) ** self.power).sum() / self.power)

    def steps(self, count: int) -> NDArray[np.float64]:
        """Return what the next item costs on a path with 0, 1, ..., count - 1 items.

        >>> Penalty(1.0).steps(4).tolist()
        [0.25, 3.75, 16.25, 43.75]
        """
        values = np.arange(count + 1, dtype=np.float64) ** self.power / self.power
        return self.alpha * np.diff(values)


def assign_paths(
    candidates: Candidates,
    paths: NDArray[np.int64],
    penalty: Penalty,
    *,
    sweeps: int,
    rng: np.random.Generator,
    method: Method = "safe",
) -> NDArray[np.int64]:
    """Return new paths [I, J], ascending in each row, from the present ones [I, J].

    An item with fewer than J candidates keeps some of its paths for the rest.
    """
    codes, kept, names = _compact(candidates.codes, paths)
    num_rows = max(codes.max(initial=0), kept.max(initial=0)) + 1
    sizes = np.zeros(num_rows, dtype=np.int32)
    if method == "safe":
        _count(kept, sizes)
    steps = penalty.steps(len(paths) + 1)
    given = codes, candidates.scores, candidates.counts, steps
    for sweep in range(sweeps):
        is_counted = method == "safe" or sweep > 0
        _sweep(rng.permutation(len(paths)), *given, method == "safe", is_counted, kept, sizes)
    return np.sort(kept if names is None else names[kept], axis=1)


def objective(candidates: Candidates, paths: NDArray[np.int64], penalty: Penalty) -> float:
    """Return the objective of an assignment [I, J]."""
    likelihood = _log_sums(candidates.codes, candidates.scores, candidates.counts, paths)
    return float(likelihood) - penalty.value(path_sizes(paths))


def path_sizes(paths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of items of each path that has any, in the order of codes."""
    return np.unique(paths, return_counts=True)[1]


def find_alpha(
    candidates: Candidates,
    paths: NDArray[np.int64],
    *,
    path_size: int,
    power: int,
    seed: int,
    method: Method = "safe",
) -> float:
    """Return the smallest alpha, of a fine grid, with which paths hold `path_size` items at most.

    One path in a thousand may hold more. The sizes are those of an assignment in one sweep.
    """
    low, high = LOG10_ALPHA
    for _ in range(ALPHA_STEPS):
        middle = (low + high) / 2
        rng = np.random.default_rng(seed)
        penalty = Penalty(10.0**middle, power)
        tried = assign_paths(candidates, paths, penalty, sweeps=1, rng=rng, method=method)
        if (path_sizes(tried) > path_size).mean() > LARGER_SHARE:
            low = middle
        else:
            high = middle
    return float(10.0**high)


def _compact(
    codes: NDArray[np.int64], paths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Return codes and a copy of paths as row numbers of a table, and the code of each row.

    Where all codes are small they are their own row numbers, and None is returned.
    """
    if max(codes.max(initial=0), paths.max(initial=0)) < MAX_TABLE:
        return codes, paths.copy(), None
    names = np.unique(np.concatenate([codes.ravel(), paths.ravel()]))
    names = names[names >= 0]
    rows = np.where(codes < 0, -1, np.searchsorted(names, codes))
    return rows, np.searchsorted(names, paths), names


@njit(cache=True, nogil=True)
def _count(paths: Any, sizes: Any) -> None:
    for row in range(len(paths)):
        for slot in range(paths.shape[1]):
            sizes[paths[row, slot]] += 1


@njit(cache=True, nogil=True)
def _sweep(
    order: Any,
    codes: Any,
    scores: Any,
    counts: Any,
    steps: Any,
    is_safe: bool,
    is_counted: bool,
    paths: Any,
    sizes: Any,
) -> None:
    """Visit all items once and change paths [I, J] and sizes [C].

    is_counted: whether the present paths are in the sizes.
    """
    num_slots = paths.shape[1]
    old, new = np.empty(num_slots, np.int64), np.empty(num_slots, np.int64)
    costs, weights = np.empty(codes.shape[1]), np.empty(codes.shape[1])
    for row in order:
        for slot in range(num_slots):
            old[slot] = paths[row, slot]
        if is_safe:
            for path in old:
                sizes[path] -= 1
        least = _weigh(codes[row], counts[row], steps, sizes, costs, weights)
        total, cost = 0.0, 0.0
        for slot in range(num_slots):
            if is_counted and not is_safe:
                sizes[old[slot]] -= 1
                cost_now = steps[sizes[old[slot]]]
                _cheapen(old[slot], cost_now, least, codes[row], counts[row], costs, weights)
            place = _best(codes[row], scores[row], counts[row], total, costs, weights, new[:slot])
            if place >= 0:
                new[slot] = codes[row, place]
                total += scores[row, place]
            else:
                new[slot] = _first_free(old, new[:slot])
            cost += steps[sizes[new[slot]]]
            if not is_safe:
                sizes[new[slot]] += 1
        if is_safe:
            value = counts[row] * np.log(max(total, LEAST_SUM)) - cost
            if value < _value(codes[row], scores[row], counts[row], steps, sizes, old):
                for slot in range(num_slots):
                    new[slot] = old[slot]
            for path in new:
                sizes[path] += 1
        for slot in range(num_slots):
            paths[row, slot] = new[slot]


@njit(cache=True, nogil=True)
def _weigh(codes: Any, count: float, steps: Any, sizes: Any, costs: Any, weights: Any) -> float:
    """Set what candidates cost, and exp(-(cost - least cost) / count); return the least cost.

    The largest gain N log(sum + score) - cost is the largest (sum + score) exp(-cost / N): one
    exponential for all slots in place of a logarithm for each.
    """
    least = np.inf
    for place in range(len(codes)):
        costs[place] = steps[sizes[codes[place]]] if codes[place] >= 0 else np.inf
        least = min(least, costs[place])
    for place in range(len(codes)):
        is_weighed = codes[place] >= 0 and count > 0
        weights[place] = np.exp((least - costs[place]) / count) if is_weighed else 0.0
    return least


@njit(cache=True, nogil=True)
def _cheapen(
    path: int, cost: float, least: float, codes: Any, count: float, costs: Any, weights: Any
) -> None:
    """Set the cost and the weight of a path that an item has left, where it is a candidate."""
    for place in range(len(codes)):
        if codes[place] == path:
            costs[place] = cost
            if count > 0:
                weights[place] = np.exp((least - cost) / count)


@njit(cache=True, nogil=True)
def _best(
    codes: Any, scores: Any, count: float, total: float, costs: Any, weights: Any, chosen: Any
) -> int:
    """Return the place of the candidate with the largest gain; -1 where none is left."""
    best, best_value = -1, 0.0
    for place in range(len(codes)):
        value = max(total + scores[place], LEAST_SUM) * weights[place]
        if value >= best_value and value > 0:
            is_first = value > best_value or codes[place] < codes[best]
            if is_first and not _is_in(codes[place], chosen):
                best, best_value = place, value
    if best >= 0 and best_value < np.inf:
        return best
    # All that are left have a weight too small for a number, or nothing to gain.
    best, best_gain = -1, -np.inf
    for place in range(len(codes)):
        if codes[place] < 0 or _is_in(codes[place], chosen):
            continue
        gain = count * np.log(max(total + scores[place], LEAST_SUM)) - costs[place]
        if best < 0 or gain > best_gain or (gain == best_gain and codes[place] < codes[best]):
            best, best_gain = place, gain
    return best


@njit(cache=True, nogil=True)
def _is_in(path: int, paths: Any) -> bool:
    found = False
    for other in paths:
        found |= other == path
    return found


@njit(cache=True, nogil=True)
def _first_free(old: Any, chosen: Any) -> int:
    """Return the first old path that was not chosen; J distinct old paths always have one."""
    for path in old:
        if not _is_in(path, chosen):
            return path
    return -1


@njit(cache=True, nogil=True)
def _value(codes: Any, scores: Any, count: float, steps: Any, sizes: Any, paths: Any) -> float:
    """Return what an item on `paths` adds to the objective, given the sizes without it."""
    total, cost = 0.0, 0.0
    for path in paths:
        cost += steps[sizes[path]]
    for place in range(len(codes)):
        if _is_in(codes[place], paths):
            total += scores[place]
    return count * np.log(max(total, LEAST_SUM)) - cost


@njit(cache=True, nogil=True)
def _log_sums(codes: Any, scores: Any, counts: Any, paths: Any) -> float:
    """Return the sum over items of N_v log(sum of their paths' scores)."""
    total = 0.0
    for row in range(len(paths)):
        own = 0.0
        for path in paths[row]:
            for place in range(codes.shape[1]):
                if codes[row, place] == path:
                    own += scores[row, place]
        total += counts[row] * np.log(max(own, LEAST_SUM))
    return total
