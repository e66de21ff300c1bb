"""How well clusters agree with classes: everything is read from the table of their counts.

Accuracy under a map from clusters to classes, and its maps, as in Zheltonozhskii et al., NeurIPS
2020 workshop, arXiv:2008.10312; ARI after Hubert and Arabie, 1985; AMI after Vinh et al., JMLR
2010; FMI after Fowlkes and Mallows, 1983. Departure: the expected mutual information needs no
logarithms of factorials (see `expected_mutual_information`), and is computed once for each distinct
pair of marginals.
Shapes: n examples, K clusters, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from ensue.evaluation.assignment import best_assignment

MapName = Literal["hungarian", "majority"]
MAPS: tuple[MapName, ...] = ("hungarian", "majority")
SCORES = ("ari", "ami", "nmi", "v_measure", "fmi")
NEGLIGIBLE = 1e-18  # of the largest term of a distribution

_compile: Any = numba.njit(cache=True, nogil=True)


def contingency(
    clusters: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    num_clusters: int | None = None,
    num_classes: int | None = None,
) -> NDArray[np.int64]:
    """Return how many examples are in each cluster and class [K, L].

    Args:
        clusters, labels: [n], from 0.
        num_clusters, num_classes: K and L; by default one more than the largest number.

    Raises:
        ValueError: the two differ in length, or a number is out of range.

    >>> contingency(np.array([0, 0, 1]), np.array([1, 1, 0])).tolist()
    [[0, 2], [1, 0]]
    """
    if clusters.shape != labels.shape or clusters.ndim != 1:
        raise ValueError(
            f"contingency needs clusters [n] and labels [n]; got {clusters.shape} and "
            f"{labels.shape}"
        )
    sizes = [
        int(numbers.max(initial=-1)) + 1 if size is None else size
        for numbers, size in ((clusters, num_clusters), (labels, num_classes))
    ]
    counts = np.zeros(sizes, dtype=np.int64)
    pairs = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (clusters, labels))
    place = _count(*pairs, counts)
    if place >= 0:
        raise ValueError(
            f"contingency needs clusters in 0..{sizes[0] - 1} and labels in 0..{sizes[1] - 1}; "
            f"got {clusters[place]} and {labels[place]}"
        )
    return counts


def fit_map(counts: NDArray[np.int64], kind: MapName) -> NDArray[np.int64]:
    """Return the class that each cluster stands for [K], fitted on counts [K, L].

    "majority" takes the most frequent class of the cluster. "hungarian" gives the classes to
    distinct clusters, so that as many examples as possible are right, and a cluster that is left
    over (K > L) its most frequent class; this is not always better than the majority: see the
    example. A cluster without examples stands for the most frequent class of all.

    >>> table = np.array([[5, 0], [4, 3], [0, 2]])
    >>> fit_map(table, "hungarian").tolist(), fit_map(table, "majority").tolist()
    ([0, 1, 1], [0, 0, 1])
    """
    classes = counts.argmax(axis=1)
    classes[counts.sum(axis=1) == 0] = counts.sum(axis=0).argmax()
    if kind == "hungarian":
        matched = best_assignment(counts)
        classes = np.where(matched >= 0, matched, classes)
    return classes


def accuracy(counts: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """Return the share of the examples counted [K, L] whose cluster stands for their class."""
    total = int(counts.sum())
    return float(counts[np.arange(len(counts)), classes].sum() / total) if total else math.nan


def agreement(
    counts: NDArray[np.int64], *, expected_information: float | None = None
) -> dict[str, float]:
    """Return ARI, AMI, NMI, V-measure and FMI of counts [K, L] by name, as scikit-learn has them.

    AMI and NMI are over the arithmetic mean of both entropies, so NMI equals the V-measure. Of
    partitions that are one and the same all are 1, but FMI is 0 where no two examples share a
    group.

    Args:
        expected_information: of the marginals, where it is known; see
            `expected_mutual_information`.
    """
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    rows, columns = rows[rows > 0], columns[columns > 0]
    total = int(rows.sum())
    if total == 0:
        return dict.fromkeys(SCORES, math.nan)
    filled = counts[counts > 0]
    together = _num_pairs(filled)
    in_rows, in_columns, pairs = _num_pairs(rows), _num_pairs(columns), math.comb(total, 2)
    is_identical = len(filled) == len(rows) == len(columns)
    # Multiplied out, so that the numbers of pairs, which may be near 1e12, are subtracted exactly.
    above = together * pairs - in_rows * in_columns
    span = (in_rows + in_columns) * pairs - 2 * in_rows * in_columns
    ari = 1.0 if is_identical else 2 * above / span
    fmi = math.sqrt(together / in_rows) * math.sqrt(together / in_columns) if together else 0.0
    information = mutual_information(counts)
    of_rows, of_columns = _entropy(rows), _entropy(columns)
    mean = (of_rows + of_columns) / 2
    if is_identical:
        return {"ari": 1.0, "ami": 1.0, "nmi": 1.0, "v_measure": 1.0, "fmi": fmi}
    if expected_information is None:
        expected_information = expected_mutual_information(rows, columns)
    above_chance, room = information - expected_information, mean - expected_information
    nmi = information / mean
    return {
        "ari": float(ari),
        "ami": above_chance / room if room > 0 else 0.0,
        "nmi": nmi,
        "v_measure": nmi,
        "fmi": fmi,
    }


def mutual_information(counts: NDArray[np.int64]) -> float:
    """Return the mutual information of clusters and classes in nats; counts [K, L]."""
    row, column = np.nonzero(counts)
    filled = counts[row, column].astype(np.float64)
    total = filled.sum()
    if total == 0:
        return 0.0
    expected = counts.sum(axis=1, dtype=np.float64)[row] * counts.sum(axis=0)[column] / total
    return max(float((filled * np.log(filled / expected)).sum() / total), 0.0)


def expected_mutual_information(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Return the mean of the mutual information over all tables with these sums [K] and [L].

    A cell is hypergeometric. Its probabilities are taken from their ratios to that of the mode and
    divided by their sum: logarithms of factorials would cost digits where n is large. Cells with
    the same marginals have the same mean.

    >>> round(expected_mutual_information(np.array([4, 4, 4]), np.array([4, 4, 4])), 4)
    0.2334
    """
    (row_sums, row_times), (column_sums, column_times) = (
        np.unique(sums[sums > 0], return_counts=True) for sums in (rows, columns)
    )
    if not len(row_sums):
        return 0.0
    total = int(rows.sum())
    means = _mean_terms(row_sums.astype(np.int64), column_sums.astype(np.int64), total)
    return float(row_times @ means @ column_times)


def score_parts(
    clusters: Mapping[str, NDArray[np.int64]],
    labels: Mapping[str, NDArray[np.int64]],
    *,
    num_clusters: int,
    num_classes: int,
    expected_information: Mapping[str, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the figures of each part: its accuracies by "MAP, fitted on PART", and agreement.

    A map is fitted on the training part, and on the scored part itself. The latter has seen the
    labels it is scored on, and rises with the number of clusters even where they are random.

    Args:
        clusters, labels: by part, [n] each; "train" is one of the parts. A label of -1 is missing,
            and its example is left out.
        expected_information: of each part, where it is known.
    """
    counts = {}
    for part, own in clusters.items():
        is_known = labels[part] >= 0
        counts[part] = contingency(
            own[is_known],
            labels[part][is_known],
            num_clusters=num_clusters,
            num_classes=num_classes,
        )
    maps = {(kind, part): fit_map(table, kind) for part, table in counts.items() for kind in MAPS}
    found = {}
    for part, table in counts.items():
        figures = {
            f"{kind}, fitted on {source}": accuracy(table, maps[kind, source])
            for kind in MAPS
            for source in dict.fromkeys(["train", part])
        }
        expected = expected_information[part] if expected_information else None
        found[part] = {**figures, **agreement(table, expected_information=expected)}
    return found


def chance_scores(
    clusters: Mapping[str, NDArray[np.int64]],
    labels: Mapping[str, NDArray[np.int64]],
    *,
    num_clusters: int,
    num_classes: int,
    num_permutations: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, float]]:
    """Return the mean of each figure of `score_parts` with the clusters of a part in random order.

    Sizes of clusters and classes stay as they are: it is what the figure is by chance.
    """
    known = {part: own[labels[part] >= 0] for part, own in clusters.items()}
    classes = {part: own[own >= 0] for part, own in labels.items()}
    expected = {
        part: expected_mutual_information(
            np.bincount(known[part], minlength=num_clusters),
            np.bincount(classes[part], minlength=num_classes),
        )
        for part in clusters
    }
    found = [
        score_parts(
            {part: rng.permutation(own) for part, own in known.items()},
            classes,
            num_clusters=num_clusters,
            num_classes=num_classes,
            expected_information=expected,
        )
        for _ in range(num_permutations)
    ]
    return {
        part: {name: float(np.mean([one[part][name] for one in found])) for name in figures}
        for part, figures in found[0].items()
    }


def _num_pairs(sizes: NDArray[np.int64]) -> int:
    """Return the number of pairs of examples within the groups of these sizes."""
    sizes = sizes.astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


def _entropy(sizes: NDArray[np.int64]) -> float:
    """Return the entropy in nats of groups of these sizes, all above 0."""
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum())


@_compile
def _count(clusters, labels, counts):  # type: ignore[no-untyped-def]
    """Count pairs into counts [K, L], and return the place of one that does not fit, or -1."""
    num_clusters, num_classes = np.uint64(counts.shape[0]), np.uint64(counts.shape[1])
    cells = counts.ravel()
    for i in range(len(clusters)):
        k, label = np.uint64(clusters[i]), np.uint64(labels[i])  # a negative number is a large one
        if k >= num_clusters or label >= num_classes:
            return i
        cells[k * num_classes + label] += 1
    return -1


@_compile
def _mean_terms(row_sums, column_sums, total):  # type: ignore[no-untyped-def]
    """Return for each pair of marginals the mean of c / n log(n c / (a b)), c the cell's count."""
    means = np.zeros((len(row_sums), len(column_sums)))
    for i in range(len(row_sums)):
        for j in range(len(column_sums)):
            a, b = row_sums[i], column_sums[j]
            low, high = max(a + b - total, 0), min(a, b)
            mode = min(max((a + 1) * (b + 1) // (total + 2), low), high)
            scale = math.log(total) - math.log(a) - math.log(b)
            weight, terms = 1.0, 0.0
            if mode > 0:
                terms = mode * (math.log(mode) + scale)
            chance, count = 1.0, mode
            while count < high and chance > NEGLIGIBLE:
                chance *= (a - count) / (count + 1) * ((b - count) / (total - a - b + count + 1))
                count += 1
                weight += chance
                terms += chance * count * (math.log(count) + scale)
            chance, count = 1.0, mode
            while count > low and chance > NEGLIGIBLE:
                chance *= count / (a - count + 1) * ((total - a - b + count) / (b - count + 1))
                count -= 1
                weight += chance
                if count > 0:
                    terms += chance * count * (math.log(count) + scale)
            means[i, j] = terms / weight / total
    return means
