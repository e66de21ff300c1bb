"""Ids and codes of values."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.ranking.value_ids import ValueCodes, value_ids

MASK = 2**64 - 1


def defined_id(vocabulary: str, text: str) -> int:
    """FNV-1a over name, zero and text, then MurmurHash3's finalizer, with Python's integers."""
    state = 0xCBF29CE484222325
    for byte in vocabulary.encode() + b"\0" + text.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    state = ((state ^ (state >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    state = ((state ^ (state >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    state ^= state >> 33
    return state - 2**64 if state >= 2**63 else state


def test_the_hash_itself_is_fnv_1a() -> None:
    # Test vector of the authors of FNV: "foobar" has 0x85944171f73967e8 before any finalizer.
    state = 0xCBF29CE484222325
    for byte in b"foobar":
        state = ((state ^ byte) * 0x100000001B3) & MASK
    assert state == 0x85944171F73967E8


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=6), st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=8))
def test_ids_by_the_definition(name: str, texts: list[str | None]) -> None:
    ids = value_ids(name, pl.Series(texts, dtype=pl.String))
    assert ids.tolist() == [defined_id(name, text) if text else 0 for text in texts]


def test_ids_differ_by_vocabulary() -> None:
    values = pl.Series([str(number) for number in range(1000)])
    item, user = value_ids("item", values), value_ids("user", values)
    assert len(np.unique(np.concatenate([item, user]))) == 2000
    assert (item != 0).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh"))), max_size=5))
def test_codes_come_in_the_order_of_values(chunks: list[list[str | None]]) -> None:
    codes, known = ValueCodes("letters"), dict[str, int]()
    for chunk in chunks:
        expected = [-1 if v is None else known.setdefault(v, len(known)) for v in chunk]
        assert codes.encode(pl.Series(chunk, dtype=pl.String)).tolist() == expected
    assert codes.raw().to_list() == list(known)
    assert codes.ids.tolist() == value_ids("letters", codes.raw()).tolist()


def test_many_values_and_repeats() -> None:
    codes = ValueCodes("n")
    draw = np.random.default_rng(0)
    seen = []
    for _ in range(5):
        numbers = draw.integers(0, 20_000, size=7_000)
        found = codes.encode(pl.Series(numbers).cast(pl.String))
        seen.append((numbers, found))
    raw = codes.raw().cast(pl.Int64).to_numpy()
    assert len(raw) == len(np.unique(np.concatenate([numbers for numbers, _ in seen])))
    for numbers, found in seen:
        np.testing.assert_array_equal(raw[found], numbers)


def test_one_value_however_it_is_written() -> None:
    codes = ValueCodes("x")
    assert codes.encode(pl.Series([7, 8, None])).tolist() == [0, 1, -1]
    assert codes.encode(pl.Series(["7", " 8 ", "", "  ", "\u00a07"])).tolist() == [0, 1, -1, -1, 0]
    assert codes.encode(pl.Series([8.0, float("nan")])).tolist() == [1, -1]
    assert codes.encode(pl.Series([], dtype=pl.String)).tolist() == []
    assert codes.raw().to_list() == ["7", "8"]
