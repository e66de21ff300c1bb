"""GRU4Rec against its equations, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of


def small(num_items: int = 9, **settings: object) -> GRU4Rec:
    torch.manual_seed(0)
    config = GRU4RecConfig(**{"dim": 4, "max_len": 6, **settings})
    model = GRU4Rec(config, num_users=3, num_items=num_items).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.item_embedding[0] = 0
    return model


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def by_definition(model: GRU4Rec, items: list[int]) -> list[Tensor]:
    """All queries, one event and one layer at a time."""
    gru = model.gru
    hidden = [torch.zeros(gru.hidden_size).double() for _ in range(gru.num_layers)]
    queries = []
    for item in items:
        x = model.item_embedding[item]
        for layer in range(gru.num_layers):
            h = hidden[layer]
            weights = [getattr(gru, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")]
            biases = [getattr(gru, f"{name}_l{layer}") for name in ("bias_ih", "bias_hh")]
            from_x = (weights[0] @ x + biases[0]).chunk(3)
            from_h = (weights[1] @ h + biases[1]).chunk(3)
            reset = sigmoid(from_x[0] + from_h[0])
            update = sigmoid(from_x[1] + from_h[1])
            candidate = torch.tanh(from_x[2] + reset * from_h[2])
            x = hidden[layer] = (1 - update) * candidate + update * h
        if model.config.hidden_dim:
            x = model.output.weight @ x + model.output.bias
        queries.append(x)
    return queries


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "hidden_dim": 3}], ids=str)
@torch.no_grad()
def test_equals_its_definition(settings: dict[str, object]) -> None:
    model = small(**settings)
    items = [3, 9, 3, 1, 7]
    queries = model.encode(torch.tensor([items]))[0]
    torch.testing.assert_close(queries, torch.stack(by_definition(model, items)))


@torch.no_grad()
def test_the_last_query_meets_the_item_vectors() -> None:
    model = small()
    history = [2, 8, 8, 5, 1, 4, 6, 3, 9, 7]  # longer than what is read in training
    query = by_definition(model, history)[-1]
    (scores,) = model.score(HistoryBatch.from_lists([history]))
    torch.testing.assert_close(scores, torch.stack([row @ query for row in model.item_embedding]))


@torch.no_grad()
def test_an_event_long_ago_is_still_read() -> None:
    model = small()
    one, other = model.score(HistoryBatch.from_lists([[1, *[4] * 8], [2, *[4] * 8]]))
    assert model.max_len is None
    assert not torch.allclose(one, other, rtol=1e-9)


@pytest.mark.slow
def test_learns_an_order_by_heart() -> None:
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(dim=16, max_len=8, dropout=0.0), num_users=2, num_items=6)
    rows = [[1, 2, 3, 2, 1, 4], [5, 2, 3, 2, 6, 4]]  # what follows 2 depends on what was before
    objective = make_objective(model, histories_of(rows), batch_size=2, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(150):
        for batch in objective.batches(epoch):
            objective.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    with torch.no_grad():
        for row in rows:
            scores = model.match(model.encode(torch.tensor([row[:-1]]))[0])
            assert scores[:, 1:].argmax(dim=1).add(1).tolist() == row[1:]
    assert model.item_embedding[0].count_nonzero() == 0
