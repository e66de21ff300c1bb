"""A linear mixed model: a value that moves with time, from a start and at a rate of each entity.

y = b0 + b1 t + (differences of groups in both) + u0 + u1 t + e, with (u0, u1) normal around 0 for
each entity. Laird and Ware, Biometrics 1982; restricted maximum likelihood, profiled down to the
relative covariance of u0 and u1 as in Bates et al., Journal of Statistical Software 2015. The sums
that it needs are 2 x 2 for an entity, so that no matrix of all visits is made.
Shapes: N visits, E entities, p fixed coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensue.errors import DataError

Floats = NDArray[np.float64]
STEPS = 200  # of the optimizer; it has three parameters


@dataclass(frozen=True)
class Coefficient:
    """A fixed coefficient; p_value is of Wald's test against 0, two-sided and normal."""

    name: str
    value: float
    error: float
    p_value: float


@dataclass(frozen=True)
class MixedModel:
    """What was fitted.

    coefficients: "intercept" (at the mean time) and "slope", of the first group; then, of each
        other group G, "G" and "G:slope", their differences from the first.
    intercepts, slopes: [E], of each entity, its group's coefficients and its own part together.
    deviations: standard deviations of intercepts, of slopes and of what is left.
    correlation: of intercepts and slopes; None where one of them does not vary.
    center: the mean time, at which the intercepts are.
    deviance: minus twice the restricted log-likelihood.
    """

    coefficients: list[Coefficient]
    intercepts: Floats
    slopes: Floats
    deviations: tuple[float, float, float]
    correlation: float | None
    center: float
    deviance: float

    def coefficient(self, name: str) -> Coefficient:
        """Return the coefficient of a name."""
        return next(found for found in self.coefficients if found.name == name)


class _Sums:
    """The products of what is known, summed over the visits of each entity [E, ...]."""

    def __init__(self, y: Floats, z: Floats, x: Floats, entities: NDArray[np.int64]) -> None:
        self.num_visits, self.p = x.shape
        num_entities = int(entities[-1]) + 1

        def by_entity(a: Floats, b: Floats) -> Tensor:
            products = torch.from_numpy(a[:, :, None] * b[:, None, :])
            out = products.new_zeros(num_entities, *products.shape[1:])
            return out.index_add_(0, torch.from_numpy(entities), products)

        self.zz, self.zx = by_entity(z, z), by_entity(z, x)
        self.zy = by_entity(z, y[:, None])[:, :, 0]
        self.xx, self.xy = torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y)
        self.yy = float(y @ y)

    def solve(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the best coefficients and the deviance at a relative covariance L L'.

        Args:
            theta: [3], the entries of L on and below its diagonal.
        """
        zero = theta.new_zeros(())
        factor = torch.stack([theta[0], zero, theta[1], theta[2]]).view(2, 2)
        inner = torch.eye(2, dtype=theta.dtype) + factor.T @ self.zz @ factor  # [E, 2, 2]
        root = torch.linalg.cholesky(inner)
        right = torch.cat([self.zx, self.zy[:, :, None]], dim=2)
        half = torch.linalg.solve_triangular(root, factor.T @ right, upper=False)
        xx = self.xx - torch.einsum("eip,eiq->pq", half[:, :, :-1], half[:, :, :-1])
        xy = self.xy - torch.einsum("eip,ei->p", half[:, :, :-1], half[:, :, -1])
        yy = self.yy - half[:, :, -1].square().sum()
        whole = torch.linalg.cholesky(xx)
        beta = torch.cholesky_solve(xy[:, None], whole)[:, 0]
        left = (yy - xy @ beta).clamp(min=1e-300)
        freedom = self.num_visits - self.p
        log_determinants = 2 * torch.diagonal(root, dim1=1, dim2=2).log().sum()
        log_determinants = log_determinants + 2 * torch.diagonal(whole).log().sum()
        deviance = log_determinants + freedom * (1 + torch.log(2 * math.pi * left / freedom))
        residual = self.zy - torch.einsum("eip,p->ei", self.zx, beta)
        own = torch.cholesky_solve((residual @ factor)[:, :, None], root)[:, :, 0] @ factor.T
        return {
            "beta": beta,
            "covariance": torch.cholesky_inverse(whole) * left / freedom,
            "variance": left / freedom,
            "deviance": deviance,
            "own": own,
            "factor": factor,
        }


def fit_mixed_model(
    values: Floats,
    times: Floats,
    entities: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None = None,
    group_names: Sequence[str] = ("",),
) -> MixedModel:
    """Fit a line to each entity, around that of its group.

    Args:
        values, times: [N].
        entities: [N], ascending from 0, none left out.
        groups: [N], of each visit's entity; None is one group.
        group_names: the first one is what the others are compared with.

    Raises:
        DataError: the values say nothing of lines, or fewer visits than coefficients are there.
    """
    groups = np.zeros(len(values), np.int64) if groups is None else groups
    center, unit, scale = float(times.mean()), float(times.std()), float(values.std())
    if unit == 0 or scale == 0 or len(values) <= 2 * len(group_names) + 1:
        raise DataError(
            "slopes need values and times that change, and more visits than coefficients; got "
            f"{len(values)} visits with {len(np.unique(times))} times and "
            f"{len(np.unique(values))} values."
        )
    line = np.column_stack([np.ones(len(values)), (times - center) / unit])
    is_in = (groups[:, None] == np.arange(1, len(group_names))).astype(np.float64)
    fixed = np.concatenate([line[:, None], is_in[:, :, None] * line[:, None]], axis=1)
    x = fixed.reshape(len(values), -1)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise DataError("slopes by group need two visits at different times in every group.")
    found = _minimize(_Sums(values / scale, line, x, entities))
    names = ["intercept", "slope"]
    names += [name for group in group_names[1:] for name in (group, f"{group}:slope")]
    units = np.tile([scale, scale / unit], len(group_names))
    beta = found["beta"].numpy() * units
    errors = found["covariance"].diagonal().sqrt().numpy() * units
    coefficients = [
        Coefficient(name, float(value), float(error), _p_value(value / error))
        for name, value, error in zip(names, beta, errors, strict=True)
    ]
    of_entities = groups[np.searchsorted(entities, np.arange(entities[-1] + 1))]
    by_group = beta.reshape(-1, 2).copy()
    by_group[1:] += by_group[0]
    lines = by_group[of_entities] + found["own"].numpy() * units[:2]
    deviations, correlation = _spread(found, scale, unit)
    # That of the values as they are given, with times around their center.
    shift = (len(values) - x.shape[1]) * 2 * math.log(scale)
    shift += 2 * len(group_names) * math.log(unit)
    return MixedModel(
        coefficients,
        lines[:, 0],
        lines[:, 1],
        deviations,
        correlation,
        center,
        float(found["deviance"]) + shift,
    )


def _minimize(sums: _Sums) -> dict[str, Tensor]:
    """Return the best solution from two starts: with and without much difference of slopes."""
    solutions = []
    for slope in (1.0, 0.1):
        theta = torch.tensor([1.0, 0.0, slope], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [theta],
            max_iter=STEPS,
            tolerance_grad=1e-9,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure(theta: Tensor = theta, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            deviance = sums.solve(theta)["deviance"]
            torch.autograd.backward(deviance)
            return deviance

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            solutions.append(sums.solve(theta))
    return min(solutions, key=lambda solution: float(solution["deviance"]))


def _spread(
    found: dict[str, Tensor], scale: float, unit: float
) -> tuple[tuple[float, float, float], float | None]:
    """Return the standard deviations, in the units of values and times, and the correlation."""
    covariance = (found["factor"] @ found["factor"].T * found["variance"]).numpy()
    start, rate = np.sqrt(np.diag(covariance))
    left = float(found["variance"].sqrt()) * scale
    correlation = float(covariance[0, 1] / (start * rate)) if start * rate > 1e-12 else None
    return (float(start * scale), float(rate * scale / unit), left), correlation


def _p_value(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
