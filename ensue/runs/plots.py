"""Plots of a page as SVG text to set into a page, drawn by matplotlib (extra "report").

Colors are left to the page: axes and text take `currentColor`, series the CSS variables --series-1
and --series-2, so one drawing serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from ensue.errors import ExtraError

# Drawn in these colors, which stand for a variable of the page.
_INK = "#010203"
_SERIES = ("#010204", "#010205")
_VARIABLES = {
    _INK: "currentColor",
    _SERIES[0]: "var(--series-1)",
    _SERIES[1]: "var(--series-2)",
}
_SETTINGS: dict[str, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Line:
    """Points of a plot, joined or not; points with None are left out.

    series: 0 or 1, the color; None is the color of the text.
    style: "-" joins the points, "--" does with dashes, "o" marks them, "o-" does both.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    series: int | None = 0
    style: Literal["-", "--", "o", "o-"] = "-"


@dataclass(frozen=True)
class Band:
    """An area between two curves; points with None are left out."""

    label: str
    x: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    series: int = 0


def draw_lines(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    log: Literal["", "x", "xy"] = "",
    band: Band | None = None,
) -> str:
    """Return lines over a common axis, as SVG, with a legend where there are several.

    Args:
        log: the axes that are logarithmic; points that are not above 0 there are left out.
    """

    def draw(axes: Any) -> None:
        _set_log_scales(axes, log)
        if band is not None:
            rows = zip(band.x, band.low, band.high, strict=True)
            shown = [row for row in rows if None not in row]
            x, low, high = ([row[column] for row in shown] for column in range(3))
            color = _SERIES[band.series]
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0, label=band.label)
        for line in lines:
            points = [
                (x, y)
                for x, y in zip(line.x, line.y, strict=True)
                if y is not None and (x > 0 or "x" not in log) and (y > 0 or "y" not in log)
            ]
            marks: dict[str, Any] = {"linestyle": line.style, "linewidth": 1.8}
            if line.style == "o":
                marks = {"linestyle": "none", "marker": "o", "markersize": 3}
            elif line.style == "o-":
                marks |= {"linestyle": "-", "marker": "o", "markersize": 4}
            color = _INK if line.series is None else _SERIES[line.series]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=color,
                label=line.label,
                **marks,
            )
        if "x" in log:
            _use_ticks_in_a_decade(axes, [x for line in lines for x in line.x if x > 0])
        axes.set_xlabel(x_label)
        if len(lines) + (band is not None) > 1:
            axes.legend(frameon=False, fontsize=9)

    return _svg(title, draw, height=3.2)


def draw_histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x_label: str,
    log: Literal["", "x"] = "x",
) -> str:
    """Return a bar from each edge to the next, as SVG, on an axis that is logarithmic or not."""

    def draw(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=_SERIES[0])
        _set_log_scales(axes, log)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", visible=False)

    return _svg(title, draw, height=2.6)


def draw_bars(
    title: str, labels: Sequence[str], groups: Mapping[str, Sequence[float]], *, x_label: str
) -> str:
    """Return bars side by side for each label, one for each group (two at most), as SVG."""

    def draw(axes: Any) -> None:
        width = 0.8 / len(groups)
        for number, (name, values) in enumerate(groups.items()):
            places = [row + (number + 0.5) * width - 0.4 for row in range(len(labels))]
            axes.bar(places, values, width, color=_SERIES[number], label=name)
        axes.set_xticks(range(len(labels)), labels=labels)
        axes.set_xlabel(x_label)
        axes.grid(axis="x", visible=False)
        if len(groups) > 1:
            axes.legend(frameon=False, fontsize=9)

    return _svg(title, draw, height=2.6)


def draw_curve(
    title: str,
    epochs: Sequence[int],
    values: Sequence[float],
    *,
    series: int = 0,
    marked_epoch: int | None = None,
) -> str:
    """Return the curve of one figure over the epochs, as SVG.

    Args:
        series: 0 or 1, the color.
        marked_epoch: the epoch whose weights were kept, marked where it is in `epochs`.
    """

    def draw(axes: Any) -> None:
        marker = "o" if len(epochs) < 40 else ""
        axes.plot(epochs, values, color=_SERIES[series], marker=marker, markersize=4, linewidth=1.8)
        if marked_epoch is not None and marked_epoch in epochs:
            place = list(epochs).index(marked_epoch)
            _circle(axes, marked_epoch, values[place])
        axes.set_xlabel("epoch")
        _use_whole_numbers(axes)

    return _svg(title, draw, height=2.6)


def draw_intervals(
    title: str,
    labels: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    from_zero: bool = True,
) -> str:
    """Return one row for each label, top down: its value and its interval, as SVG."""

    def draw(axes: Any) -> None:
        rows = range(len(labels))
        pairs = list(zip(values, intervals, strict=True))
        # An interval by resampling need not hold the value itself when users are few.
        below = [max(value - low, 0.0) for value, (low, _) in pairs]
        above = [max(high - value, 0.0) for value, (_, high) in pairs]
        style: dict[str, Any] = {"fmt": "o", "capsize": 4, "linewidth": 1.8, "clip_on": False}
        axes.errorbar(values, rows, xerr=[below, above], color=_SERIES[0], **style)
        axes.set_yticks(list(rows), labels=labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        if from_zero:
            axes.set_xlim(left=0.0, right=1.08 * max(high for _, high in intervals) or 1.0)
        axes.grid(axis="y", visible=False)

    return _svg(title, draw, height=1.0 + 0.35 * len(labels))


def draw_points(
    title: str,
    groups: Sequence[Sequence[tuple[float, float]]],
    *,
    marked: tuple[float, float] | None = None,
    line: Sequence[tuple[float, float]] = (),
    xlabel: str = "",
    log: bool = False,
    ticks: Sequence[str] = (),
) -> str:
    """Return points (x, y) as SVG.

    Args:
        groups: one or two groups of points: filled ones, and open ones in another color.
        marked: a point to circle.
        line: points joined by steps, each height kept up to the next one.
        log: x on a logarithmic scale.
        ticks: what x = 0, 1, ... are called.
    """

    def draw(axes: Any) -> None:
        for series, points in enumerate(groups):
            fill = _SERIES[series] if series == 0 else "none"
            style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5}
            axes.plot(*_split(points), color=_SERIES[series], markerfacecolor=fill, **style)
        if line:
            axes.step(*_split(line), where="post", color=_SERIES[0], linewidth=1.8)
        if marked is not None:
            _circle(axes, *marked)
        places = [x for points in groups for x, _ in points]
        if log:
            _set_log_scales(axes, "x")
            _use_ticks_in_a_decade(axes, places)
        elif all(isinstance(x, int) for x in places):
            _use_whole_numbers(axes)
        if ticks:
            axes.set_xticks(range(len(ticks)), labels=ticks)
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_xlabel(xlabel)

    return _svg(title, draw, height=2.6)


def draw_matrix(title: str, values: Sequence[Sequence[float]], *, borders: Sequence[int]) -> str:
    """Return a square matrix of numbers in -1 to 1 as colored cells, first row on top, as SVG.

    Args:
        borders: rows and columns before which a line is drawn.
    """

    def draw(axes: Any) -> None:
        from matplotlib.colors import to_rgba

        cells = [[to_rgba(_SERIES[v < 0], min(abs(v), 1.0)) for v in row] for row in values]
        places = range(len(values) + 1)
        axes.pcolormesh(places, places, cells, edgecolors="none")
        for border in borders:
            axes.axhline(border, color=_INK, linewidth=0.6, alpha=0.5)
            axes.axvline(border, color=_INK, linewidth=0.6, alpha=0.5)
        axes.set_ylim(len(values), 0)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.grid(visible=False)

    return _svg(title, draw, height=4.2)


def draw_places(title: str, places: Mapping[str, tuple[float, float]], *, x_label: str) -> str:
    """Return points (x, y) with their names beside them, both axes from 0, as SVG."""

    def draw(axes: Any) -> None:
        axes.plot(*_split(list(places.values())), "o", color=_SERIES[0], markersize=6)
        for name, place in places.items():
            axes.annotate(name, place, xytext=(7, -3), textcoords="offset points", fontsize=9)
        axes.set_xlim(0, 1.35 * max(x for x, _ in places.values()) or 1.0)
        axes.set_ylim(0, 1.2 * max(y for _, y in places.values()) or 1.0)
        axes.set_xlabel(x_label)

    return _svg(title, draw, height=2.6)


def has_plots() -> bool:
    """Return whether plots can be drawn: whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_plots() -> None:
    """Check that plots can be drawn.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    if not has_plots():
        raise ExtraError("matplotlib", "report", "the report")


def _split(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _use_whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _use_ticks_in_a_decade(axes: Any, values: Sequence[float]) -> None:
    """Put ticks at 2 and 5 as well where a logarithmic x spans little more than a decade."""
    from matplotlib.ticker import LogLocator

    is_wide = max(values, default=1.0) >= 20 * min(values, default=1.0)
    subs = (1.0,) if is_wide else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))


def _circle(axes: Any, x: float, y: float) -> None:
    style: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "linestyle": "none"}
    axes.plot([x], [y], marker="o", markeredgecolor=_INK, **style)


def _set_log_scales(axes: Any, names: str) -> None:
    """Make the axes in `names` ("x", "xy") logarithmic, with plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())


def _svg(title: str, draw: Callable[[Any], None], *, height: float) -> str:
    require_plots()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Names inside a drawing derive from its salt: each drawing of a page needs its own, and the
    # same report is made of the same bytes.
    settings: Any = {**_SETTINGS, "svg.hashsalt": title}
    with rc_context(settings):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_title(title)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(text.getvalue())


def _for_a_page(svg: str) -> str:
    """Return the <svg> element alone: its size, font and colors are the page's.

    What a style says is said by attributes: a page may be served that allows no inline styles.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r' id="[^"]*_[^"]*"', "", svg)  # names of groups, the same in every drawing
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return re.sub(r' style="((?:[a-z-]+: [^;"]+(?:; )?)+)"', _attributes, svg).strip()


def _attributes(style: re.Match[str]) -> str:
    pairs = (part.split(": ", 1) for part in style[1].split("; "))
    return "".join(f' {name}="{value}"' for name, value in pairs)
