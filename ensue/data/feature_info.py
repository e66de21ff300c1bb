"""What dataset.json says of the features of items and of users."""

from __future__ import annotations

from pydantic import Field

from ensue.config import Config
from ensue.data.features import FeatureColumn, FeatureKind


class FeatureInfo(Config):
    """A feature as it was read and is stored.

    name, kind, size: see `ensue.data.features.FeatureColumn`.
    sources: columns of the input; several make one vector.
    separator: what splits text into values or numbers; "json" for arrays of JSON, "[]" for other
        lists in brackets; None where nothing is split.
    mean, deviation: of a number in the input; what is stored is (number - mean) / deviation.
    missing: share of the items or users that have no value.
    reason: why the feature is of this kind.
    """

    name: str
    kind: FeatureKind
    size: int
    sources: list[str]
    separator: str | None = None
    mean: float = 0.0
    deviation: float = 1.0
    missing: float = 0.0
    reason: str = ""

    @property
    def column(self) -> FeatureColumn:
        """The column as a model sees it."""
        return FeatureColumn(self.name, self.kind, self.size)


class SourceInfo(Config):
    """A table that features were read from.

    id, title: its columns of these roles; unused: column -> why it is no feature.
    rows: of the table; unknown_rows: of ids that are not in the log; repeated_rows: of an id that
        had a row before; found: ids of the log that have a row.
    """

    path: str
    id: str
    title: str | None = None
    unused: dict[str, str] = Field(default_factory=dict)
    rows: int = 0
    unknown_rows: int = 0
    repeated_rows: int = 0
    found: int = 0


class FeaturesInfo(Config):
    """The features of one side, items or users.

    hash: SHA-256 of the features as stored; the hash of the dataset does not depend on them.
    """

    columns: list[FeatureInfo]
    tables: list[SourceInfo]
    hash: str
