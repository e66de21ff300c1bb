"""The cheapest way to share out the tables of a model over workers, and why.

Substitution (Rong et al., SIGIR 2020, arXiv:1909.04823) sums C numbers of every row over all
workers: with N workers it sends less than pooled vectors from their owners while C < F D / N, and
less than pooled vectors of rows spread by hash while C < F D.
Shapes: N workers; F columns, D width of a vector; C numbers of a row that are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ensue.distributed import costs
from ensue.distributed.candidates import WAYS, Candidate, make_candidate
from ensue.distributed.cluster import GB, Cluster, Workload
from ensue.distributed.sizes import Sizes
from ensue.errors import UsageError, did_you_mean

NAMES = ("replicated", "table_wise", "row_wise", "des", "des_scatter", "des_all_reduce")
_COLUMNS = (
    *("", "scheme", "layout", "MB sent", "ids", "forward", "backward", "dense", "rounds"),
    *("GB of memory", "ms a step", "to", "rows/s", "not possible"),
)


@dataclass(frozen=True)
class Plan:
    """All candidates, and the chosen one.

    workers: the machines, or their number where they are not known.
    is_forced: the scheme was asked for by name.
    """

    sizes: Sizes
    workload: Workload
    workers: Cluster | int
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    is_forced: bool

    @property
    def num_workers(self) -> int:
        """N."""
        return self.workers if isinstance(self.workers, int) else self.workers.num_workers

    @property
    def server_bytes(self) -> float:
        """What a worker and its parameter servers would send in a step, with each id once."""
        split = self.workload.split(self.num_workers)
        unique = self.workload.unique_ids or split.num_rows * self.sizes.ids_per_row
        numbers = self.sizes.dim + self.sizes.weights
        return costs.sent(costs.parameter_server(unique, numbers, split.wire_bytes))

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return a header and a row of cells for each candidate; the chosen one has an arrow."""
        rows = [
            ["->" if one is self.chosen else "", *_cells(one, self.workload.batch_size)]
            for one in self.candidates
        ]
        return list(_COLUMNS), rows

    def describe(self) -> list[str]:
        """Return sentences on what was chosen, and what the substitution is up against."""
        sizes, total = self.sizes, self.num_workers
        how = "as asked" if self.is_forced else "the cheapest"
        lines = [f"{sizes.model} on {total} workers: {self.chosen.name}, {how}."]
        if sizes.obstacle:
            lines.append(f"No substitution: {sizes.obstacle}.")
        else:
            parts = ", ".join(f"{one.name} {one.width:,}" for one in sizes.operators)
            lines.append(
                f"Substitution sums {sum(one.width for one in sizes.operators):,} numbers a row "
                f"({parts}); it sends less than table-wise below {sizes.width / total:,.0f} on so "
                f"many workers, less than row-wise below {sizes.width:,}."
            )
        ids = "each id of a batch once" if self.workload.unique_ids else "no id twice in a batch"
        lines.append(
            f"A parameter server, {ids}: {self.server_bytes / 1e6:,.2f} MB a step and worker."
        )
        return lines

    def lines(self) -> list[str]:
        """Return what a training says at its start: the choice, and the bytes of all candidates."""
        told = self.describe()
        lines = [told[0]]
        for one in self.candidates:
            arrow = "->" if one is self.chosen else "  "
            if one.cost is None:
                lines.append(f"{arrow} {one.name}: {one.obstacle}")
                continue
            parts = ", ".join(
                f"{part} {costs.sent(one.cost.transfers, part) / 1e6:,.4f}" for part in costs.PARTS
            )
            layout = f" by {one.layout}" if one.layout else ""
            lines.append(
                f"{arrow} {one.name}{layout}: {one.cost.num_bytes / 1e6:,.4f} MB a step and worker "
                f"({parts})"
            )
        return [*lines, *told[1:]]

    def summary(self) -> dict[str, Any]:
        """Return the choice and the bytes of all candidates, ready for JSON."""
        return {
            "chosen": self.chosen.name,
            "scheme": self.chosen.scheme,
            "schedule": self.chosen.schedule,
            "layout": self.chosen.layout,
            "unique_ids": self.workload.unique_ids,
            "ids_per_row": self.sizes.ids_per_row,
            "bytes": {
                one.name: None if one.cost is None else one.cost.to_dict()["sent"]
                for one in self.candidates
            },
            "obstacles": {one.name: one.obstacle for one in self.candidates if one.obstacle},
            "parameter_server_bytes": self.server_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan, ready for JSON."""
        cluster = self.workers if isinstance(self.workers, Cluster) else None
        return {
            "model": self.sizes.model,
            "num_workers": self.num_workers,
            "cluster": None if cluster is None else cluster.model_dump(),
            "workload": self.workload.model_dump(),
            "sizes": {
                "fields": self.sizes.num_fields,
                "ids_per_row": self.sizes.ids_per_row,
                "dim": self.sizes.dim,
                "rows": self.sizes.num_rows,
                "table_weights": self.sizes.num_weights,
                "dense_weights": self.sizes.dense,
                "pooled_width": self.sizes.width,
                "operators": [one._asdict() for one in self.sizes.operators],
                "obstacle": self.sizes.obstacle,
            },
            "chosen": self.chosen.name,
            "is_forced": self.is_forced,
            "candidates": [one.to_dict() for one in self.candidates],
            "parameter_server_bytes": self.server_bytes,
        }


def make_plan(
    sizes: Sizes, workload: Workload, workers: Cluster | int, *, scheme: str | None = None
) -> Plan:
    """Return the cheapest plan: the fastest, or, where the machines are not known, by bytes.

    Time is that of a step in which nothing overlaps, which tells schemes apart even where the
    network could hide behind the computation; of equal ones the one that sends less is taken.

    Args:
        workers: the machines, or how many workers there are.
        scheme: one of NAMES; "des" is the better of its two schedules. None is the cheapest.

    Raises:
        UsageError: there is no such scheme, or none that is possible.
    """
    if scheme is not None and scheme not in NAMES:
        raise UsageError(f"there is no scheme {scheme!r}.{did_you_mean(scheme, NAMES)}")
    number = workers if isinstance(workers, int) else workers.num_workers
    if not 1 <= number <= workload.batch_size:
        raise UsageError(
            "a plan needs 1 worker or more, and a row of the batch for each; got "
            f"{number} workers and batch_size={workload.batch_size}."
        )
    candidates = tuple(make_candidate(*way, sizes, workload, workers) for way in WAYS)
    asked = [one for one in candidates if scheme in (None, one.name, one.scheme)]
    possible = [one for one in asked if not one.obstacle]
    if not possible:
        why = "; ".join(f"{one.name}: {one.obstacle}" for one in asked)
        raise UsageError(f"no scheme is possible for {sizes.model} on {number} workers ({why}).")
    chosen = min(possible, key=_price)
    return Plan(sizes, workload, workers, candidates, chosen, scheme is not None)


def _price(candidate: Candidate) -> tuple[float, float]:
    """Return what a candidate is compared by."""
    assert candidate.cost is not None
    return candidate.cost.serial_seconds or 0.0, candidate.cost.num_bytes


def _cells(candidate: Candidate, batch_size: int) -> list[object]:
    name, cost = [candidate.name, candidate.layout or "-"], candidate.cost
    if cost is None:
        return [*name, *([None] * 10), candidate.obstacle]
    parts = [costs.sent(cost.transfers, part) / 1e6 for part in costs.PARTS]
    rounds = costs.rounds(cost.transfers) - costs.rounds(cost.transfers, "ids")
    least, most = cost.overlapped_seconds, cost.serial_seconds
    times = [None if one is None else one * 1e3 for one in (least, most)]
    rate = int(batch_size / most) if most else None
    memory = cost.memory_bytes / GB
    return [*name, sum(parts), *parts, rounds, memory, *times, rate, candidate.obstacle]
