from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ensue.training import path_assignment
from ensue.training.path_assignment import (
    Candidates,
    Penalty,
    assign_paths,
    find_alpha,
    objective,
    path_sizes,
)

METHODS = ["safe", "published"]


class InOrder:
    """A generator whose permutations are no permutations."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


def problem(
    seed: int, num_items: int = 8, num_paths: int = 5, num_slots: int = 2
) -> tuple[Candidates, np.ndarray]:
    """Return candidates, every path of every item among them, and random present paths."""
    rng = np.random.default_rng(seed)
    codes = np.tile(np.arange(num_paths), (num_items, 1))
    scores = rng.random((num_items, num_paths)).astype(np.float32)
    counts = rng.integers(1, 10, num_items).astype(np.float64)
    paths = np.array([rng.choice(num_paths, num_slots, replace=False) for _ in codes])
    return Candidates(codes, scores, counts), np.sort(paths, axis=1)


def by_definition(candidates: Candidates, paths: np.ndarray, alpha: float) -> float:
    total, sizes = 0.0, {}
    for codes, scores, count, own in zip(
        candidates.codes, candidates.scores, candidates.counts, paths, strict=True
    ):
        total += count * math.log(sum(scores[codes.tolist().index(path)] for path in own))
        for path in own:
            sizes[path] = sizes.get(path, 0) + 1
    return total - alpha * sum(size**4 / 4 for size in sizes.values())


def two_paths() -> Candidates:
    return Candidates(
        np.array([[0, 1]] * 3), np.float32([[0.8, 0.5]] * 3), np.array([10.0, 10.0, 10.0])
    )


def test_the_worked_step():
    assert Penalty(1.0).steps(4).tolist() == [0.25, 3.75, 16.25, 43.75]
    start = np.array([[1], [1], [1]])
    for sweeps in (1, 2):
        paths = assign_paths(
            two_paths(), start, Penalty(1.0), sweeps=sweeps, rng=InOrder(), method="published"
        )
        assert paths.tolist() == [[0], [0], [1]]
    assert objective(two_paths(), paths, Penalty(1.0)) == pytest.approx(-15.644343, abs=1e-5)
    best = max(
        objective(two_paths(), np.array(one)[:, None], Penalty(1.0))
        for one in itertools.product([0, 1], repeat=3)
    )
    safe = assign_paths(two_paths(), start, Penalty(1.0), sweeps=2, rng=InOrder(), method="safe")
    assert objective(two_paths(), safe, Penalty(1.0)) == pytest.approx(best)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_penalty_all_take_the_likeliest(method):
    paths = assign_paths(
        two_paths(), np.array([[1], [1], [1]]), Penalty(0.0), sweeps=1, rng=InOrder(), method=method
    )
    assert paths.tolist() == [[0], [0], [0]]
    assert objective(two_paths(), paths, Penalty(0.0)) == pytest.approx(-6.694307, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_objective_is_its_definition(seed):
    candidates, paths = problem(seed)
    expected = by_definition(candidates, paths, 0.03)
    assert objective(candidates, paths, Penalty(0.03)) == pytest.approx(expected, rel=1e-6)


def test_the_safe_method_never_lowers_the_objective():
    for seed in range(300):
        candidates, paths = problem(seed)
        penalty, last = Penalty(0.01 * (1 + seed % 7)), -math.inf
        last = objective(candidates, paths, penalty)
        rng = np.random.default_rng(seed)
        for _ in range(3):
            paths = assign_paths(candidates, paths, penalty, sweeps=1, rng=rng)
            value = objective(candidates, paths, penalty)
            assert value >= last - 1e-9
            last = value


def test_one_slot_is_the_best_answer_to_the_others():
    candidates, paths = problem(3, num_slots=1)
    penalty = Penalty(0.05)
    for _ in range(20):
        rng = np.random.default_rng(0)
        paths = assign_paths(candidates, paths, penalty, sweeps=1, rng=rng)
    value = objective(candidates, paths, penalty)
    for row, path in itertools.product(range(len(paths)), range(5)):
        other = paths.copy()
        other[row] = path
        assert objective(candidates, other, penalty) <= value + 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_paths_are_distinct_and_candidates(method, seed):
    candidates, paths = problem(seed, num_items=20, num_slots=3)
    new = assign_paths(
        candidates, paths, Penalty(0.01), sweeps=2, rng=np.random.default_rng(1), method=method
    )
    assert (np.diff(new, axis=1) > 0).all()
    assert path_sizes(new).sum() == 60
    assert set(new.flat) <= set(range(5))


@pytest.mark.parametrize("method", METHODS)
def test_a_huge_penalty_levels_the_sizes(method):
    candidates, paths = problem(1, num_items=23, num_slots=1)
    new = assign_paths(
        candidates, paths, Penalty(1e6), sweeps=3, rng=np.random.default_rng(1), method=method
    )
    sizes = path_sizes(new)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_an_item_with_few_candidates_keeps_paths(method):
    codes, scores = np.array([[-1, -1, 4], [-1, -1, -1]]), np.float32([[0, 0, 0.5], [0, 0, 0]])
    candidates = Candidates(codes, scores, np.array([3.0, 0.0]))
    new = assign_paths(
        candidates,
        np.array([[1, 2], [2, 4]]),
        Penalty(0.1),
        sweeps=2,
        rng=np.random.default_rng(0),
        method=method,
    )
    assert 4 in new[0]
    assert set(new[0]) <= {1, 2, 4}
    assert new[1].tolist() == [2, 4]


def test_ties_go_to_the_smallest_code():
    candidates = Candidates(
        np.array([[3, 7, 9]]), np.float32([[0.25, 0.25, 0.25]]), np.array([2.0])
    )
    for order in ([0, 1, 2], [2, 1, 0]):
        shuffled = Candidates(candidates.codes[:, order], candidates.scores, candidates.counts)
        new = assign_paths(
            shuffled, np.array([[1, 2]]), Penalty(0.1), sweeps=1, rng=np.random.default_rng(0)
        )
        assert new.tolist() == [[3, 7]]


def test_large_codes_are_counted_as_well(monkeypatch):
    candidates, paths = problem(2, num_items=20)
    plain = assign_paths(candidates, paths, Penalty(0.02), sweeps=2, rng=np.random.default_rng(0))
    monkeypatch.setattr(path_assignment, "MAX_TABLE", 1)
    far = Candidates(candidates.codes + (1 << 60), candidates.scores, candidates.counts)
    new = assign_paths(
        far, paths + (1 << 60), Penalty(0.02), sweeps=2, rng=np.random.default_rng(0)
    )
    assert np.array_equal(new - (1 << 60), plain)


def test_alpha_is_found_for_a_path_size():
    candidates, paths = problem(4, num_items=60, num_paths=12, num_slots=2)
    largest = {}
    for target in (40, 20, 12):
        alpha = find_alpha(candidates, paths, path_size=target, power=4, seed=0)
        new = assign_paths(
            candidates, paths, Penalty(alpha), sweeps=1, rng=np.random.default_rng(0)
        )
        largest[target] = (path_sizes(new).max(), alpha)
        assert path_sizes(new).max() <= target
    assert largest[40][1] <= largest[20][1] < largest[12][1]
