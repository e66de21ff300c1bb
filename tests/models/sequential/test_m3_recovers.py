"""What each range of M3 is for, on made data that only it can explain.

The tests train several variants, with convolutions for the short range, which read five events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from ensue.models.sequential.m3 import M3, M3Config
from ensue.training.objectives import make_objective
from tests.contracts.planted import histories_of

pytestmark = pytest.mark.slow  # trainings: half a minute together

Rows = list[list[int]]


def trained(rows: Rows, num_items: int, *, epochs: int, batch_size: int, **settings: object) -> M3:
    torch.manual_seed(0)
    config = M3Config(**{"dim": 16, "max_len": 80, "short": "conv", "dropout": 0.0, **settings})
    model = M3(config, num_users=len(rows), num_items=num_items)
    objective = make_objective(model, histories_of(rows), batch_size=batch_size, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(epochs):
        for batch in objective.batches(epoch):
            objective.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return model.eval()


@torch.no_grad()
def hit_rate(model: M3, rows: Rows, places: Sequence[int]) -> float:
    """Share of events at `places` that are the best guess from the events before them."""
    items = torch.tensor(rows)
    queries = model.encode(items[:, :-1])[:, [place - 1 for place in places]]
    guesses = model.match(queries.flatten(0, 1))[:, 1:].argmax(dim=1) + 1
    return float((guesses == items[:, places].flatten()).double().mean())


def chain(num_rows: int, length: int, num_items: int, follows: float) -> Rows:
    """A first-order chain: the successor of the last item, or else any item."""
    rng = np.random.default_rng(0)
    successor = rng.permutation(num_items)
    rows = []
    for _ in range(num_rows):
        row = [int(rng.integers(num_items))]
        while len(row) < length:
            keeps = rng.random() < follows
            row.append(int(successor[row[-1]]) if keeps else int(rng.integers(num_items)))
        rows.append([item + 1 for item in row])
    return rows


def sums(num_rows: int, length: int, num_items: int, follows: float) -> Rows:
    """The sum of the last three items modulo their number, or else any item."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(num_rows):
        row = rng.integers(0, num_items, 3).tolist()
        while len(row) < length:
            keeps = rng.random() < follows
            row.append(sum(row[-3:]) % num_items if keeps else int(rng.integers(num_items)))
        rows.append([item + 1 for item in row])
    return rows


TOPICS, CHOICES, TIMES, FILLERS, GAP = 2, 4, 6, 2, 38


def favorites(num_rows: int) -> Rows:
    """A favorite of each topic, some times, a long gap, then three times a topic and its favorite.

    Short gaps of other items keep what was said before out of sight of the convolutions.
    """
    rng = np.random.default_rng(0)
    cue, filler = TOPICS * CHOICES, TOPICS * CHOICES + TOPICS
    rows = []
    for _ in range(num_rows):
        favorite = [topic * CHOICES + int(rng.integers(CHOICES)) for topic in range(TOPICS)]
        row = [favorite[topic] for topic in rng.permutation(TOPICS) for _ in range(TIMES)]
        row += (filler + rng.integers(0, FILLERS, GAP)).tolist()
        for topic in rng.integers(0, TOPICS, 3).tolist():
            row += [cue + topic, favorite[topic]]
            row += (filler + rng.integers(0, FILLERS, 5)).tolist()
        rows.append([item + 1 for item in row])
    return rows


def test_a_first_order_chain_needs_the_tiny_range_alone() -> None:
    rows = chain(500, 20, num_items=30, follows=0.9)
    train, test = rows[:200], rows[200:]
    places = range(3, 20)
    found = {
        parts: hit_rate(
            trained(train, 30, epochs=20, batch_size=16, parts=parts, long_reads_last=False),
            test,
            places,
        )
        for parts in ("t", "s", "l", "tsl")
    }
    best_guess = 0.9 + 0.1 / 30
    assert found["t"] == pytest.approx(best_guess, abs=0.015)
    assert found["t"] > found["s"] > found["l"] + 0.05
    assert found["tsl"] > 0.98 * found["t"]


def test_an_order_code_needs_the_short_range() -> None:
    rows = sums(600, 20, num_items=4, follows=0.75)
    train, test = rows[:300], rows[300:]
    places = range(3, 20)
    found = {
        parts: hit_rate(trained(train, 4, epochs=60, batch_size=32, parts=parts), test, places)
        for parts in ("t", "s", "l", "tsl")
    }
    best_guess = 0.75 + 0.25 / 4
    assert found["s"] > best_guess - 0.08
    assert found["tsl"] > 0.98 * found["s"]
    assert max(found["t"], found["l"]) < 0.4


def test_a_favorite_of_long_ago_needs_the_long_range() -> None:
    rows = favorites(700)
    train, test = rows[:400], rows[400:]
    num_items = TOPICS * CHOICES + TOPICS + FILLERS
    places = [TOPICS * TIMES + GAP + 1]  # the first favorite that is asked for
    found = {
        parts: hit_rate(
            trained(train, num_items, epochs=16, batch_size=16, parts=parts), test, places
        )
        for parts in ("s", "ts", "l", "tsl")
    }
    chance = 1 / CHOICES
    assert max(found["s"], found["ts"]) < chance + 0.1
    assert found["tsl"] > 0.98 * max(found["s"], found["l"])
    assert found["tsl"] > 0.9


def test_without_the_order_the_short_range_loses_its_gain() -> None:
    """Histories shuffled but for their last event keep all that does not depend on the order."""
    rows = chain(500, 20, num_items=30, follows=0.9)
    train, test = rows[:200], rows[200:]
    rng = np.random.default_rng(1)
    shuffled = [[*rng.permutation(row[:-1]).tolist(), row[-1]] for row in train]
    in_order, without = (
        hit_rate(
            trained(data, 30, epochs=20, batch_size=16, parts="s", short="gru"), test, range(3, 20)
        )
        for data in (train, shuffled)
    )
    most_popular = np.bincount(np.concatenate(train)).argmax()
    baseline = float(np.mean([row[3:] == most_popular for row in map(np.array, test)]))
    assert in_order > baseline + 0.5
    assert without - baseline < 0.25 * (in_order - baseline)
