"""Whether a file of a graph gives what its run gives: the same histories through both.

Shapes: B histories, L length, C context columns, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.context import take_rows
from ensue.data.histories import Histories, HistoryBatch
from ensue.errors import RunError
from ensue.models.base import Model
from ensue.runs.export.formats import Compute

BAR = 1e-4  # largest difference of a score
MANY = 50  # events, where a model reads all of a history


def sample_histories(model: Model, histories: Histories) -> HistoryBatch:
    """Return histories of no event, of one, of as many as the model reads, and of more.

    Half of them are of users who are known. Items are drawn from all, and context from what the
    run stores of events.
    """
    rng = np.random.default_rng(0)
    longest = model.max_len or MANY
    lengths = sorted({0, 1, 2, 3, longest - 1, longest, longest + 1, 3 * longest})
    lengths = [length for length in lengths for _ in range(2)]
    context: dict[str, Any] = {}
    if not model.context.is_empty:
        context["event_context"] = [
            _draw(rng, histories.event_context, length) for length in lengths
        ]
        context["request_context"] = [_draw(rng, histories.request_context, 1)[0] for _ in lengths]
    items = [rng.integers(1, model.num_items + 1, length) for length in lengths]
    users = [int(rng.integers(1, model.num_users + 1)) * (n % 2) for n in range(len(lengths))]
    return HistoryBatch.from_lists(items, users, **context)


def _draw(
    rng: np.random.Generator, columns: Sequence[NDArray[Any]], number: int
) -> NDArray[np.float64]:
    """Return the context [n, C] of events drawn from all that are stored."""
    num_events = len(columns[0]) if columns else 1
    return take_rows(columns, rng.integers(0, num_events, number))


def padded_inputs(batch: HistoryBatch, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the inputs of a graph, by name; 0 stands behind the end of a history."""
    length = max(2, int(batch.offsets.diff().max()))
    rows = torch.arange(len(batch))
    inputs = {"items": batch.right_padded(rows, length), "users": batch.users}
    if batch.event_context is not None and "event_context" in names:
        inputs["event_context"] = batch.right_padded(rows, length, batch.event_context)
    if batch.request_context is not None and "request_context" in names:
        inputs["request_context"] = batch.request_context
    return {name: inputs[name] for name in names}


def check_scores(
    compute: Compute, model: Model, batch: HistoryBatch, names: Sequence[str], k: int | None
) -> float:
    """Return the largest difference between the scores of a graph and those of the model.

    The histories go through the graph all at a time, with padding on either side, and one by one.
    With `k` each answer must also have the model's k best scores, of items that have them.

    Raises:
        RunError: a difference is larger than `BAR`, or is not a number.
    """
    with torch.no_grad():
        expected = model.score(batch).float()
    expected[:, 0] = -torch.inf
    inputs = padded_inputs(batch, names)
    if k is not None:
        expected = expected.scatter(1, inputs["items"], -torch.inf)
    lengths = batch.offsets.diff()
    parts = [(inputs, expected), (_left_padded(inputs, lengths), expected)]
    for row, length in enumerate(lengths.tolist()):
        own = {name: values[row : row + 1] for name, values in inputs.items()}
        for name in {"items", "event_context"} & own.keys():
            own[name] = own[name][:, : max(1, length)]
        parts.append((own, expected[row : row + 1]))
    return max(check(_difference(compute(own), of_model, k)) for own, of_model in parts)


def check(difference: float) -> float:
    """Return a difference that is small enough.

    Raises:
        RunError: it is not.
    """
    if not difference <= BAR:  # NaN is not
        raise RunError(
            f"a file must give the scores of the run up to {BAR:g}; they differ by "
            f"{difference:.3g}. Nothing was written: use another format, and report the run."
        )
    return difference


def _left_padded(inputs: Mapping[str, Tensor], lengths: Tensor) -> dict[str, Tensor]:
    """Return the inputs with each history at the end of its row."""
    moved = dict(inputs)
    for name in {"items", "event_context"} & inputs.keys():
        rows = zip(inputs[name], lengths.tolist(), strict=True)
        moved[name] = torch.stack([row.roll(-length, dims=0) for row, length in rows])
    return moved


def _difference(found: Sequence[Tensor], expected: Tensor, k: int | None) -> float:
    """Return the largest difference to the expected scores [B, I + 1], -inf of what is hidden."""
    if k is None:
        return _largest(found[0], expected)
    ids, scores = found
    best = expected.topk(k, dim=1).values
    own = expected.gather(1, ids)  # an item 0 has -inf, as an answer that is not there
    return max(_largest(scores, best), _largest(scores, own))


def _largest(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference; infinity where one is finite and the other is not."""
    if found.shape != expected.shape:
        return torch.inf
    is_hidden = expected == -torch.inf
    if not torch.equal(found == -torch.inf, is_hidden):
        return torch.inf
    return float((found - expected).masked_fill(is_hidden, 0.0).abs().max())
