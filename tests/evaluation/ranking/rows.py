"""Rows of ranking tasks for tests, and metrics by their definition, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensue.data.ranking.schema import Task
from ensue.evaluation.ranking.stream import RankingStream

# Few scores, so that many are equal; weights that float32 holds exactly, and one that it rounds.
scores = st.sampled_from([-3.0, -1.5, -0.25, 0.0, 0.5, 2.0, 7.0])
weights = st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.25])
row = st.tuples(st.sampled_from([0, 1]), scores, weights, st.integers(1, 4))
many_rows = st.lists(row, min_size=1, max_size=30)


def columns(rows: Sequence[tuple[int, float, float, int]]) -> tuple[NDArray[Any], ...]:
    """Labels, scores and weights float32, groups int64, of rows from `many_rows`."""
    labels, values, weight, groups = zip(*rows, strict=True)
    floats = [np.array(column, dtype=np.float32) for column in (labels, values, weight)]
    return *floats, np.array(groups, dtype=np.int64)


def stream(
    kind: str,
    labels: NDArray[np.float32],
    predictions: NDArray[np.float32],
    weights: NDArray[np.float32] | None = None,
    groups: NDArray[np.int64] | None = None,
    *,
    chunk: int = 1000,
    **options: Any,
) -> dict[str, Any]:
    """The figures of one task, from chunks."""
    task = Task("task", kind)  # type: ignore[arg-type]
    with RankingStream([task], has_groups=groups is not None, **options) as rows:
        for first in range(0, len(labels), chunk):
            part = slice(first, first + chunk)
            rows.add(
                labels[part, None],
                predictions[part, None],
                weights=None if weights is None else weights[part, None],
                groups=None if groups is None else groups[part],
            )
        figures: dict[str, Any] = rows.results()["tasks"]["task"]
    return figures


def _floats(*columns: Sequence[float]) -> list[tuple[float, ...]]:
    """Rows of Python floats, which do not stay in float32 as NumPy's do."""
    return [tuple(map(float, row)) for row in zip(*columns, strict=True)]


def pairs_auc(
    labels: Sequence[float], scores: Sequence[float], weights: Sequence[float]
) -> float | None:
    """AUC by looking at every pair."""
    rows = _floats(labels, scores, weights)
    right = total = 0.0
    for y, z, w in rows:
        for other_y, other_z, other_w in rows:
            if y > other_y:
                total += w * other_w
                right += w * other_w * (1.0 if z > other_z else 0.5 if z == other_z else 0.0)
    return right / total if total else None


def steps_average_precision(
    labels: Sequence[float], scores: Sequence[float], weights: Sequence[float]
) -> float | None:
    """Average precision by going down the thresholds."""
    rows = _floats(labels, scores, weights)
    positives = sum(w for y, _, w in rows if y == 1)
    if not positives or not sum(w for y, _, w in rows if y == 0):
        return None
    area = recall = 0.0
    for threshold in sorted({z for _, z, _ in rows}, reverse=True):
        chosen = [(y, w) for y, z, w in rows if z >= threshold]
        right = sum(w for y, w in chosen if y == 1)
        area += (right / positives - recall) * right / sum(w for _, w in chosen)
        recall = right / positives
    return area


def components_variance(
    labels: Sequence[float], scores: Sequence[float], weights: Sequence[float]
) -> float | None:
    """DeLong's variance from the matrix of all comparisons."""
    y, z, w = (np.asarray(column, dtype=np.float64) for column in (labels, scores, weights))
    own, other = z[y == 1][:, None], z[y == 0][None, :]
    if min(own.size, other.size) < 2:
        return None
    psi = (own > other) + 0.5 * (own == other)
    w_pos, w_neg = w[y == 1], w[y == 0]
    auc = float(w_pos @ psi @ w_neg / (w_pos.sum() * w_neg.sum()))
    v10, v01 = psi @ w_neg / w_neg.sum(), w_pos @ psi / w_pos.sum()
    parts = []
    for v, weight in ((v10, w_pos), (v01, w_neg)):
        m = len(v)
        parts.append(m / (m - 1) * (weight**2 * (v - auc) ** 2).sum() / weight.sum() ** 2)
    return math.fsum(parts)


def same(found: Mapping[str, float | None], expected: Mapping[str, float | None]) -> None:
    """Every expected metric is found, to 12 digits."""
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
