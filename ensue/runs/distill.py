"""Distill: train a student on a dataset and on what a trained run answers to its queries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import torch
from torch import Tensor

from ensue.config import Config, make_config
from ensue.data.dataset import Dataset
from ensue.data.histories import Histories
from ensue.data.readers import open_tables
from ensue.errors import ConfigError, DataError, UsageError, did_you_mean
from ensue.models.base import Model
from ensue.models.retrieval.deep_retrieval import DeepRetrieval
from ensue.models.sequence import SequenceModel
from ensue.models.sequential.caser import Caser
from ensue.models.table import get_method, get_preset
from ensue.runs.diagnose import diagnose
from ensue.runs.run import Run
from ensue.runs.train import Fit, find_home, resolve_settings, train_with
from ensue.training.config import TrainingConfig
from ensue.training.distillation.knowledge import (
    CATALOG_METHODS,
    CatalogDistillationConfig,
    KnowledgeTerm,
    cache_needs,
    check_teacher,
)
from ensue.training.distillation.objective import DistillationObjective, TeacherTerm
from ensue.training.distillation.ranking import RankingDistillationConfig, RankingTerm
from ensue.training.distillation.start import check_start, start_from_teacher_
from ensue.training.distillation.teachers import Teacher, TeacherCache, teacher_cache
from ensue.training.objective import Objective, QueryObjective
from ensue.training.objectives import make_objective

Start = Literal["random", "teacher"]
METHODS = ("rd", *CATALOG_METHODS)
_CHUNK_ROWS = 1 << 16


def distill(
    teacher: Run | str | Path,
    data: Dataset | str | Path | None = None,
    *,
    out: str | Path,
    method: str = "rd",
    model: str | None = None,
    preset: str | None = None,
    fit: Fit | None = None,
    cache: str | Path | None = None,
    start: Start = "random",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Train a student on the dataset and on its teacher, and return the stored run.

    The teacher answers every training query once; its answers are kept in a folder and used again
    by every student that asks for the same. The student's run holds nothing of the teacher.

    Args:
        teacher: a finished run.
        data: the dataset that the teacher was trained on; None is where it was then.
        method: "rd" (ranking distillation) or one of knowledge distillation ("kd", "kd-topk",
            "kd-pt", "kd-sim", "kd-rel", "kd-pt+sim", "kd-perm", "kd-classavg", "ls").
        model: the student's; None is the teacher's, with the teacher's settings where `settings`
            does not say otherwise.
        preset: settings of the student, for a student of another family.
        fit: the part that trains; None is the teacher's.
        cache: where the teacher's answers are kept; None is the teacher's folder.
        start: the student's first weights: "random", or in its tables those of a "teacher" of the
            same family, in as many dimensions as the student has (`start_from_teacher_`).
        settings: of the student, of its training and of the method, by field name.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning, the student's family
            cannot be distilled to, or the teacher was trained on another dataset.
        RunError: the loss, or a score of the teacher, is not finite.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    teacher = teacher if isinstance(teacher, Run) else Run(teacher)
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}.{did_you_mean(method, METHODS)}")
    dataset = teacher.open_dataset(data)
    fit = _choose_fit(teacher, fit)
    name = model or teacher.info["model"]
    own, chosen = _split_settings(name, method, settings)
    student = {**_base_settings(teacher, name, preset), **own}
    _check_student(name, method, student, start, teacher)
    config = make_config(_config_of(method), chosen)
    folder = Path(cache) if cache is not None else teacher.path / "answers"
    lesson = _Lesson(teacher, dataset, fit, method, config, folder, start)
    return train_with(
        name,
        dataset,
        student,
        out=out,
        fit=fit,
        resume=resume,
        overwrite=overwrite,
        preset=preset,
        make=lesson.make_objective,
        extra={"distillation": lesson.describe()},
        examine=lesson.examine,
    )


class _Lesson:
    """What a teacher is asked for, and the objective that is made of its answers."""

    def __init__(
        self,
        teacher: Run,
        dataset: Dataset,
        fit: Fit,
        method: str,
        config: Config,
        folder: Path,
        start: Start,
    ) -> None:
        self._dataset, self._fit, self._folder, self._start = dataset, fit, folder, start
        self._method, self._config = method, config
        self._name = teacher.info["model"]
        self._teacher = Teacher(teacher.model, identity(teacher))
        check_teacher(method, teacher.model)
        self._groups = _read_groups(config, dataset) if method == "kd-rel" else None
        self._term: TeacherTerm | None = None

    def make_objective(
        self, model: Model, histories: Histories, *, batch_size: int, seed: int
    ) -> Objective:
        """Return the objective of a new student; the teacher answers now, if it has not yet."""
        base = make_objective(model, histories, batch_size=batch_size, seed=seed)
        assert isinstance(base, QueryObjective)
        if self._start == "teacher":
            start_from_teacher_(model, self._teacher.model)
        self._term = self._make_term(model, histories)
        return DistillationObjective(base, self._term, seed=seed)

    def _make_term(self, model: Model, histories: Histories) -> TeacherTerm:
        config = self._config
        if isinstance(config, RankingDistillationConfig):
            answers = self._answers(
                num_items=config.num_teacher_items,
                exclude=config.exclude,
                num_targets=getattr(model.config, "num_targets", 1),
            )
            return RankingTerm(config, answers, histories, model.num_items)
        assert isinstance(config, CatalogDistillationConfig)
        needs = cache_needs(self._method, config)
        return KnowledgeTerm(
            self._method,
            config,
            histories,
            teacher=self._teacher.model,
            cache=None if needs is None else self._answers(exclude="nothing", **needs),
            groups=self._groups,
        )

    def _answers(self, **needs: Any) -> TeacherCache:
        """Return the teacher's answers; it may read context that the student does not."""
        histories = self._dataset.histories(self._fit, self._teacher.model.context)
        queries = f"{self._dataset.info.hash} {self._fit}"
        return teacher_cache(self._folder, self._teacher, histories, queries=queries, **needs)

    def examine(self, student: Model) -> dict[str, Any]:
        """Return diagnostics of the trained student, where the method has a soft target."""
        if not isinstance(self._term, KnowledgeTerm):
            return {}
        histories = self._dataset.histories(self._fit, student.context)
        return {"diagnostics": diagnose(student, self._term, histories, seed=0)}

    def describe(self) -> dict[str, Any]:
        """Return what the student learned from, ready for JSON."""
        return {
            "method": self._method,
            "start": self._start,
            "config": self._config.model_dump(),
            "teacher": {"model": self._name, "identity": self._teacher.identity},
        }


def _choose_fit(teacher: Run, fit: Fit | None) -> Fit:
    """Return the part that trains the student: by default the teacher's."""
    of_teacher: Fit = teacher.info["fit"]
    if fit == "train" and of_teacher == "train+validation":
        raise UsageError(
            f"a student is validated on data that its teacher was not trained on; {teacher.path} "
            "was trained on train+validation. Use fit train+validation, or another teacher."
        )
    return fit or of_teacher


def _config_of(method: str) -> type[Config]:
    return RankingDistillationConfig if method == "rd" else CatalogDistillationConfig


def _split_settings(
    model: str, method: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the student and its training, and those of the method."""
    family = get_method(model).model
    # The loss of a teacher says nothing of paths.
    if not issubclass(family, Caser | SequenceModel) or issubclass(family, DeepRetrieval):
        raise UsageError(
            f"a student must be a sequential model (caser, sasrec, gru4rec, m3); got {model}."
        )
    fields = list(_config_of(method).model_fields)
    own, chosen = {}, {}
    for name, value in settings.items():
        if name in fields:
            chosen[name] = value
            continue
        try:
            find_home(model, name)
        except ConfigError:
            known = [*fields, *get_method(model).model.Config.model_fields]
            known += TrainingConfig.model_fields
            raise ConfigError(
                f"{model} and {method} have no setting {name!r}.{did_you_mean(name, known)}"
            ) from None
        own[name] = value
    return own, chosen


def _base_settings(teacher: Run, model: str, preset: str | None) -> dict[str, Any]:
    """Return what the student has where the caller says nothing."""
    if model != teacher.info["model"] or preset is not None:
        return get_preset(model, preset)
    return {**teacher.info["config"], **(teacher.info["training"] or {})}


def identity(run: Run) -> str:
    """Return a hash of the run's weights and settings."""
    digest = hashlib.sha256(repr((run.info["model"], run.info["config"])).encode())
    with (run.path / "model.safetensors").open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:20]


def _check_student(
    name: str, method: str, settings: Mapping[str, Any], start: Start, teacher: Run
) -> None:
    """Raise a UsageError for a student that the method cannot train, or that cannot start so."""
    config, _ = resolve_settings(name, settings)
    if getattr(config, "growth", None) is not None:
        raise UsageError(
            "a student has static tables, which its teacher's answers are matched with; got growth."
            " Leave it out (growth=null)."
        )
    num_targets = getattr(config, "num_targets", 1)
    if method != "rd" and num_targets != 1:
        raise UsageError(
            f"{method} needs one target for each query; got num_targets={num_targets}. "
            "Set num_targets=1, or use rd."
        )
    if start not in get_args(Start):
        raise UsageError(f"start must be one of {get_args(Start)}; got {start!r}.")
    if start == "teacher":
        check_start(get_method(name).model, config.dim, teacher.model)  # type: ignore[attr-defined]


def _read_groups(config: Config, dataset: Dataset) -> Tensor:
    """Return the group of each item [I], -1 for items that the file does not have."""
    assert isinstance(config, CatalogDistillationConfig)
    if config.groups is None:
        raise UsageError(
            "kd-rel needs the groups of the items; pass groups=FILE, two columns: item and group."
        )
    table = open_tables([config.groups])[0]
    if len(table.columns) < 2:
        raise DataError(
            f"a file of groups has an item and a group; {config.groups} has one column."
        )
    pairs = pl.concat(
        chunk.rows.select(pl.col(name).cast(pl.String) for name in table.columns[:2])
        for chunk in table.read(table.columns[:2], _CHUNK_ROWS)
    )
    pairs = pairs.filter(pl.all_horizontal(pl.all().fill_null("") != ""))
    dense = dataset.item_ids.to_dense(pairs[:, 0].to_list())
    codes = pairs[:, 1].rank("dense").to_numpy().astype("int64")
    if not (dense > 0).any():
        raise DataError(f"groups must have items of the dataset; {config.groups} has none of them.")
    groups = torch.full((dataset.num_items + 1,), -1, dtype=torch.long)
    groups[torch.from_numpy(dense)] = torch.from_numpy(codes)
    return groups[1:]
