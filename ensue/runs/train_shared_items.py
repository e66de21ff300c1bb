"""The part of the training of a model of items that differs where several workers train together.

Every worker runs the same program (torchrun starts it) and has its own rows of the tables; the
first one writes the run, which is the same as that of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch

from ensue.distributed.items import SharedItems
from ensue.distributed.workers import Workers
from ensue.errors import ConfigError, UsageError, did_you_mean
from ensue.models.base import Model
from ensue.runs.item_training import ItemTraining, validation
from ensue.runs.run import Run
from ensue.runs.train_shared import on_first
from ensue.training.loop import TrainingLoop
from ensue.training.shared_checkpoints import SharedCheckpoints, load_whole_
from ensue.training.shared_objectives import share_objective
from ensue.training.shared_peers import WorkerPeers

ItemScheme = Literal["row_wise", "replicated"]


def train_shared_items(
    training: ItemTraining,
    workers: Workers,
    open_out: Callable[[], bool | None],
    save: Callable[[Model, dict[str, Any]], Run],
    *,
    divide: bool,
) -> Run:
    """Train with other workers, have the first one store the run, and return it.

    Args:
        open_out: makes the folder ready, and says whether there is a training to continue; None
            where it is finished.
        save: stores the run of a whole model, with what is to be said of it.
        divide: whether rows of tables are divided; else all workers have all of them.
    """
    if training.config.rollback:
        raise ConfigError("rollback is for a training of one process; leave it out.")
    folder = training.out / "checkpoints"
    with torch.random.fork_rng():
        torch.manual_seed(training.config.seed)
        # First the model: settings that do not fit the data leave no folder behind.
        whole = training.make_model()
        objective = training.objective(whole)
        shared = SharedItems(whole, workers, divide=divide)
        shared.to(workers.device)
        validate = validation(training.dataset, training.fit, workers)
        resume, *_ = workers.gather_objects(on_first(workers, open_out))
        if resume is None:
            return Run(training.out)

        def validate_shared(model: SharedItems) -> dict[str, float]:
            assert validate is not None
            with model.whole() as everything:
                return validate(everything)

        loop = TrainingLoop(
            shared,
            share_objective(shared, objective),
            training.config,
            directory=training.out,
            validate=validate and validate_shared,
            on_validation=training.on_validation,
            peers=WorkerPeers(shared),
            checkpoints=SharedCheckpoints(folder, shared),
        )
        progress = loop.run(resume=resume)

    def store() -> Run:
        model = training.make_model()
        load_whole_(model, folder, "best" if progress.best_epoch else "last")
        # Two towers make the vectors of their items when they leave training.
        return save(model.eval(), {**training.facts(progress), "workers": workers.size})

    return on_first(workers, store) or Run(training.out)


def check_item_scheme(name: str) -> ItemScheme:
    """Return the scheme of this name; "auto" is row_wise, with which no worker has all rows.

    Raises:
        UsageError: models of items have none of this name.
    """
    for scheme in get_args(ItemScheme):
        if name in (scheme, "auto"):
            return cast(ItemScheme, scheme)
    known = ("auto", *get_args(ItemScheme))
    raise UsageError(f"tables of items have no scheme {name!r}.{did_you_mean(name, known)}")
