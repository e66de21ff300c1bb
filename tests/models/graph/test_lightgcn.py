from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.losses.papk import PapkConfig
from ensue.models.graph.lightgcn import LightGCN, LightGCNConfig
from ensue.training.lightgcn import GraphSoftmaxObjective
from ensue.training.objectives import make_objective
from ensue.training.papk import PapkObjective
from tests.contracts.planted import histories_of

LISTS = [[1, 2, 3], [2, 2, 4], [], [5, 1], [4, 3, 1, 2]]  # item 6 is nobody's
NUM_USERS, NUM_ITEMS = len(LISTS), 6
HISTORIES = histories_of(LISTS)


def make(**settings: object) -> LightGCN:
    torch.manual_seed(0)
    config = LightGCNConfig.model_validate({"dim": 4, "init_std": 1.0, **settings})
    model = LightGCN(config, num_users=NUM_USERS, num_items=NUM_ITEMS)
    model.observe_(HISTORIES)
    return model


def by_definition(model: LightGCN) -> tuple[Tensor, Tensor]:
    """Return the mean of all layers of users and items, by the whole matrix."""
    whole = torch.zeros(NUM_USERS + NUM_ITEMS, NUM_USERS + NUM_ITEMS, dtype=torch.float64)
    for user, items in enumerate(LISTS):
        for item in items:
            whole[user, NUM_USERS + item - 1] = whole[NUM_USERS + item - 1, user] = 1
    degrees = whole.sum(dim=1)
    roots = torch.where(degrees > 0, degrees.rsqrt(), 0.0)
    whole = roots[:, None] * whole * roots
    layers = [torch.cat([model.user_embedding, model.item_embedding]).double()]
    for _ in range(model.config.num_layers):
        layers.append(whole @ layers[-1])
    mean = torch.stack(layers).mean(dim=0)
    return mean[:NUM_USERS], mean[NUM_USERS:]


@pytest.mark.parametrize(("similarity", "power"), [("cosine", 0), ("cosine", 0.3), ("dot", 0.3)])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_answers_are_those_of_the_whole_matrix(
    similarity: str, power: float, num_layers: int
) -> None:
    model = make(similarity=similarity, length_power=power, num_layers=num_layers)
    users, items = by_definition(model)
    lengths = torch.ones(NUM_ITEMS, 1)
    if similarity == "cosine":
        lengths = items.square().sum(dim=1, keepdim=True).sqrt() ** power
        users, items = F.normalize(users, dim=1), F.normalize(items, dim=1)
    batch = HistoryBatch.from_lists(LISTS, range(1, NUM_USERS + 1))
    has_items = torch.tensor([len(own) > 0 for own in LISTS])
    # From the graph, where lengths do not count, and from what was stored.
    for mode, scale in ((True, torch.ones(NUM_ITEMS, 1)), (False, lengths)):
        scores = model.train(mode).score(batch)[has_items, 1:]
        expected = (users @ (items * scale).T).float()[has_items]
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    pairs = model.train().logits(torch.tensor([1, 5]), torch.tensor([[2, 6], [3, 0]]))
    expected = torch.stack([users[0] @ items[1], users[0] @ items[5], users[4] @ items[2]])
    torch.testing.assert_close(pairs.flatten()[:3], expected.float() * 10, rtol=0, atol=1e-4)


def test_an_unknown_user_is_a_user_without_a_vector() -> None:
    model = make(similarity="dot").eval()
    scores = model.score(HistoryBatch.from_lists([[1, 2, 3], [3, 0, 2, 1, 1]], [0, 0]))
    torch.testing.assert_close(scores[0], scores[1])
    with torch.no_grad():
        users, items = by_definition(model)
        own = users[0] - model.user_embedding[0].double() / 4
    torch.testing.assert_close(scores[0, 1:], (items @ own).float(), rtol=0, atol=1e-5)


def test_who_says_nothing_gets_the_mean_of_all() -> None:
    model = make().eval()
    nothing = HistoryBatch.from_lists([[], [6], [0], []], [0, 0, 0, 3])
    users, _ = by_definition(model)
    expected = F.normalize(users.mean(dim=0), dim=0).float()
    assert model.user_embedding[2].tolist() == [0.0] * 4  # user 3 has no item
    for query in model.queries(nothing)[0]:
        torch.testing.assert_close(query, expected, rtol=0, atol=1e-5)


def test_the_softmax_is_over_what_a_user_does_not_have() -> None:
    model = make(temperature=0.5)
    objective = make_objective(model, HISTORIES, batch_size=10, seed=0)
    assert isinstance(objective, GraphSoftmaxObjective)
    (batch,) = objective.batches(1)
    users, items = by_definition(model)
    logits = F.normalize(users, dim=1) @ F.normalize(items, dim=1).T / 0.5
    losses = []
    for user, own in enumerate(LISTS):
        others = [item - 1 for item in range(1, NUM_ITEMS + 1) if item not in own]
        for item in set(own):
            chosen = logits[user, [item - 1, *others]]
            losses.append(chosen.logsumexp(dim=0) - chosen[0])
    expected = torch.stack(losses).mean()
    loss = objective.loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    found = torch.autograd.grad(loss, [model.user_embedding, model.item_embedding])
    wanted = torch.autograd.grad(expected, [model.user_embedding, model.item_embedding])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert objective.num_examples == 4


def test_drawn_items_are_corrected_by_how_often_they_are_there() -> None:
    model = make(num_negatives=2)
    objective = GraphSoftmaxObjective(model, HISTORIES, batch_size=1, seed=0)
    counts, num_batches = np.zeros(NUM_ITEMS), 0
    for epoch in range(1, 251):
        for _, items, _, drawn in objective.batches(epoch):
            counts[torch.unique(torch.cat([items, drawn])) - 1] += 1
            num_batches += 1
    deviation = np.sqrt(0.25 / num_batches)
    assert objective.log_q is not None
    np.testing.assert_allclose(objective.log_q.exp(), counts / num_batches, atol=4 * deviation)
    batch = next(iter(objective.batches(1)))
    objective.loss(model, batch).backward()
    assert model.item_embedding.grad is not None
    assert model.item_embedding.grad.isfinite().all()


def test_drawing_all_items_is_the_whole_catalogue() -> None:
    model = make(num_negatives=500)
    drawn = GraphSoftmaxObjective(model, HISTORIES, batch_size=10, seed=0)
    whole = GraphSoftmaxObjective(make(), HISTORIES, batch_size=10, seed=0)
    values = [o.loss(model, next(iter(o.batches(1)))).item() for o in (drawn, whole)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_papk_reads_no_edge_from_a_user_to_what_is_asked_for() -> None:
    model = make()
    objective = PapkObjective(model, HISTORIES, PapkConfig(k=2), batch_size=10, seed=0)
    (batch,) = objective.batches(1)
    objective.loss(model, batch).backward()
    assert model.user_embedding.grad is not None
    history = HistoryBatch.from_lists([[1, 2]], [1])
    users, _ = by_definition(model)
    query = model.queries(history)[0][0]
    assert not torch.allclose(query, F.normalize(users[0], dim=0).float(), atol=1e-3)


def test_a_model_that_was_told_of_no_graph_does_not_train() -> None:
    model = LightGCN(LightGCNConfig(dim=2), num_users=3, num_items=3)
    with pytest.raises(RuntimeError, match="observe_"):
        model.layers()
