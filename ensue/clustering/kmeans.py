"""k-means: k-means++ on a sample, mini-batches, then passes over all rows (Lloyd).

Mini-batches after Sculley, WWW 2010: a center is the running mean of all rows it was ever given, so
it moves ever less; Zheltonozhskii et al., arXiv:2008.10312, stop there after 60 passes. Departure:
few passes of mini-batches, then Lloyd's (1982), which has no such rate and lowers the sum further.
Spherical k-means (Dhillon and Modha, 2001): rows and centers of length 1.
Shapes: n rows, K clusters, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ensue.clustering.assign import Vectors, assign, cluster_sums
from ensue.clustering.seeding import seed_centers
from ensue.config import Config
from ensue.errors import DataError, UsageError

SAMPLE_PER_CLUSTER = 3  # rows of the sample of k-means++, at least
FEW_CLUSTERS, RESTARTS_OF_FEW = 100, 10
REASSIGNED = 0.01  # of the largest number of rows of a center; those with less are seeded anew


class KMeansConfig(Config):
    """How clusters are found.

    batch_size: rows of a mini-batch; None is 2048, or the power of two from the clusters on.
    batch_passes: passes in mini-batches; none where all rows fit into one.
    lloyd_passes: passes over all rows after that, at most.
    tolerance: stop when a pass lowers the sum of squared distances by less than this share.
    tries: of k-means++, of which the best on its sample is taken.
    restarts: runs of it all, of which the one with the least sum is kept; None is 10 for up to 100
        clusters, where a run often ends in a poor partition, and 1 for more, or from given centers.
    spherical: centers of length 1, for rows of length 1.
    """

    batch_size: int | None = Field(default=None, ge=1)
    batch_passes: int = Field(default=2, ge=0)
    lloyd_passes: int = Field(default=25, ge=0)
    tolerance: float = Field(default=1e-4, ge=0)
    tries: int = Field(default=1, ge=1)
    restarts: int | None = Field(default=None, ge=1)
    spherical: bool = False


@dataclass(frozen=True)
class KMeans:
    """What k-means found.

    centers: [K, D]. labels: [n], the nearest center of each row. distances: [n], squared.
    history: the sum of squared distances before each pass over all rows, and at the end.
    """

    centers: Vectors
    labels: NDArray[np.int64]
    distances: NDArray[np.float64]
    history: list[float]

    @property
    def inertia(self) -> float:
        """The sum of squared distances to the nearest center."""
        return self.history[-1]


def kmeans(
    rows: Vectors,
    num_clusters: int,
    config: KMeansConfig | None = None,
    *,
    rng: np.random.Generator,
    centers: Vectors | None = None,
) -> KMeans:
    """Return clusters of rows [n, D].

    A cluster that loses all its rows goes on from the row that is farthest from its center.

    Args:
        centers: [K, D] to start from, in place of k-means++.

    Raises:
        UsageError: there are fewer rows than clusters, or the centers do not fit.
        DataError: a value is not finite.
    """
    config = config or KMeansConfig()
    if not 1 <= num_clusters <= len(rows):
        raise UsageError(
            f"k-means needs 1 to n clusters, n = {len(rows)} rows; got {num_clusters}."
        )
    if centers is not None and centers.shape != (num_clusters, rows.shape[1]):
        raise UsageError(
            f"centers to start from must be {[num_clusters, rows.shape[1]]}; got "
            f"{list(centers.shape)}."
        )
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise DataError("vectors to be clustered must be finite; some hold NaN or infinity.")
    best: KMeans | None = None
    is_redrawn = centers is None and num_clusters <= FEW_CLUSTERS
    for _ in range(config.restarts or (RESTARTS_OF_FEW if is_redrawn else 1)):
        found = _run(rows, num_clusters, config, rng, centers)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def _run(
    rows: Vectors,
    num_clusters: int,
    config: KMeansConfig,
    rng: np.random.Generator,
    centers: Vectors | None,
) -> KMeans:
    size = config.batch_size or max(2048, 2 ** math.ceil(math.log2(num_clusters)))
    if centers is None:
        num_sampled = min(len(rows), max(size, SAMPLE_PER_CLUSTER * num_clusters))
        sample = rows
        if num_sampled < len(rows):
            sample = rows[np.sort(rng.choice(len(rows), num_sampled, replace=False))]
        centers = seed_centers(sample, num_clusters, tries=config.tries, rng=rng)
    centers = np.array(centers, dtype=np.float32)
    if size < len(rows):
        _mini_batches_(centers, rows, size, config, rng)
    return _lloyd(rows, centers, config)


def _mini_batches_(
    centers: Vectors, rows: Vectors, size: int, config: KMeansConfig, rng: np.random.Generator
) -> None:
    """Move centers [K, D], batch by batch of shuffled rows."""
    held = np.zeros(len(centers))  # rows that a center is the mean of
    for _ in range(config.batch_passes):
        order = rng.permutation(len(rows))
        for first in range(0, len(rows), size):
            batch = rows[np.sort(order[first : first + size])]
            labels, _ = assign(batch, centers)
            sums, counts = cluster_sums(batch, labels, len(centers))
            held += counts
            moved = counts > 0
            rate = (1 / held[moved])[:, None]
            steps = (sums[moved] - counts[moved, None] * centers[moved]) * rate
            centers[moved] += steps.astype(np.float32)
            _to_sphere_(centers, config)
        rare = np.flatnonzero(held < REASSIGNED * held.max())
        centers[rare] = rows[rng.choice(len(rows), len(rare), replace=False)]
        held[rare] = held[held >= REASSIGNED * held.max()].min()


def _lloyd(rows: Vectors, centers: Vectors, config: KMeansConfig) -> KMeans:
    labels, distances = assign(rows, centers)
    history = [float(distances.sum())]
    for _ in range(config.lloyd_passes):
        moved = _means(rows, labels, distances, centers)
        _to_sphere_(moved, config)
        before = labels
        labels, distances = assign(rows, moved)
        centers = moved
        history.append(float(distances.sum()))
        if history[-2] - history[-1] <= config.tolerance * history[-2] or (
            np.array_equal(labels, before)
        ):
            break
    return KMeans(centers, labels, distances, history)


def _means(
    rows: Vectors, labels: NDArray[np.int64], distances: NDArray[np.float64], centers: Vectors
) -> Vectors:
    """Return the mean of each cluster; that of an empty one is the farthest row not yet taken."""
    sums, counts = cluster_sums(rows, labels, len(centers))
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        farthest = farthest[distances[farthest] > 0]  # all others lie on a center already
        means[empty] = centers[empty]
        means[empty[: len(farthest)]] = rows[farthest]
    return means


def _to_sphere_(centers: Vectors, config: KMeansConfig) -> None:
    """Give centers length 1 where that is asked for; one of zeros stays."""
    if config.spherical:
        lengths = np.linalg.norm(centers, axis=1, keepdims=True)
        centers /= np.where(lengths > 0, lengths, 1)
