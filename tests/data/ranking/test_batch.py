"""Rows of a batch in any order."""

from __future__ import annotations

import pytest
import torch

from tests.ranking_helpers import make_schema, random_batch, take


@pytest.mark.parametrize("rows", [[], [3, 3, 0, 5, 1], list(range(20))])
def test_bags_are_taken_by_row(rows: list[int]) -> None:
    batch = random_batch(make_schema(), 20)
    expected = take(batch, rows).bags
    for bag, other in zip(batch.bags, expected, strict=True):
        taken = bag.take(torch.tensor(rows, dtype=torch.long))
        assert torch.equal(taken.values, other.values)
        assert torch.equal(taken.offsets, other.offsets)
