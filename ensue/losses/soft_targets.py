"""Soft targets of knowledge distillation, each with a part of what the teacher knows.

J. Tang, R. Shivanna, Z. Zhao, D. Lin, A. Singh, E. H. Chi, S. Jain, "Understanding and Improving
Knowledge Distillation", 2020, arXiv:2002.03532. The paper's text was not at hand: the definitions
are from memory of it, with every parameter explicit. `permuted_target` and `class_mean_table` are
controls of our own.

    target                       smoothing  instance  domain
    uniform_target (ls)              x
    pt_target (kd-pt)                x         x
    permuted_target (kd-perm)        x         x
    sim_table (kd-sim)               x                   x
    rel_table (kd-rel)               x                   x
    class_mean_table (kd-classavg)   x                   x
    pt_shared_target (kd-pt+sim/rel) x         x         x, the same for all examples of a label
    topk_target (kd-topk)            x         x         x
    teacher_target (kd)              x         x         x

A table has one row for each label: `table[labels]` is the target of a batch. Targets are
non-negative, sum to 1 and carry no gradient; logits of half precision are taken to float32 first.
Shapes: B batch, K classes (the items of a recommender), k classes kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopKTarget:
    """A target that differs between k classes and is one number elsewhere, never made dense.

    ids [B, k] int64, different ones in a row; values [B, k], their targets; remainder [B], the
    target of each other class.
    """

    ids: Tensor
    values: Tensor
    remainder: Tensor

    def dense(self, num_classes: int) -> Tensor:
        """Return the same target as [B, K]."""
        every = self.remainder[:, None].expand(-1, num_classes)
        return every.scatter(1, self.ids, self.values)


@torch.no_grad()
def teacher_target(teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return softmax(teacher_logits / temperature) [B, K], the target of plain distillation (kd).

    >>> teacher_target(torch.tensor([[0.0, 0.0, 0.0]])).sum().item()
    1.0
    """
    _check_positive("teacher_target", temperature=temperature)
    return torch.softmax(_at_least_float(teacher_logits) / temperature, dim=-1)


@torch.no_grad()
def uniform_target(like: Tensor) -> Tensor:
    """Return 1 / K everywhere, in the shape of [B, K]; teacher weight a is label smoothing (ls)."""
    return torch.full_like(_at_least_float(like), 1.0 / like.shape[-1])


@torch.no_grad()
def pt_target(teacher_logits: Tensor, labels: Tensor, *, pt_temperature: float = 1.0) -> Tensor:
    """Return the teacher's probability of the label, the rest shared evenly (kd-pt) [B, K].

    >>> logits = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]]).log()
    >>> [round(p, 4) for p in pt_target(logits, torch.tensor([0]))[0].tolist()]
    [0.6, 0.1, 0.1, 0.1, 0.1]
    """
    return pt_topk_target(teacher_logits, labels, pt_temperature=pt_temperature).dense(
        teacher_logits.shape[-1]
    )


@torch.no_grad()
def pt_topk_target(
    teacher_logits: Tensor, labels: Tensor, *, pt_temperature: float = 1.0
) -> TopKTarget:
    """Return `pt_target` in the compact form, with k = 1: the label."""
    _check_labels("pt_target", teacher_logits, labels)
    _check_positive("pt_target", pt_temperature=pt_temperature)
    num_classes = teacher_logits.shape[-1]
    probabilities = teacher_target(teacher_logits, temperature=pt_temperature)
    values = probabilities.gather(1, labels[:, None])
    remainder = (1 - values[:, 0]) / max(1, num_classes - 1)
    return TopKTarget(labels[:, None], values, remainder)


@torch.no_grad()
def topk_target(
    teacher_logits: Tensor,
    k: int,
    *,
    temperature: float = 1.0,
    labels: Tensor | None = None,
) -> TopKTarget:
    """Return the teacher's k largest probabilities; the others share what is left (kd-topk).

    k = K is `teacher_target`.

    Args:
        labels: [B], classes that are always kept; one that the teacher ranks below its k best
            takes the place of the k-th. None keeps what the teacher ranks best.

    >>> logits = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]]).log()
    >>> [round(p, 4) for p in topk_target(logits, 2).dense(5)[0].tolist()]
    [0.6, 0.2, 0.0667, 0.0667, 0.0667]
    """
    num_classes = teacher_logits.shape[-1]
    if not 1 <= k <= num_classes:
        raise ValueError(f"topk_target needs 1 <= k <= {num_classes} classes; got {k}")
    _check_positive("topk_target", temperature=temperature)
    logits = _at_least_float(teacher_logits) / temperature
    best, ids = logits.topk(k, dim=-1)
    if labels is not None:
        _check_labels("topk_target", teacher_logits, labels)
        is_missing = (ids != labels[:, None]).all(dim=1)
        ids[:, -1] = torch.where(is_missing, labels, ids[:, -1])
        best = logits.gather(1, ids)
    values = (best - logits.logsumexp(dim=-1, keepdim=True)).exp()
    if k == num_classes:
        return TopKTarget(ids, values, torch.zeros_like(values[:, 0]))
    left = (1 - values.sum(dim=1)).clamp(min=0.0)  # rounding
    return TopKTarget(ids, values, left / (num_classes - k))


@torch.no_grad()
def permuted_target(
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    """Return the teacher's probabilities, those of the wrong classes permuted (kd-perm) [B, K].

    Each example has its own permutation: how sure the teacher is stays, which classes it finds
    alike is lost.
    """
    _check_labels("permuted_target", teacher_logits, labels)
    target = teacher_target(teacher_logits, temperature=temperature)
    draws = torch.rand(target.shape, generator=generator, dtype=torch.float64).to(target.device)
    label = labels[:, None]
    # The label is last in the order by classes and in the random one, so it keeps its place.
    classes = torch.arange(target.shape[1], device=target.device).expand_as(target)
    ordered = classes.to(draws.dtype).scatter(1, label, torch.inf).argsort(dim=1)
    shuffled = draws.scatter(1, label, torch.inf).argsort(dim=1)
    return torch.empty_like(target).scatter_(1, ordered, target.gather(1, shuffled))


@torch.no_grad()
def sim_table(
    output_weights: Tensor,
    *,
    sim_temperature: float = 0.1,
    power: float = 1.0,
    center_rows: bool = True,
) -> Tensor:
    """Return softmax(f(cosines of the teacher's output rows) / sim_temperature) (kd-sim) [K, K].

    Args:
        output_weights: [K, D], of the teacher's last layer.
        power: a of f(x) = sign(x) |x| ** a, in (0, 1].
        center_rows: subtract the mean row first. A softmax does not notice a vector that is added
            to every row, a cosine does; off is the plain reading of the paper.

    >>> weights = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])
    >>> table = sim_table(weights, sim_temperature=0.5, center_rows=False)
    >>> [round(p, 4) for p in table[0].tolist()]
    [0.5922, 0.397, 0.0108]
    """
    if not 0 < power <= 1:
        raise ValueError(f"sim_table needs 0 < power <= 1; got {power}")
    _check_positive("sim_table", sim_temperature=sim_temperature)
    rows = _at_least_float(output_weights)
    if center_rows:
        rows = rows - rows.mean(dim=0)
    rows = torch.nn.functional.normalize(rows, dim=1)
    cosines = rows @ rows.T
    return torch.softmax(cosines.sign() * cosines.abs() ** power / sim_temperature, dim=1)


@torch.no_grad()
def rel_table(
    superclasses: Tensor, *, b1: float, b2: float, b3: float, scale_rows: bool = False
) -> Tensor:
    """Return b1 for the label, b2 for its siblings and b3 for other classes (kd-rel) [K, K].

    Args:
        superclasses: [K] int, of each class.
        b1, b2, b3: b1 > b2 > b3 >= 0, and b1 + (m - 1) b2 + (K - m) b3 = 1 for a super-class of m.
        scale_rows: divide each row by its sum, for super-classes of different sizes.

    >>> table = rel_table(torch.tensor([0, 0, 1, 1]), b1=0.5, b2=0.3, b3=0.1)
    >>> [round(p, 4) for p in table[0].tolist()]
    [0.5, 0.3, 0.1, 0.1]
    """
    if not b1 > b2 > b3 >= 0:
        raise ValueError(f"rel_table needs b1 > b2 > b3 >= 0; got {b1}, {b2}, {b3}")
    is_sibling = superclasses[:, None] == superclasses[None, :]
    table = torch.full(is_sibling.shape, b3, dtype=torch.float64, device=superclasses.device)
    table.masked_fill_(is_sibling, b2).fill_diagonal_(b1)
    sums = table.sum(dim=1, keepdim=True)
    if not scale_rows and bool(((sums - 1).abs() > 1e-6).any()):
        raise ValueError(
            "rel_table needs b1 + (m - 1) b2 + (K - m) b3 = 1 for each super-class of m classes; "
            f"got {sums.min():.6g} to {sums.max():.6g}. Pass scale_rows=True to divide by it."
        )
    return (table / sums).to(torch.get_default_dtype())


@torch.no_grad()
def class_mean_table(teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the mean teacher output over the examples of each label (kd-classavg) [K, K].

    A class without an example has a uniform row.
    """
    _check_labels("class_mean_table", teacher_logits, labels)
    target = teacher_target(teacher_logits, temperature=temperature)
    num_classes = target.shape[1]
    table = target.new_zeros(num_classes, num_classes).index_add_(0, labels, target)
    counts = labels.bincount(minlength=num_classes)[:, None]
    return torch.where(counts > 0, table / counts.clamp(min=1), 1.0 / num_classes)


@torch.no_grad()
def pt_shared_target(
    teacher_logits: Tensor, labels: Tensor, table: Tensor, *, pt_temperature: float = 1.0
) -> Tensor:
    """Return p_t for the label, the rest in proportion to a table's row (kd-pt+sim, kd-pt+rel).

    Args:
        table: [K, K], of `sim_table` or `rel_table`; what it has for the label itself is not used.
    """
    p_t = pt_topk_target(teacher_logits, labels, pt_temperature=pt_temperature).values
    others = table.to(p_t.dtype)[labels].scatter(1, labels[:, None], 0.0)
    totals = others.sum(dim=1, keepdim=True)
    if bool((totals <= 0).any()):
        raise ValueError(
            "pt_shared_target needs a table with more than 0 outside its diagonal in each row; "
            "got a row without. Raise sim_temperature."
        )
    shares = others / totals
    return (shares * (1 - p_t)).scatter(1, labels[:, None], p_t)


def _at_least_float(logits: Tensor) -> Tensor:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32))


def _check_positive(name: str, **values: float) -> None:
    for parameter, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} needs {parameter} > 0; got {value}")


def _check_labels(name: str, logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{name} needs logits [B, K] and labels [B]; "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"{name} needs labels in 0..{logits.shape[1] - 1}; "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
