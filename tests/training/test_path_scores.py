from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.nn.selection import nth_largest
from ensue.training.path_scores import PathScores

A, B, C = 3, 5, 9


def add(scores: PathScores, items: list[int], found: list[dict[int, float]]) -> None:
    codes = torch.tensor([list(one) for one in found])
    scores.add(torch.tensor(items), codes, torch.tensor([list(one.values()) for one in found]))


def row(scores: PathScores, item: int) -> dict[int, float]:
    pairs = zip(scores.codes[item].tolist(), scores.scores[item].tolist(), strict=True)
    return {code: score for code, score in pairs if code >= 0}


def test_the_worked_merge():
    scores = PathScores(1, size=2, decay=0.5)
    scores.codes[1], scores.scores[1] = [A, B], [1.0, 0.4]
    add(scores, [1], [{B: 0.3, C: 0.2}])
    assert row(scores, 1) == pytest.approx({A: 0.5, B: 0.5})


def test_a_newcomer_starts_at_the_least_score_once_the_row_is_full():
    scores = PathScores(1, size=2, decay=0.5)
    add(scores, [1], [{A: 0.5, B: 0.25}])
    assert row(scores, 1) == pytest.approx({A: 0.5, B: 0.25})  # 0 while there is room
    add(scores, [1], [{C: 0.5}])
    assert row(scores, 1) == pytest.approx({A: 0.25, C: 0.625})


def test_examples_of_an_item_are_one_update():
    scores = PathScores(2, size=3, decay=0.5)
    add(scores, [2, 1, 2], [{A: 0.5, B: 0.1}, {B: 0.7, C: 0.1}, {A: 0.25, C: 0.2}])
    assert row(scores, 1) == pytest.approx({B: 0.7, C: 0.1})
    assert row(scores, 2) == pytest.approx({A: 0.75, B: 0.1, C: 0.2})


def test_the_smallest_code_is_kept_of_equal_ones():
    scores = PathScores(1, size=2, decay=1.0)
    add(scores, [1], [{C: 0.25, A: 0.25, B: 0.25, 0: 0.5}])
    assert row(scores, 1) == pytest.approx({0: 0.5, A: 0.25})


def merged(stored: dict[int, float], new: dict[int, float], size: int, decay: float):
    least = min(stored.values()) if len(stored) == size else 0.0
    union = {code: decay * stored.get(code, least) + new.get(code, 0.0) for code in {*stored, *new}}
    best = sorted(union, key=lambda code: (-union[code], code))[:size]
    return {code: union[code] for code in best}


def test_a_stream_equals_the_definition():
    rng = np.random.default_rng(0)
    scores = PathScores(4, size=5, decay=0.9)
    expected: dict[int, dict[int, float]] = {item: {} for item in range(1, 5)}
    for _ in range(40):
        items = rng.integers(1, 5, 6)
        codes = np.array([rng.choice(20, 3, replace=False) for _ in items])
        values = rng.random((6, 3))
        scores.add(torch.from_numpy(items), torch.from_numpy(codes), torch.from_numpy(values))
        for item in set(items.tolist()):
            new: dict[int, float] = {}
            for pair in zip(codes[items == item].flat, values[items == item].flat, strict=True):
                new[int(pair[0])] = new.get(int(pair[0]), 0.0) + float(pair[1])
            expected[item] = merged(expected[item], new, 5, 0.9)
    for item, own in expected.items():
        assert row(scores, item) == pytest.approx(own, rel=1e-5)
    assert (np.diff(scores.codes[1:]) > 0).all()
    assert (scores.codes[0] == -1).all()


def test_a_state_comes_back():
    scores, other = (PathScores(2, size=2, decay=0.5) for _ in range(2))
    add(scores, [1, 2], [{A: 0.5}, {B: 0.5}])
    other.load_state({name: value.clone() for name, value in scores.state().items()})
    for one in (scores, other):
        add(one, [2], [{C: 0.5}])
    assert np.array_equal(scores.codes, other.codes)
    assert np.array_equal(scores.scores, other.scores)


@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_nth_largest(distinct):
    rng = np.random.default_rng(distinct)
    for size in (1, 2, 3, 10, 101):
        values = rng.integers(0, distinct, size).astype(np.float64)
        for n in {1, size // 2 + 1, size}:
            ascending, reordered = np.sort(values), values.copy()
            assert nth_largest(reordered, n) == ascending[size - n]
            assert np.array_equal(np.sort(reordered[:n]), ascending[size - n :])
