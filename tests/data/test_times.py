from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from ensue.data.tables import Chunk
from ensue.data.times import TimeParser, parse_iso

MOMENT = datetime(2020, 1, 31, 12, 30, 15, 250_000, tzinfo=timezone.utc)
MOMENT_US = 1_580_473_815_250_000


def parse(values: pl.Series) -> list[int]:
    chunk = Chunk(Path("log"), values.alias("time").to_frame(), lambda index: index + 1)
    return TimeParser("time").parse(chunk).tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_580_473_815, 1_580_473_815_000_000),
        (1_580_473_815_250, MOMENT_US),
        (MOMENT_US, MOMENT_US),
        (MOMENT_US * 1000, MOMENT_US),
        (1_580_473_815.25, MOMENT_US),
        (0, 0),
        (Decimal("1580473815.25"), MOMENT_US),
        (MOMENT, MOMENT_US),
        (MOMENT.replace(tzinfo=None), MOMENT_US),
        (date(2020, 1, 31), 1_580_428_800_000_000),
    ],
)
def test_units_by_magnitude_and_types(value, expected):
    assert parse(pl.Series([value])) == [expected]
    if isinstance(value, int | float):
        assert parse(pl.Series([str(value)])) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-31T12:30:15.25",
        "2020-01-31 12:30:15.250",
        "2020-01-31T12:30:15.25Z",
        "2020-01-31 12:30:15.25 UTC",
        "2020-01-31T14:30:15.25+02:00",
        "2020-01-31T07:00:15.25-0530",
    ],
)
def test_iso_notations(text):
    assert parse(pl.Series([text])) == [MOMENT_US]


def test_iso_without_seconds_or_time():
    found = parse_iso(pl.Series(["2020-01-31", "2020-01-31T00:01", "2020-01-31T01:01+01:00"]))
    assert found.to_list() == [1_580_428_800_000_000] + [1_580_428_860_000_000] * 2


def test_what_is_no_time_is_null():
    texts = ["", "soon", "2020-13-01", "31.01.2020", "2020-01-31T25:00"]
    assert parse_iso(pl.Series(texts)).null_count() == len(texts)
