"""A history of training and of live events, as a model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ensue.runs.run import Run, load
from ensue.serving.events import Event
from ensue.serving.live import live_history

STEP = 100_000_000  # microseconds between the events of a user of the log


@pytest.fixture(scope="module")
def run(runs: Path) -> Run:
    return load(runs / "m3")


@pytest.fixture(scope="module")
def timeless(runs: Path) -> Run:
    run = load(runs / "m3")
    run.times = None  # as of a log without times
    return run


def stored_of(run: Run, user: str) -> tuple[list[str], list[int]]:
    """Raw items and times of training, oldest first."""
    history = live_history(run, user, [])
    assert not history.is_live.any()
    times = [] if history.times is None else history.times.tolist()
    return run.recommender.item_ids.to_raw(history.items), times


def items_of(run: Run, user: str, events: Sequence[Event]) -> list[str]:
    return run.recommender.item_ids.to_raw(live_history(run, user, events).items)


def event(item: str, time: int, **context: object) -> Event:
    return Event("u5", f"{item} {time}", item, time, context)  # type: ignore[arg-type]


def test_without_events_it_is_that_of_training(run):
    items, times = stored_of(run, "u5")
    assert len(items) == 10
    assert np.diff(times).tolist() == [STEP] * 9
    first = run.recommender.histories.starts[run.recommender.user_ids.to_dense(["u5"])[0]]
    expected = run.recommender.histories.items[first : first + 10]
    assert run.recommender.item_ids.to_dense(items).tolist() == expected.tolist()
    assert stored_of(run, "nobody") == ([], [])


def test_events_are_ordered_by_time_among_those_of_training(run):
    items, times = stored_of(run, "u5")
    early, middle, late = times[0] - 1, times[3] + 1, times[-1] + STEP
    history = live_history(run, "u5", [event("i1", early), event("i2", middle), event("i3", late)])
    assert run.recommender.item_ids.to_raw(history.items) == [
        "i1",
        *items[:4],
        "i2",
        *items[4:],
        "i3",
    ]
    assert np.flatnonzero(history.is_live).tolist() == [0, 5, 12]
    assert (np.diff(history.times) > 0).all()
    assert history.times[[0, 5, 12]].tolist() == [early, middle, late]


def test_of_the_same_time_those_of_training_come_first(run):
    items, times = stored_of(run, "u5")
    other = next(f"i{n}" for n in range(40) if f"i{n}" not in items)
    assert items_of(run, "u5", [event(other, times[2])]) == [*items[:3], other, *items[3:]]
    tie = [event("i1", times[-1] + 1), event("i2", times[-1] + 1), event("i1", times[-1] + 1)]
    assert items_of(run, "u5", tie) == [*items, "i1", "i2", "i1"]


def test_an_event_that_was_trained_on_counts_once(run):
    items, times = stored_of(run, "u5")
    events = [event(items[0], times[0]), event(items[4], times[4]), event(items[4], times[4] + 1)]
    history = live_history(run, "u5", events)
    assert run.recommender.item_ids.to_raw(history.items) == [*items[:5], items[4], *items[5:]]
    assert np.flatnonzero(history.is_live).tolist() == [5]
    every = [event(item, time) for item, time in zip(items, times, strict=True)]
    assert not live_history(run, "u5", every).is_live.any()
    assert items_of(run, "u5", every) == items


def test_without_times_live_events_follow(timeless):
    items, _ = stored_of(timeless, "u5")
    history = live_history(timeless, "u5", [event("i1", 0), event(items[0], 5)])
    assert timeless.recommender.item_ids.to_raw(history.items) == [*items, "i1", items[0]]
    assert history.times is None
    alone = live_history(timeless, "nobody", [event("i1", 3), event("i2", 4)])
    assert alone.times.tolist() == [3, 4]


def test_items_that_the_model_does_not_know_are_left_out(run):
    events = [event("x", 1), event("i1", 2), event("y", 3), event("x", 4)]
    history = live_history(run, "nobody", events)
    assert history.unknown_items == ["x", "y", "x"]
    assert run.recommender.item_ids.to_raw(history.items) == ["i1"]
    assert history.times.tolist() == [2]
    assert len(live_history(run, "nobody", events[:1]).items) == 0


def test_context_goes_with_its_event(run):
    _, times = stored_of(run, "u5")
    encoder = run.recommender.encoder
    events = [
        event("i1", times[0] - 1, page="home"),
        event("i2", times[2] + 1, page="detail", other="ignored"),
        event("i3", times[-1] + 1),
        event("i4", times[-1] + 2, page="attic"),
        event("i5", times[-1] + 3, page=None),
    ]
    history = live_history(run, "u5", events)
    assert history.context.shape == (15, 1)
    home, detail, missing = (
        encoder.encode_event({"page": page})[0].tolist() for page in ("home", "detail", None)
    )
    of_items = {**dict.fromkeys(range(40), missing), 1: home, 2: detail}
    for item, live, row in zip(
        run.recommender.item_ids.to_raw(history.items),
        history.is_live.tolist(),
        history.context.tolist(),
        strict=True,
    ):
        number = int(item[1:])
        assert row == (of_items[number] if live else (detail if number % 2 else home))


def test_context_that_cannot_be_read_is_missing(run, monkeypatch):
    """It was sent while another model was served."""
    plain = load(run.path.with_name("popular"))
    assert live_history(plain, "u5", [event("i1", 1, page="home")]).context.shape == (11, 0)
    wrong = live_history(run, "nobody", [event("i1", 1, page=1.5), event("i1", 2, page=True)])
    expected = run.recommender.encoder.encode_event({})[0].tolist()
    assert wrong.context.tolist() == [expected] * 2
