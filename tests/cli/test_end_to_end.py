"""From a log file to recommendations on the command line; every verb prints one JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.errors import EnsueError, UsageError

FAST = ["--set", "epochs=2", "--set", "dim=8"]


def call(*arguments: object) -> dict[str, Any]:
    """Return the JSON object that a verb prints; standard output holds nothing else."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and two evaluated runs, all made by the command line."""
    folder = tmp_path_factory.mktemp("work")
    config = ensue.SyntheticConfig(
        num_users=150, num_items=80, num_interactions=3000, num_categories=4
    )
    log = ensue.generate(config)
    log.interactions.write_csv(folder / "log.csv")
    log.items.write_csv(folder / "items.csv")
    made = call(
        *("prepare", folder / "log.csv", "--items", folder / "items.csv"),
        *("-o", folder / "data", "--json"),
    )
    assert made["counts"]["users"] == 150
    for model, options in (("caser", FAST), ("popularity", [])):
        run = call("train", model, folder / "data", "-o", folder / model, *options, "--json")
        assert run["model"] == model
        assert run["metrics"]["validation"]["map"] > 0
        call("evaluate", folder / model, "--json")
    return folder


def test_evaluate(folder: Path) -> None:
    found = call("evaluate", folder / "caser", "--json", "-k", 5, "-k", 10)
    for name in ("map", "ndcg@10", "recall@10", "precision@5", "hr@10", "mrr"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found["metrics"][name] <= high <= 1
    assert found["protocol"]["split"] == "test"
    expected = ensue.load(folder / "caser").evaluate(ks=(5, 10)).metrics
    assert found["metrics"] == expected


def test_recommend_agrees_with_python(folder: Path) -> None:
    run = ensue.load(folder / "caser")
    answer = call("recommend", folder / "caser", "--user", "u007", "-k", 4, "--json")
    (expected,) = run.recommend(users=["u007"], k=4)
    assert answer == expected.to_dict()
    items = run.item_table["raw_id"].to_list()[:3]
    answer = call("recommend", folder / "caser", "--history", ",".join(items), "--json")
    (expected,) = run.recommend(histories=[items])
    assert (answer["items"], answer["scores"]) == (expected.items, expected.scores)


def test_recommend_lists_and_batch(folder: Path) -> None:
    run = ensue.load(folder / "caser")
    items = run.item_table["raw_id"].to_list()
    (folder / "allow.txt").write_text("\n".join(items[10:13]) + "\n\n")
    (folder / "deny.txt").write_text(items[10] + "\n")
    options = ["--allow", folder / "allow.txt", "--deny", folder / "deny.txt", "--include-seen"]
    answer = call("recommend", folder / "caser", "--history", items[0], *options, "--json")
    assert set(answer["items"]) == set(items[11:13])
    requests = [{"user": "u001"}, {"history": items[:2]}]
    (folder / "in.jsonl").write_text("\n".join(json.dumps(request) for request in requests))
    batch = ["--batch", folder / "in.jsonl", "-o", folder / "out.jsonl"]
    assert call("recommend", folder / "caser", *batch, "--json")["requests"] == 2
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    expected = run.recommend(users=["u001"], histories=[items[:2]])
    assert [line["items"] for line in lines] == [answer.items for answer in expected]
    both = call("recommend", folder / "caser", "--user", "u001", "--user", "nobody", "--json")
    assert [answer["known"] for answer in both["requests"]] == [True, False]


def test_compare(folder: Path) -> None:
    found = call("compare", folder / "caser", folder / "popularity", "--json")
    assert found["names"] == ["caser", "popularity"]
    for test in found["tests"]:
        assert test["difference"] == pytest.approx(test["mean_a"] - test["mean_b"])
        assert 0 < test["p"] <= test["p_corrected"] <= 1


def test_report(folder: Path) -> None:
    path = Path(call("report", folder / "caser", "--json")["report"])
    html = path.read_text()
    assert "<svg" in html
    assert "ndcg@10" in html
    titles = ensue.load(folder / "caser").item_names().values()
    assert any(title in html for title in titles)  # examples are for people to read


def test_tables_for_people(folder: Path) -> None:
    for arguments, words in (
        (["evaluate", folder / "caser", "--resamples", "0"], ["ndcg@10", "head", "tail"]),
        (["recommend", folder / "caser", "--user", "u001"], ["rank", "name", "for user u001"]),
        (["compare", folder / "caser", folder / "popularity"], ["a - b", "p (holm)"]),
    ):
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0
        for word in words:
            assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "caser"], "needs --user ID, --history ID,ID,..., --feature NAME=VALUE, "),
        (
            ["recommend", "caser", "--batch", "in.jsonl"],
            "--batch FILE and --all-users need -o FILE",
        ),
        (["recommend", "caser", "--user", "u1", "-o", "x"], "-o FILE goes with --batch"),
        (["recommend", "caser", "--user", "u1", "--deny", "none.txt"], "there is none"),
        (["recommend", "data", "--user", "u1"], "a run is a folder with a run.json"),
        (["evaluate", "caser", "--split", "train"], "split must be 'validation' or 'test'"),
        (["evaluate", "caser", "--data", "caser"], "a dataset is a folder with a dataset.json"),
        (["compare", "caser"], "two or more"),
        (["compare", "caser", "popularity", "--split", "validation"], "Run ensue evaluate"),
        (["train", "caser", "data", "-o", "new", "--set", "dim"], "--set takes NAME=VALUE"),
    ],
)
def test_wrong_use_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(EnsueError, match=r"\.$") as error:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_follow_answers_after_each_event(folder: Path) -> None:
    run = ensue.load(folder / "caser")
    items = run.item_table["raw_id"].to_list()[:2]
    command = ["recommend", str(folder / "caser"), "--follow", "-k", "3", "--json"]
    result = CliRunner().invoke(app, command, input="\n".join(items) + "\n\n")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    expected = [run.recommend(histories=[items[:n]], k=3)[0].items for n in (1, 2)]
    assert [answer["items"] for answer in answers] == expected
    with pytest.raises(UsageError, match="--follow takes at most one --user"):
        CliRunner().invoke(app, [*command, "--history", "x"], catch_exceptions=False)
