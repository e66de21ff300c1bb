from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.evaluation.ranking.records import (
    Rows,
    WeightSum,
    mix,
    pack_by_group,
    pack_by_score,
    unpack_by_group,
    unpack_by_score,
)

quick = settings(max_examples=50, deadline=None)

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
positive = st.floats(width=32, min_value=0, exclude_min=True, allow_infinity=False)
rows_of_floats = st.lists(
    st.tuples(floats, floats, positive, st.integers(0, 255)), min_size=1, max_size=20
)


def as_rows(rows: list[tuple[float, float, float, int]]) -> Rows:
    prediction, label, weight, cluster = zip(*rows, strict=True)
    columns = [np.array(column, dtype=np.float32) for column in (prediction, label, weight)]
    return Rows(*columns, np.array(cluster, dtype=np.int64))


@quick
@given(rows_of_floats)
def test_rows_come_out_as_they_went_in(rows):
    packed = as_rows(rows)
    for before, after in zip(packed, unpack_by_score(*pack_by_score(packed)), strict=True):
        np.testing.assert_array_equal(after, before)


@quick
@given(rows_of_floats)
def test_integers_sort_as_descending_predictions_then_labels(rows):
    packed = as_rows(rows)
    order = np.argsort(pack_by_score(packed)[0], kind="stable")
    expected = np.lexsort((packed.label, -packed.prediction))
    assert packed.prediction[order].tolist() == packed.prediction[expected].tolist()
    assert packed.label[order].tolist() == packed.label[expected].tolist()


@quick
@given(rows_of_floats)
def test_rows_by_group_come_out_as_they_went_in(rows):
    packed = as_rows(rows)
    packed = packed._replace(label=(packed.label > 0).astype(np.float32))
    groups = np.arange(len(rows)) - 3
    high, low = pack_by_group(packed, groups)
    scores, weights, is_positive = unpack_by_group(low)
    assert high.view(np.int64).tolist() == groups.tolist()
    assert weights.tolist() == packed.weight.tolist()
    assert is_positive.tolist() == (packed.label > 0).tolist()
    by_score = np.argsort(scores, kind="stable")
    assert (np.diff(packed.prediction[by_score].astype(np.float64)) <= 0).all()
    same = packed.prediction[:, None] == packed.prediction
    np.testing.assert_array_equal(scores[:, None] == scores, same)


def test_both_zeros_are_equal():
    zeros = Rows(*np.array([[-0.0, 0.0]] * 2 + [[1.0, 1.0]], np.float32), np.zeros(2, np.int64))
    high, low = pack_by_score(zeros)
    assert high[0] == high[1]
    assert low[0] == low[1]


@quick
@given(st.lists(st.floats(width=32, min_value=0, allow_infinity=False), max_size=40))
def test_weights_are_summed_exactly(weights):
    total = WeightSum()
    for part in (weights[:7], weights[7:]):
        total.add(np.array(part, dtype=np.float32))
    assert total.total() == math.fsum(weights)


def test_a_sum_of_many_weights_does_not_drift():
    total = WeightSum()
    tenth = np.float32(0.1)
    for _ in range(10):
        total.add(np.full(100_000, tenth))
    assert total.total() == float(tenth) * 1e6


def test_clusters_are_even():
    counts = np.bincount((mix(np.arange(-50_000, 50_000)) % np.uint64(256)).astype(np.int64))
    assert len(counts) == 256
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() == pytest.approx(255, abs=100)
