"""What workers send in a step of training is what the formulas say, to the byte, for each of them.

The batches have columns whose values are spread evenly over any 1 to 4 workers, so that ids are as
the formulas of mean rows have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.data.ranking.batch import Bag, RankingBatch
from ensue.data.ranking.schema import RankingColumn, RankingSchema, Task
from ensue.distributed import costs
from ensue.distributed.candidates import find_layout, make_candidate, may_split, worker_transfers
from ensue.distributed.cluster import Workload
from ensue.distributed.config import DistributedConfig
from ensue.distributed.costs import Split, sent
from ensue.distributed.shares import share
from ensue.distributed.sizes import Sizes, sizes_of
from ensue.distributed.workers import Workers
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.runs import train_shared
from ensue.runs.train_shared import share_ranker
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import use_sparse_gradients_
from ensue.training.peers import NO_WISHES
from ensue.training.shared_peers import WorkerPeers
from ensue.training.shared_ranking import SharedRankingObjective
from tests.distributed.spawn import run_workers

pytestmark = pytest.mark.slow  # several processes; tests/distributed/test_essentials.py is fast

PERIOD = 12  # values of so many rows in a row are spread evenly over 1, 2, 3, 4 or 6 workers
SIZE = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {"dim": 4},
    "wide_deep": {"dim": 4, "hidden": [5, 4]},
    "deepfm": {"dim": 4, "hidden": [5, 4]},
    "dcn_v2": {"dim": 4, "hidden": [5], "num_crosses": 2, "cross_rank": 2},
    "dlrm": {"dim": 4, "hidden": [5], "bottom": [4]},
    "shared_bottom": {"dim": 4, "hidden": [5], "tower": [3], "trunk": "fm"},
}


class Case(NamedTuple):
    """A way to train: layout is "auto" or one of `DistributedConfig`."""

    scheme: Any
    schedule: Any = "scatter"
    layout: Any = "auto"
    optimizer: Any = "adagrad"
    wire: Any = "full"
    num_rows: int = SIZE * PERIOD


def even_schema(*, num_tasks: int = 2, giant: int = 20, history: bool = True) -> RankingSchema:
    """Return three columns, tags with `giant` values, and a history of the first column."""
    columns = [RankingColumn(f"c{n}", "categorical", 12 + n, f"c{n}") for n in range(3)]
    columns.append(RankingColumn("tags", "multi", giant, "tags"))
    if history:
        columns.append(RankingColumn("past", "history", 12, "c0"))
    columns += [RankingColumn(f"n{n}", "numeric", 1) for n in range(2)]
    return RankingSchema(
        tuple(columns), tuple(Task(f"t{n}", "binary") for n in range(1, num_tasks + 1))
    )


def even_batch(schema: RankingSchema, num_rows: int) -> RankingBatch:
    """Return rows with two tags, a history of three, and values one after the other."""
    rows = torch.arange(num_rows)
    codes = torch.stack([(rows + n) % PERIOD + 1 for n in range(3)], dim=1)
    bags = []
    for number, column in enumerate(schema.of_kind("multi", "history"), start=2):
        values = torch.arange(number * num_rows) % PERIOD + 1
        assert column.size >= PERIOD
        bags.append(Bag(values, torch.arange(num_rows + 1) * number))
    labels = (rows[:, None] % 2).float().repeat(1, len(schema.tasks))
    numbers = torch.linspace(-1, 1, 2 * num_rows).view(num_rows, 2)
    return RankingBatch(codes, tuple(bags), numbers, (), labels, torch.ones_like(labels))


class OneBatch:
    """A reader of the rows of one worker, or of all where each computes all."""

    num_rows = num_batches = 1

    def __init__(self, whole: RankingBatch, share: tuple[int, int]) -> None:
        (rank, size), self._total = share, len(whole)
        own = -(-len(whole) // size)
        self._rows = whole.rows(rank * own, (rank + 1) * own)

    def batch_rows(self, number: int) -> int:
        return self._total

    def epoch(self, number: int, first: int = 0) -> Iterator[RankingBatch]:
        yield self._rows


def known(name: str, schema: RankingSchema, **settings: Any) -> tuple[Any, Sizes]:
    kind = get_ranker(name)
    config = make_config(kind.model.Config, {**SETTINGS[name], **settings})
    counts = {"tags": 2, **{column.name: 3 for column in schema.of_kind("history")}}
    return config, sizes_of(name, config, schema, ids_per_row=counts, longest=counts)


def counted(
    workers: Workers, name: str, schema: RankingSchema, cases: list[Case], settings: dict[str, Any]
) -> list[Any]:
    """Return of each case what this worker sends in a step, by purpose, and who holds what."""
    config, sizes = known(name, schema, **settings)
    found = []
    for case in cases:
        torch.manual_seed(0)
        model = build_ranker(name, config, schema)
        options = DistributedConfig(layout=case.layout, schedule=case.schedule, wire=case.wire)
        lookups = {one.name: one.lookups for one in sizes.vocabularies}
        ranker = share_ranker(model, workers, case.scheme, options, lookups)
        use_sparse_gradients_(ranker, TrainingConfig(optimizer=case.optimizer))
        whole = even_batch(schema, case.num_rows)
        place = (0, 1) if ranker.is_redundant else (workers.rank, workers.size)
        reader: Any = OneBatch(whole, place)
        objective = SharedRankingObjective(ranker, reader, [1.0] * len(schema.tasks), seed=0)
        workers.traffic.take()
        for batch in objective.batches(1):
            objective.loss(ranker, batch).backward()
            WorkerPeers(ranker).combine(objective.seen_losses, NO_WISHES)
        held = [ranker._owners.holders[one.name] for one in sizes.vocabularies]
        found.append((workers.traffic.take(), held))
    return found


def check(
    name: str, cases: list[Case], schema: RankingSchema | None = None, **settings: Any
) -> list[list[dict[str, float]]]:
    """Compare each worker with the formulas, and return what they say of each case."""
    schema = schema or even_schema()
    _, sizes = known(name, schema, **settings)
    found = run_workers(counted, SIZE, name, schema, cases, settings)
    told = []
    for number, case in enumerate(cases):
        wire = "float32" if case.wire == "full" else case.wire
        # Of a worker: as many values in each column as rows.
        unique = PERIOD * sum(one.columns for one in sizes.vocabularies)
        workload = Workload(
            batch_size=case.num_rows, optimizer=case.optimizer, wire=wire, unique_ids=unique
        )
        layout, obstacle = find_layout(case.scheme, sizes, SIZE)
        assert obstacle == ""
        if case.layout != "auto":
            layout = case.layout
        held = share(layout, sizes, SIZE, may_split=may_split(case.scheme, sizes))
        formulas = worker_transfers(case.scheme, case.schedule, held, sizes, workload)
        parts = [
            {part: float(sent(transfers, part)) for part in costs.PARTS} for transfers in formulas
        ]
        for (traffic, holders), expected in zip([one[number] for one in found], parts, strict=True):
            assert traffic.pop("other") == 0
            if case.num_rows % SIZE:  # the rows that are left out have no ids
                assert traffic.pop("ids") <= expected.pop("ids")
            assert traffic == expected, (name, case)
            if case.scheme != "replicated":
                assert tuple(holders) == held.held
        told.append(parts)
    return told


SUMS = [
    Case("des", schedule, layout)
    for layout in ("auto", "hash", "column")
    for schedule in ("scatter", "all_reduce")
]
POOLED = [Case("table_wise"), Case("row_wise"), Case("replicated", optimizer="adam")]
SHORT = [
    Case(scheme, schedule, wire="bfloat16", num_rows=SIZE * PERIOD - 1)
    for scheme, schedule in (
        ("des", "scatter"),
        ("des", "all_reduce"),
        ("table_wise", "scatter"),
        ("row_wise", "scatter"),
    )
]


@pytest.mark.parametrize("name", ["lr", "fm", "wide_deep", "deepfm", "shared_bottom"])
def test_sums_and_pooled_vectors(name: str) -> None:
    check(name, [*SUMS, *POOLED, *SHORT])


def test_cross_layers() -> None:
    by_field_or_column = [case for case in SUMS if case.layout != "hash"]
    check("dcn_v2", [*by_field_or_column, *POOLED, *SHORT])


def test_products_of_pairs() -> None:
    check("dlrm", [case for case in SUMS if case.layout in ("auto", "column")] + POOLED + SHORT)


@pytest.mark.parametrize("name", ["lr", "deepfm"])
def test_one_task_and_rows_of_replicated_tables(name: str) -> None:
    schema = even_schema(num_tasks=1, history=False)
    check(name, [*SUMS, *POOLED, Case("replicated", optimizer="lazy_adam")], schema)


@pytest.mark.parametrize("name", ["fm", "deepfm", "dcn_v2"])
def test_a_giant_is_with_several_workers(name: str) -> None:
    """Of tags that several have, each sends parts of sums, and all the weights of their columns."""
    schema = even_schema(giant=1000, history=False)
    cases = [Case("des"), Case("des", "all_reduce"), Case("table_wise")]
    told = check(name, cases, schema)
    whole = check(name, cases[:1], even_schema(giant=12, history=False))
    grows = sum(one["forward"] for one in told[0]) - sum(one["forward"] for one in whole[0])
    split_bags = 0 if name == "dcn_v2" else 1  # crosses need whole columns
    assert grows == SIZE * (SIZE - 1) * PERIOD * 4 * split_bags * 4


def test_owners_of_uneven_columns_add_up_to_the_formulas() -> None:
    """Of all workers together ids and vectors are N times those of the mean worker."""
    split, columns, width = Split(SIZE, PERIOD), 4, 4 * (4 + 2)
    schema = even_schema(giant=12, history=False)
    told = check("deepfm", [Case("des"), Case("table_wise"), Case("row_wise")], schema)
    weights = sent(costs.label_weights(split, 2))
    # A worker has the tags, one two other columns, one the third: a byte for each, 1 or 2 bits for
    # the lengths of 12 rows, codes of 4 bits. Each gets it from two others, with 8 bytes before.
    messages = (1 + 3 + 12) + (2 + 3 + 12) + (1 + 2 + 6)
    ids = 2 * (messages + 3 * 8) / 3
    assert ids < sent(costs.key_exchange(split, 3 + 2, columns)) / 4
    assert len({one["ids"] for one in told[0]}) > 1  # 4 columns on 3 workers
    for parts in told[:2]:
        assert sum(one["ids"] for one in parts) == pytest.approx(SIZE * (ids + weights), rel=1e-12)
    pooled = sent(costs.table_wise(split, width))
    assert sum(one["forward"] + one["backward"] for one in told[1]) == SIZE * pooled
    sums = sent(costs.des_deepfm(split, 4, 5)) + sent(costs.des_lr(split))  # of a second task
    assert sum(one["forward"] + one["backward"] for one in told[0]) == SIZE * sums
    rows = sent(costs.row_wise(split, width))
    assert sum(one["forward"] + one["backward"] for one in told[2]) == SIZE * rows


def ids_of_others(workers: Workers, schema: RankingSchema) -> tuple[int, int]:
    """Return how many bytes of ids a worker sends, and how many it should, id by id."""
    config, sizes = known("deepfm", schema, growth={})
    ranker = share_ranker(
        build_ranker("deepfm", config, schema), workers, "des", DistributedConfig(), {}
    )
    whole = even_batch(schema, SIZE * PERIOD)
    own = whole.rows(workers.rank * PERIOD, (workers.rank + 1) * PERIOD)
    ids: list[Tensor] = [*own.codes.T, *(bag.values for bag in own.bags)]
    away = sum(int((~ranker.owns(column)).sum()) for column in ids)
    assert sizes.num_fields == len(ids)
    cells = (len(ids) + 2) * (SIZE - 1)  # lengths to all, those of two bags twice
    workers.traffic.take()
    ranker.share_own(own, len(whole))
    least = 8 * away + 8 * (SIZE - 1) + cells  # ids, how long messages are, bits of lengths
    # Lengths of 3 columns are 0 or 1, those of tags up to 2, of the history up to 3, twice.
    return workers.traffic.take()["ids"] - least, (3 + 2 * 2 + 2 * 2) * PERIOD / 8 * (SIZE - 1)


def test_ids_of_tables_that_grow() -> None:
    for of_lengths, most in run_workers(ids_of_others, SIZE, even_schema()):
        assert 0 < of_lengths <= most + SIZE
    _, sizes = known("deepfm", even_schema(), growth={})
    candidate = make_candidate("des", "scatter", sizes, Workload(batch_size=36), SIZE)
    assert candidate.layout == "hash"
    assert candidate.cost
    # Of 8 ids of a row a third for each; 5 lengths of a bit, as a third of 3; and two of 2 bits.
    message = 5 + 2 + 8 * 8 * PERIOD / 3 + -(-PERIOD * (5 + 2 * 2) // 8)
    expected = (SIZE - 1) * (8 + message) + sent(costs.label_weights(Split(SIZE, PERIOD), 2))
    assert sent(candidate.cost.transfers, "ids") == expected


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("scheme", ["des", "table_wise", "row_wise"])
def test_a_plan_counts_with_the_layout_that_training_takes(name: str, scheme: Any) -> None:
    schema = even_schema()
    for growth in (None, {}):
        config, sizes = known(name, schema, growth=growth)
        layout, obstacle = find_layout(scheme, sizes, SIZE)
        if not obstacle:
            model = build_ranker(name, config, schema)
            assert train_shared.needed_layout(model, scheme) == layout
            assert train_shared.may_split(model, scheme) == may_split(scheme, sizes)
