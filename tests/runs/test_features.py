"""Runs of a model that reads features: new items, new users, and items like another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import ensue
from ensue.cli.main import app
from ensue.data.dataset import Dataset
from ensue.errors import ConfigError, DataError, RunError, UsageError
from ensue.runs.features import read_rows
from ensue.runs.features_page import measure_information
from ensue.runs.report import write_report
from ensue.runs.run import Run, load
from tests.cli.test_end_to_end import call
from tests.helpers import make_dataset
from tests.runs.page import Page

NUM_ITEMS, NUM_USERS = 40, 60
COLORS = ("red", "green", "blue", "gray")
SETTINGS = {
    "dim": 8,
    "id_dim": 8,
    "feature_dim": 8,
    "hidden": [],
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 0.02,
    "ssl": "cfm",
    "fit": "train+validation",
}


def color_of(item: int) -> str:
    return COLORS[item % 4]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users of a country keep to one color; tags are noise."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    rows = []
    for user in range(NUM_USERS):
        own = [item for item in range(NUM_ITEMS) if item % 4 == user % 4]
        rows += [(f"u{user}", f"i{item}") for item in rng.permutation(own)[:7]]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_csv(folder / "log.csv")
    pl.DataFrame(
        {
            "item": [f"i{item}" for item in range(NUM_ITEMS)],
            "title": [f"thing {item}" for item in range(NUM_ITEMS)],
            "color": [color_of(item) for item in range(NUM_ITEMS)],
            "tags": ["|".join(sorted(rng.choice(list("abcdef"), 2))) for _ in range(NUM_ITEMS)],
            "price": [float(item) + 0.5 for item in range(NUM_ITEMS)],
        }
    ).write_csv(folder / "items.csv")
    countries = [("fr", "de", "it", "es")[user % 4] for user in range(NUM_USERS)]
    users = {"user": [f"u{user}" for user in range(NUM_USERS)], "country": countries}
    pl.DataFrame(users).write_csv(folder / "users.csv")
    return ensue.prepare(
        folder / "log.csv",
        folder / "data",
        items=folder / "items.csv",
        users=folder / "users.csv",
        split="leave-one-out",
    )


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return ensue.train("two_tower", dataset, out=out, **SETTINGS)


def colors(run: Run, items: list[str]) -> set[str]:
    return {color_of(int(item[1:])) for item in items}


@pytest.mark.slow
def test_learns_from_features(run: Run) -> None:
    assert [column.name for column in run.model.features.items] == ["color", "tags", "price"]
    assert [column.name for column in run.model.features.users] == ["country"]
    (answer,) = run.recommend(users=["u0"], k=3)
    assert colors(run, answer.items) == {"red"}


def test_a_run_from_disk_gives_the_same(run: Run) -> None:
    again = load(run.path)
    requests = {"users": ["u3", "nobody"], "histories": [["i1", "i2"], []]}
    assert again.recommend(**requests) == run.recommend(**requests)
    features = {"country": "it"}
    assert again.recommend(features=features) == run.recommend(features=features)


def test_a_new_user_is_served_by_features(run: Run) -> None:
    answers = run.recommend(features=[{"country": "fr"}, {"country": "it"}], k=4)
    assert [colors(run, answer.items) for answer in answers] == [{"red"}, {"blue"}]
    popular, other = run.recommend(histories=[[], []], features=[{}, {"country": "xx"}], k=4)
    assert (popular.unknown_context, other.unknown_context) == ([], ["country=xx"])
    assert popular.items == other.items
    one, both = run.recommend(histories=[[], ["i2", "i6"]], features={"country": "fr"}, k=4)
    assert one == answers[0]
    assert both.items != one.items


def test_a_new_user_on_the_command_line(run: Run) -> None:
    words = ("recommend", run.path, "--feature", "country=fr", "-k", 4)
    (answer,) = run.recommend(features=[{"country": "fr"}], k=4)
    assert call(*words, "--json") == answer.to_dict()
    for more, title in (((), "for the features"), (("--history", "i2,i6"), "for the history")):
        told = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
        assert told.exit_code == 0
        assert title in told.stdout


def test_features_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got 'land'"):
        run.recommend(features={"land": "fr"})
    with pytest.raises(UsageError, match=r"features must be one for all .* each of 2; got 3"):
        run.recommend(users=["u1", "u2"], features=[{}, {}, {}])
    with pytest.raises(UsageError, match="features must map names to values"):
        run.recommend(users=["u1"], features="country=fr")  # type: ignore[arg-type]
    data = make_dataset(tmp_path / "d", [[1, 2, 3], [2, 3, 1]])
    plain = ensue.train("popularity", data, out=tmp_path / "popularity")
    with pytest.raises(UsageError, match="features of users are for a model that reads some"):
        plain.recommend(features={"country": "fr"})
    with pytest.raises(UsageError, match="items are added to a model that reads their features"):
        plain.add_items([{"item": "new"}], out=tmp_path / "more")
    with pytest.raises(UsageError, match="popularity has none"):
        plain.similar("i1")


def test_similar_items_of_a_model_without_features(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "d", [[1, 2, 3], [2, 3, 1]])
    run = ensue.train("bpr", data, out=tmp_path / "bpr", epochs=1, dim=4)
    assert sorted(run.similar("i1", k=5).items) == ["i2", "i3"]


NEW = [
    {"item": "n1", "title": "a red thing", "color": "red", "tags": "a|b", "price": "8.5"},
    {"item": "n2", "color": "blue", "tags": "c|zzz"},
]


@pytest.fixture(scope="module")
def larger(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run.add_items(NEW, out=tmp_path_factory.mktemp("runs") / "larger")


def test_new_items_can_be_recommended_at_once(run: Run, larger: Run) -> None:
    assert larger.model.num_items == NUM_ITEMS + 2
    assert larger.info["added_items"] == [{"items": 2, "unknown_values": ["tags=zzz"]}]
    assert larger.item_names()["n1"] == "a red thing"
    for user, expected in (("u0", "n1"), ("u2", "n2")):
        (only,) = larger.recommend(users=[user], k=2, allow=["n1", "n2"])
        assert only.items[0] == expected
    (before,) = run.recommend(users=["u5"], k=NUM_ITEMS)
    (after,) = larger.recommend(users=["u5"], k=NUM_ITEMS, deny=["n1", "n2"])
    assert after.items == before.items
    assert after.scores == pytest.approx(before.scores, abs=1e-6)


def test_histories_can_hold_new_items(larger: Run) -> None:
    (answer,) = larger.recommend(histories=[["n2"]], k=3)
    assert answer.unknown_items == []
    assert colors(larger, answer.items) == {"blue"}


def test_more_items_can_follow(larger: Run, tmp_path: Path) -> None:
    again = load(larger.path).add_items([{"movieId": 7, "color": "green"}], out=tmp_path / "again")
    assert [step["items"] for step in again.info["added_items"]] == [2, 1]
    assert again.recommend(histories=[["7"]], k=1)[0].unknown_items == []


def test_indexes_of_the_smaller_catalogue_stay_behind(larger: Run, tmp_path: Path) -> None:
    larger.build_index("exact")
    again = larger.add_items([{"item": "n3", "color": "red"}], out=tmp_path / "again")
    with pytest.raises(RunError, match="an index is built before it is used"):
        again.index("exact")


def test_a_larger_catalogue_is_not_evaluated_on_the_old_one(larger: Run) -> None:
    with pytest.raises(UsageError, match=r"it has 42 items, .* has 40"):
        larger.evaluate()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a row for each new item; there is none"),
        ([{"item": "i3"}], "new ids; 'i3' is in the catalogue"),
        ([{"item": "x"}, {"item": "x"}], "one row; 'x' has several"),
        ([{"item": ""}], "an id in 'item'; row 1 has"),
        ([{"item": "x", "colour": "red"}], "got 'colour'"),
        ([{"item": "x", "price": "dear"}], "'price' must hold"),
    ],
)
def test_bad_new_items(run: Run, tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run.add_items(rows, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_id_column(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--id"):
        run.add_items([{"color": "red"}], out=tmp_path / "out")


def test_similar_items_are_those_of_the_largest_cosine(run: Run) -> None:
    answer = run.similar("i5", k=6)
    vectors = run.model.item_vectors
    dense = int(run.recommender.item_ids.to_dense(["i5"])[0])
    cosines = torch.nn.functional.cosine_similarity(vectors[1:], vectors[dense][None])
    cosines[dense - 1] = -2
    best = cosines.argsort(descending=True)[:6] + 1
    assert answer.items == run.recommender.item_ids.to_raw(best.numpy())
    assert answer.scores == pytest.approx(cosines[best - 1].tolist(), abs=1e-6)
    with pytest.raises(UsageError, match="'i99' is not in it"):
        run.similar("i99")
    with pytest.raises(UsageError, match="k >= 1; got 0"):
        run.similar("i5", k=0)
    assert len(run.similar("i5", k=1000).items) == NUM_ITEMS - 1


def test_features_by_name(dataset: Dataset, tmp_path: Path) -> None:
    fast = {**SETTINGS, "epochs": 1, "ssl": "none"}
    out = tmp_path / "run"
    chosen = ensue.train(
        "two_tower", dataset, out=out, **fast, item_features=["tags"], user_features=[]
    )
    assert [column.name for column in chosen.model.features.items] == ["tags"]
    assert chosen.model.features.users == ()
    assert chosen.add_items(NEW, out=tmp_path / "more").model.num_items == NUM_ITEMS + 2
    with pytest.raises(ConfigError, match=r"item_features takes .* 'tag' is none .* mean 'tags'"):
        ensue.train("two_tower", dataset, out=tmp_path / "x", **fast, item_features=["tag"])


def test_the_report_shows_what_features_say_of_each_other(run: Run, tmp_path: Path) -> None:
    found = measure_information(run.model)
    assert found["features"] == ["id", "color", "tags", "price"]
    assert all(len(hidden) == 3 for hidden in found["masked_together"].values())
    page = Page(write_report(run, tmp_path / "report.html").read_text("utf-8"))
    assert "Features of items" in page.texts


def test_the_command_line_agrees(run: Run, tmp_path: Path) -> None:
    answer = call("recommend", run.path, "--feature", "country=it", "-k", "3", "--json")
    assert answer["items"] == run.recommend(features={"country": "it"}, k=3)[0].items
    answer = call("similar", run.path, "i5", "-k", "3", "--json")
    assert answer["items"] == run.similar("i5", k=3).items
    table = tmp_path / "new.csv"
    table.write_text("item,color,tags\nn1,red,a|b\nn2,blue,zzz\n")
    answer = call("add-items", run.path, table, "-o", tmp_path / "out", "--json")
    assert (answer["items"], answer["num_items"]) == (2, NUM_ITEMS + 2)
    assert answer["unknown_values"] == ["tags=zzz"]
    same = run.add_items(read_rows(table), out=tmp_path / "api")
    assert torch.equal(load(tmp_path / "out").model.item_vectors, same.model.item_vectors)
