"""What every ranking model must do, whatever it computes. A new one joins with a line in CASES."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ensue.config import make_config
from ensue.losses.multitask import task_losses
from ensue.models.ranking.base import RankingModel
from ensue.models.ranking.table import RANKERS, build_ranker
from ensue.training.optimizers import is_table
from tests.ranking_helpers import make_schema, random_batch, take

SCHEMA = make_schema(tasks=("binary", "regression", "binary"))
KINDS = [task.kind for task in SCHEMA.tasks]
BATCH = random_batch(SCHEMA, 9)


@dataclass(frozen=True)
class RankerCase:
    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


SMALL: dict[str, Any] = {"dim": 4, "hidden": [16, 8]}
EXPERTS: dict[str, Any] = {"dim": 4, "expert": [8], "tower": [4]}
CASES = [
    RankerCase("lr", "lr"),
    RankerCase("fm", "fm", {"dim": 4}),
    RankerCase("fm-attention", "fm", {"dim": 4, "history": "attention"}),
    RankerCase("wide-deep", "wide_deep", SMALL),
    RankerCase("deepfm", "deepfm", SMALL),
    RankerCase("dcn", "dcn", SMALL),
    RankerCase("dcn-v2", "dcn_v2", SMALL),
    RankerCase("dcn-v2-parallel", "dcn_v2", {**SMALL, "structure": "parallel", "cross_rank": 3}),
    RankerCase("dcn-v2-mixture", "dcn_v2", {**SMALL, "cross_rank": 3, "cross_experts": 2}),
    RankerCase("dlrm", "dlrm", {**SMALL, "bottom": [8]}),
    RankerCase("shared-bottom", "shared_bottom", {**SMALL, "tower": [4]}),
    RankerCase(
        "shared-bottom-dcn-v2", "shared_bottom", {**SMALL, "trunk": "dcn_v2", "cross_norm": True}
    ),
    RankerCase("shared-bottom-fm", "shared_bottom", {**SMALL, "trunk": "fm"}),
    RankerCase("mmoe", "mmoe", {**EXPERTS, "num_experts": 3}),
    RankerCase("mmoe-dlrm", "mmoe", {**EXPERTS, "trunk": "dlrm", "history": "attention"}),
    RankerCase("mmoe-deepfm", "mmoe", {**EXPERTS, "trunk": "deepfm"}),
    RankerCase("ple", "ple", EXPERTS),
    RankerCase("ple-wide-deep", "ple", {**EXPERTS, "trunk": "wide_deep", "shared_experts": 0}),
]


def build(case: RankerCase, schema: Any = SCHEMA, **settings: Any) -> RankingModel:
    torch.manual_seed(0)
    config = make_config(RANKERS[case.model].model.Config, {**case.settings, **settings})
    return build_ranker(case.model, config, schema)


def disturbed(case: RankerCase) -> RankingModel:
    """Return the model with every parameter moved off its start, so that none is zero."""
    model = build(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> RankerCase:
    return request.param


def test_every_model_has_a_case() -> None:
    assert {case.model for case in CASES} == set(RANKERS)


def test_a_batch_equals_its_single_rows_in_any_order(case: RankerCase) -> None:
    model = disturbed(case).double()
    together = model(BATCH)
    assert together.shape == (9, 3)
    assert together.dtype == torch.float64
    assert together.isfinite().all()
    for row in range(len(BATCH)):
        torch.testing.assert_close(model(take(BATCH, [row]))[0], together[row])
    order = [5, 0, 8, 8, 2]
    torch.testing.assert_close(model(take(BATCH, order)), together[order])
    assert len(together.unique(dim=0)) == len(BATCH)


def test_no_rows_and_nothing_but_missing_values(case: RankerCase) -> None:
    model = build(case)
    assert model(take(BATCH, [])).shape == (0, 3)
    nothing = random_batch(SCHEMA, 2, missing=1.0, longest=0)
    assert model(nothing).isfinite().all()


def test_predictions_are_probabilities_of_binary_tasks(case: RankerCase) -> None:
    model = disturbed(case)
    logits, predictions = model(BATCH), model.predict(BATCH)
    torch.testing.assert_close(predictions[:, [0, 2]], logits[:, [0, 2]].sigmoid())
    torch.testing.assert_close(predictions[:, 1], logits[:, 1])


def test_all_that_was_learned_is_in_the_saved_state(case: RankerCase, tmp_path: Path) -> None:
    model = build(case, min_count=2)
    sizes = SCHEMA.vocabularies
    model.count_values_({n: torch.arange(size + 1) for n, size in sizes.items()})
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = type(model.config).model_validate_json(model.config.model_dump_json())
    torch.manual_seed(1)
    loaded = build_ranker(case.model, config, SCHEMA)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    # Matrix products may add in another order where weights lie at other addresses.
    torch.testing.assert_close(loaded(BATCH), model(BATCH), rtol=0, atol=1e-6)
    whole = build(case)
    whole.load_state_dict(model.state_dict(), strict=False)
    if case.model != "lr":  # which is zero everywhere at the start
        assert not torch.allclose(whole(BATCH), model(BATCH), rtol=0, atol=1e-6)


def test_every_parameter_learns_and_rows_of_values_are_in_tables(case: RankerCase) -> None:
    model = disturbed(case)
    batch = random_batch(SCHEMA, 64, seed=3)
    model(batch).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    tables = {id(fields.table.weight) for fields in model.field_embeddings()}
    assert tables
    assert tables == {id(p) for n, p in model.named_parameters() if is_table(n)}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RANKERS) - {"lr"}))  # a linear model cannot
def test_learns_64_rows_by_heart(name: str) -> None:
    batch = random_batch(SCHEMA, 64, seed=4, unlabeled=0.3)
    fields = RANKERS[name].model.Config.model_fields
    widths = {key: [32] for key in ("expert" if "expert" in fields else "hidden",) if key in fields}
    model = build(RankerCase(name, name, {"dim": 16, **widths}))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03, fused=True)
    for _ in range(45):
        losses = task_losses(model(batch), batch.labels, batch.weights, KINDS)
        optimizer.zero_grad(set_to_none=False)
        losses.sum().backward()
        optimizer.step()
    with torch.no_grad():
        final = task_losses(model(batch), batch.labels, batch.weights, KINDS)
    assert final.max() < 0.1


def test_bfloat16_is_close_to_float32(case: RankerCase) -> None:
    model = build(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(BATCH)
        losses = task_losses(rounded, BATCH.labels, BATCH.weights, KINDS)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(rounded.float(), model(BATCH), rtol=0.1, atol=0.1)


def test_dropout_acts_in_training_alone(case: RankerCase) -> None:
    if "dropout" not in RANKERS[case.model].model.Config.model_fields:
        return
    model = build(case, dropout=0.5)
    assert not torch.allclose(model(BATCH), model(BATCH))
    model.eval()
    assert torch.equal(model(BATCH), model(BATCH))
