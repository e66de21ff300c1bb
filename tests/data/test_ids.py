"""Raw ids and dense ids: columns are looked up as ids are one by one."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ensue.data import ids
from ensue.data.ids import IdMap

KNOWN = IdMap(pl.Series([*(str(n) for n in range(-20, 1000, 7)), "a", "", "01", "\u00e9"]))


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(["a", "01", "1", "", "\u00e9", "e", "-20", "a", None]),
        pl.Series(range(-30, 2000)),
        pl.Series([1, None, 8, 1], dtype=pl.UInt8),
        pl.Series(["a", None, "b"], dtype=pl.Categorical),
        pl.Series(["b", "a"], dtype=pl.Enum(["a", "b"])),
        pl.Series([], dtype=pl.Int64),
        pl.Series([None, None], dtype=pl.String),
        pl.Series(["x", "a", "b"])[1:],
    ],
)
def test_find(column: pl.Series) -> None:
    expected = [KNOWN.to_dense([raw])[0] if raw is not None else 0 for raw in column]
    assert KNOWN.find(column).tolist() == expected
    assert IdMap(pl.Series([], dtype=pl.String)).find(column).tolist() == [0] * len(column)


def test_ids_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_hash", lambda text: np.full(len(text), 5, dtype=np.uint64))
    known = IdMap(pl.Series(["a", "b", "c"]))
    assert known.find(pl.Series(["c", "x", "a", "b", "c"])).tolist() == [3, 0, 1, 2, 3]
