"""A history that grows while it is being served: one event in, one step of the model.

A model of sequences keeps what it has read of the history, so that a new event costs one step
instead of the whole history again; any other model is given the history anew. The answers are those
of `Recommender.recommend` for the same history.
Shapes: I items, C context columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ensue.models.sequence import SequenceModel

if TYPE_CHECKING:
    from ensue.runs.recommend import Recommender
    from ensue.runs.requests import Recommendation


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
        self.unknown_context: list[str] = []
        self._state: Any = None
        self._query: Tensor | None = None
        # The state before the last event, and that event: read again for the context of a request.
        self._before: tuple[Any, ...] = ()
        if isinstance(recommender.model, SequenceModel):
            self._state = recommender.model.start()
        if user is not None:
            dense = int(recommender.user_ids.to_dense([user])[0])
            stored = recommender.histories.batch(np.array([dense]))
            self.items += recommender.item_ids.to_raw(stored.items.numpy())
            for place, item in enumerate(stored.items.tolist()):
                context = stored.event_context
                self._read(item, None if context is None else context[place])

    def add(self, item: str | int, context: Mapping[str, Any] | None = None) -> bool:
        """Read the next event and return whether its item is in the catalogue.

        Args:
            context: of the event, by the names in context_in; what it leaves out is missing, and
                values that the log does not have are too.

        Raises:
            UsageError: the context has a name that the model does not read.
        """
        encoder = self._recommender.encoder
        values, unknown = encoder.encode_event(context or {})
        dense = int(self._recommender.item_ids.to_dense([item])[0])
        if dense == 0:
            self.unknown_items.append(str(item))
            return False
        self.items.append(str(item))
        self.unknown_context += unknown
        self._read(dense, torch.from_numpy(values))
        return True

    def recommend(
        self,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Recommendation:
        """Return the first k items for the history so far; see `Recommender.recommend`."""
        values, unknown = self._recommender.encoder.encode_request(context or {})
        return self._recommender.answer(
            self._scores(torch.from_numpy(values)),
            items=self.items,
            user=self._user,
            unknown_items=self.unknown_items,
            unknown_context=[*self.unknown_context, *unknown],
            k=k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
        )

    def _read(self, item: int, context: Tensor | None) -> None:
        """Let a model that keeps a state read the next event, with its context [C]."""
        model = self._recommender.model
        if not isinstance(model, SequenceModel):
            return
        event: tuple[Any, ...] = (item,)
        if not model.context.is_empty:
            event = (item, None if context is None else context.to(model.log_popularity.device))
        self._before = (self._state, *event)
        with torch.inference_mode():
            self._query, self._state = model.advance(self._state, *event)

    def _scores(self, request: Tensor) -> Tensor | None:
        """Return the scores [I + 1] of the kept state; None where the model keeps none.

        Args:
            request: [C], the context of the request.
        """
        model = self._recommender.model
        if not isinstance(model, SequenceModel):
            return None
        with torch.inference_mode():
            query = self._query
            if query is None:
                return model.log_popularity.clone()
            if model.context.request:
                again = (*self._before, request.to(query.device))
                query, _ = model.advance(*again)
            return model.match(query[None])[0]
