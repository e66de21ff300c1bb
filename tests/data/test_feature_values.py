"""Values of features: text, bags, numbers and vectors, and which value is to blame."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ensue.data.feature_values import (
    BRACKETS,
    JSON,
    BadValueError,
    to_bags,
    to_numbers,
    to_texts,
    to_vectors,
    vector_size,
)

NAN = float("nan")


def bags_of(values: pl.Series, separator: str | None) -> list[list[str]]:
    rows, texts = to_bags(values, separator)
    return [texts.filter(pl.Series(rows == row)).to_list() for row in range(len(values))]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series(["a", " b ", "", "  ", None, "07"]), ["a", "b", None, None, None, "07"]),
        (pl.Series([1, None, 7]), ["1", None, "7"]),
        (pl.Series([1.0, NAN, None, -3.0]), ["1", None, None, "-3"]),
        (pl.Series([True, None, False]), ["true", None, "false"]),
        (pl.Series(["x", "y"], dtype=pl.Categorical), ["x", "y"]),
    ],
)
def test_text(values: pl.Series, expected: list[str | None]) -> None:
    assert to_texts(values).to_list() == expected


def test_what_is_no_category() -> None:
    for values, index in ((pl.Series([1.0, None, 0.5]), 2), (pl.Series([None, ["a"]]), 1)):
        with pytest.raises(BadValueError, match="text or whole numbers") as caught:
            to_texts(values)
        assert caught.value.index == index


@pytest.mark.parametrize(
    ("values", "separator", "expected"),
    [
        (pl.Series(["a|b", " c ", None, "|", "a | d|"]), "|", [["a", "b"], ["c"], [], [], [*"ad"]]),
        (pl.Series(["a  b", None]), " ", [["a", "b"], []]),
        (pl.Series(["x|y", ""]), None, [["x|y"], []]),
        (pl.Series([[1, 2], [], None, [None, 3]]), None, [["1", "2"], [], [], ["3"]]),
        (pl.Series([[1.0, NAN]]), None, [["1"]]),
        (pl.Series(['["a, b", 1, null, true]', None, "[]"]), JSON, [["a, b", "1", "true"], [], []]),
        (pl.Series(["['a, b', \"c\", d]", "[]"]), BRACKETS, [["a, b", "c", "d"], []]),
    ],
)  # fmt: skip
def test_bags(values: pl.Series, separator: str | None, expected: list[list[str]]) -> None:
    assert bags_of(values, separator) == expected


def test_the_row_of_a_bad_value_in_a_bag() -> None:
    with pytest.raises(BadValueError, match="text or whole numbers") as caught:
        to_bags(pl.Series([[1.0, 2.0], [], [3.0, 0.5]]), None)
    assert caught.value.index == 2
    for text in ("a", "[1", "[1, ]"):
        with pytest.raises(BadValueError, match="arrays of JSON") as caught:
            to_bags(pl.Series(["[1]", None, text]), JSON)
        assert caught.value.index == 2


def test_numbers() -> None:
    np.testing.assert_array_equal(
        to_numbers(pl.Series([" 1.5", "", None, "nan"])), [1.5, *[NAN] * 3]
    )
    np.testing.assert_array_equal(to_numbers(pl.Series([2, None])), [2, NAN])
    np.testing.assert_array_equal(to_numbers(pl.Series(["true", "false", "3"])), [1, 0, 3])
    for values, index in (
        (pl.Series(["1", "x"]), 1),
        (pl.Series([1.0, NAN, float("inf")]), 2),
        (pl.Series(["-1e101"]), 0),
        (pl.Series([[1.0]]), 0),
    ):
        with pytest.raises(BadValueError, match="finite numbers alone") as caught:
            to_numbers(values)
        assert caught.value.index == index


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        (pl.Series([[1.0, 2.0], None, [], [None, 4.0]]), None),
        (pl.Series([[1.0, 2.0], None, None, [NAN, 4.0]], dtype=pl.Array(pl.Float64, 2)), None),
        (pl.Series(["[1, 2.0]", None, "[]", "[null, 4]"]), JSON),
        (pl.Series(["1 2", None, "", "nan  4"]), " "),
        (pl.Series(["1,2", None, "", "nan, 4"]), ","),
    ],
)
def test_vectors_that_lack_a_number_are_missing(values: pl.Series, separator: str | None) -> None:
    assert vector_size(values, separator) == 2
    vectors = to_vectors(values, separator, 2)
    np.testing.assert_array_equal(vectors, [[1, 2], *[[NAN, NAN]] * 3])
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        (pl.Series([[1.0, 2.0], None, [1.0]]), None),
        (pl.Series(["1 2", None, "1 x"]), " "),
        (pl.Series(["1 2", None, "1 1e39"]), " "),
        (pl.Series([[1.0, 2.0], None, [1.0, float("inf")]]), None),
    ],
)
def test_what_is_no_vector(values: pl.Series, separator: str | None) -> None:
    with pytest.raises(BadValueError, match="vectors of 2 numbers") as caught:
        to_vectors(values, separator, 2)
    assert caught.value.index == 2


def test_the_size_of_vectors_is_that_of_the_first_one_there() -> None:
    assert vector_size(pl.Series(["[]", None, "[1, 2, 3]"]), JSON) == 3
    assert vector_size(pl.Series([[], None, [1.0]]), None) == 1
    assert vector_size(pl.Series([None, ""]), " ") == 0
    with pytest.raises(BadValueError, match="vectors of numbers") as caught:
        vector_size(pl.Series([None, "1 2"]), None)
    assert caught.value.index == 1
