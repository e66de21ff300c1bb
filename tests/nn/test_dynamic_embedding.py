from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensue.nn.admission import Admission
from ensue.nn.bags import bag_sum
from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.hashing import start_values
from ensue.nn.id_table import CompiledIndex, TensorIndex
from ensue.nn.row_rules import RowRule
from ensue.nn.slabs import Slabs
from ensue.nn.table_config import Changes, Expiry, TableConfig
from ensue.optim.adagrad import Adagrad
from ensue.optim.lazy_adam import LazyAdam

BIG = 2**62


def table(dim: int = 3, *, dtype: torch.dtype = torch.float32, **settings: Any) -> DynamicEmbedding:
    return DynamicEmbedding(dim, TableConfig(**{"slab_bits": 4, **settings}), dtype=dtype)


def ids_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def train(embedding: DynamicEmbedding, ids: Tensor, *, lr: float = 0.1) -> float:
    """Take a step of a loss that depends on the values of the rows."""
    vectors = embedding(ids)
    loss = (
        vectors * torch.arange(1.0, vectors.shape[-1] + 1)
    ).sum().tanh() + vectors.square().sum()
    loss.backward()
    embedding.apply_gradients_(lr)
    return loss.item()


def stream(steps: int, num_ids: int, seed: int = 0, size: int = 12) -> list[Tensor]:
    """Return batches of ids, small ones more often; some are large numbers, some 0."""
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.rand(steps, size, generator=generator) ** 3 * num_ids).long()
    return list(torch.where(draws % 3 == 1, draws * BIG // 1000 - 5, draws))


def test_new_ids_read_their_start_values_in_training_only() -> None:
    embedding = table(seed=8, start_scale=0.3)
    ids = ids_of(5, -9, BIG, 5, 0)
    embedding.eval()
    assert not embedding(ids).any()
    embedding.train()
    with torch.no_grad():
        assert not embedding(ids).any()
    assert len(embedding) == 0
    vectors = embedding(ids.view(5, 1))
    expected = start_values(ids, 3, seed=8, name="uniform", scale=0.3, dtype=torch.float32)
    expected[4] = 0
    assert torch.equal(vectors.detach(), expected[:, None])
    assert len(embedding) == 3
    embedding.eval()
    assert torch.equal(embedding(ids), expected)


def test_start_values_do_not_depend_on_the_order_of_arrival() -> None:
    one, other = table(), table()
    ids = torch.randperm(100) + 1
    for part in ids.split(7):
        one.admit_(part)
    other.admit_(ids.sort().values)
    assert torch.equal(one.eval()(ids), other.eval()(ids))


@pytest.mark.parametrize("mode", ["rows", "mean", "sum"])
def test_gradient_by_finite_differences(mode: str) -> None:
    embedding = table(dtype=torch.float64, rule={"name": "sgd"})
    ids, offsets = ids_of(4, 7, 4, 0, 9, 4), ids_of(0, 2, 2, 6)
    weight = torch.randn(6 if mode == "rows" else 3, 3, dtype=torch.float64)

    def loss() -> Tensor:
        out = embedding(ids) if mode == "rows" else embedding.bag(ids, offsets, mode)  # type: ignore[arg-type]
        return (out.sin() * weight).sum()

    embedding.admit_(ids)
    rows = embedding.table.find(ids_of(4, 7, 9))
    before = embedding.values.take(rows)
    embedding.train()
    loss().backward()
    embedding.apply_gradients_(1.0)  # descent at rate 1 subtracts the gradient
    ours = before - embedding.values.take(rows)
    embedding.eval()
    numeric = torch.empty_like(ours)
    for place in range(ours.numel()):
        values = []
        for change in (1e-6, -1e-6):
            moved = before.clone()
            moved.view(-1)[place] += change
            embedding.values.put(rows, moved)
            values.append(loss().item())
        numeric.view(-1)[place] = (values[0] - values[1]) / 2e-6
    torch.testing.assert_close(ours, numeric, rtol=1e-7, atol=1e-8)
    assert not embedding(ids_of(0)).any()


def test_bags_are_means_and_sums_of_the_vectors() -> None:
    embedding = table()
    ids, offsets = ids_of(1, 2, 3, 0, 2), ids_of(0, 3, 3, 5)
    vectors = embedding(ids)
    means = torch.stack([vectors[:3].mean(0), torch.zeros(3), vectors[3:].mean(0)])
    torch.testing.assert_close(embedding.bag(ids, offsets), means)
    sums = means * torch.tensor([[3.0], [0.0], [2.0]])
    torch.testing.assert_close(embedding.bag(ids, offsets, "sum"), sums)


STATIC = {
    "adagrad": (Adagrad, {"initial": 0.1, "eps": 1e-10}, {"initial": 0.1}),
    "adam": (LazyAdam, {"eps": 1e-8}, {}),
    "sgd": (torch.optim.SGD, {}, {}),
}


@pytest.mark.parametrize(
    ("name", "decay"),  # plain descent would decay rows without a gradient too
    [("adagrad", 0.0), ("adagrad", 0.1), ("adam", 0.0), ("adam", 0.1), ("sgd", 0.0)],
)
def test_losses_equal_those_of_a_static_table(name: str, decay: float) -> None:
    """With every id admitted the table is one of dense ids that begins with the same rows."""
    kind, static_settings, settings = STATIC[name]
    num_ids, lr = 60, 0.05
    rule = RowRule(name=name, weight_decay=decay, **settings)
    embedding = table(8, rule=rule)
    raw = torch.cat([ids_of(0), torch.arange(1, num_ids) * 1_000_003 - BIG])
    static = nn.Embedding(num_ids, 8, padding_idx=0)
    config = embedding.config
    start = start_values(
        raw, 8, seed=config.seed, name=config.start, scale=config.start_scale, dtype=torch.float32
    )
    static.weight.data[1:] = start[1:]
    optimizer = kind(static.parameters(), lr=lr, weight_decay=decay, **static_settings)
    torch.manual_seed(0)
    head = nn.Linear(8, 1)
    for codes in torch.randint(0, num_ids, (30, 40)):
        losses = []
        for vectors in (static(codes), embedding(raw[codes])):
            target = (codes % 2).float()
            logits = head(vectors).squeeze(1)
            losses.append(nn.functional.binary_cross_entropy_with_logits(logits, target))
        optimizer.zero_grad()
        sum(losses).backward()  # type: ignore[union-attr]
        optimizer.step()
        embedding.apply_gradients_(lr)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(embedding.eval()(raw), static.weight.detach(), rtol=1e-5, atol=1e-6)


def test_rowwise_adagrad_by_definition() -> None:
    embedding = table(2, rule={"name": "rowwise_adagrad", "initial": 0.5}, dtype=torch.float64)
    embedding.admit_(ids_of(3, 4))
    before, after = embedding.eval()(ids_of(3, 4)), []
    for grad in ([3.0, 4.0], [1.0, 0.0]):
        embedding.train()
        (embedding(ids_of(3))[0] * torch.tensor(grad)).sum().backward()
        embedding.apply_gradients_(0.1)
        after.append(embedding.eval()(ids_of(3, 4)))
    step = 0.1 * torch.tensor([3.0, 4.0], dtype=torch.float64) / 13**0.5  # .5 + (9 + 16) / 2
    torch.testing.assert_close(after[0][0], before[0] - step)
    last = torch.tensor([0.1 / 13.5**0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(after[1][0], after[0][0] - last)
    assert torch.equal(after[1][1], before[1])


def test_reads_of_one_row_share_a_step() -> None:
    one, other = (table(rule={"name": "adagrad"}) for _ in range(2))
    (one(ids_of(1, 2)).sum() + one(ids_of(2, 3)).sum() + one(ids_of(0)).sum()).backward()
    other(ids_of(1, 2, 2, 3)).sum().backward()
    for embedding in (one, other):
        embedding.apply_gradients_(0.1)
    ids = ids_of(1, 2, 3, 0)
    assert torch.equal(one.eval()(ids), other.eval()(ids))


def test_a_part_serves_what_takes_a_static_table() -> None:
    embedding = table()
    ids, offsets = ids_of(9, 8, 9), ids_of(0, 3)
    part = embedding.fetch(ids)
    assert part.table.shape == (2, 3)
    out = bag_sum(part.table, part.codes, offsets, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(out[0], 4 * part.table[0] + 2 * part.table[1])
    before = part.table.detach().clone()
    out.sum().backward()
    assert part.table.grad is not None
    assert part.table.grad.tolist() == [[4.0] * 3, [2.0] * 3]
    embedding.apply_gradients_(0.1)
    assert not torch.equal(embedding.eval()(ids_of(9, 8)), before)


def test_growth_copies_no_weights() -> None:
    embedding = table()
    embedding.admit_(torch.arange(1, 31))
    before = [slab.data_ptr() for slab in embedding.values.tensors]
    kept = embedding.eval()(torch.arange(1, 31))
    embedding.admit_(torch.arange(31, 400))
    assert len(embedding.values.tensors) == 25
    assert [slab.data_ptr() for slab in embedding.values.tensors][: len(before)] == before
    assert torch.equal(embedding(torch.arange(1, 31)), kept)


def test_admission_by_count() -> None:
    embedding = table(admission={"min_count": 3})
    train(embedding, ids_of(5, 6, 6))
    assert len(embedding) == 0
    vectors = embedding(ids_of(5, 6))  # a second sight of 5, and the third of 6
    assert vectors.any(dim=1).tolist() == [False, True]
    assert embedding.table.find(ids_of(5, 6)).tolist() == [0, 1]
    assert embedding(ids_of(5)).any()
    embedding.admit_(ids_of(7, 7, 7))  # three sights at once
    assert len(embedding) == 3


def test_admission_by_draw_is_the_same_again() -> None:
    embeddings = [table(admission={"probability": 0.25}) for _ in range(2)]
    batches = torch.arange(1, 2001).split(500)
    for embedding in embeddings:
        for batch in batches:
            train(embedding, batch if embedding is embeddings[0] else batch.flip(0))
    ids = torch.arange(1, 2001)
    admitted = [embedding.table.find(ids) != 0 for embedding in embeddings]
    assert torch.equal(*admitted)
    assert abs(len(embeddings[0]) / 2000 - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_ids_that_are_not_admitted_change_nothing() -> None:
    embedding = table(admission={"min_count": 2})
    train(embedding, ids_of(5, 6, 0))
    assert not embedding.values.take(ids_of(0)).any()
    assert not embedding.eval()(ids_of(5, 6, 0)).any()


def test_expiry_by_age_and_count() -> None:
    expiry = Expiry(max_age=4, rare_count=3, rare_age=2, every=1)
    embedding = table(expiry=expiry)
    train(embedding, ids_of(1, 2, 2, 2))  # step 1: 1 is rare, 2 is not
    alive = []
    for _ in range(5):
        train(embedding, ids_of(3))
        alive.append([key for key in (1, 2, 3) if embedding.table.find(ids_of(key)).item()])
    # ages of 1 and 2 behind steps 2, 3, ...: 1, 2, 3, 4, 5
    assert alive == [[1, 2, 3], [1, 2, 3], [2, 3], [2, 3], [3]]


def test_an_id_that_comes_back_starts_anew() -> None:
    embedding = table(expiry={"max_age": 1, "every": 1})
    fresh = embedding(ids_of(7)).detach().clone()
    train(embedding, ids_of(7))
    state = embedding.values.take(embedding.table.find(ids_of(7)))[:, 3:]
    assert state.all()
    train(embedding, ids_of(1))
    train(embedding, ids_of(1))
    assert not embedding.table.find(ids_of(7)).any()
    assert torch.equal(embedding(ids_of(7)).detach(), fresh)
    own = embedding.table.find(ids_of(7))
    assert own.item() == 1  # the row that it had
    assert not embedding.values.take(own)[:, 3:].any()


def test_rare_ids_are_admitted_in_the_end_unless_their_counts_fade() -> None:
    for every, expected in ((1000, 1), (2, 0)):
        embedding = table(admission={"min_count": 4}, expiry={"max_age": 1000, "every": every})
        for step in range(20):
            train(embedding, ids_of(9) if step % 4 == 0 else ids_of(0))
        assert len(embedding) == expected


FULL = {
    "admission": {"min_count": 2, "sketch_cells": 1 << 10},
    "expiry": {"max_age": 6, "rare_count": 4, "rare_age": 3, "every": 2},
    "rule": {"name": "adam"},
}


def test_resumed_training_equals_an_uninterrupted_one() -> None:
    batches = stream(30, 80)
    whole, first = table(**FULL), table(**FULL)
    for batch in batches[:15]:
        train(whole, batch)
        train(first, batch)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    resumed = table(**FULL)
    train(resumed, ids_of(*range(1, 100)))  # what was there must go
    resumed.load_state_dict(saved)
    losses = [[train(one, batch) for batch in batches[15:]] for one in (whole, resumed)]
    assert losses[0] == losses[1]
    states = [one.state_dict() for one in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_state_within_a_model(tmp_path: Any) -> None:
    from ensue.training.checkpoints import load_tensors, save_tensors

    model = nn.ModuleDict({"table": table(), "head": nn.Linear(3, 1)})
    other = nn.ModuleDict({"table": table(), "head": nn.Linear(3, 1)})
    train(model["table"], torch.arange(60))  # type: ignore[arg-type]
    save_tensors(tmp_path / "state.safetensors", model.state_dict(), {})
    other.load_state_dict(load_tensors(tmp_path / "state.safetensors")[0])
    ids = torch.arange(70)
    assert torch.equal(model.eval()["table"](ids), other.eval()["table"](ids))


def test_settings_are_part_of_the_state() -> None:
    embedding, other = table(rule={"name": "sgd"}, seed=3), table()
    train(embedding, ids_of(1, 2))
    other.load_state_dict(embedding.state_dict())
    assert other.config == embedding.config
    assert train(other, ids_of(1, 7)) == train(embedding, ids_of(1, 7))


def test_state_of_another_kind_of_table() -> None:
    with pytest.raises(RuntimeError, match=r"the table needs dim 4; got one of dim 3"):
        table(4).load_state_dict(table(3).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*settings"):
        table().load_state_dict({})


def test_another_rule() -> None:
    embedding = table()
    embedding.use_rule_(RowRule(name="adam"))
    assert embedding.values.width == 9
    train(embedding, ids_of(1))
    embedding.use_rule_(RowRule(name="adam"))
    with pytest.raises(ValueError, match=r"got 'sgd' for 1 rows of 'adam'"):
        embedding.use_rule_(RowRule(name="sgd"))


def test_gradients_are_clipped_where_they_were_read() -> None:
    embedding = table(dtype=torch.float64, rule={"name": "sgd"}, admission={"min_count": 2})
    embedding.admit_(ids_of(1, 1, 2, 2))
    before = embedding.eval()(ids_of(1, 2))
    embedding.train()
    embedding(ids_of(3))  # without a gradient
    (embedding(ids_of(1, 2, 5)).sum() * 3).backward()
    assert len(embedding.read_rows()) == 1
    norm = nn.utils.clip_grad_norm_(embedding.read_rows(), 1.0)
    assert norm.item() == pytest.approx(3 * 6**0.5)  # id 5 has no row
    embedding.apply_gradients_(1.0)
    step = before - embedding.eval()(ids_of(1, 2))
    assert step.norm().item() == pytest.approx(1, rel=1e-5)


def same_weights(one: DynamicEmbedding, other: DynamicEmbedding) -> bool:
    ids = one.export_changes().ids
    is_same = torch.equal(one.eval()(ids), other.eval()(ids)) and len(one) == len(other)
    one.train()
    return is_same


def test_a_copy_follows_by_changes() -> None:
    settings = {"expiry": {"max_age": 12, "every": 2}, "admission": {"min_count": 2}}
    embedding, copy, late, last = (table(**settings) for _ in range(4))
    sizes = []
    for number, batch in enumerate(stream(40, 100, seed=2, size=20)):
        train(embedding, batch)
        if number % 5 == 4:
            changes = embedding.export_changes(copy.step)
            sizes.append(len(changes.ids))
            copy.apply_changes_(Changes.from_tensors(changes.tensors()))
            assert same_weights(embedding, copy)
    assert len(embedding.deleted) > 0
    late.apply_changes_(embedding.export_changes())
    assert same_weights(embedding, late)
    assert max(sizes[1:]) < len(embedding)  # not all of it each time
    # a copy of the copy follows too
    last.apply_changes_(copy.export_changes())
    assert same_weights(embedding, last)


def test_a_whole_export_replaces_what_was_there() -> None:
    embedding, copy = table(), table()
    train(copy, ids_of(1, 2, 3))
    train(embedding, ids_of(3, 4))
    copy.apply_changes_(embedding.export_changes())
    assert same_weights(embedding, copy)


def test_missing_changes_and_forgotten_deletions() -> None:
    embedding = table()
    for _ in range(3):
        train(embedding, ids_of(1, 2))
    with pytest.raises(ValueError, match=r"since step 0 or before; got those since 2"):
        table().apply_changes_(embedding.export_changes(2))
    embedding.delete_(ids_of(1))
    embedding.forget_deletions_(3)
    assert embedding.export_changes(3).deleted.tolist() == [1]
    embedding.forget_deletions_(4)
    assert embedding.num_bytes()["deleted"] == 0
    with pytest.raises(ValueError, match=r"since >= 4, .*; got 3"):
        embedding.export_changes(3)


def test_both_searches_train_to_the_same_table() -> None:
    one, other = table(**FULL), table(**FULL)
    other.table._kind, other.table.index = TensorIndex, TensorIndex(other.table.ids)
    assert isinstance(one.table.index, CompiledIndex)
    for batch in stream(30, 300, seed=5, size=60):
        assert train(one, batch) == train(other, batch)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("rule", ["adam", "adagrad"])
def test_tensor_operations_train_to_the_same_table(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that runs on a GPU, in memory: no compiled loop over rows, and the other search."""
    settings = {**FULL, "rule": {"name": rule}}
    one = table(**settings)
    batches = stream(30, 300, seed=5, size=60)
    losses = [train(one, batch) for batch in batches]
    with monkeypatch.context() as patched:
        patched.setattr(Slabs, "is_compiled", False)
        other = table(**settings)
        assert isinstance(other.table.index, TensorIndex)
        assert [train(other, batch) for batch in batches] == pytest.approx(losses, rel=1e-5)
        changes = other.export_changes(20)
        copy = table(**settings)
        copy.load_state_dict(other.state_dict())
        assert torch.equal(copy.eval()(batches[-1]), other.eval()(batches[-1]))
    assert torch.equal(changes.ids, one.export_changes(20).ids)
    assert torch.equal(changes.deleted, one.export_changes(20).deleted)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_copies_and_types() -> None:
    embedding = table()
    train(embedding, ids_of(1, 2, 0))
    copy = deepcopy(embedding).double()
    assert copy.eval()(ids_of(1)).dtype == torch.float64
    torch.testing.assert_close(copy(ids_of(1, 0)).float(), embedding.eval()(ids_of(1, 0)))
    copy.train()
    train(copy, ids_of(1, 5))
    assert len(embedding) == 2
    assert len(copy) == 3


def test_without_ids() -> None:
    embedding = table()
    assert embedding(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, 3)
    assert embedding.bag(ids_of(), ids_of(0, 0)).tolist() == [[0, 0, 0]]
    embedding.apply_gradients_(0.1)
    assert embedding.expire_().tolist() == []


def test_memory_of_a_row() -> None:
    """Weights, state, id, stamp and count; 5.3 to 10.7 bytes to find it; and the last slab."""
    embedding = DynamicEmbedding(8, TableConfig(slab_bits=12))
    embedding.admit_(torch.arange(1, 3 * 2**15))
    per_row = sum(embedding.num_bytes().values()) / len(embedding)
    assert per_row == pytest.approx(64 + 8 + 8 + 4 * 4 / 3, rel=1e-4)
    embedding.admit_(torch.arange(1, 3 * 2**15 + 2))
    per_row = sum(embedding.num_bytes().values()) / len(embedding)
    assert per_row == pytest.approx(64 + 8 + 8 + 8 * 4 / 3 + 80 * 2**12 / len(embedding), rel=1e-4)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=r"int64; got \(2,\) torch.float32"):
        table()(torch.ones(2))
    with pytest.raises(ValueError, match=r"dim >= 1; got 0"):
        DynamicEmbedding(0)
    with pytest.raises(ValueError, match="min_count"):
        Admission(min_count=256)
    with pytest.raises(ValueError, match="max_age"):
        Expiry(max_age=0)


@pytest.mark.gpu
def test_same_on_the_gpu() -> None:
    here, there = table(**FULL), table(**FULL).cuda()
    for batch in stream(20, 300, size=60):
        for embedding, ids in ((here, batch), (there, batch.cuda())):
            embedding(ids).square().sum().backward()
            embedding.apply_gradients_(0.1)
    for name, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name].cpu(), value)
