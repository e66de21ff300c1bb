from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.longitudinal.measurements import Numbers
from ensue.data.longitudinal.visits import Pairs, Visits, entity_folds
from ensue.errors import DataError, UsageError


def visits_at(*times: list[float]) -> Visits:
    """Entities with visits at these times, which ascend."""
    entities = np.repeat(np.arange(len(times)), [len(own) for own in times])
    names = pl.Series([str(number) for number in range(len(times))])
    measured = Numbers(np.zeros((len(entities), 1), np.float32))
    flat = np.array([time for own in times for time in own], np.float64)
    return Visits(entities, names, flat, measured, pl.DataFrame())


def clusters(*sizes: int) -> list[float]:
    """Visits 100 days apart in clusters that are 600 days apart: pairs of two clusters alone."""
    return [600.0 * number + 100 * visit for number, n in enumerate(sizes) for visit in range(n)]


def test_pairs_of_the_published_counts() -> None:
    """2,387 scans of 619 subjects: 3,208 pairs of 302 days and more, 2,889 of 365."""
    table = [[0.0, 302.0 + number % 63] for number in range(319)]
    table += [clusters(3, 3)] * 149 + [clusters(2, 2, 2)] * 100
    table += [clusters(2, 2, 1)] * 21 + [clusters(3, 2)] * 30
    visits = visits_at(*table)
    assert (visits.num_entities, len(visits)) == (619, 2387)
    assert len(Pairs(visits, min_gap=302)) == 3208
    assert len(Pairs(visits, min_gap=365)) == 2889


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=6),
    st.sampled_from([None, 1.0, 2.5, 9.0]),
    st.integers(0, 2**32 - 1),
)
def test_pairs_are_all_that_lie_apart(
    times: list[list[int]], min_gap: float | None, seed: int
) -> None:
    visits = visits_at(*([float(t) for t in sorted(own)] for own in times))
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(visits)) < 0.7)
    expected = [
        [i, j]
        for i in rows
        for j in rows
        if visits.entities[i] == visits.entities[j]
        and (
            visits.times[j] > visits.times[i]
            if min_gap is None
            else visits.times[j] - visits.times[i] >= min_gap
        )
    ]
    pairs = Pairs(visits, min_gap=min_gap, rows=rows)
    assert pairs.all().reshape(-1, 2).tolist() == sorted(expected)
    bounds = [[visits.entities[a] for a, _ in expected[s:e]] for s, e in pairs.of_entities()]
    assert [len(set(own)) for own in bounds] == [1] * len({visits.entities[a] for a, _ in expected})


def test_a_gap_must_be_one() -> None:
    with pytest.raises(UsageError, match="min_gap must be above 0; got 0"):
        Pairs(visits_at([0.0]), min_gap=0)


def test_folds_part_entities_evenly() -> None:
    folds = entity_folds(11, 3, seed=0)
    assert sorted(np.bincount(folds)) == [3, 4, 4]
    assert folds.tolist() != entity_folds(11, 3, seed=1).tolist()
    with pytest.raises(DataError, match="5 folds need as many entities; there are 4"):
        entity_folds(4, 5, seed=0)
