from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import ensue
from ensue.data.dataset import Dataset
from ensue.errors import DataError, ExtraError, UsageError
from ensue.evaluation.profile.decay import Decay, Fit
from ensue.evaluation.profile.embedding import unit_rows
from ensue.runs.profile import Profile, describe_dependence, profile
from ensue.runs.profile_page import build_profile_page, write_profile
from ensue.runs.train import train
from tests.helpers import make_dataset
from tests.runs.test_report import Page

RING = 120


def ring_histories(num_users: int, length: int) -> list[list[int]]:
    """Return walks on a ring that go up by 1 mostly, so that the order says much."""
    rng = np.random.default_rng(0)
    steps = rng.choice([1, 2, 5], size=(num_users, length), p=[0.8, 0.15, 0.05])
    places = (rng.integers(RING, size=(num_users, 1)) + np.cumsum(steps, axis=1)) % RING
    return (places + 1).tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("profile") / "data"
    return make_dataset(path, ring_histories(200, 30), name="ring & co", notes=["A <note>."])


@pytest.fixture(scope="module")
def found(data: Dataset) -> Profile:
    return profile(data, dim=8, max_lag=20, num_resamples=50)


@pytest.fixture(scope="module")
def html(found: Profile) -> str:
    return build_profile_page(found)


def test_sizes(found: Profile, data: Dataset) -> None:
    assert found.counts["interactions"] == 6000
    assert found.counts["density"] == pytest.approx(6000 / (200 * RING))
    assert found.counts["density"] + found.counts["sparsity"] == pytest.approx(1.0)
    assert found.lengths["mean"] == 30
    assert found.time is not None
    assert (found.time["days"], found.time["tied"]) == (29.0, 0.0)
    distinct = len({(u, i) for u, h in enumerate(ring_histories(200, 30)) for i in h})
    assert found.repeats["share"] == pytest.approx(1 - distinct / 6000)
    assert found.dataset["hash"] == data.info.hash


def test_all_interactions_are_measured_whatever_the_split(tmp_path: Path) -> None:
    lists = ring_histories(50, 12)
    one, other = (
        profile(make_dataset(tmp_path / split, lists, split=split), dim=4, max_lag=5)
        for split in ("none", "leave-one-out")
    )
    assert one.intensity == other.intensity
    np.testing.assert_array_equal(one.dependence.total.value, other.dependence.total.value)


def test_order_that_says_much_and_order_that_says_nothing(found: Profile) -> None:
    assert found.intensity.rules[1] == RING  # each item is followed by the next one on the ring
    assert found.shuffled_intensity.rules[1] == 0
    total = found.dependence.total
    assert total.value[1] - total.floor[1] > 0.2
    assert np.abs(found.dependence.shuffled - total.floor)[1:].max() < 0.15


def test_the_same_seed_gives_the_same_profile(data: Dataset, found: Profile) -> None:
    again = profile(data.path, dim=8, max_lag=20, num_resamples=50)
    assert again.to_dict() == found.to_dict()
    other = profile(data, dim=8, max_lag=20, num_resamples=50, seed=1)
    assert other.to_dict()["dependence"]["shuffled"] != found.to_dict()["dependence"]["shuffled"]


def test_json(found: Profile) -> None:
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    dependence = values["dependence"]
    assert dependence["lags"] == list(range(21))
    assert dependence["users"] == [200] * 21
    for curve in (dependence["total"], dependence["within"]):
        assert {name: len(points) for name, points in curve.items()} == {
            "value": 21,
            "floor": 21,
            "percentile_5": 21,
            "percentile_95": 21,
        }
    assert values["intensity"]["by_length"]["1"]["rules"] == RING
    assert values["protocol"]["vectors"] == "truncated SVD of the log, 8 factors, unit length"


@pytest.mark.slow
def test_a_log_without_times_or_long_histories(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("1 5 6\n2 5 7\n3 6 5\n")
    ensue.prepare(log, tmp_path / "data", format="sequences")
    found = profile(tmp_path / "data")
    assert found.time is None
    assert found.dependence.num_users.tolist() == [3, 3]
    assert found.protocol["dim"] == 3  # three items have no more
    assert describe_dependence(found) == [
        "Dep_L itself has no log-log slope: fewer than 5 lags have 30 users with a history longer "
        "than the lag.",
        "The memory has no exponent: fewer than 5 lags have 30 users with a history longer than "
        "the lag.",
    ]
    json.dumps(found.to_dict(), allow_nan=False)
    assert (
        "The log has no times: only the order of its rows is known."
        in Page(build_profile_page(found)).texts
    )


@pytest.mark.slow
def test_a_single_interaction(tmp_path: Path) -> None:
    found = profile(make_dataset(tmp_path / "data", [[1]]))
    assert found.to_dict()["dependence"]["total"]["value"] == [None]
    assert "<svg" in build_profile_page(found)


def test_a_sample_of_the_users(data: Dataset) -> None:
    found = profile(data, dim=8, max_lag=5, max_users=50)
    assert found.dependence.num_users.tolist() == [50] * 6
    assert found.protocol["users"] == 50
    assert found.intensity.num_users == 200


def test_vectors_of_a_run(data: Dataset, tmp_path: Path) -> None:
    run = train("bpr", data, out=tmp_path / "bpr", dim=6, epochs=1)
    for embedding in (run, run.path):
        found = profile(data, embedding=embedding, max_lag=5)
        assert found.protocol["vectors"] == f"bpr run {run.path}, 6 factors, unit length"
        vectors = unit_rows(run.model.state_dict()["item_embedding"].numpy()).astype(np.float64)
        histories = data.histories("all")
        a, b = (vectors[histories.items[histories.ends[1:] - k]] for k in (1, 3))
        expected = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).sum() / 199
        assert found.dependence.total.value[2] == pytest.approx(expected)


def test_a_run_of_another_kind(data: Dataset, tmp_path: Path) -> None:
    run = train("popularity", data, out=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"does not know the order of items, bpr; .* popularity\.$"
    ):
        profile(data, embedding=run)


def test_a_run_of_other_items(data: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", [[1, 2, 3], [2, 3, 1]], name="three")
    run = train("bpr", other, out=tmp_path / "run", dim=4, epochs=1)
    with pytest.raises(UsageError, match=r"trained on 3 items of three, .* has 120\. Train bpr"):
        profile(data, embedding=run)


def test_no_dataset_and_an_empty_one(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a dataset is a folder with a dataset\.json"):
        profile(tmp_path)
    empty = Dataset(data.path)
    counts = {**empty.info.counts, "interactions": 0}
    empty.info = empty.info.model_copy(update={"counts": counts})
    with pytest.raises(DataError, match=r"at least one interaction; .* has none\.$"):
        profile(empty)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("dim", 0, 1), ("max_lag", 0, 1), ("max_users", 1, 2), ("num_resamples", 9, 10)],
)
def test_sizes_without_meaning(data: Dataset, name: str, value: int, least: int) -> None:
    with pytest.raises(UsageError, match=f"profile needs {name} of {least} or more; got {value}"):
        profile(data, **{name: value})


def with_fits(found: Profile, *, power_is_better_in: float) -> Profile:
    """Return the profile as if L^-0.4 and an exponential had been fitted to its 20 lags."""
    lags = np.arange(1, 21)
    gains = np.where(np.arange(100) < 100 * power_is_better_in, 2.0, 0.0)
    power = Fit(0.4, (0.3, 0.5), 2.0, 0.91, 2.0 * lags**-0.4, gains)
    exponential = Fit(7.25, (6.0, 8.0), 3.0, 0.92, 3 * np.exp(-lags / 7.25), np.ones(100))
    slope = (-0.25, (-0.3, -0.2))
    return replace(found, decay=Decay(lags, slope, None, power, None, exponential))


@pytest.mark.parametrize(
    ("share", "preferred", "last"),
    [
        (1.0, "power", "A power with an exponent of at most 1 is long-range dependence."),
        (
            0.5,
            None,
            "But an exponential that falls to 1/e in 7.2 lags describes it as well (92.0%): these "
            "lags cannot tell a power from an exponential.",
        ),
        (
            0.02,
            "exponential",
            "But an exponential that falls to 1/e in 7.2 lags describes it better (92.0%): the "
            "memory is short, and the exponent is no law.",
        ),
    ],
)
def test_the_sentences_name_the_decay(
    found: Profile, share: float, preferred: str | None, last: str
) -> None:
    fitted = with_fits(found, power_is_better_in=share)
    assert fitted.decay.preferred == preferred
    sentences = describe_dependence(fitted)
    assert sentences[0].startswith(
        "The log-log slope of Dep_L itself, lags 1 to 20, is -0.250 (95%: -0.300 to -0.200);"
    )
    assert sentences[1] == (
        "Above the floor of permuted histories, Dep_L falls as L^-0.40 (95% of the exponent: 0.30 "
        "to 0.50; this explains 91.0%)."
    )
    assert sentences[-1] == last
    assert fitted.to_dict()["dependence"]["decay"]["power"]["interval"] == [0.3, 0.5]


@pytest.mark.slow
def test_the_page_draws_what_was_fitted(found: Profile) -> None:
    texts = Page(build_profile_page(with_fits(found, power_is_better_in=1.0))).texts
    for label in ("Dep_L less the floor", "power, L^-0.40", "exponential, 1/e in 7.2"):
        assert label in texts


def test_fewer_users_at_later_lags_are_told(tmp_path: Path) -> None:
    lists = ring_histories(40, 20) + ring_histories(60, 4)
    found = profile(make_dataset(tmp_path / "data", lists), dim=4, max_lag=10)
    assert describe_dependence(found)[0].startswith(
        "Lag 0 is measured on 100 users, lag 10 on the 40"
    )


def test_the_page_says_what_was_measured(found: Profile, html: str) -> None:
    texts = Page(html).texts
    for text in (
        "Profile of ring & co",
        "200 users, 120 items, 6,000 interactions, 1970-01-01 to 1970-01-30",
        "A <note>.",
        f"{found.intensity.value:.4f}",
        "users by history length",
        "interactions of each item, most popular first",
        "rules for each user",
        "in random order",
        "Dep_L and how users scatter",
        "5% to 95% of the users",
        "Dep_L and the same histories permuted",
        "Dep_L within users",
        "how Dep_L falls above the floor",
        "truncated SVD of the log, 8 factors, unit length",
        f"{found.dependence.total.value[1]:.4f}",
        *describe_dependence(found),
    ):
        assert text in texts, text


def test_the_page_has_a_row_for_each_lag(html: str) -> None:
    lags = html[html.index("All lags") :]
    assert len(re.findall("<tr>", lags[: lags.index("</table>")])) == 1 + 21


def test_the_page_asks_nothing_of_a_network_and_its_references_resolve(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe", html)
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)
    assert {a or b for a, b in used} <= set(ids)
    assert "$" not in html  # no formula is left to draw at the ticks of a logarithmic axis
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "#0102" not in drawings


@pytest.mark.slow
def test_the_same_profile_is_the_same_bytes(found: Profile, html: str) -> None:
    assert build_profile_page(found) == html


@pytest.mark.slow
def test_the_page_of_a_random_order_has_no_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lists = rng.integers(1, 20, size=(150, 15)).tolist()
    found = profile(make_dataset(tmp_path / "data", lists), dim=8, max_lag=10)
    assert found.decay.power is None
    texts = Page(build_profile_page(found)).texts
    assert (
        "The memory has no exponent: the part above the floor of permuted histories cannot be told "
        "from 0." in texts
    )
    assert "Dep_L less the floor" not in texts  # one series needs no legend


@pytest.mark.slow
def test_ties_are_told(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {"user": [1, 1, 1, 2, 2], "item": [1, 2, 3, 2, 1], "timestamp": [5, 5, 9, 7, 7]}
    )
    log.write_csv(tmp_path / "log.csv")
    ensue.prepare(tmp_path / "log.csv", tmp_path / "data", split="none")
    found = profile(tmp_path / "data")
    assert found.time is not None
    assert found.time["tied"] == pytest.approx(2 / 5)
    assert any(
        "have no order of their own" in text for text in Page(build_profile_page(found)).texts
    )


@pytest.mark.slow
def test_write_profile(found: Profile, data: Dataset, tmp_path: Path, html: str) -> None:
    assert write_profile(found) == data.path / "profile.html"
    assert (data.path / "profile.html").read_text(encoding="utf-8") == html
    assert write_profile(found, tmp_path / "new" / "page.html").is_file()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_matplotlib_missing_is_named_with_its_extra(
    found: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExtraError, match=r"'matplotlib'.*ensue\[report\]"):
        build_profile_page(found)
