from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.vocabulary import Vocabulary, dense_ids, order_raw_ids

IDS = st.sampled_from(
    ["0", "7", "07", "+7", "-7", "-0", "12", "x", "", "1e3", "9" * 30, " 7", "\u0663"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.none() | IDS, max_size=12), max_size=5), st.sampled_from([1, 10, 1000]))
def test_codes_are_one_to_one_with_texts(chunks, max_integer):
    ids = Vocabulary(max_integer)
    codes = [ids.encode(pl.Series(chunk, dtype=pl.String)).tolist() for chunk in chunks]
    raw = [*ids.raw().to_list(), None]  # code -1 is null
    assert [[raw[code] for code in chunk] for chunk in codes] == chunks
    assert len(set(raw)) == len(raw) == len(ids) + 1


def test_integers_and_their_texts_are_the_same_ids():
    ids = Vocabulary(max_integer=100)
    numbers = ids.encode(pl.Series([5, 200, -3, 5, 2**63], dtype=pl.Int128).cast(pl.String))
    assert ids.encode(pl.Series([5, 200, -3, 5])).tolist() == numbers[:4].tolist()
    assert ids.encode(pl.Series([2**63], dtype=pl.UInt64)).tolist() == numbers[4:].tolist()


@given(st.lists(st.integers(-(10**30), 10**30), unique=True, max_size=20))
def test_integers_are_in_numeric_order(numbers):
    raw = pl.Series([str(number) for number in numbers], dtype=pl.String)
    assert [numbers[row] for row in order_raw_ids(raw)] == sorted(numbers)


@given(st.lists(st.text(max_size=4), unique=True, max_size=20))
def test_texts_are_in_byte_order(texts):
    raw = pl.Series([*texts, "not an integer"], dtype=pl.String)
    texts = [*texts, "not an integer"]
    if len(set(texts)) == len(texts):
        expected = sorted(texts, key=lambda text: text.encode())
        assert [texts[row] for row in order_raw_ids(raw)] == expected


def test_dense_ids_skip_what_is_absent():
    raw, dense = dense_ids(pl.Series(["30", "9", "100"]), np.array([True, False, True]))
    assert raw.to_list() == ["30", "100"]
    assert dense.tolist() == [1, 0, 2, 0]
