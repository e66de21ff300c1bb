"""Labeled examples of a classifier, out of arrays or a .npz file.

Shapes: n training and m test examples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.errors import DataError, UsageError


@dataclass(frozen=True)
class ClassifierData:
    """features [n, ...] float32 and labels [n] in 0..K-1, of two parts; superclasses [K]."""

    features: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    superclasses: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """K: one more than the largest label, or the number of super-classes given."""
        if self.superclasses is not None:
            return len(self.superclasses)
        return 1 + int(max(self.labels.max(), self.test_labels.max()))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.features.shape[1:])

    @classmethod
    def make(
        cls,
        features: Any,
        labels: Any,
        test_features: Any,
        test_labels: Any,
        superclasses: Any = None,
    ) -> ClassifierData:
        """Return checked examples, made of arrays or tensors.

        Raises:
            DataError: they do not belong together, or a value cannot be used.
        """
        train = _examples("the training part", features, labels)
        test = _examples("the test part", test_features, test_labels)
        if train[0].shape[1:] != test[0].shape[1:]:
            raise DataError(
                "training and test examples must have one shape; got "
                f"{list(train[0].shape[1:])} and {list(test[0].shape[1:])}."
            )
        largest = int(max(train[1].max(), test[1].max()))
        groups = None
        if superclasses is not None:
            groups = torch.from_numpy(_whole("superclass", superclasses))
            if groups.dim() != 1 or len(groups) <= largest:
                raise DataError(
                    "superclass must have a number for each class, so at least "
                    f"{largest + 1} of them; got shape {list(groups.shape)}."
                )
        if largest == 0:
            raise DataError("labels must name two classes or more; got 0 alone.")
        return cls(*train, *test, groups)


def split_examples(
    features: Any, labels: Any, superclasses: Any = None, *, share: float, seed: int
) -> ClassifierData:
    """Return the examples with a random share of them as the test part.

    Raises:
        UsageError: the share leaves a part empty.
        DataError: as in `ClassifierData.make`.
    """
    count = len(labels)
    num_test = round(share * count)
    if not 0 < num_test < count:
        raise UsageError(
            f"test_share must leave both parts an example; {share} of {count} leaves "
            f"{count - num_test} and {num_test}."
        )
    order = np.random.default_rng(seed).permutation(count)
    x, y = np.asarray(features), np.asarray(labels)
    if len(x) != count:
        raise DataError(f"x and y must have as many rows; got {len(x)} and {count}.")
    test, train = order[:num_test], order[num_test:]
    return ClassifierData.make(x[train], y[train], x[test], y[test], superclasses)


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Return the arguments of `distill_arrays` that a .npz file holds.

    Its arrays: x [n, ...] and y [n]; x_test, y_test and superclass [K] where there are any.

    Raises:
        DataError: it is no such file.
    """
    names = {
        "x": "features",
        "y": "labels",
        "x_test": "test_features",
        "y_test": "test_labels",
        "superclass": "superclasses",
    }
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} must be a .npz file of numbers: {error}.") from None
    unknown = sorted(set(arrays) - set(names))
    if not {"x", "y"} <= set(arrays) or unknown or ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(
            f"{path} must hold x and y, and may hold x_test with y_test, and superclass; "
            f"it holds {', '.join(sorted(arrays)) or 'nothing'}."
        )
    return {names[name]: array for name, array in arrays.items()}


def _examples(part: str, features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    if features is None or labels is None:
        raise DataError(f"{part} must have features and labels; one of them is missing.")
    x = np.asarray(features, dtype=np.float32)
    y = _whole(f"labels of {part}", labels)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"{part} must be features [n, ...] and labels [n] with n > 0; "
            f"got {list(x.shape)} and {list(y.shape)}."
        )
    if not np.isfinite(x).all():
        raise DataError(f"features of {part} must be finite; {(~np.isfinite(x)).sum()} are not.")
    if y.min() < 0:
        raise DataError(f"labels of {part} must be 0 or more; got {y.min()}.")
    return torch.from_numpy(x), torch.from_numpy(y)


def _whole(name: str, values: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} must be whole numbers; got {array.dtype}.")
    return array.astype(np.int64)
