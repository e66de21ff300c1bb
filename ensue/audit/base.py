"""What an attack is asked, and what it answers.

Tang, Wen and Wang, "Revisiting adversarially learned injection attacks against recommender
systems", RecSys 2020, arXiv:2008.04876.
Shapes: N real users, F fake users, I items, S targets. Items are columns 0 to I - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ensue.audit.clicks import Clicks


class AttackStep(NamedTuple):
    """What one outer iteration found of the surrogate that was trained on its fake users.

    loss: L_adv, summed over real users. hit_rate: share of all real users with a target among their
    `k` best unseen items. mean_rank: of the targets, over users and targets, 0 the best.
    num_clicks: of all fake users. num_changed: cells that the step before changed.
    """

    iteration: int
    loss: float
    hit_rate: float
    mean_rank: float
    num_clicks: int
    num_changed: int
    seconds: float


@dataclass(frozen=True)
class AttackResult:
    """Fake users, and how they were found. best: the iteration they are of; None of one shot."""

    fakes: Clicks
    steps: list[AttackStep] = field(default_factory=list)
    best: int | None = None


class Attack(Protocol):
    """Makes fake users that promote targets.

    Raises:
        UsageError: the request cannot be met, for instance without a real user to copy.
    """

    name: str

    def run(
        self,
        real: Clicks,
        targets: NDArray[np.int64],
        num_fakes: int,
        *,
        seed: int,
        watch: Callable[[AttackStep], None] | None = None,
    ) -> AttackResult:
        """Return fake users. The same seed gives the same ones.

        Args:
            targets: [S] columns.
            watch: called after each outer iteration.
        """
        ...
