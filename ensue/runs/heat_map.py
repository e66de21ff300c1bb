"""A table of numbers as colored cells with the numbers in them, drawn as SVG for a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

CELL_WIDTH, CELL_HEIGHT = 74, 30
CHARACTER_WIDTH = 6.2  # of the names, in the same unit


def draw_heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    full: float = 1.0,
) -> str:
    """Return numbers as SVG, in percent: cells above 0 in one color, below 0 in the other.

    Args:
        values: [rows, columns]; None is an empty cell.
        full: the number of the strongest color.
    """
    left = CHARACTER_WIDTH * max((len(name) for name in rows), default=0) + 12
    # Names that are wider than their column are set at a slant.
    is_wide = any(CHARACTER_WIDTH * len(name) > CELL_WIDTH for name in columns)
    longest = max((len(name) for name in columns), default=0)
    top = 28 + (0.6 * CHARACTER_WIDTH * longest + 12 if is_wide else 18)
    margin = 0.8 * CHARACTER_WIDTH * longest if is_wide else 8
    width = max(left + CELL_WIDTH * len(columns) + margin, 7.5 * len(title))
    height = top + CELL_HEIGHT * len(rows) + 6
    parts = [_text(0, 14, title, size=14)]
    for c, name in enumerate(columns):
        x = left + CELL_WIDTH * (c + 0.5)
        turned = f' transform="rotate(-35 {x:g} {top - 6:g})"' if is_wide else ""
        anchor = "start" if is_wide else "middle"
        parts.append(_text(x, top - 6, name, anchor=anchor, more=turned))
    for r, name in enumerate(rows):
        y = top + CELL_HEIGHT * r
        parts.append(_text(left - 8, y + 19, name, anchor="end"))
        for c, value in enumerate(values[r]):
            if value is not None:
                parts.append(_cell(left + CELL_WIDTH * c, y, value, full))
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _cell(x: float, y: float, value: float, full: float) -> str:
    """Return a cell; its color is weak enough for text on it to be read."""
    color = "var(--series-1)" if value < 0 else "var(--series-2)"
    strength = 0.06 + 0.6 * min(abs(value) / full, 1.0)
    return (
        f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" '
        f'rx="3" fill="{color}" fill-opacity="{strength:.3f}"/>'
        + _text(x + CELL_WIDTH / 2, y + 19, f"{100 * value:+.1f}", anchor="middle")
    )


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", more: str = ""
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="currentColor"{more}>{escape(text)}</text>'
    )
