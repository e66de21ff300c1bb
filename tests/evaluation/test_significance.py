from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.data.dataset import Dataset
from ensue.errors import UsageError
from ensue.evaluation import significance
from ensue.evaluation.evaluator import evaluate
from ensue.evaluation.significance import (
    benjamini_hochberg,
    bonferroni,
    compare,
    holm,
    sign_flip_p_values,
)
from tests.evaluation.models import LastItemModel, TableModel
from tests.helpers import make_dataset


def by_enumeration(differences: list[float]) -> float:
    observed = abs(sum(differences))
    patterns = list(product([1, -1], repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in patterns]
    return sum(abs(total) >= observed - 1e-9 for total in sums) / len(patterns)


SMALL = [
    [0.5],
    [0.0, 0.0, 0.0],
    [0.1, 0.2, 0.3],  # 0.1 + 0.2 rounds above 0.3: ties must not be missed
    [0.3, -0.1, 0.25, 0.7, 0.0, -0.2],
    [1 / 3, 1 / 3, -1 / 3, 1 / 7, 2 / 7, -3 / 7, 0.1, 0.9, -0.4, 0.8],
]


@pytest.mark.parametrize("differences", SMALL)
def test_few_users_give_the_exact_p_value(differences: list[float]) -> None:
    found = sign_flip_p_values(np.array([differences]).T, 2000, np.random.default_rng(0))
    assert found.tolist() == [by_enumeration(differences)]


def test_random_signs_approach_the_exact_p_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "SIGNS_AT_ONCE", 100)  # in pieces
    columns = np.array([SMALL[4], [*SMALL[3], 0.0, 0.0, 0.0, 0.0]]).T
    found = sign_flip_p_values(columns, 1000, np.random.default_rng(0))  # 2^10 is more
    expected = [by_enumeration(column) for column in columns.T.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=0.05)


def test_one_is_added_to_both_counts() -> None:
    """100 users all better: no random pattern is as far from 0."""
    found = sign_flip_p_values(np.ones((100, 1)), 999, np.random.default_rng(0))
    assert found.tolist() == [1 / 1000]


def test_no_difference_is_never_significant() -> None:
    assert sign_flip_p_values(np.zeros((100, 1)), 99, np.random.default_rng(0)).tolist() == [1.0]


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(2)
    p_values = sign_flip_p_values(rng.normal(size=(60, 800)), 500, rng)
    for level in (0.05, 0.5):
        share = np.mean(p_values <= level)
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 800)


def test_corrections_by_hand() -> None:
    p_values = np.array([0.01, 0.04, 0.03, 0.005, 0.6])
    assert bonferroni(p_values).tolist() == pytest.approx([0.05, 0.2, 0.15, 0.025, 1.0])
    # Sorted .005 .01 .03 .04 .6, times 5 4 3 2 1: .025 .04 .09 .08 .6, never falling.
    assert holm(p_values).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    # Times 5/1 5/2 5/3 5/4 1: .025 .025 .05 .05 .6.
    assert benjamini_hochberg(p_values).tolist() == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.6])


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """300 users who walk up the catalogue one item at a time."""
    starts = np.random.default_rng(0).integers(1, 30, 300).tolist()
    histories = [list(range(start, start + 5)) for start in starts]
    return make_dataset(tmp_path / "data", histories, num_items=40)


def random_model(data: Dataset) -> TableModel:
    generator = torch.Generator().manual_seed(0)
    return TableModel(torch.rand(data.num_users + 1, data.num_items + 1, generator=generator))


def test_a_better_model_is_found_and_equal_ones_are_not(data: Dataset) -> None:
    good = evaluate(LastItemModel(data.num_items), data, num_resamples=0)
    bad = evaluate(random_model(data), data, num_resamples=0)
    found = compare([good, bad, good], ["good", "bad", "again"], num_permutations=500)
    assert [(test["a"], test["b"]) for test in found.tests[::3]] == [
        ("good", "bad"),
        ("good", "again"),
        ("bad", "again"),
    ]
    better, same = found.tests[0], found.tests[3]
    assert better["metric"] == "map"
    assert better["mean_a"] == good.metrics["map"]
    assert better["mean_b"] == bad.metrics["map"]
    assert better["difference"] == pytest.approx(good.metrics["map"] - bad.metrics["map"])
    assert better["interval"][0] > 0
    assert better["p"] == pytest.approx(1 / 501)
    assert better["p_corrected"] == pytest.approx(9 / 501)  # nine tests, the smallest p
    assert same["interval"] == [0.0, 0.0]
    assert same["p"] == same["p_corrected"] == 1.0


def test_the_order_of_the_two_turns_the_sign_alone(data: Dataset) -> None:
    a = evaluate(LastItemModel(data.num_items), data, num_resamples=0)
    b = evaluate(random_model(data), data, num_resamples=0)
    ab = compare([a, b], ["a", "b"], num_permutations=200).tests[0]
    ba = compare([b, a], ["b", "a"], num_permutations=200).tests[0]
    assert ba["difference"] == -ab["difference"]
    assert ba["p"] == ab["p"]


def test_each_against_one_is_corrected_for_those_tests_alone(data: Dataset) -> None:
    scores = np.random.default_rng(3).random((3, data.num_users + 1, data.num_items + 1))
    models = [LastItemModel(data.num_items), *(TableModel(torch.from_numpy(s)) for s in scores[:2])]
    evaluations = [evaluate(model, data, num_resamples=0) for model in models]
    names = ["last", "one", "two"]
    found = compare(evaluations, names, metrics=("map",), against="one", num_permutations=500)
    assert [(test["a"], test["b"]) for test in found.tests] == [("last", "one"), ("two", "one")]
    means = [evaluation.metrics["map"] for evaluation in evaluations]
    differences = [test["difference"] for test in found.tests]
    assert differences == pytest.approx([means[0] - means[1], means[2] - means[1]])
    corrected = holm(np.array([test["p"] for test in found.tests]))
    assert [test["p_corrected"] for test in found.tests] == corrected.tolist()
    with pytest.raises(UsageError, match="no evaluation 'on'"):
        compare(evaluations, names, against="on")


def test_the_json_object(data: Dataset) -> None:
    model = evaluate(LastItemModel(data.num_items), data, num_resamples=0)
    found = compare([model, model], ["a", "b"], num_permutations=99, num_resamples=0).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["protocol"]["correction"] == "holm"
    assert found["protocol"]["dataset hash"] == data.info.hash
    assert found["tests"][0]["interval"] is None


def other_dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "other", [[1, 2, 3, 4]] * 300, num_items=40)


def test_different_data_splits_protocols_and_users(data: Dataset, tmp_path: Path) -> None:
    model = LastItemModel(40)
    one = evaluate(model, data, num_resamples=0)
    others = {
        "the same dataset hash; a has": evaluate(model, other_dataset(tmp_path), num_resamples=0),
        "the same split; a has 'test', b has 'validation'": evaluate(
            model, data, split="validation", num_resamples=0
        ),
        "the same exclude_seen; a has True, b has False": evaluate(
            model, data, exclude_seen=False, num_resamples=0
        ),
        "the same users; a has 300, b has 100": evaluate(
            model, data, max_users=100, num_resamples=0
        ),
    }
    for message, other in others.items():
        with pytest.raises(UsageError, match=message):
            compare([one, other], ["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["a"]}, "got 2 evaluations and 1 names"),
        ({"metrics": ["ndgc@10"]}, r"a has no metric 'ndgc@10'\. Did you mean 'ndcg@10'"),
        ({"metrics": []}, "needs at least one metric"),
        ({"correction": "holms"}, r"'holms' is no correction\. Did you mean 'holm'"),
        ({"num_permutations": 0}, "num_permutations must be 1 or more; got 0"),
    ],
)
def test_arguments_without_meaning(settings: dict[str, Any], message: str, data: Dataset) -> None:
    one = evaluate(LastItemModel(data.num_items), data, num_resamples=0)
    names = settings.pop("names", ["a", "b"])
    with pytest.raises(UsageError, match=message):
        compare([one, one], names, **settings)


def test_one_evaluation_cannot_be_compared(data: Dataset) -> None:
    one = evaluate(LastItemModel(data.num_items), data, num_resamples=0)
    with pytest.raises(UsageError, match="got 1 evaluations and 1 names"):
        compare([one], ["a"])
