"""Requests from Parquet to Parquet: the answers of `recommend`, row for row, interrupted or not."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.dataset import Dataset
from ensue.errors import DataError, RunError, UsageError
from ensue.runs import batch_tables, many
from ensue.runs.batch_tables import recommend_table
from ensue.runs.many import ManyRecommender, ManyRequests
from ensue.runs.requests import Recommendation
from ensue.runs.run import Run, load
from ensue.runs.train import train
from tests.helpers import make_dataset

NUM_ITEMS = 120  # enough for the best items to be selected in blocks of columns
FAST = {"epochs": 1, "dim": 8}
PAGES = ("detail", "home", "search")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users have some items more than once, and one has all of them."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, NUM_ITEMS + 1, rng.integers(3, 40)).tolist() for _ in range(60)]
    histories[7] = [*range(1, NUM_ITEMS + 1)]
    pages = [[PAGES[item % 3] for item in own] for own in histories]
    hours = [[None if item % 5 == 0 else float(item % 24) for item in own] for own in histories]
    return make_dataset(
        tmp_path_factory.mktemp("data") / "d",
        histories,
        num_items=NUM_ITEMS,
        context={"page": pages, "hour": hours},
    )


@pytest.fixture(scope="module")
def runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Of ties (popularity), of whole histories, of users, of sequences, and with context."""
    folder = tmp_path_factory.mktemp("runs")
    context = {"context_in": ["page", "hour"], "context_out": ["page", "hour"]}
    settings: dict[str, dict[str, Any]] = {
        "popularity": {},
        "item_knn": {},
        "bpr": FAST,
        "caser": FAST,
        "m3": FAST | context,
    }
    return {name: train(name, dataset, out=folder / name, **own) for name, own in settings.items()}


@pytest.fixture
def popularity(runs: dict[str, Run]) -> Run:
    return runs["popularity"]


def in_parts_of(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(batch_tables, "PART", size)


def write(path: Path, **columns: Any) -> Path:
    pl.DataFrame(columns).write_parquet(path, row_group_size=7)
    return path


def assert_same(path: Path, expected: list[Recommendation]) -> None:
    """Rows of a file are these answers, but for the rounding of scores."""
    rows = pl.read_parquet(path).rows(named=True)
    assert len(rows) == len(expected)
    for row, answer in zip(rows, expected, strict=True):
        assert row["items"] == answer.items
        assert row["scores"] == pytest.approx(answer.scores, rel=1e-5, abs=1e-6)
        assert row["known"] == answer.is_known
        assert row["unknown_items"] == answer.unknown_items
        assert row.get("user") == answer.user
        assert row.get("unknown_context", []) == answer.unknown_context


USERS = [*(f"u{n}" for n in range(60, 0, -1)), "nobody", "u3", "u3", ""]
HISTORIES = [
    [],
    ["i3", "i5", "nothing", "i9", "i3", "?"],
    ["nothing"],
    [f"i{n}" for n in range(1, 110)],
    [f"i{n}" for n in range(1, NUM_ITEMS + 1)],
    ["i7"],
]
OPTIONS: list[dict[str, Any]] = [
    {"k": 500},
    {"deny": [f"i{n}" for n in range(1, 90)], "exclude_seen": False},
    {"allow": ["i2", "i40", "i119", "nothing"], "deny": ["i2"], "k": 2},
]


@pytest.mark.parametrize("model", ["popularity", "item_knn", "bpr", "caser", "m3"])
def test_answers_are_those_of_recommend(
    runs: dict[str, Run], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(monkeypatch, 40)
    monkeypatch.setattr(many, "MAX_REQUESTS", 15)
    users, histories = tmp_path / "users.parquet", tmp_path / "histories.parquet"
    write(users, user=USERS)
    write(histories, history=HISTORIES)
    for number, options in enumerate(OPTIONS):
        out = tmp_path / f"{number}.parquet"
        assert recommend_table(runs[model], users, out, **options) == len(USERS)
        assert_same(out, runs[model].recommend(users=USERS, **options))
        assert recommend_table(runs[model], histories, out, **options) == len(HISTORIES)
        assert_same(out, runs[model].recommend(histories=HISTORIES, **options))
        assert sorted(tmp_path.iterdir()) == sorted({users, histories, *tmp_path.glob("?.parquet")})


def test_blocks_as_large_give_the_same_scores_bit_for_bit(runs: dict[str, Run]) -> None:
    for run in runs.values():
        recommender = run.recommender
        dense = np.arange(61)
        missing = np.tile(recommender.encoder.encode_request({})[0], (61, 1))
        requests = ManyRequests(dense, recommender.histories, dense, missing)
        found = ManyRecommender(recommender, k=5).answer(requests)
        expected = run.recommend(users=["nobody", *(f"u{n}" for n in range(1, 61))], k=5)
        for scores, answer in zip(found.scores, expected, strict=True):
            assert scores[np.isfinite(scores)].tolist() == answer.scores


def test_an_index_is_asked_as_by_recommend(runs: dict[str, Run], tmp_path: Path) -> None:
    """One user may get hardly any item, and an unknown one is no query: all items are scored."""
    run = runs["bpr"]
    run.build_index("ivf", num_lists=12, nprobe=2)
    users = write(tmp_path / "users.parquet", user=USERS)
    for options in ({"k": 30, "deny": ["i3", "i4"]}, {"exclude_seen": False}):
        recommend_table(run, users, tmp_path / "out.parquet", index="ivf", **options)
        assert_same(tmp_path / "out.parquet", run.recommend(users=USERS, index="ivf", **options))
    recommend_table(run, users, tmp_path / "out.parquet", index="ivf", search={"nprobe": 12}, k=3)
    assert_same(tmp_path / "out.parquet", run.recommend(users=USERS, k=3))
    with pytest.raises(UsageError, match="go with index="):
        recommend_table(run, users, tmp_path / "out.parquet", search={"nprobe": 12})
    with pytest.raises(RunError, match="has no index 'hnsw'"):
        recommend_table(run, users, tmp_path / "out.parquet", index="hnsw")


def test_context_is_read_from_columns(runs: dict[str, Run], tmp_path: Path) -> None:
    run, out = runs["m3"], tmp_path / "out.parquet"
    pages = ["home", "attic", "", None, "detail"]
    hours = ["3", "", "4.5", None, "0"]
    users = [f"u{n}" for n in range(1, 6)]
    requests = write(tmp_path / "in.parquet", user=users, page=pages, hour=hours)
    recommend_table(run, requests, out)
    given = [{"page": page, "hour": hour} for page, hour in zip(pages, hours, strict=True)]
    expected = run.recommend(users=users, context=given)
    assert [answer.unknown_context for answer in expected] == [[], ["page=attic"], [], [], []]
    assert_same(out, expected)
    requests = write(tmp_path / "in.parquet", history=[["i1"], ["i1", "x"]], hour=[3, None])
    recommend_table(run, requests, out, context={"page": "cellar", "hour": 9})
    given = [{"page": "cellar", "hour": 3}, {"page": "cellar"}]
    assert_same(out, run.recommend(histories=[["i1"], ["i1", "x"]], context=given))
    requests = write(tmp_path / "in.parquet", user=["u1", "u2"], hour=["3", "noon"])
    with pytest.raises(UsageError, match="context 'hour' must be a number; got 'noon'"):
        recommend_table(run, requests, tmp_path / "new.parquet")
    with pytest.raises(UsageError, match="'pag' is none of them"):
        recommend_table(run, requests, tmp_path / "other.parquet", context={"pag": "home"})


def test_ids_keep_their_type(popularity: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for dtype in (pl.Int8, pl.UInt32, pl.Int64, pl.String):
        requests = write(tmp_path / "in.parquet", user=pl.Series([4, 100]).cast(dtype))
        recommend_table(popularity, requests, out)
        assert pl.read_parquet(out)["user"].to_list() == pl.read_parquet(requests)["user"].to_list()
        assert pl.read_parquet_schema(out)["user"] == dtype
    requests = write(tmp_path / "in.parquet", user=pl.Series(["u1", "?"]).cast(pl.Categorical))
    recommend_table(popularity, requests, out)
    assert_same(out, popularity.recommend(users=["u1", "?"]))
    assert pq.read_schema(out).field("items").type.value_type == "string"


def test_all_users_and_a_folder_of_users(popularity: Run, tmp_path: Path) -> None:
    recommend_table(popularity, None, tmp_path / "all.parquet", k=3)
    users = [f"u{n}" for n in range(1, 61)]
    assert_same(tmp_path / "all.parquet", popularity.recommend(users=users, k=3))
    for name, part in (("a", users[:20]), ("b", users[20:])):
        (tmp_path / "in" / name).mkdir(parents=True)
        write(tmp_path / "in" / name / "part.parquet", user=part)
    recommend_table(popularity, tmp_path / "in", tmp_path / "folder.parquet", k=3)
    found, expected = (pl.read_parquet(tmp_path / f"{n}.parquet") for n in ("folder", "all"))
    assert found.equals(expected)
    write(tmp_path / "in" / "b" / "part.parquet", user=[1, 2])
    with pytest.raises(DataError, match=r"ids of one type; column 'user' .* int64 and string"):
        recommend_table(popularity, tmp_path / "in", tmp_path / "folder.parquet")
    write(tmp_path / "in" / "b" / "part.parquet", history=[["i1"]])
    with pytest.raises(DataError, match="files of a folder must have the same columns"):
        recommend_table(popularity, tmp_path / "in", tmp_path / "folder.parquet")


def test_no_requests_are_no_answers(popularity: Run, tmp_path: Path) -> None:
    requests = write(tmp_path / "in.parquet", user=pl.Series([], dtype=pl.Int64))
    assert recommend_table(popularity, requests, tmp_path / "out.parquet") == 0
    assert pl.read_parquet(tmp_path / "out.parquet").shape == (0, 5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"users": ["u1"]}, "'user' or a column 'history', not both; .* has \\['users'\\]"),
        ({"user": ["u1"], "history": [["i1"]]}, "not both; .* has \\['user', 'history'\\]"),
        ({"user": ["u1"], "page": ["home"]}, "must be 'user' or 'history'; .* has \\['page'\\]"),
        ({"user": [1.0]}, "ids must be integers or text; column 'user' .* holds Float64"),
        ({"history": [[1.5]]}, "ids must be integers or text; column 'history' .* Float64"),
        ({"history": ["i1"]}, "histories must be lists of ids; .* holds String"),
        ({"user": ["u1"] * 30 + [None]}, "must name its user; row 31 of .*in.parquet has none"),
        ({"history": [["i1"]] * 30 + [["i1", None]]}, "all items of its history; row 31 of"),
        ({"history": [["i1"]] * 3 + [None]}, "all items of its history; row 4 of"),
    ],
)
def test_wrong_requests(
    popularity: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, Any],
    message: str,
) -> None:
    in_parts_of(monkeypatch, 25)
    requests = write(tmp_path / "in.parquet", **columns)
    with pytest.raises(DataError, match=message):
        recommend_table(popularity, requests, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_wrong_calls(popularity: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        recommend_table(popularity, None, tmp_path / "out.parquet", k=0)
    with pytest.raises(DataError, match=r"readable Parquet file; .*none\.parquet"):
        recommend_table(popularity, tmp_path / "none.parquet", tmp_path / "out.parquet")


def stop_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Make the answers of the next part fail."""
    answer, done = ManyRecommender.answer, 0

    def limited(recommender: ManyRecommender, requests: ManyRequests) -> Any:
        nonlocal done
        done += 1
        if done > parts:
            raise OSError("gone")
        return answer(recommender, requests)

    monkeypatch.setattr(ManyRecommender, "answer", limited)


def test_an_interrupted_job_goes_on(
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_parts_of(monkeypatch, 10)
    out, caser = tmp_path / "out.parquet", runs["caser"]
    requests = write(tmp_path / "in.parquet", user=USERS)
    recommend_table(caser, requests, tmp_path / "whole.parquet")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(OSError, match="gone"):
            recommend_table(caser, requests, out)
    folder = tmp_path / "out.parquet.parts"
    assert sorted(path.name for path in folder.glob("*.arrow")) == [
        f"00000{number}.arrow" for number in range(3)
    ]
    assert not out.exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 4)  # all that is left
        assert recommend_table(load(caser.path), requests, out) == len(USERS)
    assert "30 of 64 requests are answered already; going on." in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not folder.exists()


SCRIPT = """
    import sys
    import ensue
    from ensue.runs import batch_tables
    batch_tables.PART = 50
    run = ensue.load(sys.argv[1])
    batch_tables.recommend_table(run, sys.argv[2], sys.argv[3], k=7)
"""


@pytest.mark.slow
def test_kill_at_any_moment(runs: dict[str, Run], tmp_path: Path) -> None:
    """A real process, killed again and again behind one more part, ends with the same bytes."""
    rng = np.random.default_rng(1)
    users = [f"u{n}" for n in rng.integers(0, 70, 10_000)]
    requests = write(tmp_path / "in.parquet", user=users)
    out, folder = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(runs["caser"].path)]
    subprocess.run([*command, str(requests), str(tmp_path / "whole.parquet")], check=True)
    for number in (0, 60, 120, 180):
        process = subprocess.Popen([*command, str(requests), str(out)])
        while not (folder / f"{number:06d}.arrow").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert not out.exists()
    subprocess.run([*command, str(requests), str(out)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("in.parquet", "out.parquet", "whole.parquet")
    ]
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_are_never_taken_for_those_of_another_job(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(monkeypatch, 10)
    out, run = tmp_path / "out.parquet", runs["bpr"]
    requests = write(tmp_path / "in.parquet", user=USERS)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(OSError, match="gone"):
            recommend_table(run, requests, out, deny=["i1", "i2"])
    for options, differing in (
        ({"k": 3}, "differs in k, deny"),
        ({"deny": ["i1"]}, "differs in deny"),
        ({"deny": ["i1", "i2"], "allow": []}, "differs in allow"),
        ({"deny": ["i1", "i2"], "exclude_seen": False}, "differs in exclude_seen"),
    ):
        with pytest.raises(UsageError, match=rf"{differing}\. Give .* remove the folder"):
            recommend_table(run, requests, out, **options)
    with pytest.raises(UsageError, match="differs in run, weights, deny"):
        recommend_table(runs["caser"], requests, out)
    with pytest.raises(UsageError, match="differs in requests, deny"):
        recommend_table(run, None, out)
    write(requests, user=USERS[1:])
    with pytest.raises(UsageError, match=r"differs in requests\."):
        recommend_table(run, requests, out, deny=["i1", "i2"])
    write(requests, user=USERS)
    recommend_table(run, requests, out, deny=["i2", "i1", "i2"])
    assert_same(out, run.recommend(users=USERS, deny=["i1", "i2"]))


def test_a_folder_of_something_else_is_left_alone(popularity: Run, tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"out\.parquet\.parts must be free for the parts"):
        recommend_table(popularity, None, tmp_path / "out.parquet")
    assert (folder / "letter.txt").read_text() == "dear"


def test_one_process_makes_an_output(
    popularity: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ManyRecommender.answer

    def meanwhile(recommender: ManyRecommender, requests: ManyRequests) -> Any:
        monkeypatch.setattr(ManyRecommender, "answer", answer)
        with pytest.raises(UsageError, match=r"another makes .*out\.parquet now"):
            recommend_table(popularity, None, tmp_path / "out.parquet")
        return answer(recommender, requests)

    monkeypatch.setattr(ManyRecommender, "answer", meanwhile)
    assert recommend_table(popularity, None, tmp_path / "out.parquet") == 60


@pytest.mark.slow
def test_the_command_line(runs: dict[str, Run], tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        command = ["recommend", runs["bpr"].path, *arguments]
        return CliRunner().invoke(app, [str(a) for a in command], catch_exceptions=False).stdout

    out, requests = tmp_path / "out.parquet", write(tmp_path / "in.parquet", user=USERS)
    assert "64 answers are in" in call("--batch", requests, "-o", out, "-k", 3)
    assert_same(out, runs["bpr"].recommend(users=USERS, k=3))
    assert '"requests": 60' in call("--all-users", "-o", out, "--json")
    runs["bpr"].build_index("exact")
    call("--all-users", "-o", out, "--index", "exact")
    users = [f"u{n}" for n in range(1, 61)]
    assert_same(out, runs["bpr"].recommend(users=users))
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"user": "u1"}\n')
    assert "1 answers" in call("--batch", lines, "-o", tmp_path / "out.jsonl", "--index", "exact")
    for arguments, message in (
        (["--all-users"], "need -o FILE"),
        (["--all-users", "-o", "x.jsonl"], "--all-users writes Parquet, -o NAME.parquet; got x."),
        (["--all-users", "--batch", requests, "-o", out], "needs no --batch"),
        (["--batch", lines, "-o", out], "both Parquet .* or both JSON lines; got --batch"),
        (["--batch", requests, "-o", lines], "both Parquet .* or both JSON lines; got --batch"),
        (["--all-users", "-o", out, "--feature", "age=3"], "--feature goes with JSON lines"),
    ):
        with pytest.raises(UsageError, match=message):
            call(*arguments)
