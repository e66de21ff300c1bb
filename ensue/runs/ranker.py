"""A ranking run: all that is needed to score rows, movable to a machine without the dataset.

```
RUN/run.json              model, schema, settings, dataset (name, hash, counts), seed, versions,
                          hardware, metrics; written last
RUN/model.safetensors     everything the model learned
RUN/encoder.json          how rows are read: vocabularies, means, deviations
RUN/log.jsonl             one line an epoch
RUN/checkpoints/          to resume from
RUN/evaluation/           what `ensue evaluate` found
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.config import make_config
from ensue.data.ranking.dataset import RankingDataset
from ensue.data.ranking.encoder import RankingEncoder
from ensue.data.ranking.schema import RankingSchema
from ensue.distributed.workers import Workers
from ensue.errors import UsageError
from ensue.evaluation.ranking.evaluator import RankingProtocol
from ensue.evaluation.ranking.result import RankingEvaluation
from ensue.evaluation.ranking.shared import evaluate_shared
from ensue.files import write_json
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import build_ranker, get_ranker
from ensue.runs.export.write import Export, export_ranker
from ensue.runs.stored import FORMAT, StoredRun
from ensue.training.checkpoints import save_tensors

KIND = "ranking run"
PREDICT_ROWS = 4096  # scored at a time


class RankingRun(StoredRun):
    """A finished run of a ranking model, opened. The model is read when it is first needed."""

    kind = KIND

    @cached_property
    def schema(self) -> RankingSchema:
        """The columns that the model reads, and its tasks."""
        return RankingSchema.from_dict(self.info["schema"])

    @cached_property
    def model(self) -> RankingModel:
        """The trained model, in evaluation mode."""
        name = self.info["model"]
        config = make_config(get_ranker(name).model.Config, self.info["config"])
        model = build_ranker(name, config, self.schema)
        return self.fill_(model)

    @cached_property
    def encoder(self) -> RankingEncoder:
        """What turns rows of raw values into a batch."""
        return RankingEncoder.load(self.path / "encoder.json")

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float32]]:
        """Return for each task the probability of 1, or the value, of each row [n].

        Values that the training did not see, and columns that a row leaves out, are missing.

        Args:
            rows: column -> value, as in the table that the dataset was made of.

        Raises:
            UsageError: there is no row, or a value is not what its column holds.
        """
        if not rows:
            raise UsageError("predict needs at least one row; got none.")
        with torch.no_grad():
            parts = []
            for first in range(0, len(rows), PREDICT_ROWS):
                part = rows[first : first + PREDICT_ROWS]
                batch, _ = self.encoder.encode(part, as_ids=self.model.reads_ids)
                parts.append(self.model.predict(batch))
        scores = torch.cat(parts).numpy()
        return {task.name: scores[:, number] for number, task in enumerate(self.schema.tasks)}

    def evaluate(
        self,
        data: RankingDataset | str | Path | None = None,
        *,
        split: Literal["validation", "test"] = "test",
        progress: bool = False,
        workers: Workers | None = None,
        **options: Any,
    ) -> RankingEvaluation:
        """Evaluate the run, store the result in RUN/evaluation, and return it.

        Args:
            data: the dataset; None is where it was at training time.
            workers: those that predict, which all call this; the first one stores the result. None
                is this process alone.
            options: of `RankingProtocol` (popularity, by, group...); groups are by default those
                of the dataset.

        Raises:
            UsageError: the dataset is another one, or the run was trained on the split.
        """
        dataset = self.open_dataset(data)
        self.check_split(split)
        group = None if dataset.info.group is None else dataset.groups
        protocol = RankingProtocol(**{"group": group, **options}, as_ids=self.model.reads_ids)
        stored = self.info["dataset"]
        about = {"dataset": stored["name"], "hash": stored["hash"], "split": split}
        workers = workers or Workers.alone()
        found = evaluate_shared(
            self.model,
            dataset,
            dataset.bounds(split),
            protocol,
            workers,
            about=about,
            progress=progress,
        )
        if found is not None:
            found.save(self.path / "evaluation", split)
        if workers.size == 1 and found is not None:
            return found
        of_first, *_ = workers.gather_objects(found and found.to_dict())
        return RankingEvaluation(**of_first)

    def export(
        self, form: str, *, out: str | Path | None = None, overwrite: bool = False
    ) -> Export:
        """Write the run in another format; see `ensue.runs.export.write.export_ranker`."""
        return export_ranker(self, form, out=out, overwrite=overwrite)

    def evaluations(self) -> dict[str, RankingEvaluation]:
        """Return the stored evaluations by split."""
        files = sorted((self.path / "evaluation").glob("*.json"))
        return {f.stem: RankingEvaluation.load(self.path / "evaluation", f.stem) for f in files}

    def open_dataset(self, data: RankingDataset | str | Path | None) -> RankingDataset:
        """Return the dataset that the run was trained on; None is where it was at training time.

        Raises:
            UsageError: it is not there, or is another one.
        """
        if not isinstance(data, RankingDataset):
            data = RankingDataset(self.find_dataset(data))
        self.check_dataset(data.path, data.info.hash)
        return data


def load_ranker(path: str | Path) -> RankingRun:
    """Return the ranking run at `path`; it works without the dataset, on any machine."""
    return RankingRun(path)


def save_ranking_run(
    path: Path, model: RankingModel, dataset: RankingDataset, info: dict[str, Any]
) -> RankingRun:
    """Write all files of a finished run, run.json last, and return it."""
    save_tensors(path / "model.safetensors", model.state_dict(), {})
    RankingEncoder.from_dataset(dataset).save(path / "encoder.json")
    write_json(path / "run.json", {"format": FORMAT, **info})
    return RankingRun(path)
