"""What each way to share out a model's tables costs: bytes, memory and time of a step.

The time is a model on paper. Products are counted as 6 for each weight of the dense layers and row,
forward and backward; the embedding side as reads of a vector for each id, reads and writes of the
touched rows with what the optimizer keeps, and buffers written and read once. Bytes are divided by
the bandwidth that is given. It leaves out what Python, kernels' starts, a slow worker and
congestion take, so that a measured step is slower; where it is used to choose, only differences
count.
Shapes: N workers, B rows of a step, b = B / N; F columns, D width of a vector, n ids of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ensue.distributed import costs, shares
from ensue.distributed.cluster import GB, Cluster, Workload
from ensue.distributed.costs import FLOAT_BYTES, Schedule, Split, Transfers
from ensue.distributed.shares import Shares
from ensue.distributed.sizes import Layout, Sizes

Scheme = Literal["replicated", "table_wise", "row_wise", "des"]

# The simplest first: it is taken where others cost the same, as of one worker.
WAYS: tuple[tuple[Scheme, Schedule], ...] = (
    ("replicated", "scatter"),
    ("table_wise", "scatter"),
    ("row_wise", "scatter"),
    ("des", "scatter"),
    ("des", "all_reduce"),
)
_DENSE_BYTES = 16  # of a weight outside of the tables: itself, its gradient, two moments of Adam
# Of a look-up, measured on CPUs: to read a value and see that another worker has its row, and to
# pack, send and unpack one.
READ_SHARE, EXCHANGE_SHARE = 0.2, 1.1
_STEP_FLOPS = 6  # of such a weight and a row: a product and a sum, forward and twice backward


@dataclass(frozen=True)
class Cost:
    """What a step costs a worker, of several the one with the most.

    compute_seconds, network_seconds, latency_seconds: None where the machines are not known.
    """

    transfers: Transfers
    memory_bytes: float
    compute_seconds: float | None = None
    network_seconds: float | None = None
    latency_seconds: float | None = None

    @property
    def num_bytes(self) -> float:
        """Bytes that are sent."""
        return costs.sent(self.transfers)

    @property
    def overlapped_seconds(self) -> float | None:
        """The least a step can take: max(compute, bytes / bandwidth) + rounds * latency."""
        if (
            self.compute_seconds is None
            or self.network_seconds is None
            or self.latency_seconds is None
        ):
            return None
        return max(self.compute_seconds, self.network_seconds) + self.latency_seconds

    @property
    def serial_seconds(self) -> float | None:
        """What it takes when nothing is sent while something is computed."""
        if (
            self.compute_seconds is None
            or self.network_seconds is None
            or self.latency_seconds is None
        ):
            return None
        return self.compute_seconds + self.network_seconds + self.latency_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the cost, ready for JSON."""
        return {
            "sent": {
                "total": self.num_bytes,
                **{part: costs.sent(self.transfers, part) for part in costs.PARTS},
            },
            "rounds": {part: costs.rounds(self.transfers, part) for part in costs.PARTS},
            "memory_bytes": self.memory_bytes,
            "seconds": {
                "compute": self.compute_seconds,
                "network": self.network_seconds,
                "latency": self.latency_seconds,
                "step_overlapped": self.overlapped_seconds,
                "step_serial": self.serial_seconds,
            },
        }


@dataclass(frozen=True)
class Candidate:
    """A way to share out the tables of a model.

    layout: what of a table a worker has: "" is all, "hash" some rows of all, "field" whole
        vocabularies, and parts of giant ones, "column" some columns of all rows.
    obstacle: why it cannot be taken, "" if it can. cost: None where it does not exist at all.
    """

    scheme: Scheme
    schedule: Schedule
    layout: Layout
    obstacle: str
    cost: Cost | None

    @property
    def name(self) -> str:
        """The scheme, with the schedule where there is a choice of one."""
        return f"des_{self.schedule}" if self.scheme == "des" else self.scheme

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate, ready for JSON."""
        return {
            "name": self.name,
            "scheme": self.scheme,
            "schedule": self.schedule,
            "layout": self.layout,
            "obstacle": self.obstacle,
            "cost": None if self.cost is None else self.cost.to_dict(),
        }


def make_candidate(
    scheme: Scheme, schedule: Schedule, sizes: Sizes, workload: Workload, workers: Cluster | int
) -> Candidate:
    """Return what a scheme costs a model, or why it cannot be taken."""
    cluster = workers if isinstance(workers, Cluster) else None
    num_workers = workers if isinstance(workers, int) else workers.num_workers
    layout, obstacle = find_layout(scheme, sizes, num_workers)
    if obstacle:
        return Candidate(scheme, schedule, layout, obstacle, None)
    split = workload.split(num_workers)
    held = shares.share(layout, sizes, num_workers, may_split=may_split(scheme, sizes))
    transfers = max(worker_transfers(scheme, schedule, held, sizes, workload), key=costs.sent)
    buffers = _buffer_bytes(scheme, sizes, split)
    local = sizes.local if scheme == "des" else 0
    memory = (
        shares.table_bytes(held, sizes, workload)
        + _DENSE_BYTES * (sizes.dense - local + (shares.local_held(sizes, held) if local else 0))
        + buffers
        + 2 * FLOAT_BYTES * sizes.activations * _upper_rows(schedule, split)
    )
    if cluster is None:
        return Candidate(scheme, schedule, layout, "", Cost(transfers, memory))
    flops, traffic = _work(scheme, schedule, sizes, workload, split)
    compute = flops / (cluster.tflops * 1e12)
    compute += (traffic + 2 * buffers) / (cluster.memory_gb_s * GB)
    unique = _unique_ids(sizes, workload, split)
    compute += _values(scheme, schedule, sizes, split, unique) * cluster.value_ns * 1e-9
    network, latency = cluster.seconds(transfers), cluster.latency_seconds(transfers)
    if memory > cluster.memory_gb * GB:
        obstacle = f"{memory / GB:,.1f} GB are more than the {cluster.memory_gb:g} GB of a worker"
    cost = Cost(transfers, memory, compute, network, latency)
    return Candidate(scheme, schedule, layout, obstacle, cost)


def find_layout(scheme: Scheme, sizes: Sizes, num_workers: int) -> tuple[Layout, str]:
    """Return how a scheme shares out tables, and why it cannot, if so."""
    if scheme == "replicated":
        if sizes.grows and num_workers > 1:
            return "", "a row of a table that grows is made in one place"
        return "", ""
    if sizes.attends and scheme != "des":
        return "", "attention needs the single rows of a history"
    if scheme == "row_wise":
        return "hash", ""
    if scheme == "table_wise":
        obstacle = "rows of tables that grow are divided by a hash" if sizes.grows else ""
        return "field", obstacle if num_workers > 1 else ""
    if sizes.obstacle:
        return "", sizes.obstacle
    has_dots = any(one.layout == "column" for one in sizes.operators)
    if sizes.grows:
        if has_dots or any(one.everywhere for one in sizes.operators):
            return "", "rows of tables that grow are divided by a hash, and sums need whole columns"
        return "hash", ""
    if has_dots and num_workers > sizes.dim:
        return "column", f"{num_workers} workers are more than the {sizes.dim} of a vector"
    return ("column" if has_dots else "field"), ""


def may_split(scheme: Scheme, sizes: Sizes) -> bool:
    """Return whether several workers may have rows of a column: not where its whole is needed."""
    return scheme == "des" and not any(one.everywhere for one in sizes.operators)


def worker_transfers(
    scheme: Scheme, schedule: Schedule, held: Shares, sizes: Sizes, workload: Workload
) -> Iterator[Transfers]:
    """Yield all that each worker sends in a step; ids are those of mean rows."""
    num_workers = len(held.widths)
    split = workload.split(num_workers)
    if num_workers == 1:
        yield ()
        return
    floats = split._replace(wire_bytes=FLOAT_BYTES)
    local = sizes.local if scheme == "des" else 0
    shared = local / sizes.num_fields * held.split if local else 0
    told = sizes.tasks + costs.NUM_WISHES
    # Gradients of whole tables travel with the others, in one all-reduce.
    whole = scheme == "replicated" and workload.has_whole_gradients
    weights = sizes.dense - local + shared + (sizes.num_weights if whole else 0)
    dense = costs.dense_gradients(floats, told + weights)
    ahead = costs.label_weights(split, sizes.tasks)
    if scheme == "des" and schedule == "all_reduce":
        summed = _sums_of_all(sizes, held, split)
        summed += costs.gradients_everywhere(floats, shared)
        for _ in range(num_workers):  # all read all rows, and compute the same
            yield summed + costs.dense_gradients(floats, told)
        return
    if scheme == "replicated":
        for _ in range(num_workers):
            yield ahead + dense + (() if whole else _replicated_rows(sizes, workload, floats))
        return
    messages = [costs.packed_ids(split.num_rows, *told) for told in held.told]
    everyone = sum(messages)
    for rank in range(num_workers):
        keys = costs.ids_sent(everyone - messages[rank], num_workers - 1)
        if scheme == "row_wise":
            moved = costs.row_wise(split, sizes.width)
        elif scheme == "table_wise":
            moved = costs.table_wise(split, sizes.width, held.widths[rank])
        else:
            moved = _sums_of_own(sizes, held, split, rank)
        yield keys + ahead + moved + dense


def _sums_of_own(sizes: Sizes, held: Shares, split: Split, rank: int) -> Transfers:
    """Return what travels for sums that each worker gets of its own rows."""
    moved = costs.sums(split, _sum_width(sizes, held))
    for operator in sizes.operators:
        if operator.everywhere:
            moved += costs.des_crosses(split, 1, operator.width)
    if sizes.spread:
        # To the owners of columns and back, as pooled vectors travel.
        own = len(range(rank, sizes.spread, split.num_workers))
        moved = costs.spread(split, sizes.spread, own) + moved
    return moved


def _sums_of_all(sizes: Sizes, held: Shares, split: Split) -> Transfers:
    """Return what travels for sums that every worker gets of all rows."""
    moved = costs.sums(split, _sum_width(sizes, held), "all_reduce")
    floats = split._replace(wire_bytes=FLOAT_BYTES)
    for operator in sizes.operators:
        if operator.everywhere:
            moved += costs.des_crosses(split, 1, operator.width)
        moved += costs.gradients_everywhere(floats, operator.shared)
    if sizes.spread:
        rows = split.num_rows * split.num_workers
        moved += costs.gradients_everywhere(split, rows * sizes.spread)
    return moved


def _sum_width(sizes: Sizes, held: Shares) -> int:
    """Return the numbers of a row that travel once each way, in one buffer."""
    return sum(
        one.width + one.of_bag * held.split_bags for one in sizes.operators if not one.everywhere
    )


def _replicated_rows(sizes: Sizes, workload: Workload, floats: Split) -> Transfers:
    """Return what travels of the gradients of tables that all workers have."""
    numbers = sizes.dim + sizes.weights
    return costs.replicated_rows(
        floats, _unique_ids(sizes, workload, floats), sizes.num_tables, numbers
    )


def _unique_ids(sizes: Sizes, workload: Workload, split: Split) -> float:
    """Return the different ids in a worker's rows, of which there are not more than rows."""
    return min(workload.unique_ids or split.num_rows * sizes.ids_per_row, sizes.num_rows)


def _buffer_bytes(scheme: Scheme, sizes: Sizes, split: Split) -> float:
    """Return the memory of vectors and sums on their way, and of their gradients."""
    own = split.num_rows * sizes.width
    batch = split.num_rows * split.num_workers
    if scheme == "row_wise":
        return 2 * FLOAT_BYTES * batch * sizes.width
    if scheme == "table_wise":  # of all rows some columns, then of some rows all columns
        return 4 * FLOAT_BYTES * own
    if scheme == "des":
        width = sum(one.width for one in sizes.operators)
        return 2 * FLOAT_BYTES * (own + batch * width)
    return 2 * FLOAT_BYTES * own


def _upper_rows(schedule: Schedule, split: Split) -> int:
    """Return the rows of a step that a worker takes through the layers behind the sums."""
    return split.num_rows * (split.num_workers if schedule == "all_reduce" else 1)


def _values(scheme: Scheme, schedule: Schedule, sizes: Sizes, split: Split, unique: float) -> float:
    """Return the work of a worker with values in a step, in look-ups of one of them in a table."""
    own = split.num_rows * sizes.ids_per_row
    num_tables = (sizes.dim > 0) + (sizes.weights > 0)
    work = own * num_tables
    if schedule == "all_reduce":
        return work + READ_SHARE * own * (split.num_workers - 1)
    if split.num_workers == 1:
        return work
    if scheme == "replicated":  # the rows of all workers are joined and stepped
        return work + num_tables * split.num_workers * unique
    return work + EXCHANGE_SHARE * own


def _work(
    scheme: Scheme, schedule: Schedule, sizes: Sizes, workload: Workload, split: Split
) -> tuple[float, float]:
    """Return the operations of a step, and the bytes that its lookups and updates move."""
    local = sizes.local if scheme == "des" else 0
    flops = _STEP_FLOPS * (
        local * split.num_rows + (sizes.dense - local) * _upper_rows(schedule, split)
    )
    looked_up = split.num_rows * sizes.ids_per_row
    unique = _unique_ids(sizes, workload, split)
    kept = 2 * FLOAT_BYTES * (1 + workload.state_numbers)  # read and written
    if scheme == "replicated":
        unique *= split.num_workers  # every worker moves the rows of all
    traffic = (sizes.dim + sizes.weights) * (FLOAT_BYTES * looked_up + kept * unique)
    if scheme == "replicated" and split.num_workers > 1 and workload.has_whole_gradients:
        traffic += sizes.num_weights * (kept + 2 * FLOAT_BYTES)
    return flops, traffic
