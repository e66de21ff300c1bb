"""Indexes of a run: stored, bound to its weights, and answering as plain recommend does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, RunError, UsageError
from ensue.models.table import METHODS
from ensue.runs import retrieve as retrieval
from ensue.runs.requests import Recommendation
from ensue.runs.retrieve import retrieve
from ensue.runs.run import Run, load
from ensue.runs.train import train
from ensue.training.checkpoints import load_tensors, save_tensors
from tests.helpers import make_dataset
from tests.indexes.brute import index_of

NUM_ITEMS = 120
FAST = {"epochs": 1, "dim": 8}
# Their scores are sums over the history, counts, or what a perceptron says of a pair.
NOT_BY_PRODUCT = {"popularity", "markov", "item_knn", "ease", "neumf"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(5, 40)] + 1).tolist() for _ in range(60)
    ]
    return make_dataset(tmp_path_factory.mktemp("data") / "d", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module", params=sorted(METHODS))
def any_run(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    settings = {} if METHODS[request.param].is_fitted else FAST
    return train(request.param, dataset, out=tmp_path_factory.mktemp("runs") / "run", **settings)


@pytest.fixture(scope="module")
def bpr(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("bpr", dataset, out=tmp_path_factory.mktemp("runs") / "bpr", **FAST)


def copy_of(run: Run, path: Path) -> Run:
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("indexes"))
    return load(path)


def assert_same(answers: list[Recommendation], expected: list[Recommendation]) -> None:
    """Same items, and scores but for the rounding of a product."""
    for answer, other in zip(answers, expected, strict=True):
        assert answer.items == other.items
        assert answer.scores == pytest.approx(other.scores, rel=1e-4, abs=1e-5)
        assert (answer.user, answer.is_known) == (other.user, other.is_known)
        assert answer.unknown_items == other.unknown_items


REQUESTS: dict[str, Any] = {
    "users": [*(f"u{n}" for n in range(1, 20)), "nobody"],
    "histories": [["i3", "i5", "nothing"], [], [f"i{n}" for n in range(1, 110)]],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"k": 1},
    {"k": 500},
    {"exclude_seen": False, "k": 25},
    {"deny": [f"i{n}" for n in range(1, 90)]},
    {"allow": ["i2", "i40", "i119", "nothing"]},
    {"allow": []},
]


def test_exact_answers_are_the_plain_ones_or_there_is_no_index(any_run: Run) -> None:
    if any_run.info["model"] in NOT_BY_PRODUCT:
        with pytest.raises(UsageError, match=r"product of two vectors .* does not"):
            any_run.build_index("exact")
        assert not (any_run.path / "indexes" / "exact").exists()
        return
    any_run.build_index("exact")
    for options in OPTIONS:
        expected = any_run.recommend(**REQUESTS, **options)
        assert_same(any_run.recommend(**REQUESTS, **options, index="exact"), expected)


def test_approximate_answers_are_as_many_and_nearly_the_same(bpr: Run) -> None:
    for kind, settings in (("hnsw", {}), ("ivf", {"num_lists": 12, "nprobe": 1})):
        index = bpr.build_index(kind, **settings)
        shared = []
        for options in OPTIONS:
            expected = bpr.recommend(**REQUESTS, **options)
            answers = bpr.recommend(**REQUESTS, **options, index=index)
            for answer, plain in zip(answers, expected, strict=True):
                assert len(answer.items) == len(plain.items)
                assert answer.scores == sorted(answer.scores, reverse=True)
                if plain.items:
                    shared.append(len({*answer.items} & {*plain.items}) / len(plain.items))
        assert np.mean(shared) > (0.98 if kind == "hnsw" else 0.5)


class Counting:
    """An index that notes how many items it is asked for."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._index = index_of(rows)
        self.num_items = len(rows)
        self.asked: list[tuple[int, int]] = []

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self.asked.append((len(queries), k))
        return self._index.search(queries, k)


def test_an_index_is_asked_for_as_few_as_will_do() -> None:
    """Item i has score -i: what is hidden is at the front, and a second, wider search needed."""
    index = Counting(-np.arange(1, 5001, dtype=np.float32)[:, None])
    hidden = np.zeros(5001, dtype=bool)
    hidden[:51] = True
    queries = np.ones((2, 1), dtype=np.float32)
    none = np.empty(0, dtype=np.int64)
    first, second = retrieve(index, queries, [none, np.array([51, 51, 53])], hidden, 2)
    assert first is not None
    assert second is not None
    assert first[0].tolist() == [51, 52]
    assert second[0].tolist() == [52, 54]
    assert index.asked == [(1, 4), (1, 8), (1, 16), (1, 32), (1, 64), (1, 128)]


def test_what_an_index_cannot_answer_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Counting(-np.arange(1, 5001, dtype=np.float32)[:, None])
    hidden = np.zeros(5001, dtype=bool)
    hidden[: 5001 - 3] = True
    queries = np.array([[1.0], [0.0]], dtype=np.float32)
    none = np.empty(0, dtype=np.int64)
    assert retrieve(index, queries, [none, none], hidden, 3) == [None, None]
    assert index.asked == []  # no search that may be asked for reaches the three
    hidden[0:] = True
    (empty, _) = retrieve(index, queries, [none, none], hidden, 3)
    assert empty is not None
    assert len(empty[0]) == 0
    monkeypatch.setattr(retrieval, "WIDEST", 16)
    hidden[51:] = False
    assert retrieve(index, queries[:1], [none], hidden, 2) == [None]
    assert max(k for _, k in index.asked) <= 16


def test_a_stored_index_is_found_by_kind_and_by_folder(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    run.build_index("ivf", out=tmp_path / "mine", num_lists=5)
    with pytest.raises(RunError, match="has no index 'ivf'"):
        run.index("ivf")
    expected = run.recommend(users=["u1"], index=run.index(tmp_path / "mine"))
    assert run.recommend(users=["u1"], index=str(tmp_path / "mine")) == expected
    moved = load(shutil.move(run.path, tmp_path / "elsewhere"))
    assert moved.recommend(users=["u1"], index=tmp_path / "mine") == expected
    index = moved.index(tmp_path / "mine", nprobe=3)
    assert index.nprobe == 3
    with pytest.raises(UsageError, match="one of: nprobe; got 'num_lists'"):
        moved.index(tmp_path / "mine", num_lists=3)
    with pytest.raises(ConfigError, match=r"IVFConfig\.nprobe"):
        moved.index(tmp_path / "mine", nprobe=0)


def test_an_index_is_opened_once_and_replaced_when_built_again(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    run.build_index("exact")
    run.recommend(users=["u1"], index="exact")
    opened = run._opened("exact")
    assert run._opened("exact") is opened
    with pytest.raises(UsageError, match="--overwrite"):
        run.build_index("exact")
    run.build_index("exact", overwrite=True, memory_bytes=1 << 20)
    assert run._opened("exact").config.memory_bytes == 1 << 20


def test_an_index_of_other_weights_is_refused(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    run.build_index("ivf", out=tmp_path / "ivf")
    weights, _ = load_tensors(run.path / "model.safetensors")
    weights["item_embedding"] = weights["item_embedding"] + torch.tensor(1e-3)
    save_tensors(run.path / "model.safetensors", weights, {})
    with pytest.raises(RunError, match="must be of the weights that it is used with"):
        load(run.path).index(tmp_path / "ivf")


def test_damaged_indexes(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    run.build_index("ivf")
    folder = run.path / "indexes" / "ivf"
    whole = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(whole[:-1])
    with pytest.raises(RunError, match="missing or changed"):
        run.index("ivf")
    (folder / "index.faiss").unlink()
    with pytest.raises(RunError, match="missing or changed"):
        run.index("ivf")
    info = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(info | {"format": 9}))
    with pytest.raises(RunError, match="format 9, this version reads 1"):
        run.index("ivf")
    (folder / "index.json").write_text("{}")
    with pytest.raises(RunError, match="must be what ensue index wrote"):
        run.index("ivf")
    with pytest.raises(RunError, match=r"has no index 'exact'\. Build one"):
        run.recommend(users=["u1"], index="exact")


def test_wrong_settings_leave_nothing_behind(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    with pytest.raises(UsageError, match=r"no kind of index 'hsnw'\. Did you mean 'hnsw'"):
        run.build_index("hsnw")
    with pytest.raises(ConfigError, match=r"no field 'links'"):
        run.build_index("hnsw", links=3)
    with pytest.raises(ConfigError, match="at most the number of items"):
        run.build_index("ivf", num_lists=10_000)
    assert not (run.path / "indexes").exists() or not [*(run.path / "indexes").iterdir()]


def test_a_model_without_finite_queries_says_so(bpr: Run, tmp_path: Path) -> None:
    run = copy_of(bpr, tmp_path / "run")
    index = run.build_index("exact")
    run.model.user_embedding.data[0] = torch.nan
    with pytest.raises(RunError, match="scores must be finite"):
        run.recommend(users=["u1"], index=index)
