"""What every model of sequences must do. A new model joins with one line in CASES.

Weights are random and larger than at the start of a training, so that no part of a model is near
the identity; everything is compared in float64. Models that read context are given one that depends
on the item and its place (of events) and on the place alone (of requests).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import ContextColumn, ContextSchema
from ensue.data.histories import HistoryBatch
from ensue.models.retrieval.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.nn.growing_items import see_items_

NUM_ITEMS = 30
MAX_LEN = 12
CATEGORY, NUMBER = ContextColumn("category", 3), ContextColumn("number")


def gru4rec(**settings: Any) -> Callable[[], SequenceModel]:
    config = GRU4RecConfig(dim=8, max_len=MAX_LEN, **settings)
    return lambda: GRU4Rec(config, num_users=5, num_items=NUM_ITEMS)


def sasrec(**settings: Any) -> Callable[[], SequenceModel]:
    config = SASRecConfig(dim=8, num_heads=2, max_len=MAX_LEN, **settings)
    return lambda: SASRec(config, num_users=5, num_items=NUM_ITEMS)


def m3(context: ContextSchema | None = None, **settings: Any) -> Callable[[], SequenceModel]:
    if context:
        settings["context_in"] = [column.name for column in context.event]
        settings["context_out"] = [column.name for column in context.request]
    config = M3Config(dim=8, max_len=MAX_LEN, **settings)
    return lambda: M3(config, num_users=5, num_items=NUM_ITEMS, context=context)


def grown(make: Callable[..., Callable[[], SequenceModel]], **settings: Any) -> Any:
    """Return what makes a model on growing tables that have rows of half of the items."""
    growth = {"slab_bits": 2, "start_scale": 1.0}

    def make_grown() -> SequenceModel:
        model = make(growth=growth, **settings)()
        see_items_(model, torch.arange(2, NUM_ITEMS + 1, 2))
        return model

    return make_grown


CASES: dict[str, Callable[[], SequenceModel]] = {
    "sasrec": sasrec(),
    "sasrec-places": sasrec(positions="learned"),
    "gru4rec": gru4rec(),
    "gru4rec-deep": gru4rec(num_layers=2, hidden_dim=6),
    "deep-retrieval": lambda: DeepRetrieval(
        DeepRetrievalConfig(dim=8, width=4, max_len=MAX_LEN), num_users=5, num_items=NUM_ITEMS
    ),
    "m3r": m3(),
    "m3c": m3(short="conv"),
    "m3-t": m3(parts="t"),
    "m3-s": m3(parts="s", gates="fixed"),
    "m3-s-conv": m3(parts="s", short="conv", conv_layers=1, conv_width=2),
    "m3-l": m3(parts="l"),
    "m3-sum-top": m3(mixture="sum", gates="top", output="tied"),
    "m3-projected": m3(attention="projected", norm=True, hidden_dim=10),
    "m3-others-projected": m3(attention="projected", long_reads_last=False),
    "m3-others": m3(parts="tl", long_reads_last=False),
    "sasrec-growing": grown(sasrec),
    "gru4rec-growing": grown(gru4rec),
    "m3-growing": grown(m3, parts="ts"),
    "m3-context": m3(ContextSchema((CATEGORY, NUMBER), (NUMBER, CATEGORY))),
    "m3-context-in": m3(ContextSchema(event=(NUMBER,)), short="conv", gates="bottom"),
    "m3-context-out": m3(ContextSchema(request=(CATEGORY,)), mixture="sum", parts="sl"),
}


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> SequenceModel:
    torch.manual_seed(1)
    made = CASES[request.param]().double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        if isinstance(made.item_embedding, Tensor):
            made.item_embedding[0] = 0
    if isinstance(made, M3):
        for features in (made.event_features, made.request_features):
            features.standardize_([(0.2, 0.7)] * len(features.numeric))
    return made


def histories(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(1, NUM_ITEMS + 1, length).tolist() for length in lengths]


def values_of(columns: tuple[ContextColumn, ...], places: NDArray[Any]) -> NDArray[np.float64]:
    """Return the context [n, C] of n events or requests; some values are missing."""
    known = {CATEGORY: places % 4, NUMBER: np.where(places % 5 == 0, np.nan, np.sin(places))}
    return np.stack([np.zeros(len(places)), *(known[column] for column in columns)], axis=1)[:, 1:]


def context_of(model: SequenceModel, row: list[int]) -> list[NDArray[np.float64]]:
    """Return the context of each event and of each request behind one [n, C]; [] of no context."""
    if model.context.is_empty:
        return []
    places = np.arange(len(row))
    return [
        values_of(model.context.event, 7 * np.array(row, dtype=np.int64) + places),
        values_of(model.context.request, 3 * places + 1),
    ]


def batch_of(model: SequenceModel, rows: list[list[int]]) -> HistoryBatch:
    if model.context.is_empty:
        return HistoryBatch.from_lists(rows)
    contexts = [context_of(model, row) for row in rows]
    none = np.zeros(len(model.context.request))  # of a history without events
    return HistoryBatch.from_lists(
        rows,
        event_context=[event for event, _ in contexts],
        request_context=[request[-1] if len(request) else none for _, request in contexts],
    )


def encode(model: SequenceModel, *rows: list[int], width: int | None = None) -> Tensor:
    width = max(len(row) for row in rows) if width is None else width
    contexts = [
        [np.pad(values, ((0, width - len(row)), (0, 0))) for values in context_of(model, row)]
        for row in rows
    ]
    items = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    context = [torch.from_numpy(np.stack(side)) for side in zip(*contexts, strict=True)]
    with torch.no_grad():
        return model.encode(items, *context)


def follow(model: SequenceModel, state: Any, row: list[int], place: int) -> tuple[Tensor, Any]:
    """Read the event at a place of a history, and answer the request behind it."""
    context = [torch.from_numpy(values[place]) for values in context_of(model, row)]
    return model.advance(state, row[place], *context)


def test_one_query_for_each_event(model: SequenceModel) -> None:
    (row,) = histories([7])
    assert encode(model, row).shape == (1, 7, model.output_embedding.shape[1])


def test_all_steps_at_once_equal_each_prefix_alone(model: SequenceModel) -> None:
    (row,) = histories([MAX_LEN])
    together = encode(model, row)[0]
    for length in range(1, MAX_LEN + 1):
        torch.testing.assert_close(encode(model, row[:length])[0, -1], together[length - 1])


def test_an_event_changes_nothing_before_it_and_something_from_it_on(model: SequenceModel) -> None:
    (row,) = histories([MAX_LEN])
    before = encode(model, row)[0]
    for changed in range(MAX_LEN):
        other = list(row)
        other[changed] = other[changed] % NUM_ITEMS + 1
        after = encode(model, other)[0]
        torch.testing.assert_close(after[:changed], before[:changed], rtol=0, atol=0)
        assert not torch.allclose(after[changed], before[changed]), changed


def test_padding_behind_a_history_changes_nothing(model: SequenceModel) -> None:
    rows = histories([3, MAX_LEN, 1, 8])
    padded = encode(model, *rows)
    for row, own in zip(rows, padded, strict=True):
        torch.testing.assert_close(own[: len(row)], encode(model, row)[0])
        wide = encode(model, row, width=MAX_LEN)[0]
        torch.testing.assert_close(wide[: len(row)], encode(model, row)[0])


def test_queries_are_the_last_of_each_history(
    model: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.models.sequence.SCORED_TOKENS", 2 * MAX_LEN)
    rows = histories([3, 0, MAX_LEN, 1, 8, 8, 5])
    with torch.no_grad():
        queries, lengths = model.queries(batch_of(model, rows))
    assert lengths.tolist() == [3, 0, MAX_LEN, 1, 8, 8, 5]
    assert queries[1].count_nonzero() == 0
    for row, query in zip(rows, queries, strict=True):
        if row:
            torch.testing.assert_close(query, encode(model, row)[0, -1])


@torch.no_grad()
def test_a_kept_state_follows_a_history_event_by_event(model: SequenceModel) -> None:
    (row,) = histories([2 * MAX_LEN])  # beyond what is read in training
    state = model.start()
    for length in range(1, len(row) + 1):
        query, state = follow(model, state, row, length - 1)
        expected = model.score(batch_of(model, [row[:length]]))[0]
        torch.testing.assert_close(model.match(query[None])[0], expected)


@torch.no_grad()
def test_a_state_can_be_continued_in_two_ways(model: SequenceModel) -> None:
    (row,) = histories([4])
    state = model.start()
    for place in range(4):
        _, state = follow(model, state, row, place)
    first, _ = follow(model, state, [*row, 5], 4)
    follow(model, state, [*row, 6], 4)
    again, _ = follow(model, state, [*row, 5], 4)
    assert torch.equal(first, again)


@torch.no_grad()
def test_a_history_without_events_gets_the_popular_items(model: SequenceModel) -> None:
    model.log_popularity.copy_(torch.arange(NUM_ITEMS + 1.0).log())
    scores = model.score(batch_of(model, [[], [3]]))
    torch.testing.assert_close(scores[0], model.log_popularity)
    assert not torch.equal(scores[1], model.log_popularity)


def test_finite_differences_of_every_parameter(model: SequenceModel) -> None:
    items = torch.tensor([[3, 5, 3, 9], [7, 2, 0, 0]])
    sides = zip(*(context_of(model, row) for row in items.tolist()), strict=True)
    context = [torch.from_numpy(np.stack(side)) for side in sides]
    generator = torch.Generator().manual_seed(0)
    shape = model.encode(items, *context).shape
    weights = torch.randn(shape, dtype=torch.float64, generator=generator)
    weights[1, 2:] = 0  # padded positions

    def loss() -> Tensor:
        return (model.encode(items, *context) * weights).sum()

    model.zero_grad()
    loss().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:  # a table of the output alone
            continue
        gradient, flat = parameter.grad.flatten(), parameter.data.view(-1)
        places = torch.randint(len(flat), (4,), generator=generator).tolist()
        for place in [*places, int(gradient.abs().argmax())]:
            if name == "item_embedding" and place < parameter.shape[1]:
                continue  # padding is not trained
            kept, step = flat[place].item(), 1e-6
            with torch.no_grad():
                flat[place] = kept + step
                above = loss().item()
                flat[place] = kept - step
                below = loss().item()
                flat[place] = kept
            numeric = (above - below) / (2 * step)
            assert gradient[place].item() == pytest.approx(numeric, rel=1e-5, abs=1e-6), name
