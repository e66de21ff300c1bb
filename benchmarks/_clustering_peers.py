"""k-means of `benchmarks.clustering` by another library, in a process of its own.

PYTHON benchmarks/_clustering_peers.py scikit-learn|faiss ROWS.npy K CENTERS.npy SEED

The number of threads is that of OMP_NUM_THREADS. The last line that is printed holds the seconds.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> int:
    """Write the centers, and print how long they took."""
    name, rows_file, num_clusters, centers_file, seed = sys.argv[1:]
    rows = np.load(rows_file)
    find = {"scikit-learn": by_scikit_learn, "faiss": by_faiss}[name]
    find(rows[:2000], 10, 0)  # the first call loads and starts threads
    started = time.perf_counter()
    centers = find(rows, int(num_clusters), int(seed))
    seconds = time.perf_counter() - started
    np.save(centers_file, centers)
    print(seconds)
    return 0


def by_scikit_learn(rows: NDArray[np.float32], num_clusters: int, seed: int) -> Any:
    """Return the centers of MiniBatchKMeans with its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(num_clusters, random_state=seed).fit(rows).cluster_centers_


def by_faiss(rows: NDArray[np.float32], num_clusters: int, seed: int) -> Any:
    """Return the centers of 25 iterations from random rows, the default of Kmeans."""
    import faiss

    found = faiss.Kmeans(rows.shape[1], num_clusters, seed=seed)
    found.train(rows)
    return found.centroids


if __name__ == "__main__":
    sys.exit(main())
