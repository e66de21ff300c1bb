"""Factors that shrink the step of a tensor before it is taken.

A step is what an optimizer would subtract: the learning rate times Adagrad's or Adam's direction.
Each rule returns one factor for the tensor, `adaptive_factor` one for each row, on their device.
Shapes: the step, the weights and the gradient of a tensor share one shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ensue.nn.sparse_rows import distinct_rows, sparse_grad

FLOOR = 1e-3  # least norm of a row of weights in `adaptive_factor`, as in the authors' program


def clippy_factor(step: Tensor, weight: Tensor, *, relative: float, absolute: float) -> Tensor:
    """Return the largest factor in [0, 1] that keeps every change within its bound.

    |factor * step_i| <= relative |weight_i| + absolute for all i; a step of zero is always within.
    Tang et al., "Improving Training Stability for Multitask Ranking Models in Recommender Systems",
    KDD 2023, arXiv:2302.09178, Algorithm 1.

    >>> step, weight = torch.tensor([3.0, 0.0]), torch.tensor([5.0, 0.0])
    >>> clippy_factor(step, weight, relative=0.2, absolute=0.5)
    tensor(0.5000)
    """
    if step.numel() == 0:
        return step.new_ones(())
    excess = step.abs() / (weight.abs() * relative + absolute)
    return excess.masked_fill_(step == 0, 0).amax().clamp_(min=1).reciprocal_()


def norm_factor(grad: Tensor, *, threshold: float) -> Tensor:
    """Return what brings the tensor's gradient to a norm of `threshold`, at most 1."""
    return (threshold / torch.linalg.vector_norm(grad)).clamp_(max=1)


def adaptive_factor(grad: Tensor, weight: Tensor, *, threshold: float) -> Tensor:
    """Return what brings each row's gradient to `threshold` norms of its weights, at most 1.

    Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021,
    arXiv:2102.06171. Rows are slices along the first axis; a vector is one row.
    """
    axes = tuple(range(1, grad.dim())) or None
    allowed = _norm(weight, axes).clamp_(min=FLOOR).mul_(threshold)
    return (allowed / _norm(grad, axes)).clamp_(max=1)


def trust_factor(step: Tensor, weight: Tensor, *, rate: float, multiplier: float) -> Tensor:
    """Return what gives the step the norm multiplier * rate * |weight|.

    You et al., "Large Batch Optimization for Deep Learning", ICLR 2020, arXiv:1904.00962, with the
    norm itself as phi. Where the weights or the step are all zero the factor is the multiplier.
    """
    of_weight, of_step = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(step)
    trust = torch.where((of_weight > 0) & (of_step > 0), rate * of_weight / of_step, 1.0)
    return trust * multiplier


@torch.no_grad()
def clip_whole_gradient_(
    parameters: Iterable[Tensor],
    *,
    threshold: float,
    total: Tensor | None = None,
) -> Tensor:
    """Bring the norm of all gradients together to `threshold` at most; return what it was.

    As `torch.nn.utils.clip_grad_norm_`, which takes no sparse gradients: of those the values of a
    row count with their sum.

    Args:
        total: the norm, where others have parts of the gradient.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            rows, sums = distinct_rows(parameter.grad)
            parameter.grad = sparse_grad(parameter, rows, sums)
            values.append(sums)
        else:
            values.append(parameter.grad)
    if total is None:
        total = torch.nn.utils.get_total_norm(values)
    factor = (threshold / (total + 1e-6)).clamp_(max=1)
    for value in values:
        value.mul_(factor.to(value.device))
    return total


def _norm(values: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    return torch.linalg.vector_norm(values, dim=axes, keepdim=axes is not None)
