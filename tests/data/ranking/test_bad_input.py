"""Input that cannot be used: one sentence each, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ensue.data.ranking.prepare import prepare_ranking
from ensue.errors import DataError, EnsueError, UsageError

GOOD = [f"{n % 2},{n}.5,a|b,1 2,{n % 3},1" for n in range(12)]


def make(folder: Path, *bad: str, **settings: Any) -> None:
    lines = ["click,x,tags,v,color,w", *GOOD, *bad]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    roles = {"x": "numeric", "v": "vector: ", "color": "categorical"}
    settings = {"targets": "click", "features": roles, "weights": "w", **settings}
    prepare_ranking(folder / "rows.csv", folder / "data", **settings)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("2,1,a,1 2,0,1", r"target 'click' must hold 0 and 1 alone; row 14 of .*rows.csv has '2'"),
        ("no,1,a,1 2,0,1", r"target 'click' must hold finite numbers alone; row 14 .* has 'no'"),
        ("1,many,a,1 2,0,1", r"feature 'x' must hold finite numbers alone; row 14 .* has 'many'"),
        ("1,inf,a,1 2,0,1", r"feature 'x' must hold finite numbers alone; row 14 .* has 'inf'"),
        ("1,1,a,1 2 3,0,1", r"feature 'v' must hold vectors of 2 numbers; row 14 .* has '1 2 3'"),
        ("1,1,a,1 2,0,-1", r"weight 'w' must hold a number of 0 or more in every row; row 14"),
        ("1,1,a,1 2,0,", r"weight 'w' must hold a number of 0 or more in every row; row 14"),
        ("1,1,a", r"every row must have 6 columns, as the first has; row 14 of .* has 3"),
    ],
)
def test_bad_values(tmp_path: Path, line: str, sentence: str) -> None:
    settings: dict[str, Any] = {"targets": "click:binary"}
    with pytest.raises(DataError, match=sentence):
        make(tmp_path, line, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"targets": "clicks"}, "'clicks' is none. Did you mean 'click'"),
        ({"features": {"y": "numeric"}}, "columns of the input; 'y' is none of"),
        ({"features": {"tags": "history"}, "history_length": 0}, "history_length of 1 or more"),
        ({"history_length": -1}, "history_length is 0 or more; got -1"),
        ({"history_length": 5}, "has no column of users or of items. Pass --user and --item"),
        ({"history_where": "click=1"}, "the input has not, or history_length is 0. Pass --user"),
        ({"weights": "u"}, "targets and weights are columns of the input; 'u' is none"),
        ({"user": "who"}, "column 'who' is not in"),
        ({"split": "leave-one-out"}, "a ranking dataset is split by time"),
        ({"memory": "1KB"}, "memory is a size of 16MB or more"),
        (
            {"features": {"v": "vector", "x": "ignore", "tags": "history:color2"}},
            "'color2' is none",
        ),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make(tmp_path, **settings)
    assert [path.name for path in tmp_path.iterdir() if path.name != "rows.csv"] == []


def test_bad_files(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match="the output must be a new folder"):
        make(tmp_path)
    make(tmp_path, overwrite=True)
    (tmp_path / "other.csv").write_text("click,z\n1,2\n0,3\n")
    for inputs, sentence in (
        ([tmp_path / "rows.csv", tmp_path / "other.csv"], "must have the same columns"),
        ({"test": tmp_path / "rows.csv"}, "needed for training; none is given"),
        ({"dev": tmp_path / "rows.csv"}, "input files are for train, validation, test; got 'dev'"),
        (tmp_path / "none.csv", "there is no file"),
    ):
        with pytest.raises(EnsueError, match=sentence):
            prepare_ranking(inputs, tmp_path / "data2", targets="click")  # type: ignore[arg-type]
    assert not (tmp_path / "data2").exists()


def test_a_vector_that_the_first_rows_do_not_have(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("click,v\n1,\n0,\n")
    with pytest.raises(DataError, match="first rows must show the width of vector 'v'"):
        prepare_ranking(
            tmp_path / "rows.csv", tmp_path / "data", targets="click", features={"v": "vector"}
        )
