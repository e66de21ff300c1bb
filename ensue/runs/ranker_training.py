"""The training of a ranking model in one process, and what it shares with that in several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ensue.evaluation.ranking.evaluator import RankingProtocol, evaluate_ranking
from ensue.models.ranking.base import RankingModel
from ensue.runs.make_ranker import RankerMaker
from ensue.training.checkpoints import Progress
from ensue.training.loop import OnValidation, TrainingLoop, pick_device
from ensue.training.ranking import RankingObjective

OpenOut = Callable[[], bool]
Predict = Callable[[Any], Any]


class RankerTraining:
    """A training that is described, and can be run.

    Args:
        out: the folder of the run.
    """

    def __init__(
        self, maker: RankerMaker, out: Path, on_validation: OnValidation | None = None
    ) -> None:
        self.maker, self.out, self.on_validation = maker, out, on_validation
        self.config = maker.settings.training

    def run(self, open_out: OpenOut) -> tuple[RankingModel, dict[str, Any]]:
        """Return the trained model, and what to say of it; torch's generator decides its weights.

        Args:
            open_out: makes the folder ready, and says whether there is a training to continue.
        """
        # First the model: settings that do not fit the data leave no folder behind.
        model, maker = self.maker.model(), self.maker
        objective = RankingObjective(
            maker.reader(as_ids=model.reads_ids),
            maker.dataset.schema,
            maker.loss_weights(),
            seed=self.config.seed,
        )
        model.to(pick_device(self.config.device))
        resume = open_out()
        loop = TrainingLoop(
            model,
            objective,
            self.config,
            directory=self.out,
            validate=self.validation(lambda model: model, as_ids=model.reads_ids),
            on_validation=self.on_validation,
        )
        progress = loop.run(resume=resume)
        return model.cpu(), self.facts(progress)

    def validation(
        self, predict_of: Callable[[Any], Predict], *, as_ids: bool
    ) -> Callable[[Any], dict[str, float]] | None:
        """Return what measures a model on the validation part; None where none is left.

        Args:
            predict_of: returns what gives a model's outputs for a batch.
        """
        dataset = self.maker.dataset
        if self.maker.fit == "train+validation" or dataset.num_rows("validation") == 0:
            return None

        def validate(model: Any) -> dict[str, float]:
            protocol = RankingProtocol(as_ids=as_ids)
            bounds = dataset.bounds("validation")
            found = evaluate_ranking(predict_of(model), dataset, bounds, protocol)
            return {**found.means, **found.metrics}

        return validate

    def facts(self, progress: Progress) -> dict[str, Any]:
        """Return what a run says of its training."""
        return {
            "metrics": {"validation": progress.best_metrics} if progress.best_epoch else {},
            "epochs": progress.epoch - 1,
            "best_epoch": progress.best_epoch or progress.epoch - 1,
        }
