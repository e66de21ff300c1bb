"""A student that begins with its teacher's tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ensue.models.base import Model
from ensue.models.sequential.caser import Caser, CaserConfig
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.models.sequential.m3 import M3, M3Config
from ensue.models.sequential.sasrec import SASRec, SASRecConfig
from ensue.training.distillation.start import (
    leading_directions,
    reduce_table,
    start_from_teacher_,
)

SIZES = {"num_users": 7, "num_items": 20}
FAMILIES = [
    (SASRec, SASRecConfig),
    (GRU4Rec, GRU4RecConfig),
    (M3, M3Config),
    (Caser, CaserConfig),
]


def test_no_projection_of_this_width_keeps_more_of_the_products():
    table = torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reduced = reduce_table(table, 4).numpy()
    products = table.numpy() @ table.numpy().T
    left, values, right = np.linalg.svd(table.numpy(), full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    error = np.linalg.norm(reduced @ reduced.T - products)
    assert error == pytest.approx(np.linalg.norm(best @ best.T - products), rel=1e-9)


def test_a_large_table_is_added_up_in_blocks(monkeypatch):
    table = torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = leading_directions(table, 3)
    monkeypatch.setattr("ensue.training.distillation.start.BLOCK_ROWS", 7)
    blocked = leading_directions(table, 3)
    torch.testing.assert_close(blocked.abs(), whole.abs())  # a direction may point either way


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_tables_of_the_same_width_keep_all_products(family, config):
    torch.manual_seed(0)
    teacher, student = (family(config(dim=8), **SIZES) for _ in range(2))
    for parameter in teacher.parameters():
        parameter.data.normal_()
    start_from_teacher_(student, teacher)
    expected, found = products_of(teacher), products_of(student)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-3, msg=name)


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_a_smaller_student_has_tables_and_biases_of_its_teacher(family, config):
    torch.manual_seed(0)
    teacher, student = family(config(dim=8), **SIZES), family(config(dim=4), **SIZES)
    for parameter in teacher.parameters():
        parameter.data.normal_()
    before = {name: tensor.clone() for name, tensor in student.named_parameters()}
    start_from_teacher_(student, teacher)
    torch.testing.assert_close(
        student.item_embedding.detach(), reduce_table(teacher.item_embedding.detach(), 4)
    )
    for name, tensor in student.named_parameters():
        is_of_rows = len(tensor) in (7, 8, 21)
        assert torch.equal(tensor, before[name]) is not is_of_rows, name
        if is_of_rows and tensor.dim() == 1:
            assert torch.equal(tensor, dict(teacher.named_parameters())[name]), name


def products_of(model: Model) -> dict[str, torch.Tensor]:
    """Return what the products of a model's tables are, which no rotation changes."""
    with torch.no_grad():
        found = {"items": model.item_embedding @ model.item_embedding.T}
        if isinstance(model, Caser):
            of_sequence, of_user = model.output_embedding.chunk(2, dim=1)
            found["sequence"] = of_sequence @ of_sequence.T
            found["users"] = model.user_embedding @ of_user.T
        else:
            output, _ = model.item_table()
            found["output"] = output @ output.T
        return found
