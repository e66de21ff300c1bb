"""Gates by history length, against a model whose gates are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ensue.evaluation.gates import measure_gates
from tests.contracts.planted import histories_of


class Known:
    """The first gate is a tenth of the item, the second 0.5."""

    gate_names = ("tenth", "half")

    def open_gates(self, items: Tensor) -> Tensor:
        return torch.stack([items / 10, torch.full(items.shape, 0.5)], dim=-1)


HISTORIES = histories_of([[2, 4, 6], [], [8], [4, 2, 2, 6, 9]])


def test_means_and_deviations_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.evaluation.gates.BATCH_TOKENS", 5)
    slices = measure_gates(Known(), HISTORIES)
    # Events number 1 are 2 8 4, numbers 2 and 3 are 4 6 2 2, numbers 4 and 5 are 6 9.
    assert [(s.first, s.last, s.num_requests) for s in slices] == [
        (1, 1, 3),
        (2, 3, 4),
        (4, 5, 2),
        (1, 5, 9),
    ]
    means = [s.means["tenth"] for s in slices]
    assert means == pytest.approx([1.4 / 3, 0.35, 0.75, 4.3 / 9])
    assert slices[1].deviations["tenth"] == pytest.approx(0.0275**0.5)
    assert slices[2].deviations["tenth"] == pytest.approx(0.15)
    for part in slices:
        assert part.means["half"] == 0.5
        assert part.deviations["half"] == 0.0


def test_a_sample_of_users_is_spread_over_the_ids() -> None:
    slices = measure_gates(Known(), HISTORIES, num_users=2)  # the first and the last with events
    assert slices[-1].num_requests == 8


def test_long_histories_count_by_their_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.evaluation.gates.MAX_EVENTS", 2)
    slices = measure_gates(Known(), HISTORIES)
    assert slices[-1].num_requests == 5
    assert slices[0].means["tenth"] == pytest.approx((0.4 + 0.8 + 0.6) / 3)


def test_no_events_no_gates() -> None:
    assert measure_gates(Known(), histories_of([[], []])) == []
