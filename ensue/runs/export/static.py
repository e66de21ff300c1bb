"""A copy of a model that a graph can be made of: plain tables, and loops that are one operation.

Shapes: B batch, T positions, D width, G hidden width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from ensue.models.base import Model
from ensue.nn.convolutions import WindowConvolutions
from ensue.nn.growing_items import GrowingItems


def static_copy(model: Model) -> Model:
    """Return a copy of a model in evaluation mode, that gives the same scores.

    Its tensors are those of the model. Tables of items that grow are plain ones, recurrent layers
    are `ScannedGRU`, and what depends on weights alone is computed once.
    """
    # What a name stands for in a copy; the key is the object that is not to be copied.
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    growing = {name: m for name, m in model.named_modules() if isinstance(m, GrowingItems)}
    memo |= {id(module): nn.Identity() for module in growing.values()}
    copied = copy.deepcopy(model, memo)
    for name, table in growing.items():
        _put(copied, name, nn.Parameter(table.whole(), requires_grad=False))
    for name, module in list(copied.named_modules()):
        if isinstance(module, nn.GRU):
            _put(copied, name, ScannedGRU(module))
        elif isinstance(module, WindowConvolutions):
            module.freeze_()
    return copied


def _put(model: nn.Module, name: str, value: nn.Module | nn.Parameter) -> None:
    """Put a value in the place of a submodule."""
    path, _, own_name = name.rpartition(".")
    owner = model.get_submodule(path)
    delattr(owner, own_name)
    setattr(owner, own_name, value)


class ScannedGRU(nn.Module):
    """A recurrent layer whose steps are a loop of the graph, as many as there are positions.

    PyTorch's own layer would be written out once for each position of the example.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the hidden vectors [B, T, G] of x [B, T, D], and no last state."""
        hidden = x.transpose(0, 1)
        start = x.new_zeros(x.shape[0], self.gru.hidden_size)
        for weights in self.gru.all_weights:

            def step(
                state: Tensor, given: Tensor, weights: Sequence[Tensor] = weights
            ) -> tuple[Tensor, Tensor]:
                state = torch.gru_cell(given, state, *weights)
                return state, state.clone()  # of two results, none may be the other

            _, hidden = scan(step, start, hidden, dim=0)
        return hidden.transpose(0, 1), None
