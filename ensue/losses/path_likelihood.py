"""The likelihood of items that lie on several paths each, with its gradient in the same pass.

Gao et al., CIKM 2021, arXiv:2007.07203, section 3.2: the loss of an example is -log sum_j p(path j
of its item | query). Its gradient weighs path j by its share of the sum.
Blocks of rows stay in cache, and no more than one block of logits exists at a time.
Shapes: S examples, E width of a query, J paths of an item, D layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ensue.nn.path_layers import PathLayers

BLOCK_ROWS = 512  # examples


def path_loss(layers: PathLayers, queries: Tensor, choices: Tensor) -> Tensor:
    """Return the sum of -log sum_j p(path j) over all examples, a scalar; 0 of no example.

    Args:
        queries: [S, E].
        choices: [S, J, D], the paths of each example's item.
    """
    if choices.dim() != 3 or len(choices) != len(queries) or choices.shape[2] != layers.depth:
        raise ValueError(
            "path_loss needs queries [S, E] and choices [S, J, D]; "
            f"got {tuple(queries.shape)}, {tuple(choices.shape)} and D = {layers.depth}"
        )
    parameters = [parameter for parameter in layers.parameters() if parameter.requires_grad]
    loss: Tensor = _PathLoss.apply(layers, queries, choices, *parameters)  # type: ignore[no-untyped-call]
    return loss


class _PathLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: PathLayers, queries: Tensor, choices: Tensor, *parameters: Tensor
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        total = queries.new_zeros(())
        to_queries = torch.zeros_like(queries)
        to_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        for first in range(0, len(queries), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            with torch.set_grad_enabled(needs_grad):
                own = queries[rows].detach().requires_grad_(needs_grad)
                loss = -layers.log_probs(own, choices[rows]).logsumexp(dim=1).sum()
            total += loss.detach()
            if needs_grad:
                # One layer does not read the embeddings of nodes.
                grads = torch.autograd.grad(loss, [own, *parameters], allow_unused=True)
                for whole, grad in zip([to_queries[rows], *to_parameters], grads, strict=True):
                    if grad is not None:
                        whole += grad
        ctx.save_for_backward(to_queries, *to_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, *to_parameters = ctx.saved_tensors
        return None, to_queries * grad, None, *(own * grad for own in to_parameters)
