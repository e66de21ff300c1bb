"""Context from a dataset to answers: what it is good for, what it may not leak, where it goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.data.arrow_file import read_columns
from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, DataError, UsageError
from ensue.evaluation.gates import ContextGates, measure_context_gates
from ensue.runs.batches import recommend_file
from ensue.runs.report import write_report
from ensue.runs.run import Run, load
from ensue.runs.train import train
from tests.contracts.pages import GROUP_SIZE, NUM_ITEMS, draw_pages, make_pages
from tests.helpers import make_dataset
from tests.runs.page import Page
from tests.training.test_resume import assert_same_run, stop_after

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "dim": 16,
    "epochs": 12,
    "patience": None,
    "batch_size": 16,
    "learning_rate": 0.01,
    "dropout": 0.0,
}
CONTEXT = {"context_in": ["page", "hour"], "context_out": ["page"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return make_pages(folder / "data")


@pytest.fixture(scope="module")
def run(dataset: Dataset, folder: Path) -> Run:
    """A run moved away from where it was made; its dataset is not needed for answers."""
    made = train("m3", dataset, out=folder / "made", **SETTINGS, **CONTEXT)
    shutil.copytree(made.path, folder / "moved")
    return load(folder / "moved")


@pytest.mark.slow
def test_context_finds_what_depends_on_it(run: Run, dataset: Dataset, folder: Path) -> None:
    without = train("m3", dataset, out=folder / "without", **SETTINGS)
    options: dict[str, Any] = {"ks": (GROUP_SIZE,), "exclude_seen": False, "num_resamples": 0}
    found = run.evaluate(dataset, **options).metrics[f"recall@{GROUP_SIZE}"]
    blind = without.evaluate(dataset, **options).metrics[f"recall@{GROUP_SIZE}"]
    assert found > 0.75  # 0.83: home and detail name the group, search does not
    assert blind < found - 0.1


@pytest.mark.slow
def test_gates_differ_by_page(run: Run) -> None:
    histories = run.recommender.histories
    measured = measure_context_gates(run.model, histories, run.model.context, run.context_values)
    by_page = {m.value: m for m in measured if m.side == "request"}
    assert list(by_page) == ["home", "detail", "search"]  # most frequent first
    home, detail = by_page["home"].means, by_page["detail"].means
    assert home["long"] > detail["long"] + 0.2  # the user's own group
    assert detail["tiny"] > home["tiny"] + 0.2  # the group of the last item
    followed = histories.items[np.setdiff1d(np.arange(len(histories.items)), histories.starts[1:])]
    assert sum(m.num_requests for m in by_page.values()) == len(followed)


def test_a_request_says_where_it_is_asked(run: Run) -> None:
    """On "home" a user gets items of the own group, on "detail" of that of the last item."""
    groups = [[(item - 1) // GROUP_SIZE for item in own] for own in draw_pages(200, 20).histories]
    right = {"home": 0, "detail": 0}
    strayed = [user for user, own in enumerate(groups) if own[-1] != max(own, key=own.count)]
    users = [f"u{user + 1}" for user in strayed]
    for page in right:
        answers = run.recommend(
            users=users, context={"page": page}, k=GROUP_SIZE, exclude_seen=False
        )
        for user, answer in zip(strayed, answers, strict=True):
            given = [(int(item[1:]) - 1) // GROUP_SIZE for item in answer.items]
            own = groups[user]
            wanted = max(own, key=own.count) if page == "home" else own[-1]
            right[page] += given == [wanted] * GROUP_SIZE
    assert len(strayed) > 30
    assert right["home"] > 0.7 * len(strayed)
    assert right["detail"] > 0.7 * len(strayed)


def test_a_log_file_gives_its_context_to_the_model(tmp_path: Path) -> None:
    """Values as `prepare` stores them: codes in the order of the text, and what is missing."""
    rows = ["user,item,timestamp,page,hour"]
    for user in range(6):
        rows += [
            f"{user},{n},{n},{'' if n == 2 else 'ba'[n % 2]},{n}" for n in range(user, user + 6)
        ]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    data = ensue.prepare(tmp_path / "log.csv", tmp_path / "data", context=["page", "hour"])
    run = train("m3", data, out=tmp_path / "run", dim=4, epochs=1, **CONTEXT)
    assert run.context_values["page"].raw.to_list() == ["a", "b"]
    stored = run.recommender.histories.batch(np.array([1])).event_context
    assert stored.tolist() == [[2, 0], [1, 1], [0, 2], [1, 3], [2, 4], [1, 5]]
    assert run.recommend(users=["0"], context={"page": "c"})[0].unknown_context == ["page=c"]


def scores_of(run: Run, **request: Any) -> dict[str, float]:
    (answer,) = run.recommend(**request, k=NUM_ITEMS, exclude_seen=False)
    return dict(zip(answer.items, answer.scores, strict=True))


def test_a_stored_history_has_its_context(run: Run, dataset: Dataset) -> None:
    history = dataset.histories("all", run.model.context)
    batch = history.batch(np.array([5]), answers=np.array([history.starts[1] + 2]))
    page = dataset.vocabulary("page").to_raw([int(batch.request_context[0, 0])])[0]
    expected = run.model.score(batch)[0, 1:].tolist()
    found = scores_of(run, users=["u5"], context={"page": page})
    assert [found[f"i{n}"] for n in range(1, NUM_ITEMS + 1)] == pytest.approx(expected, abs=1e-5)
    items = [f"i{item}" for item in history[5]]
    assert scores_of(run, histories=[items], context={"page": page}) != found  # events of nowhere


def test_missing_and_unknown_context(run: Run) -> None:
    without = run.recommend(users=["u1"])
    assert run.recommend(users=["u1"], context={}) == without
    assert run.recommend(users=["u1"], context={"page": None}) == without
    (answer,) = run.recommend(users=["u1"], context={"page": "attic"})
    assert (answer.items, answer.scores) == (without[0].items, without[0].scores)
    assert answer.unknown_context == ["page=attic"]
    assert answer.to_dict()["unknown_context"] == ["page=attic"]
    assert "unknown_context" not in without[0].to_dict()


def test_wrong_context(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'pag' is none of them\. Did you mean 'page'"):
        run.recommend(users=["u1"], context={"pag": "home"})
    with pytest.raises(UsageError, match="one for each of 2; got 1"):
        run.recommend(users=["u1", "u2"], context=[{"page": "home"}])
    with pytest.raises(UsageError, match=r"must map names to values.* got 'page=home'"):
        run.recommend(users=["u1"], context="page=home")  # type: ignore[arg-type]
    plain = train("popularity", dataset, out=tmp_path / "popularity")
    with pytest.raises(UsageError, match="'page' is none of them"):
        plain.recommend(users=["u1"], context={"page": "home"})
    with pytest.raises(ConfigError, match=r"context_in .*; 'pages' .* Did you mean 'page'"):
        train("m3", dataset, out=tmp_path / "run", context_in=["pages"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="sasrec has no setting 'context_in'"):
        train("sasrec", dataset, out=tmp_path / "run", context_in=["page"])


def test_a_followed_history_is_answered_like_the_whole_of_it(run: Run) -> None:
    for page in ("home", "detail", "attic", None):
        (expected,) = run.recommend(users=["u7"], context={"page": page})
        answer = run.follow("u7").recommend(context={"page": page})
        assert answer.items == expected.items
        assert answer.scores == pytest.approx(expected.scores, abs=1e-5)
        assert answer.unknown_context == expected.unknown_context


def test_events_are_followed_with_their_context(run: Run, dataset: Dataset) -> None:
    """Event by event, the answers are those for the stored history, whose last page is the next."""
    context = run.model.context
    history = dataset.histories("all", context)
    pages, hours = dataset.vocabulary("page"), dataset.column("hour")
    follower = run.follow()
    rows = range(history.starts[9], history.ends[9] - 1)
    for row in rows:
        page = pages.to_raw([history.event_context[0][row]])[0]
        hour = hours[row]
        assert follower.add(
            f"i{history.items[row]}", {"page": page} | ({} if np.isnan(hour) else {"hour": hour})
        )
    answer = follower.recommend(
        context={"page": pages.to_raw([history.request_context[0][rows[-1] + 1]])[0]},
        k=NUM_ITEMS,
        exclude_seen=False,
    )
    shorter = dataset.histories("train+validation", context)
    batch = shorter.batch(np.array([9]), answers=shorter.ends[[9]])
    expected = run.model.score(batch)[0].numpy()
    np.testing.assert_allclose(
        answer.scores, [expected[int(item[1:])] for item in answer.items], atol=1e-5
    )
    follower.add("i1", {"page": "attic"})
    assert follower.recommend().unknown_context == ["page=attic"]
    with pytest.raises(UsageError, match=r"context of an event .* 'pge'"):
        follower.add("i1", {"pge": "home"})


def test_the_command_line_answers_like_python(run: Run, tmp_path: Path) -> None:
    def call(*arguments: str, given: str = "") -> list[dict[str, Any]]:
        command = ["recommend", str(run.path), "--json", *arguments]
        result = CliRunner().invoke(app, command, input=given, catch_exceptions=False)
        return [json.loads(line) for line in result.stdout.splitlines()]

    (expected,) = run.recommend(users=["u2"], context={"page": "home"})
    assert call("--user", "u2", "--context", "page=home") == [expected.to_dict()]
    lines = ["i3", '{"item": "i5", "context": {"page": "detail", "hour": 4}}']
    lines.append('{"item": "i9", "request": {"page": "detail"}}')
    answers = call("--follow", "--context", "page=home", given="\n".join(lines) + "\n")
    follower = run.follow()
    events = [
        ("i3", {}, "home"),
        ("i5", {"page": "detail", "hour": 4}, "home"),
        ("i9", {}, "detail"),
    ]
    for (item, context, page), answer in zip(events, answers, strict=True):
        follower.add(item, context)
        assert answer == follower.recommend(context={"page": page}).to_dict()
    with pytest.raises(
        UsageError, match=r"a line of --follow must be .* got {\"item\": 3, \"x\": 1}"
    ):
        call("--follow", given='{"item": 3, "x": 1}\n')
    with pytest.raises(UsageError, match="--context takes NAME=VALUE; got 'page'"):
        call("--user", "u1", "--context", "page")


def test_a_file_of_requests_with_context(run: Run, tmp_path: Path) -> None:
    lines = [{"user": "u1"}, {"history": ["i1"], "context": {"page": "detail"}}, {"user": "u2"}]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    recommend_file(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl", context={"page": "home"})
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    pages = [{"page": page} for page in ("home", "home", "detail")]
    first, third, second = run.recommend(users=["u1", "u2"], histories=[["i1"]], context=pages)
    for answer, expected in zip(found, (first, second, third), strict=True):
        assert answer["items"] == expected.items
        assert answer["scores"] == pytest.approx(expected.scores, abs=1e-5)
    (tmp_path / "in.jsonl").write_text('{"user": "u1", "context": "home"}')
    with pytest.raises(DataError, match="line 1: a request must be"):
        recommend_file(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_a_run_stores_what_its_context_needs_and_no_more(run: Run, dataset: Dataset) -> None:
    info = json.loads((run.path / "run.json").read_text())
    page, hour = {"name": "page", "num_values": 3}, {"name": "hour", "num_values": None}
    assert info["context"] == {"event": [page, hour], "request": [page]}
    assert list(read_columns(run.path / "histories.arrow")) == ["item", "time", "page", "hour"]
    assert [path.name for path in run.path.glob("context_*")] == ["context_page.arrow"]


def test_a_run_without_context_stores_none(dataset: Dataset, tmp_path: Path) -> None:
    plain = train("m3", dataset, out=tmp_path / "run", dim=4, epochs=1)
    assert "context" not in json.loads((plain.path / "run.json").read_text())
    assert list(read_columns(plain.path / "histories.arrow")) == ["item", "time"]
    assert list(plain.path.glob("context_*")) == []


def changed(tmp_path: Path, name: str, column: str, row: int, value: Any) -> Dataset:
    """Return the dataset with one value changed: of event `row` (-1 is the last) of every user."""
    drawn = draw_pages(200, 20)
    context: dict[str, Any] = {"page": drawn.pages, "hour": drawn.hours}
    for own in context[column]:
        own[row] = value
    histories = drawn.histories
    return make_dataset(tmp_path / name, histories, num_items=NUM_ITEMS, context=context)


@pytest.mark.parametrize(
    ("column", "row", "value", "has_effect"),
    [
        ("hour", -1, 1e6, False),  # of the target, but not in context_out
        ("hour", -2, 1e6, True),  # of the last event before it
        ("page", -1, "search", True),  # of the request
    ],
)
def test_evaluation_tells_of_the_target_what_is_declared(
    run: Run, dataset: Dataset, tmp_path: Path, column: str, row: int, value: Any, has_effect: bool
) -> None:
    """Leave-one-out: the last event is the test target, the one before it is in the history."""
    other = changed(tmp_path, "other", column, row, value)
    first, second = (
        ensue.evaluate(run.model, data, num_resamples=0).users["map"] for data in (dataset, other)
    )
    assert first.equals(second) != has_effect


def test_only_the_first_held_out_event_is_the_request(run: Run, tmp_path: Path) -> None:
    drawn = draw_pages(30, 20)
    found = {}
    for name, row in (("none", None), ("first", 16), ("second", 17), ("last", 19)):
        pages = [list(own) for own in drawn.pages]
        for own in pages:
            if row is not None:
                own[row] = "search" if own[row] != "search" else "home"
        context = {"page": pages, "hour": drawn.hours}
        data = make_dataset(
            tmp_path / name, drawn.histories, split="ratio", num_items=NUM_ITEMS, context=context
        )
        found[name] = ensue.evaluate(run.model, data, num_resamples=0)
    assert found["first"].metrics != found["none"].metrics
    assert found["second"].metrics == found["last"].metrics == found["none"].metrics
    assert found["none"].protocol["request_context"].startswith("of the first held-out event")


def test_training_does_not_see_the_test_part(dataset: Dataset, tmp_path: Path) -> None:
    """Neither the scale of the numbers nor anything else moves with a row that is held out."""
    settings = SETTINGS | {"epochs": 1, "context_in": ["hour"], "context_out": ["hour", "page"]}
    runs = [
        train("m3", data, out=tmp_path / f"run{number}", **settings)
        for number, data in enumerate(
            (
                dataset,
                changed(tmp_path, "test row", "hour", -1, 1e6),
                changed(tmp_path, "train row", "hour", 3, 1e6),
            )
        )
    ]
    first, same, other = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], same[name]) for name in first)
    hours = dataset.column("hour")[dataset.column("split") == 0]
    for side in ("event", "request"):
        mean = float(first[f"{side}_features.mean"][0])
        assert mean == pytest.approx(np.nanmean(hours), rel=1e-6)
        assert float(other[f"{side}_features.mean"][0]) > 1e4


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["last", "random"])
def test_resume_with_context(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: str
) -> None:
    settings = {**SETTINGS, **CONTEXT, "epochs": 2, "dropout": 0.2, "max_len": 8, "crop": crop}
    settings["checkpoint_seconds"] = 0.0
    expected = train("m3", dataset, out=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 17, OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            train("m3", dataset, out=tmp_path / "run", **settings)
    run = train("m3", dataset, out=tmp_path / "run", resume=True, prefetch=0, **settings)
    assert_same_run(run, expected)


@pytest.mark.slow
def test_the_report_shows_gates_by_page(run: Run) -> None:
    texts = Page(write_report(run).read_text()).texts
    for text in (
        "gate of the long range by length of the history",
        "gate of the long range by page of the request",
        "page of the last event",
        "detail",
    ):
        assert text in texts
    assert not any("hour of" in text for text in texts)


def test_context_gates_are_ready_for_json() -> None:
    part = ContextGates("event", "page", None, 3, {"tiny": 0.5}, {"tiny": 0.0})
    assert json.loads(json.dumps(part.to_dict()))["value"] is None


@pytest.mark.parametrize("model", ["m3", "sasrec", "gru4rec"])
def test_columns_that_no_model_asks_for_change_nothing(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(30)[: rng.integers(5, 20)] + 1).tolist() for _ in range(50)]
    context = {"page": [["a"] * len(history) for history in histories]}
    losses = []
    for name, columns in (("with", context), ("without", None)):
        data = make_dataset(tmp_path / name, histories, num_items=30, context=columns)
        run = train(model, data, out=tmp_path / f"run-{name}", dim=8, epochs=2)
        losses.append([line["loss"] for line in run.log()])
    assert losses[0] == losses[1]
