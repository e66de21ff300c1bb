from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.audit import target_loss as module
from ensue.audit.clicks import Clicks
from ensue.audit.target_loss import target_loss

TARGETS = np.array([1, 6])


def random_case(num_users: int = 7) -> tuple[torch.Tensor, torch.Tensor, Clicks]:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 3, generator=generator).double() for n in (num_users, 9))
    seen = Clicks.from_dense((torch.rand(num_users, 9, generator=generator) < 0.3).numpy())
    return users, items, seen


@pytest.mark.parametrize("block", [1, 3, 256])
def test_loss_and_gradients_by_autograd(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    users, items, seen = random_case()
    found = target_loss(users, items, seen, TARGETS, k=2)
    users.requires_grad_()
    items.requires_grad_()
    scores = users @ items.T
    loss = -torch.log_softmax(scores, dim=1)[:, TARGETS].mean(dim=1).sum()
    *slopes, of_scores = torch.autograd.grad(loss, [users, items, scores])
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close([found.to_users, found.to_items], slopes, rtol=1e-10, atol=1e-12)
    assert of_scores.sum(dim=1).abs().max() < 1e-12
    assert found.to_items.sum(dim=0).abs().max() < 1e-12  # as rows of slopes sum to 0


def test_ranks_by_sorting() -> None:
    users, items, seen = random_case(40)
    items[4] = items[1]  # ties go to the lower column
    items[0] = items[6]
    scores = (users @ items.T).numpy()
    ranks, hits = [], 0
    for user, row in enumerate(scores):
        own = set(seen.columns[seen.offsets[user] : seen.offsets[user + 1]].tolist())
        order = [i for i in sorted(range(9), key=lambda i: (-row[i], i)) if i not in own]
        places = [order.index(t) for t in TARGETS if t not in own]
        ranks += places
        hits += any(place < 2 for place in places)
    found = target_loss(users, items, seen, TARGETS, k=2)
    assert found.hit_rate == hits / 40
    assert found.mean_rank == pytest.approx(np.mean(ranks))


def test_ends_of_the_scale() -> None:
    users, items, _ = random_case()
    everyone = Clicks.from_rows([TARGETS] * 7, 9)
    found = target_loss(users, items, everyone, TARGETS, k=9)
    assert (found.hit_rate, found.mean_rank) == (0, 9)
    users, items = torch.ones(7, 1), torch.zeros(9, 1)
    items[TARGETS] = torch.tensor([[2.0], [1.0]])
    found = target_loss(users, items, Clicks.from_rows([np.array([3])] * 7, 9), TARGETS, k=1)
    assert (found.hit_rate, found.mean_rank) == (1, 0.5)
