"""The loss of every method over the catalogue against the dense definition, in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.config import make_config
from ensue.errors import ConfigError, UsageError
from ensue.losses import expected_logits
from ensue.losses.distillation import distillation_loss
from ensue.losses.soft_targets import (
    TopKTarget,
    class_mean_table,
    pt_shared_target,
    pt_target,
    rel_table,
    sim_table,
    teacher_target,
    topk_target,
    uniform_target,
)
from ensue.training.distillation.knowledge import (
    CATALOG_METHODS,
    CatalogDistillationConfig,
    KnowledgeTerm,
    cache_needs,
    check_teacher,
)
from ensue.training.distillation.prefixes import answer_all
from ensue.training.distillation.teachers import Teacher, teacher_cache
from tests.training.distillation.models import NUM_ITEMS, make_log, make_model, without_context

LOG = without_context(make_log())
ROWS = LOG.rows(np.arange(LOG.num_users + 1))[0][::-1].copy()
TEACHER: Any = make_model("caser", LOG, seed=4)
GROUPS = torch.tensor([n % 4 - 1 for n in range(NUM_ITEMS)])  # -1 is no group
WIDTH = 5  # of the student


class Case:
    """A method with its settings, and all that its loss is made of."""

    def __init__(self, folder: Path, method: str, teacher: Any = TEACHER, **settings: Any) -> None:
        self.method, self.config = method, CatalogDistillationConfig(**settings)
        needs = cache_needs(method, self.config)
        cache = None
        if needs is not None:
            cache = teacher_cache(
                folder, Teacher(teacher, "t"), LOG, queries="log", exclude="nothing", **needs
            )
        if cache is not None and method == "kd-classavg":  # as of a real teacher
            logits, normalizers = (np.float32(a) for a in (cache.logits, cache.normalizers))
            cache = replace(cache, logits=logits, normalizers=normalizers)
        self.term = KnowledgeTerm(
            method, self.config, LOG, teacher=teacher, cache=cache, groups=GROUPS
        )
        tensors = self.term.tensors(ROWS, 1, torch.Generator().manual_seed(0))
        assert len(tensors) == self.term.num_tensors
        self.tensors = [t.double() if t.is_floating_point() else t for t in tensors]
        self.labels = torch.from_numpy(LOG.items[ROWS].astype(np.int64))
        assert torch.equal(self.tensors[0], self.labels)
        every = torch.zeros(len(LOG.items), NUM_ITEMS, dtype=torch.float64)
        for answers in answer_all(teacher, LOG):
            every[answers.rows] = answers.scores[:, 1:].double()
        self.teacher, self.teacher_logits = teacher, every[ROWS]

    def dense_target(self) -> Tensor:
        """Return the target [S, I] by its definition."""
        config, logits, labels = self.config, self.teacher_logits, self.labels - 1
        tau = config.temperature
        pt_tau = config.pt_temperature or tau
        num_kept = min(config.num_kept, NUM_ITEMS)
        if self.method == "ls":
            return uniform_target(logits)
        if self.method == "kd":
            return teacher_target(logits, temperature=tau)
        if self.method == "kd-topk":
            kept = labels if config.force_label else None
            return topk_target(logits, num_kept, temperature=tau, labels=kept).dense(NUM_ITEMS)
        if self.method == "kd-pt":
            return pt_target(logits, labels, pt_temperature=pt_tau)
        if self.method == "kd-classavg":
            assert num_kept == NUM_ITEMS
            return class_mean_table(logits, labels, temperature=tau)[labels]
        if self.method == "kd-rel":
            groups = torch.where(GROUPS < 0, 100 + torch.arange(NUM_ITEMS), GROUPS)
            table = rel_table(groups, b1=config.b1, b2=config.b2, b3=config.b3, scale_rows=True)
            return table[labels].double()
        if self.method == "kd-perm":
            ids, values, remainder = self.tensors[1:]
            return TopKTarget(ids - 1, values, remainder).dense(NUM_ITEMS)
        similar = sim_table(
            self.teacher.output_embedding[1:],
            sim_temperature=config.sim_temperature,
            center_rows=config.center_rows,
        )
        if self.method == "kd-sim":
            return similar[labels]
        return pt_shared_target(logits, labels, similar, pt_temperature=pt_tau)

    def loss(self, queries: Tensor, table: Tensor, bias: Tensor | None) -> Tensor:
        model = SimpleNamespace(output_embedding=table, output_bias=bias)
        return self.term.loss(model, None, queries, (), self.tensors)  # type: ignore[arg-type]

    def dense_loss(self, queries: Tensor, table: Tensor, bias: Tensor | None) -> Tensor:
        config = self.config
        weight, tau, scale = config.teacher_weight, config.temperature, config.scale
        if self.method == "ls":
            weight, tau, scale = config.smoothing, 1.0, 1.0
        logits = queries @ table[1:].T
        if bias is not None:
            logits = logits + bias[1:]
        losses = distillation_loss(
            logits,
            self.labels - 1,
            self.dense_target(),
            teacher_weight=weight,
            temperature=tau,
            scale=tau**2 if scale is None else scale,
        )
        return losses.mean()


def draw_student(*, has_bias: bool) -> list[Tensor]:
    """Return queries [S, D], table [I + 1, D] and bias [I + 1]."""
    torch.manual_seed(2)
    shapes = [(len(ROWS), WIDTH), (NUM_ITEMS + 1, WIDTH), (NUM_ITEMS + 1,)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes[: 3 if has_bias else 2]]


def assert_same_loss(case: Case, *, has_bias: bool, tolerance: float = 1e-9) -> None:
    found_at, expected_at = (
        [t.clone().requires_grad_() for t in draw_student(has_bias=has_bias)] for _ in "ab"
    )
    found = case.loss(*found_at, *[None] * (not has_bias))
    expected = case.dense_loss(*expected_at, *[None] * (not has_bias))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    found.backward()
    expected.backward()
    for tensor, other in zip(found_at, expected_at, strict=True):
        torch.testing.assert_close(tensor.grad, other.grad, rtol=tolerance, atol=tolerance)


OF_METHOD: dict[str, list[dict[str, Any]]] = {
    "ls": [{"smoothing": 0.3}, {"smoothing": 0.0}, {"smoothing": 1.0}],
    "kd": [{}],
    "kd-topk": [{"num_kept": 1}, {"num_kept": 5}, {"num_kept": 5, "force_label": True}],
    "kd-pt": [{}, {"pt_temperature": 3.0}],
    "kd-sim": [{}, {"center_rows": False, "sim_temperature": 0.6}],
    "kd-pt+sim": [{}, {"center_rows": False, "sim_temperature": 0.6, "pt_temperature": 0.5}],
    "kd-rel": [{}, {"b1": 0.5, "b2": 0.3, "b3": 0.1}],
    "kd-classavg": [{"num_kept": NUM_ITEMS}],
    "kd-perm": [{"num_kept": 5}, {"num_kept": NUM_ITEMS}],
}
BALANCES: list[dict[str, Any]] = [
    {},
    {"temperature": 2.5},
    {"temperature": 0.7, "scale": 1.0, "teacher_weight": 0.8},
    {"teacher_weight": 0.0, "temperature": 2.0},
    {"teacher_weight": 1.0},
    {"teacher_weight": 1.0, "temperature": 2.0, "scale": 3.0},
]
CASES = [
    (method, {**settings, **balance})
    for method, own in OF_METHOD.items()
    for settings in own
    for balance in BALANCES
]


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_the_loss_is_that_of_the_dense_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(expected_logits, "BLOCK_BYTES", {"cpu": 10 * 8 * NUM_ITEMS})
    # These targets, or the queries behind them, are made in float32.
    tolerance = 1e-6 if method in ("ls", "kd", "kd-rel", "kd-classavg") else 1e-9
    case = Case(tmp_path, method, **settings)
    for has_bias in (True, False):
        assert_same_loss(case, has_bias=has_bias, tolerance=tolerance)


@pytest.mark.parametrize("method", CATALOG_METHODS)
@pytest.mark.parametrize("name", ["caser", "gru4rec"])
def test_dense_targets_for_diagnoses(tmp_path: Path, method: str, name: str) -> None:
    settings = {"num_kept": NUM_ITEMS, "temperature": 2.0, "pt_temperature": 0.5}
    case = Case(tmp_path, method, make_model(name, LOG).float(), **settings)
    found = case.term.dense(ROWS, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.double(), case.dense_target().double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gru4rec", "m3", "sasrec"])
def test_a_teacher_that_has_a_query_behind_every_event(tmp_path: Path, name: str) -> None:
    """Of a history without events it has none, and answers by popularity."""
    teacher = make_model(name, LOG)
    assert set(LOG.starts[LOG.lengths > 0]) <= set(ROWS)
    for method in ("kd", "kd-topk", "kd-pt+sim"):
        case = Case(tmp_path, method, teacher, temperature=2.0)
        assert_same_loss(case, has_bias=True, tolerance=1e-6)


def test_every_method_is_tested() -> None:
    assert set(OF_METHOD) == set(CATALOG_METHODS)


@pytest.mark.parametrize("method", ["kd-topk", "kd-perm", "kd-classavg"])
@pytest.mark.parametrize("num_kept", [1, 7, NUM_ITEMS, 500])
def test_compact_targets_are_distributions(tmp_path: Path, method: str, num_kept: int) -> None:
    for force_label in (False, True):
        case = Case(tmp_path, method, num_kept=num_kept, force_label=force_label, temperature=1.5)
        labels, ids, values, remainder = case.tensors
        num_left = NUM_ITEMS - ids.shape[1]
        torch.testing.assert_close(
            values.sum(dim=1) + num_left * remainder,
            torch.ones(len(labels), dtype=torch.float64),
            rtol=0,
            atol=1e-5,
        )
        assert bool((values >= 0).all())
        assert all(len(set(row)) == len(row) for row in ids.tolist())


def test_all_items_kept_is_the_whole_teacher(tmp_path: Path) -> None:
    student = draw_student(has_bias=True)
    settings = {"temperature": 1.7, "teacher_weight": 0.6}
    found = Case(tmp_path, "kd-topk", num_kept=100, **settings).loss(*student)
    expected = Case(tmp_path, "kd", **settings).dense_loss(*student)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_kept", [3, 12, NUM_ITEMS])
def test_a_permuted_target_keeps_what_the_teacher_says_of_the_label(
    tmp_path: Path, num_kept: int
) -> None:
    case = Case(tmp_path, "kd-perm", num_kept=num_kept)
    plain = Case(tmp_path, "kd-topk", num_kept=num_kept).dense_target()
    moved, labels = case.dense_target(), case.labels[:, None] - 1
    torch.testing.assert_close(moved.gather(1, labels), plain.gather(1, labels))
    torch.testing.assert_close(moved.sort(dim=1).values, plain.sort(dim=1).values)
    assert not torch.allclose(moved, plain)


@pytest.mark.parametrize("method", CATALOG_METHODS)
def test_a_student_that_is_its_teacher(tmp_path: Path, method: str) -> None:
    """Of kd alone, the soft part then has no gradient: 1 - lam of the hard one is left."""
    case = Case(tmp_path, method, teacher_weight=1.0, smoothing=1.0, num_kept=4, temperature=2.0)
    bias = TEACHER.output_bias.clone().requires_grad_()
    queries = draw_student(has_bias=True)[0].new_zeros(len(ROWS), TEACHER.output_embedding.shape[1])
    if method == "kd":
        queries = case.tensors[1]
    case.loss(queries, TEACHER.output_embedding, bias).backward()
    assert bool((bias.grad.abs().max() < 1e-12) == (method == "kd"))
    assert bias.grad.sum().item() == pytest.approx(0, abs=1e-7)


def test_what_is_asked_of_a_teacher() -> None:
    config = CatalogDistillationConfig(temperature=2.0, num_kept=7)
    assert cache_needs("ls", config) is None
    assert cache_needs("kd-sim", config) is None
    assert cache_needs("kd-rel", config) is None
    assert cache_needs("kd-topk", config) == {"num_items": 7, "temperature": 2.0}
    assert cache_needs("kd-pt", config) == {"num_items": 1, "temperature": 2.0}
    other = CatalogDistillationConfig(temperature=2.0, pt_temperature=3.0)
    assert cache_needs("kd-pt+sim", other) == {"num_items": 1, "temperature": 3.0}


def test_a_teacher_without_output_vectors() -> None:
    teacher = make_model("item-knn", LOG)
    for method in ("kd", "kd-sim", "kd-pt+sim"):
        with pytest.raises(
            UsageError, match=rf"^{method.replace('+', '.')} needs .*ItemKNN has none"
        ):
            check_teacher(method, teacher)
    for method in ("ls", "kd-topk", "kd-pt", "kd-perm", "kd-classavg", "kd-rel", "rd"):
        check_teacher(method, teacher)


def test_groups_weigh_less_than_the_item_and_more_than_others() -> None:
    with pytest.raises(ConfigError, match=r"b1 > b2 > b3, has 0\.1, 0\.5, 0\.0"):
        make_config(CatalogDistillationConfig, {"b1": 0.1, "b2": 0.5, "b3": 0.0})
