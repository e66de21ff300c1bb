"""The run directory: same answers in memory, from disk, and on a machine without the dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ensue
from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, RunError, UsageError
from ensue.models.table import METHODS
from ensue.runs.batches import recommend_file
from ensue.runs.requests import Recommendation
from ensue.runs.run import Run, load
from ensue.runs.train import train
from tests.helpers import make_dataset

NUM_ITEMS = 30
FAST = {"epochs": 2, "dim": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(5, 20)] + 1).tolist() for _ in range(50)
    ]
    return make_dataset(tmp_path_factory.mktemp("data") / "d", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module", params=sorted(METHODS))
def run(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    settings = {} if METHODS[request.param].is_fitted else FAST
    return train(request.param, dataset, out=tmp_path_factory.mktemp("runs") / "run", **settings)


@pytest.fixture(scope="module")
def caser(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("caser", dataset, out=tmp_path_factory.mktemp("runs") / "caser", **FAST)


def test_a_moved_run_answers_without_the_dataset(run: Run, tmp_path: Path) -> None:
    requests = {"users": ["u1", "u7", "nobody"], "histories": [["i3", "i5"], []]}
    expected = run.recommend(**requests, k=7)
    shutil.copytree(run.path, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").recommend(**requests, k=7) == expected
    assert [len(answer.items) for answer in expected] == [7] * 5


def test_scores_agree_with_the_model(run: Run, dataset: Dataset) -> None:
    """The first items are those with the largest scores among the unseen; ties by smaller id."""
    for user in (1, 2, 3):
        history = dataset.histories("all")
        batch = history.batch(np.array([user]), run.model.max_len)
        scores = run.model.score(batch)[0].numpy()
        order = [i for i in np.lexsort([np.arange(NUM_ITEMS + 1), -scores]) if i > 0]
        order = [i for i in order if i not in set(history[user].tolist())]
        (answer,) = run.recommend(users=[f"u{user}"], k=5)
        assert answer.items == [f"i{item}" for item in order[:5]]
        np.testing.assert_allclose(answer.scores, scores[order[:5]], rtol=1e-5)


def test_a_request_alone_and_among_others(run: Run) -> None:
    users = [f"u{n}" for n in range(1, 20)]
    together = run.recommend(users=users, k=5)
    for user, answer in zip(users, together, strict=True):
        (alone,) = run.recommend(users=[user], k=5)
        assert alone.items == answer.items
        np.testing.assert_allclose(alone.scores, answer.scores, rtol=1e-5, atol=1e-6)


def assert_same_answer(answer: Recommendation, expected: Recommendation) -> None:
    assert answer.items == expected.items
    assert answer.scores == pytest.approx(expected.scores, rel=1e-4, abs=1e-5)
    assert (answer.user, answer.is_known) == (expected.user, expected.is_known)
    assert answer.unknown_items == expected.unknown_items


def test_a_followed_history_is_answered_like_the_whole_of_it(run: Run) -> None:
    follower = run.follow()
    events = ["i3", "i5", "nothing", "i9", "i3"]
    options = {"k": 4, "deny": ["i7"], "allow": [f"i{n}" for n in range(1, 20)]}
    for count in range(len(events) + 1):
        (expected,) = run.recommend(histories=[events[:count]], **options)
        assert_same_answer(follower.recommend(**options), expected)
        if count < len(events):
            assert follower.add(events[count]) == (events[count] != "nothing")


def test_following_a_user_begins_with_what_is_stored(run: Run) -> None:
    for user in ("u4", "nobody"):
        (expected,) = run.recommend(users=[user], k=5)
        assert_same_answer(run.follow(user).recommend(k=5), expected)
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        run.follow().recommend(k=0)


def test_exclude_seen_allow_and_deny(caser: Run) -> None:
    history = ["i1", "i2", "i3"]
    (answer,) = caser.recommend(histories=[history], k=NUM_ITEMS)
    assert set(answer.items) == {f"i{n}" for n in range(4, NUM_ITEMS + 1)}
    (answer,) = caser.recommend(histories=[history], k=1000, exclude_seen=False)
    assert len(answer.items) == NUM_ITEMS
    allow = ["i1", "i9", "i10", "i11", "not an item"]
    (answer,) = caser.recommend(histories=[history], allow=allow, deny=["i10"])
    assert set(answer.items) == {"i9", "i11"}
    (answer,) = caser.recommend(histories=[history], allow=[])
    assert answer.items == []


def test_unknown_users_and_items_are_reported(caser: Run) -> None:
    known, unknown = caser.recommend(users=["u1", "nobody"])
    assert (known.is_known, unknown.is_known) == (True, False)
    (answer,) = caser.recommend(histories=[["i1", "x", "i2", 99]])
    assert answer.unknown_items == ["x", "99"]
    (clean,) = caser.recommend(histories=[["i1", "i2"]])
    assert answer.items == clean.items
    assert answer.to_dict() == {
        "items": answer.items,
        "scores": answer.scores,
        "unknown_items": ["x", "99"],
    }


def test_wrong_requests(caser: Run) -> None:
    with pytest.raises(UsageError, match="got neither"):
        caser.recommend()
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        caser.recommend(users=["u1"], k=0)
    with pytest.raises(UsageError, match="got the string 'u1'"):
        caser.recommend(users="u1")  # type: ignore[arg-type]


def test_file_of_requests(caser: Run, tmp_path: Path) -> None:
    lines = ['{"user": "u3"}', '{"history": ["i1", "i2"]}', "", '{"user": "u1"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    count = recommend_file(caser, tmp_path / "in.jsonl", tmp_path / "out.jsonl", k=3)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert count == len(answers) == 3
    expected = caser.recommend(users=["u3", "u1"], histories=[["i1", "i2"]], k=3)
    assert [a["items"] for a in answers] == [expected[i].items for i in (0, 2, 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: a request must be JSON"),
        ('{"users": ["u1"]}', 'line 2: a request must be {"user": ID}'),
        ('{"history": "i1"}', "got {"),
        ("[1]", "got \\[1\\]"),
    ],
)
def test_a_wrong_request_in_a_file(caser: Run, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"user": "u3"}\n' + line + "\n")
    with pytest.raises(ensue.EnsueError, match=message):
        recommend_file(caser, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_run_json_tells_what_was_done(caser: Run, dataset: Dataset) -> None:
    info = json.loads((caser.path / "run.json").read_text())
    assert info["model"] == "caser"
    assert info["config"]["dim"] == 8
    assert info["training"]["epochs"] == 2
    assert info["dataset"]["hash"] == dataset.info.hash
    assert 0 < info["metrics"]["validation"]["map"] <= 1
    assert {"python", "torch", "ensue"} <= info["versions"].keys()


def test_evaluate_in_memory_equals_from_disk(caser: Run, dataset: Dataset) -> None:
    memory = caser.evaluate(dataset, num_resamples=50)
    stored = load(caser.path).evaluations()["test"]
    assert stored.metrics == memory.metrics
    assert load(caser.path).evaluate(num_resamples=50).metrics == memory.metrics


def test_a_run_is_evaluated_on_its_own_data(caser: Run, dataset: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", [[1, 2, 3], [3, 2, 1]], num_items=NUM_ITEMS)
    with pytest.raises(UsageError, match="dataset it was trained on"):
        caser.evaluate(other)
    final = train("popularity", dataset, out=tmp_path / "final", fit="train+validation")
    with pytest.raises(UsageError, match="was trained on train\\+validation"):
        final.evaluate(split="validation")
    shutil.rmtree(other.path)


def test_wrong_settings_name_the_closest(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'dims'\. Did you mean 'dim'"):
        train("caser", dataset, out=tmp_path / "run", dims=3)
    with pytest.raises(ConfigError, match=r"popularity has no setting 'dim'\. It has no settings"):
        train("popularity", dataset, out=tmp_path / "run", dim=3)
    with pytest.raises(ConfigError, match=r"CaserConfig\.dim: .*; got 'many'"):
        train("caser", dataset, out=tmp_path / "run", dim="many")
    with pytest.raises(UsageError, match=r"no model 'casser'\. Did you mean 'caser'"):
        train("casser", dataset, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"no preset 'papr'\. Did you mean 'paper'"):
        train("caser", dataset, out=tmp_path / "run", preset="papr")
    with pytest.raises(UsageError, match="fit must be"):
        train("caser", dataset, out=tmp_path / "run", fit="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device must be usable here; got 'warp'"):
        train("caser", dataset, out=tmp_path / "run", device="warp")
    with pytest.raises(ConfigError, match="metric must be one of"):
        train("caser", dataset, out=tmp_path / "run2", metric="mapp", **FAST)


def test_output_that_is_no_run_is_never_replaced(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="exists and holds no training"):
        train("popularity", dataset, out=tmp_path / "mine", overwrite=True)
    train("popularity", dataset, out=tmp_path / "run")
    with pytest.raises(UsageError, match="--overwrite"):
        train("popularity", dataset, out=tmp_path / "run")
    train("markov", dataset, out=tmp_path / "run", overwrite=True)
    assert load(tmp_path / "run").info["model"] == "markov"


def test_damaged_runs(caser: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has none"):
        load(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(caser.path, damaged)
    (damaged / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match="whole safetensors file"):
        load(damaged).recommend(users=["u1"])
    shutil.copy(caser.path / "checkpoints" / "last.safetensors", damaged / "model.safetensors")
    with pytest.raises(RunError, match="must hold the weights"):
        load(damaged).recommend(users=["u1"])
    (damaged / "run.json").write_text("{}")
    with pytest.raises(RunError, match="must be what ensue train wrote"):
        load(damaged)
    info = json.loads((caser.path / "run.json").read_text())
    (damaged / "run.json").write_text(json.dumps(info | {"format": 99}))
    with pytest.raises(RunError, match="format 99, this version reads 1"):
        load(damaged)
