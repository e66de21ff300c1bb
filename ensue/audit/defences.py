"""What an owner can do before training: leave out suspects, or limit what one user says.

```
drop:SHARE@DETECTOR   the SHARE of users with the largest number of a detector is left out
cap:SHARE             no user has more training clicks than the quantile SHARE of all users' clicks
                      (1 at least); of more, so many are drawn at random, and stay in their order
```

Nothing here knows which users are fake, or the targets. A model is trained on what is left, and
recommends to all users by their whole histories, also to those that were left out. Dropping the
users that a detector points at is the usual answer of the literature on shilling; the cap bounds
the weight of a user in the loss for any model, since each click of a training is an example.

Shapes: N users, R rows of a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.audit.detectors import DETECTORS
from ensue.data.dataset import Dataset
from ensue.errors import UsageError

Floats = NDArray[np.float64]

DEFAULTS = {"drop": (0.05, "any"), "cap": (0.5, None)}


@dataclass(frozen=True)
class Defence:
    """A defence as it is asked for.

    name: as it is shown. kind: "drop" or "cap". share: in (0, 1). detector: of "drop" alone.
    """

    name: str
    kind: str
    share: float
    detector: str | None


def parse_defence(text: str) -> Defence:
    """Return the defence that a text names.

    >>> parse_defence("drop:5%").name, parse_defence("cap").share
    ('drop:5%@any', 0.5)

    Raises:
        UsageError: it names none.
    """
    whole, at, detector = text.partition("@")
    kind, colon, number = whole.partition(":")
    share = parse_share(number) if colon else None
    known = kind in DEFAULTS and (share is not None or not colon)
    is_drop = kind == "drop"
    if not known or (at and (not is_drop or detector not in DETECTORS)):
        raise UsageError(
            "a defence must be drop[:SHARE][@DETECTOR] or cap[:SHARE], SHARE as in 2% or 0.02 and "
            f"DETECTOR of {', '.join(DETECTORS)}; got {text!r}."
        )
    default, usual = DEFAULTS[kind]
    share = default if share is None else share
    chosen = (detector or usual) if is_drop else None
    name = f"{kind}:{100 * share:g}%" + (f"@{chosen}" if chosen else "")
    return Defence(name, kind, share, chosen)


def parse_share(text: str) -> float | None:
    """Return a share between 0 and 1, of a text such as "2%" or "0.02"; None where it is none.

    >>> parse_share("2%"), parse_share("0.5"), parse_share("7"), parse_share("much")
    (0.02, 0.5, None, None)
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if 0 < value < 1 else None


def kept_rows(
    defence: Defence,
    dataset: Dataset,
    trained: NDArray[np.bool_],
    found: dict[str, Floats],
    *,
    seed: int,
) -> NDArray[np.bool_]:
    """Return which rows [R] of a dataset a defence leaves: those not trained on, and some others.

    Args:
        trained: [R], rows of the parts that are training data.
        found: what each detector says of each user [N].
    """
    users = dataset.column("user") - 1
    rng = np.random.default_rng([seed, 3])
    if defence.kind == "drop":
        assert defence.detector is not None
        suspects = most_suspected(found[defence.detector], defence.share, rng)
        is_suspect = np.zeros(dataset.num_users, dtype=np.bool_)
        is_suspect[suspects] = True
        return ~(trained & is_suspect[users])
    counts = np.bincount(users[trained], minlength=dataset.num_users)
    cap = max(int(np.quantile(counts[counts > 0], defence.share, method="lower")), 1)
    return ~trained | _draw(users, trained, cap, rng)


def most_suspected(values: Floats, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the share of users with the largest values; equal ones are drawn among."""
    order = np.lexsort((rng.random(len(values)), -values))
    return order[: round(share * len(values))]


def _draw(
    users: NDArray[Any], trained: NDArray[np.bool_], cap: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return at most `cap` rows of each user among those trained on, as a mask [R]."""
    rows = np.flatnonzero(trained)
    order = np.lexsort((rng.random(len(rows)), users[rows]))
    owners = users[rows[order]]
    first = np.searchsorted(owners, owners)  # where the user's rows begin
    kept = np.zeros(len(trained), dtype=np.bool_)
    kept[rows[order[np.arange(len(rows)) - first < cap]]] = True
    return kept
