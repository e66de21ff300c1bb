"""Tables of items and users, joined to the rows of a ranking dataset by id.

Shapes: N items or users, row 0 is a missing one; D width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from ensue.data.feature_builders import NumbersBuilder
from ensue.data.feature_roles import Feature
from ensue.data.feature_store import Side
from ensue.data.feature_tables import CHUNK_ROWS, FeatureSource, TableReading
from ensue.data.features import Bags
from ensue.progress import track


@dataclass(frozen=True)
class SideFeature:
    """A feature of the items or of the users.

    values: codes [N + 1], `Bags` of codes, float64 numbers as in the table [N + 1], or vectors
        [N + 1, D].
    vocabulary: the raw values of the codes 1..V.
    """

    side: Side
    feature: Feature
    values: NDArray[Any] | Bags
    size: int
    vocabulary: pl.Series | None


def read_side_tables(
    folder: Path, sources: Mapping[Side, list[FeatureSource]], raw_ids: Mapping[Side, pl.Series]
) -> tuple[list[SideFeature], dict[str, str]]:
    """Return the features of both sides, and why other columns are none.

    Args:
        folder: for vectors on their way.
        raw_ids: [N] of each side, in the order of codes.

    Raises:
        DataError: a table has none of the ids, or a value is not what its column must hold.
    """
    features: list[SideFeature] = []
    unused: dict[str, str] = {}
    for side, tables in sources.items():
        for number, source in enumerate(tables):
            place = folder / f"{side}{number}"
            place.mkdir(parents=True)
            reading = TableReading(place, side, source, raw_ids[side])
            with track(f"Reading {side}", unit="rows") as advance:
                for file in source.files:
                    for chunk in file.read(source.roles.needed, CHUNK_ROWS):
                        reading.add(chunk)
                        advance(len(chunk.rows))
            unused.update({f"{side}.{name}": why for name, why in source.roles.unused.items()})
            if source.roles.title:
                unused[f"{side}.{source.roles.title}"] = "is the title"
            found = _finish(side, reading)
            features += [one for one in found if one.size]
            empty = [one.feature.name for one in found if not one.size]
            unused.update({f"{side}.{name}": f"no value for {side} of the rows" for name in empty})
    return features, unused


def _finish(side: Side, reading: TableReading) -> list[SideFeature]:
    numbers = {
        feature.name: builder.numbers
        for feature, builder in reading.builders
        if isinstance(builder, NumbersBuilder)
    }
    return [
        SideFeature(
            side,
            feature,
            numbers.get(feature.name, built.values),
            built.size,
            built.vocabulary,
        )
        for feature, built in reading.build()
    ]
