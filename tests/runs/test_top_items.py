"""The best items of rows of scores, against sorting the whole row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensue.runs.top_items import BLOCK, FEW, top_items


def sorted_rows(scores: torch.Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Return columns and values of the k largest scores by a stable sort of each row."""
    all_columns, all_values = [], []
    for row in scores.tolist():
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        chosen = [column for column in order if row[column] > -np.inf][:k]
        missing = k - len(chosen)
        all_columns.append(chosen + [0] * missing)
        all_values.append([row[column] for column in chosen] + [-np.inf] * missing)
    return all_columns, all_values


def check(scores: torch.Tensor, k: int) -> None:
    columns, values = top_items(scores, k)
    expected_columns, expected_values = sorted_rows(scores, k)
    assert columns.tolist() == expected_columns
    assert values.tolist() == expected_values


@given(
    num_rows=st.integers(1, 2 * FEW),
    width=st.sampled_from([1, 5, BLOCK - 1, BLOCK, 8 * BLOCK, 20 * BLOCK + 7]),
    k=st.integers(1, 9),
    levels=st.sampled_from([2, 40, 100_000]),
    share_left_out=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_equals_sorting_the_row(
    num_rows: int, width: int, k: int, levels: int, share_left_out: float, seed: int
) -> None:
    """Ties within a block, across blocks and at the last place; rows with fewer than k scores."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, levels, (num_rows, width)).astype(np.float32))
    scores[torch.from_numpy(rng.random(scores.shape) < share_left_out)] = -torch.inf
    check(scores, k)


@pytest.mark.parametrize("place", [0, BLOCK, 5 * BLOCK - 1, 12 * BLOCK, 12 * BLOCK + 3])
def test_one_large_score_is_found_everywhere(place: int) -> None:
    scores = torch.zeros(FEW, 12 * BLOCK + 4)
    scores[:, place] = 1
    check(scores, 2)


def test_a_tie_with_a_block_that_was_not_chosen() -> None:
    """All blocks have the same maximum, so the first columns are right and any others wrong."""
    scores = torch.ones(FEW, 40 * BLOCK)
    assert top_items(scores, 3)[0].tolist() == [[0, 1, 2]] * FEW
