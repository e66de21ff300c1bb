from __future__ import annotations

import sys

import pytest

from ensue import progress
from ensue.progress import note, track


@pytest.fixture
def lines_at_once(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)


def test_short_work_prints_nothing_where_there_is_no_terminal(capsys):
    with track("read", total=2, unit="rows") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("lines_at_once")
def test_lines_go_to_standard_error_with_share_and_figures(capsys):
    with track("train", total=4, unit="rows") as advance:
        advance(1, loss=0.5)
        advance(3, loss=0.25)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *_, last = captured.err.splitlines()
    assert first.startswith("train: 1 of 4 rows (25%), 0:00 elapsed, 0:00 left, loss 0.5")
    assert last == "train: 4 of 4 rows (100%), 0:00 elapsed, loss 0.25"


@pytest.mark.usefixtures("lines_at_once")
def test_an_unknown_total_shows_no_share(capsys):
    with track("read") as advance:
        advance(1500)
    assert capsys.readouterr().err.splitlines()[0] == "read: 1,500, 0:00 elapsed"


@pytest.mark.usefixtures("lines_at_once")
def test_disabled_shows_nothing(capsys):
    with track("read", total=1, enabled=False) as advance:
        advance(1, loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_for_nested_work(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with track("train", total=10, unit="rows") as advance:
        advance(5, loss=0.5)
        with track("validate [x]", total=3, unit="users") as advance_inner:
            advance_inner(3)
        advance(5)
        print("result")
    assert progress._active_bar is None
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert "train" in captured.err
    assert "100%" in captured.err


def test_a_failure_inside_ends_the_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ZeroDivisionError), track("train", total=10):
        raise ZeroDivisionError
    assert progress._active_bar is None


def test_a_note_leaves_standard_output_alone(capsys):
    note("reading")
    assert capsys.readouterr() == ("", "reading\n")
