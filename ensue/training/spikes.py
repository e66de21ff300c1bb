"""Where the loss of a task leaps, and the tensor in which it began.

Tang et al., "Improving Training Stability for Multitask Ranking Models in Recommender Systems", KDD
2023, arXiv:2302.09178, describe the sequence: the gradient of some tensor grows, and a step later
the loss of a task. The definitions are ours. A spike: the loss is above its running median by more
than 6 running median absolute deviations (MADs) for 3 steps in a row or more; it ends within 1 MAD
of the median. While it lasts its losses are no part of the median. A loss that is not finite is a
spike at once. The tensor is the one whose gradient norm was first above its own median by as much,
in the 20 steps up to the spike, and most so.
Nothing is waited for in a step: the numbers of a step stay on the device, and are looked at some
steps later, all together.
Shapes: M losses, P tensors of weights, n steps not looked at yet.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensue.nn.sparse_rows import distinct_rows

WINDOW = 500  # steps that a median is over
MIN_STEPS = 20  # of a median; before so many nothing is judged
RISE, NUM_STEPS = 6.0, 3  # MADs above the median, and for how many steps
BACK = 1.0  # MADs above the median at most when it is over
LASTING_STEPS = 100  # after which a spike that is not over is a divergence
LOOK_BACK = 20  # steps before a spike in which its tensor is looked for
FLOOR = 1e-3  # a MAD is this share of the median at least: no loss is that steady
SYNC_STEPS = 20  # between looks at the numbers on the device


@dataclass
class Spike:
    """A leap of a loss.

    step: the first above, from 1. tensor: None where no gradient was seen before.
    height: the largest distance from the median, in MADs; None for a loss that is not finite.
    steps: how many until it was over; None while it lasts.
    """

    step: int
    task: str
    tensor: str | None = None
    height: float | None = 0.0
    steps: int | None = None


@dataclass
class Series:
    """The running median of one loss, and whether it leaps now.

    window: the last losses, in the order of a ring. count: how many there were.
    above: losses in a row above the bound, while they are no spike yet. spike: the one that lasts.
    median, mad: what they and it are measured by.
    first, largest: of all losses; NaN before the first, and since one that is not a number.
    """

    task: str
    window: NDArray[np.float64] = field(default_factory=lambda: np.zeros(WINDOW))
    count: int = 0
    above: list[float] = field(default_factory=list)
    spike: Spike | None = None
    median: float = 0.0
    mad: float = 0.0
    first: float = math.nan
    largest: float = math.nan

    def add(self, step: int, loss: float) -> Spike | None:
        """Take the loss of a step, and return the spike that it makes known."""
        if step == 1:
            self.first = self.largest = loss
        self.largest = float(np.maximum(self.largest, loss))  # NaN stays
        if self.spike is not None:
            self._follow(self.spike, step, loss)
            return None
        if not self.above and self.count:
            self.median, self.mad = map(float, median_and_mad(self.window[: self.count]))
        if not math.isfinite(loss):
            self.spike = Spike(step - len(self.above), self.task, height=None)
            self.above = []
            return self.spike
        if self.count < MIN_STEPS:
            self._keep(loss)
            return None
        if loss <= self.median + RISE * self.mad:
            self._keep(*self.above, loss)
            self.above = []
            return None
        self.above.append(loss)
        if len(self.above) < NUM_STEPS:
            return None
        self.spike = Spike(step - NUM_STEPS + 1, self.task, height=self._height(max(self.above)))
        self.above = []
        return self.spike

    def _follow(self, spike: Spike, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            spike.height = None
        elif self.count and loss <= self.median + BACK * self.mad:
            spike.steps = step - spike.step
            self.spike = None
            self._keep(loss)
        elif step - spike.step >= WINDOW:  # where it stays is what is usual now
            self.spike = None
            self.count = 0
        elif spike.height is not None:
            spike.height = max(spike.height, self._height(loss))

    def _keep(self, *losses: float) -> None:
        for loss in losses:
            self.window[self.count % WINDOW] = loss
            self.count += 1

    def _height(self, loss: float) -> float:
        return (loss - self.median) / self.mad


class SpikeDetector:
    """Looks at the losses and the gradient norms of step after step.

    spikes: found since `take` was called.
    """

    def __init__(self, tasks: Sequence[str], tensors: Sequence[str]) -> None:
        self.tensors = list(tensors)
        self.series = [Series(task) for task in tasks]
        self.norms: deque[NDArray[np.float64]] = deque(maxlen=WINDOW)
        self.spikes: list[Spike] = []
        self.step = 0

    def add(self, losses: Sequence[float], norms: NDArray[np.float64]) -> None:
        """Take the losses [M] and the norms [P] of the next step."""
        self.step += 1
        self.norms.append(norms)
        for series, loss in zip(self.series, losses, strict=True):
            spike = series.add(self.step, loss)
            if spike is not None:
                spike.tensor = self._tensor(spike.step)
                self.spikes.append(spike)

    @property
    def is_calm(self) -> bool:
        """Whether no loss is above its bound now."""
        return not any(series.spike or series.above for series in self.series)

    @property
    def leap(self) -> float:
        """The largest loss of a task over its first; infinite where one was not finite."""
        ratios = [series.largest / max(series.first, 1e-12) for series in self.series]
        return max((r if math.isfinite(r) else math.inf for r in ratios), default=0.0)

    @property
    def diverged_step(self) -> int | None:
        """The step since which a loss has not been finite, or has been up for long."""
        lasting = [series.spike for series in self.series if series.spike]
        steps = [s.step for s in lasting if s.height is None or self.step - s.step >= LASTING_STEPS]
        return min(steps, default=None)

    def take(self) -> list[dict[str, Any]]:
        """Return the spikes that began since the last call, in their order, as JSON."""
        found = [asdict(spike) for spike in sorted(self.spikes, key=lambda s: s.step)]
        self.spikes = []
        return found

    def _tensor(self, step: int) -> str | None:
        """Return the tensor whose norm was first and most above its median before a step."""
        end = len(self.norms) - (self.step - step)
        first = max(end - LOOK_BACK, end // 2)
        if not self.tensors or first < 1:
            return None
        norms = np.nan_to_num(np.array(self.norms), nan=np.inf)
        with np.errstate(invalid="ignore"):
            median, mad = median_and_mad(norms[:first])
            above = (norms[first:end] - median) / np.maximum(mad, np.finfo(float).tiny)
        above[np.isnan(above)] = np.inf
        early = (above > RISE).any(axis=1)
        row = early.argmax() if early.any() else above.max(axis=1).argmax()
        return self.tensors[int(above[row].argmax())]


class SpikeWatch:
    """A detector whose numbers come from a training, and are part of its checkpoints.

    Args:
        tasks: names of the losses that are watched.
    """

    def __init__(self, model: nn.Module, tasks: Sequence[str]) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        self.detector = SpikeDetector(tasks, [name for name, _ in named])
        self._rows: list[Tensor] = []

    def observe(self, losses: Tensor) -> None:
        """Take the losses of a step, [M] or one, and the gradients that the parameters have."""
        grads = [_dense(parameter) for parameter in self._parameters]
        norms = torch.stack(torch._foreach_norm(grads)) if grads else losses.new_empty(0)
        row = torch.cat([losses.detach().reshape(-1).double(), norms.double()])
        self._rows.append(row)
        if len(self._rows) >= SYNC_STEPS:
            self.look()

    def look(self) -> None:
        """Let the detector see what was observed; this waits for the device."""
        if not self._rows:
            return
        num_losses = len(self.detector.series)
        for row in torch.stack(self._rows).cpu().numpy():
            self.detector.add(row[:num_losses].tolist(), row[num_losses:])
        self._rows.clear()

    def take(self) -> list[dict[str, Any]]:
        """Return the spikes that began since the last call, as JSON."""
        self.look()
        return self.detector.take()

    def state(self) -> dict[str, Tensor]:
        """Return all that was seen, as tensors."""
        self.look()
        seen = self.detector
        facts = {
            "step": seen.step,
            "spikes": [asdict(spike) for spike in seen.spikes],
            "series": [{**asdict(s), "window": s.window.tolist()} for s in seen.series],
        }
        norms = np.array(seen.norms).reshape(len(seen.norms), len(seen.tensors))
        text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        return {"norms": torch.from_numpy(norms), "facts": torch.from_numpy(text.copy())}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what `state` returned."""
        facts = json.loads(tensors["facts"].numpy().tobytes())
        seen = self.detector
        self._rows.clear()
        seen.step = facts["step"]
        seen.norms = deque(tensors["norms"].numpy(), maxlen=WINDOW)
        seen.spikes = [Spike(**spike) for spike in facts["spikes"]]
        seen.series = [_series(stored) for stored in facts["series"]]
        for series in seen.series:  # the lasting one is one object in both places
            for spike in seen.spikes:
                if series.spike == spike:
                    series.spike = spike


def median_and_mad(values: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the median and the median absolute deviation over the first axis.

    The deviation is at least 0.001 of the median's size.
    """
    median = _median(values)
    mad = _median(np.abs(values - median))
    return median, np.maximum(mad, FLOOR * np.abs(median))


def _median(values: NDArray[np.float64]) -> Any:
    """Return the median over the first axis; `np.median` takes four times as long."""
    middle = len(values) // 2
    if len(values) % 2:
        return np.partition(values, middle, axis=0)[middle]
    parts = np.partition(values, (middle - 1, middle), axis=0)
    return (parts[middle - 1] + parts[middle]) / 2


def _series(stored: dict[str, Any]) -> Series:
    spike = Spike(**stored["spike"]) if stored["spike"] else None
    return Series(**{**stored, "window": np.array(stored["window"]), "spike": spike})


def _dense(parameter: Tensor) -> Tensor:
    """Return the numbers of a gradient, each row once; zero where there is none."""
    grad = parameter.grad
    if grad is None:
        return parameter.new_zeros(1)
    return distinct_rows(grad)[1] if grad.is_sparse else grad
