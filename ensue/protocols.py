"""The joints of the system: what evaluation, serving and audit ask of a model.

Shapes: B batch, C candidates, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from ensue.data.histories import HistoryBatch


@runtime_checkable
class Scorer(Protocol):
    """A model that orders the whole catalogue for a history.

    num_items: I, without padding.
    max_len: how many of the last items of a history it reads; None is all of them.
    """

    num_items: int
    max_len: int | None

    def score(self, batch: HistoryBatch) -> Tensor:
        """Return scores [B, I + 1] float32, larger is better; column 0 (padding) has no meaning.

        Row b depends on history b and user b alone.
        """
        ...


@runtime_checkable
class PairScorer(Protocol):
    """A model that can score chosen items for a history that is encoded once."""

    def encode(self, batch: HistoryBatch) -> Any:
        """Return what `match` and `match_pairs` take of the histories, and of the items."""
        ...

    def match(self, encoded: Any, items: Tensor) -> Tensor:
        """Return the scores [B, C] of items [C] for every history; 0 is padding."""
        ...

    def match_pairs(self, encoded: Any, candidates: Tensor) -> Tensor:
        """Return the scores [B, C] of items [B, C] of each history; 0 is padding."""
        ...
