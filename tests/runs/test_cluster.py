from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import ensue
from ensue.errors import ConfigError, DataError, RunError, UsageError
from ensue.runs.cluster import load_clustering
from ensue.runs.cluster_data import first_values, make_data, open_data
from ensue.runs.cluster_page import build_cluster_page
from ensue.runs.item_clusters import item_clusters_section, measure_item_clusters
from ensue.runs.report import write_report
from ensue.runs.run import Run
from ensue.runs.train import train
from tests.helpers import make_dataset
from tests.runs.page import Page, assert_self_contained

HELD_OUT = "hungarian, fitted on train"


def planted(num_rows=300, num_classes=4, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centers = 3 * np.eye(num_classes, 6)
    classes = rng.integers(0, num_classes, num_rows)
    return (centers[classes] + noise * rng.normal(size=(num_rows, 6))).astype(np.float32), classes


def test_planted_classes_are_found_on_held_out_rows():
    rows, classes = planted()
    found = ensue.cluster(rows, labels=classes, test_share=0.3, over=[2], dims=[1, 3], seeds=[0, 1])
    main, *others = found.info["table"]
    assert (main["k"], main["dim"], found.info["rows"]) == (4, 6, {"train": 210, "test": 90})
    assert found.scores["test"][HELD_OUT] == 1
    assert found.scores["test"]["ari"] == 1
    assert main["chance"]["test"][HELD_OUT] < 0.4
    assert [(row["k"], row["dim"]) for row in others] == [(8, 6), (4, 1), (4, 3)]
    assert others[0]["scores"]["test"]["majority, fitted on train"] == 1
    assert others[0]["scores"]["test"]["ari"] < 0.8
    assert sum(row["rows"] for row in found.info["clusters"]) == 210


def test_random_vectors_are_at_chance_on_held_out_rows():
    rng = np.random.default_rng(0)
    rows, classes = rng.normal(size=(600, 8)), rng.integers(0, 10, 600)
    found = ensue.cluster(rows, 60, labels=classes, test_share=0.5)
    scores = found.scores
    assert abs(scores["test"]["majority, fitted on train"] - 0.1) < 0.06
    assert scores["test"]["majority, fitted on test"] > 0.25
    assert scores["train"]["majority, fitted on train"] > 0.25


def test_what_is_written_can_be_loaded_and_assigns_alike(tmp_path):
    rows, classes = planted()
    out = tmp_path / "clusters"
    settings = {"dim": 3, "whiten": True, "spherical": True}
    found = ensue.cluster(rows, labels=classes, test_share=0.2, out=out, **settings)
    loaded = load_clustering(out)
    assert loaded.info == found.info == json.loads((out / "cluster.json").read_text())
    table = pl.read_parquet(out / "assignments.parquet")
    clusters, distances = loaded.assign(rows[table["id"].to_numpy()])
    assert clusters.tolist() == table["cluster"].to_list()
    assert distances == pytest.approx(table["distance"].to_numpy(), rel=1e-5, abs=1e-6)
    assert table["class"].to_list() == [str(classes[row]) for row in table["id"]]
    assert loaded.clusters["test"].tolist() == found.clusters["test"].tolist()
    with pytest.raises(RunError, match=r"holds no cluster\.json"):
        load_clustering(tmp_path)


@pytest.mark.slow
def test_the_page(tmp_path):
    rows, classes = planted()
    ensue.cluster(rows, labels=classes, over=[2], dims=[2], out=tmp_path / "a")
    html = (tmp_path / "a" / "report.html").read_text()
    assert_self_contained(html)
    for text in ("Over the number of clusters", "Over the number of components", "by chance"):
        assert text in html
    without = ensue.cluster(rows, 5, over=[2]).info
    html = build_cluster_page(without, title="no labels")
    assert_self_contained(html)
    assert "variance explained by clusters" in html
    assert "accuracy" not in html


def test_the_same_seed_gives_the_same_clusters():
    rows, _ = planted(noise=2)
    one, two = (ensue.cluster(rows, 7, seeds=[5]) for _ in range(2))
    assert one.clusters["train"].tolist() == two.clusters["train"].tolist()
    assert one.info == two.info


def test_tables_of_vectors(tmp_path):
    rows, classes = planted(40)
    names = ["abcd"[c] for c in classes]
    numbers = {f"f{i}": rows[:, i] for i in range(6)}
    pl.DataFrame({"key": range(40), "kind": names, **numbers}).write_parquet(tmp_path / "a.parquet")
    vectors = pl.Series(rows.tolist(), dtype=pl.List(pl.Float32))
    pl.DataFrame({"kind": names, "vector": vectors, "other": 1}).write_parquet(
        tmp_path / "b.parquet"
    )
    a = open_data(tmp_path / "a.parquet", labels="kind", id_column="key", side="items")
    b = open_data(tmp_path / "b.parquet", labels="kind", id_column=None, side="items")
    assert a.vectors["train"].tolist() == b.vectors["train"].tolist() == rows.tolist()
    assert (a.classes, a.ids["train"].to_list()) == (["a", "b", "c", "d"], list(range(40)))
    assert a.labels["train"].tolist() == classes.tolist()
    pl.DataFrame({"vector": [[1.0, 2.0], [3.0]]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"'vector' of .* must hold vectors of 2 numbers; row 1"):
        open_data(tmp_path / "c.parquet", labels=None, id_column=None, side="items")


def test_files_of_arrays(tmp_path):
    rows, classes = planted(20)
    np.save(tmp_path / "x.npy", rows.reshape(20, 2, 3))
    np.save(tmp_path / "y.npy", classes)
    data = open_data(tmp_path / "x.npy", labels=tmp_path / "y.npy", id_column=None, side="items")
    assert data.vectors["train"].tolist() == rows.tolist()
    np.savez(tmp_path / "x.npz", x=rows, y=classes, x_test=rows[:5], y_test=classes[:5])
    data = open_data(tmp_path / "x.npz", labels=None, id_column=None, side="items")
    assert {part: len(own) for part, own in data.labels.items()} == {"train": 20, "test": 5}


def test_labels_are_ordered_and_may_be_missing(tmp_path):
    rows = np.eye(4, 2)
    data = make_data({"train": rows}, {"train": [10, 9, None, 10]})
    assert (data.classes, data.labels["train"].tolist()) == (["9", "10"], [1, 0, -1, 1])
    ensue.cluster(data, 2, out=tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "assignments.parquet")
    assert table["class"].to_list() == ["10", "9", None, "10"]
    two = make_data({"train": rows, "test": rows}, {"train": [1, 2, 1, 2], "test": [None] * 4})
    with pytest.raises(DataError, match="the part test has none"):
        ensue.cluster(two, 2)
    assert first_values(pl.Series([["b", "a"], None, ["a"]])).to_list() == ["b", None, "a"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, UsageError, "must be given where there are no labels; set k"),
        ({"labels": [0, 1]}, DataError, "as many as its vectors, 300; got 2"),
        ({"labels": [1] * 300}, DataError, r"two classes or more; got \['1'\]"),
        ({"labels": [0.5] * 300}, DataError, "must be text or whole numbers; row 0 is not"),
        ({"k": 301}, UsageError, "n = 300 rows; got 301"),
        ({"k": 3, "test_share": 1.0}, UsageError, "leaves 0 and 300"),
        ({"k": 3, "dim": 7}, UsageError, "1 to 6; got 7"),
        ({"k": 3, "seeds": []}, UsageError, "at least one seed"),
        ({"k": 3, "of": "users"}, UsageError, "arrays are given"),
        ({"k": 3, "restart": 2}, ConfigError, "Did you mean 'restarts'"),
    ],
)
def test_what_has_no_meaning(arguments, error, text):
    with pytest.raises(error, match=text):
        ensue.cluster(planted()[0], **arguments)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros(3), r"numbers \[n, F\].*\[3\]"),
        (np.array([["a"]]), "must be numbers"),
        (np.array([[0.0], [np.nan]]), "row 1 of the part train holds NaN"),
    ],
)
def test_what_are_no_vectors(rows, text):
    with pytest.raises(DataError, match=text):
        ensue.cluster(rows, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Users of even and of odd items, and a run whose vectors know it."""
    folder = tmp_path_factory.mktemp("clusters")
    rng = np.random.default_rng(0)
    histories = [(2 * rng.permutation(8)[:6] + 1 + user % 2).tolist() for user in range(60)]
    make_dataset(folder / "data", histories, num_items=16)
    genres = [("odd|x", "even|x")[row % 2] for row in range(16)]
    items = {"raw_id": [f"i{item}" for item in range(1, 17)], "genres": genres}
    pl.DataFrame(items).write_ipc(folder / "data" / "items.arrow")
    return train("wrmf", folder / "data", out=folder / "run", dim=8)


def test_the_report_of_a_run_says_whether_its_vectors_know_the_genres(run):
    found = measure_item_clusters(run)
    assert (found["classes"], found["column"]) == (["even", "odd"], "genres")
    assert found["table"][0]["scores"]["train"]["ari"] == 1
    texts = Page(write_report(run).read_text()).texts
    assert {"Item vectors", "accuracy, majority, fitted on train"} <= set(texts)
    assert item_clusters_section({}) == ""


def test_vectors_of_a_run(run):
    items = open_data(run.path, labels="genres", id_column=None, side="items")
    assert items.vectors["train"].shape == (16, 8)
    assert items.ids["train"].to_list() == [f"i{item}" for item in range(1, 17)]
    users = open_data(run.path, labels=None, id_column=None, side="users")
    assert users.ids["train"].to_list() == [f"u{user}" for user in range(1, 61)]
    found = ensue.cluster(Run(run.path), 2, of="users", labels=None)
    clusters = found.clusters["train"]
    assert len(set(clusters[::2])) == len(set(clusters[1::2])) == 1
    with pytest.raises(UsageError, match=r"have no column 'genre'. Did you mean 'genres'"):
        open_data(run.path, labels="genre", id_column=None, side="items")


def test_a_run_without_vectors_or_genres(run, tmp_path):
    make_dataset(tmp_path / "data", [[1, 2, 3], [2, 3, 1]])
    popular = train("popularity", tmp_path / "data", out=tmp_path / "run")
    assert measure_item_clusters(popular) == {}
    with pytest.raises(UsageError, match="popularity has none"):
        ensue.cluster(popular, 2)
