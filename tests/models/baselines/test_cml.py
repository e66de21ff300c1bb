from __future__ import annotations

import math

import pytest
import torch

from ensue.data.histories import HistoryBatch
from ensue.models.baselines.cml import CML, CMLConfig
from ensue.training.sampled_items import MetricObjective
from tests.contracts.planted import histories_of

USERS = [[0.0, 0.0], [0.6, 0.0], [0.0, -3.0]]
ITEMS = [[9.0, 9.0], [0.0, 0.5], [1.0, 0.0], [0.0, 0.8], [-4.0, 0.0]]
CLIPPED_USERS = [[0.0, 0.0], [0.6, 0.0], [0.0, -1.0]]
CLIPPED_ITEMS = [[0.0, 0.5], [1.0, 0.0], [0.0, 0.8], [-1.0, 0.0]]


def make(**settings: object) -> CML:
    model = CML(CMLConfig(dim=2, **settings), num_users=3, num_items=4)
    with torch.no_grad():
        model.user_embedding.copy_(torch.tensor(USERS))
        model.item_embedding.copy_(torch.tensor(ITEMS))
    return model.double()


def minus_squares(place: list[float], items: list[list[float]]) -> list[float]:
    return [-sum((a - b) ** 2 for a, b in zip(place, item, strict=True)) for item in items]


@torch.no_grad()
@pytest.mark.parametrize("is_clipped", [True, False])
def test_scores_are_minus_squared_distances(is_clipped: bool) -> None:
    model = make(max_norm=1.0 if is_clipped else None)
    users = CLIPPED_USERS if is_clipped else USERS
    items = CLIPPED_ITEMS if is_clipped else ITEMS[1:]
    batch = HistoryBatch.from_lists([[2], [], [1], [1, 0, 4], []], [3, 2, 1, 0, 0])
    two = [(items[0][d] + items[3][d]) / 2 for d in range(2)]
    mean = [sum(user[d] for user in users) / 3 for d in range(2)]
    scores = model.score(batch)[:, 1:]
    for row, place in zip(scores, [users[2], users[1], users[0], two, mean], strict=True):
        assert row.tolist() == pytest.approx(minus_squares(place, items), abs=1e-6)
    queries, lengths = model.queries(batch)
    table, bias = model.item_table()
    torch.testing.assert_close(queries @ table[1:].T + bias[1:], scores)
    assert lengths.tolist() == [1, 0, 1, 3, 0]


def test_clipping_moves_what_lies_outside_and_changes_no_score() -> None:
    model = make(max_norm=1.0)
    batch = HistoryBatch.from_lists([[2], []], [3, 0])
    with torch.no_grad():
        before = model.score(batch)
        model.clip_()
        torch.testing.assert_close(model.score(batch), before)
    for table, expected in (
        (model.user_embedding, CLIPPED_USERS),
        (model.item_embedding[1:], CLIPPED_ITEMS),
    ):
        torch.testing.assert_close(table.detach(), torch.tensor(expected).double())


def test_the_loss_and_its_gradient_by_hand() -> None:
    """User 2 at (.6, 0) has item 1, at a squared distance of .61.

    The others lie at .16 (item 2), 1.0 (item 3) and 2.56 (item 4, moved to the unit ball). With a
    margin of .5, those nearer than 1.11 are inside: 2 of 3, an estimated rank of 4 * 2 // 3 = 2.
    """
    model = make(margin=0.5, num_negatives=3)
    objective = MetricObjective(model, histories_of([[], [1]]), batch_size=4, seed=0)
    batch = [torch.tensor([2]), torch.tensor([[1, 3, 2, 4]])]
    loss = objective.loss(model, batch)
    weight = math.log(3)
    assert loss.item() == pytest.approx(weight * (0.5 + 0.61 - 0.16), rel=1e-6)
    loss.backward()
    # d/dv of |u - v|^2 is 2 (v - u), of the positive; minus that of the nearest negative, item 2.
    expected = torch.zeros(5, 2, dtype=torch.float64)
    expected[1] = 2 * weight * torch.tensor([-0.6, 0.5])
    expected[2] = -2 * weight * torch.tensor([0.4, 0.0])
    torch.testing.assert_close(model.item_embedding.grad, expected, rtol=1e-5, atol=1e-6)
    of_user = 2 * weight * torch.tensor([0.6 - 0.4 * -1, -0.5], dtype=torch.float64)
    torch.testing.assert_close(model.user_embedding.grad[1], of_user, rtol=1e-5, atol=1e-6)


def test_without_rank_weights_users_who_have_all_are_left_out() -> None:
    model = make(margin=0.5, num_negatives=2, rank_weight=False)
    objective = MetricObjective(model, histories_of([[1, 2, 3, 4], [1]]), batch_size=8, seed=0)
    batch = [torch.tensor([1, 2]), torch.tensor([[1, 0, 0], [1, 3, 2]])]
    assert objective.loss(model, batch).item() == pytest.approx(0.5 + 0.61 - 0.16, rel=1e-6)
    nobody = [torch.tensor([1]), torch.tensor([[1, 0, 0]])]
    assert objective.loss(model, nobody).item() == 0.0


def test_the_nearest_item_is_of_those_that_are_not_the_users_own() -> None:
    model = make(num_negatives=30)
    objective = MetricObjective(model, histories_of([[], [1, 2]]), batch_size=8, seed=0)
    (batch,) = objective.batches(1)
    assert batch[0].tolist() == [2, 2]
    assert {*batch[1][:, 1:].flatten().tolist()} == {3, 4}
