"""Results on standard output; messages go to standard error by `ensue.progress.note`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

# Wide enough that no cell is cut when a table goes to a file or another program.
WIDTH_OF_A_FILE = 200


def print_json(value: Any) -> None:
    """Write one JSON object and a newline to standard output, at once.

    Text beyond ASCII is escaped, so the bytes do not depend on the terminal's encoding; NaN is
    refused because JSON has none.
    """
    print(json.dumps(value, allow_nan=False), flush=True)


def print_text(text: str) -> None:
    """Write lines to standard output, at once."""
    print(text, flush=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """Write a small table to standard output; numbers are aligned to the right.

    Args:
        rows: cells; a float is shown with four decimals, None as a dash, the rest as text.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=title and Text(title), title_justify="left")
    for index, column in enumerate(columns):
        is_number = any(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(Text(column), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(format_cell(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
    console.print(table)
    sys.stdout.flush()


def format_cell(value: object) -> str:
    """Return a cell of a table as text.

    >>> [format_cell(cell) for cell in (0.12345, 1234567, None, "caser")]
    ['0.1235', '1,234,567', '-', 'caser']
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
