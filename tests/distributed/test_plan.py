"""Plans: which scheme is the cheapest, by the formulas, and what is said of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ensue.config import make_config
from ensue.distributed import costs
from ensue.distributed.candidates import WAYS, Candidate
from ensue.distributed.cluster import Cluster, Workload
from ensue.distributed.costs import Split, Transfer, sent
from ensue.distributed.plan import NAMES, Plan, make_plan
from ensue.distributed.sizes import sizes_of
from ensue.errors import UsageError
from ensue.models.ranking.table import get_ranker
from ensue.runs.plan import Columns
from tests.ranking_helpers import make_schema

MANY_FIELDS = {"num_fields": 200, "rows": [10**7], "ids_per_row": 1000}
CRITEO = {"num_fields": 26, "rows": [3 * 10**7], "num_numbers": 13}


def planned(
    model: str,
    columns: dict[str, Any],
    workers: Cluster | int,
    *,
    scheme: str | None = None,
    work: dict[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    described = make_config(Columns, columns)
    config = make_config(get_ranker(model).model.Config, settings)
    sizes = sizes_of(model, config, described.schema_of_rows, ids_per_row=described.means)
    return make_plan(sizes, Workload(**(work or {})), workers, scheme=scheme)


def of(plan: Plan, name: str) -> Candidate:
    return next(one for one in plan.candidates if one.name == name)


def parts(candidate: Candidate) -> dict[str, float]:
    assert candidate.cost is not None
    return {part: sent(candidate.cost.transfers, part) for part in costs.PARTS}


def test_bytes_are_those_of_the_formulas() -> None:
    work = {"batch_size": 2048, "unique_ids": 150_000}
    plan = planned("deepfm", MANY_FIELDS, 4, work=work, dim=8, hidden=[256])
    split, width, dense = Split(4, 512), 200 * 9, 200 * 8 * 256 + 256 + 257
    # 50 columns of others each: 5 codes of 50,000 values in 16 bits, lengths up to 10 in 4 bits and
    # a byte that says so; how long the messages are, and the sum of label weights in float64.
    keys = 3 * (50 * (512 * (5 * 2 + 0.5) + 1) + 8) + 2 * 8 * 3
    assert keys < sent(costs.key_exchange(split, 1000, 200)) / 2
    told = 1 + 2  # a loss, and what is said of stopping and saving
    assert plan.sizes.dense == dense
    assert parts(of(plan, "des_scatter")) == {
        "ids": keys,
        "forward": 512 * 3 * 265 * 4,
        "backward": 512 * 3 * 265 * 4,
        "dense": 2 * (256 + 257 + told) * 4 * 3 / 4,  # the first layer's biases, and the output
    }
    assert parts(of(plan, "des_all_reduce")) == {
        "ids": 0,  # all workers read all rows
        "forward": 2 * 512 * 3 * 265 * 4,
        "backward": 0,
        "dense": 2 * 1 * 4 * 3,  # what is told, padded to a number for each worker
    }
    assert parts(of(plan, "row_wise"))["forward"] == 512 * 3 * width * 4
    assert parts(of(plan, "table_wise"))["forward"] == 512 * 3 * width * 4 / 4
    assert parts(of(plan, "table_wise"))["dense"] == 2 * (dense + told) * 4 * 3 / 4
    rows = 150_000 * (2 * 8 + 9 * 4) + 2 * 8  # of two tables, and how many
    assert parts(of(plan, "replicated"))["dense"] == 2 * (dense + told) * 4 * 3 / 4 + 3 * rows
    assert parts(of(plan, "replicated"))["ids"] == 2 * 8 * 3
    assert parts(of(plan, "replicated"))["backward"] == 0
    whole = planned("deepfm", MANY_FIELDS, 4, work={"optimizer": "adam"}, dim=8, hidden=[256])
    weights = whole.sizes.num_weights
    assert parts(of(whole, "replicated"))["dense"] == 2 * (dense + told + weights) * 4 * 3 / 4
    assert plan.server_bytes == 2 * 150_000 * 9 * 4 + 16 * 150_000


def test_bfloat16_halves_what_is_summed_and_nothing_else() -> None:
    ours = [
        parts(of(planned("deepfm", MANY_FIELDS, 4, work={"wire": wire}), "des_scatter"))
        for wire in ("float32", "bfloat16")
    ]
    assert ours[1]["forward"] == ours[0]["forward"] / 2
    assert (ours[1]["ids"], ours[1]["dense"]) == (ours[0]["ids"], ours[0]["dense"])


@pytest.mark.parametrize(
    ("model", "columns", "workers", "settings", "expected"),
    [
        # Where it wins: one number, or few beside many columns.
        ("lr", MANY_FIELDS, 4, {}, "des_all_reduce"),
        ("fm", MANY_FIELDS, 4, {"dim": 8}, "des_all_reduce"),
        ("deepfm", MANY_FIELDS, 4, {"dim": 8, "hidden": [256]}, "des_all_reduce"),
        ("fm", CRITEO, 8, {"dim": 16}, "des_all_reduce"),
        # Crosses of low rank are sums, too.
        ("dcn_v2", MANY_FIELDS, 4, {"dim": 8, "cross_rank": 8, "hidden": [32]}, "des_all_reduce"),
        # Where it loses: a wide first layer over few columns.
        ("deepfm", CRITEO, 8, {"dim": 16, "hidden": [512, 256]}, "table_wise"),
        ("wide_deep", CRITEO, 8, {"dim": 16, "hidden": [512, 256]}, "table_wise"),
        ("dcn_v2", MANY_FIELDS, 4, {"dim": 8}, "table_wise"),
        # A table of a few rows is cheapest copied.
        ("fm", {"num_fields": 3, "rows": [60]}, 2, {"dim": 4}, "replicated"),
    ],
)
def test_the_cheapest_by_bytes(
    model: str,
    columns: dict[str, Any],
    workers: int,
    settings: dict[str, Any],
    expected: str,
) -> None:
    plan = planned(model, columns, workers, work={"batch_size": 512 * workers}, **settings)
    assert plan.chosen.name == expected
    possible = [one.cost.num_bytes for one in plan.candidates if one.cost and not one.obstacle]
    assert plan.chosen.cost
    assert plan.chosen.cost.num_bytes == min(possible)


@pytest.mark.parametrize("hidden", [7, 8, 9, 63, 64, 65])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_the_inequalities_decide(hidden: int, workers: int) -> None:
    """Of 16 columns of 4 numbers, at the widths where one side of them becomes the other."""
    columns = {"num_fields": 16, "rows": [1600]}
    plan = planned("shared_bottom", columns, workers, dim=4, hidden=[hidden])
    ours, table_wise, row_wise = (
        parts(of(plan, name))["forward"] for name in ("des_scatter", "table_wise", "row_wise")
    )
    assert (ours < table_wise) == (hidden < 64 / workers)
    assert (ours == table_wise) == (hidden == 64 / workers)
    assert (ours < row_wise) == (hidden < 64)


def test_machines_change_the_choice_by_time() -> None:
    """A slow processor does not compute all rows; a long way wants few rounds."""
    near = Cluster(nodes=4, network_gbits=100, latency_us=0, tflops=0.1)
    far = Cluster(nodes=4, network_gbits=100, latency_us=10**6, tflops=100)
    settings = {"work": {"batch_size": 4096}, "dim": 8, "hidden": [64, 512, 512]}
    assert planned("wide_deep", MANY_FIELDS, near, **settings).chosen.name == "des_scatter"
    assert planned("wide_deep", MANY_FIELDS, far, **settings).chosen.name == "des_all_reduce"


def test_one_worker_needs_no_scheme() -> None:
    plan = planned("deepfm", CRITEO, 1)
    assert plan.chosen.name == "replicated"
    assert all(not one.cost or one.cost.num_bytes == 0 for one in plan.candidates)
    assert plan.chosen.cost
    assert of(plan, "row_wise").cost
    cluster = Cluster(memory_gb=1000)
    seconds = {
        one.cost.network_seconds
        for one in planned("deepfm", CRITEO, cluster).candidates
        if one.cost
    }
    assert seconds == {0.0}


def test_time_of_a_step() -> None:
    cluster = Cluster(nodes=4, network_gbits=8, latency_us=50, memory_gb_s=10, tflops=0.001)
    work = {"batch_size": 2048, "optimizer": "adagrad", "unique_ids": 1000}
    plan = planned("fm", {"num_fields": 20, "rows": [10**6]}, cluster, work=work, dim=4)
    cost = of(plan, "des_scatter").cost
    assert cost is not None
    # 8 Gbit/s are 10^9 bytes/s; of 15 columns of others codes of 16 bits, lengths of one, and which
    # bits; sizes of messages, a weight; 5 numbers each way; bias, loss, wishes.
    keys = 15 * (512 * 17 / 8 + 1) + 3 * 8 + 2 * 8 * 3
    sums, dense = 512 * 3 * 5 * 4, 2 * 4 * 4 * 0.75
    # With gloo a reduce-scatter is an exchange: both leave the node as often with 1 worker each.
    assert cost.network_seconds == pytest.approx((keys + 2 * sums + dense) / 1e9)
    assert cost.latency_seconds == pytest.approx(3 * 50e-6)
    lookups = 5 * 4 * (512 * 20 + 2 * 2 * 1000)
    buffers = 2 * 4 * (512 * 20 * 5 + 2048 * 5)
    compute = 6 * 1 * 512 / 1e9 + (lookups + 2 * buffers) / 1e10
    assert cost.compute_seconds == pytest.approx(compute)
    longest = max(compute, cost.network_seconds)
    assert cost.overlapped_seconds == pytest.approx(longest + 150e-6)
    assert cost.serial_seconds == pytest.approx(compute + cost.network_seconds + 150e-6)
    rows = of(plan, "des_all_reduce").cost
    assert rows is not None
    assert rows.latency_seconds == pytest.approx(100e-6)


def test_rings_leave_a_node_once_and_exchanges_from_every_worker() -> None:
    ring = (Transfer("backward", "all_gather", 1e9),)
    exchange = (Transfer("forward", "all_to_all", 1e9),)
    scatter = (Transfer("forward", "reduce_scatter", 1e9),)
    gloo = Cluster(nodes=2, workers_per_node=4, network_gbits=8, node_gbits=80)
    nccl = gloo.model_copy(update={"backend": "nccl"})
    assert gloo.seconds(ring) == nccl.seconds(ring) == nccl.seconds(scatter) == 1.0
    assert gloo.seconds(exchange) == gloo.seconds(scatter) == pytest.approx(4 * 4 / 7)
    alone = Cluster(workers_per_node=4, network_gbits=0.001, node_gbits=8)
    assert alone.seconds(ring) == alone.seconds(exchange) == 1.0


def test_memory_of_a_worker() -> None:
    """Tables of 9 numbers a row, shared by field: the giant is split, the rest is whole."""
    columns = {"num_fields": 4, "rows": [10**9, 999, 999, 999]}
    work = {"batch_size": 400, "optimizer": "adagrad"}
    plan = planned("deepfm", columns, 4, work=work, dim=8, hidden=[16])
    giant = (10**9 + 1) * 9 * 4 * 2
    found = {one.name: one.cost.memory_bytes for one in plan.candidates if one.cost}
    total = giant + 3 * 1000 * 9 * 4 * 2
    assert found["row_wise"] == pytest.approx(total / 4, rel=1e-4)
    # 1 + 1/4 of 2 over 4 workers: two of them hold the giant, the others the lookups of the rest.
    assert found["table_wise"] == pytest.approx(giant, rel=1e-4)  # where vectors are finished
    assert found["des_scatter"] == pytest.approx(giant / 2, rel=1e-4)
    assert found["replicated"] == pytest.approx(total, rel=1e-4)
    adam = planned("deepfm", columns, 4, work={**work, "optimizer": "adam"}, dim=8, hidden=[16])
    more = of(adam, "replicated").cost
    assert more
    # Three numbers in place of two, and one for the gradients of all rows.
    assert more.memory_bytes == pytest.approx(total * 2, rel=1e-4)
    small = {**columns, "rows": [10, 10, 10, 10]}
    dense = planned("deepfm", small, 4, work=work, dim=8, hidden=[16]).sizes.dense
    one = planned("deepfm", small, 1, work={"batch_size": 1}, dim=8, hidden=[16])
    assert one.chosen.cost
    tables, buffers, layers = 4 * 11 * 9 * 4 * 3, 2 * 4 * 4 * 9, 2 * 4 * 17
    assert one.chosen.cost.memory_bytes == tables + 16 * dense + buffers + layers


def test_row_state_and_growing_tables_count_rows() -> None:
    columns = {"num_fields": 2, "rows": [10**9]}
    size = {}
    for optimizer in ("sgd", "rowwise_adagrad", "lazy_adam"):
        plan = planned("dlrm", columns, 2, work={"optimizer": optimizer}, dim=8, hidden=[4])
        assert of(plan, "row_wise").cost
        size[optimizer] = of(plan, "row_wise").cost.memory_bytes  # type: ignore[union-attr]
    assert size["rowwise_adagrad"] - size["sgd"] == pytest.approx(10**9 * 4 / 2, rel=1e-6)
    assert size["lazy_adam"] - size["sgd"] == pytest.approx(10**9 * 8 * 8 / 2, rel=1e-6)
    grown = planned("dlrm", columns, 2, work={"optimizer": "sgd"}, dim=8, hidden=[4], growth={})
    more = of(grown, "row_wise").cost
    assert more is not None
    assert more.memory_bytes - size["sgd"] == pytest.approx(10**9 * 32 / 2, rel=1e-6)


def test_what_does_not_fit_is_no_choice() -> None:
    columns = {"num_fields": 30, "rows": [10**9]}
    cluster = Cluster(nodes=16, memory_gb=10)
    plan = planned("lr", columns, cluster)
    assert "10 GB of a worker" in of(plan, "replicated").obstacle
    assert plan.chosen.name.startswith("des")
    with pytest.raises(UsageError, match=r"no scheme is possible for lr on 16 workers \(replic"):
        planned("lr", columns, Cluster(nodes=16, memory_gb=0.1))


def test_layouts() -> None:
    eight = {"num_fields": 8, "rows": [1000]}
    plan = planned("wide_deep", eight, 8, dim=16)
    assert [one.layout for one in plan.candidates] == ["", "field", "hash", "field", "field"]
    plan = planned("wide_deep", eight, 17, dim=16)
    assert [one.layout for one in plan.candidates] == ["", "field", "hash", "field", "field"]
    assert of(planned("dlrm", eight, 8, dim=16), "des_scatter").layout == "column"
    plan = planned("dlrm", eight, 17, dim=16)
    assert of(plan, "des_scatter").obstacle == "17 workers are more than the 16 of a vector"
    grown = planned("fm", eight, 1000, dim=16, growth={})
    assert [one.layout for one in grown.candidates] == ["", "field", "hash", "hash", "hash"]
    for name in ("replicated", "table_wise"):
        assert "table" in of(grown, name).obstacle
    for model in ("dlrm", "dcn_v2"):
        settings = {"cross_rank": 2} if model == "dcn_v2" else {}
        grown = planned(model, eight, 8, dim=16, growth={}, **settings)
        assert "sums need whole columns" in of(grown, "des_scatter").obstacle
    assert of(planned("fm", eight, 1, dim=16, growth={}), "replicated").obstacle == ""


def test_a_worker_with_more_columns_than_others_sends_more() -> None:
    columns = {"num_fields": 5, "rows": [10**6]}
    plan = planned("wide_deep", columns, 4, work={"batch_size": 400}, dim=3)
    # Two columns of 3 + 1 numbers for the three others, and gradients of three for theirs.
    assert parts(of(plan, "table_wise"))["forward"] == 3 * 8 * 100 * 4
    assert parts(of(plan, "table_wise"))["backward"] == 12 * 100 * 4


def test_workers_of_a_split_vocabulary_share_the_weights_of_its_columns() -> None:
    """Two columns on 4 workers: each is split in two, who add up a half of the first layer."""
    columns = {"num_fields": 2, "rows": [10**6]}
    plan = planned("wide_deep", columns, 4, work={"batch_size": 400}, dim=3, hidden=[8])
    assert of(plan, "table_wise").layout == "field"
    assert parts(of(plan, "table_wise"))["forward"] == 3 * 4 * 100 * 4
    assert parts(of(plan, "table_wise"))["backward"] == 4 * 100 * 4
    told, rest, first = 1 + 2, 8 + 9, 2 * 3 * 8
    assert parts(of(plan, "des_scatter"))["dense"] == (told + rest + first) * 2 * 4 * 3 / 4
    assert parts(of(plan, "des_all_reduce"))["backward"] == first * 2 * 4 * 3 / 4
    whole = planned("wide_deep", columns, 2, work={"batch_size": 400}, dim=3, hidden=[8])
    assert parts(of(whole, "des_scatter"))["dense"] == (told + rest) * 2 * 4 / 2
    assert parts(of(whole, "des_all_reduce"))["backward"] == 0


def test_attention_needs_whole_tables() -> None:
    schema = make_schema(tasks=["binary"])
    config = make_config(get_ranker("wide_deep").model.Config, {"history": "attention"})
    sizes = sizes_of("wide_deep", config, schema)
    plan = make_plan(sizes, Workload(), 2)
    for name in ("row_wise", "table_wise"):
        assert "single rows of a history" in of(plan, name).obstacle
    assert "attention over histories" in of(plan, "des_scatter").obstacle
    assert plan.chosen.name == "replicated"


def test_sums_that_all_workers_need_travel_twice_each_way() -> None:
    settings = {"dim": 4, "hidden": [8], "cross_rank": 2, "num_crosses": 3}
    plan = planned("dcn_v2", CRITEO, 4, work={"batch_size": 400}, **settings)
    cost = of(plan, "des_scatter").cost
    assert cost
    one_way = 100 * 3 * 4
    assert sent(cost.transfers, "forward") == one_way * (8 + 3 * 2 * 2)
    assert sent(cost.transfers, "backward") == one_way * (8 + 3 * 2 * 2)
    assert costs.rounds(cost.transfers, "forward") == 4


def test_the_bottom_vector_of_dlrm_goes_to_the_owners_of_columns() -> None:
    with_numbers = planned("dlrm", CRITEO, 4, work={"batch_size": 400}, dim=8)
    without = planned("dlrm", {**CRITEO, "num_numbers": 0}, 4, work={"batch_size": 400}, dim=8)
    everywhere = [parts(of(one, "des_all_reduce"))["backward"] for one in (with_numbers, without)]
    assert everywhere == [2 * 100 * 3 * 8 * 4, 0]
    sums = [parts(of(one, "des_scatter"))["forward"] for one in (with_numbers, without)]
    assert sums == [100 * 3 * 27 * 26 // 2 * 4 + 100 * 8 * 4 * 3 / 4, 100 * 3 * 26 * 25 // 2 * 4]


def test_a_scheme_by_name() -> None:
    for name in NAMES:
        plan = planned("fm", MANY_FIELDS, 4, scheme=name)
        assert plan.is_forced
        assert name in (plan.chosen.name, plan.chosen.scheme)
    assert {one.name for one in plan.candidates} == {*NAMES} - {"des"}
    with pytest.raises(UsageError, match=r"no scheme 'table'\. Did you mean 'table_wise'"):
        planned("fm", MANY_FIELDS, 4, scheme="table")
    with pytest.raises(UsageError, match=r"\(des_scatter: crosses of full rank .* set cross_rank"):
        planned("dcn_v2", CRITEO, 4, scheme="des")


@pytest.mark.parametrize("workers", [0, 4097])
def test_every_worker_has_a_row(workers: int) -> None:
    with pytest.raises(UsageError, match=f"got {workers} workers and batch_size=4096"):
        planned("fm", MANY_FIELDS, workers)


def test_what_is_said_of_a_plan() -> None:
    plan = planned("deepfm", CRITEO, Cluster(nodes=8), work={"batch_size": 16_384}, dim=16)
    header, rows = plan.table()
    assert len(rows) == len(WAYS)
    assert all(len(row) == len(header) for row in rows)
    assert [row[1] for row in rows if row[0] == "->"] == [plan.chosen.name]
    lines = plan.describe()
    assert lines[0] == "deepfm on 8 workers: table_wise, the cheapest."
    assert lines[1] == (
        "Substitution sums 529 numbers a row (weights of values 1, pairs 16, first layer 512); it "
        "sends less than table-wise below 55 on so many workers, less than row-wise below 442."
    )
    assert "no id twice in a batch" in lines[2]
    told = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert told["chosen"] == "table_wise"
    assert [one["name"] for one in told["candidates"]] == [one.name for one in plan.candidates]
    full = planned("dcn_v2", CRITEO, 8)
    assert full.describe()[1].startswith("No substitution: crosses of full rank")
    assert full.to_dict()["candidates"][3]["cost"] is None
    assert full.to_dict()["cluster"] is None
    assert full.table()[1][3][3] is None


def test_ten_billion_rows_on_a_thousand_workers() -> None:
    cluster = Cluster(nodes=128, workers_per_node=8, network_gbits=400, node_gbits=3600,
                      memory_gb=80, memory_gb_s=2000, tflops=100, backend="nccl")  # fmt: skip
    columns = {"num_fields": 100, "rows": [10**10], "ids_per_row": 300}
    plan = planned("deepfm", columns, cluster, work={"batch_size": 1 << 20}, dim=32)
    assert plan.num_workers == 1024
    assert "more than the 80 GB" in of(plan, "replicated").obstacle
    memory = 10**10 * 33 * 4 * 3 / 1024
    assert of(plan, "row_wise").cost
    assert of(plan, "row_wise").cost.memory_bytes > memory  # type: ignore[union-attr]
    # More workers than columns: each of 100 has a column, the others none.
    share = 10**8 * 33 * 4 * 3
    found = of(plan, "table_wise").cost
    assert found is not None
    assert found.memory_bytes == pytest.approx(share + 4 * 4 * 1024 * 3300, rel=0.01)
    assert sent(found.transfers, "forward") == 1023 * 33 * 1024 * 4
