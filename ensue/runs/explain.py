"""Which part of distillation helps: students of partial methods beside the one of the full one.

```
DIR/METHOD-SEED/     the run of each student; finished ones are kept when the work is resumed
DIR/explain.json     the table and the attribution
DIR/explain.html     a page about them
```
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensue.data.dataset import Dataset
from ensue.errors import UsageError, did_you_mean
from ensue.evaluation.attribution import Attribution, attribute, standard_error
from ensue.files import atomic_file, write_json
from ensue.progress import note
from ensue.runs.distill import METHODS, distill, identity
from ensue.runs.explain_page import build_explanation_html
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots
from ensue.runs.run import Run, load

PARTIAL_METHODS = (
    "hard",
    "ls",
    "kd-perm",
    "kd-pt",
    "kd-sim",
    "kd-classavg",
    "kd-pt+sim",
    "kd-topk",
    "kd",
)


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    table: a row for each method: the metric's mean over seeds and its standard error, and the
    diagnostics of the first seed.
    """

    metric: str
    teacher: dict[str, Any]
    seeds: list[int]
    table: list[dict[str, Any]]
    attribution: Attribution | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)


def explain(
    teacher: Run | str | Path,
    data: Dataset | str | Path | None = None,
    *,
    out: str | Path,
    methods: Sequence[str] = PARTIAL_METHODS,
    seeds: Sequence[int] = (0,),
    metric: str = "ndcg@10",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Explanation:
    """Train a student by each method and seed, and say which part of distillation did the work.

    Args:
        methods: of knowledge distillation; "hard" is the softmax over the catalogue without a
            teacher, against which gains are measured.
        metric: of the test part, which nothing is chosen by.
        resume: keep the students that are finished, and go on with the others.
        settings: of `distill`, the same for all students (model, fit, cache, dim, ...).

    Raises:
        UsageError: as `distill`; or there is no such metric.
    """
    teacher = teacher if isinstance(teacher, Run) else load(teacher)
    known = ("hard", *METHODS)
    for name in methods:
        if name not in known or name == "rd":
            raise UsageError(f"explain has no method {name!r}.{did_you_mean(name, known)}")
    if not methods or not seeds:
        raise UsageError("explain needs a method and a seed; got none.")
    dataset = teacher.open_dataset(data)
    of_teacher = _value(teacher, dataset, metric)  # a wrong metric is told before the work
    out = Path(out)
    work = {
        "methods": list(methods),
        "seeds": list(seeds),
        "metric": metric,
        "teacher": identity(teacher),
        "settings": {name: _plain(value) for name, value in settings.items()},
    }
    open_output(out, "settings.json", work, work="explanation", resume=resume, overwrite=overwrite)
    runs = {
        (method, seed): _student(teacher, dataset, out, method, seed, settings)
        for seed in seeds
        for method in methods
    }
    values = {
        method: [_value(runs[method, seed], dataset, metric) for seed in seeds]
        for method in methods
    }
    table = [
        {
            "method": method,
            "value": statistics.fmean(values[method]),
            "standard_error": standard_error(values[method]),
            **runs[method, seeds[0]].info.get("diagnostics", {}),
        }
        for method in methods
    ]
    found = Explanation(
        metric=metric,
        teacher={"name": teacher.path.name, "value": of_teacher},
        seeds=list(seeds),
        table=table,
        attribution=attribute(values),
    )
    _write(out, found)
    return found


def _student(
    teacher: Run, dataset: Dataset, out: Path, method: str, seed: int, settings: dict[str, Any]
) -> Run:
    """Return the run of one student; one that is finished is not trained again."""
    path = out / f"{method}-{seed}"
    if (path / "run.json").is_file():
        return load(path)
    chosen: dict[str, Any] = {"method": method}
    if method == "hard":
        chosen = {"method": "ls", "smoothing": 0.0}
    note(f"{method}, seed {seed}")
    is_begun = path.exists()
    return distill(
        teacher, dataset, out=path, resume=is_begun, **{**settings, **chosen, "seed": seed}
    )


def _write(out: Path, found: Explanation) -> None:
    """Write the page, and the table last."""
    if has_plots():
        with atomic_file(out / "explain.html") as temporary:
            temporary.write_text(build_explanation_html(found.to_dict()), encoding="utf-8")
    else:
        note("No explain.html: its plots need matplotlib; run pip install 'ensue[report]'.")
    write_json(out / "explain.json", found.to_dict())


def _plain(value: Any) -> Any:
    """Return a setting as JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _value(run: Run, dataset: Dataset, metric: str) -> float:
    found = run.evaluate(dataset, num_resamples=0).metrics
    if metric not in found:
        raise UsageError(f"metric must be one of {sorted(found)}; got {metric!r}.")
    return found[metric]
