"""The skeleton of every page: one HTML file that needs nothing beside it and asks no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from ensue.runs.report_style import STYLE


class Mean(NamedTuple):
    """A cell of a table: a mean, shown with four decimals, and its interval where there is one."""

    value: float | None
    interval: tuple[float, float] | None = None


class Tile(NamedTuple):
    """A figure to see first: its value, what it is, and a small line below."""

    value: str
    name: str
    below: str = ""


def build_page(title: str, body: Sequence[str]) -> str:
    """Return the whole page; the title is text, the parts of the body are HTML."""
    content = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def header(title: str, facts: Sequence[str], tiles: Sequence[Tile]) -> str:
    """Return the head of the page: its title, a line of facts, and the tiles."""
    shown = "".join(
        f'<div class="tile"><b>{escape(tile.value)}</b><span>{escape(tile.name)}</span>'
        f"<small>{escape(tile.below)}</small></div>"
        for tile in tiles
    )
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(', '.join(facts))}</p>\n"
        f'<div class="tiles">{shown}</div>\n</header>'
    )


def section(title: str, body: str) -> str:
    """Return a section; the title is text, the body HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def plots(drawings: Sequence[str]) -> str:
    """Return drawings (SVG) side by side where the screen is wide."""
    figures = "".join(f"<figure>{drawing}</figure>" for drawing in drawings)
    return f'<div class="plots">{figures}</div>'


def beside(drawing: str, other: str) -> str:
    """Return a drawing (SVG) and other HTML side by side where the screen is wide."""
    return f'<div class="plots"><figure>{drawing}</figure><div>{other}</div></div>'


def notes(sentences: Sequence[str]) -> str:
    """Return sentences in a panel, or nothing for none."""
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{listed}</ul>' if listed else ""


def details(name: str, body: str, *, is_open: bool = False) -> str:
    """Return a part that opens on a click; the name is text, the body HTML."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{escape(name)}</summary>{body}</details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
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


def settings_table(values: Mapping[str, Any]) -> str:
    """Return a table of the names and values of a nested dictionary, names joined by dots."""
    return table(["name", "value"], _flat(values))


def show_interval(interval: tuple[float, float]) -> str:
    """Return an interval as text.

    >>> show_interval((0.1, 0.25))
    '0.1000 to 0.2500'
    """
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _cell(value: object) -> str:
    """Return the HTML of a cell: counts with commas, means with four decimals."""
    if isinstance(value, Mean):
        below = f"<small>{show_interval(value.interval)}</small>" if value.interval else ""
        return "-" if value.value is None else f"{value.value:.4f}{below}"
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, value in dict(values).items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
            rows.append([f"{prefix}{name}", value if isinstance(value, str) else text])
    return rows
