"""The parts every HTML page of Ensue is made of: its frame, sections and tables.

A page needs nothing beside it and asks nothing of a network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from ensue.runs.report_style import STYLE


class Mean(NamedTuple):
    """A cell of a table: a mean over users, and its interval where there is one."""

    value: float | None
    interval: tuple[float, float] | None


class Tile(NamedTuple):
    """A figure shown large, what it is, and a remark below it."""

    figure: str
    name: str
    remark: str = ""


def build_page(title: str, sections: Sequence[str]) -> str:
    """Return a whole page as HTML text; `title` is text, the sections are HTML."""
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def make_header(title: str, facts: str, tiles: Sequence[Tile]) -> str:
    """Return the head of a page: its title, a line of facts, and the figures that matter most."""
    shown = "".join(
        f'<div class="tile"><b>{escape(tile.figure)}</b><span>{escape(tile.name)}</span>'
        f"<small>{escape(tile.remark)}</small></div>"
        for tile in tiles
    )
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(facts)}</p>\n"
        f'<div class="tiles">{shown}</div>\n</header>'
    )


def make_section(title: str, body: str) -> str:
    """Return a section; `title` is text, `body` is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table that scrolls sideways on a narrow screen."""
    kinds = [
        ' class="number"' if any(isinstance(row[c], (int, Mean)) for row in rows) else ""
        for c in range(len(columns))
    ]
    head = "".join(
        f"<th{kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True)
    )
    lines = [
        "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    """Return the HTML of a cell: counts with commas, means with four decimals."""
    if isinstance(value, Mean):
        below = f"<small>{format_range(value.interval)}</small>" if value.interval else ""
        return "-" if value.value is None else f"{value.value:.4f}{below}"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def format_range(interval: tuple[float, float]) -> str:
    """Return an interval as text."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def flat_rows(values: Mapping[str, Any] | Any, prefix: str = "") -> list[list[str]]:
    """Return [name, value] rows of a nested dictionary, names joined by dots."""
    rows = []
    for name, value in dict(values).items():
        if isinstance(value, Mapping):
            rows += flat_rows(value, f"{prefix}{name}.")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
            rows.append([f"{prefix}{name}", value if isinstance(value, str) else text])
    return rows
