from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ensue.training.prefetch import prefetch


def count_threads() -> int:
    return sum(thread.name == "ensue-prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_same_batches_in_the_same_order(depth: int) -> None:
    assert list(prefetch(iter(range(1, 20)), depth)) == list(range(1, 20))
    assert list(prefetch(iter([]), depth)) == []
    assert count_threads() == 0


def test_batches_are_made_ahead_but_not_all() -> None:
    made = []

    def make() -> Iterator[int]:
        for number in range(1, 100):
            made.append(number)
            yield number

    batches = prefetch(make(), 3)
    assert next(batches) == 1
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 4 <= len(made) <= 6
    batches.close()
    assert count_threads() == 0


def test_an_error_is_raised_where_its_batch_was_due() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    batches = prefetch(make(), 2)
    assert next(batches) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert count_threads() == 0
