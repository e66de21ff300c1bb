"""What a plan reads off a ranking model, against the model itself and what is known of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ensue.config import Config, make_config
from ensue.distributed.sizes import Sizes, sizes_of
from ensue.errors import UsageError
from ensue.models.ranking.table import RANKERS, build_ranker, get_ranker
from ensue.nn.field_tables import FieldTable
from tests.ranking_helpers import make_schema

# Of the schema: 2 categorical columns, tags and a history of c1, 2 numbers, a vector of 3.
SCHEMA, ONE_TASK = make_schema(), make_schema(tasks=["binary"])
FAST: dict[str, Any] = {"dim": 4, "hidden": [8, 6]}


def configured(name: str, **settings: Any) -> Config:
    cls = get_ranker(name).model.Config
    known = {key: value for key, value in FAST.items() if key in cls.model_fields}
    return make_config(cls, {**known, **settings})


def sizes(name: str, schema: Any = SCHEMA, **settings: Any) -> Sizes:
    return sizes_of(name, configured(name, **settings), schema)


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("settings", [{}, {"growth": {}}])
def test_tables_and_dense_weights_are_those_of_the_model(
    name: str, settings: dict[str, Any]
) -> None:
    found = sizes(name, **settings)
    model = build_ranker(name, configured(name), SCHEMA)
    tables = [one for one in model.modules() if isinstance(one, FieldTable)]
    in_tables = sum(p.numel() for one in tables for p in one.parameters())
    assert found.num_weights == in_tables
    assert found.dense == sum(p.numel() for p in model.parameters()) - in_tables
    assert found.activations == sum(
        one.out_features for one in model.modules() if isinstance(one, nn.Linear)
    )
    assert (found.num_fields, found.ids_per_row, found.tasks) == (4, 4.0, 2)
    assert [one.lookups for one in found.vocabularies] == [2.0, 1.0, 1.0]
    assert [(one.columns, one.bags) for one in found.vocabularies] == [
        (2, (2,)),
        (1, ()),
        (1, (2,)),
    ]
    assert (found.row_bytes > 0) == ("growth" in settings)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("lr", {}, [("weights of values", 1, "hash", False)]),
        ("fm", {}, [("weights of values", 1, "hash", False), ("pairs", 4, "hash", False)]),
        ("wide_deep", {}, [("weights of values", 1, "hash", False),
                           ("first layer", 8, "field", False)]),
        ("deepfm", {}, [("weights of values", 1, "hash", False), ("pairs", 4, "hash", False),
                        ("first layer", 8, "field", False)]),
        ("dcn", {"num_crosses": 1, "structure": "stacked"},
         [("cross 1", 1, "field", True), ("first layer", 8, "field", False)]),
        ("dcn_v2", {"cross_rank": 2, "num_crosses": 2},
         [("cross 1", 2, "field", True), ("cross 2", 2, "field", True),
          ("first layer", 8, "field", False)]),
        ("dlrm", {}, [("dots", 10, "column", False)]),  # of 4 columns and the bottom vector
        ("dlrm", {"hidden": []}, [("dots", 10, "column", False)]),
        ("shared_bottom", {}, [("first layer", 8, "field", False)]),
        ("shared_bottom", {"trunk": "fm", "hidden": []},
         [("weights of values", 1, "hash", False), ("pairs", 8, "hash", False)]),
        ("mmoe", {"trunk": "dlrm"}, [("dots", 10, "column", False)]),
        ("ple", {"trunk": "deepfm"},
         [("weights of values", 1, "hash", False), ("pairs", 4, "hash", False),
          ("first layer", 8, "field", False)]),
    ],
)  # fmt: skip
def test_operators(name: str, settings: dict[str, Any], expected: list[Any]) -> None:
    found = sizes(name, ONE_TASK, **settings)
    assert [one[:4] for one in found.operators] == expected
    assert found.obstacle == ""


def test_several_tasks_have_a_weight_each_and_weigh_the_parts_of_products() -> None:
    widths = [one.width for one in sizes("deepfm").operators]
    assert widths == [2, 4, 8]  # the squares of vectors are taken off the weights
    assert [one.shared for one in sizes("deepfm").operators] == [0, 2 * 4, 0]
    assert [one.shared for one in sizes("deepfm", ONE_TASK).operators] == [0, 0, 0]
    assert [one.of_bag for one in sizes("deepfm").operators] == [0, 4, 0]
    assert sizes("fm").width == 4 * (4 + 2)
    assert sizes("lr").width == 4 * 2


@pytest.mark.parametrize(
    ("name", "settings", "obstacle"),
    [
        ("dcn_v2", {}, "full rank"),
        ("dcn_v2", {"cross_rank": 2, "cross_experts": 2}, "mixture"),
        ("dcn_v2", {"cross_rank": 2, "cross_norm": True}, "cross_norm"),
        ("dcn_v2", {"cross_rank": 2, "structure": "parallel"}, "set structure=stacked"),
        ("dcn", {}, "set structure=stacked"),
        ("shared_bottom", {"trunk": "dcn_v2"}, "full rank"),
        ("deepfm", {"hidden": []}, "no hidden layers"),
        ("mmoe", {"hidden": []}, "no hidden layers"),
        ("dlrm", {"history": "attention"}, "attention over histories"),
    ],
)
def test_what_has_no_substitute(name: str, settings: dict[str, Any], obstacle: str) -> None:
    found = sizes(name, **settings)
    assert obstacle in found.obstacle
    assert found.operators == ()
    assert found.local == 0
    assert found.attends == ("attention" in str(settings))


def test_without_columns_to_look_up() -> None:
    found = sizes("wide_deep", make_schema(kinds=["numeric"]))
    assert found.obstacle == "no column is looked up"
    assert (found.num_weights, found.width) == (0, 0)


def test_weights_that_stay_with_columns_are_those_with_a_row_for_each() -> None:
    width = 4 * 4  # of four columns
    assert sizes("wide_deep").local == width * 8
    assert sizes("deepfm").local == width * 8
    assert sizes("dcn_v2", cross_rank=2, num_crosses=3).local == width * (8 + 3 * (2 + 2 + 1))
    assert sizes("dlrm").local == sizes("fm").local == 0
    assert (sizes("dlrm").spread, sizes("fm").spread) == (4, 0)
    assert sizes("dlrm", make_schema(kinds=["categorical"])).spread == 0


def test_ten_billion_rows_need_no_memory() -> None:
    schema = make_schema(kinds=["categorical"], num_categorical=3)
    columns = tuple(c.__class__(c.name, c.kind, 10**10, c.name) for c in schema.columns)
    found = sizes("deepfm", schema.__class__(columns, schema.tasks))
    assert found.num_rows == 3 * (10**10 + 1)
    assert found.num_weights == found.num_rows * (4 + 2)


@pytest.mark.slow  # torch gets ready for tensors without memory
@pytest.mark.parametrize("name", ["dcn_v2", "dlrm", "ple"])
def test_large_models_have_the_same_sizes_without_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.random.get_rng_state()
    found = sizes(name)
    monkeypatch.setattr("ensue.distributed.sizes._LARGE", 0)
    assert sizes(name) == found
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sizes("dcn_v2", dim=10**5).dense > (4 * 10**5) ** 2


def test_ids_of_a_row() -> None:
    config = configured("fm")
    found = sizes_of("fm", config, SCHEMA, ids_per_row={"tags": 3.5, "past": 20})
    assert found.ids_per_row == 25.5
    assert [one.lookups for one in found.vocabularies] == [21.0, 1.0, 3.5]
    for wrong in ({"tag": 3.0}, {"tags": -1.0}, {"n1": 1.0}):
        with pytest.raises(UsageError, match=r"columns with a vocabulary; got '(tag|tags|n1)'"):
            sizes_of("fm", config, SCHEMA, ids_per_row=wrong)
