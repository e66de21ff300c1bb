"""Examples out of arrays and files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensue.errors import DataError, UsageError
from ensue.runs.classifier_data import ClassifierData, load_arrays, split_examples

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10) % 3


def test_arrays_become_tensors() -> None:
    data = ClassifierData.make(X, Y, X[:4], Y[:4].astype(np.uint8))
    assert data.features.dtype == torch.float32
    assert data.test_labels.dtype == torch.int64
    assert (data.num_classes, data.input_shape) == (3, (2,))
    assert ClassifierData.make(X, Y, X, Y, [0, 0, 1, 1]).num_classes == 4


def test_a_split_holds_every_example_once() -> None:
    data = split_examples(X, Y, share=0.3, seed=0)
    assert len(data.labels) == 7
    every = torch.cat([data.features, data.test_features])[:, 0].sort().values
    assert every.tolist() == X[:, 0].tolist()
    again = split_examples(X, Y, share=0.3, seed=0)
    assert torch.equal(again.features, data.features)
    assert not torch.equal(split_examples(X, Y, share=0.3, seed=1).features, data.features)
    with pytest.raises(UsageError, match=r"0\.01 of 10 leaves 10 and 0"):
        split_examples(X, Y, share=0.01, seed=0)
    with pytest.raises(DataError, match="as many rows; got 9 and 10"):
        split_examples(X[:9], Y, share=0.3, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, Y[:9], X, Y), r"features \[n, \.\.\.\] and labels \[n\] with n > 0; got \[10, 2\]"),
        ((X[:0], Y[:0], X, Y), r"got \[0, 2\] and \[0\]"),
        ((X, Y, X[:, :1], Y), r"one shape; got \[2\] and \[1\]"),
        ((X, Y.astype(float), X, Y), "whole numbers; got float64"),
        ((X, Y - 1, X, Y), "must be 0 or more; got -1"),
        ((X * np.nan, Y, X, Y), "must be finite; 20 are not"),
        ((X, Y * 0, X, Y * 0), "two classes or more"),
        ((X, Y, X, Y, [0, 1]), r"at least 3 of them; got shape \[2\]"),
        ((X, Y, X, None), "the test part must have features and labels"),
    ],
)
def test_bad_arrays(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassifierData.make(*arguments)


def test_a_file_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    np.savez(path, x=X, y=Y, superclass=[0, 1, 1])
    loaded = load_arrays(path)
    assert set(loaded) == {"features", "labels", "superclasses"}
    assert np.array_equal(loaded["features"], X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "must hold x and y.*it holds x"),
        ({"x": X, "y": Y, "labels": Y}, "it holds labels, x, y"),
        ({"x": X, "y": Y, "x_test": X}, "x_test with y_test"),
        ({"x": np.array([{}]), "y": Y}, "must be a .npz file of numbers"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        load_arrays(path)


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("x, y")
    for name in ("missing.npz", "text.npz"):
        with pytest.raises(DataError, match=r"must be a \.npz file"):
            load_arrays(tmp_path / name)
