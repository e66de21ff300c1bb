"""SASRec against a plain account of its equations, its special cases, and its settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.histories import HistoryBatch
from ensue.errors import ConfigError
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of


def small(num_items: int = 9, **settings: object) -> SASRec:
    torch.manual_seed(0)
    config = SASRecConfig(
        **{"dim": 4, "max_len": 6, "num_heads": 2, "positions": "learned", **settings}
    )
    model = SASRec(config, num_users=3, num_items=num_items).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        model.item_embedding[0] = 0
    return model


def normalized(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean = x.mean()
    return (x - mean) / ((x - mean).square().mean() + 1e-5).sqrt() * scale + shift


@torch.no_grad()
def by_definition(model: SASRec, items: list[int]) -> Tensor:
    """The last query, one vector at a time."""
    dim, num_heads = model.config.dim, model.config.num_heads
    width = dim // num_heads
    xs = [
        model.item_embedding[item] * math.sqrt(dim) + model.position_embedding[place]
        for place, item in enumerate(items)
    ]
    for block in model.transformer.blocks:
        norm, attention = block.attention_norm, block.attention
        parts = [
            attention.query_key_value(normalized(x, norm.weight, norm.bias)).split(dim) for x in xs
        ]
        after = []
        for t, x in enumerate(xs):
            heads = []
            for head in range(num_heads):
                own = slice(head * width, (head + 1) * width)
                query = parts[t][0][own]
                logits = torch.stack(
                    [query @ parts[i][1][own] / math.sqrt(width) for i in range(t + 1)]
                )
                weights = logits.exp() / logits.exp().sum()
                heads.append(sum(weights[i] * parts[i][2][own] for i in range(t + 1)))
            x = x + attention.output(torch.cat(heads))
            norm = block.feedforward_norm
            hidden = block.expand(normalized(x, norm.weight, norm.bias)).clamp(min=0)
            after.append(x + block.contract(hidden))
            norm = block.attention_norm
        xs = after
    last = model.transformer.norm
    return normalized(xs[-1], last.weight, last.bias)


def test_equals_its_definition() -> None:
    model = small()
    items = [3, 9, 3, 1, 7]
    with torch.no_grad():
        query = model.encode(torch.tensor([items]))[0, -1]
    torch.testing.assert_close(query, by_definition(model, items))


def test_only_the_last_events_are_read() -> None:
    model = small()
    long = [1, 2, 3, 4, 5, 6, 7, 8]

    with torch.no_grad():
        scores = model.score(HistoryBatch.from_lists([long, long[-6:]]))
    assert torch.equal(scores[0], scores[1])


def test_without_positions_the_order_of_earlier_events_does_not_matter_to_one_block() -> None:
    model = small(num_blocks=1)
    with torch.no_grad():
        model.position_embedding.zero_()
        one = model.encode(torch.tensor([[4, 2, 9, 5]]))[0, -1]
        other = model.encode(torch.tensor([[9, 4, 2, 5]]))[0, -1]
        moved_last = model.encode(torch.tensor([[4, 2, 5, 9]]))[0, -1]
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, moved_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "softmax"},
        {"loss": "sampled_softmax", "num_negatives": 20},
        {"loss": "sampled_softmax", "num_negatives": 20, "negatives": "popularity"},
        {"loss": "sampled_softmax", "negatives": "in_batch"},
        {"loss": "gbce", "num_negatives": 5},
        {"loss": "bce", "num_negatives": 5},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_learns_by_heart_with_every_loss(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = SASRecConfig(dim=16, max_len=8, dropout=0.0, **settings)
    model = SASRec(config, num_users=4, num_items=12)
    rows = [[1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 1], [5, 3, 9, 7]]
    histories = histories_of(rows)
    objective = make_objective(model, histories, batch_size=2, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(150):
        for batch in objective.batches(epoch):
            objective.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    for row in rows[:3]:
        with torch.no_grad():
            scores = model.match(model.encode(torch.tensor([row[:-1]]))[0])
        assert scores[:, 1:].argmax(dim=1).add(1).tolist() == row[1:]
    assert model.item_embedding[0].count_nonzero() == 0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="dim must be a multiple of num_heads, 3"):
        make_config(SASRecConfig, {"dim": 64, "num_heads": 3})
