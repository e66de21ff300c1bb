"""An audit as one HTML file: how far targets get, whether one would notice, and what helps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import cycle, product
from typing import Any

from ensue.runs.audit_result import Audit, Effect, Found, Protection, describe_strongest
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
    strongest, k = found.strongest, found.facts["k"]
    title = f"Audit of {', '.join(found.facts['victims'])}"
    distance, detector = max(
        (abs(area - 0.5), name)
        for one, areas in _detectors(found)
        if (one.attack, one.targets, one.budget) == strongest.attack_on[1:]
        for name, area in areas.items()
    )
    tiles = [
        Tile(
            f"{strongest.after:.1%}", f"of users see a target in their first {k}", _named(strongest)
        ),
        Tile(
            f"{strongest.before:.1%}", "without fake users", f"+{100 * strongest.lift:.1f} points"
        ),
        Tile(f"{0.5 + distance:.2f}", "best AUROC of a detector of it, either way", detector),
    ]
    told = [one for one in found.protections() if one.kept is not None]
    if told:
        best = min(told, key=lambda one: one.kept or 0.0)
        cost = f"at {best.change:+.1%} of recall@{k}"
        name = f"of the lift is left by {best.defence}"
        tiles.append(Tile(_percent(best.kept), name, cost))
    counts = found.facts["dataset"]["counts"]
    facts = [
        found.facts["dataset"]["name"],
        f"{counts['users']:,} users",
        f"{counts['items']:,} items",
        f"seeds {', '.join(map(str, found.facts['seeds']))}",
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


def _maps(found: Audit) -> str:
    """Return the lift by attack and model, for each targets at the largest budget."""
    budget = max(found.facts["budgets"], key=found.facts["budgets"].get)
    full = max(0.1, *(abs(effect.lift) for effect in found.attacked))
    victims, attacks = list(found.facts["victims"]), list(found.facts["attacks"])
    drawings = []
    for targets in found.targets:
        lifts = {
            (effect.attack, effect.victim): effect.lift
            for effect in found.attacked
            if (effect.targets, effect.budget) == (targets, budget)
        }
        values = [[lifts.get((attack, victim)) for victim in victims] for attack in attacks]
        title = f"lift in points, {targets}, {budget}"
        drawings.append(draw_heat_map(title, attacks, victims, values, full=full))
    return plots(drawings)


def _explain(found: Audit) -> str:
    k = found.facts["k"]
    return notes(
        [
            describe_strongest(found),
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
    names = [f"ndcg@{k}", f"recall@{k}"]
    protections = found.protections()
    columns = [
        "defence", "model", "attack", "targets", "budget", f"hit rate@{k} after", "lift",
        "of the lift is left", *(f"change of {name}" for name in names),
        "without attack",
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
            _percent(effect.cost(names[1]), sign=True),
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
            "paid without an attack as well. What is left of the lift is over the attacks whose "
            "lift has an interval above 0.",
            _verdict(protections),
        ]
    )
    summary = [
        [
            one.defence,
            _percent(one.kept),
            *(_percent(value, sign=True) for value in (one.change, one.cost)),
            *(_percent(one.left_out.get(who)) for who in ("fake", "real")),
        ]
        for one in protections
    ]
    head = ["defence", "of the lift is left", *columns[-4:]]
    every = details("Every model and attack", table(columns, rows))
    return table(head, summary) + said + every


def _verdict(protections: Sequence[Protection]) -> str:
    """Return which defences halve the lift at little cost, or that none does."""
    if all(one.kept is None for one in protections):
        return "No attack has a lift whose interval lies above 0: there is nothing to cut."
    good = [one.defence for one in protections if one.is_good]
    if good:
        return f"Half of the lift or more, at 2% of recall or less: {', '.join(good)}."
    return "None of them cuts the lift by half at 2% of recall or less."


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
