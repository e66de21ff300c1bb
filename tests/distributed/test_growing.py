"""Tables that grow over several workers have the same rows at the same time for any number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.owners import by_hash
from ensue.distributed.ranker import SharedRanker
from ensue.distributed.workers import Workers
from ensue.losses.multitask import task_losses
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.hashing import mix_tensor, start_values
from ensue.nn.table_records import records
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import growing_tables, make_optimizer
from tests.distributed.spawn import run_workers
from tests.ranking_helpers import make_schema, random_batch

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

STEPS = 12
KINDS = ["binary", "regression"]
EXPIRY = {"max_age": 3, "every": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "fm": {"dim": 3},
    "deepfm": {"dim": 3, "hidden": [5]},
    "lr": {},
}


def ids_of(codes: Tensor, first: int) -> Tensor:
    """Return an id for each code but 0."""
    return torch.where(codes == 0, 0, mix_tensor(codes + first))


def batches(schema: RankingSchema) -> list[RankingBatch]:
    """Return batches with ids, new ones from time to time; those of the first come back last."""
    made = []
    for step in range(STEPS):
        one = random_batch(schema, 7, seed=step)
        tensors = [t.double() if t.is_floating_point() else t for t in one.tensors()]
        one = RankingBatch.from_tensors(tensors, schema)
        era = 0 if step >= STEPS - 2 else 7 * (step // 3)
        places = [1000, 2000, 3000, 1000]  # the history is of the first column
        codes = [ids_of(one.codes[:, n], places[n] + era) for n in range(2)]
        bags = [
            Bag(ids_of(bag.values, first + era), bag.offsets)
            for bag, first in zip(one.bags, places[2:], strict=True)
        ]
        made.append(replace(one, codes=torch.stack(codes, dim=1), bags=tuple(bags)))
    return made


def make_model(name: str, growth: dict[str, Any]) -> RankingModel:
    torch.manual_seed(1)
    settings = {**SETTINGS[name], "growth": growth}
    model = build_ranker(name, make_config(get_ranker(name).model.Config, settings), make_schema())
    return model.double()


def train(
    workers: Workers | None,
    name: str,
    growth: dict[str, Any],
    options: dict[str, str],
    optimizer: str,
    rates: list[float],
) -> dict[str, Any]:
    """Return losses, and of each growing table its rows, its steps and what it has let go."""
    schema = make_schema()
    model: Any = make_model(name, growth)
    if workers is not None:
        holders = by_hash(schema, workers.size)
        model = SharedRanker(model, workers, holders=holders, **options)  # type: ignore[arg-type]
    config = TrainingConfig(optimizer=optimizer)
    steps, tables = make_optimizer(model, config), growing_tables(model, config)
    losses = []
    for whole, rate in zip(batches(schema), rates, strict=True):
        batch = whole if workers is None else model.share(whole)
        shares = torch.where(whole.labels.isnan(), 0.0, whole.weights).sum(dim=0)
        own = torch.where(batch.labels.isnan(), 0.0, batch.weights).sum(dim=0)
        loss = task_losses(model(batch), batch.labels, batch.weights, KINDS) * own / shares
        loss.sum().backward()
        seen = loss.sum().detach()[None]
        losses.append(float(seen if workers is None else model.sum_gradients_(seen)))
        for group in steps.param_groups:
            group["lr"] = rate
        steps.step()
        steps.zero_grad(set_to_none=False)
        for table in tables:
            table.apply_gradients_(rate)
    inner = model if workers is None else model.model
    named = {n: m for n, m in inner.named_modules() if isinstance(m, DynamicEmbedding)}
    return {
        "losses": losses,
        "rows": {n: records(table) for n, table in named.items()},
        "sizes": {n: len(table) for n, table in named.items()},
        "deleted": {n: table.deleted for n, table in named.items()},
        "owned": all(bool(model.owns(records(t).ids).all()) for t in named.values())
        if workers is not None
        else True,
    }


def joined_rows(found: list[dict[str, Any]], table: str) -> dict[str, Tensor]:
    """Return the rows of all workers in a table, in the order of their ids."""
    parts = [one["rows"][table] for one in found]
    ids = torch.cat([part.ids for part in parts])
    assert len(ids.unique()) == len(ids) == sum(one["sizes"][table] for one in found)
    order = ids.argsort()
    rows = {"ids": ids[order], "notes": torch.cat([part.notes for part in parts])[order]}
    deleted = torch.cat([one["deleted"][table] for one in found])
    key = (deleted[:, 1] * 2**16 + deleted[:, 0] % 2**16).argsort()
    return {
        **rows,
        "values": torch.cat([part.values for part in parts])[order],
        "deleted": deleted[key],
    }


OPTIONS = [
    {"scheme": "des", "schedule": "scatter"},
    {"scheme": "des", "schedule": "all_reduce"},
    {"scheme": "row_wise"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: "-".join(one.values()))
@pytest.mark.parametrize(
    ("name", "optimizer", "min_count"),
    [("fm", "adagrad", 1), ("deepfm", "lazy_adam", 1), ("deepfm", "adagrad", 2)],
)
def test_rows_come_and_go_alike_for_any_number_of_workers(
    name: str, optimizer: str, min_count: int, options: dict[str, str]
) -> None:
    admission = {"min_count": min_count, "sketch_cells": 1 << 12}
    arguments = (name, {"admission": admission, "expiry": EXPIRY}, options, optimizer)
    rates = [0.05] * STEPS
    found = {size: run_workers(train, size, *arguments, rates) for size in (1, 2, 4)}
    if min_count == 1:  # one process admits table by table, and column by column
        found[0] = [train(None, *arguments, rates)]
    for table in found[1][0]["rows"]:
        wanted = joined_rows(found[1], table)
        assert len(wanted["deleted"]) > 5  # rows have gone
        for size, one in found.items():
            rows = joined_rows(one, table)
            for kind in ("ids", "notes", "deleted"):
                assert torch.equal(rows[kind], wanted[kind]), (size, kind)
            torch.testing.assert_close(rows["values"], wanted["values"], rtol=0, atol=1e-12)
    for one in found.values():
        assert all(worker["owned"] for worker in one)
        for worker in one:
            assert worker["losses"] == pytest.approx(found[1][0]["losses"], rel=0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 4])
def test_rows_are_those_of_living_ids_and_begin_where_their_id_says(size: int) -> None:
    growth = {"expiry": EXPIRY}
    rates = [0.1] * (STEPS - 2) + [0.0, 0.0]  # what appears in the end stays as it begins
    options = {"scheme": "des", "schedule": "scatter"}
    found = run_workers(train, size, "fm", growth, options, "adagrad", rates)
    rows = joined_rows(found, "fields.table.rows")
    last_seen, marks = {}, make_model("fm", growth).fields.table.marks
    keys = [0, 1, 2, 0]  # c1, c2, tags, and c1 again in the history
    for step, batch in enumerate(batches(make_schema()), start=1):
        values = [*batch.codes.unbind(1), *(bag.values for bag in batch.bags)]
        for key, own in zip(keys, values, strict=True):
            for one in own[own != 0].tolist():
                last_seen[one ^ int(marks[key])] = step
        if step % EXPIRY["every"] == 0:
            gone = {one for one, seen in last_seen.items() if step - seen > EXPIRY["max_age"]}
            last_seen = {one: seen for one, seen in last_seen.items() if one not in gone}
    assert rows["ids"].tolist() == sorted(last_seen)
    returned = torch.isin(rows["ids"], rows["deleted"][:, 0])
    assert returned.sum() > 5
    starts = start_values(rows["ids"], 3, seed=0, name="uniform", scale=0.05, dtype=torch.float64)
    assert torch.equal(rows["values"][returned, :3], starts[returned])
    assert not torch.equal(rows["values"][~returned, :3], starts[~returned])
