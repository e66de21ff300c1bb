from __future__ import annotations

import pytest

from ensue.data.columns import choose_roles, choose_roles_by_position
from ensue.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["userId", "movieId", "rating", "timestamp"], ("userId", "movieId", "timestamp")),
        (["rating", "asin", "parent_asin", "user_id", "timestamp"],
         ("user_id", "parent_asin", "timestamp")),
        (["reviewerID", "asin", "overall", "unixReviewTime", "reviewTime"],
         ("reviewerID", "asin", "unixReviewTime")),
        (["visitorid", "itemid", "event", "timestamp"], ("visitorid", "itemid", "timestamp")),
        (["User ID", "Product-Id", "Date"], ("User ID", "Product-Id", "Date")),
        (["session_id", "item_id"], ("session_id", "item_id", None)),
    ],
)  # fmt: skip
def test_usual_names(columns, expected):
    roles = choose_roles(columns, "log")
    assert (roles.user, roles.item, roles.time) == expected


def test_named_columns_come_first():
    roles = choose_roles(
        ["user_id", "item_id", "category", "rating", "click", "ts"],
        "log",
        item="category",
        labels=["click"],
        context=["item_id", "rating:text"],
    )
    assert roles.as_dict() == {
        "user": "user_id",
        "item": "category",
        "time": "ts",
        "click": "click",
        "item_id": "item_id",
        "rating": "rating",
    }
    assert roles.text_context == {"rating"}


def test_labels_are_recognized():
    roles = choose_roles(["user", "item", "Rating", "click", "price"], "log")
    assert roles.labels == {"Rating": "Rating", "click": "click"}


def test_doubt_is_an_error_that_names_the_flag():
    with pytest.raises(DataError, match=r"\['timestamp', 'date'\] could all be it.*--time"):
        choose_roles(["user", "item", "timestamp", "date"], "log")
    with pytest.raises(DataError, match=r"none has a usual name among \['a', 'item'\].*--user"):
        choose_roles(["a", "item"], "log")


def test_a_column_has_one_role():
    with pytest.raises(UsageError, match="'item' is given several"):
        choose_roles(["user", "item"], "log", labels=["item"], item="item")
    with pytest.raises(UsageError, match="cannot be called 'split'"):
        choose_roles(["user", "item", "split"], "log", context=["split"])


def test_positions():
    four = choose_roles_by_position([["1", "2", "5", "881250949"]], "log")
    assert four.as_dict() == {"user": "1", "item": "2", "time": "4", "rating": "3"}
    three = choose_roles_by_position([["1", "2", "881250949"]], "log")
    assert (three.time, three.labels) == ("3", {})
    assert choose_roles_by_position([["1", "2"]], "log").time is None
    named = choose_roles_by_position(
        [["1", "2", "5", "9", "8"]], "log", user="2", item="1", time="5"
    )
    assert named.as_dict() == {"user": "2", "item": "1", "time": "5"}
    with pytest.raises(DataError, match="--time 5"):
        choose_roles_by_position([["1", "2", "5", "9", "8"]], "log")
