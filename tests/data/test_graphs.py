"""Edge tables and features as graphs: what is read, and that no part shows what is held out."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ensue.data.dataset import Dataset
from ensue.data.graphs import Graph, GraphSchema
from ensue.data.prepare import prepare
from ensue.errors import ConfigError, DataError, UsageError

LOG = "user_id,item_id,timestamp\n" + "".join(
    f"{user},{item},{time}\n"
    for user, item, time in [
        *[("ann", "i1", 10), ("ann", "i2", 20), ("ann", "i3", 30), ("ann", "i4", 40)],
        *[("bob", "i2", 15), ("bob", "i1", 25), ("bob", "i5", 50)],
        ("cat", "i3", 60),
    ]
)
TAGS = """item_id,tag,count
i1,red,2
i2,red,1
i1,red,3
i2,blue,1
i9,green,7
"""
FRIENDS = "user_id,friend_id,timestamp\nann,bob,12\nbob,ann,35\nann,dan,1\nbob,cat,45\n"


def make(folder: Path, split: str = "leave-one-out", **options: object) -> Dataset:
    (folder / "log.csv").write_text(LOG)
    (folder / "tags.csv").write_text(TAGS)
    (folder / "friends.csv").write_text(FRIENDS)
    graphs = {"tags": folder / "tags.csv", "friends": folder / "friends.csv"}
    settings = {"graphs": graphs, "split": split, "overwrite": True, **options}
    return prepare(folder / "log.csv", folder / "data", **settings)  # type: ignore[arg-type]


def edges(dataset: Dataset, graph: Graph) -> dict[tuple[str, str], float]:
    first, second = (dataset.entity_ids(kind) for kind in graph.schema.types)
    pairs = zip(first.to_raw(graph.sources), second.to_raw(graph.targets), strict=True)
    return dict(zip(pairs, graph.weights.tolist(), strict=True))


def test_three_files_become_a_dataset_with_two_graphs(tmp_path):
    dataset = make(tmp_path)
    tags, friends = dataset.graphs().values()
    # Rows of an item or user that the log has not are left out; the rest of a pair is added up.
    assert edges(dataset, tags) == {("i1", "red"): 5, ("i2", "red"): 1, ("i2", "blue"): 1}
    assert tags.schema == GraphSchema("tags", ("item", "tag"), (5, 2))
    assert edges(dataset, friends) == {("ann", "bob"): 1, ("bob", "ann"): 1, ("bob", "cat"): 1}
    assert friends.schema == GraphSchema("friends", ("user", "user"), (3, 3))
    info = dataset.info.graphs["tags"]
    assert (info.rows, info.unknown_rows, info.edges, info.has_time) == (5, 1, 3, False)
    assert info.columns == {"source": "item_id", "target": "tag", "weight": "count"}
    for graph in (tags, friends):
        dtypes = [graph.sources.dtype, graph.targets.dtype, graph.weights.dtype]
        assert dtypes == [np.int32, np.int32, np.float32]
        assert GraphSchema.from_dict(json.loads(json.dumps(graph.schema.to_dict()))) == graph.schema


def test_an_edge_of_a_user_counts_until_the_last_row_of_a_part_of_every_user_of_it(tmp_path):
    dataset = make(tmp_path)
    # Training ends at 20 for ann and at 15 for bob, validation at 30 and 25; cat has one row.
    known = {part: edges(dataset, dataset.graphs(part)["friends"]) for part in ("train", "all")}
    assert list(known["train"]) == [("ann", "bob")]
    assert len(known["all"]) == 3
    assert list(edges(dataset, dataset.graphs("train+validation")["friends"])) == [("ann", "bob")]
    by_time = make(tmp_path, "time:1970-01-01T00:00:35,1970-01-01T00:00:36")
    assert list(edges(by_time, by_time.graphs("train")["friends"])) == [("ann", "bob")]
    assert len(by_time.graphs("train+validation")["friends"]) == 2


def test_the_notes_say_what_edges_may_show(tmp_path):
    notes = make(tmp_path).info.notes
    assert any("graph tags count in every part, as it has no times" in note for note in notes)
    assert any("graph friends of a user count up to his last row" in note for note in notes)
    assert not any("graph friends" in note for note in make(tmp_path, "time:0.5,0.6").info.notes)
    assert not any("graph" in note for note in make(tmp_path, "none").info.notes)


def test_times_are_not_compared_with_a_log_without_times(tmp_path):
    log = tmp_path / "orders.csv"
    log.write_text("user_id,item_id\nann,i1\nann,i2\nann,i3\nbob,i1\n")
    (tmp_path / "friends.csv").write_text(FRIENDS)
    dataset = prepare(log, tmp_path / "data", graphs={"friends": tmp_path / "friends.csv"})
    assert len(dataset.graphs("train")["friends"]) == len(dataset.graphs()["friends"]) == 2
    assert any("as the log has no times" in note for note in dataset.info.notes)


def test_pairs_that_are_held_out_are_in_no_part_before(tmp_path):
    likes = tmp_path / "likes.csv"
    likes.write_text("item_id,user_id\ni1,ann\ni3,ann\ni4,ann\ni5,ann\ni5,bob\n")
    dataset = make(tmp_path, graphs={"likes": likes})
    names = {
        part: sorted(edges(dataset, dataset.graphs(part)["likes"]))
        for part in ("train", "train+validation", "all")
    }
    assert names["train"] == [("i1", "ann"), ("i5", "ann")]
    assert names["train+validation"] == [("i1", "ann"), ("i3", "ann"), ("i5", "ann")]
    assert len(names["all"]) == 5
    assert dataset.info.graphs["likes"].held_out == 3
    assert any("3 edges of the graph likes are pairs" in note for note in dataset.info.notes)


def test_features_and_interactions_are_graphs(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("item_id,color,genres\ni1,red,a|b\ni2,blue,\ni3,,b\ni4,red,a|b\ni5,red,c|c\n")
    roles = {"color": "categorical", "genres": "multi:|"}
    dataset = make(tmp_path, items=items, features=roles, graphs={})
    graphs = dataset.graphs("train")
    assert list(graphs) == ["items.color", "items.genres"] == list(dataset.graph_schemas)
    colors = edges(dataset, graphs["items.color"])
    assert colors == dict.fromkeys([(f"i{n}", "red") for n in (1, 4, 5)], 1) | {("i2", "blue"): 1}
    genres = edges(dataset, graphs["items.genres"])
    expected = [("i1", "a"), ("i1", "b"), ("i3", "b"), ("i4", "a"), ("i4", "b"), ("i5", "c")]
    assert sorted(genres) == expected
    assert graphs["items.genres"].schema.types == ("item", "items.genres")
    assert graphs["items.genres"].schema.sizes == (5, 3)
    log = edges(dataset, dataset.interaction_graph("train"))
    assert log == {("ann", "i1"): 1, ("ann", "i2"): 1, ("bob", "i2"): 1, ("cat", "i3"): 1}


def test_types_of_the_same_name_share_their_entities(tmp_path):
    files = {"of_items": "item_id,tag\ni1,x\ni2,y\n", "of_tags": "tag,parent\ny,top\nx,y\nz,top\n"}
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    dataset = make(
        tmp_path,
        graphs={name: tmp_path / f"{name}.csv" for name in files},
        graph_columns={"of_tags": "tag,parent:tag"},
    )
    first, second = dataset.graphs().values()
    assert dataset.entity_ids("tag").raw.to_list() == ["top", "x", "y", "z"]
    assert first.schema.sizes == (5, 4)
    assert second.schema.types == ("tag", "tag")
    assert sorted(edges(dataset, second)) == [("x", "y"), ("y", "top"), ("z", "top")]


@pytest.mark.parametrize(
    ("text", "columns", "types"),
    [
        ("userId,user_2\nann,bob\n", None, ("user", "user")),
        ("movie,user_id\ni1,ann\n", None, ("item", "user")),
        ("item_id,artist\ni1,a\n", None, ("item", "artist")),
        ("a,b,n\ni1,z,3\n", "a:item,b,weight=n", ("item", "b")),
        ("3 4\n4 5\n", "1:paper,2:paper", ("paper", "paper")),
    ],
)
def test_columns_are_told_by_their_names_or_by_the_caller(tmp_path, text, columns, types):
    (tmp_path / "edges.csv").write_text(text)
    given = {"edges": columns} if columns else {}
    dataset = make(tmp_path, graphs={"edges": tmp_path / "edges.csv"}, graph_columns=given)
    assert dataset.graph_schemas["edges"].types == types


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("item_id,tag\ni9,x\n", None, "none among its 1 rows"),
        ("item_id,tag,note\ni1,x,y\n", None, r"has \['item_id', 'tag', 'note'\]"),
        ("item_id,tag,count,score\ni1,x,1,2\n", None, r"\['count', 'score'\] could all be it"),
        ("item_id,tag,weight\ni1,x,0\n", None, "above 0; row 2 of .* has '0'"),
        ("item_id,tag,weight\ni1,x,\n", None, "above 0"),
        ("item_id,tag,weight\ni1,x,1e60\n", None, "has '1e60'"),
        ("item_id,tag\ni1,\n", None, "must have a tag; row 2"),
        ("item_id,a tag\ni1,x\n", None, "got 'a tag'"),
        ("item_id,tag\ni1,x\n", "item_id,tog", "'tog' of the graph 'edges' is not in"),
        ("item_id,tag\ni1,x\n", "item_id", "got 'item_id' for 'edges'"),
        ("item_id,tag\ni1,x\n", "tag,tag", "has 'tag' for both"),
        ("3 4\n4 5\n", None, r"have no names in .* first row is \['3', '4'\]"),
    ],
)
def test_a_table_that_cannot_be_a_graph_is_refused_in_one_sentence(
    tmp_path, text, columns, message
):
    (tmp_path / "edges.csv").write_text(text)
    given = {"edges": columns} if columns else {}
    with pytest.raises((DataError, UsageError), match=message):
        make(tmp_path, graphs={"edges": tmp_path / "edges.csv"}, graph_columns=given)
    assert not (tmp_path / "data").exists()


def test_names_are_checked(tmp_path):
    file = tmp_path / "tags.csv"
    for graphs, columns, message in [
        ({"interactions": file}, {}, "cannot be called 'interactions'"),
        ({"a.b": file}, {}, "got 'a.b'"),
        ({"tags": file}, {"tag": "a,b"}, "Did you mean 'tags'"),
    ]:
        with pytest.raises(UsageError, match=message):
            make(tmp_path, graphs=graphs, graph_columns=columns)
    dataset = make(tmp_path)
    with pytest.raises(ConfigError, match=r"'tag' is none of .* Did you mean 'tags'"):
        dataset.graphs("train", ["tag"])
    with pytest.raises(DataError, match="no entities of type 'tags'"):
        dataset.entity_ids("tags")
    assert list(dataset.graphs("train", ["friends"])) == ["friends"]


def test_the_hash_of_the_dataset_does_not_depend_on_graphs_and_each_has_its_own(tmp_path):
    with_graphs, without = make(tmp_path).info, make(tmp_path, graphs={}).info
    assert with_graphs.hash == without.hash
    assert make(tmp_path).info.graphs == with_graphs.graphs
    assert len({graph.hash for graph in with_graphs.graphs.values()}) == 2


users = st.integers(0, 4).map(lambda n: f"u{n}")
items = st.integers(0, 5).map(lambda n: f"i{n}")
tags = st.integers(0, 2).map(lambda n: f"t{n}")
times = st.integers(1, 12)


# An example prepares a dataset: to make one that fails smaller would take minutes.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    log=st.lists(st.tuples(users, items, times), min_size=6, max_size=25),
    likes=st.lists(st.tuples(users, items, times), min_size=1, max_size=20),
    friends=st.lists(st.tuples(users, users, times), min_size=1, max_size=20),
    words=st.lists(st.tuples(items, tags, times), min_size=1, max_size=20),
    split=st.sampled_from(["leave-one-out", "ratio:0.5,0.25,0.25", "time:0.5,0.8"]),
)
def test_no_part_has_an_edge_that_is_later_than_it(
    tmp_path_factory, log, likes, friends, words, split
):
    folder = tmp_path_factory.mktemp("leaks")
    if split.startswith("time"):
        log = [("u0", "i0", 0), *log]  # a row before all others, for training
    tables = {"log": log, "likes": likes, "friends": friends, "words": words}
    columns = {"friends": ("user", "friend"), "words": ("item", "tag")}
    for name, rows in tables.items():
        header = ",".join(columns.get(name, ("user", "item"))) + ",time\n"
        text = "".join(f"{a},{b},{time}\n" for a, b, time in rows)
        (folder / f"{name}.csv").write_text(header + text)
    known_users, known_items = {row[0] for row in log}, {row[1] for row in log}
    known = {"user": known_users, "item": known_items, "friend": known_users}
    graphs = {}
    for name in ("likes", "friends", "words"):
        sides = columns.get(name, ("user", "item"))
        kept = [
            row
            for row in tables[name]
            if all(raw in known.get(side, {raw}) for raw, side in zip(row, sides, strict=False))
        ]
        if kept:
            graphs[name] = (sides, kept)
    dataset = prepare(
        folder / "log.csv",
        folder / "data",
        split=split,
        graphs={name: folder / f"{name}.csv" for name in graphs},
    )
    for number, part in enumerate(("train", "train+validation", "all")):
        found = dataset.graphs(part)
        for name, (sides, rows) in graphs.items():
            expected = by_hand(dataset, number, sides, rows)
            assert edges(dataset, found[name]) == expected, (part, name)


def by_hand(dataset, number, sides, rows):
    """Return the edges that part `number` may know, row by row of the log."""
    raw_users = dataset.user_ids.to_raw(dataset.column("user"))
    raw_items = dataset.item_ids.to_raw(dataset.column("item"))
    log = list(
        zip(raw_users, raw_items, dataset.column("time"), dataset.column("split"), strict=True)
    )
    kind = dataset.info.split["kind"]
    later_pairs = {(user, item) for user, item, _, split in log if split > number}
    weights: dict[tuple[str, str], float] = defaultdict(float)
    for first, second, seconds in rows:
        time = seconds * 1_000_000
        touched = [
            raw
            for raw, side in zip((first, second), sides, strict=True)
            if side in ("user", "friend")
        ]
        owners = [[row for row in log if row[0] == user] for user in touched] or [log]
        is_known = True
        for of_owner in owners if number < 2 else []:
            before = [row[2] for row in of_owner if row[3] <= number]
            after = [row[2] for row in of_owner if row[3] > number]
            if kind == "time":
                text = dataset.info.split["cutoffs"][number]
                is_known &= time < np.datetime64(text[:-6], "us").astype(int)
            else:
                is_known &= bool(before) and time <= max(before)
                is_known &= not touched or not after or time < min(after)
        if sides == ("user", "item"):
            is_known &= (first, second) not in later_pairs
        if is_known:
            weights[first, second] += 1
    return dict(weights)


def test_edges_that_do_not_fit_into_memory_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(1, [6, 50, 9], size=(40_000, 3))
    frame = pl.DataFrame(rows, schema=["n", "word", "count"], orient="row")
    frame.select(pl.format("i{}", "n").alias("item_id"), "word", "count").write_csv(
        tmp_path / "words.csv"
    )
    graphs = {"words": tmp_path / "words.csv"}
    few, many = (make(tmp_path, graphs=graphs, memory=size) for size in ("16MB", "1GB"))
    assert few.info.graphs == many.info.graphs
    graph = few.graphs()["words"]
    expected = np.zeros((6, 50))
    np.add.at(expected, (rows[:, 0], rows[:, 1]), rows[:, 2])
    words = np.array([int(raw) for raw in few.entity_ids("word").raw])
    assert np.array_equal(expected[graph.sources, words[graph.targets - 1]], graph.weights)
    assert len(graph) == (expected > 0).sum()
