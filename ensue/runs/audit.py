"""How far fake users push items in a model, whether one would notice, and what helps.

After Tang, Wen and Wang, "Revisiting adversarially learned injection attacks against recommender
systems", RecSys 2020, arXiv:2008.04876. An attack makes fake users from the training clicks; each
model is trained again, from scratch and as it was, on the data with them, and the targets' place
for real users is compared with that in the model without. Nothing is changed where it is.

```
DIR/plan.json                                   what is asked
DIR/attacks/ATTACK/TARGETS/FAKES/SEED/          fakes.npz and, last, attack.json
DIR/clean/MODEL/SEED/DEFENCE/                   hits.npy and, last, outcome.json
DIR/poisoned/MODEL/ATTACK/TARGETS/FAKES/SEED/DEFENCE/    the same
DIR/audit.json                                  what all of it comes to
DIR/audit.html                                  a page about it
```
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ensue.audit.base import Attack, AttackStep
from ensue.audit.defences import parse_defence
from ensue.audit.poison import Order
from ensue.audit.table import make_attacks
from ensue.data.dataset import Dataset
from ensue.errors import UsageError
from ensue.files import atomic_file, write_json
from ensue.progress import Advance, track
from ensue.runs.audit_page import build_audit_html
from ensue.runs.audit_plan import Plan, open_victims, parse_budget, parse_targets
from ensue.runs.audit_result import Audit, Found, Outcome, key_of, summarize
from ensue.runs.audit_units import Poisoned, TrainingData, measure
from ensue.runs.output import open_output
from ensue.runs.plots import has_plots
from ensue.runs.run import Run


def audit(
    runs: Sequence[Run | str | Path],
    data: Dataset | str | Path | None = None,
    *,
    out: str | Path,
    targets: Sequence[str | Sequence[str | int]] = ("tail",),
    budgets: Sequence[str | int] = ("1%",),
    attacks: Sequence[str | Attack] = ("wrmf-sgd",),
    defences: Sequence[str] = (),
    k: int = 50,
    num_targets: int = 5,
    seeds: Sequence[int] = (0, 1, 2),
    order: Order = "spread",
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Audit:
    """Attack runs of `ensue.train`, and return how far the targets get.

    A seed chooses the targets of a band, starts the attack, dates the fake users, and is added to
    the seed of the training. With 0 the model trains as the run did, which is then itself the model
    without fake users.

    Args:
        runs: trained on the same parts of the same dataset.
        data: the dataset; None is where the first run's was at training time.
        out: a new folder; with resume=True nothing is repeated that is in it.
        targets: each a band of `ensue.audit.bands.BANDS`, or raw ids, in a list or joined by
            commas.
        budgets: percentages of the users ("1%"), or numbers of fake users.
        attacks: names of `ensue.audit.table.ATTACKS`, or attacks of one's own.
        defences: as `ensue.audit.defences.parse_defence` reads them.
        k: a target among the first k unseen items is a hit.
        num_targets: of a band.
        order: of the clicks of a fake user; see `ensue.audit.poison`.
        settings: of the attacks, as NAME or as ATTACK.NAME.

    Raises:
        UsageError, ConfigError, DataError: an argument has no meaning, a run cannot be trained
            again, or the dataset has no test part.
        KeyboardInterrupt: Ctrl-C; continue with resume=True.
    """
    victims, dataset, part = open_victims(runs, data)
    settings = dict(settings or {})
    if not 1 <= k < dataset.num_items:
        raise UsageError(f"k must be 1 or more and below the {dataset.num_items:,} items; got {k}.")
    if order not in get_args(Order):
        raise UsageError(f"order must be one of {', '.join(get_args(Order))}; got {order!r}.")
    plan = Plan(
        dataset=dataset,
        part=part,
        victims=victims,
        attacks=make_attacks(attacks, settings, k=k),
        attack_settings=settings,
        targets=parse_targets(targets),
        num_targets=num_targets,
        budgets=tuple(parse_budget(one, dataset.num_users) for one in budgets),
        defences=tuple(parse_defence(one) for one in defences),
        seeds=tuple(seeds),
        order=order,
        k=k,
    )
    plan.check()
    out = Path(out)
    identity = plan.identity()
    open_output(out, "plan.json", identity, work="audit", resume=resume, overwrite=overwrite)
    found = _run(plan, out)
    write_json(out / "audit.json", found.to_dict())
    if has_plots():
        with atomic_file(out / "audit.html") as temporary:
            temporary.write_text(build_audit_html(found), encoding="utf-8")
    shutil.rmtree(out / "work", ignore_errors=True)
    return found


def _run(plan: Plan, out: Path) -> Audit:
    """Return the audit, of pieces that are done now or were before."""
    found: list[Found] = []
    measured: list[tuple[Outcome, NDArray[np.bool_]]] = []
    with track("audit", plan.num_units, unit="trainings") as advance:
        for seed in plan.seeds:
            clean = TrainingData(plan, seed, out)
            for defence in (None, *plan.defences):
                for victim in plan.victims:
                    measured += measure(plan, victim, clean, defence, out)
                    advance(1, model=victim.name)
            clean.close()
        for case in plan.cases():
            poisoned = Poisoned(plan, case, out)
            found.append(poisoned.attack(_watch(advance, case.attack)))
            advance(1, attack=case.attack)
            for defence in (None, *plan.defences):
                for victim in plan.victims:
                    measured += measure(plan, victim, poisoned, defence, out)
                    advance(1, model=victim.name)
            poisoned.close()
    outcomes = [outcome for outcome, _ in measured]
    hits = {key_of(outcome): hit for outcome, hit in measured}
    budgets = {one.name: one.num_fakes for one in plan.budgets}
    effects = summarize(outcomes, hits, budgets, plan.seeds)
    return Audit(out, plan.identity(), plan.describe_targets(), found, outcomes, effects)


def _watch(advance: Advance, attack: str) -> Any:
    def show(step: AttackStep) -> None:
        advance(0, attack=attack, iteration=step.iteration, hit_rate=step.hit_rate)

    return show
