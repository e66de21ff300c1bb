from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import ensue
from ensue.audit.bands import band_items, choose_targets, named_targets
from ensue.audit.clicks import Clicks
from ensue.audit.poison import date_fakes, write_poisoned, write_rows
from ensue.data.dataset import Dataset
from ensue.data.prepare import prepare
from ensue.errors import UsageError
from tests.helpers import DAY, make_dataset

HISTORIES = [[1, 2, 3, 4], [2, 3], [4, 3, 2, 1, 5, 6, 7], [6, 5, 4, 3, 2, 1, 7, 8, 9, 10]]
FAKES = Clicks.from_rows([np.array(row) for row in ([0, 4], [1, 2, 3, 4, 5], [4], [])], 10)
TARGETS = np.array([4])


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", HISTORIES)


def test_fake_users_take_over_the_gaps_of_a_like_user(data: Dataset) -> None:
    """Training lengths are 2, 2, 5 and 8, and row n of a user is n days after the first."""
    dated = date_fakes(FAKES, TARGETS, data, "train", order="spread", seed=0)
    assert (dated.offsets == FAKES.offsets).all()
    for row in range(FAKES.num_users):
        own = slice(FAKES.offsets[row], FAKES.offsets[row + 1])
        assert sorted(dated.items[own] - 1) == sorted(FAKES.columns[own])
        assert (np.diff(dated.times[own]) == DAY).all()
    again = date_fakes(FAKES, TARGETS, data, "train", order="spread", seed=0)
    assert (again.items == dated.items).all()
    orders = {
        tuple(date_fakes(FAKES, TARGETS, data, "train", order="spread", seed=seed).items)
        for seed in range(5)
    }
    assert len(orders) > 1


def test_gaps_start_over_and_nothing_is_later_than_the_training_data(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1, 2, 3, 4, 5]])  # days 0, 1, 2 are for training
    fakes = Clicks.from_rows([np.arange(6)], 6)
    dated = date_fakes(fakes, TARGETS, data, "train", order="last", seed=0)
    assert dated.times.tolist() == [day * DAY for day in (-3, -2, -1, 0, 1, 2)]
    assert dated.items[-1] == 5  # the target, column 4


def test_a_user_of_one_click_has_no_gaps(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [[1], [2]], split="none", num_items=6)
    dated = date_fakes(FAKES_OF_6, TARGETS, data, "train", order="spread", seed=1)
    assert set(dated.times.tolist()) == {0}


FAKES_OF_6 = Clicks.from_rows([np.arange(3), np.arange(2, 6)], 6)


def test_a_poisoned_dataset_is_the_old_one_and_more(data: Dataset, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in data.path.rglob("*") if file.is_file()}
    dated = date_fakes(FAKES, TARGETS, data, "train", order="last", seed=3)
    poisoned = write_poisoned(data, tmp_path / "poisoned", dated)
    assert before == {file: file.read_bytes() for file in data.path.rglob("*") if file.is_file()}
    num_real, num_rows = data.num_users, data.num_interactions
    assert poisoned.num_users == num_real + 4
    assert poisoned.user_ids.raw[:num_real].equals(data.user_ids.raw)
    assert poisoned.user_ids.raw[num_real:].to_list() == [f"fake-{n}" for n in (1, 2, 3, 4)]
    for name in ("user", "item", "time", "split"):
        assert (poisoned.column(name)[:num_rows] == data.column(name)).all()
    assert (poisoned.column("split")[num_rows:] == 0).all()
    for part in ("train", "train+validation", "all"):
        old, new = data.histories(part), poisoned.histories(part)
        assert (new.lengths[: num_real + 1] == old.lengths).all()
        assert new.lengths[num_real + 1 :].tolist() == [2, 5, 1, 0]
        assert new[num_real + 2].tolist() == dated.items[2:7].tolist()
    for split in ("validation", "test"):
        assert poisoned.targets(split).lengths[num_real + 1 :].sum() == 0
    counts = poisoned.info.counts
    assert counts["train"] == data.info.counts["train"] + 8
    assert counts["test"] == data.info.counts["test"]
    assert poisoned.info.hash != data.info.hash
    again = write_poisoned(data, tmp_path / "again", dated)
    assert again.info == poisoned.info


def test_the_ids_of_fake_users_are_free(data: Dataset, tmp_path: Path) -> None:
    users = pl.read_ipc(data.path / "users.arrow")
    taken = pl.Series("raw_id", ["fake-1", "b", "c", "d"])
    users.with_columns(taken).write_ipc(tmp_path / "users.arrow")
    (tmp_path / "users.arrow").replace(data.path / "users.arrow")
    dated = date_fakes(FAKES, TARGETS, data, "train", order="spread", seed=3)
    poisoned = write_poisoned(Dataset(data.path), tmp_path / "poisoned", dated)
    assert poisoned.user_ids.raw.n_unique() == 8


def test_rows_are_left_out_of_training_alone(data: Dataset, tmp_path: Path) -> None:
    keep = np.ones(data.num_interactions, dtype=bool)
    keep[[1, 4, 5, 6, 9]] = False  # the second of user 1, all of user 2, two of user 3
    part = write_rows(data, tmp_path / "part", keep)
    whole, left = data.histories("train"), part.histories("train")
    assert left[1].tolist() == [1]
    assert left[2].tolist() == []
    assert left[3].tolist() == [3, 2, 5]
    assert left[4].tolist() == whole[4].tolist()
    for split in ("validation", "test"):
        for user in range(1, 5):
            assert part.targets(split)[user].tolist() == data.targets(split)[user].tolist()
    assert part.num_interactions == data.num_interactions - 5
    assert part.info.counts["train"] == data.info.counts["train"] - 5


def test_fake_users_have_no_features_labels_or_context(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{n % 5}", "item": f"i{n % 7}", "time": n, "rating": 3.5, "place": f"p{n % 2}"}
        for n in range(35)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    lines = [
        {"user": f"u{n}", "age": 20 + n, "group": f"g{n % 2}", "tags": "a|b", "v": "0.1 0.2"}
        for n in range(5)
    ]
    pl.DataFrame(lines).write_csv(tmp_path / "users.csv")
    data = ensue.prepare(
        tmp_path / "log.csv", tmp_path / "data", labels="rating", context="place",
        users=tmp_path / "users.csv",
        features={"age": "numeric", "group": "categorical", "tags": "multi:|", "v": "vector: "},
    )  # fmt: skip
    dated = date_fakes(FAKES_OF_6, TARGETS, data, "train", order="spread", seed=0)
    poisoned = write_poisoned(data, tmp_path / "poisoned", dated)
    assert np.isnan(poisoned.column("rating")[-7:]).all()
    assert (poisoned.column("place")[-7:] == 0).all()
    old, new = data.user_features, poisoned.user_features
    assert old is not None
    assert new is not None
    kinds = [column.kind for column in new.columns]
    assert sorted(kinds) == ["categorical", "multi", "numeric", "vector"]
    for kind, a, b in zip(kinds, old.values, new.values, strict=True):
        if kind == "multi":
            assert (b.values == a.values).all()
            assert np.diff(b.offsets).tolist() == [*np.diff(a.offsets).tolist(), 0, 0]
            continue
        np.testing.assert_array_equal(b[:6], a)
        assert len(b) == 8
        assert np.isnan(b[6:]).all() if kind != "categorical" else (b[6:] == 0).all()
    missing = [column.missing for column in poisoned.info.features["users"].columns]
    assert missing == [pytest.approx(2 / 7)] * 4
    assert json.loads((poisoned.path / "dataset.json").read_text())["counts"]["users"] == 7


def test_bands_are_those_of_the_percentiles() -> None:
    counts = np.arange(101)  # item 0 is never clicked
    sizes = {band: band_items(counts, band) for band in ("head", "upper-torso", "lower-torso")}
    clicked = counts[1:]
    low, middle, high = (np.percentile(clicked, share) for share in (50, 75, 95))
    assert sizes["head"].tolist() == [c for c in clicked if c > high]
    assert sizes["upper-torso"].tolist() == [c for c in clicked if middle < c <= high]
    assert sizes["lower-torso"].tolist() == [c for c in clicked if low < c <= middle]
    assert band_items(counts, "tail").tolist() == [c for c in clicked if c <= low]
    torso = np.concatenate([sizes["lower-torso"], sizes["upper-torso"]])
    assert band_items(counts, "torso").tolist() == torso.tolist()
    chosen = choose_targets(counts, "tail", 5, seed=1)
    assert set(chosen) <= set(band_items(counts, "tail"))
    assert (chosen == choose_targets(counts, "tail", 5, seed=1)).all()
    assert (chosen != choose_targets(counts, "tail", 5, seed=2)).any()


def test_targets_that_do_not_exist_are_refused(data: Dataset) -> None:
    assert named_targets(data.item_ids, ["i7", "i2", "i7"]).tolist() == [1, 6]
    with pytest.raises(UsageError, match=r"raw ids of items of the dataset; got 'x9'"):
        named_targets(data.item_ids, ["i1", "x9"])
    with pytest.raises(UsageError, match="at least one target; got none"):
        named_targets(data.item_ids, [])
    with pytest.raises(UsageError, match=r"no popularity band 'heads'. Did you mean 'head'"):
        choose_targets(np.ones(3, dtype=np.int64), "heads", 1, seed=0)
    with pytest.raises(UsageError, match="got 5, and head has 0"):
        choose_targets(np.ones(3, dtype=np.int64), "head", 5, seed=0)


def test_fake_users_have_no_edges_and_those_of_real_users_stay(tmp_path: Path) -> None:
    rows = [f"u{user},i{item},{time}" for user in (1, 2) for time, item in enumerate((4, 3, 2, 1))]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    (tmp_path / "friends.csv").write_text("user,friend\nu1,u2\nu2,u1\n")
    (tmp_path / "tags.csv").write_text("item,tag\ni1,x\n")
    graphs = {name: tmp_path / f"{name}.csv" for name in ("friends", "tags")}
    data = prepare(tmp_path / "log.csv", tmp_path / "data", graphs=graphs)
    fakes = Clicks.from_rows([np.arange(3)], 4)
    dated = date_fakes(fakes, np.array([1]), data, "train", order="last", seed=0)
    poisoned = write_poisoned(data, tmp_path / "poisoned", dated)
    assert poisoned.graph_schemas["friends"].sizes == (3, 3)
    assert poisoned.graph_schemas["tags"].sizes == (4, 1)
    for part in ("train", "all"):
        for name, graph in data.graphs(part).items():
            assert poisoned.graphs(part)[name].sources.tolist() == graph.sources.tolist()
    assert poisoned.entity_ids("tag").raw.to_list() == ["x"]
