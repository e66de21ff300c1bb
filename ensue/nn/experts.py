"""Mixtures of experts for several tasks: small networks that tasks share, a softmax gate for each.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018 (Eq. 6 and 7); Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task
Learning Model for Personalized Recommendations", RecSys 2020 (Eq. 3 to 8).
Experts are networks of tensors of their own, one beside the other: an optimizer that treats tensors
one by one then treats experts one by one.
Shapes: B rows, E experts, M tasks, H width of an expert's output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensue.nn.perceptron import Perceptron


class Experts(nn.Module):
    """Perceptrons that read the same.

    width: H.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], *, num_experts: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Perceptron(width, hidden, dropout) for _ in range(num_experts))
        self.width = hidden[-1] if hidden else width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each of the E experts makes of x [B, width]: [B, H] each."""
        return [expert(x) for expert in self.experts]


class Gate(nn.Module):
    """A mixture whose weights are softmax(W x): E numbers that add up to 1.

    All are equal at the start.
    """

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_experts, bias=False)
        nn.init.zeros_(self.linear.weight)

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights [B, E] of rows x [B, width]."""
        logits: Tensor = self.linear(x)
        return logits.softmax(dim=1)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        """Return the mixture [B, H], given what the experts say [B, E, H]."""
        return torch.bmm(self.weights(x)[:, None], experts).squeeze(1)


class MultiGateExperts(nn.Module):
    """E experts for all tasks, and a gate of each task over them (Ma et al., Eq. 6 and 7).

    width: H.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        num_experts: int,
        num_tasks: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.experts = Experts(width, hidden, num_experts=num_experts, dropout=dropout)
        self.gates = nn.ModuleList(Gate(width, num_experts) for _ in range(num_tasks))
        self.width = self.experts.width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each of the M tasks reads, [B, H] each, of rows x [B, width]."""
        experts = torch.stack(self.experts(x), dim=1)
        return [gate(x, experts) for gate in self.gates]


class Extraction(nn.Module):
    """One level of progressive layered extraction: experts of each task, and shared ones.

    The gate of a task mixes its own experts and the shared ones; the shared gate mixes all, and the
    next level's shared experts read what it gives. The last level has none, nor has one without
    shared experts, for nothing would read it.
    width: H.

    Args:
        counts: experts of each task, and shared ones.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        counts: tuple[int, int],
        num_tasks: int,
        is_last: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        own, shared = counts
        self.own = nn.ModuleList(
            Experts(width, hidden, num_experts=own, dropout=dropout) for _ in range(num_tasks)
        )
        self.shared = Experts(width, hidden, num_experts=shared, dropout=dropout)
        self.gates = nn.ModuleList(Gate(width, own + shared) for _ in range(num_tasks))
        self.shared_gate: Gate | None = None
        if shared and not is_last:
            self.shared_gate = Gate(width, own * num_tasks + shared)
        self.width = self.shared.width

    def forward(
        self, inputs: Sequence[Tensor], shared_input: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return what the next level's tasks and shared experts read, [B, H] each.

        Args:
            inputs: what the experts of each of the M tasks read, [B, width] each.
            shared_input: [B, width]; comes back where the level makes no other.
        """
        shared = self.shared(shared_input)
        own = [experts(x) for experts, x in zip(self.own, inputs, strict=True)]
        outputs = [
            gate(x, torch.stack([*experts, *shared], dim=1))
            for gate, x, experts in zip(self.gates, inputs, own, strict=True)
        ]
        if self.shared_gate is None:
            return outputs, shared_input
        everything = [output for experts in own for output in experts] + shared
        return outputs, self.shared_gate(shared_input, torch.stack(everything, dim=1))


class ProgressiveExtraction(nn.Module):
    """Levels of `Extraction`; with one it is customized gate control (Tang et al., section 4.2).

    width: H.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        counts: tuple[int, int],
        num_tasks: int,
        num_levels: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        levels = []
        for number in range(num_levels):
            level = Extraction(
                width,
                hidden,
                counts=counts,
                num_tasks=num_tasks,
                is_last=number == num_levels - 1,
                dropout=dropout,
            )
            levels.append(level)
            width = level.width
        self.levels = nn.ModuleList(levels)
        self.width = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each of the M tasks reads, [B, H] each, of rows x [B, width]."""
        inputs, shared = [x] * self.num_tasks, x
        for level in self.levels:
            inputs, shared = level(inputs, shared)
        return inputs
