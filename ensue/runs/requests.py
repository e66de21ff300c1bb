"""Requests in dense ids, each with its own wishes, and the best items out of their scores.

Shapes: B requests, I items, n items of a history, C context columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ensue.errors import RunError
from ensue.runs.retrieve import Best
from ensue.runs.top_items import top_items

NO_ITEMS: NDArray[np.int64] = np.empty(0, dtype=np.int64)
NOT_FINITE = (
    "scores must be finite; the model gave NaN or infinity. Train it again, with a lower learning "
    "rate if its loss grew."
)


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, best item first.

    user: the raw user id; None where a history was given.
    is_known: whether the user was in the training data.
    unknown_items: items of the given history that are not in the catalogue and were left out.
    unknown_context: values of the given context and features that the model does not know, as
        "name=value"; it took them for missing.
    """

    items: list[str]
    scores: list[float]
    user: str | None = None
    is_known: bool = False
    unknown_items: list[str] = field(default_factory=list)
    unknown_context: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer, ready for JSON."""
        answer: dict[str, Any] = {"items": self.items, "scores": self.scores}
        if self.user is not None:
            answer |= {"user": self.user, "known": self.is_known}
        if self.unknown_items:
            answer["unknown_items"] = self.unknown_items
        if self.unknown_context:
            answer["unknown_context"] = self.unknown_context
        return answer


class Request(NamedTuple):  # a frozen dataclass takes twice as long to make
    """A request in dense ids: user 0 is unknown; `items` is the history.

    event_context: [n, C] of the n items.
    context: [C] of the request.
    k: at most this many items.
    excluded: items that the answer may not have.
    features: of the user, in place of what the model stores; None is what it stores.
    allowed: the only items that the answer may have; None is all of them.
    """

    user: int
    items: NDArray[np.int64]
    raw_user: str | None
    unknown_items: list[str]
    event_context: NDArray[np.float64]
    context: NDArray[np.float64]
    unknown_context: list[str]
    k: int = 10
    excluded: NDArray[np.int64] = NO_ITEMS
    features: Mapping[str, Any] | None = None
    allowed: NDArray[np.int64] | None = None

    def tell(self, items: list[str], scores: list[float]) -> Recommendation:
        """Return the answer to this request: raw ids and their scores, best first."""
        return Recommendation(
            items=items,
            scores=scores,
            user=self.raw_user,
            is_known=self.user > 0,
            unknown_items=self.unknown_items,
            unknown_context=self.unknown_context,
        )


def best_items(
    scores: Tensor, requests: Sequence[Request], hidden: NDArray[np.bool_]
) -> list[Best]:
    """Return dense ids and scores of each request's best items, best first.

    Args:
        scores: [B, I + 1], which is written to.
        hidden: [I + 1], items that no request may get, item 0 among them.

    Raises:
        RunError: a score is not finite.
    """
    table = finite(scores).numpy()  # for a few rows torch would take longer to find its kernels
    table[:, np.flatnonzero(hidden)] = -np.inf
    for row, request in zip(table, requests, strict=True):
        if request.allowed is not None:
            row[_not_allowed(request, len(row))] = -np.inf
        row[request.excluded] = -np.inf
    items, values = top_items(scores, max((r.k for r in requests), default=1))
    counts = (items > 0).sum(dim=1).tolist()
    kept = [min(count, request.k) for count, request in zip(counts, requests, strict=True)]
    ids, best = items.numpy(), values.numpy()
    return [(ids[row, :count], best[row, :count]) for row, count in enumerate(kept)]


def compiled_best_items(
    scores: Tensor, requests: Sequence[Request], hidden: NDArray[np.bool_]
) -> list[Best]:
    """Return what `best_items` does by one loop over each row; its first call loads numba."""
    from ensue.nn.selection import best_of_row

    table, found = scores.numpy(), list[Best]()
    table[:, 0] = 0
    for row, request in zip(table, requests, strict=True):
        is_hidden = hidden
        if request.allowed is not None:
            is_hidden = hidden | _not_allowed(request, len(row))
        size = min(request.k, len(row))
        ids, values = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
        count = best_of_row(row, is_hidden, request.excluded, ids, values)
        if count < 0:
            raise RunError(NOT_FINITE)
        found.append((ids[:count], values[:count]))
    return found


def _not_allowed(request: Request, width: int) -> NDArray[np.bool_]:
    """Return which items [I + 1] are not among those that a request allows."""
    is_left_out = np.ones(width, dtype=np.bool_)
    is_left_out[request.allowed] = False
    return is_left_out


def finite(scores: Tensor) -> Tensor:
    """Return scores [B, I + 1] after checking that all are finite; column 0 becomes 0.

    Raises:
        RunError: one is not.
    """
    table = scores.numpy()
    table[:, 0] = 0
    # A sum that is finite shows that all are; one that is not may be too large a sum.
    if not np.isfinite(table.sum()) and not np.isfinite(table).all():
        raise RunError(NOT_FINITE)
    return scores
