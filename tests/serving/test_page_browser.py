"""The page in a real browser: Debian's chromium, driven by Playwright.

With ENSUE_SCREENSHOT=docs/images/serve.png the picture of the README is taken anew.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs ensue[serve]")
pytest.importorskip("playwright", reason="needs the package playwright")

from PIL import Image
from playwright.sync_api import sync_playwright

from ensue.data.prepare import prepare
from ensue.data.synthetic import SyntheticConfig, generate, write
from ensue.runs.train import train

CHROMIUM = Path("/usr/bin/chromium")
USER = "u0300"
MODELS: dict[str, dict[str, int]] = {
    "sasrec": {"epochs": 8, "dim": 32},
    "m3": {"epochs": 6},
    "popularity": {},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where three runs of a synthetic log, whose items have titles, are served."""
    out = tmp_path_factory.mktemp("browser")
    config = SyntheticConfig(num_users=1200, num_items=500, num_interactions=40_000)
    log = write(generate(config), out / "log")
    data = prepare(log / "interactions.csv", out / "shop", items=log / "items.csv")
    for name, settings in MODELS.items():
        train(name, data, out=out / name, **settings).evaluate(data)
    runs = [str(out / name) for name in MODELS]
    command = [sys.executable, "-m", "ensue", "serve", *runs, "--store", "sqlite://", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        told = process.stderr.readline()
        yield re.search(r"http://[0-9.:]+", told)[0]
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture
def look(browser, address):
    """Return a function that opens a page; at the end nothing went wrong, or to others."""
    contexts, faults = [], []

    def open_page(path="/", *, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda one: faults.append(one.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda one: _note_others(one.url, address, faults))
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _note_others(url, address, faults):
    if not url.startswith("data:") and urlsplit(url).netloc != urlsplit(address).netloc:
        faults.append(url)


def items(page):
    return page.locator(".card[data-model=sasrec] li[data-item]").evaluate_all(
        "rows => rows.map((row) => row.dataset.item)"
    )


def test_a_name_is_typed_and_picked_and_the_list_changes(look):
    page = look("/")
    page.locator("#find").press_sequentially("chess")
    page.locator("[role=option]").first.click()
    page.locator(".timeline li").nth(0).wait_for()
    before = items(page)
    assert page.locator(".summary").count() == len(MODELS)
    assert "item=" in page.url
    page.locator("#find").press_sequentially("collar")
    page.locator("[role=option]").first.click()
    page.locator(".timeline li").nth(1).wait_for()
    after = items(page)
    assert before != after
    marks = page.locator(".card[data-model=sasrec] .list .change").all_inner_texts()
    for item, mark in zip(after, marks, strict=True):
        assert ("new" in mark) == (item not in before)
    assert "sasrec: " in page.locator("#said").inner_text()
    page.go_back()
    page.locator(".timeline li").nth(1).wait_for(state="detached")
    assert items(page) == before


def test_all_works_by_keyboard_alone(look):
    page = look("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.locator("#main:focus").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "user"
    while page.evaluate("document.activeElement.id") != "find":
        page.keyboard.press("Tab")
    page.keyboard.type("chess")
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.locator("#find").get_attribute("aria-activedescendant") == "option-0"
    page.keyboard.press("Enter")
    page.locator(".timeline li").first.wait_for()
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("coll")
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#options").is_hidden()
    button = page.locator(".card[data-model=m3] a.button").first
    button.focus()
    page.keyboard.press("Enter")
    page.locator(".timeline li").nth(1).wait_for()
    place = "document.activeElement.closest('.card').dataset.model"
    assert page.evaluate(place) == "m3"


def test_an_event_is_sent_and_changes_the_next_list(look):
    page = look(f"/?user={USER}")
    before = items(page)
    page.locator("button[data-event]").first.click()
    page.locator(".timeline .live").first.wait_for()
    assert before[0] not in items(page)
    assert page.locator(".card[data-model=sasrec] .summary").count() == 1
    page.locator("#find").fill("chess")
    page.locator("[role=option]").first.click()
    page.get_by_role("button", name="Add event", exact=True).click()
    page.locator(".timeline .live").nth(1).wait_for()
    page.reload()
    assert page.locator(".timeline .live").count() == 2


def test_models_and_length_are_chosen_in_place(look):
    page = look(f"/?user={USER}")
    page.locator("#k").select_option("5")
    page.locator(".card").first.locator("li[data-item]").nth(5).wait_for(state="detached")
    page.get_by_role("checkbox", name="popularity").uncheck()
    page.locator(".card").nth(2).wait_for(state="detached")
    assert len(items(page)) == 5
    assert "model=m3" in page.url


def test_it_works_without_the_script(look):
    page = look("/", java_script_enabled=False)
    page.locator("#find").fill("collar")
    page.get_by_role("button", name="Search").click()
    page.locator(".found a").first.click()
    assert page.locator(".timeline li").count() == 1
    page.locator("#k").select_option("5")
    page.get_by_role("button", name="Update").click()
    assert page.locator(".card").first.locator("li[data-item]").count() == 5
    page.locator("a.button").first.click()
    assert page.locator(".timeline li").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_no_view_is_wider_than_the_screen_and_text_can_be_read(look, address, scheme, width):
    page = look("/", width=width, color_scheme=scheme)
    for path in ("/", f"/?user={USER}", "/?item=i001&item=i002", "/item?id=i001", "/runs/sasrec"):
        page.goto(address + path)
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), path
        faint = page.evaluate(FAINT)
        assert faint == [], path


# Text whose contrast with what lies behind it is below 4.5, as WCAG 2 counts it.
FAINT = """
() => {
  const parse = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parse(color).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (parse(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const one of document.body.querySelectorAll("*:not(svg *)")) {
    const text = [...one.childNodes].some((n) => n.nodeType === 3 && n.nodeValue.trim());
    if (!text || one.getClientRects().length === 0) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${one.outerHTML.slice(0, 80)} ${contrast.toFixed(2)}`);
  }
  return found;
}
"""


def test_the_picture_of_the_readme(look):
    page = look("/?user=u0601&k=5")
    for number in (1, 2):
        page.locator(".card[data-model=m3] button[data-event]").nth(number).click()
        page.locator(".timeline .live").nth(number - 1).wait_for()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
    packed = io.BytesIO()
    picture.save(packed, "png", optimize=True)
    assert picture.size == (1280, 900)
    assert 20_000 < packed.tell() < 150_000
    if wanted := os.environ.get("ENSUE_SCREENSHOT"):
        Path(wanted).parent.mkdir(parents=True, exist_ok=True)
        Path(wanted).write_bytes(packed.getvalue())
