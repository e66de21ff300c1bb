"""Plans from a dataset, and from a description of one that is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import ensue
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import ConfigError, UsageError
from ensue.runs import plan as plans
from ensue.runs.plan import Columns, count_ids, plan

NUM_ROWS = 300


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RankingDataset:
    """Return rows of 20 users in order, an item, 1 to 3 tags of it, a number and two targets."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, 15, NUM_ROWS)
    table = pl.DataFrame(
        {
            "user_id": [f"u{row % 20}" for row in range(NUM_ROWS)],
            "item_id": [f"i{one}" for one in item],
            "timestamp": np.arange(NUM_ROWS) * 60 + 1_600_000_000,
            "price": rng.normal(2, 1, NUM_ROWS),
            "tags": ["|".join(f"t{tag}" for tag in range(1 + one % 3)) for one in item],
            "click": rng.integers(0, 2, NUM_ROWS),
            "watch": rng.random(NUM_ROWS),
        }
    )
    folder = tmp_path_factory.mktemp("plan")
    table.write_csv(folder / "rows.csv")
    return prepare_ranking(
        folder / "rows.csv",
        folder / "data",
        targets=["click", "watch:regression"],
        features={"tags": "multi:|"},
        history_length=5,
    )


def test_ids_of_a_dataset_are_counted(
    dataset: RankingDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, end = dataset.bounds("train")
    rows = dataset.rows(slice(first, end))
    names = [column.name for column in dataset.schema.columns if column.vocabulary]
    means, longest, unique = count_ids(dataset, end - first)
    assert sorted(means) == sorted(names)
    for column, bag in zip(dataset.schema.of_kind("multi", "history"), rows.bags, strict=True):
        assert means[column.name] == pytest.approx(len(bag.values) / len(rows))
        assert longest[column.name] == bag.offsets.diff().max()
    # A batch of all rows has each value of the training rows once: a history shares the items.
    values: dict[str, set[int]] = {}
    for number, column in enumerate(dataset.schema.of_kind("categorical")):
        values.setdefault(column.vocabulary, set()).update(rows.codes[:, number].tolist())
    for column, bag in zip(dataset.schema.of_kind("multi", "history"), rows.bags, strict=True):
        values.setdefault(column.vocabulary, set()).update(bag.values.tolist())
    assert unique == sum(len(one) for one in values.values())
    # Fewer rows have fewer values, and a sample cannot say what is in a batch larger than it.
    fewer = count_ids(dataset, 3).unique
    assert fewer is not None
    assert 0 < fewer < unique
    monkeypatch.setattr(plans, "SAMPLE_ROWS", 50)
    assert count_ids(dataset, 51).unique is None
    assert count_ids(dataset, 50).unique is not None
    assert means.keys() == count_ids(dataset, 50).means.keys()


def test_a_plan_for_a_dataset(dataset: RankingDataset) -> None:
    cluster = {"nodes": 2, "workers_per_node": 2}
    found = ensue.plan("deepfm", dataset.path, cluster=cluster, workload={"batch_size": 80}, dim=8)
    means, _, unique = count_ids(dataset, 20)
    assert found.num_workers == 4
    assert found.sizes.dim == 8
    assert found.sizes.weights == 2
    assert found.sizes.ids_per_row == pytest.approx(sum(means.values()))
    vocabularies = dataset.schema.vocabularies.values()
    assert found.sizes.num_rows == sum(vocabularies) + len(vocabularies)
    assert found.workload.unique_ids == unique
    told = plan("deepfm", dataset, cluster=cluster, workload={"unique_ids": 7}, dim=8)
    assert told.workload.unique_ids == 7


def test_a_plan_for_described_columns() -> None:
    columns = {"num_fields": 3, "rows": [5, 7, 10**10], "ids_per_row": 6, "num_numbers": 2}
    described = Columns(**columns)  # type: ignore[arg-type]
    assert [column.size for column in described.schema_of_rows.columns] == [5, 7, 10**10, 1, 1]
    assert described.means == {"column1": 2.0, "column2": 2.0, "column3": 2.0}
    assert [
        task.kind for task in Columns(num_fields=1, rows=[3], num_tasks=2).schema_of_rows.tasks
    ] == [
        "binary",
        "binary",
    ]
    spread = Columns(num_fields=4, rows=[100])
    assert [column.size for column in spread.schema_of_rows.columns] == [25] * 4
    found = plan("lr", columns=columns, cluster={"nodes": 100})
    assert found.sizes.num_rows == 10**10 + 15
    assert found.sizes.ids_per_row == 6
    assert found.chosen.scheme == "des"
    assert plan("lr", columns=columns, cluster={"nodes": 100}, scheme="row_wise").is_forced


def test_presets_and_settings_are_those_of_the_model() -> None:
    columns = {"num_fields": 3, "rows": [30]}
    small = plan("shared_bottom", columns=columns, preset="small")
    assert small.sizes.operators[0].width == 512
    mine = plan("shared_bottom", columns=columns, preset="small", hidden=[64])
    assert mine.sizes.operators[0].width == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"columns": {"num_fields": 2, "rows": [1, 2, 3]}},
            r"together or of each.*got \[1, 2, 3\]",
        ),
        ({"columns": {"num_fields": 2, "rows": [0]}}, r"1 or more; got \[0\]"),
        ({"columns": {"num_fields": 0, "rows": [1]}}, "Columns.num_fields: .* got 0"),
        ({"columns": {"fields": 2}}, "no field 'fields'. Did you mean 'num_fields'"),
        ({"cluster": {"nodes": 0}}, "Cluster.nodes: .*got 0"),
        ({"cluster": {"gbits": 10}}, "Cluster has no field 'gbits'"),
        ({"workload": {"optimizer": "ftrl"}}, "Workload.optimizer: .*got 'ftrl'"),
        ({"learning_rate": 0.1}, "no setting 'learning_rate' that a plan depends on"),
        ({"dim": 0}, "FMConfig.dim: .*got 0"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    columns = {"num_fields": 2, "rows": [10]}
    with pytest.raises(ConfigError, match=message):
        plan("fm", **{"columns": columns, **arguments})


def test_wrong_use(dataset: RankingDataset) -> None:
    with pytest.raises(UsageError, match="a dataset or columns, one of them"):
        plan("fm")
    with pytest.raises(UsageError, match="a dataset or columns, one of them"):
        plan("fm", dataset, columns={"num_fields": 2, "rows": [10]})
    with pytest.raises(UsageError, match=r"no ranking model 'deepmf'\. Did you mean 'deepfm'"):
        plan("deepmf", dataset)
    with pytest.raises(UsageError, match="got 8 workers and batch_size=4"):
        plan("fm", dataset, cluster={"nodes": 8}, workload={"batch_size": 4})
