"""Plots of a run as SVG text to set into a page, drawn by matplotlib (extra "report").

Colors are left to the page: axes and text take `currentColor`, series the CSS variables --series-1
and --series-2, so one drawing serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

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
            _use_log_scale(axes, places)
        elif all(isinstance(x, int) for x in places):
            _use_whole_numbers(axes)
        if ticks:
            axes.set_xticks(range(len(ticks)), labels=ticks)
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_xlabel(xlabel)

    return _svg(title, draw, height=2.6)


def has_plots() -> bool:
    """Return whether plots can be drawn."""
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


def _use_log_scale(axes: Any, values: Sequence[float]) -> None:
    """Put x on a log scale, with ticks in plain numbers; in one decade also at 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    is_wide = max(values, default=1.0) >= 20 * min(values, default=1.0)
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0), numticks=6)
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _circle(axes: Any, x: float, y: float) -> None:
    style: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "linestyle": "none"}
    axes.plot([x], [y], marker="o", markeredgecolor=_INK, **style)


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
    """Return the <svg> element alone: its size, font and colors are the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r' id="[^"]*_[^"]*"', "", svg)  # names of groups, the same in every drawing
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg.strip()
