"""Knowledge distillation in training: soft targets over the catalogue in place of the own loss.

J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, "Understanding and Improving
Knowledge Distillation", 2020, arXiv:2002.03532; here the classes are the items and the label of a
query is the observed next one.
The loss is (1 - lam) H(label, softmax(z)) + lam s H(rho, softmax(z / tau)) over the whole
catalogue, for a student of any family: its own loss is not used.
Shapes: S queries, k kept items, D width of the teacher's queries, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from ensue.config import Config
from ensue.data.histories import Histories
from ensue.errors import UsageError
from ensue.losses.distillation import (
    filled_softmax_distillation_loss,
    full_softmax_distillation_loss,
)
from ensue.losses.expected_logits import Fill
from ensue.losses.soft_targets import TopKTarget
from ensue.models.base import Model
from ensue.nn.growing_items import all_rows
from ensue.training.distillation.catalog_targets import (
    MeanTargets,
    compact_label,
    compact_topk,
    fill_groups,
    fill_similar,
    fill_teacher,
    force_label,
    permute_items,
    unit_rows,
)
from ensue.training.distillation.teachers import TeacherCache
from ensue.training.objective import Batch, QueryObjective

CATALOG_METHODS = (
    "ls",
    "kd-perm",
    "kd-pt",
    "kd-sim",
    "kd-rel",
    "kd-classavg",
    "kd-pt+sim",
    "kd-topk",
    "kd",
)
NEED_RANKING = ("kd-topk", "kd-perm", "kd-classavg")
NEED_LABEL = ("kd-pt", "kd-pt+sim")
NEED_QUERIES = ("kd",)
NEED_TABLE = ("kd", "kd-sim", "kd-pt+sim")


class CatalogDistillationConfig(Config):
    """Settings of the methods; each says which ones it is of.

    teacher_weight: lam, of all but ls.
    temperature: tau, of teacher and student, of all but ls.
    scale: s of the soft part; None is the temperature squared.
    smoothing: a of ls, its teacher weight.
    num_kept: k of kd-topk, kd-perm and kd-classavg.
    force_label: kd-topk always keeps the observed item.
    pt_temperature: of the observed item's probability in kd-pt and kd-pt+sim; None is
        `temperature`.
    sim_temperature, center_rows: of kd-sim and kd-pt+sim, see `losses.soft_targets.sim_table`.
    groups: of kd-rel: a file of two columns, item and group.
    b1, b2, b3: item, its group and other items in proportion, of kd-rel.
    """

    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    scale: float | None = Field(default=None, gt=0)
    smoothing: float = Field(default=0.1, ge=0, le=1)
    num_kept: int = Field(default=50, ge=1)
    force_label: bool = False
    pt_temperature: float | None = Field(default=None, gt=0)
    sim_temperature: float = Field(default=0.15, gt=0)
    center_rows: bool = True
    groups: str | None = None
    b1: float = Field(default=1.0, gt=0)
    b2: float = Field(default=0.01, ge=0)
    b3: float = Field(default=0.0001, ge=0)

    @model_validator(mode="after")
    def _groups_are_between(self) -> CatalogDistillationConfig:
        if not self.b1 > self.b2 > self.b3:
            raise ValueError(f"needs b1 > b2 > b3, has {self.b1}, {self.b2}, {self.b3}")
        return self


def cache_needs(method: str, config: CatalogDistillationConfig) -> dict[str, Any] | None:
    """Return what a teacher's answers must hold, as arguments of `teacher_cache`; None for none."""
    if method in NEED_QUERIES:
        return {"num_items": 1, "temperature": None, "with_queries": True}
    if method in NEED_LABEL:
        return {"num_items": 1, "temperature": config.pt_temperature or config.temperature}
    if method in NEED_RANKING:
        return {"num_items": config.num_kept, "temperature": config.temperature}
    return None


class KnowledgeTerm:
    """Puts the loss of knowledge distillation in place of the student's own."""

    def __init__(
        self,
        method: str,
        config: CatalogDistillationConfig,
        histories: Histories,
        *,
        teacher: Model,
        cache: TeacherCache | None,
        groups: Tensor | None,
    ) -> None:
        self._method, self._config, self._cache = method, config, cache
        self._histories, self._groups = histories, groups
        self._num_items = teacher.num_items
        self._teacher: Any = teacher
        self._means: MeanTargets | None = None
        if method == "kd-classavg" and cache is not None:
            self._means = MeanTargets(
                cache, histories, num_items=self._num_items, temperature=config.temperature
            )
        if method in ("kd-sim", "kd-pt+sim"):
            table: Any = teacher.output_embedding
            self._rows = unit_rows(all_rows(table), center_rows=config.center_rows)
        # label; and p_t, or a compact target, or the teacher's queries
        self.num_tensors = 1
        if method in NEED_RANKING:
            self.num_tensors = 4
        elif method in NEED_LABEL or method in NEED_QUERIES:
            self.num_tensors = 2

    @property
    def settings(self) -> dict[str, float]:
        """teacher_weight, temperature and scale of the loss."""
        config = self._config
        if self._method == "ls":
            return {"teacher_weight": config.smoothing, "temperature": 1.0, "scale": 1.0}
        scale = config.temperature**2 if config.scale is None else config.scale
        return {
            "teacher_weight": config.teacher_weight,
            "temperature": config.temperature,
            "scale": scale,
        }

    def dense(self, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return the soft target [S, I] of the queries before a few `rows` [S]."""
        labels, *rest = self.tensors(rows, 1, generator)
        target = self._target(labels, *rest)
        if isinstance(target, TopKTarget):
            ids = target.ids - 1
            return TopKTarget(ids, target.values, target.remainder).dense(self._num_items)
        out = torch.empty(len(labels), self._num_items)
        target(slice(0, len(labels)), out)
        return out

    def tensors(
        self, rows: NDArray[np.int64], epoch: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Return the observed items [S], then what the method keeps of the teacher."""
        labels = torch.from_numpy(self._histories.items[rows].astype(np.int64))
        if self._method in NEED_RANKING:
            target = self._compact(rows, labels, generator)
            return [labels, target.ids, target.values, target.remainder]
        if self._method in NEED_LABEL:
            return [labels, self._p_t(rows)]
        if self._method in NEED_QUERIES:
            assert self._cache is not None
            assert self._cache.queries is not None
            return [labels, torch.from_numpy(self._cache.queries[rows])]
        return [labels]

    def _compact(
        self, rows: NDArray[np.int64], labels: Tensor, generator: torch.Generator
    ) -> TopKTarget:
        if self._means is not None:
            return self._means.of(labels)
        cache, config = self._cache, self._config
        assert cache is not None
        assert cache.normalizers is not None
        target = compact_topk(
            torch.from_numpy(cache.items[rows].astype(np.int64)),
            torch.from_numpy(cache.logits[rows]),
            torch.from_numpy(cache.normalizers[rows]),
            num_items=self._num_items,
            temperature=config.temperature,
        )
        if self._method == "kd-perm":
            return permute_items(target, labels, self._num_items, generator)
        if config.force_label:
            return force_label(target, labels, self._p_t(rows), self._num_items)
        return target

    def _p_t(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the teacher's probability of the observed items [S]."""
        cache, config = self._cache, self._config
        assert cache is not None
        assert cache.normalizers is not None
        assert cache.targets is not None
        temperature = config.temperature
        if self._method in NEED_LABEL:
            temperature = config.pt_temperature or temperature
        logits = torch.from_numpy(cache.targets[rows]) / temperature
        return (logits - torch.from_numpy(cache.normalizers[rows])).exp()

    def loss(
        self,
        model: Any,
        base: QueryObjective,
        queries: Tensor,
        batch: Batch,
        tensors: Batch,
    ) -> Tensor:
        """Return the mean loss of the queries."""
        labels, *rest = tensors
        target = self._target(labels, *rest)
        table, bias = model.output_embedding, model.output_bias
        settings: dict[str, Any] = {"bias": bias, **self.settings}
        if isinstance(target, TopKTarget):
            total = full_softmax_distillation_loss(queries, table, labels, target, **settings)
        else:
            total = filled_softmax_distillation_loss(queries, table, labels, target, **settings)
        return total / max(1, len(labels))

    def _target(self, labels: Tensor, *rest: Tensor) -> TopKTarget | Fill:
        config, method = self._config, self._method
        if method == "ls":
            uniform = torch.full((len(labels),), 1 / self._num_items, device=labels.device)
            return TopKTarget(labels[:, None], uniform[:, None], uniform)
        if method in NEED_RANKING:
            return TopKTarget(*rest)
        if method == "kd-pt":
            return compact_label(labels, rest[0], num_items=self._num_items)
        if method == "kd-rel":
            assert self._groups is not None
            groups = self._groups.to(labels.device)
            return fill_groups(groups, labels, b1=config.b1, b2=config.b2, b3=config.b3)
        if method == "kd":
            teacher, device = self._teacher, labels.device
            bias, popularity = teacher.output_bias, getattr(teacher, "log_popularity", None)
            return fill_teacher(
                rest[0],
                all_rows(teacher.output_embedding).detach().to(device),
                None if bias is None else all_rows(bias).detach().to(device),
                without_events=None if popularity is None else popularity.to(device),
                temperature=config.temperature,
            )
        return fill_similar(
            self._rows.to(labels.device),
            labels,
            sim_temperature=config.sim_temperature,
            p_t=rest[0] if rest else None,
        )


def check_teacher(method: str, teacher: Model) -> None:
    """Raise a UsageError for a method that needs more of the teacher than its scores."""
    if method in NEED_TABLE and not hasattr(teacher, "output_embedding"):
        raise UsageError(
            f"{method} needs a teacher whose items have output vectors (caser, sasrec, gru4rec, "
            f"m3); {type(teacher).__name__} has none. Use kd-topk, kd-pt or rd."
        )
