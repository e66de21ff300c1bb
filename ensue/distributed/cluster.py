"""The machines of a training and the work of a step, as far as a plan needs to know them.

Shapes: N workers, w of each node; B rows of a step, b = B / N of a worker.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ensue.config import Config
from ensue.distributed.costs import Split, Transfer, Transfers, rounds

Optimizer = Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "lazy_adam", "clippy"]

GBIT, GB = 1e9 / 8, 1e9

# Numbers of state for each weight of a table; rowwise_adagrad has one for each row.
_STATE: dict[Optimizer, int] = {
    "sgd": 0,
    "rowwise_adagrad": 0,
    "adagrad": 1,
    "adam": 2,
    "lazy_adam": 2,
    "clippy": 1,
}


class Cluster(Config):
    """Machines, joined by a network; what is given of each should be measured, not its peak.

    workers_per_node: processes of a node, one for each GPU or set of cores.
    network_gbits: Gbit/s of a node to the others. node_gbits: of a worker to the others of its
        node.
    latency_us: microseconds until a collective of next to nothing has ended.
    memory_gb, memory_gb_s, tflops: of a worker, its memory, the GB/s of it and the 10^12 products
        and sums in a second.
    value_ns: nanoseconds that a worker takes for a value and a table, beside what memory moves: to
        find its row, and to step it. On a core of a CPU it is about 50.
    backend: with gloo a reduce-scatter is an exchange of all with all, with nccl a ring.
    """

    nodes: int = Field(default=1, ge=1)
    workers_per_node: int = Field(default=1, ge=1)
    network_gbits: float = Field(default=10.0, gt=0)
    node_gbits: float = Field(default=80.0, gt=0)
    latency_us: float = Field(default=100.0, ge=0)
    memory_gb: float = Field(default=64.0, gt=0)
    memory_gb_s: float = Field(default=20.0, gt=0)
    tflops: float = Field(default=0.2, gt=0)
    value_ns: float = Field(default=0.0, ge=0)
    backend: Literal["gloo", "nccl"] = "gloo"

    @property
    def num_workers(self) -> int:
        """N."""
        return self.nodes * self.workers_per_node

    def seconds(self, transfers: Transfers) -> float:
        """Return how long the bytes take, one transfer after the other, without latency."""
        return sum(self._seconds_of(one) for one in transfers)

    def latency_seconds(self, transfers: Transfers) -> float:
        """Return how long the rounds take, but those of ids: they run a batch ahead."""
        return self.latency_us * 1e-6 * (rounds(transfers) - rounds(transfers, "ids"))

    def _seconds_of(self, transfer: Transfer) -> float:
        if self.num_workers == 1:
            return 0.0
        is_ring = transfer.collective in ("all_reduce", "all_gather") or (
            transfer.collective == "reduce_scatter" and self.backend == "nccl"
        )
        # A ring that goes round node by node leaves a node once, whatever the number of its
        # workers; an exchange of all with all leaves it from every worker.
        leaves = stays = 1.0
        if not is_ring:
            others = self.num_workers - 1
            leaves = self.workers_per_node * (self.num_workers - self.workers_per_node) / others
            stays = (self.workers_per_node - 1) / others
        network = leaves / (self.network_gbits * GBIT) if self.nodes > 1 else 0.0
        node = stays / (self.node_gbits * GBIT) if self.workers_per_node > 1 else 0.0
        return transfer.num_bytes * max(network, node)


class Workload(Config):
    """A step of training.

    batch_size: rows of a step, over all workers.
    optimizer: of the tables. Beside its weights, adagrad and clippy keep a number for each, adam
        and lazy_adam two, rowwise_adagrad one for each row.
    wire: type of the sums and vectors that travel; all else is float32.
    unique_ids: different ids in the batch of one worker; None is as if no id came twice.
    """

    batch_size: int = Field(default=4096, ge=1)
    optimizer: Optimizer = "lazy_adam"
    wire: Literal["float32", "bfloat16"] = "float32"
    unique_ids: int | None = Field(default=None, ge=1)

    def split(self, num_workers: int) -> Split:
        """Return how the batch is split; of workers that differ, the one with the most rows."""
        rows = -(-self.batch_size // num_workers)
        return Split(num_workers, rows, 4 if self.wire == "float32" else 2)

    @property
    def state_numbers(self) -> int:
        """Numbers that the optimizer keeps for each weight."""
        return _STATE[self.optimizer]

    @property
    def has_whole_gradients(self) -> bool:
        """Whether the optimizer moves all rows of a table; others move those that are looked up."""
        return self.optimizer == "adam"

    @property
    def row_state_numbers(self) -> int:
        """Numbers that the optimizer keeps for each row."""
        return int(self.optimizer == "rowwise_adagrad")
