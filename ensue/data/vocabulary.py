"""Raw ids to codes while a log streams by, and the final order of dense ids."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]*)$"


class Vocabulary:
    """Codes 0, 1, ... of raw ids in the order of their first chunk; -1 stands for null.

    Small whole numbers are looked up in an array, all else in a hash table, both as text in the
    end: 7 and "7" are one id, "07" is another.

    >>> ids = Vocabulary()
    >>> ids.encode(pl.Series(["b", "7", None, "b"])).tolist() == ids.encode(
    ...     pl.Series(["b", "7", None, "b"])
    ... ).tolist()
    True
    """

    def __init__(self, max_integer: int = 1 << 22) -> None:
        """Make an empty vocabulary.

        Args:
            max_integer: bound of the array: 4 bytes of memory for each number below it.
        """
        self._max_integer = max_integer
        self._code_of_integer = np.full(0, -1, dtype=np.int32)
        self._code_of_text = pl.DataFrame(schema={"raw": pl.String, "code": pl.Int32})
        self._raw: list[pl.Series] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def encode(self, values: pl.Series) -> NDArray[np.int32]:
        """Return the codes [n] of integers or strings; new ids get the next codes."""
        numbers = _small_integers(values, self._max_integer)
        is_small = numbers >= 0
        if is_small.all():
            return self._encode_integers(numbers)
        codes = np.empty(len(values), dtype=np.int32)
        codes[is_small] = self._encode_integers(numbers[is_small])
        codes[~is_small] = self._encode_text(values.filter(pl.Series(~is_small)).cast(pl.String))
        return codes

    def raw(self) -> pl.Series:
        """Return the raw ids as strings; the id with code c is in row c."""
        return pl.concat(self._raw) if self._raw else pl.Series([], dtype=pl.String)

    def _encode_integers(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        if not len(numbers):
            return np.empty(0, dtype=np.int32)
        largest = int(numbers.max())
        if largest >= len(self._code_of_integer):
            grown = np.full(min(2 * largest + 1, self._max_integer), -1, dtype=np.int32)
            grown[: len(self._code_of_integer)] = self._code_of_integer
            self._code_of_integer = grown
        codes = self._code_of_integer[numbers]
        is_new = codes < 0
        if is_new.any():
            new = numbers[is_new]
            places = np.arange(len(new), dtype=np.int32)
            self._code_of_integer[new] = places  # of equal numbers, one stays: keep that one
            new = new[self._code_of_integer[new] == places]
            self._code_of_integer[new] = self._add(pl.Series(new).cast(pl.String))
            codes[is_new] = self._code_of_integer[numbers[is_new]]
        return codes

    def _encode_text(self, values: pl.Series) -> NDArray[np.int32]:
        chunk = values.rename("raw").to_frame()
        known = (
            chunk.unique(maintain_order=True)
            .drop_nulls()
            .join(self._code_of_text, on="raw", how="left", maintain_order="left")
        )
        new = known.filter(pl.col("code").is_null())["raw"]
        if len(new):
            added = pl.DataFrame({"raw": new, "code": self._add(new)})
            self._code_of_text = pl.concat([self._code_of_text, added], rechunk=True)
            known = pl.concat([known.drop_nulls(), added])
        codes = chunk.join(known, on="raw", how="left", maintain_order="left")["code"]
        return codes.fill_null(-1).to_numpy()

    def _add(self, raw: pl.Series) -> NDArray[np.int32]:
        """Return the codes of new ids."""
        self._raw.append(raw.rename("raw"))
        self._size += len(raw)
        return np.arange(self._size - len(raw), self._size, dtype=np.int32)


def order_raw_ids(raw: pl.Series) -> NDArray[np.int64]:
    """Return the rows of distinct `raw` ids in the order of dense ids.

    That is numeric order where all are integers written the usual way, else the order of bytes.

    >>> order_raw_ids(pl.Series(["10", "9", "-2"])).tolist()
    [2, 1, 0]
    >>> order_raw_ids(pl.Series(["10", "9", "-2", "x"])).tolist()
    [2, 0, 1, 3]
    """
    frame = raw.alias("raw").to_frame().with_row_index("row")
    if not len(raw) or not raw.str.contains(_CANONICAL_INTEGER).all():
        return frame.sort("raw")["row"].to_numpy().astype(np.int64)
    # By length, then digits: integers may be longer than any machine type holds.
    length = pl.col("raw").str.len_bytes()
    is_negative = pl.col("raw").str.starts_with("-")
    negative = frame.filter(is_negative).sort(length, "raw", descending=True)
    positive = frame.filter(~is_negative).sort(length, "raw")
    return pl.concat([negative, positive])["row"].to_numpy().astype(np.int64)


def dense_ids(raw: pl.Series, is_present: NDArray[np.bool_]) -> tuple[pl.Series, NDArray[np.int32]]:
    """Return the raw ids of dense ids 1..n, and the dense id of every code.

    Args:
        raw: the raw id of every code [V].
        is_present: [V], which ones remain; the others have dense id 0.

    The array has one entry more than `raw`: code -1, null, finds its 0 there.
    """
    codes = np.flatnonzero(is_present)
    present = raw.gather(codes)
    order = order_raw_ids(present)
    dense = np.zeros(len(raw) + 1, dtype=np.int32)
    dense[codes[order]] = np.arange(1, len(order) + 1, dtype=np.int32)
    return present.gather(order), dense


def _small_integers(values: pl.Series, limit: int) -> NDArray[np.int64]:
    """Return the value where it is a whole number in 0..limit-1 written the usual way, else -1."""
    if values.dtype == pl.String:
        numbers = values.cast(pl.Int64, strict=False)
        plain = numbers.fill_null(-1).to_numpy()
        length = values.str.len_bytes().fill_null(0).to_numpy()
        digits = np.ones(len(plain), dtype=np.uint32)
        power = 10
        while power < limit:
            digits += plain >= power
            power *= 10
        is_small = (plain >= 0) & (plain < limit) & (length == digits)
    else:
        plain = values.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        is_small = (plain >= 0) & (plain < limit)
    return np.where(is_small, plain, -1)
