"""Two stages: the order of the second one, and what it does when time is short."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.ranking.batch import RankingBatch
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import DataError, RunError, UsageError
from ensue.runs.cascade import Cascade, open_ranker
from ensue.runs.ranker import RankingRun
from ensue.runs.run import Run, load
from ensue.runs.stage_time import PROBE, PROBE_EVERY, TimeEstimate
from ensue.runs.train import train
from ensue.runs.train_ranker import train_ranker
from tests.helpers import make_dataset

NUM_ITEMS = 40
NUM_RANKED = 15
FAST: dict[str, Any] = {"epochs": 1, "dim": 4}
USERS = ["u1", "u4", "nobody"]
HISTORIES: list[list[str]] = [["i3", "i9", "nothing", "i3"], []]
CONTEXT = [{"page": "home"}, {}, {"page": "search"}, {"page": "home", "hour": 7}, {"hour": "23"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a retriever, two runs that rank, and a table of shown items."""
    folder = tmp_path_factory.mktemp("cascade")
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(5, 15)] + 1).tolist() for _ in range(30)
    ]
    data = make_dataset(folder / "data", histories, num_items=NUM_ITEMS)
    retriever = train("markov", data, out=folder / "retriever")
    prices = pl.Series("price", rng.normal(size=NUM_ITEMS))
    retriever.item_table.with_columns(prices).write_ipc(folder / "retriever" / "items.arrow")
    # Other ids, and without ten of the items.
    fewer = [[1 + item % 30 for item in history] for history in histories]
    other = make_dataset(folder / "other", fewer, num_items=30)
    names = [f"i{n}" for n in rng.permutation(NUM_ITEMS)[:30] + 1]
    pl.DataFrame({"raw_id": names}).write_ipc(other.path / "items.arrow")
    for model, settings in (("sasrec", FAST), ("item_knn", {})):
        train(model, other, out=folder / model, **settings)
    _write_rows(folder)
    return folder


def _write_rows(folder: Path) -> None:
    """Write rows.csv, what was shown, and items.csv; some items of the retriever are in neither."""
    rng = np.random.default_rng(1)
    count = 400
    pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(1, 20, count)],
            "item_id": [f"i{n}" for n in rng.integers(1, 35, count)],
            "timestamp": 1_600_000_000 + 60 * np.arange(count),
            "page": rng.choice(["home", "search"], count),
            "hour": rng.integers(0, 24, count),
            "price": rng.normal(size=count),
            "click": rng.integers(0, 2, count),
            "seconds": rng.normal(30, 9, count),
        }
    ).write_csv(folder / "rows.csv")
    pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(1, 35)],
            "genres": [
                "|".join(rng.choice(["x", "y", "z"], rng.integers(1, 4))) for _ in range(34)
            ],
            "year": rng.integers(1980, 2020, 34),
            "v_0": rng.normal(size=34),
            "v_1": rng.normal(size=34),
        }
    ).write_csv(folder / "items.csv")


@pytest.fixture(scope="module")
def retriever(folder: Path) -> Run:
    return load(folder / "retriever")


@pytest.fixture(scope="module", params=["deepfm", "growing"])
def ranker(request: pytest.FixtureRequest, folder: Path) -> RankingRun:
    return make_ranker(folder, request.param)


def make_ranker(folder: Path, name: str) -> RankingRun:
    """Return a ranking run over rows.csv; made when it is first asked for."""
    if not (folder / "shown").exists():
        prepare_ranking(
            folder / "rows.csv",
            folder / "shown",
            targets=["click", "seconds:regression"],
            items=folder / "items.csv",
            item="item_id",  # a page could be an item too
            features={"hour": "categorical", "items.year": "numeric"},
            history_length=3,
        )
    if not (folder / name).exists():
        settings = {"growth": {}} if name == "growing" else {"hidden": [8]}
        model = "lr" if name == "growing" else "deepfm"
        sizes = {} if name == "growing" else {"dim": 4}
        options = {**settings, **sizes, "epochs": 2, "batch_size": 32, "learning_rate": 0.05}
        train_ranker(model, folder / "shown", out=folder / name, **options)
    return RankingRun(folder / name)


def rows_by_hand(
    folder: Path, user: str | None, history: list[str], context: dict[str, Any], items: list[str]
) -> list[dict[str, Any]]:
    """Return a row for each candidate, as the table of rows and that of items say it."""
    table = pl.read_csv(folder / "items.csv")
    of_item = {row.pop("item_id"): row for row in table.to_dicts()}
    prices = dict(load(folder / "retriever").item_table.select("raw_id", "price").iter_rows())
    (name,) = (c.name for c in make_ranker(folder, "deepfm").schema.of_kind("history"))
    return [
        {
            **{"user_id": user, "item_id": item, "price": prices[item], name: history},
            **of_item.get(item, {}),
            **context,
        }
        for item in items
    ]


def test_rows_are_ranked_as_predict_ranks_rows_built_by_hand(
    folder: Path, retriever: Run, ranker: RankingRun
) -> None:
    cascade = Cascade(retriever, ranker, num_candidates=NUM_RANKED, items=folder / "items.csv")
    assert cascade.missing_columns == ["page", "hour"]
    requests: dict[str, Any] = {"users": USERS, "histories": HISTORIES, "deny": ["i5"]}
    answers = cascade.recommend(**requests, context=CONTEXT, k=10)
    retrieved = retriever.recommend(**requests, k=NUM_RANKED)
    stored = retriever.recommender
    for answer, first, given, context in zip(
        answers, retrieved, [*USERS, *HISTORIES], CONTEXT, strict=True
    ):
        if isinstance(given, str):
            history = stored.item_ids.to_raw(stored.histories[stored.user_ids.to_dense([given])[0]])
        else:
            history = [item for item in given if item != "nothing"]
        rows = rows_by_hand(folder, first.user, history, context, first.items)
        scores = ranker.predict(rows)["click"]
        order = np.argsort(-scores, kind="stable")[:10]
        assert answer.items == [first.items[place] for place in order]
        np.testing.assert_allclose(answer.scores, scores[order], rtol=1e-5)
        assert (answer.num_ranked, answer.second_stage) == (10, "complete")
        assert (answer.user, answer.is_known) == (first.user, first.is_known)
        assert answer.unknown_items == first.unknown_items
        assert answer.unknown_context == []
        assert [(s.name, s.num_items) for s in answer.stages] == [("retrieve", 15), ("rank", 15)]


def test_the_task_and_values_that_are_unknown(folder: Path, retriever: Run) -> None:
    ranker = make_ranker(folder, "deepfm")
    cascade = Cascade(retriever, ranker, num_candidates=NUM_RANKED, task="seconds")
    assert cascade.missing_columns == ["page", "hour", "genres", "year", "v"]
    context: dict[str, Any] = {"page": "moon", "hour": 3}
    one, two = cascade.recommend(histories=HISTORIES, context=[context, {"page": "home"}])
    assert (one.unknown_context, two.unknown_context) == (["page=moon"], [])
    (first, _) = retriever.recommend(histories=HISTORIES, k=NUM_RANKED)
    rows = rows_by_hand(folder, None, ["i3", "i9", "i3"], {}, first.items)
    rows = [
        {n: v for n, v in row.items() if n not in ("genres", "year", "v_0", "v_1")} for row in rows
    ]
    scores = ranker.predict([{**row, "hour": "3"} for row in rows])["seconds"]
    assert one.items == [first.items[n] for n in np.argsort(-scores, kind="stable")[:10]]
    features = cascade.recommend(features={"user_id": "u3", "page": "home", "genres": ["x"]})
    assert len(features) == 1
    assert len(features[0].items) == 10


@pytest.mark.parametrize("name", ["sasrec", "item_knn"])
def test_a_run_over_histories_ranks_what_it_knows(folder: Path, retriever: Run, name: str) -> None:
    own = load(folder / name)
    cascade = Cascade(retriever, own, num_candidates=NUM_RANKED)
    requests: dict[str, Any] = {"users": USERS, "histories": HISTORIES}
    answers = cascade.recommend(**requests, k=20)
    retrieved = retriever.recommend(**requests, k=20)
    stored = retriever.recommender
    num_unknown = 0
    for answer, first, given in zip(answers, retrieved, [*USERS, *HISTORIES], strict=True):
        history: Any = given
        if isinstance(given, str):
            history = stored.item_ids.to_raw(stored.histories[stored.user_ids.to_dense([given])[0]])
        (every,) = own.recommend(histories=[history], k=100, exclude_seen=False)
        scores = dict(zip(every.items, every.scores, strict=True))
        candidates = first.items[:NUM_RANKED]
        known = [item for item in candidates if item in scores]
        ranked = sorted(known, key=lambda item: -scores[item])
        rest = [item for item in first.items if item not in known]
        np.testing.assert_allclose(
            answer.scores,
            [*(scores[item] for item in ranked), *(_score_of(first, item) for item in rest)],
            rtol=1e-4,
            atol=1e-6,
        )
        assert answer.items == [*ranked, *rest]
        assert answer.num_ranked == len(known)
        num_unknown += len(candidates) - len(known)
    assert num_unknown > 0


def _score_of(answer: Any, item: str) -> float:
    return answer.scores[answer.items.index(item)]


def test_ties_keep_the_order_of_retrieval(
    folder: Path, retriever: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = make_ranker(folder, "deepfm")
    monkeypatch.setattr(ranker.model, "predict", lambda batch: torch.zeros(len(batch), 2))
    cascade = Cascade(retriever, ranker)
    (answer,) = cascade.recommend(users=["u1"])
    assert answer.items == retriever.recommend(users=["u1"])[0].items
    assert answer.scores == [0.0] * 10


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(
    folder: Path, retriever: Run, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cascade, Clock, list[float]]:
    """A cascade whose ranker takes a millisecond a row, or what the list says, and its clock."""
    clock, each = Clock(), [0.001]
    ranker = make_ranker(folder, "deepfm")
    predict = ranker.model.predict

    def slow(batch: RankingBatch) -> torch.Tensor:
        clock.now += each[0] * len(batch)
        return predict(batch)

    monkeypatch.setattr(ranker.model, "predict", slow)
    return Cascade(retriever, ranker, num_candidates=20, clock=clock), clock, each


def num_ranked(cascade: Cascade, budget_ms: float, users: list[str] | None = None) -> list[int]:
    answers = cascade.recommend(users=users or ["u1"], k=20, budget_ms=budget_ms)
    assert len({answer.second_stage for answer in answers}) == 1
    return [answer.num_ranked for answer in answers]


def test_the_budget_says_how_many_are_ranked(timed: tuple[Cascade, Clock, list[float]]) -> None:
    cascade, _, _ = timed
    assert num_ranked(cascade, 50) == [PROBE]  # nothing is known of its time yet
    assert num_ranked(cascade, 50) == [20]
    assert num_ranked(cascade, 12.5) == [12]
    assert num_ranked(cascade, 12.5, ["u1", "u2", "u3"]) == [4, 4, 4]
    assert num_ranked(cascade, 0) == [0]
    every, cut, none = (
        cascade.recommend(users=["u1"], k=20, budget_ms=budget)[0] for budget in (None, 12.5, 0.5)
    )
    outcomes = [answer.second_stage for answer in (every, cut, none)]
    assert outcomes == ["complete", "cut", "skipped"]
    (retrieved,) = cascade.retriever.recommend(users=["u1"], k=20)
    assert (none.items, none.scores) == (retrieved.items, pytest.approx(retrieved.scores))
    assert cut.items[12:] == retrieved.items[12:]
    assert cut.items[:12] == [item for item in every.items if item in retrieved.items[:12]]
    assert every.stages[1].milliseconds == pytest.approx(20)
    assert cut.to_dict(timings=True)["stages"][1] == {"name": "rank", "ms": 12.0, "items": 12}
    assert "stages" not in cut.to_dict()


def test_what_retrieval_takes_is_off_the_budget(
    timed: tuple[Cascade, Clock, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade, clock, _ = timed
    cascade.recommend(users=["u1"])
    retrieve = cascade.retriever.recommend

    def slow(**options: Any) -> Any:
        clock.now += 0.03
        return retrieve(**options)

    monkeypatch.setattr(cascade.retriever, "recommend", slow)
    assert num_ranked(cascade, 37.5) == [7]
    (answer,) = cascade.recommend(users=["u1"], budget_ms=30)
    assert (answer.second_stage, answer.stages[1].num_items) == ("skipped", 0)
    assert answer.stages[0].milliseconds == pytest.approx(30)


def test_a_slow_call_does_not_end_the_second_stage(
    timed: tuple[Cascade, Clock, list[float]],
) -> None:
    cascade, _, each = timed
    each[0] = 0.5
    cascade.recommend(users=["u1"])
    each[0] = 0.001
    found = [num_ranked(cascade, 20)[0] for _ in range(PROBE_EVERY)]
    assert found == [0] * (PROBE_EVERY - 1) + [PROBE]


def test_the_estimate_recovers_and_settles() -> None:
    """A call takes 2 and 0.1 a unit: 80 units fit into 10, whatever was measured before."""
    for first in (1000.0, 1e-6):
        estimate = TimeEstimate()
        assert estimate.affordable(10, least=5, probe=8) == 8
        estimate.observe(1, first)
        done = []
        for _ in range(100 * PROBE_EVERY):
            done.append(estimate.affordable(10, least=5, probe=8))
            assert done[-1] == 0 or done[-1] >= 5
            if done[-1]:
                estimate.observe(done[-1], 2 + 0.1 * done[-1])
        assert 75 <= done[-1] <= 80
        assert estimate.seconds == pytest.approx(10 / done[-1], rel=0.05)


def test_what_takes_no_time_fits_always() -> None:
    estimate = TimeEstimate()
    estimate.observe(3, 0.0)
    assert estimate.affordable(1e-9, least=1, probe=1) > 1e12
    assert estimate.affordable(0, least=1, probe=1) == 0


def test_without_time_left_nothing_is_probed(timed: tuple[Cascade, Clock, list[float]]) -> None:
    cascade, _, _ = timed
    assert [num_ranked(cascade, 0) for _ in range(2 * PROBE_EVERY)] == [[0]] * 2 * PROBE_EVERY


def test_a_run_over_histories_ranks_as_many_requests_as_fit(
    folder: Path, retriever: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, own = Clock(), load(folder / "sasrec")
    queries = own.model.queries

    def slow(batch: Any) -> Any:
        clock.now += 0.001 * len(batch)
        return queries(batch)

    monkeypatch.setattr(own.model, "queries", slow)
    cascade = Cascade(retriever, own, clock=clock)
    cascade.recommend(users=["u1"])
    answers = cascade.recommend(users=["u1", "u2", "u3", "u4"], budget_ms=2.5)
    assert [answer.second_stage for answer in answers] == ["complete"] * 2 + ["skipped"] * 2
    plain = retriever.recommend(users=["u3", "u4"])
    assert [answer.items for answer in answers[2:]] == [answer.items for answer in plain]


def test_threads_share_a_cascade(folder: Path, retriever: Run) -> None:
    cascade = Cascade(retriever, make_ranker(folder, "deepfm"))
    users = [f"u{n}" for n in range(1, 30)]
    expected = [answer.items for answer in cascade.recommend(users=users)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda user: cascade.recommend(users=[user])[0].items, users))
    assert found == expected


def test_nothing_to_rank(folder: Path, retriever: Run) -> None:
    for ranker in (make_ranker(folder, "deepfm"), load(folder / "sasrec")):
        cascade = Cascade(retriever, ranker)
        assert cascade.recommend(users=[], budget_ms=1) == []
        for budget in (None, 1.0):
            (answer,) = cascade.recommend(users=["u1"], allow=[], budget_ms=budget)
            assert (answer.items, answer.second_stage) == ([], "complete")


def test_wrong_use(folder: Path, retriever: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, own = make_ranker(folder, "deepfm"), load(folder / "sasrec")
    with pytest.raises(UsageError, match="num_candidates >= 1; got 0"):
        Cascade(retriever, ranker, num_candidates=0)
    with pytest.raises(UsageError, match=r"has no task 'clack'\. Did you mean 'click'"):
        Cascade(retriever, ranker, task="clack")
    with pytest.raises(UsageError, match=r"task is for a ranker that is a ranking run"):
        Cascade(retriever, own, task="click")
    with pytest.raises(UsageError, match=r"'item' of .* is none\. Did you mean 'item_id'"):
        Cascade(retriever, ranker, item_column="item")
    cascade = Cascade(retriever, ranker)
    with pytest.raises(UsageError, match=r"none reads 'pages'\. Did you mean 'page'"):
        cascade.recommend(users=["u1"], context={"pages": "home"})
    for name in ("price", "item_id"):  # the item's own
        with pytest.raises(UsageError, match=f"features .* none reads {name!r}"):
            cascade.recommend(users=["u1"], features={name: 3})
    with pytest.raises(UsageError, match="got neither"):
        cascade.recommend()
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        cascade.recommend(users=["u1"], k=0)
    monkeypatch.setattr(
        ranker.model, "predict", lambda batch: torch.full((len(batch), 2), torch.nan)
    )
    with pytest.raises(RunError, match="must be finite"):
        cascade.recommend(users=["u1"])


def test_columns_of_ids(folder: Path, retriever: Run) -> None:
    table = pl.read_csv(folder / "rows.csv", columns=["user_id", "item_id", "hour", "click"])
    names = {"user_id": "who", "item_id": "what"}
    named = _train_on(
        table.rename(names), folder / "named", {"who": "categorical", "what": "categorical"}
    )
    with pytest.raises(UsageError, match=r"something of the items .* Name .* --item-column"):
        Cascade(retriever, named)
    cascade = Cascade(retriever, named, user_column="who", item_column="what")
    assert cascade.missing_columns == ["hour"]
    (answer,) = cascade.recommend(users=["u1"])
    (first,) = retriever.recommend(users=["u1"], k=200)
    scores = named.predict([{"who": "u1", "what": item} for item in first.items])["click"]
    order = np.argsort(-scores, kind="stable")[:10]
    assert answer.items == [first.items[n] for n in order]
    both = _train_on(
        table.rename({"item_id": "movie", "hour": "page"}), folder / "both", {"page": "categorical"}
    )
    with pytest.raises(DataError, match=r"could all be it .* --item-column \(item_column=...\)"):
        Cascade(retriever, both)


def _train_on(table: pl.DataFrame, path: Path, features: dict[str, str]) -> RankingRun:
    table.write_csv(path.with_suffix(".csv"))
    prepare_ranking(path.with_suffix(".csv"), path, targets=["click"], features=features)
    return train_ranker("lr", path, out=path.with_name(path.name + "_run"), epochs=1)


def test_on_the_command_line(folder: Path, retriever: Run) -> None:
    make_ranker(folder, "deepfm")
    path = [str(folder / "retriever"), "--ranker", str(folder / "deepfm")]
    options = ["--candidates", "15", "--items", str(folder / "items.csv"), "--context", "page=home"]

    def call(*arguments: str) -> Any:
        line = ["recommend", *path, *options, *arguments]
        return CliRunner().invoke(app, line, catch_exceptions=False)

    result = call("--user", "u1", "--json", "--timings", "--budget-ms", "1000000")
    answer = json.loads(result.stdout)
    assert "reads hour, which nothing gives" in result.stderr
    assert [stage["name"] for stage in answer["stages"]] == ["retrieve", "rank"]
    assert (answer["second_stage"], answer["ranked"]) == ("cut", PROBE)
    answer = json.loads(call("--user", "u1", "--json").stdout)
    cascade = Cascade(
        retriever,
        open_ranker(folder / "deepfm"),
        num_candidates=15,
        items=folder / "items.csv",
    )
    (expected,) = cascade.recommend(users=["u1"], context={"page": "home"})
    assert answer == expected.to_dict()
    result = call("--history", "i3,i9", "--budget-ms", "0", "--timings")
    assert "second stage was skipped" in result.stderr
    assert " ms, 15 items; rank " in result.stdout
    assert " ms, 0 items." in result.stdout
    with pytest.raises(UsageError, match="--ranker goes with --user, --history and --feature"):
        call("--follow")
    line = ["recommend", str(folder / "retriever"), "--user", "u1", "--budget-ms", "3"]
    with pytest.raises(UsageError, match="--budget-ms goes with --ranker RUN"):
        CliRunner().invoke(app, line, catch_exceptions=False)
