from __future__ import annotations

from ensue.runs.heat_map import draw_heat_map
from tests.runs.page import Page


def test_cells_are_as_strong_as_their_numbers() -> None:
    drawing = draw_heat_map(
        "a < b", ["one", "two"], ["x", "a rather long name"], [[0.5, -0.1], [None, 0]]
    )
    page = Page(drawing)
    assert [text for text in page.texts if text] == [
        *("a < b", "x", "a rather long name", "one", "+50.0", "-10.0", "two", "+0.0"),
    ]
    cells = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert [cell["fill"] for cell in cells] == [f"var(--series-{n})" for n in (2, 1, 2)]
    strengths = [float(cell["fill-opacity"] or 0) for cell in cells]
    assert strengths[0] > strengths[1] > strengths[2] > 0
    assert {cell["width"] for cell in cells} == {"72"}


def test_a_map_without_rows_is_a_title() -> None:
    assert [text for text in Page(draw_heat_map("none", [], ["x"], [])).texts if text] == [
        "none",
        "x",
    ]
