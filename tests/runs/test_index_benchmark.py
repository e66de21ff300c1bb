"""What the benchmark of a run's indexes says, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.errors import EnsueError, UsageError
from ensue.indexes.table import KINDS
from ensue.runs import index_benchmark
from ensue.runs.index_benchmark import benchmark_indexes, recall, sample_queries, time_searches
from ensue.runs.run import Run, load
from ensue.runs.train import train
from tests.cli.test_end_to_end import call
from tests.helpers import make_dataset
from tests.indexes.brute import index_of
from tests.runs.page import Page, assert_self_contained

pytestmark = pytest.mark.slow  # seconds of training and opening

NUM_ITEMS = 150


@pytest.fixture(autouse=True)
def _few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_benchmark, "MAX_SEARCHES", 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    histories = [(rng.permutation(NUM_ITEMS)[:12] + 1).tolist() for _ in range(40)]
    data = make_dataset(folder / "data", histories, num_items=NUM_ITEMS)
    return train("bpr", data, out=folder / "run", dim=8, epochs=1)


def test_every_row_is_measured_against_the_exact_answers(run: Run, tmp_path: Path) -> None:
    found = benchmark_indexes(run, ["ivf"], k=10, out=tmp_path / "page")
    assert (found.num_items, found.num_queries, found.k) == (NUM_ITEMS, 40, 10)
    assert [row.label for row in found.rows] == [
        "exact",
        *(f"ivf, nprobe={value}" for value in KINDS["ivf"].sweep["nprobe"]),
    ]
    queries = sample_queries(run, 1000)
    exact, _ = run.index("exact").search(queries, 10)
    for row in found.rows:
        index = run.index(row.kind, **dict([row.setting] if row.setting else []))
        ids, _ = index.search(queries, 10)
        shared = [len({*a} & {*b}) for a, b in zip(ids.tolist(), exact.tolist(), strict=True)]
        assert row.recall == pytest.approx(np.mean(shared) / 10)
        for size in ("1", "256"):
            assert 0 < row.ms[size]["median"] <= row.ms[size]["p95"]
    assert found.rows[0].recall == 1.0
    assert found.rows[1].recall < 1.0
    assert found.build["ivf"]["bytes"] == (run.path / "indexes/ivf/index.faiss").stat().st_size
    stored = json.loads((tmp_path / "page" / "index_benchmark.json").read_text())
    assert stored == json.loads(json.dumps(found.to_dict()))
    html = (tmp_path / "page" / "index_benchmark.html").read_text()
    assert_self_contained(html)
    texts = Page(html).texts
    assert {"exact", "ivf, nprobe=4", "recall@10"} <= set(texts)
    assert "ms for one query" in texts


def test_without_names_it_measures_what_the_run_has(run: Run) -> None:
    run.build_index("hnsw", overwrite=True, ef_construction=20)
    found = benchmark_indexes(run, k=5, num_queries=7)
    assert found.num_queries == 7
    assert {row.kind for row in found.rows} >= {"exact", "hnsw"}


def test_the_command_agrees_with_python(run: Run, tmp_path: Path) -> None:
    path = str(run.path)
    printed = call("index", path, "--kind", "ivf", "--benchmark", "--k", 10, "--json")
    expected = benchmark_indexes(load(path), ["ivf"], k=10)
    assert [row["recall"] for row in printed["rows"]] == [row.recall for row in expected.rows]
    options = ["--kind", "ivf", "--benchmark", "-k", "10", "-o", str(tmp_path / "page")]
    result = CliRunner().invoke(app, ["index", path, *options], catch_exceptions=False)
    assert "ivf, nprobe=16" in result.stdout
    assert (tmp_path / "page" / "index_benchmark.html").is_file()


def test_build_and_recommend_on_the_command_line(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "ivf"
    settings = ["--set", "num_lists=10", "--set", "nprobe=1"]
    built = call("index", run.path, "--kind", "ivf", *settings, "-o", folder, "--json")
    assert built["config"] == {"num_lists": 10, "nprobe": 1}
    assert built["num_items"] == NUM_ITEMS
    asked = ["recommend", run.path, "--user", "u3", "--index", folder]
    (expected,) = run.recommend(users=["u3"], index=folder)
    assert call(*asked, "--json") == expected.to_dict()
    (plain,) = run.recommend(users=["u3"])
    widest = call(*asked, "--search", "nprobe=10", "--json")
    assert widest["items"] == plain.items
    text = CliRunner().invoke(
        app, ["index", str(run.path), "--kind", "exact", "--overwrite"], catch_exceptions=False
    )
    assert f"ensue recommend {run.path} --user ID --index exact" in text.stdout
    requests = tmp_path / "in.jsonl"
    requests.write_text('{"user": "u3"}\n{"history": ["i1"]}\n')
    out = tmp_path / "out.jsonl"
    call("recommend", run.path, "--batch", requests, "-o", out, "--index", "exact", "--json")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    answers = run.recommend(users=["u3"], histories=[["i1"]])
    assert [line["items"] for line in lines] == [answer.items for answer in answers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "RUN"], "needs one --kind"),
        (["index", "RUN", "--kind", "ivf", "--kind", "hnsw"], "needs one --kind"),
        (["index", "RUN", "--kind", "tree"], "no kind of index 'tree'"),
        (["index", "RUN", "--kind", "ivf", "--k", "3"], "--queries and --k go with --benchmark"),
        (["index", "RUN", "--benchmark", "--set", "nprobe=3"], "without --set, --overwrite"),
        (["index", "RUN", "--benchmark", "--kind", "tree"], "no kind of index 'tree'"),
        (["recommend", "RUN", "--user", "u1", "--index", "none"], "has no index 'none'"),
        (["recommend", "RUN", "--user", "u1", "--search", "nprobe=3"], "goes with --index"),
        (["recommend", "RUN", "--follow", "--index", "exact"], "takes no --index"),
    ],
)
def test_wrong_use_is_one_sentence(run: Run, arguments: list[str], message: str) -> None:
    if not (run.path / "indexes" / "exact").exists():
        run.build_index("exact")
    given = [str(run.path) if a == "RUN" else a for a in arguments]
    with pytest.raises(EnsueError, match=r"\.$") as error:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_numbers_are_one_sentence(run: Run) -> None:
    with pytest.raises(UsageError, match="k and queries >= 1; got 0 and 1000"):
        benchmark_indexes(run, k=0)
    with pytest.raises(UsageError, match="got 100 and 0"):
        benchmark_indexes(run, num_queries=0)


def test_recall_counts_an_item_once_and_padding_never() -> None:
    exact = np.array([[3, 1, 2], [4, 5, 6]])
    assert recall(np.array([[1, 2, 3], [7, 8, 9]]), exact) == 0.5
    assert recall(np.array([[3, 0, 0], [6, 5, 0]]), exact) == pytest.approx(3 / 6)


def test_fewer_queries_than_a_batch_are_asked_for_again() -> None:
    index = index_of(np.eye(3))
    times = time_searches(index, np.eye(3, dtype=np.float32)[:2], 1)
    assert set(times) == {"1", "256"}
