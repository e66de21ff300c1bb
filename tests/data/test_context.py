"""Context columns: as numbers, beside the items of batches, and as values are given to a run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ensue.data.context import ContextColumn, ContextEncoder, ContextSchema
from ensue.data.histories import Histories, HistoryBatch
from ensue.data.ids import IdMap
from ensue.data.length_batches import LengthBatches
from ensue.errors import ConfigError, UsageError
from tests.contracts.planted import histories_of
from tests.helpers import make_dataset

PAGE, HOUR = ContextColumn("page", 2), ContextColumn("hour")
SCHEMA = ContextSchema(event=(HOUR, PAGE), request=(PAGE,))
NAN = math.nan


def encoder() -> ContextEncoder:
    return ContextEncoder(SCHEMA, {"page": IdMap(pl.Series(["detail", "home"]))})


def with_context() -> Histories:
    """Return 1 2 3 4 | 5 6 | 7, with event context 10, 20, ... and request context -1, -2, ..."""
    made = histories_of([[1, 2, 3, 4], [5, 6], [7]])
    numbers = np.arange(1, 8)
    return replace(made, event_context=(numbers * 10.0,), request_context=(-numbers, numbers % 2))


def test_a_schema_is_the_same_after_json() -> None:
    stored = json.loads(json.dumps(SCHEMA.to_dict()))
    assert ContextSchema.from_dict(stored) == SCHEMA
    assert ContextSchema.from_dict({}) == ContextSchema()
    assert SCHEMA.columns == [HOUR, PAGE]
    assert (SCHEMA.is_empty, ContextSchema().is_empty) == (False, True)


def test_values_become_codes_and_numbers() -> None:
    values, unknown = encoder().encode_event({"page": "home", "hour": "3.5"})
    assert (values.tolist(), unknown) == ([3.5, 2.0], [])
    values, unknown = encoder().encode_event({})
    np.testing.assert_equal(values, [NAN, 0.0])
    values, unknown = encoder().encode_request({"page": "attic"})
    assert (values.tolist(), unknown) == ([0.0], ["page=attic"])
    for missing in (None, ""):
        values, unknown = encoder().encode_event({"page": missing, "hour": missing})
        np.testing.assert_equal(values, [NAN, 0.0])
        assert unknown == []


def test_truth_values_are_read_as_prepare_reads_them() -> None:
    known = ContextEncoder(SCHEMA, {"page": IdMap(pl.Series(["false", "true"]))})
    assert known.encode_request({"page": True})[0].tolist() == [2.0]


@pytest.mark.parametrize(
    "pages",
    [
        ["home", "attic", "", None, "detail"],
        pl.Series(["home", "attic", None], dtype=pl.Categorical),
        [True, None, False],
        [3, -4, None],
        [None, None],
    ],
)
@pytest.mark.parametrize("hours", [["3.5", "", " -2", None, "1e3"], [1, None, 3, 4, 5], [True] * 5])
def test_columns_are_read_as_values_one_by_one(pages: Any, hours: Any) -> None:
    known = IdMap(pl.Series(["detail", "home", "false", "-4"]))
    schema = ContextSchema(request=(ContextColumn("page", 4), HOUR, ContextColumn("place", 4)))
    made = ContextEncoder(schema, {"page": known, "place": known})
    columns = pl.DataFrame({"page": pages, "hour": hours[: len(pages)]})
    columns = columns.with_columns(pl.lit("attic").alias("place"))
    numbers, unknown = made.encode_requests(columns)
    expected = [made.encode_request(row) for row in columns.rows(named=True)]
    np.testing.assert_equal(numbers, [values for values, _ in expected])
    assert unknown.to_list() == [names for _, names in expected]


def test_no_columns_are_read() -> None:
    numbers, unknown = ContextEncoder(ContextSchema(), {}).encode_requests(
        pl.DataFrame({"user": [1, 2]})
    )
    assert numbers.shape == (2, 0)
    assert unknown.to_list() == [[], []]


def test_wrong_columns_of_context() -> None:
    made = ContextEncoder(ContextSchema(request=(HOUR,)), {})
    for hours, value in ((["1", "noon"], "'noon'"), ([[1.0], [2.0]], r"\[1\.0\]")):
        with pytest.raises(UsageError, match=f"'hour' must be a number; got {value}"):
            made.encode_requests(pl.DataFrame({"hour": hours}))
    made = ContextEncoder(SCHEMA, {"page": IdMap(pl.Series(["a", "b"]))})
    with pytest.raises(UsageError, match=r"context 'page' must be text; got List\(String\)"):
        made.encode_requests(pl.DataFrame({"page": [["a"]]}))


def test_wrong_context_of_a_request() -> None:
    with pytest.raises(UsageError, match=r"'pages' is none of them\. Did you mean 'page'\?"):
        encoder().encode_request({"pages": "home"})
    with pytest.raises(UsageError, match=r"context of a request .* 'hour' is none"):
        encoder().encode_request({"hour": 3})  # of events alone
    with pytest.raises(UsageError, match="'hour' must be a number; got 'noon'"):
        encoder().encode_event({"hour": "noon"})
    with pytest.raises(UsageError, match="Train m3 with context_in"):
        ContextEncoder(ContextSchema(), {}).encode_event({"page": "home"})


def test_a_dataset_says_what_its_columns_hold(tmp_path: Path) -> None:
    context = {"page": [["b", "a", None], ["a", "c", "a"]], "hour": [[1, 2, None], [4, 5, 6]]}
    dataset = make_dataset(tmp_path / "data", [[1, 2, 3], [2, 3, 1]], context=context)
    schema = dataset.context_schema(["hour"], ["page", "hour"])
    assert schema == ContextSchema((HOUR,), (ContextColumn("page", 3), HOUR))
    histories = dataset.histories("train", schema)
    assert histories.request_context[0].tolist() == [2, 1, 0, 1, 3, 1]
    assert histories.event_context[0] is histories.request_context[1]  # mapped, not copied
    assert dataset.histories("train").event_context == ()
    with pytest.raises(ConfigError, match=r"context_out .*; 'pag' is none .* Did you mean 'page'"):
        dataset.context_schema([], ["pag"])
    bare = make_dataset(tmp_path / "bare", [[1, 2, 3]])
    with pytest.raises(ConfigError, match=r"context_in .* It has none: see ensue prepare"):
        bare.context_schema(["page"], [])


def test_a_batch_keeps_the_context_of_its_events() -> None:
    batch = with_context().batch(np.array([1, 2]), answers=np.array([4, 6]))
    assert batch.event_context is not None
    assert batch.request_context is not None
    assert batch.event_context.tolist() == [[10], [20], [30], [40], [50], [60]]
    assert batch.request_context.tolist() == [[-5, 1], [-7, 1]]
    last = batch.last(3)
    assert last.items.tolist() == [2, 3, 4, 5, 6]
    assert last.event_context.flatten().tolist() == [20, 30, 40, 50, 60]
    assert last.request_context is batch.request_context
    unknown = replace(batch, items=torch.tensor([1, 0, 3, 0, 5, 0])).without_padding()
    assert unknown.event_context.flatten().tolist() == [10, 30, 50]
    assert unknown.offsets.tolist() == [0, 2, 3]
    moved = batch.to("cpu")
    assert torch.equal(moved.event_context, batch.event_context)
    assert torch.equal(moved.request_context, batch.request_context)


def test_padding_has_no_context() -> None:
    batch = HistoryBatch.from_lists([[1, 2], [3]], event_context=[[[1.0], [NAN]], [[NAN]]])
    padded = batch.right_padded(torch.tensor([1, 0]), 3, batch.event_context)
    np.testing.assert_equal(padded[..., 0].numpy(), [[NAN, 0, 0], [1, NAN, 0]])


def test_the_request_of_nobody_knows_what_is_unknown() -> None:
    batch = with_context().batch(np.array([1]))
    assert batch.request_context is None


def test_training_reads_the_context_of_events_and_of_the_targets() -> None:
    batches = LengthBatches(with_context(), max_len=2, batch_size=4)
    items, targets, event, request = batches.gather(np.array([1, 2]), np.random.default_rng(0))
    assert (items.tolist(), targets.tolist()) == ([[2, 3], [5, 0]], [[3, 4], [6, 0]])
    assert event[..., 0].tolist() == [[20, 30], [50, 0]]
    assert request[..., 0].tolist() == [[-3, -4], [-6, 0]]
    assert request[..., 1].tolist() == [[1, 0], [0, 0]]


def test_training_without_context_reads_none() -> None:
    batches = LengthBatches(histories_of([[1, 2, 3]]), max_len=2, batch_size=4)
    assert len(batches.gather(np.array([1]), np.random.default_rng(0))) == 2


def test_mean_and_deviation_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.data.histories.COUNT_ROWS", 2)  # several blocks
    histories = histories_of([[1, 2, 3, 4], [], [5, 6], [7]])
    shift = 1.7e9  # seconds since 1970: squares alone would lose the digits
    column = np.array([1.0, NAN, 4.0, np.inf, -2.0, 0.5, 3.0]) + shift
    there = column[np.isfinite(column)]
    mean, deviation = histories.mean_and_deviation(column)
    assert mean == pytest.approx(there.mean(), abs=1e-6)
    assert deviation == pytest.approx(there.std(), rel=1e-6)
    assert histories.mean_and_deviation(np.full(7, 0.1)) == (pytest.approx(0.1), 1.0)
    assert histories.mean_and_deviation(np.full(7, NAN)) == (0.0, 1.0)
    train = replace(histories, ends=histories.ends - [0, 1, 0, 0, 1])  # without rows 3 and 6
    assert train.mean_and_deviation(np.arange(7.0))[0] == pytest.approx((0 + 1 + 2 + 4 + 5) / 5)
