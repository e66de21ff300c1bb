"""k-means: k-means++ on a sample, then passes over samples or mini-batches, then over all rows.

Up to 100 clusters: mini-batches after Sculley, WWW 2010: a center is the running mean of all rows
it was ever given, so it moves ever less; Zheltonozhskii et al., arXiv:2008.10312, stop there after
60 passes. Departure: few of them, then Lloyd's (1982), which have no such rate and lower the sum
further. More clusters: passes over samples that grow, each holding those before it (after Newling
and Fleuret, NeurIPS 2016), and exchanges of clusters (see `lloyd.py`).
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
from ensue.clustering.lloyd import lloyd, settle, to_sphere_
from ensue.clustering.seeding import seed_centers
from ensue.config import Config
from ensue.errors import DataError, UsageError

SEEDS_PER_CLUSTER = 3  # rows of the sample of k-means++, at least
FEW_CLUSTERS, RESTARTS_OF_FEW = 100, 10
BATCH_PASSES = 2
ROWS_PER_CLUSTER, GROWTH, PASSES_OF_SAMPLE = 25, 4, 2  # of samples that passes begin with
REASSIGNED = 0.01  # of the largest number of rows of a center; those with less are seeded anew


class KMeansConfig(Config):
    """How clusters are found.

    batch_size: rows of a mini-batch; None is 2048, or the power of two from the clusters on.
    batch_passes: passes in mini-batches; none where all rows fit into one. None is 2 for up to 100
        clusters; for more, passes over samples take their place, except from given centers.
    lloyd_passes: passes over all rows after that, at most.
    tolerance: stop when a pass lowers the sum of squared distances by less than this share.
    tries: of k-means++, of which the best on its sample is taken.
    restarts: runs of it all, of which the one with the least sum is kept; None is 10 for up to 100
        clusters, where a run often ends in a poor partition, and 1 for more, or from given centers.
    spherical: centers of length 1, for rows of length 1.
    """

    batch_size: int | None = Field(default=None, ge=1)
    batch_passes: int | None = Field(default=None, ge=0)
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
    is_many = num_clusters > FEW_CLUSTERS
    size = config.batch_size or max(2048, 2 ** math.ceil(math.log2(num_clusters)))
    start = centers
    if start is None:
        num_sampled = min(len(rows), max(size, SEEDS_PER_CLUSTER * num_clusters))
        sample = rows
        if num_sampled < len(rows):
            sample = rows[np.sort(rng.choice(len(rows), num_sampled, replace=False))]
        start = seed_centers(sample, num_clusters, tries=config.tries, rng=rng)
    start = np.array(start, dtype=np.float32)
    if is_many and config.batch_passes is None:
        if centers is None:
            start = _from_samples(start, rows, config.spherical, rng)
    elif size < len(rows):
        passes = BATCH_PASSES if config.batch_passes is None else config.batch_passes
        _mini_batches_(start, rows, size, passes, config.spherical, rng)
    return KMeans(
        *lloyd(
            rows,
            start,
            passes=config.lloyd_passes,
            tolerance=config.tolerance,
            is_many=is_many,
            spherical=config.spherical,
        )
    )


def _from_samples(
    centers: Vectors, rows: Vectors, spherical: bool, rng: np.random.Generator
) -> Vectors:
    """Return centers [K, D] after passes over growing parts of shuffled rows, up to a quarter."""
    order = rng.permutation(len(rows))
    size = ROWS_PER_CLUSTER * len(centers)
    while GROWTH * size <= len(rows):
        sample = rows[np.sort(order[:size])]
        centers = settle(sample, centers, passes=PASSES_OF_SAMPLE, spherical=spherical)
        size *= GROWTH
    return centers


def _mini_batches_(
    centers: Vectors,
    rows: Vectors,
    size: int,
    passes: int,
    spherical: bool,
    rng: np.random.Generator,
) -> None:
    """Move centers [K, D], batch by batch of shuffled rows."""
    held = np.zeros(len(centers))  # rows that a center is the mean of
    for _ in range(passes):
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
            if spherical:
                to_sphere_(centers)
        rare = np.flatnonzero(held < REASSIGNED * held.max())
        centers[rare] = rows[rng.choice(len(rows), len(rare), replace=False)]
        held[rare] = held[held >= REASSIGNED * held.max()].min()
