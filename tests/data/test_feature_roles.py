"""What the columns of a table of items or users are taken for."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ensue.data.feature_inference import infer
from ensue.data.feature_roles import (
    Role,
    TableRoles,
    choose_features,
    choose_table_features,
    parse_roles,
)
from ensue.data.feature_store import Side
from ensue.data.tables import Table
from ensue.errors import DataError, UsageError

IDS = pl.Series([str(number) for number in range(40)])


def kind_of(values: pl.Series, **about: str) -> tuple[str | None, str | None]:
    kind, separator, reason = infer(values, IDS.head(len(values)), **about)
    assert reason
    return kind, separator


def text(*values: object) -> pl.Series:
    """Return 40 values: the given ones again and again."""
    return pl.Series([values[number % len(values)] for number in range(40)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (text("red", "blue", None), ("categorical", None)),
        (text(True, None), ("categorical", None)),
        (text("true", "", "false"), ("categorical", None)),
        (text("0.5", "2"), ("numeric", None)),
        (text(1995, 1996, 2001), ("numeric", None)),
        (text("1995", "", "2001"), ("numeric", None)),
        (pl.Series([1.0, None, float("nan"), 5.0] * 10), ("numeric", None)),
        (text("0", "1"), ("categorical", None)),
        (text(1, 2, 3, 4), ("categorical", None)),
        (text(1, 2, 4), ("numeric", None)),
        (pl.Series(range(40)), ("numeric", None)),  # each number once: no codes
        (text("01", "17"), ("categorical", None)),
        (text("a|b", "c", "d"), ("multi", "|")),
        (text("a;b", "b"), ("multi", ";")),
        (text("a, b", "b", "c, a"), ("multi", ",")),
        (pl.Series([*[f"brand {n % 9}" for n in range(38)], *["x, y"] * 2]), ("categorical", None)),
        (text(["a"], ["b", "c"]), ("multi", None)),
        (text([1, 2], [3, 4]), ("multi", None)),
        (text([0.5, 1.0], None, [2.0, 3.0]), ("vector", None)),
        (text([0.5], [1.0, 2.0]), ("multi", None)),
        (text('["a"]', '["b"]'), ("multi", "json")),
        (text("[0.5, 1]", "[2, 3]"), ("vector", "json")),
        (text("['a', 'b']", "[]"), ("multi", "[]")),
        (pl.Series([f"sentence {n}" for n in range(40)]), (None, None)),
        (pl.Series([f"sentence {n}, and so on" for n in range(40)]), (None, None)),
        (text(None, ""), (None, None)),
        (pl.Series([None, float("nan")]), (None, None)),
        (text({"a": 1}), (None, None)),
        (text([[1]]), (None, None)),
        (text(date(2020, 1, 1)), (None, None)),
    ],
)  # fmt: skip
def test_kinds(values: pl.Series, expected: tuple[str | None, str | None]) -> None:
    assert kind_of(values) == expected


def test_few_values_need_not_recur() -> None:
    assert kind_of(pl.Series(["a", "b", "c"])) == ("categorical", None)


def test_names_of_codes() -> None:
    for name in ("brand_id", "brandId", "ZIP", "zip_code", "country code", "id"):
        assert kind_of(text(17, 900), name=name) == ("categorical", None)
    for name in ("paid", "amount", "decode"):
        assert kind_of(text(17, 900), name=name) == ("numeric", None)
    assert kind_of(pl.Series(range(500, 540)), name="imdb_id") == (None, None)


def test_headers_of_recbole() -> None:
    assert kind_of(text("17", "900"), declared="token") == ("categorical", None)
    assert kind_of(text("a b", "b"), declared="token_seq") == ("multi", " ")
    assert kind_of(text("1", "2"), declared="float") == ("numeric", None)
    assert kind_of(text("1 2", "2 3"), declared="float_seq") == ("vector", " ")
    words = pl.Series([f"a{n} b{n}" for n in range(40)])
    assert kind_of(words, declared="token_seq") == (None, None)
    assert kind_of(IDS, declared="token") == (None, None)


def test_a_long_table_has_bags() -> None:
    ids = pl.Series([str(number // 2) for number in range(40)])
    for values in (text("a", "b"), text(900, 17)):
        assert infer(values, ids)[:2] == ("multi", None)
    same = pl.Series([f"x{number // 8}" for number in range(40)])  # a value for each id, repeated
    assert infer(same, ids)[0] == "categorical"
    assert infer(text("0.5", "2"), ids)[0] == "numeric"


def table(
    columns: dict[str, list[object]], *, has_header: bool = True
) -> tuple[Table, pl.DataFrame]:
    frame = pl.DataFrame(columns)
    return (
        Table(Path("t.csv"), frame.columns, lambda names, rows: iter(()), has_header=has_header),
        frame,
    )


def choose(
    columns: dict[str, list[object]],
    side: Side = "items",
    *,
    has_header: bool = True,
    log_column: str | None = None,
    **roles: str,
) -> TableRoles:
    frame = pl.DataFrame(columns)
    opened = Table(
        Path("t.csv"), frame.columns, lambda names, rows: iter(()), has_header=has_header
    )
    return choose_table_features(opened, frame, side, parse_roles(roles), log_column)


ITEMS: dict[str, list[object]] = {
    "movie_id": [1, 2], "title": ["A", "B"], "genre": ["x", "y"], "v_0": [0.5, 1], "v_1": [1, 2],
}  # fmt: skip


def test_columns_by_usual_names() -> None:
    found = choose(ITEMS)
    assert (found.id, found.title) == ("movie_id", "title")
    kinds = {one.name: (one.kind, one.sources) for one in found.features}
    assert kinds == {"genre": ("categorical", ("genre",)), "v": ("vector", ("v_0", "v_1"))}
    assert found.needed == ["movie_id", "title", "genre", "v_0", "v_1"]


def test_roles_as_told() -> None:
    found = choose(ITEMS, title="ignore", genre="multi:;", v="ignore")
    assert found.title is None
    assert found.unused == {"title": "as told", "v_0": "as told", "v_1": "as told"}
    (genre,) = found.features
    assert (genre.kind, genre.separator, genre.reason) == ("multi", ";", "as told")
    assert choose(ITEMS, genre="title", title="categorical").title == "genre"
    parts = choose(ITEMS, v_0="numeric").features  # a run without its first column is none
    assert [(one.name, one.kind) for one in parts[1:]] == [("v_0", "numeric"), ("v_1", "numeric")]


def test_whole_numbers_in_several_columns_are_no_vector_unless_told() -> None:
    columns: dict[str, list[object]] = {"item": [1, 2], "n_1": [5, 7], "n_2": [8, 9]}
    assert [one.kind for one in choose(columns).features] == ["numeric", "numeric"]
    (vector,) = choose(columns, n="vector").features
    assert (vector.name, vector.sources) == ("n", ("n_1", "n_2"))


def test_roles_that_several_columns_cannot_have_together() -> None:
    columns: dict[str, list[object]] = {"item": [1, 2], "n_1": [5, 7], "n_2": [8, 9], "m_3": [1, 2]}
    for roles, message in (
        ({"n": "multi"}, r"vector or ignore, .* got multi for \['n_1', 'n_2'\]"),
        ({"m": "vector"}, r"m_0, m_1, \.\.\. .* got vector for \['m_3'\]"),
        ({"n": "vector", "n_1": "numeric"}, r"got vector for \['n_2'\]"),
    ):
        with pytest.raises(UsageError, match=message):
            choose(columns, **roles)


def test_the_column_of_ids() -> None:
    columns: dict[str, list[object]] = {"movie": ["a"], "item": ["b"], "x": ["c"]}
    assert choose(columns, log_column="movie").id == "movie"
    assert choose(columns, movie="categorical").id == "item"
    assert choose(columns, x="id", movie="ignore").id == "x"
    assert choose({"id": [1], "x": [2]}).id == "id"
    assert choose({"1": [1], "2": ["a"], "3": ["b"]}, has_header=False).title == "2"
    users = choose({"1": [1], "2": ["a"]}, "users", has_header=False)
    assert (users.id, users.title, users.features[0].name) == ("1", None, "2")
    with pytest.raises(DataError, match=r"\['movie', 'item'\] could all be it .*NAME=id"):
        choose(columns)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"a": "categorial"}, r"role of 'a' is unknown; got 'categorial'. Did you mean 'categ"),
        ({"a": "numeric:|"}, "separator follows the roles multi and vector.* got 'numeric:|'"),
        ({"a": "multi:"}, "separator follows"),
    ],
)
def test_unknown_roles(roles: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_roles(roles)


def test_separators_are_told_with_the_role() -> None:
    assert parse_roles({"a": "multi: ", "b": "vector:,", "c": "multi"}) == {
        "a": Role("multi", " "), "b": Role("vector", ","), "c": Role("multi"),
    }  # fmt: skip


def test_contradictions() -> None:
    with pytest.raises(UsageError, match=r"the role id; got \['movie_id', 'genre'\]"):
        choose(ITEMS, movie_id="id", genre="id")
    with pytest.raises(UsageError, match="users have none; got the role title for 'x'"):
        choose({"user": [1], "x": ["a"]}, "users", x="title")


def test_separators_of_text_that_is_said_to_be_several_values() -> None:
    def separator(role: str, *values: object) -> str | None:
        return choose({"item": [1, 2], "x": list(values)}, x=role).features[0].separator

    assert separator("multi", "a", "b; c") == ";"
    assert separator("multi", "a b", "c") is None
    assert separator("multi", "[1]", "[2, 3]") == "json"
    assert separator("vector", "1 2", "3 4") == " "
    assert separator("vector", "1, 2", "3,4") == ","
    assert separator("vector", [1, 2], [3, 4]) is None


def test_columns_of_any_table() -> None:
    sample = pl.DataFrame(
        {"": range(40), "a": [f"v{n // 2 * 2 or n}" for n in range(40)], "x": "y"}
    )
    names = ["", "a", "x"]
    features, unused = choose_features(names, sample, IDS, {})
    assert [one.name for one in features] == ["x"]
    assert unused == {"": "has no name", "a": "most values are there once"}
    features, unused = choose_features(names, sample, IDS, {}, distinct_share=0.9)
    assert [one.name for one in features] == ["a", "x"]
    features, _ = choose_features(names, sample, IDS, {"": Role("categorical")})
    assert [one.name for one in features] == ["", "x"]
