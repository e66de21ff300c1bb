"""What every history store must do. A new one joins with a line in conftest.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.serving.events import NO_CONTEXT, Event
from ensue.serving.stores.base import MAX_ID_BYTES, MAX_TIME, HistoryStore, StoreUnavailable
from ensue.serving.stores.open import open_store
from tests.serving.stores.conftest import slow

ALL = 10_000
HARD_IDS = [
    "'; DROP TABLE events; --",
    'double " quotes and \\ backslashes',
    "line\nbreak\r\tand \x01 control",
    "ensue:history:*[?]",
    "{tag}",
    "%s $1 ?1 :user",
    "\N{SNOWMAN} \N{GRINNING FACE} e\N{COMBINING ACUTE ACCENT}",
    " spaces ",
    "x" * MAX_ID_BYTES,
    "\N{GRINNING FACE}" * (MAX_ID_BYTES // 4),
]
REFUSED_IDS = ["", "a\0b", "\ud800", "x" * (MAX_ID_BYTES + 1), "\N{SNOWMAN}" * 334]


def event(user: str, id: str, time: int = 0, item: str = "item") -> Event:
    return Event(user=user, id=id, item=item, time=time)


def ids(history: list[Event]) -> list[str]:
    return [event.id for event in history]


def test_it_is_a_store(store):
    assert isinstance(store, HistoryStore)
    assert store.kind in ("sqlite", "redis", "postgresql")
    store.check()
    assert store.append([]) == store.read([], 1) == store.add_items([], []) == store.items() == []


def test_an_event_comes_back_as_it_was(store):
    context = {"a": "tex't\n\0", "b": 0.1, "c": 2**70, "d": True, "e": None, "f": -0.5, "": "x"}
    events = [
        Event("u", "1", "i", 1_700_000_000_123_456, context),
        Event("u", "2", "i", MAX_TIME, {"long": "x" * 10_000}),
        Event("u", "0", "j", -MAX_TIME),
    ]
    assert store.append(events) == [True] * 3
    (history,) = store.read(["u"], ALL)
    assert history == [events[2], events[0], events[1]]
    assert all(type(found) is Event for found in history)
    assert [type(value) for value in history[1].context.values()] == [
        type(value) for value in context.values()
    ]


@pytest.mark.parametrize("text", HARD_IDS)
def test_any_text_is_an_id(store, text):
    other = event("other", "other")
    mine = event(text, text, item=text)
    assert store.append([mine, other, mine]) == [True, True, False]
    assert store.read([text, "other"], ALL) == [[mine], [other]]
    assert store.add_items([{text: text}], [text]) == [True]
    assert store.items() == [(text, {text: text})]
    assert store.delete_user(text) == 1
    assert store.read([text, "other"], ALL) == [[], [other]]


@pytest.mark.parametrize("text", REFUSED_IDS)
def test_what_no_store_could_hold_is_refused_whole(store, text):
    good = event("u", "1")
    for bad in (event(text, "2"), event("u", text), event("u", "2", item=text)):
        with pytest.raises(UsageError, match=r"must be text of 1 to 1000 bytes.*without NUL"):
            store.append([good, bad])
    with pytest.raises(UsageError, match="the id of an item must be text of 1 to 1000"):
        store.add_items([{}, {}], ["good", text])
    with pytest.raises(UsageError, match="a user must be text"):
        store.read(["u", text], 1)
    with pytest.raises(UsageError, match="a user must be text"):
        store.delete_user(text)
    assert store.read(["u"], ALL) == [[]]
    assert store.items() == []


@pytest.mark.parametrize(
    "context",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": [1]},
        {1: "a"},
        {"a": "\ud800"},
        {"\udfff": 1},
    ],
)
def test_a_context_that_no_store_could_hold_is_refused_whole(store, context):
    with pytest.raises(UsageError, match=r"the context of an event must be .*got {"):
        store.append([event("u", "1"), Event("u", "2", "i", 0, context)])
    assert store.read(["u"], ALL) == [[]]


def test_numbers_out_of_range_are_refused(store):
    for time in (MAX_TIME + 1, -MAX_TIME - 1):
        with pytest.raises(UsageError, match=rf"microseconds since 1970.*got {time}"):
            store.append([event("u", "1", time)])
    with pytest.raises(UsageError, match="limit of a history must be at least 1; got 0"):
        store.read(["u"], 0)
    with pytest.raises(UsageError, match="must have a row; got 2 ids, 1 rows"):
        store.add_items([{}], ["a", "b"])
    with pytest.raises(UsageError, match=r"the row of an item must be JSON.*got {'a': nan}"):
        store.add_items([{"a": float("nan")}], ["a"])


def test_the_first_of_an_identity_wins(store):
    first = event("u", "1", 5, item="first")
    second = event("u", "1", 7, item="second")
    other = event("v", "1", 6, item="other")
    assert store.append([first, second, other]) == [True, False, True]
    assert store.append([second, event("u", "2", 8), other]) == [False, True, False]
    assert store.read(["u", "v"], ALL) == [[first, event("u", "2", 8)], [other]]


def test_order_is_by_time_then_arrival(store):
    store.append([event("u", "b", 2), event("u", "z", 1), event("u", "a", 2)])
    store.append([event("u", "late", 1), event("u", "0", 2)])
    assert ids(store.read(["u"], ALL)[0]) == ["z", "late", "b", "a", "0"]
    assert ids(store.read(["u"], 3)[0]) == ["b", "a", "0"]
    assert ids(store.read(["u"], 1)[0]) == ["0"]
    store.append([event("w", f"{n}", 3) for n in range(300)])
    assert ids(store.read(["w"], ALL)[0]) == [f"{n}" for n in range(300)]


def test_users_are_answered_in_the_order_asked(store):
    store.append([event(user, id) for user, id in product("abc", "12")])
    histories = store.read(["c", "nobody", "a", "c"], ALL)
    assert [ids(history) for history in histories] == [["1", "2"], [], ["1", "2"], ["1", "2"]]
    assert [{e.user for e in history} for history in histories] == [{"c"}, set(), {"a"}, {"c"}]


def test_a_deleted_user_leaves_nothing(store):
    store.append([event(user, f"{n}", n) for user in ("u", "ux", "U") for n in range(5)])
    assert store.delete_user("u") == 5
    assert store.delete_user("u") == 0
    assert [len(history) for history in store.read(["u", "ux", "U"], ALL)] == [0, 5, 5]
    assert store.append([event("u", "1", 9)]) == [True]  # its ids are free again
    assert ids(store.read(["u"], ALL)[0]) == ["1"]


def test_expire_removes_what_is_older(store):
    store.append([event(f"user {n}", "old", n) for n in range(20)])
    store.append([event("many", f"{n}", n) for n in range(2500)])
    store.append([event("many", "newest", 3000), event("user 3", "new", 3000)])
    assert store.expire(10) == 20
    assert [len(history) for history in store.read(["user 9", "user 10"], ALL)] == [0, 1]
    assert store.expire(2500) == 10 + 2490  # more of one user than a transaction takes
    assert store.expire(2500) == 0
    assert ids(store.read(["many"], ALL)[0]) == ["newest"]
    assert ids(store.read(["user 3"], ALL)[0]) == ["new"]
    assert store.append([event("many", "7", 7), event("many", "newest", 0)]) == [True, False]


def test_new_items_stay_in_the_order_of_arrival(store):
    rows = [{"title": "t", "price": 1.5, "tags": ["x", None], "n": 3}, {}, {"second": True}]
    assert store.add_items(rows, ["z", "a", "z"]) == [True, True, False]
    assert store.add_items([{"later": 1}, {"b": "\0"}], ["a", "b"]) == [False, True]
    assert store.items() == [("z", rows[0]), ("a", {}), ("b", {"b": "\0"})]


def test_threads_share_a_store(store):
    """Each identity is new for one of those that bring it, and readers see whole calls."""
    batches = [[event("u", f"{n}", 0) for n in range(k, k + 10)] for k in range(40)]

    def bring(batch: list[Event]) -> list[bool]:
        answers = store.append(batch)
        assert set(ids(batch)) <= set(ids(store.read(["u"], ALL)[0]))  # reads its own writes
        return answers

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(bring, batches))
    new = [
        e.id
        for batch, flags in zip(batches, answers, strict=True)
        for e, is_new in zip(batch, flags, strict=True)
        if is_new
    ]
    assert sorted(new, key=int) == [f"{n}" for n in range(49)]
    (history,) = store.read(["u"], ALL)
    assert sorted(ids(history), key=int) == [f"{n}" for n in range(49)]


@pytest.mark.parametrize("url", ["sqlite", *slow], indirect=True)
def test_what_was_stored_is_there_after_opening_again(url):
    for n in range(3):
        store = open_store(url)
        assert store.append([event("u", f"{n}", 0), event("u", "same", 5)]) == [True, n == 0]
        assert ids(store.read(["u"], ALL)[0]) == [*(f"{k}" for k in range(n + 1)), "same"]
        assert store.add_items([{"n": n}], ["i"]) == [n == 0]
        assert store.items() == [("i", {"n": 0})]
        store.close()


@pytest.mark.parametrize("url", ["sqlite", *slow], indirect=True)
def test_two_stores_of_one_place_see_each_other(url):
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(open_store, [url] * 4))
    for n, store in enumerate(stores):
        assert store.append([event("u", f"{n}", 0)]) == [True]
    assert all(ids(s.read(["u"], ALL)[0]) == ["0", "1", "2", "3"] for s in stores)
    stores[0].delete_user("u")
    assert all(s.read(["u"], ALL) == [[]] for s in stores)
    for store in stores:
        store.close()


def test_a_closed_store_says_so(url):
    store = open_store(url)
    store.close()
    store.close()
    if store.kind == "sqlite":
        with pytest.raises(StoreUnavailable):
            store.append([event("u", "1")])


@dataclass
class Model:
    """What a store holds, as plain lists in the order of arrival."""

    events: list[Event] = field(default_factory=list)

    def append(self, events: list[Event]) -> list[bool]:
        answers = []
        for e in events:
            answers.append((e.user, e.id) not in {(k.user, k.id) for k in self.events})
            self.events += [e] * answers[-1]
        return answers

    def read(self, users: list[str], limit: int) -> list[list[Event]]:
        mine = ([e for e in self.events if e.user == user] for user in users)
        return [sorted(events, key=lambda e: e.time)[-limit:] for events in mine]

    def delete_user(self, user: str) -> int:
        return self._keep([e for e in self.events if e.user != user])

    def expire(self, before: int) -> int:
        return self._keep([e for e in self.events if e.time >= before])

    def _keep(self, events: list[Event]) -> int:
        removed = len(self.events) - len(events)
        self.events = events
        return removed


texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: len(text.encode()) <= MAX_ID_BYTES)
users = st.one_of(st.sampled_from(["u", "v"]), texts)
times = st.one_of(st.integers(-2, 2), st.integers(-MAX_TIME, MAX_TIME))
values = st.one_of(
    texts, st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.none()
)
events = st.builds(
    Event,
    user=users,
    id=st.one_of(st.sampled_from("123"), texts),
    item=texts,
    time=times,
    context=st.one_of(st.just(NO_CONTEXT), st.dictionaries(texts, values, max_size=3)),
)
calls = st.one_of(
    st.tuples(st.just("append"), st.tuples(st.lists(events, max_size=5))),
    st.tuples(st.just("read"), st.tuples(st.lists(users, max_size=3), st.integers(1, 4))),
    st.tuples(st.just("delete_user"), st.tuples(users)),
    st.tuples(st.just("expire"), st.tuples(times)),
)


@pytest.mark.parametrize(
    "url", ["memory", pytest.param("sqlite", marks=pytest.mark.slow), *slow], indirect=True
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(calls, max_size=10))
def test_any_calls_do_what_plain_lists_do(store, calls):
    model = Model()
    seen = {"u", "v"}
    for name, arguments in calls:
        assert getattr(store, name)(*arguments) == getattr(model, name)(*arguments)
        seen |= {e.user for e in model.events}
    assert store.read(sorted(seen), ALL) == model.read(sorted(seen), ALL)
    for user in seen:  # the next example starts with an empty store
        store.delete_user(user)
    assert store.expire(MAX_TIME) == 0
