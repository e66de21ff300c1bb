"""Lists as the page shows them: with bars for scores, and with what changed since the last list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ensue.serving.served import Answer

UP, DOWN = "\u25b2", "\u25bc"
SHORTEST = 4.0  # of 100, so that the worst of a list has a bar too
Title = Callable[[str], str]


class Change(NamedTuple):
    """What became of an item: "up", "down", "new", "same" or "gone", and that in words."""

    kind: str
    text: str


class Row(NamedTuple):
    """An item of a list. bar: of its score, 0 to 100."""

    item: str
    title: str
    score: str
    bar: float
    change: Change | None


class Gone(NamedTuple):
    """An item that is no longer in a list."""

    item: str
    title: str
    text: str


@dataclass
class Card:
    """One model's answer. error: why there is none. spent: milliseconds by stage, in words.

    summary: what changed, in words. gates: of a mixture model, how far each is open.
    """

    name: str
    kind: str
    error: str = ""
    rows: list[Row] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    summary: str = ""
    spent: str = ""
    gates: dict[str, float] = field(default_factory=dict)


def fill_card(
    card: Card, answer: Answer, title: Title, *, before: Sequence[str] | None, added: str
) -> Card:
    """Return a card with an answer in it.

    Args:
        title: of an item by its id.
        before: ids of the list to compare with; None compares with none.
        added: the item that came between the two, if it is known.
    """
    items, scores = answer.recommendation.items, answer.recommendation.scores
    changes: Sequence[Change | None] = [None] * len(items)
    if before is not None:
        changes = compare(before, items)
        card.gone = [
            Gone(item, title(item), "just added" if item == added else f"was {place}")
            for place, item in enumerate(before, 1)
            if item not in set(items)
        ]
        card.summary = _summary([change.kind for change in changes if change], len(card.gone))
    card.rows = [
        Row(item, title(item), show_score(score), bar, change)
        for item, score, bar, change in zip(items, scores, bars(scores), changes, strict=True)
    ]
    card.spent = ", ".join(f"{name} {ms:.1f} ms" for name, ms, _ in answer.stages)
    return card


def compare(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """Return what became of each item of the list after.

    >>> [change.text for change in compare(["a", "b", "c"], ["c", "b", "d"])]
    ['\u25b2 up 2', '= same', '+ new']
    """
    old = {item: place for place, item in enumerate(before)}
    found = []
    for place, item in enumerate(after):
        moved = old.get(item, place) - place
        if item not in old:
            found.append(Change("new", "+ new"))
        elif moved == 0:
            found.append(Change("same", "= same"))
        elif moved > 0:
            found.append(Change("up", f"{UP} up {moved}"))
        else:
            found.append(Change("down", f"{DOWN} down {-moved}"))
    return found


def bars(scores: Sequence[float]) -> list[float]:
    """Return the length of a bar for each score, best first, 0 to 100.

    Scores that are all above 0 are shown from 0; others have no zero that means anything, and are
    shown between the worst and the best.

    >>> bars([4.0, 1.0]), bars([1.0, 0.0, -1.0])
    ([100.0, 25.0], [100.0, 52.0, 4.0])
    """
    if not scores:
        return []
    best, worst = max(scores), min(scores)
    if worst > 0:
        return [max(100 * score / best, SHORTEST) for score in scores]
    width = best - worst or 1.0
    return [SHORTEST + (100 - SHORTEST) * (score - worst) / width for score in scores]


def show_score(score: float) -> str:
    """Return a score in about four digits.

    >>> show_score(0.12341), show_score(12.5), show_score(658.0), show_score(1234567.0)
    ('0.1234', '12.50', '658', '1,234,567')
    """
    if abs(score) >= 1000 or score.is_integer():
        return f"{score:,.0f}"
    return f"{score:.2f}" if abs(score) >= 10 else f"{score:.4f}"


def _summary(kinds: Sequence[str], num_gone: int) -> str:
    """Return a sentence on how many items did what."""
    counts = {
        "new": kinds.count("new"),
        "up": kinds.count("up"),
        "down": kinds.count("down"),
        "the same": kinds.count("same"),
        "gone": num_gone,
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(told) or "nothing to compare"
