"""The optimizer that a training config names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.field_tables import StaticTable
from ensue.nn.row_rules import RowRule
from ensue.optim.adagrad import Adagrad
from ensue.optim.clippy import Clippy, Direction, Rule
from ensue.optim.lazy_adam import LazyAdam
from ensue.training.config import TrainingConfig

# Of models, where a name does not say "embedding": rows of items, or of values.
TABLES = {"ids", "table", "tables", "own_output", "item_bias", "output_bias"}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the config names, over all parameters of the model."""
    if config.optimizer == "clippy":
        return _make_clippy(model, config)
    parameters = list(model.parameters())
    if config.optimizer == "lazy_adam":
        return LazyAdam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.optimizer == "adagrad":
        return Adagrad(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def growing_tables(model: nn.Module, config: TrainingConfig) -> list[DynamicEmbedding]:
    """Return the growing tables of the model, whose rows are to move as the optimizer says.

    Adam moves the rows of a batch alone, as "lazy_adam" does; "clippy" leaves tables to plain
    Adagrad, or to Adam where that is its direction.
    """
    is_clippy = config.optimizer == "clippy"
    is_adam = config.clip_direction == "adam" if is_clippy else "adam" in config.optimizer
    rule = RowRule(name="adam" if is_adam else "adagrad", weight_decay=config.weight_decay)
    if is_clippy and not is_adam:
        rule = rule.model_copy(update={"initial": Direction().initial, "eps": 0.0})
    tables = [module for module in model.modules() if isinstance(module, DynamicEmbedding)]
    for table in tables:
        table.use_rule_(rule)
    return tables


def use_sparse_gradients_(model: nn.Module, config: TrainingConfig) -> None:
    """Let tables have gradients of the looked-up rows alone, where the optimizer takes them."""
    for module in model.modules():
        if isinstance(module, StaticTable):
            module.is_sparse = config.optimizer != "adam"


def is_table(name: str) -> bool:
    """Return whether the parameter of this name has a row for each item, user or value."""
    return "embedding" in name or not TABLES.isdisjoint(name.split("."))


def _make_clippy(model: nn.Module, config: TrainingConfig) -> Clippy:
    """Return the optimizer whose steps are held back by a rule; those of tables are not."""
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if not is_table(name)]},
        {"params": [p for name, p in named if is_table(name)], "rule": "none"},
    ]
    rule = Rule(config.clip_rule, relative=config.clip_relative, absolute=config.clip_absolute)
    if config.clip_threshold is not None:
        rule = Rule(config.clip_rule, threshold=config.clip_threshold)
    return Clippy(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        rule=rule,
        direction=Direction(config.clip_direction),
        weight_decay=config.weight_decay,
    )
