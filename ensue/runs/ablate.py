"""What each part of a model is worth: variants with one thing changed, trained and compared.

```
DIR/ablation_plan.json    what is trained: model, dataset hash, variants, seeds
DIR/runs/NN-NAME/seed-S/  the runs, with their evaluations
DIR/ablation.json         the table
DIR/ablation.html         a page about it
```

A variant is trained once for each seed. Its values are means over seeds; differences to the full
model are tested over users, on the values of each user averaged over seeds, and the deviation over
seeds says how far a training moves a mean by itself.

Shapes: U users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl

from ensue.data.dataset import Dataset
from ensue.errors import UsageError, did_you_mean
from ensue.evaluation.evaluator import Split
from ensue.evaluation.intervals import Bootstrap
from ensue.evaluation.metrics import FORMULAS
from ensue.evaluation.result import Evaluation
from ensue.evaluation.significance import Comparison, compare
from ensue.evaluation.slices import slice_users
from ensue.files import atomic_file, write_json
from ensue.models.space import Changes
from ensue.models.table import get_method, get_preset
from ensue.progress import note, track
from ensue.runs.ablation_page import build_ablation_html
from ensue.runs.ablation_variants import FULL, Variant, make_variants
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots
from ensue.runs.run import Run, load
from ensue.runs.train import train_with
from ensue.training.config import override

FORMAT = 1
DEFAULT_SEEDS = 3
DEFAULT_METRICS = ("ndcg@10", "recall@10", "pap@10")
DEFAULT_KS = (1, 5, 10, 20)


@dataclass(frozen=True)
class VariantResult:
    """What a variant came to.

    changes: what is set otherwise than in the full model.
    values: metric -> one of each seed; means, deviations: over them, None for one seed.
    differences: metric -> mean, relative, interval, p, p_corrected of the variant less the full
        model, and lower_seeds, how many seeds are below the full model's; empty for that.
    user_slices: as `Evaluation.user_slices`, of means over seeds.
    """

    name: str
    changes: dict[str, Any]
    num_parameters: int
    seconds: float
    values: dict[str, list[float]]
    means: dict[str, float]
    deviations: dict[str, float | None]
    differences: dict[str, dict[str, Any]]
    user_slices: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ablation:
    """The table of an ablation, the full model first.

    info: what ablation.json holds.
    """

    path: Path
    variants: tuple[VariantResult, ...]
    info: dict[str, Any]


def ablate(
    model: str | Path | Run,
    data: Dataset | str | Path,
    *,
    out: str | Path,
    without: Sequence[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    split: Split = "test",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Ablation:
    """Return what a model loses, or gains, by each change.

    Args:
        model: a name of `ensue.models.table.METHODS`, or a run, whose settings are the full model.
        out: a new folder; an ablation in it is continued with resume=True.
        without: settings to switch off, "dynamic"; values to leave out of a list, "graphs.tags",
            or each of them in turn, "graphs.*"; several at once, "graphs+interactions".
        vary: setting -> values. Where neither is given, what the model declares is changed.
        seeds: how many trainings of each variant, with the seeds 0, 1, ...; None is 3, and one for
            a model that is computed in one go.
        metrics: of the evaluation; the first one is drawn.
        preset, settings: of the full model, by name, as of `train`; not with a run.

    Raises:
        UsageError, ConfigError: an argument or a setting has no meaning.
        RunError: a training failed.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    name, full = _full_model(model, preset, settings or {})
    num_seeds = _check_seeds(name, seeds)
    changes = Changes(without, vary or {})
    if not (without or vary):
        changes = get_method(name).changes
    variants = make_variants(name, full, changes, dataset)
    ks = _cut_offs(metrics)
    if split not in ("validation", "test") or not dataset.info.counts[split]:
        raise UsageError(
            f"an ablation is evaluated on held-out rows; {dataset.path} has none for {split!r}. "
            "Choose validation or test, or prepare the data with a split that has some."
        )
    out = Path(out)
    plan = {
        "format": FORMAT,
        "model": name,
        "dataset": dataset.info.hash,
        "split": split,
        "ks": ks,
        "seeds": list(range(num_seeds)),
        "graphs": {graph: info.hash for graph, info in dataset.info.graphs.items()},
        "variants": [asdict(variant) for variant in variants],
    }
    plan = json.loads(json.dumps(plan))  # as JSON gives it back: tuples are lists
    open_output(
        out, "ablation_plan.json", plan, work="ablation", resume=resume, overwrite=overwrite
    )
    found = []
    with track("ablate", len(variants) * num_seeds, unit="trainings") as advance:
        for number, variant in enumerate(variants):
            slug = re.sub(r"[^\w.=+-]+", "_", variant.name)
            runs = []
            for seed in range(num_seeds):
                folder = out / "runs" / f"{number:02d}-{slug}" / f"seed-{seed}"
                runs.append(_measure(name, dataset, variant, seed, folder, split, ks))
                advance(1)
            found.append(_Measured.of(variant, runs))
    return _finish(out, name, dataset, found, metrics, full)


def _full_model(
    model: str | Path | Run, preset: str | None, settings: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the name of the model and all of its settings but the seed."""
    if not isinstance(model, Run) and not (Path(model) / "run.json").is_file():
        name = str(model)
        chosen = override(get_preset(name, preset), settings)
    else:
        run = model if isinstance(model, Run) else load(model)
        if preset is not None or settings:
            raise UsageError(
                "the settings of a run are those it was trained with; leave --preset and --set "
                "out, or name the model in place of the run."
            )
        if "distillation" in run.info:
            raise UsageError(f"{run.path} was distilled; its settings alone do not make it again.")
        name = run.info["model"]
        chosen = {**run.info["config"], **(run.info["training"] or {})}
        if chosen.get("papk", {}) is None:  # so that loss=papk is one of the variants
            del chosen["papk"]
        chosen.pop("seed", None)
    if "seed" in chosen:
        raise UsageError("an ablation trains with the seeds 0, 1, ...; leave seed out.")
    return name, chosen


def _check_seeds(model: str, seeds: int | None) -> int:
    is_fitted = get_method(model).is_fitted
    if seeds is None:
        return 1 if is_fitted else DEFAULT_SEEDS
    if seeds < 1:
        raise UsageError(f"seeds must be 1 or more; got {seeds}.")
    if is_fitted and seeds > 1:
        raise UsageError(f"{model} is computed in one go, the same each time; leave seeds out.")
    return seeds


def _cut_offs(metrics: Sequence[str]) -> list[int]:
    """Return the cut-offs that the metrics need, beside the usual ones.

    Raises:
        UsageError: there is no metric, or one that does not exist.
    """
    if not metrics:
        raise UsageError("an ablation needs at least one metric; got none.")
    cuts = set(DEFAULT_KS)
    for metric in metrics:
        name, at, cut = metric.partition("@")
        if (f"{name}@k" if at else name) not in FORMULAS or (
            at and not re.fullmatch(r"[1-9]\d*", cut)
        ):
            raise UsageError(f"there is no metric {metric!r}.{did_you_mean(metric, FORMULAS)}")
        cuts |= {int(cut)} if at else set()
    return sorted(cuts)


def _measure(
    model: str,
    dataset: Dataset,
    variant: Variant,
    seed: int,
    folder: Path,
    split: Split,
    ks: Sequence[int],
) -> tuple[dict[str, Any], Evaluation]:
    """Return run.json of a variant and its evaluation: those that are there, or new ones."""
    if not (folder / "run.json").is_file():
        seeded = {} if get_method(model).is_fitted else {"seed": seed}
        train_with(
            model,
            dataset,
            {**variant.settings, **seeded},
            out=folder,
            fit="train",
            resume=(folder / "settings.json").is_file(),
            overwrite=False,
        )
    run = load(folder)
    if (folder / "evaluation" / f"{split}.json").is_file():
        return run.info, Evaluation.load(folder / "evaluation", split)
    return run.info, run.evaluate(dataset, split=split, ks=ks, num_resamples=0)


@dataclass(frozen=True)
class _Measured:
    """The trainings of a variant: run.json, metrics of each seed, and means over seeds by user."""

    variant: Variant
    infos: list[dict[str, Any]]
    metrics: list[dict[str, float]]
    evaluation: Evaluation

    @classmethod
    def of(cls, variant: Variant, runs: Sequence[tuple[dict[str, Any], Evaluation]]) -> _Measured:
        """Return them without the values of each user and seed, which are large."""
        infos, evaluations = [info for info, _ in runs], [evaluation for _, evaluation in runs]
        metrics = [evaluation.metrics for evaluation in evaluations]
        return cls(variant, infos, metrics, _mean_over_seeds(evaluations))

    def values(self, metrics: Sequence[str]) -> dict[str, list[float]]:
        """Return metric -> the value of each seed."""
        return {metric: [own[metric] for own in self.metrics] for metric in metrics}


def _finish(
    out: Path,
    model: str,
    dataset: Dataset,
    found: Sequence[_Measured],
    metrics: Sequence[str],
    settings: Mapping[str, Any],
) -> Ablation:
    """Write the table and the page, and return the table."""
    comparison = compare(
        [one.evaluation for one in found],
        [one.variant.name for one in found],
        metrics=metrics,
        against=FULL,
    )
    of_full = found[0].values(metrics)
    results = [_result(one, comparison, of_full) for one in found]
    info = {
        "format": FORMAT,
        "model": model,
        "dataset": {"name": dataset.info.name, "hash": dataset.info.hash},
        "split": comparison.protocol["split"],
        "metrics": list(metrics),
        "seeds": list(range(len(found[0].infos))),
        "settings": dict(settings),
        "protocol": comparison.protocol,
        "notes": list(dataset.info.notes),
        "variants": [asdict(result) for result in results],
    }
    info = json.loads(json.dumps(info, allow_nan=False))
    write_json(out / "ablation.json", info)
    if has_plots():
        with atomic_file(out / "ablation.html") as temporary:
            temporary.write_text(build_ablation_html(info), encoding="utf-8")
    else:
        note("No ablation.html: its plots need matplotlib; run pip install 'ensue[report]'.")
    return Ablation(out, tuple(results), info)


def _result(
    one: _Measured, comparison: Comparison, of_full: Mapping[str, Sequence[float]]
) -> VariantResult:
    values = one.values(list(of_full))
    return VariantResult(
        name=one.variant.name,
        changes=one.variant.changes,
        num_parameters=one.infos[0]["num_parameters"],
        seconds=mean(info["seconds"] for info in one.infos),
        values=values,
        means={metric: mean(own) for metric, own in values.items()},
        deviations={m: stdev(own) if len(own) > 1 else None for m, own in values.items()},
        differences=_differences(comparison, one.variant.name, values, of_full),
        user_slices=one.evaluation.user_slices,
    )


def _mean_over_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return an evaluation whose values of each user are means over those of several seeds."""
    first = evaluations[0]
    names = list(first.metrics)
    tables = [evaluation.users.select(names).to_numpy() for evaluation in evaluations]
    averaged = np.mean(tables, axis=0)
    metrics = {name: averaged[:, column] for column, name in enumerate(names)}
    sizes = first.users["num_targets"].to_numpy()
    none = Bootstrap(0, 0.95, np.random.default_rng(0))
    return Evaluation(
        metrics={name: float(values.mean()) for name, values in metrics.items()},
        intervals={},
        slices={},
        coverage={},
        protocol=first.protocol,
        users=pl.DataFrame({"user": first.users["user"], "num_targets": sizes, **metrics}),
        user_slices=slice_users(metrics, sizes, ks=first.protocol["ks"], bootstrap=none),
    )


def _differences(
    comparison: Comparison,
    name: str,
    values: Mapping[str, Sequence[float]],
    of_full: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, Any]]:
    """Return what is known of a variant less the full model, by metric."""
    differences = {}
    for test in comparison.tests:
        if test["a"] == name:
            metric = test["metric"]
            below = [a < b for a, b in zip(values[metric], of_full[metric], strict=True)]
            differences[metric] = {
                "mean": test["difference"],
                "relative": test["difference"] / test["mean_b"] if test["mean_b"] else None,
                "interval": test["interval"],
                "p": test["p"],
                "p_corrected": test["p_corrected"],
                "lower_seeds": sum(below),
            }
    return differences
