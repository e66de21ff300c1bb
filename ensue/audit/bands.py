"""Which items an attack promotes: some of a popularity band, or those that are named.

The bands are those of the authors' program (Tang, Wen and Wang, RecSys 2020, arXiv:2008.04876):
head above the 95th percentile of training clicks, upper torso above the 75th, lower torso above
the 50th, tail the rest. Departure: items without a training click, of which an attacker cannot
know, count in no percentile and are in no band; they can be named.

Shapes: I items, S targets. Items are columns 0 to I - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensue.data.ids import IdMap
from ensue.errors import UsageError, did_you_mean

# Percentiles of clicks that a band lies between: above the first, up to the second.
BANDS: dict[str, tuple[float, float]] = {
    "head": (95.0, 100.0),
    "torso": (50.0, 95.0),
    "upper-torso": (75.0, 95.0),
    "lower-torso": (50.0, 75.0),
    "tail": (0.0, 50.0),
}


def band_items(counts: NDArray[np.int64], band: str) -> NDArray[np.int64]:
    """Return the columns of the items of a band, ascending.

    >>> band_items(np.array([0, 1, 2, 3, 4]), "tail").tolist()
    [1, 2]

    Args:
        counts: [I] training clicks.
    """
    clicked = counts[counts > 0]
    if len(clicked) == 0:
        return np.empty(0, dtype=np.int64)
    low, high = BANDS[band]
    # Nothing lies above the 0th percentile but what is more than the least; the tail has that too.
    floor = np.percentile(clicked, low) if low > 0 else 0.0
    return np.flatnonzero((counts > floor) & (counts <= np.percentile(clicked, high)))


def choose_targets(
    counts: NDArray[np.int64], band: str, num_targets: int, *, seed: int
) -> NDArray[np.int64]:
    """Return the columns [S] of some items of a band, ascending, drawn at random.

    Raises:
        UsageError: there is no such band, or it has fewer items.
    """
    if band not in BANDS:
        raise UsageError(f"there is no popularity band {band!r}.{did_you_mean(band, BANDS)}")
    items = band_items(counts, band)
    if num_targets < 1 or len(items) < num_targets:
        raise UsageError(
            f"the number of targets must be 1 to the items of the band; got {num_targets}, and "
            f"{band} has {len(items)}."
        )
    rng = np.random.default_rng([seed, list(BANDS).index(band)])
    return np.sort(rng.choice(items, num_targets, replace=False))


def named_targets(ids: IdMap, raw_ids: Sequence[str | int]) -> NDArray[np.int64]:
    """Return the columns [S] of the items of some raw ids, ascending and distinct.

    Raises:
        UsageError: there is none, or an id is unknown.
    """
    dense = ids.to_dense(raw_ids)
    unknown = [str(raw) for raw, one in zip(raw_ids, dense, strict=True) if one == 0]
    if unknown or len(dense) == 0:
        raise UsageError(
            f"targets must be a band ({', '.join(BANDS)}) or raw ids of items of the dataset; got "
            f"{unknown[0]!r}, which is neither."
            if unknown
            else "an audit needs at least one target; got none."
        )
    return np.unique(dense) - 1
