from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.data.frequency import StreamingFrequency, log_expected


def test_worked_numbers() -> None:
    estimator = StreamingFrequency(3, rate=0.01, first_gap=100.0).double()
    item = torch.tensor([2])
    for step, gap, share in (
        (50, 99.5, 0.010050),
        (100, 99.005, 0.010100),
        (150, 98.51495, 0.010151),
    ):
        estimator.step.fill_(step - 1)
        estimator.observe_(item)
        assert estimator.gap[0, 2].item() == pytest.approx(gap)
        assert estimator.probabilities(item).item() == pytest.approx(share, abs=1e-6)
    assert estimator.gap[0, :2].tolist() == [100.0, 100.0]


def test_finds_how_often_items_are_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([0.6, 0.3, 0.1])
    estimator = StreamingFrequency(4, rate=0.02, first_gap=10.0)
    for _ in range(1500):
        estimator.observe_(torch.from_numpy(1 + rng.choice(3, size=2, p=weights)))
    expected = 1 - (1 - weights) ** 2  # in a batch of two
    found = estimator.probabilities(torch.tensor([1, 2, 3])).numpy()
    np.testing.assert_allclose(found, expected, rtol=0.2)


def test_an_item_twice_in_a_batch_counts_once() -> None:
    once, twice = StreamingFrequency(3, rate=0.5), StreamingFrequency(3, rate=0.5)
    for step in range(1, 4):
        once.observe_(torch.tensor([1] if step == 3 else [2]))
        twice.observe_(torch.tensor([1, 1] if step == 3 else [2, 2]))
    assert torch.equal(once.gap, twice.gap)


def test_more_hash_functions_undo_collisions() -> None:
    ids = torch.arange(1, 40)
    errors = []
    for num_hashes in (1, 4):
        rng = np.random.default_rng(1)
        estimator = StreamingFrequency(
            40, rate=0.05, num_buckets=64, num_hashes=num_hashes, first_gap=40.0
        )
        for _ in range(600):
            estimator.observe_(torch.from_numpy(rng.integers(1, 40, size=1)))
        errors.append((estimator.probabilities(ids) * 39 - 1).clamp(min=0).mean().item())
    assert errors[1] < 0.5 * errors[0]  # collisions make an item look more frequent than it is


def test_state_comes_back() -> None:
    one, other = StreamingFrequency(5), StreamingFrequency(5)
    one.observe_(torch.tensor([1, 4]))
    other.load_state_dict(one.state_dict())
    for estimator in (one, other):
        estimator.observe_(torch.tensor([4]))
    assert torch.equal(one.gap, other.gap)
    assert one.step == other.step == 2


def test_candidates_of_two_kinds_are_expected_together() -> None:
    found = log_expected(torch.tensor([0.0, 2.0]), num_uniform=5, num_ids=10)
    np.testing.assert_allclose(found.exp(), [0.5, 2.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, r"0 < rate <= 1; got 0\.0"),
        ({"num_hashes": 2}, "1 <= num_hashes <= 1; got 2"),
        ({"num_buckets": 8, "num_hashes": 5}, "1 <= num_hashes <= 4; got 5"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingFrequency(3, **settings)  # type: ignore[arg-type]
