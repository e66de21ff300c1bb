from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.features import Bags, FeatureColumn, FeatureTable
from ensue.data.mutual_information import Discrete, discretize, mutual_information


def single(name: str, values: list[int]) -> Discrete:
    return Discrete.single(name, np.array(values), max(values) + 1)


def bags(name: str, rows: list[list[int]]) -> Discrete:
    flat = np.array([value for row in rows for value in row], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    return Discrete(name, flat, offsets, int(flat.max()) + 1)


def by_definition(one: list[list[int]], other: list[list[int]]) -> float:
    """Equation 4 over dictionaries of probabilities."""
    joint: dict[tuple[int, int], float] = {}
    for a, b in zip(one, other, strict=True):
        for pair in product(a, b):
            joint[pair] = joint.get(pair, 0.0) + 1 / (len(one) * len(a) * len(b))
    first: dict[int, float] = {}
    second: dict[int, float] = {}
    for (a, b), share in joint.items():
        first[a] = first.get(a, 0.0) + share
        second[b] = second.get(b, 0.0) + share
    return sum(p * math.log(p / (first[a] * second[b])) for (a, b), p in joint.items())


def test_worked_numbers() -> None:
    found = mutual_information([single("a", [0, 0, 1, 1]), single("b", [0, 1, 1, 1])])
    assert found.raw[0, 1] == pytest.approx(0.215762, abs=1e-6)
    twice = mutual_information([single("a", [0, 1]), single("b", [0, 1])])
    assert twice.raw[0, 1] == pytest.approx(math.log(2))
    constant = mutual_information([single("a", [0, 1, 2]), single("b", [0, 0, 0])])
    assert constant.raw[0, 1] == pytest.approx(0.0, abs=1e-12)
    assert constant.table("normalized")[0, 1] == 0.0


def test_the_item_itself_tells_all_of_a_single_value() -> None:
    values = [0, 2, 2, 1, 0, 0, 3]
    found = mutual_information([single("id", list(range(7))), single("f", values)])
    shares = np.bincount(values) / 7
    entropy = -(shares * np.log(shares)).sum()
    assert found.raw[0, 1] == pytest.approx(entropy)
    assert found.entropies[1] == pytest.approx(entropy)
    assert found.table("normalized")[0, 1] == pytest.approx(1.0)


rows = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=5, max_size=5)


@settings(deadline=None, max_examples=40)
@given(rows, rows)
def test_bags_equal_the_definition(one: list[list[int]], other: list[list[int]]) -> None:
    found = mutual_information([bags("a", one), bags("b", other)])
    assert found.raw[0, 1] == pytest.approx(by_definition(one, other), abs=1e-9)
    assert found.raw[1, 0] == found.raw[0, 1]
    assert found.raw[0, 0] == pytest.approx(by_definition(one, one), abs=1e-9)


def test_chance_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    many, other = rng.integers(0, 200, 400), rng.integers(0, 20, 400)
    found = mutual_information([single("a", many.tolist()), single("b", other.tolist())])
    assert found.raw[0, 1] > 1.0  # unrelated, but 400 items have few of the 4000 pairs
    assert found.table("corrected")[0, 1] < 0.05
    copies = mutual_information([single("a", many.tolist()), single("b", many.tolist())])
    assert copies.table("corrected")[0, 1] > 0.15


def test_columns_become_values() -> None:
    table = FeatureTable(
        (
            FeatureColumn("color", "categorical", 3),
            FeatureColumn("tags", "multi", 9),
            FeatureColumn("price", "numeric", 1),
            FeatureColumn("image", "vector", 2),
        ),
        (
            np.array([0, 2, 0, 3], dtype=np.int32),
            Bags(np.array([4, 9, 9], dtype=np.int32), np.array([0, 0, 2, 2, 3])),
            np.array([np.nan, 1.0, np.nan, 5.0], dtype=np.float32),
            np.array([[np.nan] * 2, [1, 0], [-1, 0], [np.nan] * 2], dtype=np.float32),
        ),
    )
    own, color, tags, price, image = discretize(table, ids="id")
    assert own.values.tolist() == [0, 1, 2]
    assert color.values.tolist() == [2, 0, 3]
    assert (tags.values.tolist(), tags.offsets.tolist()) == ([4, 9, 0, 9], [0, 2, 3, 4])
    assert price.values[1] == 0
    assert 0 < price.values[0] < price.values[2]
    assert image.values[2] == 0
    assert image.values[0] != image.values[1] > 0


def test_numbers_fall_into_classes_of_equal_size() -> None:
    numbers = np.concatenate([[np.nan], np.random.default_rng(0).normal(size=1600)])
    column = FeatureColumn("price", "numeric", 1)
    table = FeatureTable((column,), (numbers.astype(np.float32),))
    (found,) = discretize(table)
    counts = np.bincount(found.values, minlength=17)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 100, atol=1)
