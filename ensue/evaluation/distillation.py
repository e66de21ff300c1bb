"""What distillation did to a student: to the gradient of each example and to its output layer.

J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, "Understanding and Improving
Knowledge Distillation", 2020, arXiv:2002.03532. Everything is computed in float64.
Shapes: B batch, K classes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def rescaling(
    student_logits: Tensor,
    soft_target: Tensor,
    labels: Tensor,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Return omega [B]: the gradient of the true class's logit over what it is without a teacher.

    omega = (1 - lam) + (lam s / tau) (rho_t - q~_t) / (1 - q_t), of the loss in
    `ensue.losses.distillation`. At tau = 1 it is at most 1, and below 0 where the student is surer
    of the label than label and teacher together: compare examples, not omega with 1.

    Args:
        student_logits, soft_target: [B, K].
        labels: [B].

    >>> logits = torch.tensor([[1.0, 0.0, -1.0]])
    >>> target = torch.tensor([[0.8, 0.15, 0.05]])
    >>> omega = rescaling(logits, target, torch.tensor([0]), teacher_weight=0.5)
    >>> round(omega.item(), 6)
    0.701278
    """
    z, rho = student_logits.double(), soft_target.double()
    # Sums over the wrong classes in place of 1 - q_t, which rounds to 0 for a sure student.
    wrong = _wrong(torch.softmax(z, dim=1), labels)
    excess = _wrong(torch.softmax(z / temperature, dim=1), labels) - _wrong(rho, labels)
    return (1 - teacher_weight) + teacher_weight * scale / temperature * excess / wrong


@torch.no_grad()
def gradient_ratio(
    student_logits: Tensor,
    soft_target: Tensor,
    labels: Tensor,
    *,
    teacher_weight: float,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Return [B], the L1 norm of the gradient of all logits over what it is without a teacher.

    It is at least |omega| of `rescaling`, and equal where all wrong classes are moved the same way.
    """
    z, rho = student_logits.double(), soft_target.double()
    hard = torch.softmax(z, dim=1)
    wrong = _wrong(hard, labels)
    hard = hard.scatter(1, labels[:, None], -wrong[:, None])  # q - y, exact for a sure student
    soft = torch.softmax(z / temperature, dim=1) - rho
    gradient = (1 - teacher_weight) * hard + teacher_weight * scale / temperature * soft
    return gradient.abs().sum(dim=1) / (2 * wrong)


@torch.no_grad()
def cosine_matrix(output_weights: Tensor) -> Tensor:
    """Return the cosines [K, K] of the output rows [K, D] after subtracting their mean."""
    rows = output_weights.double()
    rows = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1)
    return rows @ rows.T


def block_contrast(cosines: Tensor, superclasses: Tensor) -> float:
    """Return how much more alike classes of one super-class are than others: a difference of means.

    Args:
        cosines: [K, K] of `cosine_matrix`; its diagonal does not count.
        superclasses: [K] int, of each class.

    Raises:
        ValueError: there are no two classes in one super-class, or no two super-classes.

    >>> cosines = torch.tensor([[1.0, 0.5, -0.5], [0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])
    >>> block_contrast(cosines, torch.tensor([0, 0, 1]))
    1.0
    """
    is_same = superclasses[:, None] == superclasses[None, :]
    is_pair = ~torch.eye(len(superclasses), dtype=torch.bool, device=superclasses.device)
    inside, outside = cosines[is_same & is_pair], cosines[~is_same]
    if len(inside) == 0 or len(outside) == 0:
        raise ValueError(
            "block_contrast needs two super-classes, one of them with two classes; "
            f"got {superclasses.tolist()!r}"
        )
    return float(inside.double().mean() - outside.double().mean())


def target_entropy(targets: Tensor) -> float:
    """Return the mean entropy of targets [B, K], in nats: 0 for labels, log K for uniform ones."""
    return float(torch.special.entr(targets.double()).sum(dim=1).mean())


def calibration_error(logits: Tensor, labels: Tensor, *, num_bins: int = 15) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, on average.

    Predictions fall by their confidence, the largest probability, into bins of equal width; the
    distances of mean confidence and accuracy are averaged with the sizes of the bins.

    Args:
        logits: [B, K] of a test part; B is at least 1.
        labels: [B].
    """
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    is_right = (predicted == labels).double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=logits.device)
    gaps.index_add_(0, bins, confidence - is_right)
    return float(gaps.abs().sum() / len(labels))


def confidence_correlation(omega: Tensor, label_probability: Tensor) -> float | None:
    """Return the rank correlation of omega [B] with the teacher's probability of the label [B].

    Of ranks, because omega has no bound below: a student that is sure of an example has a gradient
    of nearly 0 without a teacher. None where one of the two is the same for all examples.

    >>> confidence_correlation(torch.tensor([0.1, -1e9, 0.5]), torch.tensor([0.5, 0.2, 0.9]))
    1.0
    """
    both = torch.stack([_ranks(omega), _ranks(label_probability)])
    if bool((both.std(dim=1, correction=0) == 0).any()):
        return None
    return round(float(torch.corrcoef(both)[0, 1]), 12)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value; equal ones share the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


def _wrong(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the sum [B] over the wrong classes."""
    return probabilities.scatter(1, labels[:, None], 0.0).sum(dim=1)
