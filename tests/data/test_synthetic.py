"""The synthetic log: its sizes, its planted structure at full strength, and none at strength 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.synthetic import SyntheticConfig, SyntheticLog, generate, oracle_ranks, write
from ensue.data.synthetic.sequences import draw_lengths
from ensue.data.synthetic.words import brand_names, category_names
from ensue.errors import ConfigError, UsageError

SMALL = {"num_users": 800, "num_items": 400, "num_interactions": 20_000, "num_categories": 8}


def small(**settings: object) -> SyntheticConfig:
    return make_config(SyntheticConfig, {**SMALL, **settings})


def chi_square_z(observed: NDArray[np.float64], expected: NDArray[np.float64], df: int) -> float:
    """Return the chi-square statistic as a standard normal score (Wilson and Hilferty)."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    spread = 2.0 / (9.0 * df)
    return ((statistic / df) ** (1 / 3) - (1.0 - spread)) / spread**0.5


def independence_z(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Return how far two codes are from independent, as a standard normal score."""
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1.0)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return chi_square_z(table, expected, (table.shape[0] - 1) * (table.shape[1] - 1))


def rows_of(log: SyntheticLog) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return user and item rows, one user after the other and each in order of time."""
    table = log.interactions.select(
        pl.col("user").str.slice(1).cast(pl.Int64) - 1,
        pl.col("item").str.slice(1).cast(pl.Int64) - 1,
        "timestamp",
    ).sort("user", "timestamp")
    return table["user"].to_numpy(), table["item"].to_numpy()


def hits_at_10(log: SyntheticLog) -> dict[str, float]:
    """Return hit@10 on each user's last item of popularity and of a Markov chain, both fitted."""
    users, items = rows_of(log)
    num_items = log.config.num_items
    is_last = np.append(users[1:] != users[:-1], True)
    targets, sources = items[is_last], items[np.flatnonzero(is_last) - 1]
    known_users, known = users[~is_last], items[~is_last]
    counts = np.bincount(known, minlength=num_items)
    moves = np.zeros((num_items, num_items))
    same = known_users[1:] == known_users[:-1]
    np.add.at(moves, (known[:-1][same], known[1:][same]), 1.0)
    seen = np.zeros((log.config.num_users, num_items), dtype=bool)
    seen[known_users, known] = True

    def hit(scores: NDArray[np.float64]) -> float:
        allowed = np.where(seen, -np.inf, scores)
        own = allowed[np.arange(len(targets)), targets]
        return float(((allowed > own[:, None]).sum(axis=1) < 10).mean())

    popular = counts / counts.sum()
    chain = moves[sources] / np.maximum(moves.sum(axis=1)[sources, None], 1.0)
    return {"popularity": hit(np.tile(popular, (len(seen), 1))), "markov": hit(chain + popular)}


@pytest.fixture(scope="module")
def log() -> SyntheticLog:
    return generate(small())


def test_sizes_are_exact_and_every_id_is_known(log: SyntheticLog) -> None:
    assert log.interactions.columns == [
        "user", "item", "timestamp", "device", "hour", "click", "like", "watch_seconds",
    ]  # fmt: skip
    assert len(log.interactions) == 20_000
    assert (len(log.users), len(log.items)) == (800, 400)
    assert log.users["user"][0] == "u001"
    assert log.items["item"][-1] == "i400"
    assert log.interactions["user"].n_unique() == 800
    assert set(log.interactions["item"]) <= set(log.items["item"])
    assert log.interactions.null_count().sum_horizontal().item() == 0


def test_items_of_a_series_share_category_and_successors(log: SyntheticLog) -> None:
    series = log.items["tags"].str.split("|").list.last()
    first = series.to_frame().with_row_index().unique("tags", keep="first", maintain_order=True)
    first_of = dict(zip(first["tags"], first["index"], strict=True))
    assert len(first_of) < len(log.items) / 4
    other = np.array([first_of[name] for name in series])
    np.testing.assert_array_equal(log.truth.successors, log.truth.successors[other])
    np.testing.assert_array_equal(log.truth.item_category, log.truth.item_category[other])
    words = log.items["tags"].str.split("|")
    title = words.list.get(1) + " " + words.list.get(0)
    assert title.to_list() == log.items["title"].to_list()


def test_interests_are_the_categories_of_a_tenth_of_the_taste(log: SyntheticLog) -> None:
    categories = dict(zip(log.items["category"], log.truth.item_category, strict=True))
    for row in range(0, len(log.users), 50):
        named = {categories[name] for name in log.users["interests"][row].split("|")}
        taste = log.truth.user_taste[row]
        assert named == set(np.flatnonzero(taste >= 0.1)) | {taste.argmax()}


def test_lengths_have_the_exact_sum_and_keep_the_limits() -> None:
    config = small(min_length=7, max_length=60, num_interactions=19_999)
    lengths = draw_lengths(config, np.random.default_rng(3))
    assert lengths.sum() == 19_999
    assert (lengths.min(), lengths.max()) == (7, 60)


def test_lengths_are_log_normal() -> None:
    config = make_config(
        SyntheticConfig,
        {"num_users": 20_000, "num_interactions": 2_000_000, "num_items": 20_000,
         "length_spread": 0.5, "min_length": 1, "max_length": 10_000},
    )  # fmt: skip
    logs = np.log(draw_lengths(config, np.random.default_rng(0)))
    assert logs.std() == pytest.approx(0.5, abs=0.02)
    assert np.mean((logs - logs.mean()) ** 3) == pytest.approx(0.0, abs=0.02)


def test_the_same_seed_gives_the_same_log_and_another_seed_another(log: SyntheticLog) -> None:
    assert generate(small()).interactions.equals(log.interactions)
    assert not generate(small(seed=1)).interactions.equals(log.interactions)


def test_a_change_of_the_labels_leaves_the_histories(log: SyntheticLog) -> None:
    other = generate(small(label_strength=0.0)).interactions
    same = ["user", "item", "timestamp", "device"]
    assert other.select(same).equals(log.interactions.select(same))
    assert not other["like"].equals(log.interactions["like"])


def test_times_increase_within_a_user_and_lie_in_the_year(log: SyntheticLog) -> None:
    table = log.interactions
    gaps = table.select(pl.col("timestamp").diff().over("user"))["timestamp"].drop_nulls()
    assert gaps.min() >= 1  # type: ignore[operator]
    assert table["timestamp"].is_sorted()
    start, end = log.config.start_s, log.config.start_s + 365 * 86_400
    assert table["timestamp"].is_between(start, end - 1).all()
    hours = pl.from_epoch("timestamp").dt.hour().cast(pl.Int64)
    assert table.select(hours == pl.col("hour")).to_series().all()


def test_times_fit_even_a_single_crowded_day() -> None:
    table = generate(small(days=1)).interactions
    assert table.select(pl.struct("user", "timestamp").n_unique()).item() == len(table)
    assert table["timestamp"].max() < small().start_s + 86_400  # type: ignore[operator]


def test_histories_do_not_repeat_items_unless_asked(log: SyntheticLog) -> None:
    assert log.interactions.select(pl.struct("user", "item").n_unique()).item() == 20_000
    users, items = rows_of(generate(small(repeat_rate=0.3)))
    same_user = users[1:] == users[:-1]
    assert not (same_user & (items[1:] == items[:-1])).any()
    distinct = len(np.unique(users * 400 + items))
    starts = 2 * 800  # the first two rows of a history have nothing to return to
    assert 1 - (distinct - starts) / (20_000 - starts) == pytest.approx(0.3, abs=0.015)


def test_first_items_follow_the_zipf_law() -> None:
    log = generate(
        small(num_users=20_000, num_items=40, num_interactions=40_000, taste_strength=0.0,
              min_length=2, max_length=4, popularity_exponent=1.0, num_categories=2)
    )  # fmt: skip
    users, items = rows_of(log)
    first = items[np.append(True, users[1:] != users[:-1])]
    observed = np.sort(np.bincount(first, minlength=40))[::-1]
    law = 1.0 / np.arange(1, 41)
    assert chi_square_z(observed, law / law.sum() * 20_000, 39) < 4


def test_at_strength_zero_an_item_says_nothing_of_the_next_or_of_the_user() -> None:
    log = generate(
        small(num_items=4_000, transition_strength=0.0, taste_strength=0.0, popularity_exponent=0.2)
    )
    users, items = rows_of(log)
    category = log.truth.item_category[items]
    same_user = users[1:] == users[:-1]
    assert abs(independence_z(category[:-1][same_user], category[1:][same_user])) < 4
    favorite = log.truth.user_taste.argmax(axis=1)
    assert abs(independence_z(favorite[users], category)) < 4


def test_at_transition_strength_one_every_step_goes_to_a_successor() -> None:
    log = generate(small(transition_strength=1.0, reach=1))
    users, items = rows_of(log)
    successors = log.truth.successors
    same_user = users[1:] == users[:-1]
    follows = (successors[items[:-1]] == items[1:, None]).any(axis=1)
    seen = np.zeros((800, 400), dtype=bool)
    is_stuck = np.zeros(len(items) - 1, dtype=bool)
    for row, (user, item) in enumerate(zip(users[:-1], items[:-1], strict=True)):
        seen[user, item] = True
        is_stuck[row] = seen[user, successors[item]].all()
    assert (follows | is_stuck)[same_user].all()
    assert follows[same_user].mean() > 0.9


def test_successors_are_distinct_others_of_the_same_category(log: SyntheticLog) -> None:
    truth = log.truth
    assert (truth.item_category[truth.successors] == truth.item_category[:, None]).all()
    assert (truth.successors != np.arange(400)[:, None]).all()
    assert len(np.unique(truth.successors, axis=0)) == 400 / log.config.num_substitutes
    assert all(len(set(row)) == log.config.num_successors for row in truth.successors.tolist())


def test_at_taste_strength_one_users_stay_with_their_categories() -> None:
    log = generate(small(taste_strength=1.0, transition_strength=0.0, max_length=30))
    users, items = rows_of(log)
    observed = np.zeros((800, 8))
    np.add.at(observed, (users, log.truth.item_category[items]), 1.0)
    liked = log.truth.user_taste >= 0.01
    assert observed[liked].sum() / observed.sum() > 0.99
    share = observed / observed.sum(axis=1, keepdims=True)
    assert np.corrcoef(share.ravel(), log.truth.user_taste.ravel())[0, 1] > 0.9


def test_a_markov_chain_beats_popularity_and_the_oracle_beats_both() -> None:
    log = generate(small(num_users=2_000, num_interactions=60_000))
    hits = hits_at_10(log)
    oracle = float((oracle_ranks(log, num_users=2_000) <= 10).mean())
    assert hits["markov"] >= 2 * hits["popularity"]
    assert oracle > hits["markov"]


@pytest.mark.slow
def test_in_noise_nothing_beats_popularity() -> None:
    config = small(
        num_users=2_000, num_interactions=60_000, transition_strength=0.0, taste_strength=0.0
    )
    log = generate(config)
    hits = hits_at_10(log)
    oracle = float((oracle_ranks(log, num_users=2_000) <= 10).mean())
    noise = (hits["popularity"] * (1 - hits["popularity"]) / 2_000) ** 0.5
    assert hits["markov"] < hits["popularity"] + 3 * noise
    assert oracle == pytest.approx(hits["popularity"], abs=3 * noise)


def test_oracle_ranks_agree_with_one_user_at_a_time(log: SyntheticLog) -> None:
    ranks = oracle_ranks(log, num_users=300)
    assert len(ranks) == 300
    for user in (0, 123, 299):
        name = log.users["user"][user]
        history = log.interactions.filter(pl.col("user") == name)["item"].to_list()
        scores = log.oracle_next_probabilities(name, history[:-1])
        own = scores[log.items["item"].to_list().index(history[-1])]
        assert ranks[user] == 1 + (scores > own).sum()


def test_oracle_names_an_unknown_id(log: SyntheticLog) -> None:
    with pytest.raises(UsageError, match="got 'i999'"):
        log.oracle_next_probabilities("u001", ["i001", "i999"])


def labels_of(log: SyntheticLog) -> tuple[NDArray[np.int64], pl.DataFrame]:
    """Return whether the user is interested in the item, and the labels, in one order."""
    users, items = rows_of(log)
    labels = log.interactions.sort("user", "timestamp").select("click", "like", "watch_seconds")
    return log.truth.is_interested(users, items).astype(np.int64), labels


@pytest.mark.slow
def test_labels_without_strength_are_noise() -> None:
    interest, labels = labels_of(generate(small(label_strength=0.0)))
    click, like = labels["click"].to_numpy(), labels["like"].to_numpy()
    assert abs(independence_z(interest, click)) < 4
    assert abs(independence_z(interest, like)) < 4
    assert np.corrcoef(np.log(labels["watch_seconds"]), like)[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.slow
def test_labels_at_full_strength_follow_taste() -> None:
    interest, labels = labels_of(generate(small(label_strength=1.0)))
    click, like = labels["click"].to_numpy(), labels["like"].to_numpy()
    assert click[interest == 1].mean() == pytest.approx(0.9, abs=0.02)
    assert click[interest == 0].mean() == pytest.approx(0.2, abs=0.02)
    assert like[interest == 0].sum() == 0
    assert (like <= click).all()
    watch = labels["watch_seconds"].to_numpy()
    assert watch.min() > 0
    assert np.quantile(watch, 0.99) > 5 * np.median(watch)
    assert np.corrcoef(np.log(watch), like)[0, 1] > 0.5


@pytest.mark.slow
def test_context_follows_the_user_with_its_strength() -> None:
    joined = generate(small(context_strength=1.0))
    table = joined.interactions.join(joined.users, on="user")
    assert table.select((pl.col("device") == pl.col("usual_device")).all()).item()
    assert table.select((pl.col("hour") == pl.col("usual_hour")).mean()).item() > 0.8
    noise = generate(small(context_strength=0.0))
    table = noise.interactions.join(noise.users, on="user")
    codes = [table[name].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
             for name in ("device", "usual_device")]  # fmt: skip
    # Rows of a session share a device, so test one row of each user.
    one = table.with_row_index().group_by("user").first()["index"].to_numpy()
    assert abs(independence_z(codes[0][one], codes[1][one])) < 4


def test_titles_suit_the_category(log: SyntheticLog) -> None:
    nouns = log.items.select("category", pl.col("title").str.split(" ").list.last())
    assert nouns.filter(pl.col("category") == "coffee")["title"].is_in(
        ["espresso", "grinder", "beans", "filter", "kettle", "mug", "roast", "press"]
    ).all()  # fmt: skip
    brands = log.items.group_by("brand").agg(pl.col("category").n_unique())
    assert brands["category"].max() == 1


def test_names_stay_distinct_past_the_written_ones() -> None:
    assert len(set(category_names(65))) == 65
    assert len(set(brand_names(400))) == 400


def test_write_gives_files_that_read_back(log: SyntheticLog, tmp_path: Path) -> None:
    folder = write(log, tmp_path / "shop")
    assert sorted(file.name for file in folder.iterdir()) == [
        "interactions.csv", "items.csv", "users.csv",
    ]  # fmt: skip
    assert pl.read_csv(folder / "interactions.csv").equals(log.interactions)
    assert pl.read_csv(folder / "items.csv").equals(log.items)
    assert pl.read_csv(folder / "users.csv").equals(log.users)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_user": 1}, "no field 'num_user'.*'num_users'"),
        ({"taste_strength": 1.5}, "taste_strength: .*less than or equal to 1; got 1.5"),
        ({"num_interactions": 10}, r"between 4000 .*min_length\) and 160000 .*200\); got 10"),
        (
            {"num_successors": 50},
            r"must be at least 60 \(num_successors \+ num_substitutes\); got 50",
        ),
        (
            {"num_items": 180_000, "max_length": 90_000, "days": 1},
            "a second for every row of the longest history, 90000; got 1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(small(**settings))
