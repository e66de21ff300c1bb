"""gBCE: binary cross-entropy with the overconfidence of sampled negatives taken out.

Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
Negative Sampling", RecSys 2023, arXiv:2308.07192.
The paper raises the probability of the positive to a power beta; -log(sigmoid(s) ** beta) is
beta * softplus(-s), which needs no clamping.
Shapes: S positions, N sampled negatives of each.
"""

from __future__ import annotations

from torch import Tensor

from ensue.losses.pointwise import negative_loss, positive_loss


def gbce_beta(num_negatives: int, num_items: int, calibration: float) -> float:
    """Return beta, the power of the positive's probability.

    Args:
        calibration: t in [0, 1]: 0 is plain BCE (beta 1), 1 is beta = N / (I - 1), the sampling
            rate, with which predicted probabilities are those of unsampled training.

    >>> gbce_beta(num_negatives=10, num_items=101, calibration=1.0)
    0.1
    """
    if not 0.0 <= calibration <= 1.0:
        raise ValueError(f"gbce_beta needs 0 <= calibration <= 1; got {calibration}")
    rate = min(1.0, num_negatives / max(1, num_items - 1))
    return calibration * rate + (1.0 - calibration)


def gbce_loss(positive_logits: Tensor, negative_logits: Tensor, *, beta: float) -> Tensor:
    """Return the unreduced loss [S], a mean over the 1 + N terms of a position.

    Args:
        positive_logits: [S], of the targets.
        negative_logits: [S, N], of items drawn uniformly.
        beta: of `gbce_beta`; 1 is binary cross-entropy.
    """
    if negative_logits.shape[:-1] != positive_logits.shape:
        raise ValueError(
            "gbce_loss needs positive_logits [S] and negative_logits [S, N]; "
            f"got {tuple(positive_logits.shape)} and {tuple(negative_logits.shape)}"
        )
    total = beta * positive_loss(positive_logits) + negative_loss(negative_logits).sum(dim=-1)
    return total / (1 + negative_logits.shape[-1])
