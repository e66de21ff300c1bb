"""A small catalogue with features of every kind, and a model of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ensue.data.feature_schema import FeatureSchema
from ensue.data.features import Bags, FeatureColumn, FeatureTable
from ensue.models.retrieval.two_tower import TwoTower
from ensue.models.retrieval.two_tower_config import TwoTowerConfig

NUM_ITEMS, NUM_USERS = 5, 3
HISTORIES = [[1, 2, 3, 4], [2, 5, 1], [3, 4, 5, 1, 2]]
ITEMS = FeatureTable(
    (
        FeatureColumn("color", "categorical", 3),
        FeatureColumn("tags", "multi", 4),
        FeatureColumn("price", "numeric", 1),
    ),
    (
        np.array([0, 1, 2, 2, 3, 0], dtype=np.int32),
        Bags(
            np.array([1, 2, 2, 3, 4, 1, 4], dtype=np.int32),
            np.array([0, 0, 2, 3, 5, 5, 7]),
        ),
        np.array([np.nan, 0.5, -1.0, np.nan, 2.0, 0.1], dtype=np.float32),
    ),
)
USERS = FeatureTable(
    (FeatureColumn("country", "categorical", 2), FeatureColumn("face", "vector", 2)),
    (
        np.array([0, 1, 2, 0], dtype=np.int32),
        np.array([[np.nan] * 2, [1, 0], [0.5, -0.5], [np.nan] * 2], dtype=np.float32),
    ),
)
EMPTY = FeatureTable((), ())


def toy_model(
    *, items: FeatureTable = ITEMS, users: FeatureTable = EMPTY, seed: int = 0, **settings: Any
) -> TwoTower:
    """Return a model with random weights, defaults of masked features among them."""
    sizes = {"dim": 4, "id_dim": 3, "feature_dim": 2, "hidden": [6], "max_len": 4}
    torch.manual_seed(seed)
    model = TwoTower(
        TwoTowerConfig(**{**sizes, **settings}),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        features=FeatureSchema(items.columns, users.columns),
    )
    model.fill_features_(items, users)
    with torch.no_grad():
        for embedding in (model.item_embedding, model.user_embedding):
            for default in embedding.defaults:
                default.copy_(torch.randn_like(default))
    return model
