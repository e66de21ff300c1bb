"""The walk over parameters that every optimizer here takes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class TensorwiseOptimizer(torch.optim.Optimizer):
    """An optimizer whose step is that of each parameter by itself."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state.update(self.start(parameter, group))
                self.update_(parameter, parameter.grad, state, group)
        return loss

    @abstractmethod
    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step."""

    @abstractmethod
    def update_(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        """Change the parameter and its state, by the settings of its group."""
