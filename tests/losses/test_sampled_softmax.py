from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ensue.losses.sampled_softmax import sampled_softmax_loss

# Four items, the target is the third; M3's specification, section (g).
LOGITS = torch.tensor([0.5, -0.2, 0.3, -0.5], dtype=torch.float64)
Q = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64)


def loss_of(target: int, negatives: list[int], **correction: torch.Tensor) -> float:
    ids = torch.tensor(negatives)
    return sampled_softmax_loss(
        LOGITS[target].view(1), LOGITS[ids].view(1, -1), is_hit=(ids == target)[None], **correction
    ).item()


def test_worked_example_with_correction() -> None:
    log_q = torch.log(2 * Q)
    loss = loss_of(2, [0, 3], positive_log_q=log_q[2:3], negative_log_q=log_q[[0, 3]])
    assert loss == pytest.approx(1.1829653736, abs=1e-10)


def test_every_other_item_once_is_the_full_softmax() -> None:
    full = F.cross_entropy(LOGITS[None], torch.tensor([2])).item()
    assert full == pytest.approx(1.1870084343, abs=1e-10)
    assert loss_of(2, [0, 1, 3]) == pytest.approx(full, abs=1e-12)


def test_a_hit_of_the_target_counts_for_nothing() -> None:
    assert loss_of(2, [0, 2, 3]) == pytest.approx(loss_of(2, [0, 3]), abs=1e-12)
    assert loss_of(2, [2, 2]) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_the_correction(sign: int) -> None:
    """Many draws from a skewed q: with the correction the loss tends to the full one, and with
    the sign turned it does not."""
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    negatives = torch.multinomial(Q, count, replacement=True, generator=generator)
    negatives = negatives[negatives != 2]
    # The target is in both sums once: as the positive, and as q's expected share of the draws.
    log_q = sign * torch.log(count * Q)
    loss = sampled_softmax_loss(
        LOGITS[2:3],
        LOGITS[negatives][None],
        is_hit=torch.zeros(1, len(negatives), dtype=torch.bool),
        positive_log_q=torch.zeros(1),
        negative_log_q=log_q[negatives],
    ).item()
    full = F.cross_entropy(LOGITS[None], torch.tensor([2])).item()
    assert (abs(loss - full) < 0.01) == (sign == 1)


def test_gradient_tends_to_that_of_the_full_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = LOGITS.clone().requires_grad_()
    F.cross_entropy(scores[None], torch.tensor([2])).backward()
    errors = []
    for count in (4, 4000):
        total = torch.zeros(4, dtype=torch.float64)
        for _ in range(200):
            sampled = LOGITS.clone().requires_grad_()
            negatives = torch.multinomial(Q, count, replacement=True, generator=generator)
            sampled_softmax_loss(
                sampled[2:3],
                sampled[negatives][None],
                is_hit=(negatives == 2)[None],
                positive_log_q=torch.zeros(1),
                negative_log_q=torch.log(count * Q)[negatives],
            ).sum().backward()
            total += sampled.grad / 200
        errors.append((total - scores.grad).abs().max().item())
    assert errors[1] < 0.002 < errors[0]


def test_extreme_logits_and_no_negatives() -> None:
    far = torch.tensor([-1e4, 1e4], dtype=torch.float32, requires_grad=True)
    loss = sampled_softmax_loss(far, torch.zeros(2, 3), is_hit=torch.zeros(2, 3, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1e4 + math.log(3), 0.0])
    assert far.grad.tolist() == pytest.approx([-1.0, 0.0])
    none = sampled_softmax_loss(
        torch.zeros(2), torch.zeros(2, 0), is_hit=torch.zeros(2, 0, dtype=torch.bool)
    )
    assert none.tolist() == [0.0, 0.0]


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\), \(3, 4\) and \(3, 4\)"):
        sampled_softmax_loss(
            torch.zeros(2), torch.zeros(3, 4), is_hit=torch.zeros(3, 4, dtype=torch.bool)
        )
