"""Vectors of items and queries of histories, of every model whose scores are their products.

Where items have biases, these are one more column of the vectors, and queries have a 1 there.
Shapes: B queries, D width of a query, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.errors import UsageError


@runtime_checkable
class ProductModel(Protocol):
    """A model whose scores are products of a query and the vectors of items, plus their biases."""

    num_items: int

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """Return the vectors [I + 1, D] and the biases [I + 1], if any, of the items."""
        ...

    def queries(self, batch: HistoryBatch) -> tuple[Tensor, Tensor]:
        """Return the query of each history [B, D] and lengths [B].

        A query of zeros says nothing: `score` may answer such a history in another way.
        """
        ...


@dataclass(frozen=True)
class ItemVectors:
    """What queries are matched with.

    rows: [I, D], or [I, D + 1] where `has_bias`, float32; the first row is item 1.
    """

    rows: NDArray[np.float32]
    has_bias: bool


def is_product(model: object) -> TypeGuard[ProductModel]:
    """Return whether a model scores by a product; one that can do both says `scores_by_product`."""
    return isinstance(model, ProductModel) and getattr(model, "scores_by_product", True)


def by_product(model: object) -> ProductModel:
    """Return the model, after checking that it scores by a product.

    Raises:
        UsageError: it does not.
    """
    if not is_product(model):
        raise UsageError(
            "an index needs a model that scores items by the product of two vectors (caser, "
            f"sasrec, gru4rec, m3, bpr, ...); {type(model).__name__} does not. "
            "Its plain answers need no index."
        )
    return model


def item_vectors(model: object) -> ItemVectors:
    """Return the vectors of a model's items; the model's own memory where they have no biases.

    Raises:
        UsageError: the model does not score by a product, or a vector is not finite.
    """
    table, bias = by_product(model).item_table()
    rows = table.detach()[1:]
    if bias is not None:
        rows = torch.cat([rows, bias.detach()[1:, None]], dim=1)
    vectors = rows.float().cpu().contiguous().numpy()
    if not np.isfinite(vectors).all():
        raise UsageError(
            "vectors of items must be finite; those of the model hold NaN or infinity. "
            "Train it again, with a lower learning rate."
        )
    return ItemVectors(vectors, has_bias=bias is not None)


@torch.inference_mode()
def model_queries(model: object, batch: HistoryBatch) -> NDArray[np.float32]:
    """Return the queries [B, D] of histories; zeros where the score is no product.

    Raises:
        UsageError: the model does not score by a product.
    """
    product = by_product(model)
    device = product.item_table()[0].device
    return product.queries(batch.to(device))[0].float().cpu().numpy()


def prepare_queries(
    queries: NDArray[np.float32], k: int, *, dim: int, has_bias: bool
) -> NDArray[np.float32]:
    """Return queries [B, D] as vectors of items are matched with them: [B, D], or [B, D + 1].

    Args:
        dim: D.

    Raises:
        UsageError: they have another width, or are not finite; k < 1.
    """
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UsageError(f"search needs queries [B, {dim}]; got {queries.shape}.")
    if k < 1:
        raise UsageError(f"search needs k >= 1; got {k}.")
    is_finite = np.isfinite(queries).all(axis=1)
    if not is_finite.all():
        raise UsageError(
            f"search needs finite queries; query {int(np.argmin(is_finite))} holds NaN or infinity."
        )
    if has_bias:
        queries = np.concatenate([queries, np.ones_like(queries[:, :1])], axis=1)
    return np.ascontiguousarray(queries, dtype=np.float32)


def check_knob(name: str, value: int) -> int:
    """Return a setting of a search that must be at least 1.

    Raises:
        UsageError: it is not.
    """
    if value < 1:
        raise UsageError(f"search needs {name} >= 1; got {value}.")
    return value
