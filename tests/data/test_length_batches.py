from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.length_batches import LengthBatches
from tests.contracts.planted import histories_of


def test_what_is_read_and_what_follows() -> None:
    histories = histories_of([[1, 2, 3, 4, 5], [6, 7], [8], []])
    batches = LengthBatches(histories, max_len=8, batch_size=4)
    assert batches.users.tolist() == [1, 2]  # the others have nothing to predict
    assert batches.num_targets == 5
    items, targets = batches.gather(np.array([1, 2]), np.random.default_rng(0))
    assert items.tolist() == [[1, 2, 3, 4], [6, 0, 0, 0]]
    assert targets.tolist() == [[2, 3, 4, 5], [7, 0, 0, 0]]


def test_long_histories_are_cropped_to_their_last_events() -> None:
    batches = LengthBatches(histories_of([[1, 2, 3, 4, 5]]), max_len=3, batch_size=4)
    items, targets = batches.gather(np.array([1]), np.random.default_rng(0))
    assert (items.tolist(), targets.tolist()) == ([[2, 3, 4]], [[3, 4, 5]])
    assert batches.num_targets == 3


def test_random_crops_reach_every_stretch_alike() -> None:
    histories = histories_of([list(range(1, 7)), [7, 8]])
    batches = LengthBatches(histories, max_len=3, batch_size=4, crop="random")
    rng = np.random.default_rng(0)
    first = []
    for _ in range(600):
        items, targets = batches.gather(np.array([1, 2]), rng)
        assert (targets[0] == items[0] + 1).all()
        assert (items[1].tolist(), targets[1].tolist()) == ([7, 0, 0], [8, 0, 0])
        first.append(items[0, 0])
    assert np.bincount(first)[1:] == pytest.approx([200, 200, 200], abs=50)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    max_len=st.integers(1, 30),
    batch_size=st.integers(1, 9),
)
def test_an_epoch_has_every_history_once_in_batches_of_bounded_size(
    lengths: list[int], max_len: int, batch_size: int
) -> None:
    histories = histories_of([list(range(1, length + 1)) for length in lengths])
    batches = LengthBatches(histories, max_len=max_len, batch_size=batch_size)
    rng = np.random.default_rng(0)
    plan = batches.plan(rng)
    users = sorted(user for batch in plan for user in batch.tolist())
    assert users == [user for user, length in enumerate(lengths, start=1) if length > 1]
    total = 0
    for batch in plan:
        items, targets = batches.gather(batch, rng)
        total += np.count_nonzero(targets)
        assert items.size <= max(max_len, batch_size * max_len)
        assert ((items > 0) == (targets > 0)).all()
    assert total == batches.num_targets


def test_little_is_padding_and_epochs_differ() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(0.15, 4000), 50)
    histories = histories_of([[1] * length for length in lengths])
    batches = LengthBatches(histories, max_len=50, batch_size=32)
    plan, other = batches.plan(rng), batches.plan(rng)
    padded = sum(batches.gather(batch, rng)[0].size for batch in plan)
    assert padded < 1.05 * batches.num_targets
    sizes = {len(batch) for batch in plan}
    assert len(plan) == pytest.approx(4000 / 32, rel=0.15)
    assert len(sizes) > 5  # many short histories or few long ones
    assert [batch.tolist() for batch in plan] != [batch.tolist() for batch in other]
    assert {frozenset(b.tolist()) for b in plan} != {frozenset(b.tolist()) for b in other}
