from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.models.baselines.neumf import NeuMF, NeuMFConfig
from ensue.nn import perceptron
from ensue.training.sampled_items import BinaryObjective
from tests.contracts.planted import histories_of

HIDDEN = [[], [5], [5, 4, 2]]


def make(hidden: list[int], **settings: int) -> NeuMF:
    torch.manual_seed(1)
    config = NeuMFConfig(dim=3, mlp_dim=4, hidden=hidden, **settings)
    model = NeuMF(config, num_users=3, num_items=6).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def by_definition(model: NeuMF, user: Tensor, mlp_user: Tensor, item: int) -> float:
    """Equation 12 of the paper, for one user and one item, on the concatenated vectors."""
    product = user * model.item_embedding[item]
    x = torch.cat([mlp_user, model.mlp_item_embedding[item]])
    *rectified, output = model.first, *model.others
    for layer in rectified:
        x = torch.clamp(layer.weight @ x + layer.bias, min=0)
    last = torch.cat([model.product_weights, output.weight[0]])
    return float(last @ torch.cat([product, x]) + output.bias)


@torch.no_grad()
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("block_cells", [1, 40, 1 << 20])
def test_scores_of_known_users(
    hidden: list[int], block_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptron, "BLOCK_CELLS", block_cells)
    model = make(hidden)
    scores = model.score(HistoryBatch.from_lists([[1], [], [5, 2]], [3, 1, 2]))
    for row, user in enumerate([2, 0, 1]):
        vectors = model.user_embedding[user], model.mlp_user_embedding[user]
        expected = [by_definition(model, *vectors, item) for item in range(7)]
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-12)
    candidates = torch.tensor([[4, 1], [6, 6], [2, 3]])
    logits = model.logits(torch.tensor([3, 1, 2]), candidates)
    torch.testing.assert_close(logits, scores.gather(1, candidates))


@torch.no_grad()
def test_scores_of_users_never_seen() -> None:
    model = make([5])
    scores = model.score(HistoryBatch.from_lists([[5, 0, 2], []]))
    direction = model.product_weights * (model.item_embedding[5] + model.item_embedding[2])
    model.freeze_()
    assert torch.equal(model.score(HistoryBatch.from_lists([[5, 0, 2], []])), scores)
    length = sum(row.norm() for row in model.user_embedding) / 3
    mean = sum(model.mlp_user_embedding) / 3
    for row, user in enumerate([direction / direction.norm() * length, 0 * direction]):
        expected = [by_definition(model, user, mean, item) for item in range(7)]
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_gradients_are_finite_differences(hidden: list[int]) -> None:
    model = make(hidden, num_negatives=2)
    objective = BinaryObjective(model, histories_of([[1, 2], [3], [1, 6]]), batch_size=8, seed=0)
    (batch,) = objective.batches(1)
    objective.loss(model, batch).backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            direction = torch.randn_like(parameter)
            start, values = parameter.clone(), []
            for step in (1e-6, -1e-6):
                parameter.copy_(start + step * direction)
                values.append(objective.loss(model, batch).item())
            parameter.copy_(start)
            assert parameter.grad is not None
            found = float((parameter.grad * direction).sum())
            assert found == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7), name


def test_the_loss_by_hand() -> None:
    """User 2 has every item, so nothing is drawn: the mean is over what there is."""
    model = make([], num_negatives=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.first.bias.fill_(math.log(3))  # a probability of 3/4 for every pair
    objective = BinaryObjective(
        model, histories_of([[1], [1, 2, 3, 4, 5, 6]]), batch_size=8, seed=0
    )
    (batch,) = objective.batches(1)
    expected = (7 * -math.log(3 / 4) + 2 * -math.log(1 / 4)) / 9
    assert objective.loss(model, batch).item() == pytest.approx(expected)
