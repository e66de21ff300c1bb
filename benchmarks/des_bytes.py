"""Bytes of a step of distributed training, counted, beside those of a parameter server.

    python -m benchmarks.des_bytes [--workers 4]

Starts the workers on this machine, takes a step of every model and scheme on the logs of
`benchmarks.network.workloads`, and counts what each gives to collectives: a row has the mean over
the workers, in MB, by purpose. Sums and vectors, what is dense, label weights, the loss and what is
said of stopping are all counted. The plan's bytes are those of the worker with the most; it knows
the mean of the ids and of distinct ones alone. Takes a minute or two of two cores. The columns:

- log read more: what `des_all_reduce` reads of the log beside own rows, 4 bytes an id. That is not
  sent from worker to worker, but where the log is on another machine it comes from there;
- server: 2 U w e + 16 U, what a worker and its parameter servers send with each id of its rows
  pulled and pushed once: U distinct ids in the rows of a worker, w = k + 1 numbers of each. Its
  dense gradients are left out;
- saved: 1 - sent / server. taken: by the plan, which sees U, ids a row and sizes alone.

The bar: 68.7% (Rong et al., SIGIR 2020, abstract) for lr, fm and deepfm on 200 columns with 1,000
ids. Where substitution loses, the plan takes something else.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks._report import to_table, write_report
from benchmarks.des_step import as_rows, schema_of
from benchmarks.network.workloads import WORKLOADS, Batch, Workload, make_batch
from ensue.config import make_config
from ensue.data.ranking.batch import RankingBatch
from ensue.distributed import cluster, costs
from ensue.distributed.candidates import WAYS, Candidate
from ensue.distributed.config import DistributedConfig
from ensue.distributed.plan import Plan, make_plan
from ensue.distributed.sizes import sizes_of
from ensue.distributed.workers import Workers
from ensue.losses.multitask import label_weights, task_losses
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.runs.train_shared import share_ranker
from ensue.training.config import TrainingConfig
from ensue.training.optimizers import use_sparse_gradients_
from ensue.training.peers import NO_WISHES
from ensue.training.shared_peers import WorkerPeers

BAR = 0.687
BARRED = ("lr-many", "fm-many", "deepfm-many")
CONFIG = TrainingConfig(optimizer="adagrad")

_MANY, _CRITEO = WORKLOADS["deepfm-many"], WORKLOADS["deepfm-criteo"]
# 1,000 columns with 2,000 ids: of 1,024,000 in the rows of a worker about 300,000 are distinct.
_THOUSAND = _MANY._replace(sizes=(5_000,) * 1000, exponent=1.2, mean_length=2)
SHAPES = {
    "lr-many": WORKLOADS["lr-many"],
    "fm-many": WORKLOADS["fm-many"],
    "deepfm-many": _MANY,
    "fm-thousand": _THOUSAND._replace(model="fm", hidden=()),
    "deepfm-thousand": _THOUSAND,
    "fm-criteo": _CRITEO._replace(model="fm", hidden=()),
    "deepfm-criteo": _CRITEO,
    "deepfm-criteo-128": _CRITEO._replace(
        dim=128, sizes=tuple(min(n, 10_000) for n in _CRITEO.sizes)
    ),
}


def main() -> int:
    """Count, print the tables, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    size: int = parser.parse_args().workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn(work, (size, name), nprocs=size)  # type: ignore[no-untyped-call]
        counted = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    rows = [row for shape in SHAPES for row in table_of(shape, [one[shape] for one in counted])]
    print(to_table(rows))
    said = {shape: verdict(shape, rows) for shape in SHAPES}
    print("\n" + "\n".join(f"{shape}: {text}" for shape, text in said.items()))
    print(write_report("des_bytes", {"workers": size, **said}, rows))
    return int(any("missed" in text for text in said.values()))


def work(rank: int, size: int, folder: str) -> None:
    """Take the steps of one worker, and store what it sends."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    store = dist.FileStore(f"{folder}/store", size)  # type: ignore[attr-defined]
    with Workers.join(store, rank, size) as workers:
        for name, workload in SHAPES.items():
            found[name] = count(name, workload, workers, Path(folder))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def count(name: str, workload: Workload, workers: Workers, folder: Path) -> dict[str, Any]:
    """Return what this worker sends in a step by each scheme, and what the plan says."""
    log = name.split("-", 1)[1]
    own = folder / f"{log}-{workers.rank}"
    if not own.exists():
        torch.save(tuple(make_batch(workload, workers.rank, 0)), own)
    workers.barrier()
    parts = [Batch(*torch.load(folder / f"{log}-{rank}")) for rank in range(workers.size)]
    whole, mine = as_rows(parts, workload), as_rows([parts[workers.rank]], workload)
    uniques = [len(torch.unique(part.ids)) for part in parts]
    plan = plan_of(workload, workers.size, round(sum(uniques) / len(uniques)))
    torch.manual_seed(0)
    model, sent = build_ranker(*_model(workload), schema_of(workload)), {}
    for candidate in plan.candidates:
        if candidate.cost is not None:
            step(copy.deepcopy(model), workers, candidate, whole, mine)
            sent[candidate.name] = workers.traffic.take()
            if workers.rank == 0:
                print(name, candidate.name, sent[candidate.name], file=sys.stderr)
    return {"sent": sent, "plan": plan.summary(), "entries": len(parts[workers.rank].ids)}


def plan_of(workload: Workload, workers: cluster.Cluster | int, unique_ids: int) -> Plan:
    """Return the plan of a workload whose distinct ids are counted, for machines or a number."""
    num_workers = workers if isinstance(workers, int) else workers.num_workers
    schema = schema_of(workload)
    means = {c.name: float(workload.mean_length) for c in schema.columns if c.vocabulary}
    longest = dict.fromkeys(means, 2 * workload.mean_length - 1)
    sizes = sizes_of(*_model(workload), schema, ids_per_row=means, longest=longest)
    steps = cluster.Workload(
        batch_size=workload.batch * num_workers, optimizer=CONFIG.optimizer, unique_ids=unique_ids
    )
    return make_plan(sizes, steps, workers)


def step(
    model: RankingModel,
    workers: Workers,
    candidate: Candidate,
    whole: RankingBatch,
    mine: RankingBatch,
) -> None:
    """Take a step, and count it alone."""
    config = DistributedConfig(schedule=candidate.schedule)
    lookups = dict.fromkeys(model.schema.vocabularies, 1.0)  # of each as many as of the others
    ranker = share_ranker(model, workers, candidate.scheme, config, lookups)
    use_sparse_gradients_(ranker, CONFIG)
    rows = whole if ranker.is_redundant else mine
    workers.traffic.take()
    total = ranker.sum_ahead(label_weights(rows.labels, rows.weights).sum(0, dtype=torch.float64))
    batch = ranker.share_own(rows, len(whole))
    losses: Tensor = task_losses(ranker(batch), rows.labels, rows.weights, ["binary"])
    losses = losses * len(rows) / total.to(losses)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    WorkerPeers(ranker).combine(losses.detach(), NO_WISHES)


def table_of(shape: str, counted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each scheme: means over the workers, in MB."""
    plan, size = counted[0]["plan"], len(counted)
    entries = sum(one["entries"] for one in counted) / size
    rows = []
    for name in [f"des_{how}" if scheme == "des" else scheme for scheme, how in WAYS]:
        if name not in counted[0]["sent"]:
            continue
        parts = {
            str(part): sum(one["sent"][name][part] for one in counted) / size
            for part in costs.PARTS
        }
        total, server = sum(parts.values()), plan["parameter_server_bytes"]
        rows.append(
            {
                "log": shape,
                "scheme": name,
                **{part: value / 1e6 for part, value in parts.items()},
                "sent": total / 1e6,
                "plan": plan["bytes"][name]["total"] / 1e6,
                "log read more": 4e-6 * entries * (size - 1) if "all_reduce" in name else 0,
                "U": plan["unique_ids"],
                "server": server / 1e6,
                "saved %": 100 * (1 - total / server),
                "taken": "->" if name == plan["chosen"] else "",
            }
        )
    return rows


def verdict(shape: str, rows: list[dict[str, Any]]) -> str:
    """Return what is saved by the plan's choice and where ids are sent, and where `des` loses."""
    own = {row["scheme"]: row for row in rows if row["log"] == shape}
    taken = next(row for row in own.values() if row["taken"])
    ours = min(own["des_scatter"]["sent"], own["des_all_reduce"]["sent"])
    lost = [n for n, row in own.items() if not n.startswith("des") and row["sent"] < ours]
    said = f"the plan takes {taken['scheme']}, which {_saves(taken['saved %'])}"
    if shape in BARRED:
        bar = "met" if taken["saved %"] >= 100 * BAR else "missed"
        said += f" (the bar of {100 * BAR:g}% is {bar})"
    sender = own["des_scatter"]
    said += f"; des_scatter, which sends ids, {_saves(sender['saved %'])}"
    dense = own["table_wise"]["dense"]  # as a server's workers have to sum it, too
    if dense > 0.1:
        both = 100 * (1 - sender["sent"] / (sender["server"] + dense))
        said += f", or with the dense gradients of a server counted too {_saves(both)}"
    if lost:
        said += f"; substitution loses to {', '.join(lost)}"
    return said


def _saves(percent: float) -> str:
    """Return in words what is saved of a parameter server's bytes."""
    if percent >= 0:
        return f"saves {percent:.1f}%"
    return f"sends {1 - percent / 100:.1f} times as much"


def _model(workload: Workload) -> tuple[str, Any]:
    """Return the name of a model and its config."""
    cls = get_ranker(workload.model).model.Config
    settings = {"dim": workload.dim, "hidden": list(workload.hidden)}
    own = {name: value for name, value in settings.items() if name in cls.model_fields}
    return workload.model, make_config(cls, own)


if __name__ == "__main__":
    sys.exit(main())
