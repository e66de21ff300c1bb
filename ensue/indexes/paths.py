"""The index of Deep Retrieval: a beam search over paths, then the softmax over their items.

Gao et al., CIKM 2021, arXiv:2007.07203, Algorithm 1 and section 3.4. Departure: prefixes without
items below them are never taken, so every path that is found counts.
A beam as wide as there are paths with items answers as the exact index does. Shapes: B queries, E
their width, I items, k answers.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ensue.config import Config
from ensue.errors import UsageError
from ensue.indexes.path_kernels import search_rows
from ensue.indexes.path_tree import PathNetwork, PathTree
from ensue.indexes.vectors import check_knob, item_vectors, prepare_queries
from ensue.models.retrieval.deep_retrieval import DeepRetrieval

MAX_STAMP = np.iinfo(np.int32).max


class PathsConfig(Config):
    """Settings of a path index; all else is learned.

    beam: paths whose items are scored, and prefixes kept on the way; more find more, and take
        longer. None is the beam of the model's settings.
    """

    beam: int | None = Field(default=None, ge=1)


class PathIndex:
    """An index over items 1..I.

    beam: as in the config; may be changed at any time.

    Args:
        rows: [I, E] float32, the vectors that queries are matched with.
    """

    def __init__(
        self, network: PathNetwork, tree: PathTree, rows: NDArray[np.float32], *, beam: int
    ) -> None:
        self.network, self.tree, self.rows = network, tree, rows
        self.beam = beam
        self.num_items = len(rows)
        self._marks = threading.local()

    @classmethod
    def build(cls, model: object, config: PathsConfig) -> PathIndex:
        """Return the index of a trained model.

        Raises:
            UsageError: the model has no paths.
        """
        if not isinstance(model, DeepRetrieval):
            raise UsageError(
                "an index of kind paths needs a model that learns paths (deep_retrieval); "
                f"{type(model).__name__} does not. Choose exact, hnsw or ivf."
            )
        layers = model.path_layers
        paths = model.paths[1:].cpu().numpy()
        return cls(
            PathNetwork.from_layers(layers),
            PathTree.from_paths(paths, depth=layers.depth, width=layers.width),
            item_vectors(model).rows,
            beam=config.beam or model.config.beam,
        )

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids [B, k] and the scores [B, k] of the best items found of queries [B, E].

        Best first; equal scores by ascending id; 0 and -inf where fewer than k items are found.

        Raises:
            UsageError: queries have another width, or are not finite; k or the beam is below 1.
        """
        ids, scores, _ = self.search_counted(queries, k)
        return ids, scores

    def search_counted(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Return what `search` does, and how many items were scored [B]."""
        queries = prepare_queries(queries, k, dim=self.rows.shape[1], has_bias=False)
        check_knob("beam", self.beam)
        ids = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        counts = np.zeros(len(queries), dtype=np.int64)
        num_parts = min(torch.get_num_threads(), len(queries))
        if num_parts <= 1:
            self._search(queries, ids, scores, counts)
        else:
            parts = [np.array_split(array, num_parts) for array in (queries, ids, scores, counts)]
            with ThreadPoolExecutor(num_parts) as pool:
                list(pool.map(self._search, *parts))
        order = np.lexsort((ids, -scores))
        return (
            np.take_along_axis(ids, order, axis=1),
            np.take_along_axis(scores, order, axis=1),
            counts,
        )

    def _search(
        self,
        queries: NDArray[np.float32],
        ids: NDArray[np.int64],
        scores: NDArray[np.float32],
        counts: NDArray[np.int64],
    ) -> None:
        """Fill the rows of ids, scores and counts."""
        own = self._marks  # of each thread
        stamp = getattr(own, "stamp", None)
        if stamp is None or stamp > MAX_STAMP - len(queries):
            own.marks, stamp = np.zeros(self.num_items + 1, dtype=np.int32), 0
        own.stamp = stamp + len(queries)
        learned = tuple(self.network), tuple(self.tree), self.rows
        search_rows(queries, *learned, self.beam, own.marks, stamp, ids, scores, counts)
