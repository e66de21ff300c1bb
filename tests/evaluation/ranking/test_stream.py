from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data.ranking.schema import Task
from ensue.errors import DataError, RunError, UsageError
from ensue.evaluation.ranking import metrics
from ensue.evaluation.ranking.stream import RankingStream
from tests.evaluation.ranking.rows import columns, many_rows, same, stream

BINARY, REGRESSION = Task("click", "binary"), Task("time", "regression")


@settings(max_examples=60, deadline=None)
@given(many_rows, st.integers(1, 9))
def test_a_binary_task_equals_the_definitions(rows, chunk):
    y, z, w, g = columns(rows)
    found = stream("binary", y, z, w, g, chunk=chunk, num_bins=6)
    p = metrics.sigmoid(z)
    same(
        found["metrics"],
        {
            "auc": metrics.auc(y, z, w),
            "gauc": metrics.gauc(y, z, g, w).value,
            "pr_auc": metrics.average_precision(y, z, w),
            "log_loss": metrics.log_loss(y, z, w),
            "normalized_entropy": metrics.normalized_entropy(y, z, w),
            "brier": metrics.mean_squared_error(y, p, w),
            "calibration": metrics.calibration(y, p, w),
        },
    )
    assert found["undefined"].keys() == {n for n, v in found["metrics"].items() if v is None}
    assert found["rows"] == len(y)
    assert found["positives"] == y.sum()
    assert found["weight"] == pytest.approx(w.sum(dtype=np.float64))
    counted = metrics.gauc(y, z, g, w)
    groups = found["groups"]
    assert (groups["counted"], groups["left_out"]) == counted[1:3]
    assert groups["counted_weight"] == pytest.approx(counted.weight)
    json.dumps(found, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(many_rows, st.integers(1, 9))
def test_a_regression_equals_the_definitions(rows, chunk):
    _, z, w, g = columns(rows)
    y = (g * np.float32(0.7) - 1).astype(np.float32)
    found = stream("regression", y, z, w, g, chunk=chunk)
    expected = {
        "rmse": math.sqrt(metrics.mean_squared_error(y, z, w)),
        "mae": metrics.mean_absolute_error(y, z, w),
        "r2": metrics.r2(y, z, w) if len(set(g)) > 1 else None,
        "calibration": metrics.calibration(y, z, w),
    }
    assert set(found["metrics"]) == {*expected, "calibration_error"}
    for name, value in expected.items():
        if value is None:
            assert found["metrics"][name] is None
        else:
            assert found["metrics"][name] == pytest.approx(value, rel=1e-11, abs=1e-11)
    assert (found["positives"], found["curve"], found["groups"]) == (None, None, None)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-6, 6)), min_size=1, max_size=40))
def test_bins_equal_the_definition(rows):
    """Weights of 1, whose sums are exact: a middle on the edge of two bins is in the upper one."""
    y, z = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))
    found = stream("binary", y, z, num_bins=4)
    expected = metrics.reliability(y, metrics.sigmoid(z), num_bins=4)
    table = found["reliability"]
    assert [row["rows"] for row in table] == expected.rows.tolist()
    for name in ("weight", "mean_prediction", "mean_label"):
        values = [row[name] for row in table]
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-12)
    assert found["metrics"]["calibration_error"] == pytest.approx(expected.error, abs=1e-12)
    for row in table:
        assert row["low"] <= row["mean_prediction"] * (1 + 1e-12)
        assert row["mean_prediction"] <= row["high"] * (1 + 1e-12)


def random_rows(num_rows: int) -> tuple[np.ndarray, ...]:
    """Two tasks with missing labels, weights, and about 20 rows a group."""
    rng = np.random.default_rng(3)
    labels = np.column_stack([rng.random(num_rows) < 0.1, rng.normal(size=num_rows)])
    predictions = labels + rng.normal(size=labels.shape)
    predictions[::2] = predictions[::2].round(1)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    groups = rng.integers(1, num_rows // 20, num_rows)
    weights = rng.random(labels.shape) + 0.01
    return (*(a.astype(np.float32) for a in (labels, predictions, weights)), groups)


def run(rows: tuple[np.ndarray, ...], chunk: int, memory: int, order: np.ndarray | None = None):
    if order is not None:
        rows = tuple(column[order] for column in rows)
    labels, predictions, weights, groups = rows
    names = {"parity": ("even", "odd")}
    with RankingStream([BINARY, REGRESSION], names, has_groups=True, memory_bytes=memory) as found:
        for first in range(0, len(labels), chunk):
            part = slice(first, first + chunk)
            found.add(
                labels[part],
                predictions[part],
                weights=weights[part],
                groups=groups[part],
                slices={"parity": groups[part] % 3 - 1},
            )
        return found.results()


def test_nothing_but_the_rows_matters_to_the_last_bit():
    """Chunks, memory (with files and without) and the order of rows."""
    rows = random_rows(40_000)
    expected = run(rows, 40_000, 1 << 28)
    assert run(rows, 997, 1 << 20) == expected
    order = np.random.default_rng(0).permutation(40_000)
    assert run(rows, 10_001, 1 << 21, order) == expected


def test_many_rows_equal_the_definitions():
    labels, predictions, weights, groups = rows = random_rows(20_000)
    found = run(rows, 3000, 1 << 20)
    for parts, keep in (
        (found["tasks"], np.ones(20_000, dtype=bool)),
        (found["slices"]["parity"]["even"], groups % 3 == 1),
        (found["slices"]["parity"]["odd"], groups % 3 == 2),
    ):
        own = keep & ~np.isnan(labels[:, 0])
        y, z, w = labels[own, 0], predictions[own, 0], weights[own, 0]
        assert parts["click"]["rows"] == own.sum()
        same(
            parts["click"]["metrics"],
            {
                "auc": metrics.auc(y, z, w),
                "gauc": metrics.gauc(y, z, groups[own], w).value,
                "pr_auc": metrics.average_precision(y, z, w),
                "log_loss": metrics.log_loss(y, z, w),
                "calibration_error": metrics.reliability(y, metrics.sigmoid(z), w).error,
            },
        )
        own = keep & ~np.isnan(labels[:, 1])
        y, z, w = labels[own, 1], predictions[own, 1], weights[own, 1]
        expected = {"mae": metrics.mean_absolute_error(y, z, w), "r2": metrics.r2(y, z, w)}
        same(parts["time"]["metrics"], expected)


def test_the_curve_is_a_part_of_the_true_one():
    labels, predictions, _, _ = random_rows(3000)
    keep = ~np.isnan(labels[:, 0])
    y, z = labels[keep, 0], predictions[keep, 0]
    z = z + np.arange(len(z), dtype=np.float32) / 100_000  # nearly all different
    curve = stream("binary", y, z)["curve"]
    points = set()
    for threshold in np.unique(z):
        tp, fp = (y[z >= threshold] == 1).sum(), (y[z >= threshold] == 0).sum()
        points.add(
            (round(fp / (y == 0).sum(), 9), round(tp / y.sum(), 9), round(tp / (tp + fp), 9))
        )
    names = ("false_positive_rate", "recall", "precision")
    shown = [tuple(round(v, 9) for v in p) for p in zip(*(curve[n] for n in names), strict=True)]
    assert set(shown[1:]) <= points
    assert shown[0][:2] == (0.0, 0.0)
    assert shown[-1][:2] == (1.0, 1.0)
    assert 100 < len(shown) <= 200
    assert max(np.diff([p[1] for p in shown]).max(), np.diff([p[0] for p in shown]).max()) < 0.02


def test_memory_is_bounded(tmp_path: Path):
    """More rows take more disk, not more memory."""
    limit = 1 << 20

    def peak(num_chunks: int) -> int:
        rng = np.random.default_rng(0)
        tracemalloc.start()
        with RankingStream([BINARY], has_groups=True, memory_bytes=limit, folder=tmp_path) as rows:
            for _ in range(num_chunks):
                z = rng.normal(size=(4000, 1)).astype(np.float32)
                rows.add((z > 1).astype(np.float32), z, groups=rng.integers(0, 9999, 4000))
            on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.run"))
            assert on_disk > num_chunks * 4000 * 32 - limit
            rows.results()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)  # loads what is loaded once
    assert peak(30) < limit + (1 << 18)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("logit", [1000.0, 3e38])
def test_extreme_logits(logit: float):
    y = np.array([1, 0, 1, 0], dtype=np.float32)
    z = np.array([logit, -logit, -logit, -logit], dtype=np.float32)
    found = stream("binary", y, z)
    assert found["metrics"]["log_loss"] == pytest.approx(float(np.float32(logit)) / 4)
    assert found["metrics"]["auc"] == 0.75
    assert found["metrics"]["brier"] == 0.25
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone(label: float):
    found = stream("binary", np.full(3, label, np.float32), np.zeros(3, np.float32))
    for name in ("auc", "pr_auc", "normalized_entropy"):
        assert found["metrics"][name] is None
        assert found["undefined"][name] == f"all 3 rows have the label {label:.0f}"
    assert (found["metrics"]["calibration"] is None) == (label == 0)
    assert found["metrics"]["log_loss"] == pytest.approx(math.log(2))
    assert found["curve"] is None
    assert "gauc" not in found["metrics"]


def test_no_rows_at_all():
    for kind in ("binary", "regression"):
        found = stream(kind, np.array([np.nan], np.float32), np.array([np.inf], np.float32))
        assert found["rows"] == 0
        assert set(found["metrics"].values()) == {None}
        assert set(found["undefined"].values()) == {"there are no rows with a label"}
        assert found["intervals"] == {}
        assert found["reliability"] == []


def test_rows_without_a_group_are_left_out_of_gauc_alone():
    y = np.array([1, 0, 1, 0], dtype=np.float32)
    z = np.array([2.0, 1.0, 0.0, 5.0], dtype=np.float32)
    found = stream("binary", y, z, None, np.array([7, 7, 0, 0]))
    assert found["metrics"]["gauc"] == 1.0
    assert found["groups"] == {
        "counted": 1, "left_out": 0, "counted_weight": 2.0, "rows_without_group": 2
    }  # fmt: skip
    assert found["metrics"]["auc"] == 0.25


def test_a_weight_of_zero_is_as_no_label():
    y, z = np.array([1, 0, 0], np.float32), np.array([1.0, 0.0, 9.0], np.float32)
    found = stream("binary", y, z, np.array([1, 1, 0], np.float32))
    assert found == stream("binary", y[:2], z[:2])


def test_a_label_far_from_zero_has_an_exact_r2():
    y = (np.arange(100) + 10_000_000).astype(np.float32)
    z = y + np.where(np.arange(100) % 2, 1, -1).astype(np.float32)
    found = stream("regression", y, z)["metrics"]
    assert found["r2"] == pytest.approx(1 - 100 / ((np.arange(100) - 49.5) ** 2).sum(), rel=1e-12)


def add(stream: RankingStream, labels, predictions, **options):
    def table(values):
        return np.array(values, dtype=np.float32)[:, None]

    if "weights" in options:
        options["weights"] = table(options["weights"])
    stream.add(table(labels), table(predictions), **options)
    return stream.results()


@pytest.mark.parametrize(
    ("task", "labels", "predictions", "options", "error", "text"),
    [
        (BINARY, [0, 2], [0, 0], {}, DataError, "labels must be 0, 1 or missing; got 2.0 for task "
         "'click' in row 1"),
        (REGRESSION, [np.inf], [0], {}, DataError, "labels must be finite or missing; got inf"),
        (BINARY, [0, 1], [0, np.nan], {}, RunError, "predictions must be finite; the model gave "
         "nan for task 'click' in row 1. Train it again"),
        (BINARY, [0], [0], {"weights": [-1]}, DataError, "weights must be finite and 0 or more; "
         "got -1.0"),
        (BINARY, [0], [0, 1], {}, UsageError, r"predictions must be \[rows, tasks\] float32, "
         r"\(1, 1\); got \(2, 1\) float32"),
        (BINARY, [0], [0], {"groups": np.array([1])}, UsageError, "groups must come with every "
         "chunk or with none; has_groups=False, and groups came"),
        (BINARY, [0], [0], {"slices": {"day": np.array([1])}}, UsageError, "'day' is none of them"),
    ],
)  # fmt: skip
def test_errors(task, labels, predictions, options, error, text):
    with RankingStream([task]) as stream, pytest.raises(error, match=text):
        add(stream, labels, predictions, **options)


def test_errors_of_slices():
    with RankingStream([BINARY], {"day": ("a", "b")}) as rows:
        with pytest.raises(UsageError, match=r"slices must be given .*'day' is missing"):
            add(rows, [0], [0])
        with pytest.raises(UsageError, match="slices of 'day' must be -1 to 1; got 2 to 2"):
            add(rows, [0], [0], slices={"day": np.array([2])})
        with pytest.raises(UsageError, match=r"day must be \[rows\] int64, \(1,\); got .* float64"):
            add(rows, [0], [0], slices={"day": np.array([1.0])})
        with pytest.raises(UsageError, match="float64"):
            rows.add(np.zeros((1, 1)), np.zeros((1, 1), np.float32), slices={})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_bytes": 5}, "memory_bytes must be 1048576 or more; got 5"),
        ({"num_bins": 0}, "num_bins must be 1 or more; got 0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1; got 1.0"),
    ],
)
def test_errors_of_options(options, text):
    with pytest.raises(UsageError, match=text):
        RankingStream([BINARY], **options)
