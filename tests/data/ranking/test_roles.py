"""What the columns of a table of rows are taken for."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ensue.data.ranking.roles import RowRoles, Told, choose_row_roles, expand_ranges
from ensue.data.readers import open_tables
from ensue.errors import DataError, UsageError


def roles_of(
    folder: Path,
    header: str,
    lines: list[str],
    features: dict[str, str] | None = None,
    taken: tuple[str, ...] = (),
    time: str | None = None,
    user: str | None = None,
) -> RowRoles:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *lines] if header else lines) + "\n")
    (table,) = open_tables([path])
    sample = pl.concat([chunk.rows for chunk in table.read(table.columns, 10_000)])
    told = Told(user, None, time, features or {}, dict.fromkeys(taken, "is a target"))
    return choose_row_roles(table, sample, told)


def test_usual_names(tmp_path: Path) -> None:
    lines = [f"u{n},p{n},{n},{n % 2},{n}.5" for n in range(30)]
    roles = roles_of(tmp_path, "user_id,sku,timestamp,click,price", lines, taken=("click",))
    assert (roles.user, roles.item, roles.time) == ("user_id", "sku", "timestamp")
    assert roles.group == "user_id"
    # Ids are categorical however many there are; other text is left out where it tells rows apart.
    kinds = {one.name: (one.kind, one.reason) for one in roles.features}
    assert kinds == {
        "user_id": ("categorical", "an id"),
        "sku": ("categorical", "an id"),
        "price": ("numeric", "numbers"),
    }
    assert roles.unused == {"click": "is a target", "timestamp": "is the time"}


def test_other_labels_are_no_features(tmp_path: Path) -> None:
    lines = [f"a{n % 3},{n % 2},{n % 5},{n % 2}" for n in range(30)]
    header = "color,click,rating,like"
    roles = roles_of(tmp_path, header, lines, {"like": "categorical"}, taken=("click",))
    assert [one.name for one in roles.features] == ["color", "like"]
    assert "named like a label" in roles.unused["rating"]


def test_text_of_many_values_stays(tmp_path: Path) -> None:
    lines = [f"a{n % 21},b{n},0.5" for n in range(30)]
    roles = roles_of(tmp_path, "often,unique,x", lines)
    assert [one.name for one in roles.features] == ["often", "x"]
    assert roles.unused == {"unique": "most values are there once"}


def test_roles_of_every_kind(tmp_path: Path) -> None:
    lines = [f"i{n % 3},i1>i2,a;b,{n},1 2,{n % 4},{n % 7}" for n in range(30)]
    roles = roles_of(
        tmp_path,
        "item,past,tags,x,v,g,other",
        lines,
        {
            "past": "history:item:>", "tags": "history", "x": "numeric:log", "v": "vector",
            "g": "group", "other": "numeric:plain",
        },
    )  # fmt: skip
    found = {one.name: (one.kind, one.vocabulary, one.separator) for one in roles.features}
    assert found == {
        "item": ("categorical", "item", None),
        "past": ("history", "item", ">"),
        "tags": ("history", "tags", ";"),
        "x": ("numeric", "", None),
        "v": ("vector", "", " "),
        "g": ("categorical", "g", None),
        "other": ("numeric", "", None),
    }
    assert [one.scale for one in roles.features if one.kind == "numeric"] == ["log", "plain"]
    assert roles.group == "g"
    assert [one.name for one in roles.features] == ["item", "past", "tags", "x", "v", "g", "other"]


def test_without_a_header_nothing_is_taken_for_an_id(tmp_path: Path) -> None:
    roles = roles_of(tmp_path, "", [f"{n % 2},u{n % 4},x" for n in range(30)], user="2")
    assert (roles.user, roles.item, roles.time) == ("2", None, None)
    assert [one.name for one in roles.features] == ["1", "2", "3"]


def test_ranges() -> None:
    columns = [str(number) for number in range(1, 13)]
    assert list(expand_ranges({"9-12": "numeric"}, columns)) == ["9", "10", "11", "12"]
    assert expand_ranges({"9-12": "numeric", "10": "ignore"}, columns)["10"] == "ignore"
    assert expand_ranges({"1-2": "ignore"}, ["1-2", "x"]) == {"1-2": "ignore"}


def test_wrong_roles(tmp_path: Path) -> None:
    lines = [f"a,{n},b" for n in range(30)]

    def roles(header: str = "x,y,z", **settings: object) -> None:
        roles_of(tmp_path, header, lines, **settings)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="one column has the role group; got"):
        roles(features={"x": "group", "y": "group"})
    with pytest.raises(UsageError, match="'x' is a target and is told to be 'numeric'"):
        roles(features={"x": "numeric"}, taken=("x",))
    with pytest.raises(UsageError, match="rows have no id; got 'id' for 'x'"):
        roles(features={"x": "id"})
    with pytest.raises(UsageError, match="role of 'x' is unknown; got 'many'"):
        roles(features={"x": "many"})
    with pytest.raises(UsageError, match="those of a categorical column; 'y' is none"):
        roles(features={"x": "history:y"})
    with pytest.raises(UsageError, match="column 'who' is not in"):
        roles(user="who")
    with pytest.raises(DataError, match=r"the time column of .* must be clear"):
        roles("time,timestamp,z")
