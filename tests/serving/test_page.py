"""The page of the service, asked in process: what it says, and what it must never do."""

from __future__ import annotations

import asyncio
import base64
import re
from collections import Counter
from html import unescape
from urllib.parse import urljoin, urlsplit

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs ensue[serve]")

from starlette.datastructures import QueryParams

from ensue.data.dataset import Dataset
from ensue.runs.train import train
from ensue.serving.app import create_app
from ensue.serving.middleware import ApiKeys
from ensue.serving.page.asked import MAX_ITEMS, Asked
from ensue.serving.page.lists import bars, compare
from ensue.serving.schemas import RecommendRequest
from ensue.serving.served import ModelPlace
from ensue.serving.service import Service
from ensue.serving.stores.base import StoreUnavailable
from ensue.serving.stores.open import open_store
from tests.helpers import make_dataset
from tests.runs.page import Page

pytestmark = pytest.mark.slow

EVIL = "<script>alert('x')</script>\"&{{7*7}}"
NUM_ITEMS = 12
VIEWS = (
    "/",
    "/?user=u2&k=5",
    "/?user=nobody",
    "/?item=i1&item=i2&item=i1",
    "/?item=unheard-of",
    "/?find=script&user=u1",
    "/?find=script",
    "/?find=no+such+title",
    "/item?id=i3",
    "/runs/m3",
    "/runs/popularity",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [[(3 * user + 5 * n) % NUM_ITEMS + 1 for n in range(5)] for user in range(9)]
    dataset = make_dataset(folder / "data", rows, num_items=NUM_ITEMS, name=EVIL)
    raw = [f"i{n}" for n in range(1, NUM_ITEMS + 1)]
    titles = [EVIL, *(f"title {n}" for n in range(2, NUM_ITEMS)), None]
    facts = {"raw_id": raw, "title": titles, "brand": [EVIL] * NUM_ITEMS}
    pl.DataFrame(facts).write_ipc(dataset.path / "items.arrow")
    dataset = Dataset(dataset.path)
    train("m3", dataset, out=folder / "m3", dim=4, epochs=1).evaluate(dataset, num_resamples=0)
    train("popularity", dataset, out=folder / "popularity")
    places = [ModelPlace(name, folder / name) for name in ("m3", "popularity")]
    made = Service(places, open_store("sqlite://"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(service):
    return create_app(service)


def ask(app, address, *, method="GET", **request):
    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, address, **request)

    return asyncio.run(send())


def links(html):
    """Yield the addresses that a page leads to or reads."""
    for _, attributes in Page(html).tags:
        for name in ("href", "src", "action"):
            if attributes.get(name) not in (None, "data:,"):
                yield attributes[name]


@pytest.mark.parametrize("address", VIEWS)
def test_a_view_is_whole_safe_and_asks_nobody_else(app, address):
    answer = ask(app, address)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = Page(answer.text)  # fails where tags do not nest
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [script["src"].split("?")[0] for script in scripts] == ["/static/page.js"]
    assert "7*7" in answer.text or "49" not in answer.text
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    for _, attributes in page.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("for", "aria-labelledby", "aria-controls"):
            assert attributes.get(name) in {None, *ids}
    assert not re.search(r"(?:https?:)?//[a-z]|url\((?!#)|@import", unescape(answer.text))


def test_every_link_resolves(app):
    seen, waiting = set(), ["/", "/?user=u2", "/?item=i1&item=i2", "/item?id=i3"]
    while waiting:
        address = waiting.pop()
        seen.add(address)
        answer = ask(app, address)
        assert answer.status_code == 200, address
        found = [link for link in links(answer.text) if not link.startswith("#")]
        assert all(urlsplit(urljoin(address, link)).netloc == "" for link in found)
        # Lists lead to ever longer histories: those of a page or two are enough.
        if len(seen) < 8:
            waiting += [link for link in dict.fromkeys(found) if link not in {*seen, *waiting}]
        waiting = waiting[:25]
    assert {"/runs/m3", "/runs/popularity"} <= seen
    assert any(link.startswith("/static/page.css") for link in seen)


def test_text_of_the_data_stays_text(app):
    for address in ("/?item=i1", "/item?id=i1", "/?find=script", "/?user=u1", "/runs/m3"):
        html = ask(app, address).text
        assert EVIL not in html
        assert any(EVIL in text for text in Page(html).texts), address


@pytest.mark.parametrize("value", [EVIL, "' onload=x", "%00", "\u202e", "../../etc", "x" * 300])
def test_text_of_the_query_stays_text(app, value):
    for name in ("user", "item", "model", "k", "find", "added", "before.m3"):
        answer = ask(app, "/", params={"item": "i1", name: value})
        assert answer.status_code == 200
        tags = Page(answer.text).tags
        assert [tag for tag, _ in tags].count("script") == 1
        assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
    assert ask(app, "/item", params={"id": value}).status_code == 404
    assert "No such" in ask(app, f"/runs/{value.replace('/', '')}").text


def test_the_lists_are_those_of_the_service_and_changes_are_against_the_list_before(service, app):
    history = ["i1", "i5", "i9"]
    after, before = asyncio.run(_two(service, history, history[:-1]))
    html = ask(app, "/?item=i1&item=i5&item=i9&model=m3&k=5").text
    assert re.findall(r'data-item="(\w+)"', html) == after
    told = re.findall(r'<b class="change (up|down|same|new)">', html)
    expected = [
        "new"
        if item not in before
        else {0: "same", 1: "up", -1: "down"}[
            (before.index(item) > place) - (before.index(item) < place)
        ]
        for place, item in enumerate(after)
    ]
    assert told == expected
    gone = [item for item in before if item not in after]
    assert html.count('<b class="change gone">') == len(gone)


async def _two(service, *histories):
    answers = [
        await service.recommend(RecommendRequest(history=items, k=5, model="m3"))
        for items in histories
    ]
    return [answer.recommendation.items for answer in answers]


def test_an_event_is_live_in_the_timeline_and_changes_are_against_the_list_shown(app):
    shown = re.findall(r'data-item="(\w+)"', ask(app, "/?user=u3&model=m3&k=5").text)
    body = {"events": [{"user": "u3", "item": shown[0], "id": "e1"}]}
    assert ask(app, "/v1/events", method="POST", json=body).status_code == 200
    params = {"user": "u3", "model": "m3", "k": 5, "added": shown[0], "before.m3": shown}
    html = ask(app, "/", params=params).text
    assert html.count('class="live"') == 1
    assert "just added" in html
    assert re.findall(r'data-item="(\w+)"', html)[0] != shown[0]
    assert 'class="summary"' in html
    assert 'class="summary"' not in ask(app, "/?user=u3&model=m3&k=5").text


def test_an_unknown_user_or_item_gets_a_sentence(app):
    assert "what someone new gets" in ask(app, "/?user=nobody").text
    assert "left out: unheard-of" in ask(app, "/?item=unheard-of").text
    for address, sentence in (("/item?id=no", "No such item"), ("/runs/no", "No such run")):
        answer = ask(app, address)
        assert (answer.status_code, sentence in answer.text) == (404, True)


def test_gates_are_shown_for_a_model_that_has_some(app):
    html = ask(app, "/?item=i1").text
    assert html.count('class="gates"') == 1
    assert [text for text in Page(html).texts if text in ("tiny", "short", "long")]


def test_a_store_that_is_away_is_told_and_composed_histories_work(service, app, monkeypatch):
    def away(*_):
        raise StoreUnavailable("secret://place is away")

    monkeypatch.setattr(service.store, "read", away)
    answer = ask(app, "/?user=u1")
    assert answer.status_code == 503
    assert "cannot be reached now" in answer.text
    assert "secret" not in answer.text
    assert "data-item" in ask(app, "/?item=i1").text


def test_files_are_sent_by_fixed_names_alone(app):
    assert "querySelector" in ask(app, "/static/page.js").text
    assert ask(app, "/static/page.css").headers["content-type"].startswith("text/css")
    for name in ("", "views.py", "../views.py", "%2e%2e/views.py", "page.js/x"):
        assert ask(app, f"/static/{name}").status_code == 404


def test_a_key_opens_the_page_by_basic_authentication(service):
    keys = ApiKeys(["k" * 20])
    locked = create_app(service, keys=keys)
    closed = ask(locked, "/")
    assert (closed.status_code, closed.headers["www-authenticate"][:5]) == (401, "Basic")
    given = base64.b64encode(f"any:{'k' * 20}".encode()).decode()
    headers = {"authorization": f"Basic {given}"}
    for address in ("/", "/static/page.js", "/runs/m3"):
        assert ask(locked, address, headers=headers).status_code == 200


def test_a_query_is_read_leniently_and_written_back():
    def read(query):
        return Asked.read(QueryParams(query), ["a", "b"], max_k=30, max_items=1000)

    assert read("").address == "/"
    assert read("user=x%2Fy&model=b&k=5").address == "/?user=x%2Fy&model=b&k=5"
    assert read("item=1&item=+&item=2%26").address == "/?item=1&item=2%26"
    assert read("user=u&item=1").items == ()
    assert [read(f"k={k}").k for k in ("0", "-3", "x", "29", "31", "9" * 40)] == [
        1,
        10,
        10,
        29,
        30,
        10,
    ]
    assert read("model=c").models == ("a", "b")
    many = read("&".join(f"item={n}" for n in range(MAX_ITEMS + 5)))
    assert (len(many.items), many.items[-1], len(many.notes)) == (MAX_ITEMS, "54", 1)
    assert read("item=1&item=2&item=3").without(1) == "/?item=1&item=3"
    assert read("user=u&k=5").adding("7") == "/?item=7&k=5"


@given(st.permutations(range(8)), st.permutations(range(8)), st.integers(0, 8))
def test_moves_take_the_list_before_to_the_list_after(before, after, k):
    before, after = [str(n) for n in before[:k]], [str(n) for n in after[:5]]
    for place, (item, change) in enumerate(zip(after, compare(before, after), strict=True)):
        if change.kind == "new":
            assert item not in before
        else:
            moved = int((re.findall(r"\d+", change.text) or ["0"])[0])
            old = place + {"up": moved, "down": -moved, "same": 0}[change.kind]
            assert before[old] == item


@given(st.lists(st.floats(-1e6, 1e6), max_size=9))
def test_bars_keep_the_order_and_stay_in_bounds(scores):
    lengths = bars(sorted(scores, reverse=True))
    assert lengths == sorted(lengths, reverse=True)
    assert all(0 <= length <= 100 + 1e-9 for length in lengths)
