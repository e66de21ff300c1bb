"""What an evaluation of a ranking model found, in memory and on disk (NAME.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ensue.errors import RunError
from ensue.files import write_json

_FIGURES = {"kind", "rows", "metrics", "intervals", "undefined", "reliability", "curve"}


@dataclass(frozen=True)
class RankingEvaluation:
    """Metrics of one model on part of a ranking dataset, and how they were measured.

    tasks: task -> figures: kind, rows, positives, weight, mean_label, mean_prediction; metrics,
        name -> value, or None and why in undefined; intervals, name -> [low, high]; groups;
        reliability, a row for each bin; curve, points of the ROC and the precision-recall curve.
    slices: slicing -> slice -> task -> figures, without reliability and curve.
    protocol: all that a reader needs to compare the numbers with others.
    """

    tasks: dict[str, dict[str, Any]]
    slices: dict[str, dict[str, dict[str, dict[str, Any]]]]
    protocol: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that is defined, as "task/metric"."""
        return {
            f"{task}/{name}": value
            for task, figures in self.tasks.items()
            for name, value in figures["metrics"].items()
            if value is not None
        }

    @property
    def means(self) -> dict[str, float]:
        """The mean of every metric over the tasks that have it, as "metric"."""
        values: dict[str, list[float]] = {}
        for name, value in self.metrics.items():
            values.setdefault(name.rpartition("/")[2], []).append(value)
        return {name: fmean(found) for name, found in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation, ready for JSON."""
        return {"tasks": self.tasks, "slices": self.slices, "protocol": self.protocol}

    def save(self, folder: str | Path, name: str) -> None:
        """Write FOLDER/NAME.json, atomically."""
        write_json(Path(folder) / f"{name}.json", self.to_dict())

    @classmethod
    def load(cls, folder: str | Path, name: str) -> RankingEvaluation:
        """Return the evaluation stored by `save`.

        Raises:
            RunError: the file is missing or is not what `save` wrote.
        """
        file = Path(folder) / f"{name}.json"
        if not file.is_file():
            raise RunError(
                f"the evaluation of a ranking model is a file {name}.json; {file} does not exist. "
                "Evaluate the model first."
            )
        try:
            evaluation = cls(**json.loads(file.read_text(encoding="utf-8")))
            for task, figures in evaluation.tasks.items():
                if missing := _FIGURES - figures.keys():
                    raise KeyError(f"task {task!r} has no {sorted(missing)[0]!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{file} must hold the evaluation of a ranking model; it does not: {error}. "
                "Evaluate the model again."
            ) from None
        return evaluation
