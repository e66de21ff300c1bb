"""What `ensue longitudinal` finds, and the folder that it is stored in.

```
DIR/longitudinal.json      settings, counts and the figures of every method
DIR/coordinates.parquet    a row for each visit: entity, time, time_coordinate, held_out_coordinate,
                           coordinate_2 ... where there are more directions, and `rest`, the code
                           without them
DIR/slopes.parquet         a row for each entity: visits, group, intercept, slope
DIR/traversal.npy          measurements decoded along the direction
DIR/fitted.safetensors     the model, which gives coordinates to other visits
DIR/log.jsonl              its training
DIR/longitudinal.html      a page about all of it
```
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ensue.data.longitudinal.measurements import Measurements
from ensue.errors import RunError, UsageError
from ensue.evaluation.longitudinal import Agreement, Order
from ensue.runs.longitudinal_fit import FITTED, Fitted, describe_measured, load_fitted

FORMAT = 1
MARKER = "longitudinal.json"


@dataclass(frozen=True)
class GroupSlope:
    """How the coordinate moves in a group: standard deviations of it a unit of time.

    difference: from the slope of the first group; None of that one itself.
    error, p_value: of the difference, by Wald's test; of the first group, of its slope.
    """

    group: str
    num_entities: int
    slope: float
    difference: float | None
    error: float
    p_value: float


@dataclass(frozen=True)
class Slopes:
    """The slopes of the groups, and how much entities differ: standard deviations."""

    groups: list[GroupSlope]
    between_intercepts: float
    between_slopes: float
    residual: float


@dataclass(frozen=True)
class Probe:
    """How well a column is predicted from codes, on entities that were not trained on.

    metrics: balanced accuracy and AUC of categories, R2 and RMSE of numbers.
    """

    column: str
    head: str
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class MethodResult:
    """The figures of one method, of visits of entities that its models were not trained on.

    error: of the reconstruction; None of simclr, which has none.
    """

    method: str
    order: Order
    error: float | None
    agreements: dict[str, Agreement]
    slopes: Slopes
    probes: list[Probe]


@dataclass(frozen=True)
class Longitudinal:
    """What was found, in its folder.

    facts: settings, counts and notes, as JSON.
    """

    path: Path
    facts: dict[str, Any]
    methods: list[MethodResult]

    @property
    def coordinates(self) -> pl.DataFrame:
        """A row for each visit; see the module."""
        return pl.read_parquet(self.path / "coordinates.parquet")

    @property
    def slopes(self) -> pl.DataFrame:
        """A row for each entity; see the module."""
        return pl.read_parquet(self.path / "slopes.parquet")

    @property
    def fitted(self) -> Fitted:
        """The model that was trained on all entities by the first method."""
        return load_fitted(self.path / FITTED)

    def place(self, measured: Measurements) -> pl.DataFrame:
        """Return the coordinates of other measurements, a row for each.

        Raises:
            UsageError: they are of another shape than those of the training.
        """
        fitted = self.fitted
        found, known = describe_measured(measured), fitted.model.measured
        if found != known:
            raise UsageError(
                f"measurements must be as those of the training, {known}; got {found}."
            )
        return coordinates_frame(fitted, fitted.codes(measured))

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**self.facts, "methods": [asdict(method) for method in self.methods]}


def load_longitudinal(path: str | Path) -> Longitudinal:
    """Return what is stored in a folder of `ensue longitudinal`.

    Raises:
        RunError: it holds none.
    """
    path = Path(path)
    file = path / MARKER
    if not file.is_file():
        raise RunError(f"{path} must be a folder that ensue longitudinal made; it has no {MARKER}.")
    stored = json.loads(file.read_text(encoding="utf-8"))
    methods = [_method(values) for values in stored.pop("methods")]
    return Longitudinal(path, stored, methods)


def coordinates_frame(fitted: Fitted, codes: Any) -> pl.DataFrame:
    """Return time_coordinate, further coordinates and the rest of codes [N, D], a row for each."""
    along, rest = fitted.split(codes)
    columns = {"time_coordinate": along[:, 0].double().numpy()}
    for k in range(1, along.shape[1]):
        columns[f"coordinate_{k + 1}"] = along[:, k].double().numpy()
    frame = pl.DataFrame(columns)
    rest_type = pl.Array(pl.Float32, rest.shape[1])
    return frame.with_columns(pl.Series("rest", rest.float().numpy(), dtype=rest_type))


def _method(values: dict[str, Any]) -> MethodResult:
    groups = [GroupSlope(**group) for group in values["slopes"]["groups"]]
    return MethodResult(
        method=values["method"],
        order=Order(**values["order"]),
        error=values["error"],
        agreements={name: Agreement(**v) for name, v in values["agreements"].items()},
        slopes=Slopes(**{**values["slopes"], "groups": groups}),
        probes=[Probe(**probe) for probe in values["probes"]],
    )
