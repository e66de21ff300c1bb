"""Which column of a log holds the user, the item, the time and the labels: usual names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ensue.errors import DataError, UsageError, did_you_mean

RESERVED = ("user", "item", "time", "split")  # columns of interactions.arrow

# Compared without case and punctuation: userId, user_id and "User ID" are all "userid".
_NAMES = {
    "user": """user userid uid users visitor visitorid reviewer reviewerid customer customerid
        member memberid session sessionid profile profileid viewer viewerid account accountid
        patron buyerid""",
    "item": """item itemid iid items movie movieid film filmid product productid parentasin asin
        isbn sku article articleid track trackid song songid artist artistid book bookid video
        videoid photo photoid poi poiid venue venueid business businessid location locationid
        news newsid listing listingid ad adid anime animeid recipe recipeid game gameid gmapid
        app appid page pageid content contentid""",
    "time": """timestamp time ts datetime date unixreviewtime unixtime unixtimestamp eventtime
        timestampms timems createdat reviewtime visittime checkintime ratedat clickedat""",
    "title": """title name movietitle producttitle itemtitle itemname productname
        trackname artistname venuename""",
    "label": """rating ratings stars score label click clicks clicked isclick like likes liked
        islike watchseconds watchtime watchratio purchase purchased conversion converted rate""",
}
_KNOWN = {role: frozenset(names.split()) for role, names in _NAMES.items()}

# Where a log has both, the first is the better choice and not a matter of doubt.
_PREFERRED = [("parentasin", "asin"), ("unixreviewtime", "reviewtime"), ("userid", "sessionid")]


@dataclass(frozen=True)
class Roles:
    """Input columns by role.

    time: None where the log has none.
    labels, context: name in the dataset -> input column.
    text_context: context names whose values are text whatever they look like.
    """

    user: str
    item: str
    time: str | None
    labels: dict[str, str]
    context: dict[str, str]
    text_context: frozenset[str] = frozenset()

    @property
    def needed(self) -> list[str]:
        """The input columns to read, each once."""
        times = [self.time] if self.time is not None else []
        return list(
            dict.fromkeys(
                [self.user, self.item, *times, *self.labels.values(), *self.context.values()]
            )
        )

    def as_dict(self) -> dict[str, str]:
        """Return role or name -> input column."""
        times = {"time": self.time} if self.time is not None else {}
        return {"user": self.user, "item": self.item, **times, **self.labels, **self.context}


def choose_roles(
    columns: Sequence[str],
    source: str,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: Sequence[str] = (),
    context: Sequence[str] = (),
) -> Roles:
    """Return the roles of `columns`: those the caller names, and the usual names for the rest.

    Labels are recognized only where the caller names none.

    Args:
        source: the file, for messages.
        context: names; "zip:text" reads the column zip as text.

    Raises:
        DataError: a named column is missing, or none or several look like the user or item.
        UsageError: a label or context column would take the place of another one.
    """
    given = [name for name in (user, item, time, *labels) if name is not None]
    context_names = [name.removesuffix(":text") for name in context]
    for name in (*given, *context_names):
        if name not in columns:
            raise DataError(
                f"column {name!r} is not in {source}.{did_you_mean(name, columns)}"
                + (f" It has {list(columns)}." if len(columns) > 1 else "")
            )
    free = [name for name in columns if name not in given and name not in context_names]
    user = user or _recognize(free, "user", source, columns)
    item = item or _recognize([n for n in free if n != user], "item", source, columns)
    time = time or _recognize(free, "time", source, columns, optional=True)
    assert user is not None
    assert item is not None
    chosen_labels = list(labels) or [n for n in free if plain_name(n) in _KNOWN["label"]]
    _check_distinct([user, item, *([time] if time else [])], [*chosen_labels, *context_names])
    return Roles(
        user,
        item,
        time,
        {name: name for name in chosen_labels},
        {name: name for name in context_names},
        frozenset(n.removesuffix(":text") for n in context if n.endswith(":text")),
    )


def recognize(columns: Sequence[str], role: str, source: str, *, remedy: str) -> str:
    """Return the one column with a usual name for `role`.

    Args:
        remedy: a sentence on what to do where there is no such column.

    Raises:
        DataError: none or several have one.
    """
    found = _recognize(columns, role, source, columns, remedy=remedy)
    assert found is not None
    return found


def find_usual(columns: Sequence[str], role: str) -> list[str]:
    """Return the columns with a usual name for `role`."""
    return [name for name in columns if plain_name(name) in _KNOWN[role]]


def choose_roles_by_position(
    sample: Sequence[Sequence[str]],
    source: str,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: Sequence[str] = (),
    context: Sequence[str] = (),
) -> Roles:
    """Return the roles of a file without a header, whose columns are "1", "2", ...

    They are user, item, [rating], time; where the caller names any other than user and item, they
    are what the caller names.

    Args:
        sample: the first rows.

    Raises:
        DataError: a third column could be a rating or a time, or there are too many columns.
    """
    columns = [str(number) for number in range(1, len(sample[0]) + 1)]
    if len(columns) == 2 or time or labels or context:
        named = {"user": user or "1", "item": item or "2", "time": time}
        return choose_roles(columns, source, **named, labels=labels, context=context)
    if len(columns) == 4:
        return Roles(user or "1", item or "2", "4", {"rating": "3"}, {})
    if len(columns) == 3 and all(len(row[2].partition(".")[0]) > 5 for row in sample):
        return Roles(user or "1", item or "2", "3", {}, {})
    raise DataError(
        f"a file without a header is read as user, item, [rating], time; {source} starts with "
        f"{list(sample[0])}. Say what the columns are by position, for example --user 1 --item 2 "
        f"--time {len(columns)} or --label 3."
    )


def _recognize(
    free: Sequence[str],
    role: str,
    source: str,
    columns: Sequence[str],
    *,
    optional: bool = False,
    remedy: str | None = None,
) -> str | None:
    """Return the one free column with a usual name for `role`."""
    found = {plain_name(name): name for name in free if plain_name(name) in _KNOWN[role]}
    for better, other in _PREFERRED:
        if better in found:
            found.pop(other, None)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found and optional:
        return None
    problem = f"{list(found.values())} could all be it" if found else "none has a usual name"
    raise DataError(
        f"the {role} column of {source} must be clear; {problem} among {list(columns)}. "
        + (remedy or f"Pass --{role} NAME ({role}=...).")
    )


def plain_name(name: str) -> str:
    """Return a name as usual names are compared: without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_distinct(ids: Sequence[str], others: Sequence[str]) -> None:
    names = [*ids, *others]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"a column has one role; {name!r} is given several.")
    for name in others:
        if name in RESERVED or "/" in name:  # a context column becomes part of a file name
            raise UsageError(
                f"a label or context column cannot be called {name!r}, nor have a slash in its "
                f"name or be one of {list(RESERVED)}; rename it in the input."
            )
