"""From a gradient to the next fake users: a step with momentum, then a cell is clicked or not.

Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876, as in the authors' code: the momentum is never
projected, so that a click goes only after some steps that agree.
Departures: a row of zeros stays one where they divide by its length; rows of a gradient can be
limited, since one that grows step by step of the training would stay in the momentum for good.
Shapes: F fake users, I items, S targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class FakeUpdate:
    """Gradient descent with momentum on cells [F, I] that are 0 or 1.

    Args:
        threshold: a cell is 1 where it would be above.
        is_normalized: each row of a gradient is divided by its length first.
        limit: rows longer than this are then shortened to it; None does not.
        always: columns [S] that stay 1 and have no part in a gradient.
    """

    def __init__(
        self,
        *,
        lr: float,
        momentum: float,
        threshold: float,
        is_normalized: bool,
        limit: float | None,
        always: NDArray[np.int64],
    ) -> None:
        self._lr, self._momentum, self._threshold = lr, momentum, threshold
        self._is_normalized, self._limit, self._always = is_normalized, limit, always
        self._velocity: NDArray[np.float32] | None = None

    def step(self, fakes: NDArray[np.bool_], gradient: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the next cells [F, I], given the gradient of a loss that shall fall."""
        gradient = gradient.copy()
        gradient[:, self._always] = 0
        if self._is_normalized:
            lengths = np.linalg.norm(gradient, axis=1, keepdims=True)
            np.divide(gradient, lengths, out=gradient, where=lengths > 0)
        if self._limit is not None:
            lengths = np.linalg.norm(gradient, axis=1, keepdims=True)
            gradient *= self._limit / np.maximum(lengths, self._limit)
        if self._velocity is None:
            self._velocity = gradient
        else:
            self._velocity *= self._momentum
            self._velocity += gradient
        after = fakes - self._lr * self._velocity > self._threshold
        after[:, self._always] = True
        return after
