"""A history that grows while it is being served: one event in, one step of the model.

A model of sequences keeps what it has read of the history, so that a new event costs one step
instead of the whole history again; any other model is given the history anew. The answers are those
of `Recommender.recommend` for the same history.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ensue.models.sequence import SequenceModel

if TYPE_CHECKING:
    from ensue.runs.recommend import Recommendation, Recommender


class Follower:
    """Follows one history. `items` are the raw ids of its events so far, oldest first.

    Args:
        user: a raw user id, for models that know users; the history goes on from what is stored of
            a known user.
    """

    def __init__(self, recommender: Recommender, user: str | int | None = None) -> None:
        self._recommender = recommender
        self._user = user
        self.items: list[str] = []
        self.unknown_items: list[str] = []
        self._state: Any = None
        self._query: Tensor | None = None
        if isinstance(recommender.model, SequenceModel):
            self._state = recommender.model.start()
        if user is not None:
            stored = recommender.histories[int(recommender.user_ids.to_dense([user])[0])]
            for item in recommender.item_ids.to_raw(stored):
                self.add(item)

    def add(self, item: str | int) -> bool:
        """Read the next event and return whether its item is in the catalogue."""
        dense = int(self._recommender.item_ids.to_dense([item])[0])
        if dense == 0:
            self.unknown_items.append(str(item))
            return False
        self.items.append(str(item))
        model = self._recommender.model
        if isinstance(model, SequenceModel):
            with torch.inference_mode():
                self._query, self._state = model.advance(self._state, dense)
        return True

    def recommend(
        self,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
    ) -> Recommendation:
        """Return the first k items for the history so far; see `Recommender.recommend`."""
        return self._recommender.answer(
            self._scores(),
            items=self.items,
            user=self._user,
            unknown_items=self.unknown_items,
            k=k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
        )

    def _scores(self) -> Tensor | None:
        """Return the scores [I + 1] of the kept state; None where the model keeps none."""
        model = self._recommender.model
        if not isinstance(model, SequenceModel):
            return None
        with torch.inference_mode():
            if self._query is None:
                return model.log_popularity.clone()
            return model.match(self._query[None])[0]
