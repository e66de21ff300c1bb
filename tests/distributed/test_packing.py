"""Numbers in few bits come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.distributed.packing import bits_of, pack, unpack


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[int, list[int]]]:
    """Draw columns of numbers, each with the bits that they take."""
    widths = draw(st.lists(st.integers(0, 64), max_size=6))
    found = []
    for width in widths:
        low, high = (-(2**63), 2**63 - 1) if width == 64 else (0, 2**width - 1)
        numbers = st.integers(low, min(high, 2**63 - 1))
        found.append((width, draw(st.lists(numbers, max_size=9))))
    return found


@settings(deadline=None)  # the first call compiles
@given(columns())
def test_numbers_come_back(made: list[tuple[int, list[int]]]) -> None:
    bits = np.array([width for width, _ in made], np.int64)
    counts = np.array([len(own) for _, own in made], np.int64)
    numbers = np.array([number for _, own in made for number in own], np.int64)
    packed = pack(numbers, counts, bits)
    assert len(packed) == -(-int((bits * counts).sum()) // 8)
    behind = np.array([7, 8], np.uint8)
    found, rest = unpack(np.concatenate([packed, behind]), counts, bits)
    assert found.tolist() == numbers.tolist()
    assert rest.tolist() == [7, 8]


def test_bits_lie_one_behind_the_other() -> None:
    packed = pack(np.array([1, 0, 1, 5]), np.array([3, 1]), np.array([1, 3]))
    assert packed.tolist() == [0b101_101]
    assert [bits_of(n) for n in (0, 1, 2, 255, 256)] == [0, 1, 2, 8, 9]


def test_too_few_bytes_are_an_error() -> None:
    with pytest.raises(ValueError, match="needs 2 bytes for these counts; got 1"):
        unpack(np.zeros(1, np.uint8), np.array([3]), np.array([5]))
