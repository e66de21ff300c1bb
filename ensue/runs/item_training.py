"""The training of a model of items in one process, and what it shares with that in several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ensue.data.dataset import Dataset
from ensue.distributed.workers import Workers
from ensue.evaluation.evaluator import evaluate
from ensue.models.base import Model
from ensue.progress import note
from ensue.training.checkpoints import Progress
from ensue.training.config import TrainingConfig
from ensue.training.loop import OnValidation, TrainingLoop, pick_device
from ensue.training.objective import Objective
from ensue.training.objectives import MakeObjective
from ensue.training.papk import PapkObjective

Fit = Literal["train", "train+validation"]
VALIDATION_KS = (10, 20)


@dataclass(frozen=True)
class ItemTraining:
    """A training that is described, and can be run.

    out: the folder of the run.
    """

    make_model: Callable[[], Model]
    make_objective: MakeObjective
    config: TrainingConfig
    dataset: Dataset
    fit: Fit
    out: Path
    on_validation: OnValidation | None = None

    def run(self, *, resume: bool) -> tuple[Model, dict[str, Any]]:
        """Return the trained model, and what to say of it."""
        device = pick_device(self.config.device)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = self.make_model().to(device)
            loop = TrainingLoop(
                model,
                self.objective(model),
                self.config,
                directory=self.out,
                validate=validation(self.dataset, self.fit),
                on_validation=self.on_validation,
            )
            progress = loop.run(resume=resume)
        papk = self.config.papk
        if papk and 0 < progress.best_epoch <= papk.warmup_epochs < progress.epoch - 1:
            note(
                f"The best epoch, {progress.best_epoch}, is one of the warm-up: pAp@k itself made "
                "the model worse. Raise k or warmup_epochs of papk, or lower learning_rate."
            )
        return model.cpu(), self.facts(progress)

    def objective(self, model: Model) -> Objective:
        """Return the objective of a new model; a table of items is whole when it is made."""
        histories = self.dataset.histories(self.fit, model.context)
        size, seed = self.config.batch_size, self.config.seed
        if (papk := self.config.papk) is not None:
            return PapkObjective(model, histories, papk, batch_size=size, seed=seed)
        return self.make_objective(model, histories, batch_size=size, seed=seed)

    def facts(self, progress: Progress) -> dict[str, Any]:
        """Return what a run says of its training."""
        is_validated = validation(self.dataset, self.fit) is not None
        return {
            "metrics": {"validation": progress.best_metrics} if is_validated else {},
            "epochs": progress.epoch - 1,
            "best_epoch": progress.best_epoch or progress.epoch - 1,
        }


def validation(
    dataset: Dataset, fit: Fit, workers: Workers | None = None
) -> Callable[[Model], dict[str, float]] | None:
    """Return what measures a model on the validation part; None where none is left.

    Args:
        workers: who share the users.
    """
    if fit == "train+validation" or dataset.info.counts["validation"] == 0:
        return None

    def validate(model: Model) -> dict[str, float]:
        return evaluate(
            model,
            dataset,
            split="validation",
            ks=VALIDATION_KS,
            num_resamples=0,
            workers=workers,
        ).metrics

    return validate
