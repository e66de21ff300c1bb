"""What a step along the direction of time looks like, decoded.

Shapes: N visits, S steps, D width of the codes, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import Numbers
from ensue.data.longitudinal.visits import Visits
from ensue.runs.longitudinal_fit import Fitted, encode

NUM_STEPS = 7
TAIL = 0.05  # of the visits lie below the first step, and above the last one
MAX_VISITS = 256  # at which the change is measured
AT_ONCE = 16  # decoded
STEP = 0.01  # of the coordinate


@dataclass(frozen=True)
class Traversal:
    """Measurements decoded along the direction, from the mean of all that is no time.

    steps: [S], time coordinates. decoded: [S, ...], in the units of the measurements; of bags, the
        probabilities of the items [S, I].
    change: [...], what is decoded changes with one unit of the coordinate, mean over visits, in
        standard deviations of each number; of bags, the log-probabilities change [I].
    """

    steps: NDArray[np.float64]
    decoded: NDArray[np.float32]
    change: NDArray[np.float32]


@torch.no_grad()
def traverse(fitted: Fitted, visits: Visits) -> Traversal | None:
    """Return what the direction of time looks like; None where nothing is decoded."""
    model = fitted.model
    if model.config.method == "simclr":
        return None
    codes = encode(model, fitted.rows(visits.measured))
    along, rest = fitted.split(codes)
    steps = np.quantile(along[:, 0].double().numpy(), np.linspace(TAIL, 1 - TAIL, NUM_STEPS))
    direction = model.directions[0].cpu()
    raw = torch.from_numpy(steps).float() * fitted.spread + fitted.center
    others = along[:, 1:].mean(dim=0) @ model.directions[1:].cpu()
    places = rest.mean(dim=0) + others + raw[:, None] * direction
    decoded = model.body.decode(places.to(model.directions.device)).cpu()
    if isinstance(visits.measured, Numbers):
        assert fitted.scale is not None
        decoded = fitted.scale.undo(decoded)
    else:
        decoded = decoded.exp()
    picked = np.linspace(0, len(visits) - 1, min(len(visits), MAX_VISITS)).round().astype(np.int64)
    change = decoded_change(fitted, codes[torch.from_numpy(picked)])
    return Traversal(steps, decoded.numpy(), change.mean(dim=0).numpy())


@torch.no_grad()
def decoded_change(fitted: Fitted, codes: torch.Tensor) -> torch.Tensor:
    """Return how what codes [n, D] stand for changes with the coordinate of time [n, ...].

    A central difference: it needs no more memory than decoding does.
    """
    model = fitted.model
    step = STEP * fitted.spread * model.directions[:1]
    changes = []
    for part in torch.split(codes.to(step.device), AT_ONCE):
        above, below = model.body.decode(part + step), model.body.decode(part - step)
        changes.append(((above - below) / (2 * STEP)).cpu())
    return torch.cat(changes)
