"""What the page is asked for: the query of its address, and addresses of the same page.

A query is read leniently: what has no meaning is left out, and said in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

MAX_TEXT = 250  # characters of an id or a search, as the API takes them
MAX_ITEMS = 50  # of a history that is composed
MAX_MODELS = 4  # side by side
COUNTS = (5, 10, 20, 50)  # of items in a list, to choose from
COUNT = 10


@dataclass(frozen=True)
class Asked:
    """A user or a history, and how the answer is to be shown.

    user: a raw id; None where a history is composed.
    items: raw ids of a composed history, oldest first.
    models: to show side by side. served: all there are. first: those shown where none is asked for.
    find: a text to search items for.
    before: by model, the list that a new one is compared with; added: the item that came between.
    notes: sentences on what was left out of the query.
    """

    user: str | None
    items: tuple[str, ...]
    models: tuple[str, ...]
    served: tuple[str, ...]
    k: int = COUNT
    find: str = ""
    added: str = ""
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, query: QueryParams, served: Sequence[str], *, max_k: int, max_items: int
    ) -> Asked:
        """Return what a query asks for.

        Args:
            served: names of the models. max_k, max_items: what the service allows.
        """
        notes = []
        user = _clean(query.get("user", ""))
        if query.get("user", "").strip() and not user:
            notes.append(f"An id has at most {MAX_TEXT} characters, and no NUL among them.")
        items = [item for raw in query.getlist("item") if (item := _clean(raw))]
        if len(items) > min(max_items, MAX_ITEMS):
            items = items[-min(max_items, MAX_ITEMS) :]
            notes.append(f"A history of your own has the last {len(items)} items.")
        models = [name for name in dict.fromkeys(query.getlist("model")) if name in served]
        if len(models) < len(set(query.getlist("model"))):
            notes.append("Models that are not served are left out.")
        if len(models) > MAX_MODELS:
            notes.append(f"{MAX_MODELS} models are shown at a time.")
        k, top = query.get("k", ""), min(max_k, COUNTS[-1])
        wanted = int(k) if k.isdecimal() and len(k) < 10 else COUNT
        return cls(
            user=user or None,
            items=() if user else tuple(items),
            models=tuple(models[:MAX_MODELS]) or tuple(served[:MAX_MODELS]),
            served=tuple(served),
            k=max(1, min(wanted, top)),
            find=_clean(query.get("find", "")),
            added=_clean(query.get("added", "")),
            before={name: query.getlist(f"before.{name}")[:top] for name in served},
            notes=tuple(notes),
        )

    @property
    def last_added(self) -> str:
        """The item by which the list differs from the one that it is compared with, if known."""
        return self.items[-1] if self.items else self.added

    def pairs(self, *, with_who: bool = True, with_how: bool = True) -> list[tuple[str, str]]:
        """Return the query: whom it is about, and how the answer is shown where that was chosen."""
        pairs = []
        if with_who:
            pairs = [("item", item) for item in self.items]
            if self.user is not None:
                pairs = [("user", self.user)]
        if with_how:
            if self.models != self.served[:MAX_MODELS]:
                pairs += [("model", name) for name in self.models]
            if self.k != COUNT:
                pairs.append(("k", str(self.k)))
        return pairs

    @property
    def address(self) -> str:
        """The address of this page."""
        pairs = self.pairs()
        return f"/?{urlencode(pairs, quote_via=quote)}" if pairs else "/"

    def of_user(self, user: str) -> str:
        """Return the address for a user."""
        return replace(self, user=user, items=()).address

    def of_items(self, items: Sequence[str]) -> str:
        """Return the address for a composed history."""
        return replace(self, user=None, items=tuple(items[-MAX_ITEMS:])).address

    def adding(self, item: str) -> str:
        """Return the address for the composed history with one more item."""
        return self.of_items([*self.items, item])

    def without(self, place: int) -> str:
        """Return the address for the composed history without the item at a place."""
        return self.of_items([*self.items[:place], *self.items[place + 1 :]])


def item_address(item: str) -> str:
    """Return the address of an item. It stands in the query: an id may be "." or have a "/"."""
    return f"/item?{urlencode([('id', item)], quote_via=quote)}"


def run_address(name: str) -> str:
    """Return the address of a run."""
    return f"/runs/{quote(name, safe='')}"


def _clean(text: str) -> str:
    """Return a text without space around it; "" where it is no id."""
    text = text.strip()
    return "" if len(text) > MAX_TEXT or "\x00" in text else text
