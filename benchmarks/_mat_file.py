"""Sparse matrices of a MATLAB file of version 5, without SciPy."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MATRIX, COMPRESSED, SPARSE = 14, 15, 5  # types of elements, and a class of matrices
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


class SparseMatrix(NamedTuple):
    """Places of the values of a sparse matrix, column by column."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shape: tuple[int, int]


def read_sparse(path: Path) -> dict[str, SparseMatrix]:
    """Return the sparse matrices of a file by name; other variables are left out."""
    content = path.read_bytes()[128:]  # behind a header of text
    found = {}
    for kind, data in _elements(content):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(zlib.decompress(data))
        if kind != MATRIX:
            continue
        parts = [_array(*part) for part in _elements(data)]
        if int(parts[0][0]) & 0xFF == SPARSE:
            name = parts[2].tobytes().decode()
            rows, starts = parts[3].astype(np.int64), parts[4].astype(np.int64)
            columns = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            size = (int(parts[1][0]), int(parts[1][1]))
            found[name] = SparseMatrix(rows[: len(columns)], columns, size)
    return found


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield types and contents of the elements of a stretch of a file."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, place)
        if kind >> 16:  # a short one, in the place of its size
            yield kind & 0xFFFF, data[place + 4 : place + 4 + (kind >> 16)]
            place += 8
            continue
        yield kind, data[place + 8 : place + 8 + size]
        place += 8 + size
        if kind != COMPRESSED:
            place += -size % 8


def _array(kind: int, data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, dtype=f"<{TYPES[kind]}")
