"""Ranking models from a table to predictions, from Python and from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import ConfigError, DataError, RunError, UsageError
from ensue.runs.predict import predict_table
from ensue.runs.ranker import RankingRun, load_ranker
from ensue.runs.ranker_report import write_ranking_report
from ensue.runs.run import Run
from ensue.runs.stability import stability
from ensue.runs.stability_dataset import dataset_bench
from ensue.runs.train_ranker import train_ranker
from tests.runs.page import Page, assert_self_contained
from tests.training.test_resume import assert_same_run, stop_after

NUM_ROWS = 600
FAST: dict[str, Any] = {"dim": 4, "hidden": [8], "batch_size": 64, "epochs": 2, "patience": None}


def make_table(path: Path) -> pl.DataFrame:
    """Write rows whose clicks depend on the item, and the minutes watched of those clicked."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, NUM_ROWS), rng.integers(0, 15, NUM_ROWS)
    price = np.exp(rng.normal(2, 1, NUM_ROWS))
    click = (item < 7) ^ (rng.random(NUM_ROWS) < 0.15)
    watch = np.where(click, 60 + 30 * (item % 3) + rng.normal(0, 5, NUM_ROWS), np.nan)
    tags = ["|".join(f"t{tag}" for tag in sorted({i % 4, i % 5})) for i in item.tolist()]
    table = pl.DataFrame(
        {
            "user_id": [f"u{one}" for one in user],
            "item_id": [f"i{one}" for one in item],
            "timestamp": np.arange(NUM_ROWS) * 60 + 1_600_000_000,
            "price": price,
            "tags": tags,
            "click": click.astype(int),
            "watch": pl.Series(watch).fill_nan(None),
        }
    )
    table.write_csv(path)
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranker")


@pytest.fixture(scope="module")
def table(folder: Path) -> pl.DataFrame:
    return make_table(folder / "rows.csv")


@pytest.fixture(scope="module")
def dataset(folder: Path, table: pl.DataFrame) -> RankingDataset:
    targets = ["click", "watch:regression"]
    return prepare_ranking(folder / "rows.csv", folder / "data", targets=targets)


@pytest.fixture(scope="module")
def run(folder: Path, dataset: RankingDataset) -> RankingRun:
    settings: dict[str, Any] = {**FAST, "optimizer": "clippy", "learning_rate": 0.1, "epochs": 8}
    run = train_ranker("shared_bottom", dataset, out=folder / "run", **settings)
    run.evaluate(popularity="item_id")
    return run


def test_a_run_predicts_what_it_was_evaluated_on(run: RankingRun, table: pl.DataFrame) -> None:
    first, end = run.open_dataset(None).bounds("test")
    rows = run.open_dataset(None).rows(slice(first, end))
    expected = run.model.predict(rows).numpy()
    history = "history"  # of a log: what the user had before the row
    past = [
        table["item_id"][:row].filter(table["user_id"][:row] == table["user_id"][row]).to_list()
        for row in range(first, end)
    ]
    asked = [
        {**row, history: items}
        for row, items in zip(table[first:end].drop("click", "watch").to_dicts(), past, strict=True)
    ]
    found = run.predict(asked)
    np.testing.assert_allclose(found["click"], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["watch"], expected[:, 1], rtol=1e-4)
    assert (found["click"] > 0).all()
    assert (found["click"] < 1).all()
    assert 60 < np.median(found["watch"]) < 130  # in the units of the label


def test_a_model_learns_what_was_planted(run: RankingRun) -> None:
    (evaluation,) = run.evaluations().values()
    assert evaluation.tasks["click"]["metrics"]["auc"] > 0.75
    assert evaluation.tasks["watch"]["metrics"]["r2"] > 0.5
    assert list(evaluation.slices) == ["popularity of item_id"]
    assert evaluation.protocol["group"] is not None
    assert evaluation.tasks["click"]["metrics"]["gauc"] is not None


def test_a_new_model_starts_at_the_means_of_the_labels(
    dataset: RankingDataset, tmp_path: Path, table: pl.DataFrame
) -> None:
    settings = {**FAST, "epochs": 1, "learning_rate": 1e-12}
    run = train_ranker("shared_bottom", dataset, out=tmp_path / "run", **settings)
    first, end = dataset.bounds("train")
    with torch.no_grad():
        found = run.model.predict(dataset.rows(slice(first, end))).mean(dim=0)
    part = table[first:end]
    assert float(found[0]) == pytest.approx(part["click"].mean(), abs=0.02)
    assert float(found[1]) == pytest.approx(part["watch"].mean(), abs=3.0)


def test_training_parts_and_the_log(run: RankingRun, dataset: RankingDataset) -> None:
    log = run.log()
    assert log[0]["examples"] == dataset.num_rows("train")
    assert set(log[0]["task_losses"]) == {"click", "watch"}
    assert {"auc", "click/auc", "watch/rmse"} <= set(log[0]["validation"])
    assert run.info["training"]["metric"] == "auc"
    assert min(min(line["clipping"].values()) for line in log) < 1


def test_the_final_model_is_trained_on_both_parts(dataset: RankingDataset, tmp_path: Path) -> None:
    run = train_ranker(
        "lr", dataset, out=tmp_path / "run", fit="train+validation", epochs=1, batch_size=64
    )
    expected = dataset.num_rows("train") + dataset.num_rows("validation")
    assert run.log()[0]["examples"] == expected
    with pytest.raises(UsageError, match="trained on train\\+validation"):
        run.evaluate(split="validation")


@pytest.mark.slow
@pytest.mark.parametrize("growth", [None, {}])
@pytest.mark.parametrize("optimizer", ["lazy_adam", "clippy"])
def test_resume_after_an_interruption(
    dataset: RankingDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    growth: dict[str, Any] | None,
    optimizer: str,
) -> None:
    settings = {**FAST, "optimizer": optimizer, "checkpoint_seconds": 0.0, "growth": growth}
    whole = train_ranker("deepfm", dataset, out=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 11, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_ranker("deepfm", dataset, out=tmp_path / "run", **settings)
    with pytest.raises(RunError, match="--resume"):
        RankingRun(tmp_path / "run")
    run = train_ranker("deepfm", dataset, out=tmp_path / "run", resume=True, **settings)
    assert_same_run(run, whole)


@pytest.mark.parametrize("optimizer", ["adagrad", "lazy_adam"])
def test_growing_and_static_tables_of_equal_rows_have_equal_losses(
    dataset: RankingDataset, tmp_path: Path, optimizer: str
) -> None:
    # logistic regression starts with rows of zero in both
    settings = {"batch_size": 32, "epochs": 3, "optimizer": optimizer, "learning_rate": 0.05}
    runs = [
        train_ranker("lr", dataset, out=tmp_path / name, growth=growth, **settings)
        for name, growth in (("static", None), ("growing", {}))
    ]
    losses = [[line["loss"] for line in run.log()] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    validations = [[line["validation"]["click/auc"] for line in run.log()] for run in runs]
    assert validations[1] == pytest.approx(validations[0], abs=1e-3)


def test_a_growing_table_has_no_row_for_what_it_never_saw(
    dataset: RankingDataset, tmp_path: Path, table: pl.DataFrame
) -> None:
    run = train_ranker("fm", dataset, out=tmp_path / "run", growth={}, **without_hidden(FAST))
    known = run.predict([{"user_id": "u1", "item_id": "i1"}, {"user_id": "u2", "item_id": "i1"}])
    unknown = run.predict([{"user_id": "new"}, {"user_id": "newer"}])
    assert known["click"][0] != known["click"][1]
    assert unknown["click"][0] == unknown["click"][1]


def without_hidden(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "hidden"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "mmo"}, UsageError, "no ranking model 'mmo'. Did you mean 'mmoe'"),
        ({"dims": 3}, ConfigError, "no setting 'dims'. Did you mean 'dim'"),
        ({"fit": "test"}, UsageError, "fit must be"),
        ({"preset": "huge"}, UsageError, "no preset 'huge'"),
        ({"task_weights": {"clic": 2.0}}, ConfigError, "'clic' is none. Did you mean 'click'"),
        ({"growth": {}, "min_count": 2}, ConfigError, "growth.admission.min_count"),
    ],
)
def test_wrong_use_is_one_sentence(
    dataset: RankingDataset,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    settings = {"model": "shared_bottom", **FAST, **options}
    with pytest.raises(error) as found:
        train_ranker(data=dataset, out=tmp_path / "run", **settings)
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_not_measured(dataset: RankingDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric must be one of"):
        train_ranker("lr", dataset, out=tmp_path / "run", metric="map", epochs=1)


def test_runs_of_other_kinds_are_told_apart(run: RankingRun, dataset: RankingDataset) -> None:
    with pytest.raises(UsageError, match=r"holds a ranking run\. Use ensue predict"):
        Run(run.path)


def test_a_moved_run_works_without_its_dataset(
    run: RankingRun, dataset: RankingDataset, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "moved")
    moved = load_ranker(tmp_path / "moved")
    row = {"user_id": "u3", "item_id": "i4", "price": 3.0, "tags": "t1|t2"}
    assert moved.predict([row])["click"] == run.predict([row])["click"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predictions_for_a_table(
    run: RankingRun, folder: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"scores{suffix}"
    assert predict_table(run, folder / "rows.csv", out, keep=["user_id"]) == NUM_ROWS
    found = pl.read_csv(out) if suffix == ".csv" else pl.read_parquet(out)
    assert found.columns == ["user_id", "click", "watch"]
    rows = pl.read_csv(folder / "rows.csv").drop("click", "watch", "timestamp")[:3].to_dicts()
    np.testing.assert_allclose(found["click"][:3], run.predict(rows)["click"], rtol=1e-5)


def test_tables_that_cannot_be_predicted(run: RankingRun, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a \.parquet or a \.csv file"):
        predict_table(run, folder / "rows.csv", tmp_path / "scores.txt")
    with pytest.raises(DataError, match="no column 'name' to keep"):
        predict_table(run, folder / "rows.csv", tmp_path / "scores.csv", keep=["name"])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="needs a column that the model reads"):
        predict_table(run, tmp_path / "other.csv", tmp_path / "scores.csv")
    assert list(tmp_path.glob("scores*")) == []


@pytest.mark.slow
def test_the_report_shows_tasks_and_clipping(run: RankingRun) -> None:
    html = write_ranking_report(run).read_text()
    assert_self_contained(html)
    texts = Page(html).texts
    for text in ("loss of click", "auc of click on validation", "Clipping", "AUC, click"):
        assert text in texts


@pytest.mark.slow
def test_the_command_line(run: RankingRun, folder: Path, tmp_path: Path) -> None:
    def call(*arguments: object) -> Any:
        done = CliRunner().invoke(app, [str(one) for one in (*arguments, "--json")])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])

    settings = [f"--set={name}={json.dumps(value)}" for name, value in FAST.items()]
    trained = call(
        "train", "shared_bottom", folder / "data", "-o", tmp_path / "run",
        "--optimizer", "clippy", *settings,
    )  # fmt: skip
    assert trained["training"]["optimizer"] == "clippy"
    found = call("evaluate", tmp_path / "run", "--by", "item_id")
    assert found["tasks"].keys() == {"click", "watch"}
    row = json.dumps({"user_id": "u1", "item_id": "i1"})
    answer = call("predict", tmp_path / "run", "--row", row)
    expected = load_ranker(tmp_path / "run").predict([json.loads(row)])
    assert answer["predictions"]["click"] == expected["click"].tolist()
    out = tmp_path / "scores.csv"
    assert call("predict", tmp_path / "run", folder / "rows.csv", "-o", out)["rows"] == NUM_ROWS
    assert Path(call("report", tmp_path / "run")["report"]).is_file()


@pytest.mark.slow
def test_stability_on_a_dataset(dataset: RankingDataset, tmp_path: Path) -> None:
    arguments = [
        "stability", str(dataset.path), "-o", str(tmp_path / "sweep"), "--rule", "none", "--rule",
        "clippy", "--from", "0.05", "--to", "0.1", "--seeds", "1", "--batch-size", "64",
        "--model-set", "hidden=[8]", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    bench = dataset_bench(dataset, settings={"batch_size": 64, "hidden": [8]})
    rules, rates = ("none", "clippy"), (0.05, 0.1)
    found = stability(bench, out=tmp_path / "again", rules=rules, rates=rates, seeds=(0,))
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["rules"] == found.to_dict()["rules"]
    assert {outcome.rule for outcome in found.outcomes} == set(rules)
    assert all(outcome.quality["auc"]["click"] is not None for outcome in found.outcomes)


def test_stability_options_of_the_other_kind(dataset: RankingDataset, tmp_path: Path) -> None:
    for arguments, message in (
        ([str(dataset.path), "--width", "8"], "--width is for made data"),
        (["--model", "mmoe"], "--model is for a dataset"),
    ):
        done = CliRunner().invoke(app, ["stability", *arguments, "-o", str(tmp_path / "sweep")])
        assert isinstance(done.exception, UsageError)
        assert message in str(done.exception)
