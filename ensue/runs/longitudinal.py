"""Find a direction of time in repeated measurements, and measure it on entities held out.

While it works, the trainings lie in DIR.parts; the result appears as DIR, whole.
Shapes: N visits, E entities, D width of the codes, K directions.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from ensue.data.longitudinal.measurements import ItemBags, Numbers
from ensue.data.longitudinal.tables import check_columns
from ensue.data.longitudinal.visits import Pairs, Visits, entity_folds
from ensue.errors import UsageError
from ensue.evaluation.mixed_model import MixedModel
from ensue.files import atomic_directory, check_output, write_json
from ensue.progress import Advance, track
from ensue.runs.environment import describe_making
from ensue.runs.longitudinal_fit import FITTED, FitSettings, describe_measured, fit
from ensue.runs.longitudinal_measure import (
    Floats,
    Fold,
    Groups,
    fit_slopes,
    group_labels,
    held_out_coordinate,
    measure_agreement,
    measure_error,
    measure_orders,
)
from ensue.runs.longitudinal_page import build_longitudinal_html
from ensue.runs.longitudinal_probes import measure_probes
from ensue.runs.longitudinal_result import (
    FORMAT,
    MARKER,
    Longitudinal,
    MethodResult,
    coordinates_frame,
    load_longitudinal,
)
from ensue.runs.longitudinal_settings import settings_of
from ensue.runs.longitudinal_traversal import traverse
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots

Integers = NDArray[np.int64]
WHOLE = "all"  # the training on all entities


def longitudinal(
    visits: Visits,
    *,
    out: str | Path,
    methods: Sequence[str] = ("lssl",),
    group: str | None = None,
    against: Sequence[str] = (),
    probes: Sequence[str] = (),
    fine_tune: bool = False,
    folds: int = 5,
    resume: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Longitudinal:
    """Find the direction of time in visits, store it and what it says, and return it.

    The first method is trained on all entities too; coordinates are its own. The figures of all
    methods are of entities that their models were not trained on.

    Args:
        visits: of `read_visits`, `read_images` or `history_windows` of ensue.data.longitudinal.
        out: a new folder.
        methods: names of ensue.models.representation.lssl.METHODS, the first one to be kept.
        group: a column that is the same at all visits of an entity, whose slopes are compared.
        against: columns that the coordinate is compared with: age, remaining life, site.
        probes: columns that are predicted from the codes.
        fine_tune: train encoders to predict them, too: the method's, and one from new.
        folds: of entities; 0 measures on the entities trained on, and says so.
        settings: fields of `LSSLConfig`, `PairsConfig` and `TrainingConfig`.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        DataError: the visits do not hold what is needed.
        RunError: a loss is not finite.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    started = time.perf_counter()
    out = Path(out)
    plans = settings_of(methods, settings or {}, visits.measured)
    _check(visits, [*against, *probes, *([group] if group else [])], folds)
    check_output(out, marker=MARKER, overwrite=overwrite)
    groups = group_labels(visits, group)
    stored = {name: plan.to_dict() for name, plan in plans.items()}
    identity = {"settings": stored, "folds": folds, "visits": fingerprint(visits)}
    parts = out.with_name(f"{out.name}.parts")
    is_resumed = open_output(
        parts, "job.json", identity, work="search", resume=resume, overwrite=overwrite
    )
    work = _Work(visits, plans, folds, parts, is_resumed)
    asked = _Asked(groups, tuple(against), tuple(probes), fine_tune)
    measured = []
    with track("longitudinal", len(plans) * max(folds, 1) + (folds > 0), unit="trainings") as done:
        kept = work.whole(methods[0])
        done()
        for method in methods:
            measured.append(_measure(work, method, asked, done))
    facts = {
        "format": FORMAT,
        **describe_visits(visits, plans[methods[0]]),
        "folds": folds,
        "group": group,
        "settings": stored,
        **describe_making(started),
    }
    result = Longitudinal(out, facts, [found for found, _, _ in measured])
    _, coordinate, lines = measured[0]
    tables = visit_tables(visits, kept, coordinate, lines, groups, is_held_out=folds > 0)
    with atomic_directory(out, marker=MARKER, overwrite=overwrite) as temporary:
        for name in (FITTED, "log.jsonl"):  # principal components have no log
            if (parts / methods[0] / WHOLE / name).is_file():
                shutil.copyfile(parts / methods[0] / WHOLE / name, temporary / name)
        _write(temporary, result, visits, kept, tables)
    shutil.rmtree(parts)
    return load_longitudinal(out)


@dataclass(frozen=True)
class _Asked:
    """What is to be measured of each method."""

    groups: Groups
    against: tuple[str, ...]
    probes: tuple[str, ...]
    fine_tune: bool


def _measure(
    work: _Work, method: str, asked: _Asked, advance: Advance
) -> tuple[MethodResult, Floats, MixedModel]:
    """Return the figures of a method, its held-out coordinate [N], and the lines of entities."""
    visits, plan = work.visits, work.plans[method]
    folds = work.folds(method, advance)
    coordinate = held_out_coordinate(folds, len(visits))
    slopes, lines = fit_slopes(visits, coordinate, asked.groups)
    agreements = {
        name: measure_agreement(visits, folds, coordinate, visits.columns[name])
        for name in asked.against
    }
    probes = [
        found
        for name in asked.probes
        for found in measure_probes(
            visits, folds, name, plan, work.parts / method, fine_tune=asked.fine_tune
        )
    ]
    order = measure_orders(visits, folds, plan.pairs.min_gap)
    error = measure_error(visits, folds)
    return MethodResult(method, order, error, agreements, slopes, probes), coordinate, lines


def _write(
    folder: Path,
    result: Longitudinal,
    visits: Visits,
    kept: Fold,
    tables: Mapping[str, pl.DataFrame],
) -> None:
    """Write all of a result but the model and the log of its training."""
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    traversal = traverse(kept.fitted, visits)
    if traversal is not None:
        np.save(folder / "traversal.npy", traversal.decoded)
    write_json(folder / MARKER, result.to_dict())
    if has_plots():
        page = build_longitudinal_html(result, tables, visits, traversal)
        (folder / "longitudinal.html").write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class _Work:
    """The trainings of a search, each in a folder of its own."""

    visits: Visits
    plans: Mapping[str, FitSettings]
    num_folds: int
    parts: Path
    is_resumed: bool

    def whole(self, method: str) -> Fold:
        """Return a model of all visits."""
        rows = np.arange(len(self.visits))
        return self._fold(method, WHOLE, rows, rows)

    def folds(self, method: str, advance: Advance) -> list[Fold]:
        """Return a model for each fold; without folds that of all visits."""
        if self.num_folds == 0:
            return [self.whole(method)]
        number = entity_folds(self.visits.num_entities, self.num_folds, seed=self._seed(method))
        found = []
        for fold in range(self.num_folds):
            train = self.visits.of_entities(number != fold)
            held = self.visits.of_entities(number == fold)
            found.append(self._fold(method, f"fold-{fold + 1}", train, held))
            advance()
        return found

    def _seed(self, method: str) -> int:
        return self.plans[method].training.seed

    def _fold(self, method: str, name: str, train: Integers, held: Integers) -> Fold:
        folder = self.parts / method / name
        fitted = fit(
            self.visits, train, self.plans[method], directory=folder, resume=self.is_resumed
        )
        codes = fitted.codes(self.visits.measured)
        return Fold(fitted, codes.double().numpy(), train, held)


def fingerprint(visits: Visits) -> str:
    """Return a hash of all that trainings read of visits."""
    digest = hashlib.sha256()
    measured = visits.measured
    arrays: list[NDArray[Any]] = [visits.entities, visits.times]
    if isinstance(measured, ItemBags):
        arrays += [measured.items, measured.offsets]
    else:
        assert isinstance(measured, Numbers)
        arrays.append(measured.values)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def describe_visits(visits: Visits, plan: FitSettings) -> dict[str, Any]:
    """Return counts and what was measured, as JSON."""
    measured = visits.measured
    what: dict[str, Any] = describe_measured(measured)
    if isinstance(measured, Numbers) and measured.features:
        what = {"features": list(measured.features)}
    return {
        "entities": visits.num_entities,
        "visits": len(visits),
        "pairs": len(Pairs(visits, min_gap=plan.pairs.min_gap)),
        "measured": what,
        "notes": visits.notes,
    }


def visit_tables(
    visits: Visits,
    kept: Fold,
    coordinate: Floats,
    lines: MixedModel,
    groups: Groups,
    *,
    is_held_out: bool,
) -> dict[str, pl.DataFrame]:
    """Return the tables of the result: a row for each visit, and one for each entity.

    Args:
        coordinate: [N], what the lines were fitted to; held out, or of the model of all visits.
    """
    shown = coordinates_frame(kept.fitted, torch.from_numpy(kept.codes).float())
    held = pl.Series("held_out_coordinate", coordinate if is_held_out else [None] * len(visits))
    frame = pl.DataFrame(
        {"entity": visits.names.gather(visits.entities), "time": visits.times}
    ).hstack([shown["time_coordinate"], held.cast(pl.Float64), *shown.get_columns()[1:]])
    firsts = np.searchsorted(visits.entities, np.arange(visits.num_entities))
    return {
        "coordinates": frame,
        "slopes": pl.DataFrame(
            {
                "entity": visits.names,
                "visits": np.bincount(visits.entities),
                "group": [groups.names[code] for code in groups.codes[firsts].tolist()],
                "intercept": lines.intercepts,
                "slope": lines.slopes,
            }
        ),
    }


def _check(visits: Visits, columns: Sequence[str], folds: int) -> None:
    """Refuse what would fail only behind the trainings."""
    check_columns(visits.columns, columns, "the table of visits")
    if folds < 0 or folds == 1:
        raise UsageError(f"folds must be 0, or 2 and more; got {folds}.")
