"""What a soft target did to a student of a catalogue, on a sample of its training queries.

J. Tang et al., "Understanding and Improving Knowledge Distillation", 2020, arXiv:2002.03532; the
measures are those of `evaluation.distillation`, the classes are the items.
Shapes: Q sampled queries, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensue.data.histories import Histories
from ensue.evaluation.distillation import (
    calibration_error,
    confidence_correlation,
    gradient_ratio,
    rescaling,
    target_entropy,
)
from ensue.models.base import Model
from ensue.training.distillation.knowledge import KnowledgeTerm
from ensue.training.distillation.prefixes import prefix_batch

NUM_QUERIES = 1024
BLOCK_ITEMS = 1 << 22  # logits of the sample
NUM_BINS = 40


@torch.no_grad()
def diagnose(
    model: Model, term: KnowledgeTerm, histories: Histories, *, seed: int
) -> dict[str, Any]:
    """Return the diagnostics of a trained student, ready for JSON.

    omega is the factor by which the target changes the gradient of the observed item's logit; the
    gradient ratio compares the gradients of all items. p_t is the target of the observed item.
    """
    rows, _ = histories.rows(np.arange(histories.num_users + 1))
    size = min(NUM_QUERIES, max(1, BLOCK_ITEMS // model.num_items), len(rows))
    rows = np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
    users = np.searchsorted(histories.ends, rows, side="right")
    model.eval()
    logits = model.score(prefix_batch(histories, users, rows, model.max_len))[:, 1:].double()
    labels = torch.from_numpy(histories.items[rows].astype(np.int64)) - 1
    target = term.dense(rows, torch.Generator().manual_seed(seed)).double()
    settings = term.settings
    omega = rescaling(logits, target, labels, **settings)
    p_t = target.gather(1, labels[:, None]).squeeze(1)
    counts, edges = _histogram(omega)
    return {
        "num_queries": size,
        "omega": float(omega.mean()),
        "omega_deviation": float(omega.std(correction=0)),
        "omega_edges": edges,
        "omega_counts": counts,
        "omega_p_t_correlation": confidence_correlation(omega, p_t),
        "gradient_ratio": float(gradient_ratio(logits, target, labels, **settings).mean()),
        "p_t": float(p_t.mean()),
        "target_entropy": target_entropy(target),
        "calibration_error": calibration_error(logits, labels),
    }


def _histogram(values: Tensor) -> tuple[list[int], list[float]]:
    """Return counts and edges of bins; what lies outside 98% of the values is in the outer ones."""
    low, high = np.quantile(values.numpy(), [0.01, 0.99])
    edges = np.linspace(low, max(high, low + 1e-6), NUM_BINS + 1)
    counts, _ = np.histogram(values.clamp(float(edges[0]), float(edges[-1])).numpy(), edges)
    return counts.tolist(), edges.tolist()
