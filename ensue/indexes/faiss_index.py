"""What the indexes over FAISS share: inner products, our order of answers, their files.

Douze et al., "The Faiss library", 2024, arXiv:2401.08281. Which of several items of the same score
takes the last place is FAISS's choice.
Shapes: B queries, D width, I items, k answers.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.errors import ExtraError, RunError
from ensue.indexes.vectors import by_product, item_vectors, prepare_queries

FILE = "index.faiss"


class FaissIndex(ABC):
    """A FAISS index over items 1..I; row r of it is item r + 1.

    A subclass says how one is built, and how one is searched with its settings now.
    """

    def __init__(self, index: Any, *, has_bias: bool) -> None:
        self._index, self._has_bias = index, has_bias
        self.num_items = int(index.ntotal)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids [B, k] and the scores [B, k] of the best items found of queries [B, D].

        Best first; equal scores by ascending id; 0 and -inf where fewer than k items are found.

        Raises:
            UsageError: queries have another width, or are not finite; k or a setting is below 1.
        """
        dim = self._index.d - self._has_bias
        queries = prepare_queries(queries, k, dim=dim, has_bias=self._has_bias)
        ids = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = slice(0, min(k, self.num_items))
        if len(queries):
            scores[:, found], rows = self._index.search(
                queries, found.stop, params=self._parameters()
            )
            ids[:, found] = rows + 1  # FAISS has -1 for none
            scores[ids == 0] = -np.inf
        order = np.lexsort((ids, -scores))
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)

    @abstractmethod
    def _parameters(self) -> Any:
        """Return the settings of a search, as FAISS takes them."""

    def save(self, folder: Path) -> None:
        """Write the index to a folder."""
        import_faiss().write_index(self._index, str(folder / FILE))


def import_faiss() -> Any:
    """Return the package.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of the tool that generated its modules
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError:
        raise ExtraError("faiss-cpu", "ann", "an approximate index (hnsw, ivf)") from None
    return faiss


def read_index(folder: Path, model: object) -> tuple[Any, bool]:
    """Return a stored FAISS index of a model, and whether its last column holds biases.

    Raises:
        RunError: the file cannot be read, or is no index of the model's items.
    """
    faiss = import_faiss()
    table, bias = by_product(model).item_table()
    try:
        index = faiss.read_index(str(folder / FILE))
    except RuntimeError as error:
        raise RunError(
            f"{folder / FILE} must be an index written by FAISS; reading it failed with "
            f"{str(error).splitlines()[-1].strip()}. Build the index again."
        ) from None
    expected = len(table) - 1, table.shape[1] + (bias is not None)
    if (index.ntotal, index.d) != expected:
        raise RunError(
            f"{folder / FILE} must hold {expected[0]} vectors of width {expected[1]}; it holds "
            f"{index.ntotal} of {index.d}. Build the index again."
        )
    return index, bias is not None


def vectors_for_faiss(model: object) -> tuple[Any, NDArray[np.float32], bool]:
    """Return the package, the item vectors of a model, and whether biases are among them."""
    faiss, items = import_faiss(), item_vectors(model)
    return faiss, items.rows, items.has_bias
