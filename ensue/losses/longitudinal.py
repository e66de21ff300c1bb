"""A direction of time in codes: how well differences of an entity's codes point along it.

Zhao, Liu, Adeli and Pohl, "Longitudinal Self-Supervised Learning", Medical Image Analysis 71
(2021), arXiv:2006.06930: 1 - cos(z2 - z1, tau). A difference of length 0 has no direction: its
cosine is 0 and it has no gradient. With K orthogonal directions, what is left of the direction of a
difference outside their span is squared, so that the best directions are eigenvectors.
Shapes: P pairs, D width of the codes, K directions, B rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_differences(first: Tensor, second: Tensor) -> Tensor:
    """Return (second - first) [P, D], each of length 1, or 0 where both codes are the same.

    >>> unit_differences(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    difference = second - first
    squares = difference.square().sum(dim=1, keepdim=True)
    is_zero = squares == 0
    return difference * squares.masked_fill(is_zero, 1.0).rsqrt().masked_fill(is_zero, 0.0)


def direction_loss(differences: Tensor, directions: Tensor) -> Tensor:
    """Return how far unit differences are from the directions [P].

    Args:
        differences: [P, D], of `unit_differences`.
        directions: [K, D], orthonormal. With K = 1 the loss is 1 - cos, in [0, 2], and knows which
            end is later; with more it is 1 - sum_k cos_k^2, in [0, 1], and does not.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if differences.dim() != 2 or directions.dim() != 2 or len(differences.T) != len(directions.T):
        raise ValueError(
            "direction_loss needs differences [P, D] and directions [K, D]; got "
            f"{tuple(differences.shape)} and {tuple(directions.shape)}"
        )
    cosines = differences @ directions.T
    return 1 - (cosines[:, 0] if len(directions) == 1 else cosines.square().sum(dim=1))


def best_directions(mean: Tensor, moment: Tensor | None = None, *, count: int = 1) -> Tensor:
    """Return the orthonormal directions [K, D] at which the mean loss of given codes is least.

    One direction is that of the mean, at which the loss is 1 - its length. Several are the first
    eigenvectors of the second moment, turned in their span so that the mean has a part along the
    first alone: that one is the direction of time, and the others are free of it on average.

    Args:
        mean: [D], of the unit differences. Where it is 0 there is no direction of time; the first
            one is then 0, or any eigenvector.
        moment: [D, D], the mean of their outer products; needed where count is above 1.
    """
    if count == 1:
        return F.normalize(mean, dim=0, eps=torch.finfo(mean.dtype).tiny)[None]
    assert moment is not None
    span = torch.linalg.eigh(moment.double()).eigenvectors[:, -count:].T  # [K, D]
    along = span @ mean.double()
    turned = torch.linalg.qr(torch.cat([along[:, None], torch.eye(count, dtype=along.dtype)], 1)).Q
    turned = turned * torch.where(turned[:, :1].T @ along < 0, -1.0, 1.0)
    return (turned.T @ span).to(mean.dtype)


def split_codes(codes: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates [B, K] along orthonormal directions, and the rest of the codes [B, D].

    >>> split_codes(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]]))
    (tensor([[4.]]), tensor([[3., 0.]]))
    """
    along = codes @ directions.T
    return along, codes - along @ directions


def masked_error(found: Tensor, values: Tensor) -> Tensor:
    """Return the mean squared error of each row over what is known of it [B].

    Args:
        found, values: [B, ...]; NaN in `values` is missing and has no error. A row of which nothing
            is known has error 0.

    >>> masked_error(torch.zeros(1, 3), torch.tensor([[1.0, 3.0, torch.nan]])).tolist()
    [5.0]
    """
    is_known = ~torch.isnan(values)
    errors = (found - values.masked_fill(~is_known, 0.0)).masked_fill(~is_known, 0.0).square()
    return errors.flatten(1).sum(dim=1) / is_known.flatten(1).sum(dim=1).clamp(min=1)
