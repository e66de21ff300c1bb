from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ensue.data.longitudinal.measurements import BagRows, Numbers, Scale
from ensue.data.longitudinal.tables import read_visits
from ensue.errors import DataError, UsageError

TABLE = """\
who,day,sex,volume,score,fixed
b,2020-01-03,f,1.5,,7
a,2020-03-01,m,2.5,4,7
a,2020-01-01,m,0.5,NA,7
"""


def test_rows_are_sorted_and_missing_values_marked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    visits = read_visits(tmp_path / "t.csv", entity="who", time="day", others=["sex"])
    assert isinstance(visits.measured, Numbers)
    assert visits.names.to_list() == ["b", "a"]  # in the order of the table
    assert visits.entities.tolist() == [0, 1, 1]
    assert visits.times[2] - visits.times[1] == 60
    assert visits.measured.features == ("volume",)  # one score says nothing of change
    assert visits.measured.values[:, 0].tolist() == [1.5, 0.5, 2.5]
    assert visits.columns["sex"].to_list() == ["f", "m", "m"]
    assert visits.notes == ["Left out, because they never change: score, fixed."]


def test_parquet_and_frames_are_the_same(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [2, 1, 2], "t": [5.0, 1.0, 3.0], "x": [1, None, 2], "y": [1, 2, 3]})
    frame.write_parquet(tmp_path / "t.parquet")
    read = [
        read_visits(table, entity="id", time="t", features=["x", "y"])
        for table in (frame, tmp_path / "t.parquet")
    ]
    for visits in read:
        assert isinstance(visits.measured, Numbers)
        expected = [[2.0, 3.0], [1.0, 1.0], [np.nan, 2.0]]
        np.testing.assert_array_equal(visits.measured.values, expected)
        assert visits.names.to_list() == [2, 1]
        assert visits.notes == ["1 of 6 values are missing and were masked."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": "when"}, "has no column 'when'"),
        ({"features": ["sex"]}, "column 'sex' must hold numbers; the table has 'f' there"),
        ({"features": ["fixed"]}, "needs features that change; the table has none"),
        ({"time": "sex"}, "column 'sex' must hold times, .* has 'f' there"),
        ({"entity": "gap"}, "every visit must have an entity; data row 2 of the table has none"),
        ({"time": "late"}, "every visit must have a time; data row 1 of the table has none"),
        ({"features": ["empty", "x"]}, "at least one measurement; visit 2 of the table has none"),
        ({"features": ["wild"]}, "must be finite or missing; visit 1 of the table"),
    ],
)
def test_bad_tables(change: dict[str, object], message: str) -> None:
    frame = pl.DataFrame(
        {
            "id": ["a", "a"],
            "t": [1.0, 2.0],
            "sex": ["f", "m"],
            "fixed": [3.0, 3.0],
            "gap": ["a", None],
            "late": [None, 2.0],
            "empty": [1.0, None],
            "x": [2.0, None],
            "wild": [np.inf, 1.0],
        }
    )
    if change.get("features") == ["empty", "x"]:
        frame = pl.concat([frame, frame.head(1).with_columns(empty=pl.lit(5.0), x=pl.lit(6.0))])
    arguments = {"entity": "id", "time": "t", "features": ["t"], **change}
    with pytest.raises((DataError, UsageError), match=message):
        read_visits(frame, **arguments)  # type: ignore[arg-type]


def test_a_scale_knows_nothing_of_missing_values() -> None:
    values = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 5.0], [90.0, 90.0]], np.float32)
    scale = Scale.of(Numbers(values), np.arange(3))
    assert scale.mean.tolist() == [2.0, 5.0]
    assert scale.deviation.tolist() == [1.0, 1.0]  # the second never changes
    scaled = scale.apply(Numbers(values))
    assert scaled[0].tolist() == [-1.0, 0.0]
    assert torch.isnan(scaled[1, 1])
    np.testing.assert_allclose(scale.undo(scaled), values)


def test_channels_of_images_have_a_scale_each() -> None:
    images = np.random.default_rng(0).normal(2, 3, (9, 2, 4, 5)).astype(np.float32)
    scaled = Scale.of(Numbers(images), np.arange(9)).apply(Numbers(images))
    assert scaled.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert scaled.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_bags_are_taken_in_any_order() -> None:
    rows = BagRows(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 4, 6]))
    taken = rows.take(torch.tensor([2, 0, 2]))
    assert taken.items.tolist() == [5, 6, 1, 5, 6]
    assert taken.offsets.tolist() == [0, 2, 3, 5]
