"""A 64-bit id of each value of a column, from its text alone; and codes by these ids.

A growing table finds its rows by the ids, so they may not depend on what else a dataset holds:
FNV-1a (Fowler, Noll and Vo, RFC 9923) over the name of the vocabulary, a zero byte and the text in
UTF-8, then the finalizer of MurmurHash3 (Appleby), which spreads what FNV leaves in the low bits.
Two of n values have one id, and then count as one value, with a probability of about n^2 / 2^65:
3e-4 for 100 million.

Shapes: n texts; V values; H slots of a hash table, a power of two.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ensue.data.feature_values import to_texts

_START = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_FIRST = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_FEWEST_SLOTS = 1 << 10
_compile: Any = numba.njit(cache=True, nogil=True)


def value_ids(vocabulary: str, values: pl.Series) -> NDArray[np.int64]:
    """Return the ids [n] of text values; 0, which no value has, stands for null and for "".

    >>> value_ids("color", pl.Series(["red", None])).tolist()
    [-7778701309020758074, 0]
    """
    data, offsets = _buffers(values.cast(pl.String))
    ids = np.empty(len(values), dtype=np.int64)
    _hash(_start(vocabulary), data, offsets, ids)
    return ids


class ValueCodes:
    """Codes 0, 1, ... of the values of a vocabulary in the order in which they come; -1 is null.

    ids: [V], the id of each value.
    """

    def __init__(self, vocabulary: str) -> None:
        self._start = _start(vocabulary)
        self._slots = np.full(_FEWEST_SLOTS, -1, dtype=np.int32)
        self._ids = np.empty(_FEWEST_SLOTS, dtype=np.int64)
        self._raw: list[pl.Series] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each value [V], in the order of codes."""
        return self._ids[: self._size]

    def raw(self) -> pl.Series:
        """Return the text of each value [V], in the order of codes."""
        return pl.concat(self._raw) if self._raw else pl.Series([], dtype=pl.String)

    def encode(self, values: pl.Series) -> NDArray[np.int32]:
        """Return the codes [n] of values; new ones get the next codes.

        Raises:
            BadValueError: see `to_texts`.
        """
        texts = values if values.dtype == pl.String else to_texts(values)
        data, offsets = _buffers(texts)
        if _has_margins(data, offsets):
            texts = to_texts(texts)
            data, offsets = _buffers(texts)
        ids = np.empty(len(texts), dtype=np.int64)
        _hash(self._start, data, offsets, ids)
        self._make_room(len(texts))
        codes = np.empty(len(texts), dtype=np.int32)
        first_rows = np.empty(len(texts), dtype=np.int64)
        size = _look_up(ids, self._slots, self._ids, self._size, codes, first_rows)
        if size > self._size:
            new = texts.gather(first_rows[: size - self._size])
            self._raw.append(new.rename("raw"))
            self._size = size
        return codes

    def _make_room(self, num_new: int) -> None:
        """Have two slots for each value, and room for its id, whatever comes."""
        needed = self._size + num_new
        if needed > len(self._ids):
            grown = np.empty(max(needed, 2 * len(self._ids)), dtype=np.int64)
            grown[: self._size] = self.ids
            self._ids = grown
        if 2 * needed > len(self._slots):
            self._slots = np.full(1 << (2 * needed - 1).bit_length(), -1, dtype=np.int32)
            _place(self.ids, self._slots)


def _start(vocabulary: str) -> np.uint64:
    """Return the state of the hash behind the name of the vocabulary."""
    state = int(_START)
    for byte in vocabulary.encode() + b"\0":
        state = ((state ^ byte) * int(_PRIME)) & (2**64 - 1)
    return np.uint64(state)


def _buffers(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all texts, and offsets [n + 1]; null has none, as "" has."""
    array = texts.to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = array.cast(pa.large_string())
    empty, no_texts = np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    empty.flags.writeable = no_texts.flags.writeable = False  # as Arrow's are: one compiled kernel
    if not len(array):
        return empty, no_texts
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8) if data and data.size else empty, ends


@_compile
def _hash(start, data, offsets, out):  # type: ignore[no-untyped-def]
    """Write the id of data[offsets[n]:offsets[n + 1]] into out[n]; 0 for no bytes."""
    for n in range(len(out)):
        if offsets[n] == offsets[n + 1]:
            out[n] = 0
            continue
        value = start
        for place in range(offsets[n], offsets[n + 1]):
            value = (value ^ np.uint64(data[place])) * _PRIME
        value = (value ^ (value >> _SHIFT)) * _FIRST
        value = (value ^ (value >> _SHIFT)) * _SECOND
        value ^= value >> _SHIFT
        out[n] = np.int64(value) if value != np.uint64(0) else np.int64(1)


@_compile
def _has_margins(data, offsets):  # type: ignore[no-untyped-def]
    """Tell whether a text may begin or end with white space, of ASCII or beyond."""
    for n in range(len(offsets) - 1):
        if offsets[n] < offsets[n + 1]:
            first, last = data[offsets[n]], data[offsets[n + 1] - 1]
            if first <= 32 or first >= 127 or last <= 32 or last >= 127:
                return True
    return False


@_compile
def _look_up(new_ids, slots, ids, size, codes, first_rows):  # type: ignore[no-untyped-def]
    """Write the code of each id [n], -1 for id 0, and add the new ones; return how many there are.

    Args:
        slots: [H] codes by hash, -1 where empty; ids: of the codes below `size`.
        first_rows: gets the place in `new_ids` of each new one.
    """
    mask = len(slots) - 1
    old_size = size
    for n in range(len(new_ids)):
        wanted = new_ids[n]
        if wanted == 0:
            codes[n] = -1
            continue
        slot = wanted & mask
        while slots[slot] >= 0 and ids[slots[slot]] != wanted:
            slot = (slot + 1) & mask
        if slots[slot] < 0:
            slots[slot] = size
            ids[size] = wanted
            first_rows[size - old_size] = n
            size += 1
        codes[n] = slots[slot]
    return size


@_compile
def _place(ids, slots):  # type: ignore[no-untyped-def]
    """Fill empty slots with the codes of ids [V]."""
    mask = len(slots) - 1
    for code in range(len(ids)):
        slot = ids[code] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = code
