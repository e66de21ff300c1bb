"""Soft targets over a catalogue: those of `losses.soft_targets`, never [queries, items].

A target is compact (k items of each query have a probability of their own, the others one number),
or it is filled in block by block.
Departures from the definitions for a few classes: kd-perm moves the k largest probabilities of the
teacher to items drawn at random, and kd-classavg keeps the k largest of an item's mean target.
Shapes: S queries, k kept items, D width of the teacher's queries, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.histories import Histories
from ensue.losses.expected_logits import Fill
from ensue.losses.soft_targets import TopKTarget
from ensue.training.distillation.teachers import TeacherCache

LABEL_ITEMS = 1 << 22  # elements of the mean targets made at a time


def compact_topk(
    ids: Tensor,
    logits: Tensor,
    normalizers: Tensor,
    *,
    num_items: int,
    temperature: float,
) -> TopKTarget:
    """Return the teacher's k best items with their probabilities, the rest shared evenly.

    Args:
        ids, logits: [S, k], the teacher's ranking, best first.
        normalizers: [S], log sum exp of all logits over the temperature.
    """
    values = (logits / temperature - normalizers[:, None]).exp()
    left = (1 - values.sum(dim=1)).clamp(min=0.0)  # rounding
    return TopKTarget(ids, values, left / max(1, num_items - ids.shape[1]))


def compact_label(targets: Tensor, p_t: Tensor, *, num_items: int) -> TopKTarget:
    """Return p_t [S] for the observed item, the rest shared evenly."""
    return TopKTarget(targets[:, None], p_t[:, None], (1 - p_t) / max(1, num_items - 1))


def force_label(target: TopKTarget, targets: Tensor, p_t: Tensor, num_items: int) -> TopKTarget:
    """Return the target with the observed item kept: it takes the place of the k-th, if need be."""
    is_missing = (target.ids != targets[:, None]).all(dim=1)
    ids, values = target.ids.clone(), target.values.clone()
    ids[:, -1] = torch.where(is_missing, targets, ids[:, -1])
    values[:, -1] = torch.where(is_missing, p_t, values[:, -1])
    left = (1 - values.sum(dim=1)).clamp(min=0.0)
    return TopKTarget(ids, values, left / max(1, num_items - ids.shape[1]))


def permute_items(
    target: TopKTarget, targets: Tensor, num_items: int, generator: torch.Generator
) -> TopKTarget:
    """Return the target with its values at other items, drawn anew for each query.

    The observed item keeps its own value, and gets none that it did not have.
    """
    is_label = target.ids == targets[:, None]
    # A walk through all items by a step without a common factor with I never meets one twice.
    steps = torch.from_numpy(_coprime(num_items))
    size = (len(targets), 1)
    step = steps[torch.randint(len(steps), size, generator=generator)]
    start = torch.randint(num_items, size, generator=generator)
    walk = (start + torch.arange(target.ids.shape[1] + 1) * step) % num_items + 1
    # One item of the walk for each kept one but the label; where it meets the label, the next.
    order = ((~is_label).cumsum(dim=1) - 1).clamp(min=0)
    skipped = (walk == targets[:, None]).cumsum(dim=1).gather(1, order)
    drawn = walk.gather(1, order + skipped)
    return TopKTarget(torch.where(is_label, target.ids, drawn), target.values, target.remainder)


def _coprime(num_items: int) -> NDArray[np.int64]:
    """Return the numbers of 1..I - 1 without a common factor with I; 1 for tiny catalogues."""
    numbers = np.arange(1, max(2, num_items))
    return numbers[np.gcd(numbers, num_items) == 1]


class MeanTargets:
    """The mean compact target of the queries that each item was the answer to (kd-classavg).

    The k largest probabilities of each item are kept; an item without a query has a uniform one.
    """

    def __init__(
        self, cache: TeacherCache, histories: Histories, *, num_items: int, temperature: float
    ) -> None:
        assert cache.normalizers is not None
        self._num_items = num_items
        k = cache.items.shape[1]
        self._ids = torch.zeros(num_items + 1, k, dtype=torch.long)
        self._values = torch.zeros(num_items + 1, k)
        self._remainder = torch.full((num_items + 1,), 1 / num_items)
        self._ids[:] = torch.arange(1, k + 1)
        self._values[:] = 1 / num_items
        rows, _ = histories.rows(np.arange(histories.num_users + 1))
        labels = histories.items[rows]
        order = np.argsort(labels, kind="stable")
        rows, labels = rows[order], labels[order]
        size = max(1, LABEL_ITEMS // num_items)
        for first in range(1, num_items + 1, size):
            last = min(first + size, num_items + 1)
            part = slice(*np.searchsorted(labels, [first, last]))
            own = torch.from_numpy(labels[part].astype(np.int64)) - first
            target = compact_topk(
                torch.from_numpy(cache.items[rows[part]].astype(np.int64)),
                torch.from_numpy(cache.logits[rows[part]]),
                torch.from_numpy(cache.normalizers[rows[part]]),
                num_items=num_items,
                temperature=temperature,
            )
            self._keep(first, last - first, own, target)

    def _keep(self, first: int, num_labels: int, own: Tensor, target: TopKTarget) -> None:
        """Set the rows first..first + num_labels - 1 from targets of labels `own`, from 0."""
        counts = own.bincount(minlength=num_labels)
        mean = torch.zeros(num_labels, self._num_items)
        flat = own[:, None] * self._num_items + target.ids - 1
        above = target.values - target.remainder[:, None]
        mean.view(-1).index_add_(0, flat.flatten(), above.flatten())
        base = torch.zeros(num_labels).index_add_(0, own, target.remainder)
        mean = (mean + base[:, None]) / counts.clamp(min=1)[:, None]
        best = mean.topk(self._ids.shape[1], dim=1)
        has_queries = counts > 0
        rows = torch.arange(first, first + num_labels)[has_queries]
        self._ids[rows] = best.indices[has_queries] + 1
        self._values[rows] = best.values[has_queries]
        left = (1 - best.values.sum(dim=1)).clamp(min=0.0)[has_queries]
        self._remainder[rows] = left / max(1, self._num_items - self._ids.shape[1])

    def of(self, targets: Tensor) -> TopKTarget:
        """Return the target of each query by its observed item [S]."""
        return TopKTarget(self._ids[targets], self._values[targets], self._remainder[targets])


def fill_teacher(
    queries: Tensor,
    table: Tensor,
    bias: Tensor | None,
    *,
    without_events: Tensor | None,
    temperature: float,
) -> Fill:
    """Return what fills in the teacher's whole output (kd).

    Args:
        queries: [S, D], of the teacher. table: [I + 1, D]. bias: [I + 1].
        without_events: [I + 1], its scores for a history without events, where that has no query: a
            row of zeros stands for it.
    """

    def fill(rows: slice, out: Tensor) -> None:
        if bias is None:
            torch.mm(queries[rows], table[1:].T, out=out)
        else:
            torch.addmm(bias[1:], queries[rows], table[1:].T, out=out)
        if without_events is not None:
            out[(queries[rows] == 0).all(dim=1)] = without_events[1:]
        torch.softmax(out.div_(temperature), dim=1, out=out)

    return fill


def fill_similar(
    rows_of_items: Tensor, targets: Tensor, *, sim_temperature: float, p_t: Tensor | None
) -> Fill:
    """Return what fills in the likeness of items to the observed one (kd-sim, kd-pt+sim).

    Args:
        rows_of_items: [I, D], the teacher's output rows, of length 1.
        targets: [S], items 1..I.
        p_t: [S], the teacher's probability of the observed item, which then has it (kd-pt+sim).
    """

    def fill(rows: slice, out: Tensor) -> None:
        labels = targets[rows, None] - 1
        torch.mm(rows_of_items[labels[:, 0]], rows_of_items.T, out=out)
        out.div_(sim_temperature)
        if p_t is not None:
            out.scatter_(1, labels, -torch.inf)
        torch.softmax(out, dim=1, out=out)
        if p_t is not None:
            own = p_t[rows, None].to(out.dtype)
            out.mul_(1 - own).scatter_(1, labels, own)

    return fill


def unit_rows(table: Any, *, center_rows: bool) -> Tensor:
    """Return the rows of items 1..I of a table [I + 1, D], of length 1 [I, D]."""
    rows: Tensor = table.detach()[1:]
    if center_rows:
        rows = rows - rows.mean(dim=0)
    return torch.nn.functional.normalize(rows, dim=1)


def fill_groups(groups: Tensor, targets: Tensor, *, b1: float, b2: float, b3: float) -> Fill:
    """Return what fills in b1 for the item, b2 for its group, b3 elsewhere (kd-rel), of sum 1.

    Args:
        groups: [I], the group of each item; items of group -1 have no siblings.
    """

    def fill(rows: slice, out: Tensor) -> None:
        labels = targets[rows, None] - 1
        own = groups[labels]
        is_sibling = (groups == own) & (own >= 0)
        out.fill_(b3).masked_fill_(is_sibling, b2).scatter_(1, labels, b1)
        out.div_(out.sum(dim=1, keepdim=True))

    return fill
