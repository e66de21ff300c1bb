"""Answers to all queries at once are those to each history alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.data.context import take_rows
from ensue.data.histories import Histories, HistoryBatch
from ensue.models.base import Model
from ensue.models.sequence import SequenceModel
from ensue.training.distillation import prefixes
from ensue.training.distillation.prefixes import answer_all, prefix_batch
from tests.training.distillation.models import (
    LENGTHS,
    NUM_ITEMS,
    NUM_USERS,
    make_log,
    make_model,
    without_context,
)


def answer_rows(model: Model, log: Histories) -> dict[int, Tensor]:
    """Return the scores of each row; each is answered once, for its own user."""
    found: dict[int, Tensor] = {}
    for answers in answer_all(model, log):
        owners = np.searchsorted(log.starts, answers.rows, side="right") - 1
        for row, user, owner, scores in zip(
            answers.rows.tolist(), answers.users, owners, answers.scores, strict=True
        ):
            assert row not in found
            assert log.starts[user] <= row < log.ends[user]
            assert log.starts[owner] == log.starts[user]
            found[row] = scores.clone()
        if answers.queries is not None:
            expected = answers.queries @ model.output_embedding.T
            if model.output_bias is not None:
                expected = expected + model.output_bias
            torch.testing.assert_close(answers.scores, expected)
    return found


def score_alone(
    model: Model, log: Histories, user: int, row: int, num_events: int | None = None
) -> Tensor:
    """Return the model's own scores for what the user did before `row`, or the end of it."""
    first = log.starts[user] if num_events is None else row - num_events
    rows = np.arange(first, row)
    context = {}
    if not model.context.is_empty:
        context["event_context"] = [take_rows(log.event_context, rows)]
        context["request_context"] = [take_rows(log.request_context, np.array([row]))[0]]
    batch = HistoryBatch.from_lists([log.items[rows].astype(np.int64)], [user], **context)
    with torch.inference_mode():
        return model.score(batch)[0]


def of_all_rows(log: Histories) -> list[tuple[int, int]]:
    return [(u, row) for u in range(NUM_USERS + 1) for row in range(log.starts[u], log.ends[u])]


NAMES = ["caser", "sasrec", "gru4rec", "m3", "m3-context", "item-knn", "markov", "popularity"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_cut", [False, True])
def test_each_interaction_is_answered_once_as_the_model_scores_it(
    name: str, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_cut:  # two rows of scores, and one or two histories, at a time
        monkeypatch.setattr(prefixes, "SCORE_BYTES", 2 * 4 * (NUM_ITEMS + 1))
        monkeypatch.setattr("ensue.models.sequence.SCORED_TOKENS", 20)
    log = make_log()
    model = make_model(name, log)
    found = answer_rows(model, log if name == "m3-context" else without_context(log))
    assert sorted(found) == [row for _, row in of_all_rows(log)]
    assert len(found) == sum(LENGTHS)
    for user, row in of_all_rows(log):
        expected = score_alone(model, log, user, row)
        torch.testing.assert_close(found[row][1:], expected[1:], msg=f"{name}, row {row}")


@pytest.mark.parametrize("name", ["m3-context", "caser", "item-knn"])
def test_a_batch_of_prefixes(name: str) -> None:
    """With context: of the events before each row, and of the row's own request."""
    log = make_log()
    model = make_model(name, log)
    users, rows = np.array(of_all_rows(log)).T
    for max_len in (None, 3):
        with torch.inference_mode():
            found = model.score(prefix_batch(log, users, rows, max_len))
        for user, row, scores in zip(users, rows, found, strict=True):
            known = row - log.starts[user]
            expected = score_alone(model, log, user, row, min(known, max_len or known))
            torch.testing.assert_close(scores[1:], expected[1:])


def same(scores: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(scores[1:], other[1:], rtol=1e-9, atol=1e-9))


@pytest.mark.parametrize("max_len", [1, 2, 3, 4, 5, 8, 13])
def test_a_long_history_is_read_in_stretches(max_len: int) -> None:
    """Each query is that of its own stretch: half of max_len events at least, max_len at most."""
    log = without_context(make_log())
    model = make_model("sasrec", log, max_len=max_len)
    found = answer_rows(model, log)
    assert sorted(found) == [row for _, row in of_all_rows(log)]
    for user, row in of_all_rows(log):
        known = int(row - log.starts[user])
        lengths = range(min(known, (max_len + 1) // 2), min(known, max_len) + 1)
        matches = [n for n in lengths if same(found[row], score_alone(model, log, user, row, n))]
        assert matches, (max_len, row)
        if known <= max_len:
            assert known in matches


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "caser"])
def test_a_history_without_events_is_answered(name: str) -> None:
    log = without_context(make_log())
    model = make_model(name, log)
    found = answer_rows(model, log)
    user, first = 3, int(log.starts[3])
    expected = score_alone(model, log, user, first)
    torch.testing.assert_close(found[first], expected)
    if isinstance(model, SequenceModel):
        torch.testing.assert_close(expected[1:], model.log_popularity[1:])


@pytest.mark.parametrize("name", ["sasrec", "caser", "markov"])
@pytest.mark.parametrize(
    "change",
    [
        lambda log: Histories(log.items, log.starts, log.starts),  # nothing to answer
        lambda log: Histories(log.items, log.starts, np.minimum(log.starts + 1, log.ends)),
    ],
)
def test_logs_of_no_and_of_one_interaction(
    name: str, change: Callable[[Histories], Histories]
) -> None:
    log = change(make_log())
    model = make_model(name, without_context(make_log()))
    assert sorted(answer_rows(model, log)) == [row for _, row in of_all_rows(log)]
