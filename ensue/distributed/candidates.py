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

from dataclasses import dataclass
from typing import Any, Literal

from ensue.distributed import costs, shares
from ensue.distributed.cluster import GB, Cluster, Workload
from ensue.distributed.costs import Schedule, Split, Transfer, Transfers
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
FLOAT_BYTES = 4
_DENSE_BYTES = 16  # of a weight outside of the tables: itself, its gradient, two moments of Adam
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
    layout, obstacle = _find_layout(scheme, sizes, num_workers)
    if obstacle:
        return Candidate(scheme, schedule, layout, obstacle, None)
    split = workload.split(num_workers)
    transfers = _transfers(scheme, schedule, layout, sizes, split)
    buffers = _buffer_bytes(scheme, sizes, split)
    memory = (
        shares.table_bytes(layout, sizes, workload, num_workers)
        + _DENSE_BYTES * _dense_held(scheme, layout, sizes, num_workers)
        + buffers
        + 2 * FLOAT_BYTES * sizes.activations * _upper_rows(schedule, split)
    )
    if cluster is None:
        return Candidate(scheme, schedule, layout, "", Cost(transfers, memory))
    flops, traffic = _work(scheme, schedule, sizes, workload, split)
    compute = flops / (cluster.tflops * 1e12)
    compute += (traffic + 2 * buffers) / (cluster.memory_gb_s * GB)
    network, latency = cluster.seconds(transfers), cluster.latency_seconds(transfers)
    if memory > cluster.memory_gb * GB:
        obstacle = f"{memory / GB:,.1f} GB are more than the {cluster.memory_gb:g} GB of a worker"
    cost = Cost(transfers, memory, compute, network, latency)
    return Candidate(scheme, schedule, layout, obstacle, cost)


def _find_layout(scheme: Scheme, sizes: Sizes, num_workers: int) -> tuple[Layout, str]:
    """Return how a scheme shares out tables, and why it cannot, if so."""
    if scheme == "replicated":
        return "", ""
    if scheme == "row_wise":
        obstacle = "attention needs the single rows of a history" if sizes.attends else ""
        return "hash", obstacle
    if scheme == "des" and sizes.obstacle:
        return "", sizes.obstacle
    needed = {one.layout for one in sizes.operators} if scheme == "des" else {"field"}
    if needed <= {"hash"}:
        return "hash", ""
    if "column" in needed:
        if num_workers <= sizes.dim:
            return "column", ""
        return "column", f"{num_workers} workers are more than the {sizes.dim} of a vector"
    if sizes.attends:
        if all(len(ranks) == 1 for ranks in shares.placed(sizes, num_workers)):
            return "field", ""
        return "field", f"attention needs whole vocabularies; {num_workers} workers split some"
    # With columns of vectors for all there is no need to split vocabularies.
    return "column" if sizes.num_fields < num_workers <= sizes.dim else "field", ""


def _transfers(
    scheme: Scheme, schedule: Schedule, layout: Layout, sizes: Sizes, split: Split
) -> Transfers:
    """Return all that a worker sends in a step; of workers that differ, the one with the most."""
    floats = split._replace(wire_bytes=FLOAT_BYTES)
    local = sizes.local if scheme == "des" else 0
    dense = costs.dense_gradients(floats, sizes.dense, local=local, schedule=schedule)
    if scheme == "replicated":
        return costs.replicated(floats, sizes.num_weights) + dense
    keys = costs.key_exchange(split, sizes.ids_per_row, sizes.num_fields)
    if scheme == "row_wise":
        return keys + costs.row_wise(split, sizes.width) + dense
    if scheme == "table_wise":
        widths = shares.pooled_widths(layout, sizes, split.num_workers)
        return keys + costs.table_wise(split, sum(widths), max(widths)) + dense
    summed: Transfers = ()
    for operator in sizes.operators:
        if operator.everywhere:
            summed += costs.des_crosses(split, 1, operator.width)
    summed += costs.sums(split, sizes.sum_width, schedule)
    if schedule == "all_reduce":
        number = split.num_rows * (split.num_workers - 1) * FLOAT_BYTES
        keys += (Transfer("ids", "all_gather", sizes.inputs * number),)
    elif sizes.spread:  # to the owners of columns and back, as pooled vectors travel
        summed = costs.table_wise(split, sizes.spread) + summed
    if layout == "field" and (groups := shares.group_bytes(sizes, split.num_workers)):
        dense += (Transfer("dense", "all_reduce", groups),)
    return keys + summed + dense


def _dense_held(scheme: Scheme, layout: Layout, sizes: Sizes, num_workers: int) -> float:
    """Return how many weights outside of the tables the worker with the most holds."""
    if scheme != "des" or not sizes.local:
        return sizes.dense
    widths = shares.pooled_widths(layout, sizes, num_workers)
    return sizes.dense - sizes.local * (1 - max(widths) / sizes.width)


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


def _work(
    scheme: Scheme, schedule: Schedule, sizes: Sizes, workload: Workload, split: Split
) -> tuple[float, float]:
    """Return the operations of a step, and the bytes that its lookups and updates move."""
    local = sizes.local if scheme == "des" else 0
    flops = _STEP_FLOPS * (
        local * split.num_rows + (sizes.dense - local) * _upper_rows(schedule, split)
    )
    looked_up = split.num_rows * sizes.ids_per_row
    unique = looked_up if workload.unique_ids is None else workload.unique_ids
    kept = 2 * FLOAT_BYTES * (1 + workload.state_numbers)  # read and written
    traffic = (sizes.dim + sizes.weights) * (FLOAT_BYTES * looked_up + kept * unique)
    if scheme == "replicated" and split.num_workers > 1:
        traffic += sizes.num_weights * (kept + 2 * FLOAT_BYTES)
    return flops, traffic
