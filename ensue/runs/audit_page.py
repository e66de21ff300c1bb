"""An audit as one HTML file: how far targets get, whether one would notice, and what helps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import cycle, product
from typing import Any

from ensue.runs.audit_result import Audit, Effect, Found, describe_worst
from ensue.runs.heat_map import draw_heat_map
from ensue.runs.page import (
    Mean,
    Tile,
    build_page,
    details,
    header,
    notes,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import Line, draw_bars, draw_lines

# How the lines of a plot differ: in style, then in color.
LOOKS: tuple[tuple[Any, int | None], ...] = tuple(product(("o-", "--", "-"), (0, 1, None)))


def build_audit_html(found: Audit) -> str:
    """Return the page as HTML text.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    worst, k = found.worst, found.facts["k"]
    title = f"Audit of {', '.join(found.facts['victims'])}"
    best = min((e for e in found.effects if e.kept_lift is not None), key=_kept, default=None)
    distance, detector = max(
        (abs(area - 0.5), name) for _, areas in _detectors(found) for name, area in areas.items()
    )
    tiles = [
        Tile(f"{worst.after:.1%}", f"of users see a target in their first {k}", _named(worst)),
        Tile(f"{worst.before:.1%}", "without fake users", f"+{100 * worst.lift:.1f} points"),
        Tile(f"{0.5 + distance:.2f}", "best AUROC of a detector, either way", detector),
    ]
    if best is not None and best.kept_lift is not None:
        name = f"of the lift is left by the best defence, {best.defence}"
        tiles.append(Tile(f"{best.kept_lift:.0%}", name, _named(best)))
    counts = found.facts["dataset"]["counts"]
    facts = [
        found.facts["dataset"]["name"],
        f"{counts['users']:,} users",
        f"{counts['items']:,} items",
        f"{len(found.facts['seeds'])} seeds",
    ]
    parts = [
        header(title, facts, tiles),
        section("How far the targets get", _maps(found) + _explain(found)),
        section("Every attack on every model", _effects(found.attacked, found)),
    ]
    if len(found.facts["budgets"]) > 1:
        parts.append(section("Budgets", plots(_budget_curves(found))))
    if len(found.targets) > 1:
        parts.append(section("Popular and unpopular targets", plots(_bands(found))))
    parts.append(section("Would one notice", _detection(found)))
    if found.facts["defences"]:
        parts.append(section("Defences", _defences(found)))
    if curves := _iterations(found):
        parts.append(section("How the attacks learned", plots(curves)))
    parts += [
        section("Targets", _targets(found)),
        section("What was asked", settings_table(found.facts)),
    ]
    return build_page(title, parts)


def _named(effect: Effect) -> str:
    return f"{effect.attack} on {effect.victim}, {effect.targets}, {effect.budget}"


def _kept(effect: Effect) -> float:
    return 1.0 if effect.kept_lift is None else effect.kept_lift


def _maps(found: Audit) -> str:
    """Return the lift by attack and model, for each targets at the largest budget."""
    budget = max(found.facts["budgets"], key=found.facts["budgets"].get)
    victims, attacks = list(found.facts["victims"]), list(found.facts["attacks"])
    drawings = []
    for targets in found.targets:
        lifts = {
            (effect.attack, effect.victim): effect.lift
            for effect in found.attacked
            if (effect.targets, effect.budget) == (targets, budget)
        }
        values = [[lifts.get((attack, victim)) for victim in victims] for attack in attacks]
        title = f"points of hit rate won, targets {targets}, budget {budget}"
        drawings.append(draw_heat_map(title, attacks, victims, values))
    return plots(drawings)


def _explain(found: Audit) -> str:
    k = found.facts["k"]
    return notes(
        [
            describe_worst(found),
            f"Hit rate: the share of all real users who have at least one target among the first "
            f"{k} items that they have not seen. Rows are attacks, columns the models that were "
            "trained again with the fake users.",
            "An attack knows the training clicks and none of the models; a learned one is "
            "optimized against a model of its own.",
        ]
    )


def _effects(effects: Iterable[Effect], found: Audit) -> str:
    k = found.facts["k"]
    columns = [
        "model", "attack", "targets", "budget", f"hit rate@{k} before", "after", "lift",
        "lift by seed", "mean rank before", "after", f"recall@{k} before", "after",
    ]  # fmt: skip
    rows = [
        [
            effect.victim,
            effect.attack,
            effect.targets,
            effect.budget,
            Mean(effect.before),
            Mean(effect.after),
            Mean(effect.lift, effect.interval),
            f"{effect.of_seeds[0]:.4f} to {effect.of_seeds[1]:.4f}",
            *(_rank(rank) for rank in (effect.rank_before, effect.rank_after)),
            *(Mean(value) for value in effect.accuracy[f"recall@{k}"]),
        ]
        for effect in effects
    ]
    said = notes(
        [
            "Intervals are over users, of means over seeds: they say how sure a lift is for these "
            "attacks. Targets, attack and training differ by seed: how much, the range says.",
            "Accuracy is on the test part, of real users: an attack that costs none is not seen "
            "in it.",
        ]
    )
    return table(columns, rows) + said


def _rank(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _budget_curves(found: Audit) -> list[str]:
    """Return the hit rate against the number of fake users, for each model and targets."""
    drawings = []
    for victim in found.facts["victims"]:
        for targets in found.targets:
            lines = []
            for attack, look in zip(found.facts["attacks"], cycle(LOOKS), strict=False):
                own = [
                    effect
                    for effect in found.attacked
                    if (effect.victim, effect.targets, effect.attack) == (victim, targets, attack)
                ]
                own.sort(key=lambda effect: effect.num_fakes)
                x = [0.0, *(float(effect.num_fakes) for effect in own)]
                y = [own[0].before, *(effect.after for effect in own)] if own else [None]
                lines.append(Line(attack, x, y, series=look[1], style=look[0]))
            title = f"hit rate, {victim}, targets {targets}"
            drawings.append(draw_lines(title, lines, x_label="fake users"))
    return drawings


def _bands(found: Audit) -> list[str]:
    """Return the hit rate before and after by targets, of each model's strongest attack."""
    drawings = []
    for victim in found.facts["victims"]:
        strongest = [
            max(
                (e for e in found.attacked if (e.victim, e.targets) == (victim, targets)),
                key=lambda effect: effect.after,
            )
            for targets in found.targets
        ]
        groups = {
            "before": [effect.before for effect in strongest],
            "after the strongest attack": [effect.after for effect in strongest],
        }
        title = f"hit rate by targets, {victim}"
        drawings.append(draw_bars(title, list(found.targets), groups, x_label="targets"))
    return drawings


def _detectors(found: Audit) -> list[tuple[Found, dict[str, float]]]:
    """Return for each attack, targets and budget the first seed's, and mean AUROC over seeds."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for one in found.found:
        groups.setdefault((one.attack, one.targets, one.budget), []).append(one)
    return [
        (
            own[0],
            {
                name: statistics.fmean(one.detectors[name] for one in own)
                for name in own[0].detectors
            },
        )
        for own in groups.values()
    ]


def _detection(found: Audit) -> str:
    groups = _detectors(found)
    names = list(groups[0][1])
    areas = [
        [one.attack, one.targets, one.budget, *(Mean(values[name]) for name in names)]
        for one, values in groups
    ]
    shapes = []
    for one, _ in groups:
        spans = [_span(of[who]) for of in one.quantiles.values() for who in ("real", "fake")]
        shapes.append([one.attack, one.targets, one.budget, *spans])
    said = notes(
        [
            "AUROC of fake against real users, mean over seeds: 0.5 is chance. Near 1 fake users "
            "have the largest numbers, near 0 the smallest: either can be told apart by who knows "
            "which to look for.",
            "No detector knows the targets or the attack. Clicks and popularity below are those of "
            "the first seed: median, and 10 and 90 percent of the users.",
        ]
    )
    head = ["attack", "targets", "budget"]
    of_users = ["clicks, real", "clicks, fake", "log popularity, real", "log popularity, fake"]
    return table([*head, *names], areas) + table([*head, *of_users], shapes) + said


def _span(quantiles: Sequence[float]) -> str:
    low, middle, high = quantiles
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def _defences(found: Audit) -> str:
    k = found.facts["k"]
    names = [f"recall@{k}", f"ndcg@{k}"]
    columns = [
        "defence", "model", "attack", "targets", "budget", f"hit rate@{k} after", "lift",
        "of the lift is left", *(f"change of {name}" for name in names),
        f"change of {names[0]} without attack",
        "fake clicks left out", "real clicks left out",
    ]  # fmt: skip
    rows = [
        [
            effect.defence,
            effect.victim,
            effect.attack,
            effect.targets,
            effect.budget,
            Mean(effect.after),
            Mean(effect.lift, effect.interval),
            _percent(effect.kept_lift),
            *(_percent(effect.change(name), sign=True) for name in names),
            _percent(effect.cost(names[0]), sign=True),
            *(_percent((effect.left_out or {}).get(who)) for who in ("fake", "real")),
        ]
        for effect in found.effects
        if effect.defence is not None
    ]
    said = notes(
        [
            "The model is trained on what the defence leaves of the poisoned data. The lift is "
            "against a model with the same defence and without fake users, since a defence moves "
            "items by itself. Accuracy is against the model without both: what a defence costs is "
            "paid without an attack as well.",
            _verdict(found, names[0]),
        ]
    )
    return table(columns, rows) + said


def _verdict(found: Audit, metric: str) -> str:
    """Return which defence halves the lift at little cost, or that none does."""
    means = {}
    for defence in found.facts["defences"]:
        own = [e for e in found.effects if e.defence == defence]
        plain = {(e.victim, e.attack, e.targets, e.budget): e.lift for e in found.attacked}
        before = statistics.fmean(plain[e.victim, e.attack, e.targets, e.budget] for e in own)
        after = statistics.fmean(effect.lift for effect in own)
        change = statistics.fmean(effect.change(metric) or 0.0 for effect in own)
        means[defence] = (after / before if before > 0 else None, change)
    told = ", ".join(
        f"{name}: {'no lift to cut' if kept is None else f'{kept:.0%} of the mean lift is left'} "
        f"at {change:+.1%} of {metric}"
        for name, (kept, change) in means.items()
    )
    good = [
        name
        for name, (kept, change) in means.items()
        if kept is not None and kept <= 0.5 and change >= -0.02
    ]
    verdict = (
        f"{' and '.join(good)} cut the mean lift by half or more at a cost of 2% or less."
        if good
        else "None of them cuts the mean lift by half at a cost of 2% or less."
    )
    return f"Over all attacks and models: {told}. {verdict}"


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.1%}" if sign else f"{value:.1%}"


def _iterations(found: Audit) -> list[str]:
    """Return the surrogate's hit rate and loss by iteration, of the first seed."""
    first = [one for one in found.found if one.steps and one.seed == found.facts["seeds"][0]]
    drawings = []
    for name, title in (("hit_rate", "hit rate in the surrogate"), ("loss", "adversarial loss")):
        lines = [
            Line(
                f"{one.attack}, {one.targets}, {one.budget}",
                [step["iteration"] for step in one.steps],
                [step[name] for step in one.steps],
                series=series,
                style=style,
            )
            for one, (style, series) in zip(first, cycle(LOOKS), strict=False)
        ]
        if lines:
            drawings.append(draw_lines(title, lines, x_label="iteration"))
    return drawings


def _targets(found: Audit) -> str:
    parts = []
    for name, of_seeds in found.targets.items():
        rows = [
            [seed, one["item"], one.get("title"), one["clicks"]]
            for seed, own in zip(found.facts["seeds"], of_seeds, strict=True)
            for one in own
        ]
        parts.append(details(name, table(["seed", "item", "title", "training clicks"], rows)))
    return "".join(parts)
