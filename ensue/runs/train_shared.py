"""The part of a ranking training that differs where several workers train together.

Every worker runs the same program (torchrun starts it), reads its own rows, and has its own part of
the tables; the first one writes the run, which is the same as that of one process.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.cluster import Cluster, Workload
from ensue.distributed.config import DistributedConfig, LayoutName
from ensue.distributed.owners import by_hash, looked_up
from ensue.distributed.ranker import Scheme, SharedRanker
from ensue.distributed.shares import Holders, placed
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, EnsueError, ToldError, UsageError, did_you_mean
from ensue.files import write_json
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.dcn_v2 import DCNv2Trunk
from ensue.models.ranking.dlrm import DLRMTrunk
from ensue.optim.clippy import BY_ELEMENT
from ensue.progress import note
from ensue.runs.make_ranker import RankerMaker
from ensue.runs.plan import count_ids, plan_training
from ensue.runs.ranker import RankingRun
from ensue.runs.ranker_training import RankerTraining
from ensue.training.config import TrainingConfig
from ensue.training.loop import TrainingLoop
from ensue.training.shared_checkpoints import SharedCheckpoints, load_whole_
from ensue.training.shared_peers import WorkerPeers, divided_layers
from ensue.training.shared_ranking import SharedRankingObjective

CPU_VALUE_NS = 50.0  # measured: see `Cluster`

T = TypeVar("T")
PLAN_FILE = "plan.json"


def train_shared(
    training: RankerTraining,
    workers: Workers,
    scheme: Scheme | Literal["auto"],
    open_out: Callable[[], bool | None],
    save: Callable[[RankingModel, dict[str, Any]], RankingRun],
    *,
    resume: bool = False,
) -> RankingRun:
    """Train with other workers, have the first one store the run, and return it.

    Args:
        scheme: "auto" is the one that the plan takes.
        open_out: makes the folder ready, and says whether there is a training to continue; None
            where it is finished.
        save: stores the run of a whole model, with what is to be said of it.
        resume: a training that is continued has the scheme that it was begun with.
    """
    maker, out = training.maker, training.out
    config, distributed = maker.settings.training, maker.settings.distributed
    check_training(config)
    told = distributed.model_dump(mode="json")
    if scheme == "auto":
        begun = out / PLAN_FILE if resume or is_restarted() else None
        scheme, distributed, planned = choose_scheme(maker, workers, begun)
        told = {**distributed.model_dump(mode="json"), "plan": planned}
    # First the model: settings that do not fit the data leave no folder behind.
    whole = maker.model()
    ranker = share_ranker(whole, workers, scheme, distributed, count_lookups(maker.dataset))
    _check_rule(config, ranker)
    place = (0, 1) if ranker.is_redundant else (workers.rank, workers.size)
    objective = SharedRankingObjective(
        ranker,
        maker.reader(as_ids=ranker.reads_ids, share=place),
        maker.loss_weights(),
        seed=config.seed,
    )
    ranker.to(workers.device)
    is_resumed, *_ = workers.gather_objects(on_first(workers, open_out))
    if is_resumed is None:
        return RankingRun(out)
    if "plan" in told and workers.rank == 0:
        write_json(out / PLAN_FILE, told["plan"])
    loop = TrainingLoop(
        ranker,
        objective,
        config,
        directory=out,
        validate=training.validation(lambda one: one.outputs_of_all, as_ids=ranker.reads_ids),
        on_validation=training.on_validation,
        peers=WorkerPeers(ranker),
        checkpoints=SharedCheckpoints(
            out / "checkpoints", ranker, full_every=distributed.full_every
        ),
    )
    progress = loop.run(resume=is_resumed)

    def store() -> RankingRun:
        model = maker.model()
        name = "best" if progress.best_epoch else "last"
        load_whole_(model, out / "checkpoints", name)
        about = {"scheme": scheme, "workers": workers.size, **told}
        return save(model, {**training.facts(progress), "distributed": about})

    return on_first(workers, store) or RankingRun(out)


def share_ranker(
    model: RankingModel,
    workers: Workers,
    scheme: Scheme,
    config: DistributedConfig,
    lookups: dict[str, float],
) -> SharedRanker:
    """Return a model as several workers have it.

    Args:
        model: of the same weights on all workers.
        lookups: values of each vocabulary in a row, on average: what workers are balanced by.

    Raises:
        ConfigError: the model cannot be divided in this way.
    """
    layout = needed_layout(model, scheme) if config.layout == "auto" else config.layout
    if layout == "column" and scheme != "des":
        raise ConfigError(f"layout=column is one of the scheme des; got scheme {scheme}.")
    return SharedRanker(
        model,
        workers,
        scheme=scheme,
        holders=_holders(
            model.schema, layout, workers.size, lookups, split=may_split(model, scheme)
        ),
        schedule="all_reduce" if config.schedule == "all_reduce" else "scatter",
        wire=config.wire_type,
    )


def check_training(training: TrainingConfig) -> None:
    """Raise where a setting is not for several workers.

    Raises:
        ConfigError: it is not.
    """
    if training.clip_norm is not None:
        raise ConfigError(
            "clip_norm is of the whole gradient, which no worker has; leave it out, or train with "
            "optimizer=clippy."
        )
    if training.rollback:
        raise ConfigError("rollback is for a training of one process; leave it out.")
    if training.watch_spikes:
        raise ConfigError(
            "watch_spikes looks at whole gradients, which no worker has; leave it out."
        )


def _check_rule(training: TrainingConfig, ranker: SharedRanker) -> None:
    if training.optimizer != "clippy" or training.clip_rule in BY_ELEMENT:
        return
    divided = divided_layers(ranker)
    if ranker.workers.size > 1 and divided:
        raise ConfigError(
            f"clip_rule={training.clip_rule} is of norms of whole tensors, and workers have pieces "
            f"of {divided[0]}. Use clip_rule=clippy, or --distributed table_wise or row_wise."
        )


def check_scheme(name: str | None, config: DistributedConfig) -> Scheme | Literal["auto"] | None:
    """Return the scheme of this name; "auto" is the one that the plan takes, None is one process.

    Raises:
        UsageError: there is none.
        ConfigError: a setting changes nothing with it.
    """
    names = ("auto", *get_args(Scheme))
    if name is not None and name not in names:
        raise UsageError(
            f"there is no scheme {name!r}, but {', '.join(names)}.{did_you_mean(name, names)}"
        )
    config.check_read(name)
    return cast(Scheme | None, name)


def choose_scheme(
    maker: RankerMaker, workers: Workers, begun: Path | None = None
) -> tuple[Scheme, DistributedConfig, dict[str, Any]]:
    """Return the scheme that the plan takes, the settings with its schedule, and what it says.

    The first worker makes the plan and tells the others; it writes it on standard error.

    Args:
        begun: where the plan of a training is that goes on, which is kept, if it is there.

    Raises:
        ConfigError: a layout or a schedule is asked for, which is for a scheme that is named.
    """
    config = maker.settings.distributed
    for name in ("layout", "schedule"):
        value = getattr(config, name)
        if value != "auto":
            raise ConfigError(
                f"with distributed=auto the plan takes the {name}; got {name}={value}. Leave it "
                "out, or name a scheme."
            )

    def choose() -> dict[str, Any]:
        if begun is not None and begun.is_file():
            kept: dict[str, Any] = json.loads(begun.read_text(encoding="utf-8"))
            note(f"{maker.name} on {workers.size} workers: {kept['chosen']}, as it was begun.")
            return kept
        plan = plan_training(
            maker.name,
            maker.settings.model,
            maker.dataset,
            _workload(maker),
            _machines(workers, config.network_gbits),
        )
        for line in plan.lines():
            note(line)
        return plan.summary()

    planned = workers.gather_objects(on_first(workers, choose))[0]
    schedule = {"schedule": planned["schedule"]}
    return planned["scheme"], config.model_copy(update=schedule), planned


def _workload(maker: RankerMaker) -> Workload:
    """Return the steps of a training."""
    training, wire = maker.settings.training, maker.settings.distributed.wire
    first, end = maker.dataset.bounds(maker.fit)
    return Workload(
        batch_size=max(1, min(training.batch_size, end - first)),
        optimizer=training.optimizer,
        wire="float32" if wire == "full" else wire,
    )


def _machines(workers: Workers, network_gbits: float | None) -> Cluster | int:
    """Return what a plan knows of the machines: the number of workers, where no speed is given."""
    if network_gbits is None:
        return workers.size
    of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if workers.size % of_node:
        of_node = 1
    return Cluster(
        nodes=workers.size // of_node,
        workers_per_node=of_node,
        network_gbits=network_gbits,
        memory_gb=1e9,  # tables are made whole on each worker before any is shared out
        value_ns=CPU_VALUE_NS if workers.device.type == "cpu" else 0.0,
        backend="gloo" if workers.device.type == "cpu" else "nccl",
    )


def is_restarted() -> bool:
    """Return whether torchrun has started this process again, after one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def open_launched(out: Path, open_out: Callable[..., bool], *, resume: bool) -> bool | None:
    """Make the folder ready, and return whether there is a training to continue; None if it ended.

    When torchrun starts all again after a failure, the training that it has begun is continued, and
    no other: only the first start may find a folder that someone has to decide about.

    Args:
        open_out: does it for a start by hand.
    """
    file = out / "checkpoints" / "launch.json"
    launch = {
        "host": socket.gethostname(),
        "process": os.getppid(),  # torchrun itself
        "run": os.environ.get("TORCHELASTIC_RUN_ID"),
    }
    is_own = is_restarted() and file.is_file() and json.loads(file.read_text()) == launch
    if is_own and (out / "run.json").is_file():
        return None
    is_resumed = open_out(resume=resume or is_own)
    write_json(file, launch)
    return is_resumed


def on_first(workers: Workers, make: Callable[[], T]) -> T | None:
    """Run `make` on the first worker and return what it gives; None on the others.

    Raises:
        EnsueError: of `make`; on the other workers a ToldError that says what it said.
    """
    found, failure, error = None, "", None
    if workers.rank == 0:
        try:
            found = make()
        except EnsueError as raised:
            failure, error = str(raised), raised
    failures = workers.gather_objects(failure)
    if error is not None:
        raise error
    if failures[0]:
        raise ToldError(f"the first worker gave up: {failures[0]}")
    return found


def count_lookups(dataset: RankingDataset) -> dict[str, float]:
    """Return how many values of each vocabulary a training row has, on average."""
    found: dict[str, float] = {}
    means = count_ids(dataset, 1).means
    for column in looked_up(dataset.schema):
        found[column.vocabulary] = found.get(column.vocabulary, 0.0) + means[column.name]
    return found


def needed_layout(model: RankingModel, scheme: Scheme) -> LayoutName:
    """Return the layout that "auto" is: the one that a plan counts with."""
    if model.reads_ids or scheme == "row_wise":
        return "hash"
    has_dots = any(isinstance(module, DLRMTrunk) for module in model.modules())
    return "column" if scheme == "des" and has_dots else "field"


def may_split(model: RankingModel, scheme: Scheme) -> bool:
    """Return whether several workers may have rows of a column."""
    has_crosses = any(isinstance(module, DCNv2Trunk) for module in model.modules())
    return scheme == "des" and not has_crosses


def _holders(
    schema: RankingSchema, layout: str, size: int, lookups: dict[str, float], *, split: bool
) -> Holders | None:
    """Return the workers of each vocabulary; None divides vectors by element."""
    if layout == "column":
        return None
    if layout == "hash":
        return by_hash(schema, size)
    rows = {name: number + 1 for name, number in schema.vocabularies.items()}
    return placed(rows, lookups, size, may_split=split)
