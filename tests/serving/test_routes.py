"""Every route: what it answers, and what it says where it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import ensue
from ensue.runs.cascade import Cascade, open_ranker
from ensue.serving.schemas import to_microseconds
from ensue.serving.served import ModelPlace
from tests.serving.client import LAST_TIME, NUM_ITEMS, Caller, fault, serving

OPEN_LISTS = {"history": ["i1", "i2"], "k": NUM_ITEMS, "exclude_seen": False}


def test_a_known_user_gets_what_the_run_recommends(caller: Caller, runs: Path) -> None:
    for model in ("m3", "towers", "popular"):
        answer = caller.post("/v1/recommend", user="u1", k=7, model=model)
        (expected,) = ensue.load(runs / model).recommend(users=["u1"], k=7)
        assert answer == {"model": model, **expected.to_dict()}
        assert answer["known"] is True


def test_a_history_whoever_has_it(caller: Caller, runs: Path) -> None:
    answer = caller.post("/v1/recommend", history=["i3", "i5", "nothing"], k=5)
    (expected,) = ensue.load(runs / "m3").recommend(histories=[["i3", "i5"]], k=5)
    assert (answer["items"], answer["scores"]) == (expected.items, expected.scores)
    assert answer["unknown_items"] == ["nothing"]
    assert "user" not in answer
    assert len(caller.recommend(history=[], k=4)) == 4


def test_an_unknown_user_is_an_empty_history(caller: Caller) -> None:
    answer = caller.post("/v1/recommend", user="nobody")
    assert answer["known"] is False
    assert answer["items"] == caller.recommend(history=[])


def test_lists_of_wanted_and_unwanted_items(caller: Caller) -> None:
    every = caller.recommend(**OPEN_LISTS)
    assert sorted(every) == sorted(f"i{n}" for n in range(NUM_ITEMS))
    unseen = [item for item in every if item not in ("i1", "i2")]
    assert caller.recommend(**{**OPEN_LISTS, "exclude_seen": True}) == unseen
    few = {*every[3:9], "nothing"}
    assert caller.recommend(**OPEN_LISTS, allow=sorted(few)) == every[3:9]
    assert caller.recommend(**OPEN_LISTS, deny=sorted(few)) == every[:3] + every[9:]
    assert caller.recommend(**OPEN_LISTS, allow=every[:4], deny=every[1:9]) == every[:1]
    assert caller.recommend(**OPEN_LISTS, allow=["nothing"]) == []
    assert caller.recommend(**OPEN_LISTS, allow=[]) == []


def test_context_of_the_request(caller: Caller, runs: Path) -> None:
    run = ensue.load(runs / "m3")
    for page in ("home", "detail"):
        answer = caller.post("/v1/recommend", user="u2", context={"page": page})
        (expected,) = run.recommend(users=["u2"], context={"page": page})
        assert answer["scores"] == expected.scores
    answer = caller.post("/v1/recommend", user="u2", context={"page": "attic"})
    assert answer["unknown_context"] == ["page=attic"]


def test_features_of_a_user(caller: Caller, runs: Path) -> None:
    (expected,) = ensue.load(runs / "towers").recommend(features={"country": "fr"}, k=6)
    for given in ({}, {"history": []}, {"user": "nobody"}):
        answer = caller.post(
            "/v1/recommend", features={"country": "fr"}, model="towers", k=6, **given
        )
        assert (answer["items"], answer["scores"]) == (expected.items, expected.scores)


def test_the_time_of_each_stage_is_told_when_asked(caller: Caller) -> None:
    stages = caller.post("/v1/recommend", history=["i1"], k=3, timings=True)["stages"]
    assert [stage["name"] for stage in stages] == ["wait", "retrieve"]
    assert all(stage["ms"] >= 0 for stage in stages)
    assert stages[1]["items"] == 3
    assert "stages" not in caller.post("/v1/recommend", history=["i1"])


def test_two_stages(runs: Path) -> None:
    place = ModelPlace("both", runs / "towers", ranker=runs / "m3")
    body = {"k": 5, "context": {"page": "home"}, "features": {"country": "fr"}, "timings": True}
    with serving(runs, (place, "m3"), candidates=12) as caller:
        assert caller.get("/v1/models")["models"][0]["ranker"] is not None
        answer = caller.post("/v1/recommend", user="u1", **body)
        assert [stage["name"] for stage in answer["stages"]] == ["wait", "retrieve", "rank"]
        assert [stage["items"] for stage in answer["stages"][1:]] == [12, 12]
        cascade = Cascade(ensue.load(runs / "towers"), open_ranker(runs / "m3"), num_candidates=12)
        (expected,) = cascade.recommend(
            users=["u1"], k=5, context={"page": "home"}, features={"country": "fr"}
        )
        assert answer["items"] == expected.items
        assert answer["scores"] == pytest.approx(expected.scores)
        wrong = caller.ask("POST", "/v1/recommend", json={"user": "u1", "context": {"pag": 1}})
        fault(wrong, 409, "conflict", str(runs))
        caller.send({"user": "two stages", "item": "i1"})
        assert "i1" not in caller.recommend(user="two stages", k=40)


def test_an_event_is_in_the_next_answer(caller: Caller) -> None:
    user: dict[str, Any] = {"user": "reader"}
    before = caller.recommend(**user)
    assert caller.send({**user, "item": before[0], "id": "1"})["stored"] == 1
    after = caller.recommend(**user)
    assert before[0] not in after
    assert after == caller.recommend(history=[before[0]])
    caller.send({**user, "item": after[0], "context": {"page": "home", "other": 1.5}})
    assert caller.recommend(**user) != caller.recommend(history=[before[0]])


def test_an_event_counts_once(caller: Caller) -> None:
    event = {"user": "twice", "item": "i1", "id": "e"}
    assert caller.send(event, event) == {
        "stored": 1,
        "duplicates": 1,
        "ids": ["e", "e"],
        "unknown_items": [],
    }
    assert caller.send({**event, "item": "i2", "time": 5})["duplicates"] == 1
    assert caller.send({**event, "user": "another twice"})["stored"] == 1
    assert [e["item"] for e in caller.get("/v1/users/twice/history")["events"]] == ["i1"]


def test_an_event_without_an_id_gets_one(caller: Caller) -> None:
    event = {"user": "no id", "item": "new thing"}
    told = caller.send(event, event)
    assert told["stored"] == 2
    assert len(set(told["ids"])) == 2
    assert told["unknown_items"] == ["new thing"]
    assert caller.send({**event, "id": told["ids"][0]})["duplicates"] == 1
    assert caller.post("/v1/recommend", user="no id")["unknown_items"] == ["new thing"] * 2


def test_whole_numbers_are_ids(caller: Caller) -> None:
    caller.send({"user": 42, "item": 7, "id": 1}, {"user": "42", "item": "7", "id": "1"})
    assert caller.get("/v1/users/42/history")["events"] == []  # item 7 is none of the catalogue
    for user in (42, 42.0, "42"):
        answer = caller.post("/v1/recommend", user=user, k=3.0)
        assert (answer["user"], answer["unknown_items"]) == ("42", ["7"])


def test_history_tells_what_the_model_reads(caller: Caller) -> None:
    stored = caller.get("/v1/users/u3/history")
    assert stored["known"] is True
    assert stored["total"] == len(stored["events"]) == 8
    assert [event["live"] for event in stored["events"]] == [False] * 8
    assert stored["events"][0]["time"] == "2023-11-14T22:13:20.000Z"
    assert stored["events"][0]["title"] == f"Thing {stored['events'][0]['item'][1:]}"
    caller.send({"user": "u3", "item": "i9", "time": LAST_TIME + 0.25})
    caller.send({"user": "u3", "item": "nothing"})
    longer = caller.get("/v1/users/u3/history", limit=2)
    assert longer["total"] == 9
    assert longer["events"][0] == stored["events"][-1]
    assert longer["events"][1] == {
        "item": "i9",
        "title": "Thing 9",
        "time": "2023-11-14T22:33:20.250Z",
        "live": True,
    }
    nobody = caller.get("/v1/users/nobody at all/history")
    assert nobody == {"user": "nobody at all", "known": False, "events": [], "total": 0}


def test_a_user_is_forgotten(caller: Caller) -> None:
    before = caller.recommend(user="leaver")
    caller.send({"user": "leaver", "item": "i1"}, {"user": "leaver", "item": "i2", "id": "2"})
    assert caller.ask("DELETE", "/v1/users/leaver").json() == {"user": "leaver", "events": 2}
    assert caller.ask("DELETE", "/v1/users/leaver").json() == {"user": "leaver", "events": 0}
    assert caller.recommend(user="leaver") == before
    assert caller.send({"user": "leaver", "item": "i2", "id": "2"})["stored"] == 1


@pytest.mark.parametrize("user", ["a/b", "a/history", "%2F", "a b?c#d&e", "\u00fc\U0001f600"])
def test_any_text_is_a_user(caller: Caller, user: str) -> None:
    caller.send({"user": user, "item": "i1"})
    path = f"/v1/users/{quote(user, safe='')}"
    found = caller.get(f"{path}/history")
    assert (found["user"], found["total"]) == (user, 1)
    assert caller.ask("DELETE", path).json() == {"user": user, "events": 1}


def test_similar_items(caller: Caller, runs: Path) -> None:
    for model in ("m3", "towers"):
        answer = caller.get("/v1/items/i4/similar", k=6, model=model)
        expected = ensue.load(runs / model).similar("i4", k=6)
        assert answer["items"] == expected.items
        assert answer["scores"] == pytest.approx(expected.scores)
        assert answer["item"] == "i4"
    assert len(caller.get("/v1/items/i4/similar", k=1000)["items"]) == NUM_ITEMS - 1


def test_items_are_found_by_title_and_id(caller: Caller) -> None:
    found = caller.get("/v1/items", query="tHiNg 3", limit=3)["items"]
    assert found == [{"id": f"i{n}", "title": f"Thing {n}"} for n in (3, 30, 31)]
    assert caller.get("/v1/items", query="i12")["items"] == [{"id": "i12", "title": "Thing 12"}]
    assert caller.get("/v1/items", query="no such thing")["items"] == []


def test_models_and_health(caller: Caller) -> None:
    models = caller.get("/v1/models")["models"]
    assert [(m["name"], m["kind"]) for m in models] == [
        ("m3", "m3"),
        ("towers", "two_tower"),
        ("popular", "popularity"),
    ]
    assert models[0]["items"] == NUM_ITEMS
    assert caller.get("/healthz") == {"status": "ok"}
    assert caller.get("/readyz") == {"status": "ready"}


def test_metrics_count_what_was_asked(runs: Path) -> None:
    with serving(runs, ("popular",)) as caller:
        caller.recommend(user="u1")
        caller.send(*[{"user": "u1", "item": "i1", "id": "1"}] * 2)
        caller.ask("GET", "/none")
        caller.ask("BREW", "/none")
        caller.get("/v1/users/secret-name/history")
        response = caller.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    requests = 'ensue_requests_total{method="%s",route="%s",status="%d"} 1.0'
    assert requests % ("POST", "/v1/recommend", 200) in lines
    assert requests % ("GET", "other", 404) in lines
    assert requests % ("other", "other", 404) in lines
    assert 'ensue_events_total{kind="new"} 1.0' in lines
    assert 'ensue_events_total{kind="duplicate"} 1.0' in lines
    assert "ensue_batch_requests_count 1.0" in lines
    assert 'ensue_request_seconds_count{route="/v1/events"} 1.0' in lines
    assert "secret-name" not in response.text  # else a sender could make series without end


RECOMMEND, EVENTS, ITEMS = "/v1/recommend", "/v1/events", "/v1/items"
EVENT = {"user": "u1", "item": "i1"}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (RECOMMEND, {}, "needs a user, a history or features"),
    (RECOMMEND, {"user": "u1", "history": []}, "a user or a history; got both"),
    (RECOMMEND, {"user": "u1", "k": 0}, "body.k"),
    (RECOMMEND, {"user": "u1", "k": 51}, "k may have 50 entries; got 51"),
    (RECOMMEND, {"user": "u1", "k": 10**18}, "k may have 50 entries"),
    (RECOMMEND, {"user": "u1", "k": 10**20}, "k may have 50 entries"),
    (RECOMMEND, {"user": "u1", "k": "5"}, "body.k"),
    (RECOMMEND, {"user": "u1", "k": True}, "body.k"),
    (RECOMMEND, {"user": "u1", "k": 2.5}, "body.k"),
    (RECOMMEND, {"user": "u1", "n": 5}, "body.n"),
    (RECOMMEND, {"user": ""}, "body.user"),
    (RECOMMEND, {"user": "a\0b"}, "body.user"),
    (RECOMMEND, {"user": "u" * 251}, "body.user"),
    (RECOMMEND, {"user": 2 * 10**20}, "body.user"),
    (RECOMMEND, {"user": 1.5}, "body.user"),
    (RECOMMEND, {"user": ["u1"]}, "body.user"),
    (RECOMMEND, {"history": "i1"}, "body.history"),
    (RECOMMEND, {"history": ["i1"] * 21}, "history may have 20 entries; got 21"),
    (RECOMMEND, {"history": [], "deny": ["i1"] * 21}, "deny may have 20 entries"),
    (RECOMMEND, {"history": [], "allow": ["i1"] * 21}, "allow may have 20 entries"),
    (RECOMMEND, {"history": [None]}, "body.history.0"),
    (RECOMMEND, {"user": "u1", "exclude_seen": 1}, "body.exclude_seen"),
    (RECOMMEND, {"user": "u1", "budget_ms": 0}, "body.budget_ms"),
    (RECOMMEND, {"user": "u1", "budget_ms": "5"}, "body.budget_ms"),
    (RECOMMEND, {"user": "u1", "context": {"page": ["home"]}}, "body.context.page"),
    (RECOMMEND, {"user": "u1", "context": {"": 1}}, "body.context"),
    (EVENTS, {}, "body.events"),
    (EVENTS, {"events": []}, "body.events"),
    (EVENTS, {"events": [EVENT] * 11}, "events may have 10 entries; got 11"),
    (EVENTS, {"events": [EVENT, {"user": "u1"}]}, "body.events.1.item"),
    (EVENTS, {"events": [{**EVENT, "time": "yesterday"}]}, "body.events.0.time"),
    (EVENTS, {"events": [{**EVENT, "time": "2026-02-30T12:00:00"}]}, "time must be seconds"),
    (EVENTS, {"events": [{**EVENT, "time": "1969-12-31T23:59:59Z"}]}, "time"),
    (EVENTS, {"events": [{**EVENT, "time": "2300-01-01T00:00:00Z"}]}, "time"),
    (EVENTS, {"events": [{**EVENT, "time": "2026-02-03"}]}, "body.events.0.time"),
    (EVENTS, {"events": [{**EVENT, "time": -1}]}, "body.events.0.time"),
    (EVENTS, {"events": [{**EVENT, "time": 1e300}]}, "body.events.0.time"),
    (EVENTS, {"events": [{**EVENT, "time": True}]}, "body.events.0.time"),
    (EVENTS, {"events": [{**EVENT, "context": {"a": {"b": 1}}}]}, "body.events.0.context.a"),
    (EVENTS, {"events": [{**EVENT, "context": {"a": "\0"}}]}, "body.events.0.context.a"),
    (ITEMS, {"items": []}, "body.items"),
    (ITEMS, {"items": [{"id": f"n{n}"} for n in range(11)]}, "items may have 10 entries"),
]
CONFLICTS: list[tuple[str, dict[str, Any], str]] = [
    (RECOMMEND, {"user": "u1", "context": {"pag": "home"}}, "'pag'.*Did you mean 'page'"),
    (RECOMMEND, {"user": "u1", "features": {"country": "fr"}}, "m3 of model m3 reads none"),
    (
        RECOMMEND,
        {"user": "u1", "features": {"land": "fr"}, "model": "towers"},
        "'land'. Known: country",
    ),
    (ITEMS, {"items": [{"id": "n", "features": {"colour": "red"}}]}, "'colour'"),
    (ITEMS, {"items": [{"id": " "}]}, "each new item needs an id"),
    (ITEMS, {"items": [{"id": "i1"}]}, "new items need new ids; 'i1' is in the catalogue"),
]


@pytest.fixture(scope="module")
def strict(runs: Path) -> Any:
    with serving(runs, max_k=50, max_history=20, max_events=10) as caller:
        yield caller


def test_what_has_no_meaning_is_refused(strict: Caller, runs: Path) -> None:
    for path, body, pattern in WRONG:
        message = fault(strict.ask("POST", path, json=body), 422, "bad_request", str(runs))
        assert re.search(pattern, message), (body, message)


def test_what_does_not_fit_the_models_is_refused(strict: Caller, runs: Path) -> None:
    for path, body, pattern in CONFLICTS:
        message = fault(strict.ask("POST", path, json=body), 409, "conflict", str(runs))
        assert re.search(pattern, message), (body, message)


def test_bodies_that_are_no_json_are_refused(strict: Caller) -> None:
    deep = b"[" * 100_000
    lone = rb'{"user": "\ud800"}'
    key = rb'{"user": "u1", "context": {"\ud800": 1}}'
    number = b'{"user": ' + b"9" * 5000 + b"}"
    for content in (b"", b"{", b"null", b"[]", b"\xff\xfe", b'"text"', deep, lone, key, number):
        for kind in ("application/json", "text/plain", ""):
            for path in (RECOMMEND, EVENTS, ITEMS, "/v1/models/reload"):
                response = strict.ask("POST", path, content=content, headers={"content-type": kind})
                fault(response, 422, "bad_request")
    infinite = strict.ask("POST", RECOMMEND, content=b'{"user": "u1", "budget_ms": Infinity}')
    fault(infinite, 422, "bad_request")


def test_what_is_not_there(strict: Caller, runs: Path) -> None:
    for method, path in (
        ("GET", "/none"),
        ("GET", "/v1/items/nothing/similar"),
        ("GET", "/v1/items/i1/similar?model=none"),
        ("GET", "/v1/users/u1/history?model=none"),
        ("GET", "/v1/items?query=a&model=none"),
        ("GET", "/docs"),
        ("GET", "/../../etc/passwd"),
    ):
        fault(strict.ask(method, path), 404, "not_found", str(runs))
    for path, body in ((RECOMMEND, {"user": "u1"}), ("/v1/models/reload", {})):
        told = fault(strict.ask("POST", path, json={**body, "model": "../m3"}), 404, "not_found")
        assert told == "a model must be one of m3, towers, popular."


def test_methods_that_a_path_has_not(strict: Caller) -> None:
    for method, path, allowed in (
        ("GET", RECOMMEND, "POST"),
        ("PUT", EVENTS, "POST"),
        ("POST", "/healthz", "GET"),
        ("OPTIONS", "/v1/models", "GET"),
        ("PUT", "/v1/items", "GET, POST"),
        ("DELETE", "/v1/users/u1/history", "GET"),
        ("GET", "/v1/users/u1", "DELETE"),
    ):
        response = strict.ask(method, path)
        fault(response, 405, "bad_request")
        assert response.headers["allow"] == allowed


def test_the_document_tells_the_limits(strict: Caller) -> None:
    document = strict.get("/v1/openapi.json")
    bodies = document["components"]["schemas"]
    recommend = bodies["RecommendRequest"]["properties"]
    assert recommend["k"]["maximum"] == 50
    assert [recommend[n]["anyOf"][0]["maxItems"] for n in ("history", "allow", "deny")] == [20] * 3
    assert bodies["EventsRequest"]["properties"]["events"]["maxItems"] == 10
    assert bodies["ItemsRequest"]["properties"]["items"]["maxItems"] == 10
    parameters = document["paths"]["/v1/items/{item}/similar"]["get"]["parameters"]
    assert next(p for p in parameters if p["name"] == "k")["schema"]["maximum"] == 50
    examples = bodies["RecommendRequest"]["examples"]
    assert all(strict.ask("POST", RECOMMEND, json=body).status_code == 200 for body in examples)


def test_queries_that_have_no_meaning(strict: Caller) -> None:
    for path in (
        "/v1/items/i1/similar?k=0",
        "/v1/items/i1/similar?k=51",
        f"/v1/items/i1/similar?k={10**20}",
        "/v1/items/i1/similar?k=a",
        "/v1/users/u1/history?limit=0",
        "/v1/items",
        "/v1/items?query=",
        "/v1/items?query=a&limit=101",
        f"/v1/users/{'u' * 251}/history",
        "/v1/users/%00/history",
    ):
        fault(strict.ask("GET", path), 422, "bad_request")
    fault(strict.ask("GET", "/v1/items/i1/similar?model=popular"), 409, "conflict")


def test_a_failure_of_ours_tells_nothing(
    strict: Caller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(strict.service, "delete_user", fail)
    response = strict.ask("DELETE", "/v1/users/u1")
    assert fault(response, 500, "internal", "secret").startswith("the service failed")
    assert "/secret/path" in capsys.readouterr().err


def test_safe_headers_are_on_every_answer(caller: Caller) -> None:
    for path in ("/healthz", "/none", "/v1/items/nothing/similar", "/v1/recommend"):
        headers = caller.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (0, 0),
        (1.5, 1_500_000),
        ("1970-01-01T00:00:01.25Z", 1_250_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01 00:00:03", 3_000_000),
        ("2026-11-24T12:00:00.123456Z", 1_795_521_600_123_456),
    ],
)
def test_moments(moment: Any, expected: int, caller: Caller) -> None:
    assert to_microseconds(moment) == expected
    body = json.dumps({"events": [{"user": "moments", "item": "i1", "time": moment}]})
    headers = {"content-type": "application/json"}
    response = caller.ask("POST", "/v1/events", content=body, headers=headers)
    assert response.status_code == 200
