"""The index of Deep Retrieval: a beam search over paths, then the softmax over their items.

Gao et al., CIKM 2021, arXiv:2007.07203, Algorithm 1 and section 3.4. Departure: prefixes without
items below them are never taken, so every path that is found counts.
A beam as wide as there are paths with items answers as the exact index does. Shapes: Q queries, E
their width, I items, k answers.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.errors import UsageError
from ensue.indexes.path_kernels import search_rows
from ensue.indexes.path_tree import PathNetwork, PathTree
from ensue.models.retrieval.deep_retrieval import DeepRetrieval

MAX_STAMP = np.iinfo(np.int32).max


class PathIndex:
    """An index over items 1..I.

    beam: paths whose items are scored, and prefixes kept on the way; may be changed at any time.

    Args:
        vectors: [I + 1, E] float32; row 0 is padding.
        biases: [I + 1] float32.
    """

    def __init__(
        self,
        network: PathNetwork,
        tree: PathTree,
        vectors: NDArray[np.float32],
        biases: NDArray[np.float32],
        *,
        beam: int,
    ) -> None:
        self.network, self.tree = network, tree
        self.vectors, self.biases = vectors, biases
        self.beam = beam
        self.num_items = len(vectors) - 1
        self._marks = threading.local()

    @classmethod
    def from_model(cls, model: DeepRetrieval, *, beam: int | None = None) -> PathIndex:
        """Return the index of a trained model; its own beam for None."""
        layers, table = model.path_layers, model.output_embedding.detach()
        vectors = table.float().cpu().contiguous().numpy()
        biases = np.zeros(len(vectors), dtype=np.float32)
        if model.output_bias is not None:
            biases = model.output_bias.detach().float().cpu().numpy()
        paths = model.paths[1:].cpu().numpy()
        return cls(
            PathNetwork.from_layers(layers),
            PathTree.from_paths(paths, depth=layers.depth, width=layers.width),
            vectors,
            biases,
            beam=model.config.beam if beam is None else beam,
        )

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids [Q, k] and the scores [Q, k] of the best items found, best first.

        Equal scores by ascending id; 0 and -inf where fewer than k items are found.
        """
        ids, scores, _ = self.search_counted(queries, k)
        return ids, scores

    def search_counted(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Return what `search` does, and how many items were scored [Q].

        Raises:
            UsageError: the beam is below 1, or queries have another width.
        """
        width = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise UsageError(f"queries must be [Q, {width}]; got {queries.shape}.")
        if self.beam < 1 or k < 1:
            raise UsageError(f"beam and k must be 1 or more; got {self.beam} and {k}.")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
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
        own = self._marks
        stamp = getattr(own, "stamp", None)
        if stamp is None or stamp > MAX_STAMP - len(queries):
            own.marks, stamp = np.zeros(self.num_items + 1, dtype=np.int32), 0
        own.stamp = stamp + len(queries)
        items = self.vectors, self.biases
        search_rows(
            queries, tuple(self.network), tuple(self.tree), items, self.beam, own.marks, stamp,
            ids, scores, counts,
        )  # fmt: skip
