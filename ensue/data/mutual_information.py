"""How much the features of items say about each other: the table that masks are made from.

Yao et al., CIKM 2021, arXiv:2007.12865, Eq. 4, in natural logarithms:

    MI(f, g) = sum over values a of f, b of g: P(a, b) log(P(a, b) / (P(a) P(b)))

Departures: every item counts once, so a value of a bag of n has weight 1/n; a missing value, or an
empty bag, is a value of its own; numbers fall into 16 classes of equal size, and vectors into 16
by the signs of their first four principal components. Information grows with the entropy of
a feature, and with the number of its values in a finite sample; two corrections are offered.
Shapes: F features, N items, S values of all items, V values of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ensue.data.cooccurrence import transpose
from ensue.data.feature_schema import count_rows
from ensue.data.features import Bags, FeatureColumn, FeatureTable

InformationKind = Literal["raw", "normalized", "corrected"]

NUM_CLASSES = 16  # of a number
NUM_COMPONENTS = 4  # of a vector


@dataclass(frozen=True)
class Discrete:
    """A feature of items as values: item n has values[offsets[n]:offsets[n + 1]], at least one.

    values: [S] int32 in 0..num_values - 1; offsets: [N + 1].
    """

    name: str
    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    num_values: int

    @classmethod
    def single(cls, name: str, values: NDArray[Any], num_values: int) -> Discrete:
        """Return a feature with one value [N] for each item."""
        return cls(name, values.astype(np.int32), np.arange(len(values) + 1), num_values)


@dataclass(frozen=True)
class MutualInformation:
    """Information between features, in nats.

    raw: [F, F]; entropies: [F]; null: [F, F], the mean of `raw` where the items of one of the two
        features are shuffled, which is what chance alone gives.
    """

    names: tuple[str, ...]
    raw: NDArray[np.float64]
    entropies: NDArray[np.float64]
    null: NDArray[np.float64]

    def table(self, kind: InformationKind) -> NDArray[np.float64]:
        """Return how related two features are [F, F].

        kind: "raw"; "normalized" by the smaller of the two entropies, in [0, 1], 0 where that is 0;
            "corrected", the excess over chance, normalized likewise.
        """
        if kind == "raw":
            return self.raw
        scale = np.minimum(self.entropies[:, None], self.entropies[None, :])
        excess = self.raw if kind == "normalized" else np.maximum(self.raw - self.null, 0.0)
        return np.divide(excess, scale, out=np.zeros_like(excess), where=scale > 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Return the tables, ready for JSON."""
        return {
            "features": list(self.names),
            "entropies": self.entropies.tolist(),
            **{kind: self.table(kind).tolist() for kind in ("raw", "normalized", "corrected")},
        }


def discretize(table: FeatureTable, *, ids: str | None = None) -> list[Discrete]:
    """Return the features of items 1..N as values.

    Args:
        ids: name of a first feature that is the item itself; None leaves it out.
    """
    features = [
        _discretize(column, values)
        for column, values in zip(table.columns, table.values, strict=True)
    ]
    if ids is not None:
        num_items = count_rows(table)
        features.insert(0, Discrete.single(ids, np.arange(num_items), num_items))
    return features


def mutual_information(
    features: list[Discrete], *, num_shuffles: int = 1, seed: int = 0
) -> MutualInformation:
    """Return the information between all pairs of features of the same N items.

    The time is that of all pairs of values that items have, the memory one row of counts.

    Args:
        num_shuffles: that `null` is a mean of; 0 makes it zero.
    """
    count = len(features)
    num_items = len(features[0].offsets) - 1
    owners = [transpose(f.offsets, f.values, f.num_values) for f in features]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(num_items) for _ in range(num_shuffles)]
    raw, null = np.zeros((count, count)), np.zeros((count, count))
    marginals = [_marginal(f.values, f.offsets, f.num_values) for f in features]
    for i in range(count):
        for j in range(i, count):
            shuffled = [_information(features, owners, marginals, i, j, order) for order in orders]
            raw[i, j] = raw[j, i] = _information(
                features, owners, marginals, i, j, np.arange(num_items)
            )
            null[i, j] = null[j, i] = np.mean(shuffled) if shuffled else 0.0
    entropies = np.array([-(p[p > 0] * np.log(p[p > 0])).sum() for p in marginals])
    return MutualInformation(tuple(f.name for f in features), raw, entropies, null)


def _information(
    features: list[Discrete],
    owners: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    marginals: list[NDArray[np.float64]],
    i: int,
    j: int,
    order: NDArray[np.int64],
) -> float:
    """Return the information between features i and j, where item n has value j of order[n]."""
    one, other = features[i], features[j]
    total = _sum_information(
        *owners[i],
        one.offsets,
        other.values,
        other.offsets,
        marginals[i],
        marginals[j],
        order,
    )
    return max(float(total), 0.0)


def _discretize(column: FeatureColumn, values: Any) -> Discrete:
    """Return the values of a column for items 1..N; 0 is missing."""
    if isinstance(values, Bags):
        lengths = np.diff(values.offsets)[1:]
        filled = np.maximum(lengths, 1)
        offsets = np.concatenate([[0], np.cumsum(filled)]).astype(np.int64)
        flat = np.zeros(offsets[-1], dtype=np.int32)
        is_value = np.repeat(lengths > 0, filled)
        flat[is_value] = values.values[values.offsets[1] :]
        return Discrete(column.name, flat, offsets, column.size + 1)
    if column.kind == "categorical":
        return Discrete.single(column.name, values[1:], column.size + 1)
    if column.kind == "numeric":
        return Discrete.single(column.name, _classes(values[1:]), NUM_CLASSES + 1)
    return Discrete.single(column.name, _signs(values[1:]), (1 << NUM_COMPONENTS) + 1)


def _classes(numbers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class [N] of each number, 1..NUM_CLASSES of about equal size; 0 is missing."""
    is_known = np.isfinite(numbers)
    classes = np.zeros(len(numbers), dtype=np.int64)
    if is_known.any():
        known = numbers[is_known]
        bounds = np.unique(np.quantile(known, np.linspace(0, 1, NUM_CLASSES + 1)[1:-1]))
        classes[is_known] = 1 + np.searchsorted(bounds, known, side="left")
    return classes


def _signs(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return a class [N] made of the signs of the first principal components; 0 is missing."""
    is_known = np.isfinite(vectors).all(axis=1)
    classes = np.zeros(len(vectors), dtype=np.int64)
    if is_known.any():
        centered = vectors[is_known].astype(np.float64)
        centered = centered - centered.mean(axis=0)
        _, axes = np.linalg.eigh(centered.T @ centered)
        parts = centered @ axes[:, ::-1][:, :NUM_COMPONENTS]
        classes[is_known] = 1 + (parts > 0) @ (1 << np.arange(parts.shape[1]))
    return classes


@njit(cache=True)
def _marginal(values: Any, offsets: Any, num_values: int) -> Any:
    """Return the share [V] of each value, every item counted once."""
    shares = np.zeros(num_values)
    num_items = len(offsets) - 1
    for item in range(num_items):
        weight = 1.0 / (num_items * (offsets[item + 1] - offsets[item]))
        for place in range(offsets[item], offsets[item + 1]):
            shares[values[place]] += weight
    return shares


@njit(cache=True)
def _sum_information(
    starts: Any,
    items: Any,
    offsets: Any,
    other_values: Any,
    other_offsets: Any,
    shares: Any,
    other_shares: Any,
    order: Any,
) -> float:
    """Return the sum over pairs of values, one value of the first feature after the other."""
    num_items = len(offsets) - 1
    joint = np.zeros(len(other_shares))
    touched = np.empty(len(other_shares), np.int64)
    total = 0.0
    for value in range(len(shares)):
        n = 0
        for place in range(starts[value], starts[value + 1]):
            item = items[place]
            other = order[item]
            first, last = other_offsets[other], other_offsets[other + 1]
            weight = 1.0 / (num_items * (offsets[item + 1] - offsets[item]) * (last - first))
            for position in range(first, last):
                if joint[other_values[position]] == 0:
                    touched[n] = other_values[position]
                    n += 1
                joint[other_values[position]] += weight
        for index in range(n):
            own = joint[touched[index]]
            total += own * np.log(own / (shares[value] * other_shares[touched[index]]))
            joint[touched[index]] = 0
    return total
