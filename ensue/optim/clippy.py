"""Clippy: Adagrad or Adam whose steps are shrunk, tensor by tensor, to what the weights can take.

Tang et al., "Improving Training Stability for Multitask Ranking Models in Recommender Systems", KDD
2023, arXiv:2302.09178, Algorithm 1. The rules that it was compared with stand beside it.
Departures: a gradient that is not finite leaves its tensor as it was, and is counted; the gradient
of a table may be sparse, and the factor is then that of its rows; Adam's direction may take the
place of Adagrad's. All of it stays on the tensor's device.
Shapes: V table rows, R rows of a sparse gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ensue.nn.sparse_rows import distinct_rows
from ensue.optim import clippy_kernels as kernels
from ensue.optim._tensorwise import TensorwiseOptimizer
from ensue.optim.clipping import adaptive_factor, clippy_factor, norm_factor, trust_factor
from ensue.optim.row_updates import adagrad_rows_

RuleName = Literal["clippy", "gc", "agc", "lamb", "none"]
DirectionName = Literal["adagrad", "delayed_adagrad", "adam"]
BY_ELEMENT = ("clippy", "none")  # rules that know the factor of a tensor from its pieces
Least = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """What a tensor's step may be.

    name: "clippy": no weight moves by more than relative * |w| + absolute; "gc": the gradient's
        norm is at most `threshold`; "agc": at most `threshold` norms of the row's weights; "lamb":
        the step has the norm threshold * lr * |w|; "none".
    """

    name: RuleName = "clippy"
    relative: float = 0.5
    absolute: float = 0.01
    threshold: float = 0.1

    def __post_init__(self) -> None:
        _check(f"rule in {get_args(RuleName)}", self.name, self.name in get_args(RuleName))
        _check("relative >= 0", self.relative, self.relative >= 0)
        _check("absolute >= 0", self.absolute, self.absolute >= 0)
        _check("threshold > 0", self.threshold, self.threshold > 0)


@dataclass(frozen=True)
class Direction:
    """What a step is, before it is shrunk, over the learning rate.

    name: "adagrad": r = g / sqrt(G + eps), G the sum of all squares; "delayed_adagrad": of those
        before the current one (the authors' program; r has no limit); "adam": r = m / (sqrt(v) +
        eps), both corrected for their start.
    initial: what G begins with.
    eps: None is 1e-8 for Adam and 0 for Adagrad.
    """

    name: DirectionName = "adagrad"
    initial: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = None

    def __post_init__(self) -> None:
        names = get_args(DirectionName)
        _check(f"direction in {names}", self.name, self.name in names)
        if self.eps is None:
            object.__setattr__(self, "eps", 1e-8 if self.name == "adam" else 0.0)
        is_positive = self.initial > 0 or (self.initial == 0 and self.eps != 0)
        _check("initial > 0, or eps > 0", self.initial, is_positive)


class Clippy(TensorwiseOptimizer):
    """w <- w - factor * lr * r, with one factor for each tensor (for each row with "agc").

    The state of a parameter holds its last "factor", and what `take_counts` tells. Biases and
    scales belong in tensors of their own: the smallest bound of a tensor limits all of it.

    Args:
        params: tensors, or groups with settings of their own: "rule" is then the name of one.
        weight_decay: L2 added to the gradient; a bound is on the whole step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.01,
        rule: Rule | None = None,
        direction: Direction | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        _check("lr > 0", lr, lr > 0)
        rule, direction = rule or Rule(), direction or Direction()
        defaults = {"lr": lr, "weight_decay": weight_decay, **asdict(rule), **asdict(direction)}
        defaults |= {"rule": rule.name, "direction": direction.name}
        defaults.pop("name")  # plain values, so that a saved state needs none of these classes
        super().__init__(params, defaults)
        self._least: dict[Tensor, Least] = {}

    def divide_(self, pieces: Iterable[Tensor], least: Least) -> None:
        """Let parameters be pieces of tensors whose other pieces are with other processes.

        Args:
            least: returns the least of a number [] over the processes. All of them call it for
                each piece in turn: the factor of a tensor is the least of those of its pieces.

        Raises:
            ValueError: a rule is of norms, which no process knows of a tensor that is divided.
        """
        rules = {p: group["rule"] for group in self.param_groups for p in group["params"]}
        for piece in pieces:
            rule = rules[piece]
            _check("the rule clippy or none for pieces of tensors", rule, rule in BY_ELEMENT)
            if rule != "none":
                self._least[piece] = least

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the moments and the counts before the first step."""
        initial = 0.0 if group["direction"] == "adam" else group["initial"]
        state = {name: torch.full_like(parameter, initial) for name in _moments(group)}
        counts = ("step", "factor", "factor_sum", "taken", "skipped")
        zero = torch.zeros(
            (), dtype=torch.float64, device=parameter.device
        )  # 1 - .999 ^ 1 needs it
        return state | {name: zero.clone() for name in counts}

    def update_(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        """Take the step of the whole tensor, of the rows of a sparse gradient, or none."""
        least = self._least.get(parameter)
        if grad.is_sparse:
            _update_rows(parameter, grad, state, group)
        elif kernels.can_run(parameter, grad, group):
            kernels.update(parameter, grad, state, group, least)
        else:
            moments = {name: state[name] for name in _moments(group)}
            _update(parameter, grad, moments, state, group, least)

    def take_counts(self, parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
        """Return what was counted since the last call.

        clipping: the mean factor of each named parameter that a rule is for. skipped_steps: of all
        tensors together, for gradients that are not finite.
        """
        means, skipped = {}, 0
        ruled = {
            p for group in self.param_groups if group["rule"] != "none" for p in group["params"]
        }
        for name, parameter in parameters:
            state = self.state.get(parameter)
            if not state:
                continue
            if parameter in ruled:
                means[name] = float(state["factor_sum"] / state["taken"].clamp(min=1))
            skipped += int(state["skipped"])
            for count in ("factor_sum", "taken", "skipped"):
                state[count].zero_()
        return {"clipping": means, "skipped_steps": skipped}


def _check(needs: str, value: object, holds: bool) -> None:
    if not holds:
        raise ValueError(f"Clippy needs {needs}; got {value!r}.")


def _moments(group: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the state that has the shape of the parameter."""
    return ("mean", "square") if group["direction"] == "adam" else ("sum",)


def _update_rows(
    table: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """Update the rows of table [V, ...] that a sparse gradient names."""
    rows, values = distinct_rows(grad)
    is_free = group["rule"] == "none" and group["direction"] != "adam"
    if is_free and table.device.type == "cpu":  # elsewhere nothing waits to learn what is finite
        _update_free_rows(table, rows, values, state, group)
        return
    own = table[rows]
    moments = {name: state[name][rows] for name in _moments(group)}
    _update(own, values, moments, state, group)
    table[rows] = own
    for name, value in moments.items():
        state[name][rows] = value


def _update_free_rows(
    table: Tensor, rows: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """Take Adagrad's step in rows of a table, whatever its size, or count it as skipped."""
    is_finite = grad.isfinite().all()
    if is_finite:
        adagrad_rows_(
            table,
            state["sum"],
            rows,
            grad,
            rate=group["lr"],
            eps=(group["eps"], 0.0),
            decay=group["weight_decay"],
            is_standard=group["direction"] == "adagrad",
        )
    _note(state, state["factor"].new_ones(()), is_finite)


def _update(
    weight: Tensor,
    grad: Tensor,
    moments: dict[str, Tensor],
    state: dict[str, Tensor],
    group: dict[str, Any],
    least: Least | None = None,
) -> None:
    """Update the weights, the moments and the counts in place, or count a gradient as skipped."""
    is_finite = grad.isfinite().all()
    if group["weight_decay"]:
        grad = grad.add(weight, alpha=group["weight_decay"])
    new, direction = _directed(grad, moments, state["step"] + 1, group)
    step = direction.mul_(group["lr"])
    factor = _factor(step, weight, grad, group)
    if least is not None:
        factor = least(torch.where(is_finite, factor, kernels.NOT_FINITE))
        is_finite = factor != kernels.NOT_FINITE
    for name, value in moments.items():
        value.copy_(torch.where(is_finite, new[name], value))
    weight.copy_(torch.where(is_finite, weight - factor * step, weight))
    _note(state, factor.min() if factor.numel() else factor.new_ones(()), is_finite)


def _directed(
    grad: Tensor, moments: dict[str, Tensor], step: Tensor, group: dict[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the new moments, and r."""
    if group["direction"] != "adam":
        before = moments["sum"]
        after = before.addcmul(grad, grad)
        used = after if group["direction"] == "adagrad" else before
        direction = grad / (used + group["eps"]).sqrt_()
        return {"sum": after}, direction
    beta1, beta2 = group["betas"]
    mean = moments["mean"].lerp(grad, 1 - beta1)
    square = (moments["square"] * beta2).addcmul_(grad, grad, value=1 - beta2)
    spread = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return {"mean": mean, "square": square}, mean / (1 - beta1**step) / spread


def _factor(step: Tensor, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
    rule = group["rule"]
    if rule == "clippy":
        return clippy_factor(step, weight, relative=group["relative"], absolute=group["absolute"])
    if rule == "gc":
        return norm_factor(grad, threshold=group["threshold"])
    if rule == "agc":
        return adaptive_factor(grad, weight, threshold=group["threshold"])
    if rule == "lamb":
        return trust_factor(step, weight, rate=group["lr"], multiplier=group["threshold"])
    return step.new_ones(())


def _note(state: dict[str, Tensor], factor: Tensor, is_finite: Tensor) -> None:
    """Count a step and its factor, or a skipped one."""
    state["factor"].copy_(torch.where(is_finite, factor, state["factor"]))
    state["factor_sum"] += torch.where(is_finite, factor, 0.0)
    state["step"] += is_finite
    state["taken"] += is_finite
    state["skipped"] += ~is_finite
