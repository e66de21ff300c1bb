"""Caser against the worked example and the invariants of its specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ensue.data.histories import HistoryBatch
from ensue.losses.candidates import candidate_bce
from ensue.losses.pointwise import negative_loss, positive_loss
from ensue.models.sequential.caser import Caser, CaserConfig


def make(num_users: int = 3, num_items: int = 7, **settings: object) -> Caser:
    torch.manual_seed(0)
    config = CaserConfig(**{"dim": 4, "window": 3, "num_horizontal": 2, "dropout": 0.0} | settings)
    model = Caser(config, num_users=num_users, num_items=num_items)
    with torch.no_grad():  # larger weights than at the start: every part matters
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
        model.item_embedding[0] = 0
    return model


def worked_example() -> Caser:
    """The tiny network of the specification, section (g)."""
    config = CaserConfig(
        dim=2, window=2, num_horizontal=1, num_vertical=1, dropout=0.0, num_targets=1
    )
    model = Caser(config, num_users=1, num_items=4).double()
    values: dict[str, list] = {
        "user_embedding": [[0.2, -0.4]],
        "item_embedding": [[0, 0], [1, 0], [0, 2], [0, 0], [0, 0]],
        "convolutions.vertical_weight": [[0.5, 1.0]],
        "convolutions.vertical_bias": [0],
        "convolutions.horizontal_weight": [1, -1, 1, 0, 0, 1],
        "convolutions.horizontal_bias": [0, 0.5],
        "hidden.weight": [[1, 0, 1, 0], [0, -1, 0, 1]],
        "hidden.bias": [0, -1],
        "output_embedding": [[0] * 4, [0] * 4, [0] * 4, [1, 1, 1, 1], [-1, 0, 2, 0]],
        "output_bias": [0, 0, 0, 0.1, 0],
    }
    state = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    model.load_state_dict(state)
    return model


def assert_equal(actual: Tensor | None, expected: list) -> None:
    assert actual is not None
    torch.testing.assert_close(
        actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_worked_example_forward_and_backward() -> None:
    model = worked_example()
    users, windows, candidates = torch.tensor([1]), torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
    queries = model(users, windows)
    assert_equal(queries, [[1.5, 0.5, 0.2, -0.4]])
    logits = model.logits(queries, candidates)
    assert_equal(logits, [[1.9, -1.1]])
    logits.retain_grad()
    loss = positive_loss(logits[:, 0]).sum() + negative_loss(logits[:, 1]).sum()
    assert_equal(loss, 0.4267220834)
    loss.backward()
    assert_equal(logits.grad, [[-0.1301084744, 0.2497398944]])
    assert_equal(model.user_embedding.grad, [[0.3693713144, -0.1301084744]])
    assert_equal(
        model.item_embedding.grad[1:3], [[-0.6998810275, 0.4449026059], [-0.3798483688, 0]]
    )
    convolutions = model.convolutions
    assert_equal(convolutions.vertical_weight.grad, [[-0.3798483688, 0.2602169487]])
    assert_equal(
        convolutions.horizontal_weight.grad,
        [-0.3798483688, 0, -0.1301084744, 0, 0, -0.2602169487],
    )


def test_parameter_count_of_the_paper() -> None:
    model = Caser(CaserConfig(), num_users=6040, num_items=3416)
    assert sum(parameter.numel() for parameter in model.parameters()) == 844_121


@pytest.mark.parametrize("activation", ["tanh", "identity", "sigmoid"])
def test_gradients_equal_finite_differences(activation: str) -> None:
    model = make(conv_activation=activation, hidden_activation=activation, num_vertical=2).double()
    users, windows = torch.tensor([1, 3]), torch.tensor([[1, 2, 3], [0, 5, 5]])
    candidates = torch.tensor([[4, 6], [7, 1]])

    def loss() -> Tensor:
        logits = model.logits(model(users, windows), candidates)
        return positive_loss(logits[:, 0]).sum() + negative_loss(logits[:, 1]).sum()

    loss().backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        flat, grad = parameter.detach().view(-1), parameter.grad.view(-1)
        for index in torch.randperm(len(flat))[:12].tolist():
            if name == "item_embedding" and index < 4:
                continue  # padding has no gradient by definition
            before = flat[index].item()
            with torch.no_grad():
                flat[index] = before + step
                above = loss().item()
                flat[index] = before - step
                below = loss().item()
                flat[index] = before
            expected = (above - below) / (2 * step)
            assert grad[index].item() == pytest.approx(expected, rel=1e-6, abs=1e-8), name


def test_convolutions_equal_the_definition() -> None:
    """Each filter at each position, one by one (Eq. 3 to 8)."""
    model = make(window=4, num_vertical=2, conv_activation="relu").double()
    vectors = torch.randn(5, 4, 4, dtype=torch.float64)
    features = model.convolutions(vectors, model.dropout)
    for b in range(5):
        expected = []
        for k in range(2):
            weight = model.convolutions.vertical_weight[k]
            bias = model.convolutions.vertical_bias[k]
            expected.append(sum(weight[i] * vectors[b, i] for i in range(4)) + bias)
        for height in range(1, 5):
            for k in range(2):
                weight = model.convolutions.filters(height)[k]
                bias = model.convolutions.horizontal_bias[(height - 1) * 2 + k]
                values = [
                    torch.relu((vectors[b, i : i + height] * weight).sum() + bias)
                    for i in range(4 - height + 1)
                ]
                expected.append(max(values).reshape(1))
        torch.testing.assert_close(features[b], torch.cat(expected))


def test_padding_row_gets_no_gradient_and_stays_zero() -> None:
    model = make()
    logits = model.logits(model(torch.tensor([1]), torch.tensor([[0, 0, 2]])), torch.tensor([[3]]))
    logits.sum().backward()
    assert model.item_embedding.grad[0].abs().sum() == 0
    assert model.item_embedding.grad[2].abs().sum() > 0
    assert Caser(CaserConfig(), num_users=2, num_items=3).item_embedding[0].abs().sum() == 0


def test_order_matters_except_for_filters_of_height_one() -> None:
    model = make(parts="h")
    a, b = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 1, 2]])
    users = torch.tensor([1])
    assert not torch.allclose(model(users, a), model(users, b))
    with torch.no_grad():
        for height in (2, 3):
            model.convolutions.filters(height).zero_()
    torch.testing.assert_close(model(users, a), model(users, b))


def test_vertical_only_with_identity_is_linear() -> None:
    model = make(parts="v", hidden_activation="identity")

    def features(x: Tensor) -> Tensor:
        return model.convolutions(x, model.dropout)

    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    zero = features(torch.zeros_like(x))
    torch.testing.assert_close(features(x + y) - zero, features(x) + features(y) - 2 * zero)


def test_parts_that_are_left_out() -> None:
    users, windows = torch.tensor([2]), torch.tensor([[1, 2, 3]])
    full = make()
    only_user = make(parts="p")(users, windows)
    assert only_user[0, :4].abs().sum() == 0  # z itself is zero, not activation(bias)
    torch.testing.assert_close(only_user[0, 4:], full.user_embedding[1])
    for parts in ("v", "h", "vh"):
        assert make(parts=parts)(users, windows)[0, 4:].abs().sum() == 0
    features = make(parts="pv").convolutions(full.item_embedding[windows], full.dropout)
    assert features[0, 4 * 4 :].abs().sum() == 0
    features = make(parts="ph").convolutions(full.item_embedding[windows], full.dropout)
    assert features[0, : 4 * 4].abs().sum() == 0


def test_without_convolutions_it_is_matrix_factorization() -> None:
    from ensue.data.histories import HistoryBatch

    model = make(parts="p").eval()
    scores = model.score(HistoryBatch.from_lists([[1, 2], [3]], users=[1, 2]))
    expected = model.user_embedding[:2] @ model.output_embedding[:, 4:].T + model.output_bias
    torch.testing.assert_close(scores, expected)


def test_unknown_user_is_the_mean_user() -> None:
    model = make().eval()
    query = model(torch.tensor([0]), torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(query[0, 4:], model.user_embedding.mean(dim=0))


def test_gathered_logits_equal_full_scores() -> None:
    from ensue.data.histories import HistoryBatch

    model = make().eval()
    batch = HistoryBatch.from_lists([[1, 2], [3], [4, 5, 6, 7]], users=[1, 2, 0])
    scores = model.score(batch)
    assert scores.shape == (3, 8)
    candidates = torch.arange(8).expand(3, 8)
    queries = model(batch.users, batch.padded(3))
    torch.testing.assert_close(model.logits(queries, candidates), scores)


def test_dropout_is_off_in_evaluation_and_scales_in_training() -> None:
    from ensue.nn.dropout import Dropout

    dropout = Dropout(0.5)
    x = torch.ones(1000, 100)
    torch.manual_seed(0)
    dropped = dropout(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert dropout.eval()(x) is x
    for rate in (0.1, 0.33):
        dropped = Dropout(rate)(x)
        assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match=r"got 1\.0"):
        Dropout(1.0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("parts", ["pvh", "h", "v"])
def test_kernels_equal_tensor_operations(
    parts: str, activation: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled float32 path against the plain one, values and all gradients, dropout too."""
    users = torch.randint(1, 21, (64,))
    windows, candidates = torch.randint(0, 41, (64, 5)), torch.randint(0, 41, (64, 7))
    windows[:8, :3] = 0  # equal positions: ties of the maximum
    results = []
    for use_kernels in (True, False):
        if not use_kernels:
            monkeypatch.setattr("ensue.nn.cpu_kernels.can_run", lambda *_: False)
        settings = {"window": 5, "dim": 12, "num_horizontal": 4, "num_vertical": 3}
        model = make(20, 40, parts=parts, dropout=0.4, conv_activation=activation, **settings)
        torch.manual_seed(1)
        queries = model(users, windows)
        table, bias = model.output_embedding, model.output_bias
        loss = candidate_bce(queries, table, bias, candidates, num_targets=2, reduction=reduction)
        (3 * loss).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"queries": queries.detach(), "loss": loss.detach()} | grads)
    assert results[0].keys() == results[1].keys()
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-4, atol=1e-5)


def test_last_item_instead_of_z_is_fpmc() -> None:
    """One vertical filter that takes the last item, hidden layer the identity."""
    settings = {"num_vertical": 1, "parts": "pv", "hidden_activation": "identity"}
    model = make(**settings)
    with torch.no_grad():
        model.convolutions.vertical_weight.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
        model.convolutions.vertical_bias.zero_()
        model.hidden.weight.zero_()
        model.hidden.weight[:, :4] = torch.eye(4)
        model.hidden.bias.zero_()
    users, windows, candidates = torch.tensor([2]), torch.tensor([[4, 1, 6]]), torch.tensor([[3]])
    last, user = model.item_embedding[6], model.user_embedding[1]
    of_sequence, of_user = model.output_embedding[3, :4], model.output_embedding[3, 4:]
    expected = last @ of_sequence + user @ of_user + model.output_bias[3]
    torch.testing.assert_close(model.logits(model(users, windows), candidates)[0, 0], expected)


def test_one_filter_and_no_hidden_layer_is_fossil() -> None:
    """z is a weighted sum of the last items."""
    model = make(num_vertical=1, parts="v", hidden_activation="identity")
    with torch.no_grad():
        model.convolutions.vertical_bias.zero_()
        model.hidden.weight.zero_()
        model.hidden.weight[:, :4] = torch.eye(4)
        model.hidden.bias.zero_()
    weight = model.convolutions.vertical_weight[0]
    items = model.item_embedding[torch.tensor([4, 1, 6])]
    query = model(torch.tensor([2]), torch.tensor([[4, 1, 6]]))
    torch.testing.assert_close(query[0, :4], weight @ items)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv_activation": "tanh", "hidden_activation": "sigmoid"},
        {"window": 1, "num_horizontal": 3},
        {"window": 7, "num_vertical": 1, "conv_activation": "identity"},
        {"parts": "ph"},
        {"parts": "p"},
    ],
)
def test_frozen_gives_the_same_scores(settings):
    """One by one, by the compiled loop where it has all parts, and many at a time."""
    torch.manual_seed(0)
    model = Caser(CaserConfig(dim=6, **settings), num_users=5, num_items=9).eval()
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 10, n).tolist() for n in (*range(9), 3, 4, 5, 6, 7, 8, 9, 10, 2)]
    users = [n % 6 for n in range(len(histories))]
    batch = HistoryBatch.from_lists(histories, users=users)
    with torch.no_grad():
        expected = model.score(batch)
        model.freeze_()
        torch.testing.assert_close(model.score(batch), expected, atol=1e-6, rtol=1e-5)
        for row, (user, history) in enumerate(zip(users, histories, strict=True)):
            alone = model.score(HistoryBatch.from_lists([history], users=[user]))
            torch.testing.assert_close(alone[0], expected[row], atol=1e-6, rtol=1e-5)


def test_frozen_in_another_precision_gives_the_same_scores():
    model = Caser(CaserConfig(dim=6), num_users=5, num_items=9).double().eval()
    batch = HistoryBatch.from_lists([[1, 2, 3]], users=[2])
    with torch.no_grad():
        expected = model.score(batch)
        model.freeze_()
        torch.testing.assert_close(model.score(batch), expected)
