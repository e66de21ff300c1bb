from __future__ import annotations

import re
import sys

import polars as pl
import pytest

from ensue.errors import ExtraError
from ensue.runs.plots import draw_curve, draw_intervals
from ensue.runs.report import Example, build_html, make_examples, write_report
from ensue.runs.run import Run
from ensue.runs.train import train
from tests.helpers import make_dataset
from tests.runs.example_report import EVALUATION, EXAMPLES, INFO, LOG
from tests.runs.page import Page, assert_self_contained


@pytest.fixture(scope="module")
def html():
    return build_html(INFO, LOG, {"validation": EVALUATION, "test": EVALUATION}, EXAMPLES)


def test_the_page_says_what_the_run_knows(html):
    texts = Page(html).texts
    for text in (
        "caser on made data",
        "5,000 users, 2,000 items, 200,000 interactions, made 2026-11-20 10:00 UTC",
        "0.1134",
        "0.1094 to 0.1184",
        "0.6250",
        "6 epochs in 15 s, 64,000 examples/s in the last; "
        "the weights of epoch 4 (circled) were kept.",
        "training loss",
        "map on validation",
        "recall@10 by popularity of the item, test",
        "1,650",
        "formulas.map",
        "1/|R| sum_j j/r_j",
        "The split sees other users' future.",
        "[1, 2, 3]",
        "num_parameters",
        "844121",
        "user u0042",
        "Tea pot & cups",
        "2.5",
    ):
        assert text in texts


def test_metrics_stand_by_their_cut_off(html):
    cells = '<td class="number">{}</td><td class="number">{}</td></tr>'
    assert '<th></th><th class="number">whole list</th><th class="number">@10</th>' in html
    recall = "0.2211<small>0.2171 to 0.2261</small>"
    assert f"<td>recall</td>{cells.format('-', recall)}" in html
    assert f"<td>mrr</td>{cells.format('0.2571<small>0.2531 to 0.2621</small>', '-')}" in html
    assert f"<td>coverage</td>{cells.format('-', '0.6250')}" in html


def test_an_empty_slice_is_left_out(html):
    assert "new" not in Page(html).texts


def test_the_page_is_self_contained(html):
    assert_self_contained(html)


def test_text_of_the_data_stays_text():
    evil = "<script>alert('x')</script>\"&"
    info = {**INFO, "model": evil, "config": {evil: evil}, "dataset": {"name": evil, "hash": evil}}
    evaluation = {**EVALUATION, "protocol": {evil: evil, "notes": [evil]}, "metrics": {evil: 0.5}}
    html = build_html(info, LOG, {evil: evaluation}, [Example(evil, [evil], [evil], [1.0])])
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.texts.count(evil) >= 8


def test_colors_are_left_to_the_page(html):
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "#0102" not in drawings
    assert "currentColor" in drawings
    assert "var(--series-1)" in drawings
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", drawings)) == set()
    for variable in ("--series-1", "--series-2"):
        assert html.count(f"{variable}: #") == 2  # light and dark


def test_the_same_run_is_the_same_bytes(html):
    again = build_html(INFO, LOG, {"validation": EVALUATION, "test": EVALUATION}, EXAMPLES)
    assert again == html


def test_a_bare_run_has_a_page_too():
    texts = Page(build_html({"model": "popularity"}, [], {}, [])).texts
    assert "popularity on a dataset" in texts
    assert "This run was not evaluated yet." in texts
    assert "This model is computed in one go: it has no epochs." in texts


def test_a_run_without_validation_shows_the_loss_alone():
    log = [{"epoch": 1, "loss": 0.5, "seconds": 1.0}]
    page = Page(build_html({**INFO, "best_epoch": 0}, log, {}, []))
    assert "training loss" in page.texts
    assert "map on validation" not in page.texts
    assert "1 epochs in 1 s." not in page.texts
    assert "1 epoch in 1 s." in page.texts


def test_means_without_intervals():
    evaluation = {
        "metrics": {"map": 0.5},
        "slices": {"head": {"items": 1, "users": 1, "targets": 1, "metrics": {"map": 0.25}}},
    }
    texts = Page(build_html(INFO, [], {"test": evaluation}, [])).texts
    assert "map by popularity of the item, test" in texts
    assert texts.count("0.5000") == 2  # tile and table


def test_users_with_few_and_many_targets():
    texts = Page(build_html(INFO, [], {"test": EVALUATION}, [])).texts
    assert "Users with few and many targets" in texts
    assert "targets>10, pap@10" in texts
    assert "0.2100 to 0.2400" in texts
    assert "Users with few and many targets" not in Page(build_html(INFO, [], {}, [])).texts


def test_a_curve_marks_the_kept_epoch_only_where_it_is_drawn():
    marked = draw_curve("loss", [1, 2], [0.5, 0.4], marked_epoch=2)
    assert marked != draw_curve("loss", [1, 2], [0.5, 0.4])
    assert draw_curve("loss", [1, 2], [0.5, 0.4], marked_epoch=9) == draw_curve(
        "loss", [1, 2], [0.5, 0.4]
    )


def test_a_value_outside_its_interval_is_drawn():
    assert "<svg" in draw_intervals("recall", ["head"], [0.0], [(0.1, 0.2)])
    assert "<svg" in draw_intervals("recall", ["head"], [0.0], [(0.0, 0.0)])


def test_matplotlib_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExtraError, match=r"the report needs .*'matplotlib'.*ensue\[report\]"):
        build_html(INFO, LOG, {}, [])


def test_gates_by_length_of_the_history():
    part = {"means": {"tiny": 0.25, "long": 0.75}, "deviations": {"tiny": 0.3125, "long": 0.0625}}
    gates = [
        {"first": 1, "last": 1, "num_requests": 40, **part},
        {"first": 2, "last": 3, "num_requests": 1300, **part},
        {"first": 1, "last": 3, "num_requests": 1340, **part},
    ]
    page = Page(build_html(INFO, [], {}, [], gates))
    for text in ("gate of the tiny range by length of the history", "2 to 3", "1,340", "all"):
        assert text in page.texts
    assert page.texts.count("0.3125") == 3
    assert "tiny, deviation" in page.texts
    assert sum(tag == "svg" for tag, _ in page.tags) == 2


def test_gates_by_value_of_context():
    part = {"means": {"tiny": 0.25}, "deviations": {"tiny": 0.3125}, "num_requests": 40}
    gates = [{"first": 1, "last": 1, **part}, {"first": 1, "last": 1, **part}]
    values = [
        {"side": side, "column": "page", "value": value, **part}
        for side, value in (("event", "<home>"), ("event", None), ("request", "<home>"))
    ]
    page = Page(build_html(INFO, [], {}, [], gates, values))
    for text in (
        "gate of the tiny range by page of the last event",
        "gate of the tiny range by page of the request",
        "page of the request",
        "(missing)",
    ):
        assert text in page.texts
    assert page.texts.count("<home>") == 4  # in a plot and a table, twice
    assert sum(tag == "svg" for tag, _ in page.tags) == 3


@pytest.mark.parametrize(("gates", "is_shown"), [("bottom", True), ("fixed", False)])
def test_a_run_with_gates_shows_them(tmp_path, gates, is_shown):
    histories = [[1, 2, 3, 4], [2, 3, 1], [3, 4, 1, 2], [4, 1, 2]]
    make_dataset(tmp_path / "data", histories)
    settings = {"dim": 4, "epochs": 1, "gates": gates}
    texts = Page(
        write_report(train("m3", tmp_path / "data", out=tmp_path / "run", **settings)).read_text()
    ).texts
    assert ("Gates" in texts) == is_shown
    assert ("gate of the short range by length of the history" in texts) == is_shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    histories = [[1, 2, 3, 4], [2, 3, 1], [3, 4, 1, 2], [4, 1, 2]]
    make_dataset(folder / "data", histories, notes=["A note on the split."])
    return train("popularity", folder / "data", out=folder / "run")


def test_write_report(run):
    run.evaluate(num_resamples=10)
    path = write_report(run)
    assert path == run.path / "report.html"
    texts = Page(path.read_text(encoding="utf-8")).texts
    assert "popularity on tiny" in texts
    assert "A note on the split." in texts
    assert f"{run.evaluations()['test'].metrics['map']:.4f}" in texts


def test_write_report_elsewhere_leaves_one_file(run, tmp_path):
    assert write_report(run, tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_examples_are_users_and_someone_new(run):
    examples = make_examples(run)
    assert [example.label for example in examples] == [
        "user u1: 4 items",
        "user u2: 3 items",
        "user u4: 3 items",
        "someone new, with one item",
    ]
    assert examples[0].history == ["i1", "i2", "i3", "i4"]
    assert examples[1].items == ["i4"]  # the only item u2 has not had
    assert examples[3].history == ["i4"]
    assert sorted(examples[3].items) == ["i1", "i2", "i3"]
    for example in examples:
        assert len(example.items) == len(example.scores)


def test_items_are_called_by_their_titles(run):
    table = pl.DataFrame({"raw_id": ["i1", "i2", "i3", "i4"], "title": ["A", "B", None, ""]})
    run = Run(run.path)
    run.item_table = table
    assert make_examples(run)[0].history == ["A", "B", "i3", "i4"]


def test_a_long_history_shows_its_end(tmp_path):
    data = make_dataset(tmp_path / "data", [list(range(1, 16)), [1, 2, 3]])
    example = make_examples(train("popularity", data, out=tmp_path / "run"))[0]
    assert example.label == "user u1: last 10 of 15 items"
    assert list(example.history) == [f"i{n}" for n in range(6, 16)]
