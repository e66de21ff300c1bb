"""Brute force, and models and items to try an index on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.indexes.exact import ExactConfig, ExactIndex
from ensue.indexes.vectors import ItemVectors
from ensue.models.baselines.bpr import BPR, BPRConfig


def brute_force(
    scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ids and the scores of the best k columns of scores [B, I], by a whole sort."""
    num_rows, num_items = scores.shape
    ids = np.zeros((num_rows, k), dtype=np.int64)
    best = np.full((num_rows, k), -np.inf, dtype=np.float32)
    for b, row in enumerate(scores):
        order = sorted(range(num_items), key=lambda i: (-row[i], i))[:k]
        ids[b, : len(order)] = np.array(order, dtype=np.int64) + 1
        best[b, : len(order)] = row[order]
    return ids, best


def index_of(rows: NDArray[np.float32], **settings: int) -> ExactIndex:
    """Return the exact index of item vectors [I, D] without biases."""
    vectors = ItemVectors(np.ascontiguousarray(rows, dtype=np.float32), has_bias=False)
    return ExactIndex(vectors, ExactConfig(**settings))


def make_model(num_items: int = 2000, *, dim: int = 16, bias: float = 0.5) -> BPR:
    """Return a model of random vectors, and biases of some spread."""
    torch.manual_seed(0)
    model = BPR(BPRConfig(dim=dim), num_users=300, num_items=num_items)
    model.user_embedding.data.normal_()
    model.item_embedding.data.normal_()
    model.item_bias.data.normal_(std=bias)
    return model
