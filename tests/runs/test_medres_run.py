"""A run of MEDRES from three CSV files: it answers without the dataset, and grows by new items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ensue
from ensue.errors import ConfigError

NUM_USERS, NUM_ITEMS = 60, 30


def write_files(folder: Path) -> None:
    """Three groups of users, friends within them, who take items of a tag."""
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id"]
    for user in range(NUM_USERS):
        own = rng.choice(10, 6, replace=False) * 3 + user % 3
        rows += [f"u{user},i{item}" for item in own]
    (folder / "log.csv").write_text("\n".join(rows))
    tags = [f"i{item},t{item % 3}" for item in range(NUM_ITEMS)]
    (folder / "tags.csv").write_text("\n".join(["item_id,tag", *tags]))
    friends = [f"u{user},u{(user + 3) % NUM_USERS}" for user in range(NUM_USERS)]
    (folder / "friends.csv").write_text("\n".join(["user_id,friend_id", *friends]))
    genres = [f"i{item},g{item % 3}|g{item % 2 + 3}" for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item_id,genres", *genres]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ensue.Dataset:
    folder = tmp_path_factory.mktemp("medres")
    write_files(folder)
    return ensue.prepare(
        folder / "log.csv",
        folder / "data",
        items=folder / "items.csv",
        graphs={"tags": folder / "tags.csv", "friends": folder / "friends.csv"},
    )


SHORT = {"dim": 8, "epochs": 6, "batch_size": 16, "learning_rate": 0.02, "validate_every": 3}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bce", "papk"])
def test_it_learns_and_answers_without_the_dataset(
    dataset: ensue.Dataset, tmp_path: Path, loss: str
) -> None:
    run = ensue.train(
        "medres", dataset, out=tmp_path / "run", graphs=["tags", "friends"], loss=loss, **SHORT
    )
    assert [graph["name"] for graph in run.info["graphs"]] == ["tags", "friends"]
    assert run.evaluate(dataset, num_resamples=0).metrics["recall@10"] > 0.6  # at random .4
    stored = ensue.load(tmp_path / "run")
    for own in ({"users": ["u1"]}, {"histories": [["i1", "i4"]]}):
        assert stored.recommend(**own) == run.recommend(**own)
    items = stored.recommend(histories=[["i0", "i3", "i6"]], k=5)[0].items
    assert sum(int(item[1:]) % 3 == 0 for item in items) >= 4
    index = stored.build_index("exact")
    assert (
        stored.recommend(users=["u2"], index=index)[0].items == run.recommend(users=["u2"])[0].items
    )


@pytest.mark.slow
def test_all_graphs_are_read_and_new_items_come_by_their_features(
    dataset: ensue.Dataset, tmp_path: Path
) -> None:
    run = ensue.train("medres", dataset, out=tmp_path / "run", layers=2, head="mlp", **SHORT)
    names = [graph["name"] for graph in run.info["graphs"]]
    assert names == ["tags", "friends", "items.genres"]
    longer = run.add_items([{"item_id": "new", "genres": "g0|g3"}], out=tmp_path / "longer")
    scores = longer.recommend(histories=[["i0", "i6", "i12"]], k=NUM_ITEMS + 1)[0]
    assert "new" in scores.items
    with pytest.raises(ensue.errors.UsageError, match="product"):
        run.build_index("exact")


def test_a_graph_that_is_not_there_is_refused(dataset: ensue.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tag' is none of"):
        ensue.train("medres", dataset, out=tmp_path / "run", graphs=["tag"])


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(
    dataset: ensue.Dataset, tmp_path: Path
) -> None:
    whole = ensue.train("medres", dataset, out=tmp_path / "whole", **SHORT)

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensue.train("medres", dataset, out=tmp_path / "part", on_validation=stop, **SHORT)
    again = ensue.train("medres", dataset, out=tmp_path / "part", resume=True, **SHORT)
    assert again.weights_hash == whole.weights_hash


def test_a_loss_takes_the_place_of_that_of_a_preset(dataset: ensue.Dataset, tmp_path: Path) -> None:
    short = {**SHORT, "epochs": 1, "validate_every": 1, "preset": "links"}
    own = ensue.train("medres", dataset, out=tmp_path / "own", **short)
    other = ensue.train("medres", dataset, out=tmp_path / "bce", loss="bce", **short)
    assert own.info["training"]["papk"]["k"] == 300
    assert other.info["training"]["papk"] is None
    assert own.info["config"] == other.info["config"]
    assert other.info["config"]["history"] == "others"
