"""Which objective several workers train a model of items by."""

from __future__ import annotations

from ensue.distributed.items import SharedItems
from ensue.training.next_item import NextItemObjective
from ensue.training.objective import Objective
from ensue.training.objectives import WindowObjective
from ensue.training.shared_items import SharedNextItem, SharedWindows
from ensue.training.shared_towers import SharedTowers
from ensue.training.two_tower import TwoTowerObjective


def share_objective(shared: SharedItems, whole: Objective) -> Objective:
    """Return the objective of the workers of a model, given that of one process."""
    if isinstance(whole, NextItemObjective):
        return SharedNextItem(shared, whole)
    if isinstance(whole, WindowObjective):
        return SharedWindows(shared, whole)
    if isinstance(whole, TwoTowerObjective):
        return SharedTowers(shared, whole)
    raise TypeError(f"{type(whole).__name__} is of one process")
