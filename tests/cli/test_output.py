from __future__ import annotations

import json

import pytest

from ensue.cli import output


def test_json_is_one_line_of_ascii_that_reads_back(capsys):
    value = {"items": ["00123", "\u00e9tude"], "scores": [0.5, 1e-9], "next": None}
    output.print_json(value)
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.out.isascii()
    assert json.loads(captured.out) == value
    assert captured.err == ""


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        output.print_json({"map": float("nan")})


def test_a_table_shows_text_as_it_is(capsys):
    output.print_table(["item", "score"], [["[red]x[/red]", 0.25], ["y" * 150, None]], title="[t]")
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "y" * 150 in out
    assert "0.2500" in out
    assert "[t]" in out
