"""Runs in other formats give the scores of the run, or nothing is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ensue.data.dataset import Dataset
from ensue.data.histories import HistoryBatch
from ensue.data.prepare import prepare
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import ExtraError, RunError, UsageError
from ensue.runs.export import formats, parity
from ensue.runs.export.padded import is_recent, last_window, take_recent
from ensue.runs.export.rows import row_inputs, row_inputs_of
from ensue.runs.run import Run, load
from ensue.runs.train import train
from ensue.runs.train_ranker import train_ranker
from tests.contracts.pages import make_pages
from tests.helpers import make_dataset
from tests.runs.test_train_ranker import FAST as RANKER
from tests.runs.test_train_ranker import make_table

NUM_ITEMS = 50
FAST: dict[str, Any] = {"epochs": 1, "dim": 8}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec": ("sasrec", {"max_len": 6, "num_heads": 2}),
    "sasrec of one event": ("sasrec", {"max_len": 1, "positions": "learned"}),
    "growing sasrec": ("sasrec", {"max_len": 6, "growth": {}}),
    "gru4rec": ("gru4rec", {"num_layers": 2, "hidden_dim": 6}),
    "m3r": ("m3", {}),
    "m3c": ("m3", {"short": "conv", "long_reads_last": False, "norm": True, "gates": "top"}),
    "caser": ("caser", {"window": 4}),
    "caser without users": ("caser", {"window": 4, "parts": "vh"}),
    "growing caser": ("caser", {"window": 4, "growth": {}}),
    "bpr": ("bpr", {}),
    "lightgcn": ("lightgcn", {}),
    "two_tower": ("two_tower", {}),
    "deep_retrieval": ("deep_retrieval", {"width": 5, "depth": 2}),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    histories = [
        (rng.permutation(NUM_ITEMS)[: rng.integers(5, 20)] + 1).tolist() for _ in range(30)
    ]
    return make_dataset(tmp_path_factory.mktemp("data") / "d", histories, num_items=NUM_ITEMS)


@pytest.fixture(scope="module")
def sasrec(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("sasrec", dataset, out=tmp_path_factory.mktemp("runs") / "sasrec", **FAST)


@pytest.fixture(scope="module")
def popularity(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("popularity", dataset, out=tmp_path_factory.mktemp("runs") / "popularity")


def code_of_docs(number: int, folder: Path) -> str:
    """Return a block of Python of the page, about the runs in `folder`."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), flags=re.DOTALL)
    return blocks[number].replace("runs/sasrec", str(folder))


def test_arrays_and_the_scores_in_numpy_of_the_page(sasrec: Run) -> None:
    made = sasrec.export("npz")
    assert made.path == sasrec.path / "exports" / "npz"
    assert json.loads((made.path / "export.json").read_text()) == made.info
    assert made.info["weights"] == sasrec.weights_hash
    page: dict[str, Any] = {}
    exec(code_of_docs(2, sasrec.path), page)
    assert page["items"] == [None, *sasrec.item_table["raw_id"].to_list()]
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in (0, 1, 5, 50, 70)]
    expected = sasrec.model.score(HistoryBatch.from_lists(histories))[:, 1:].numpy()
    found = np.array([page["scores"](history)[1:] for history in histories])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_counts_are_arrays_but_no_graph(popularity: Run, tmp_path: Path) -> None:
    made = popularity.export("npz", out=tmp_path / "arrays")
    with np.load(made.file, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["counts"], popularity.model.counts.numpy())  # type: ignore[union-attr,arg-type]
    with pytest.raises(UsageError, match=r"popularity has none\. Use format npz"):
        popularity.export("torch-export", out=tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_bad_requests_are_refused(sasrec: Run, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match=r"no export format 'onx'\. Did you mean 'onnx'"):
        sasrec.export("onx", out=tmp_path / "x")
    with pytest.raises(UsageError, match="k is for graphs"):
        sasrec.export("npz", out=tmp_path / "x", k=3)
    with pytest.raises(UsageError, match="1 <= k <= 50, the items there are; got 51"):
        sasrec.export("torch-export", out=tmp_path / "x", k=51)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"exists and holds no export\.json"):
        sasrec.export("npz", out=tmp_path / "full", overwrite=True)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ExtraError, match=r"'onnx', .* pip install 'ensue\[onnx\]'"):
        formats.require_onnx()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


ROWS = torch.tensor([[0, 0, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [7, 8, 9, 1], [0, 2, 0, 3]])
REAL = [[], [3, 4], [5, 6], [7, 8, 9, 1], [2, 3]]


@pytest.mark.parametrize("max_len", [1, 2, 3, 9, None])
def test_padding_may_stand_anywhere(max_len: int | None) -> None:
    kept = [row[-max_len:] if max_len and row else row for row in REAL]
    recent, index, lengths = take_recent(ROWS, max_len)
    assert lengths.tolist() == [len(row) for row in kept]
    assert [row[:n] for row, n in zip(recent.tolist(), lengths, strict=True)] == kept
    assert recent.count_nonzero() == sum(map(len, kept))
    assert torch.equal(ROWS.gather(1, index) * (recent > 0), recent)
    flags = is_recent(ROWS, max_len)
    assert [row[own].tolist() for row, own in zip(ROWS, flags, strict=True)] == kept
    if max_len:
        windows = last_window(ROWS, max_len).tolist()
        assert windows == [[0] * (max_len - len(row)) + row for row in kept]


class _Scores(torch.nn.Module):
    max_len, num_items = None, 2

    def score(self, batch: HistoryBatch) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0, 2.0]]).repeat(len(batch), 1)


@pytest.mark.parametrize(
    ("difference", "is_good"), [(0.0, True), (5e-5, True), (2e-4, False), (float("nan"), False)]
)
@pytest.mark.parametrize("k", [None, 1])
def test_scores_that_differ_are_refused(difference: float, is_good: bool, k: int | None) -> None:
    batch = HistoryBatch.from_lists([[1], [2, 1], []])

    def compute(inputs: Any) -> list[torch.Tensor]:
        hidden = torch.tensor([-torch.inf, 0.0, 0.0])
        scores = _Scores().score(inputs["items"]) + hidden + difference
        if k is None:
            return [scores]
        best, ids = scores.scatter(1, inputs["items"], -torch.inf).topk(k, dim=1)
        return [ids.where(best > -torch.inf, 0), best]

    if is_good:
        assert parity.check_scores(compute, _Scores(), batch, ["items"], k) <= difference * 1.01  # type: ignore[arg-type]
        return
    with pytest.raises(RunError, match=r"the scores of the run up to 0\.0001; they differ"):
        parity.check_scores(compute, _Scores(), batch, ["items"], k)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize("case", CASES)
def test_graphs_give_the_scores_of_the_run(
    dataset: Dataset, tmp_path: Path, case: str, form: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model, settings = CASES[case]
    run = load(train(model, dataset, out=tmp_path / "run", **FAST, **settings).path)
    made = run.export(form)
    assert made.info["parity"]["max_abs_difference"] <= 1e-4
    names = [given["name"] for given in made.info["inputs"]]
    assert ("users" in names) == (case in ("caser", "growing caser", "bpr", "lightgcn"))
    best = run.export(form, out=tmp_path / "best", k=7)
    compute = formats.GRAPH_FILES[form].read(best.file)
    users = [f"u{n}" for n in (1, 4, 9)]
    longest = max(len(run.recommender.histories[n]) for n in (1, 4, 9))
    rows = [run.recommender.histories[n].tolist() for n in (1, 4, 9)]
    inputs = {
        "items": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
        "users": torch.tensor([1, 4, 9]),
    }
    ids, scores = compute({name: inputs[name] for name in names})
    raw = json.loads((best.path / "items.json").read_text())
    for row, answer in enumerate(run.recommend(users=users, k=7)):
        assert [raw[item] for item in ids[row].tolist()] == answer.items
        np.testing.assert_allclose(scores[row].numpy(), answer.scores, atol=1e-4)


@pytest.mark.slow
def test_the_graphs_of_the_page(sasrec: Run) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    sasrec.export("onnx", overwrite=True)
    sasrec.export("torch-export", overwrite=True)
    page: dict[str, Any] = {}
    exec(code_of_docs(0, sasrec.path), page)
    expected = sasrec.recommend(histories=[page["items"][1:4]], exclude_seen=False)[0].items
    assert page["best"] == expected
    of_onnx = page["scores"]
    exec(code_of_docs(1, sasrec.path), page)
    np.testing.assert_allclose(page["scores"].detach().numpy(), of_onnx, atol=1e-4)


@pytest.mark.slow
def test_features_are_in_the_graph(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(20) for item in rng.permutation(15)[:6]]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_csv(tmp_path / "log.csv")
    items = {
        "item": [f"i{item}" for item in range(15)],
        "tags": [f"t{item % 2}|t{item % 3}" for item in range(15)],
        "price": [item + 0.5 for item in range(15)],
    }
    pl.DataFrame(items).write_csv(tmp_path / "items.csv")
    countries = {"user": [f"u{user}" for user in range(20)], "country": ["fr", "de"] * 10}
    pl.DataFrame(countries).write_csv(tmp_path / "users.csv")
    dataset = prepare(
        tmp_path / "log.csv",
        tmp_path / "data",
        items=tmp_path / "items.csv",
        users=tmp_path / "users.csv",
        split="leave-one-out",
    )
    run = train("two_tower", dataset, out=tmp_path / "run", **FAST)
    assert run.model.features.items
    for form in ("onnx", "torch-export"):
        if form == "onnx":
            pytest.importorskip("onnxscript")
        made = run.export(form)
        assert [given["name"] for given in made.info["inputs"]] == ["items", "users"]
        assert made.info["parity"]["max_abs_difference"] <= 1e-4


@pytest.mark.slow
def test_context_is_an_input(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    dataset = make_pages(tmp_path / "data")
    context = {"context_in": ["page", "hour"], "context_out": ["page"]}
    run = train("m3", dataset, out=tmp_path / "run", **FAST, **context)
    for form in ("onnx", "torch-export"):
        made = run.export(form)
        assert [given["name"] for given in made.info["inputs"]] == [
            "items",
            "event_context",
            "request_context",
        ]
        values = json.loads((made.path / "context.json").read_text())
        assert values["page"] == [None, *run.context_values["page"].raw.to_list()]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deepfm", "dcn_v2", "dlrm", "mmoe", "ple", "lr", "wide_deep"])
def test_ranking_runs(tmp_path: Path, model: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    rng = np.random.default_rng(0)
    item = rng.integers(0, 15, 200)
    table = pl.DataFrame(
        {
            "user_id": [f"u{one}" for one in rng.integers(0, 20, 200)],
            "item_id": [f"i{one}" for one in item],
            "timestamp": np.arange(200) * 60 + 1_600_000_000,
            "price": np.exp(rng.normal(2, 1, 200)),
            "tags": [f"t{i % 4}|t{i % 5}" for i in item],
            "click": (item < 7).astype(int),
        }
    )
    table.write_csv(tmp_path / "rows.csv")
    dataset = prepare_ranking(tmp_path / "rows.csv", tmp_path / "data", targets=["click"])
    run = train_ranker(model, dataset, out=tmp_path / "run", epochs=1)
    expected = run.predict(table.head(5).to_dicts())["click"]
    batch, _ = run.encoder.encode(table.head(5).to_dicts())
    for form in ("onnx", "torch-export"):
        made = run.export(form)
        compute = formats.GRAPH_FILES[form].read(made.file)
        (found,) = compute(row_inputs_of(batch, row_inputs(run.schema)))
        np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-4)
    assert run.export("npz").info["arrays"]


@pytest.mark.slow
def test_ranking_tables_that_grow_are_no_graph(tmp_path: Path) -> None:
    make_table(tmp_path / "rows.csv")
    dataset = prepare_ranking(tmp_path / "rows.csv", tmp_path / "data", targets=["click"])
    run = train_ranker("deepfm", dataset, out=tmp_path / "run", **{**RANKER, "growth": {}})
    with pytest.raises(UsageError, match=r"tables of this model grow .* Use format npz"):
        run.export("torch-export")
