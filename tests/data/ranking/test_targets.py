"""Labels of tasks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ensue.data.feature_values import BadValueError
from ensue.data.ranking.targets import parse_comparison, parse_targets, read_weights
from ensue.errors import DataError, UsageError

SAMPLE = pl.DataFrame(
    {
        "click": ["0", "1", ""],
        "rating": ["5", "4.5", ""],
        "income": [" - 50000.", " 50000+.", "a:b as c"],
        "7": [1, 0, None],
    }
)


def one(text: str):
    (target,) = parse_targets([text], {}, SAMPLE)
    return target


def labels(text: str, column: str) -> list[float | None]:
    found = one(text).labels(SAMPLE[column])
    return [None if np.isnan(value) else value for value in found.tolist()]


@pytest.mark.parametrize(
    ("text", "name", "kind", "column"),
    [
        ("click", "click", "binary", "click"),
        ("click:regression", "click", "regression", "click"),
        ("rating", "rating", "regression", "rating"),
        ("rating >= 4 as liked", "liked", "binary", "rating"),
        ("rating>=4:binary as liked", "liked", "binary", "rating"),
        ("rating:regression as stars", "stars", "regression", "rating"),
        ("income=50000+. as rich", "rich", "binary", "income"),
        ("7", "7", "binary", "7"),
        ("7 as y", "y", "binary", "7"),
        ("7>0 as y", "y", "binary", "7"),
    ],
)
def test_grammar(text: str, name: str, kind: str, column: str) -> None:
    target = one(text)
    assert (target.name, target.kind, target.column) == (name, kind, column)


def test_labels() -> None:
    assert labels("click", "click") == [0.0, 1.0, None]
    assert labels("rating", "rating") == [5.0, 4.5, None]
    assert labels("rating>4.5", "rating") == [1.0, 0.0, None]
    assert labels("rating<=4.5", "rating") == [0.0, 1.0, None]
    assert labels("rating<5", "rating") == [0.0, 1.0, None]
    assert labels("rating=5.0 as five", "rating") == [1.0, 0.0, None]
    assert labels("income=50000+. as rich", "income") == [0.0, 1.0, 0.0]
    assert labels("7=1 as y", "7") == [1.0, 0.0, None]


def test_weights() -> None:
    parsed = parse_targets(["click", "rating"], {"": "7", "rating": "rating"}, SAMPLE)
    assert [target.weight for target in parsed] == ["7", "rating"]
    assert read_weights(pl.Series(["0", "1.5"])).tolist() == [0.0, 1.5]
    for bad in ("-1", "", "nan"):
        with pytest.raises(BadValueError, match="a number of 0 or more in every row") as caught:
            read_weights(pl.Series(["1", bad]))
        assert caught.value.index == 1


def test_wrong_targets() -> None:
    with pytest.raises(UsageError, match=r"'clik' is none. Did you mean 'click'"):
        one("clik")
    with pytest.raises(UsageError, match="several times"):
        parse_targets(["rating>=4", "rating"], {}, SAMPLE)
    with pytest.raises(UsageError, match=">= compares with a number; got 'rating>=good'"):
        one("rating>=good")
    with pytest.raises(UsageError, match="a comparison makes a binary target"):
        one("rating>=4:regression")
    with pytest.raises(DataError, match=r"'income' must hold numbers; row 1 has ' - 50000.'"):
        one("income")
    with pytest.raises(UsageError, match="needs a target; got none"):
        parse_targets([], {}, SAMPLE)
    with pytest.raises(UsageError, match="weights are of a target; 'clic' is none"):
        parse_targets(["click"], {"clic": "7"}, SAMPLE)
    with pytest.raises(UsageError, match="a comparison is COLUMN>=NUMBER or COLUMN=TEXT"):
        parse_comparison("click", SAMPLE.columns)


def test_a_binary_label_is_0_or_1() -> None:
    with pytest.raises(BadValueError, match="0 and 1 alone") as caught:
        one("click").labels(pl.Series("click", ["1", "2"]))
    assert caught.value.index == 1
