"""Gates by history length, against a model whose gates are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from ensue.data.context import ContextColumn, ContextSchema
from ensue.data.ids import IdMap
from ensue.evaluation.gates import gates_of_history, measure_context_gates, measure_gates
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


class KnownContext:
    """Both gates are read off the context: of the last event, and of the request."""

    gate_names = ("event", "request")

    def open_gates(self, items: Tensor, event: Tensor, request: Tensor) -> Tensor:
        assert event.shape == (*items.shape, 2)
        return torch.stack([event[..., 1] / 10, request[..., 0] / 10], dim=-1)


def test_gates_by_value_of_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are the events that another one follows; its page is that of the request."""
    monkeypatch.setattr("ensue.evaluation.gates.BATCH_TOKENS", 5)
    codes = np.array([1, 2, 2, 3, 3, 0, 3, 1, 2])  # of 2 4 6 | | 8 | 4 2 2 6 9
    pages, hours = codes.astype(np.int32), 10 - codes.astype(float)
    histories = replace(HISTORIES, event_context=(pages, hours), request_context=(pages,))
    page = ContextColumn("page", 3)
    schema = ContextSchema((page, ContextColumn("hour")), (page,))
    known = {"page": IdMap(pl.Series(["a", "b", "c"]))}
    found = measure_context_gates(KnownContext(), histories, schema, known)
    # Pairs of pages are 12 22 | 30 03 31 12; user 3 has one event, which nothing follows.
    assert [(m.side, m.column, m.value, m.num_requests) for m in found] == [
        ("event", "page", "a", 2),
        ("event", "page", "c", 2),
        ("event", "page", None, 1),
        ("event", "page", "b", 1),
        ("request", "page", "b", 3),
        ("request", "page", None, 1),
        ("request", "page", "a", 1),
        ("request", "page", "c", 1),
    ]
    assert found[0].means["event"] == pytest.approx(0.9)
    assert found[0].deviations == pytest.approx({"event": 0.0, "request": 0.0})
    assert found[1].means["request"] == pytest.approx(0.05)  # c then missing, c then a
    assert found[1].deviations["request"] == pytest.approx(0.05)
    assert found[4].means == pytest.approx({"event": (9 + 8 + 9) / 30, "request": 0.2})
    by_length = measure_gates(KnownContext(), histories)
    assert [(m.first, m.last, m.num_requests) for m in by_length] == [
        (1, 1, 2),
        (2, 3, 3),
        (4, 4, 1),
        (1, 4, 6),
    ]


def test_gates_of_one_history_are_those_behind_its_last_event() -> None:
    nothing = np.empty(0)
    items = np.array([2, 4, 6])
    found = gates_of_history(Known(), items, np.empty((3, 0)), nothing)
    assert found == pytest.approx({"tenth": 0.6, "half": 0.5})
    assert gates_of_history(Known(), items[:0], np.empty((0, 0)), nothing) == {}
    event = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 7.0]])
    found = gates_of_history(KnownContext(), items, event, np.array([3.0]))
    assert found == pytest.approx({"event": 0.7, "request": 0.3})


def test_the_most_frequent_values_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.evaluation.gates.MAX_VALUES", 1)
    codes = np.array([1, 2, 2, 2, 1, 1, 1, 2, 1], dtype=np.int32)
    histories = replace(HISTORIES, request_context=(codes,))
    schema = ContextSchema(request=(ContextColumn("page", 2),))

    class OfRequest:
        gate_names = ("only",)

        def open_gates(self, items: Tensor, event: Tensor, request: Tensor) -> Tensor:
            assert event.shape == (*items.shape, 0)
            return request

    (found,) = measure_context_gates(
        OfRequest(), histories, schema, {"page": IdMap(pl.Series(["a", "b"]))}
    )
    assert (found.value, found.num_requests, found.means) == ("a", 3, {"only": 1.0})
