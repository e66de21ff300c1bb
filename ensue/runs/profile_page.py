"""A profile as one HTML file; see `ensue.runs.page`."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensue.files import atomic_file
from ensue.runs.page import (
    Mean,
    Tile,
    beside,
    build_page,
    details,
    header,
    notes,
    plots,
    section,
    settings_table,
    table,
)
from ensue.runs.plots import Band, Line, draw_bars, draw_histogram, draw_lines
from ensue.runs.profile import Profile, describe_dependence


def write_profile(profile: Profile, out: str | Path | None = None) -> Path:
    """Write the page, by default as DATASET/profile.html, and return its path.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    path = Path(profile.dataset["path"]) / "profile.html" if out is None else Path(out)
    html = build_profile_page(profile)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def build_profile_page(profile: Profile) -> str:
    """Return the page as HTML text.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    title = f"Profile of {profile.dataset['name']}"
    return build_page(
        title,
        [
            _header(title, profile),
            _lengths(profile),
            _popularity(profile),
            _order(profile),
            _intensity(profile),
            _dependence(profile),
            _settings(profile),
        ],
    )


def _header(title: str, profile: Profile) -> str:
    counts, time = profile.counts, profile.time
    facts = [f"{counts[name]:,} {name}" for name in ("users", "items", "interactions")]
    if time:
        facts.append(f"{time['first'][:10]} to {time['last'][:10]}")
    median = profile.lengths["quantiles"].get("50")
    tiles = [
        Tile(f"{counts['sparsity']:.2%}", "of the user-item pairs empty"),
        Tile(f"{median:g}", "items in the median history"),
        Tile(f"{profile.repeats['share']:.2%}", "of the interactions repeat an item"),
        Tile(
            f"{profile.intensity.value:.4f}",
            "sequential intensity",
            f"{profile.shuffled_intensity.value:.4f} in random order",
        ),
    ]
    return header(title, facts, tiles)


def _lengths(profile: Profile) -> str:
    found = profile.lengths
    bars = draw_histogram(
        "users by history length",
        found["histogram"]["edges"],
        found["histogram"]["users"],
        x_label="interactions of a user",
    )
    rows = [[f"{percent}%", value] for percent, value in found["quantiles"].items()]
    rows.append(["mean", Mean(found["mean"])])
    return section("Histories", beside(bars, table(["users", "history length up to"], rows)))


def _popularity(profile: Profile) -> str:
    found = profile.popularity
    line = Line("", found["curve"]["rank"], found["curve"]["interactions"])
    drawing = draw_lines(
        "interactions of each item, most popular first",
        [line],
        x_label="rank of the item",
        log="xy",
    )
    rows = [
        [f"top {percent}% of the items", Mean(share)] for percent, share in found["top"].items()
    ]
    rows.append(["Gini coefficient", Mean(found["gini"])])
    explanation = (
        "<p>A straight line is a power law. The Gini coefficient is 0 where all items are equally "
        "popular and near 1 where one has everything.</p>"
    )
    return section(
        "Popularity",
        explanation + beside(drawing, table(["", "share of the interactions"], rows)),
    )


def _order(profile: Profile) -> str:
    repeats, time = profile.repeats, profile.time
    rows: list[list[object]] = [
        ["with an item the user had before", Mean(repeats["share"])],
        ["with the item of the interaction just before", Mean(repeats["immediate"])],
    ]
    sentences = [
        "The log has no times: only the order of its rows is known."
        if time is None
        else f"From {time['first']} to {time['last']} UTC: {time['days']:,.1f} days."
    ]
    if time:
        rows.append(["at the time of the interaction just before", Mean(time["tied"])])
    if time and time["tied"] > 0.01:
        sentences.append(
            "Interactions at one and the same time have no order of their own; what is said of "
            "order below depends on how the log happens to list them."
        )
    sentences.append(f"{repeats['users']:.1%} of the users repeat an item.")
    body = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return section("Repeats and time", body + table(["interactions", "share"], rows))


def _intensity(profile: Profile) -> str:
    found, by_chance = profile.intensity, profile.shuffled_intensity
    explanation = (
        "<p>Rules X, then Y: X is L consecutive items, Y the item right after. A rule counts where "
        f"{found.min_support} users or more have X then Y, and these are at least "
        f"{found.min_confidence:.0%} of the users who have X. The intensity is the number of rules "
        f"divided by the number of users: {found.value:.4f}; with every history in a random order, "
        f"{by_chance.value:.4f}.</p>"
    )
    lengths = list(found.rules)
    bars = draw_bars(
        "rules for each user",
        [str(length) for length in lengths],
        {
            "as logged": [found.rules[length] / max(found.num_users, 1) for length in lengths],
            "in random order": [
                by_chance.rules[length] / max(found.num_users, 1) for length in lengths
            ],
        },
        x_label="L, items of X",
    )
    rows = [[length, found.rules[length], by_chance.rules[length]] for length in lengths]
    return section(
        "Sequential intensity",
        explanation + beside(bars, table(["L", "rules", "in random order"], rows)),
    )


def _dependence(profile: Profile) -> str:
    found = profile.dependence
    values = profile.to_dict()["dependence"]
    lags, total, within = values["lags"], values["total"], values["within"]
    drawings = [
        draw_lines(
            "Dep_L and how users scatter",
            [Line("Dep_L", lags, total["value"])],
            x_label="lag L",
            band=Band(
                "5% to 95% of the users", lags, total["percentile_5"], total["percentile_95"]
            ),
        ),
        draw_lines(
            "Dep_L and the same histories permuted",
            [
                Line("Dep_L", lags[1:], total["value"][1:]),
                Line("floor", lags[1:], total["floor"][1:], None, "--"),
                Line("one permutation", lags[1:], values["shuffled"][1:], None, "o"),
            ],
            x_label="lag L",
        ),
        draw_lines(
            "Dep_L within users",
            [
                Line("less each user's mean", lags[1:], within["value"][1:], 1),
                Line("floor", lags[1:], within["floor"][1:], None, "--"),
            ],
            x_label="lag L",
        ),
        _decay_plot(profile),
    ]
    explanation = (
        "<p>Dep_L is the covariance, summed over the dimensions, of the vectors of a user's last "
        "item and of the item L steps before. The floor is its mean over all permutations of the "
        "histories: as much of it owes nothing to the order. Item vectors: "
        f"{escape(profile.protocol['vectors'])}.</p>"
    )
    names = ["value", "floor", "percentile_5", "percentile_95"]
    rows = [
        [
            lag,
            int(found.num_users[lag]),
            *(Mean(total[name][lag]) for name in names),
            Mean(values["shuffled"][lag]),
            Mean(within["value"][lag]),
            Mean(within["floor"][lag]),
        ]
        for lag in lags
    ]
    columns = ["L", "users", "Dep_L", "floor", "5%", "95%", "one permutation"]
    listed = details("All lags", table([*columns, "within users", "floor within"], rows))
    sentences = notes(describe_dependence(profile))
    shown = plots(drawings[:2]) + plots(drawings[2:])
    return section("Dependence", explanation + sentences + shown + listed)


def _decay_plot(profile: Profile) -> str:
    """Return the part above the floor over the logarithm of the lag, with what was fitted to it."""
    found, decay = profile.dependence, profile.decay
    above = (found.total.value - found.total.floor)[1:]
    lags = list(range(1, len(found.num_users)))
    lines = [Line("Dep_L less the floor", lags, _points(above), None, "o")]
    fitted = decay.lags.tolist()
    if decay.power:
        label = f"power, L^-{decay.power.parameter:.2f}"
        lines.append(Line(label, fitted, _points(decay.power.curve), 0))
    if decay.exponential:
        label = f"exponential, 1/e in {decay.exponential.parameter:.1f}"
        lines.append(Line(label, fitted, _points(decay.exponential.curve), 1, "--"))
    return draw_lines("how Dep_L falls above the floor", lines, x_label="lag L", log="x")


def _points(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _settings(profile: Profile) -> str:
    groups = {"protocol": profile.protocol, "counts": profile.counts, "dataset": profile.dataset}
    parts = notes(profile.dataset["notes"])
    for name, group in groups.items():
        shown = {key: value for key, value in group.items() if key != "notes"}
        parts += details(name, settings_table(shown), is_open=name == "protocol")
    return section("How it was measured", parts)
