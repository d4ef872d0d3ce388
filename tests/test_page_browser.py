"""The page in Chromium, without a window: it opens from a file, asks for nothing, draws, finds, and can be read."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import family, merged
from page_files import chain, named, page, scene

import netfuse_onnx

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser of these tests")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "</script><img src=x onerror=document.title='owned'>"
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages: `large` has 1,000 nodes, `priced` a target and a proof, `hostile` a name that is HTML."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name in ("large", "priced", "hostile"):
        (folder / name).mkdir()
    page(merged(folder / "large", chain(folder / "large", 200)))
    sources = family(folder / "priced", count=3)
    page(merged(folder / "priced", sources, target="cpu", dims={"n": 64}), paths=sources)
    page(merged(folder / "hostile", named(folder / "hostile", name=HOSTILE)))
    for name in ("large", "priced", "hostile"):
        found[name] = folder / name / "merged.html"
    return found


class Seen:
    """A page that is open, with what it said and what it asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.url = path.as_uri()
        start = time.monotonic()
        self.page.goto(self.url)
        self.page.wait_for_selector("html[data-drawn]", state="attached")
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.seconds = time.monotonic() - start

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def title(self) -> str:
        return str(self.page.inner_text("#panel-title"))

    def middle(self) -> tuple[float, float]:
        """Return the distance of the chosen box from the middle of the canvas, in pixels."""
        box, canvas = (
            self.page.locator(".v.on rect.box").bounding_box(),
            self.page.locator("#canvas").bounding_box(),
        )
        return (
            box["x"] + box["width"] / 2 - canvas["x"] - canvas["width"] / 2,
            box["y"] + box["height"] / 2 - canvas["y"] - canvas["height"] / 2,
        )


def test_a_thousand_nodes_are_drawn_in_two_seconds(browser: Any, files: dict[str, Path]) -> None:
    times = []
    for _ in range(3):
        with Seen(browser, files["large"]) as seen:
            assert int(seen.page.get_attribute("html", "data-drawn")) > 1000
            assert seen.page.locator(".v").count() > 1000
            assert not seen.said
            assert seen.asked == [seen.url]
            times.append(seen.seconds)
    assert min(times) < 2.0, times


def test_a_name_that_is_html_is_text(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["hostile"]) as seen:
        assert seen.page.title() != "owned"
        assert seen.page.locator("img").count() == 0
        seen.page.fill("#search", "onerror")
        seen.page.keyboard.press("Enter")
        assert HOSTILE in seen.page.inner_text("#panel")
        assert not seen.said
        assert seen.asked == [seen.url]


def test_search_finds_a_node_and_brings_it_to_the_middle(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["large"]) as seen:
        seen.page.keyboard.press("/")
        assert seen.page.evaluate("document.activeElement.id") == "search"
        seen.page.keyboard.type("tanh t137")
        assert seen.page.inner_text("#found").startswith("1 of ")
        assert seen.page.locator("#results li").count() == 1
        seen.page.keyboard.press("Enter")
        assert seen.title() == "Tanh"
        assert "t137" in seen.page.inner_text("#panel")
        assert all(abs(off) < 3 for off in seen.middle())
        assert seen.page.locator(".v.hit").count() == 1
        seen.page.keyboard.press("Escape")
        assert seen.page.locator(".v.on").count() == 0
        assert seen.page.locator(".v.dim").count() == 0


def test_the_panel_has_cost_and_reason(browser: Any, files: dict[str, Path]) -> None:
    rows = netfuse_onnx.inspect(str(files["priced"].with_suffix(".onnx"))).lowered.nodes
    assert any(row.cost for row in rows) and any(row.reason for row in rows)
    with Seen(browser, files["priced"]) as seen:
        names = [node["n"] for node in scene(files["priced"].read_text())["nodes"]]
        for row in rows:
            seen.page.locator(f'.v[data-i="{names.index(row.name)}"]').click()
            text = seen.page.inner_text("#panel")
            assert seen.title() == row.op
            assert row.reason in text
            for price in re.findall(r"([\d.]+) us", row.cost):
                assert f"{price} µs" in text
            assert seen.page.locator("#panel .chip").first.inner_text() == row.became


def test_a_click_chooses_a_box_and_a_drag_moves_the_drawing(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["priced"]) as seen:
        box = seen.page.locator(".v").nth(1)
        place = box.bounding_box()
        box.click()
        assert "on" in box.get_attribute("class").split()
        x, y = place["x"] + place["width"] + 30, place["y"]
        seen.page.mouse.move(x, y)
        seen.page.mouse.down()
        seen.page.mouse.move(x + 70, y + 40, steps=4)
        seen.page.mouse.up()
        moved = box.bounding_box()
        assert moved["x"] - place["x"] == pytest.approx(70, abs=1.5)
        assert moved["y"] - place["y"] == pytest.approx(40, abs=1.5)
        seen.page.click("#in")
        assert box.bounding_box()["width"] > 1.3 * moved["width"]
        seen.page.click("#fit")
        assert abs(box.bounding_box()["x"] - place["x"]) < 2


def test_the_keyboard_goes_everywhere(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["priced"]) as seen:
        reached = []
        for _ in range(60):
            seen.page.keyboard.press("Tab")
            reached.append(seen.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
            if reached[-1] == "canvas":
                break
        assert {"theme", "search", "in", "out", "fit", "canvas"} <= set(reached)
        seen.page.keyboard.press("ArrowDown")
        assert seen.title() == "x"
        titles = []
        for _ in range(12):
            seen.page.keyboard.press("ArrowDown")
            titles.append(seen.title())
        assert [title for title in titles if title in ("MatMul", "Add", "Relu")][:4] == [
            "MatMul",
            "Add",
            "Relu",
            "MatMul",
        ]
        assert titles[-1] == "y"
        seen.page.keyboard.press("ArrowUp")
        assert seen.title() != "y"
        before = seen.page.locator(".v.on rect.box").bounding_box()["width"]
        seen.page.keyboard.press("+")
        assert seen.page.locator(".v.on rect.box").bounding_box()["width"] > 1.2 * before
        seen.page.keyboard.press("Escape")
        assert seen.title() == "No node chosen"
        outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"


def test_the_legend_leaves_one_kind(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["large"]) as seen:
        kinds = seen.page.locator(".key").evaluate_all("all => all.map(one => one.dataset.kind)")
        for kind in kinds:
            key = seen.page.locator(f'.key[data-kind="{kind}"]')
            key.click()
            assert key.get_attribute("aria-pressed") == "true"
            assert seen.page.locator(".v:not(.dim)").count() == seen.page.locator(f".v.k-{kind}").count() > 0
            key.click()
        assert seen.page.locator(".v.dim").count() == 0


CONTRAST = """() => {
  const parse = (text) => { const found = text.match(/[\\d.]+/g).map(Number); return found.length > 3 ? found : [...found, 1]; };
  const light = ([r, g, b]) => {
    const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      if (at.classList && at.classList.contains("v")) return parse(getComputedStyle(at.querySelector(".box")).fill);
      const style = getComputedStyle(at).backgroundColor;
      if (parse(style)[3] > 0) return parse(style);
    }
    return [255, 255, 255];
  };
  const faults = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || /^(SCRIPT|STYLE|NOSCRIPT|title)$/.test(node.tagName) || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), colour = node instanceof SVGElement ? style.fill : style.color;
    const found = ratio(parse(colour), back(node));
    count += 1;
    if (found < 4.5) faults.push(text.textContent.trim().slice(0, 40) + ": " + found.toFixed(2));
  }
  return [count, faults];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, files: dict[str, Path], scheme: str) -> None:
    with Seen(browser, files["priced"], scheme=scheme) as seen:
        for button in ("#in", "#in", ".v >> nth=2"):
            seen.page.click(button)
        count, faults = seen.page.evaluate(CONTRAST)
        assert count > 100
        assert not faults
        dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        seen.page.click("#theme")
        seen.page.click("#theme")  # system, light, dark
        assert (seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == dark) == (
            scheme == "dark"
        )
        assert not seen.page.evaluate(CONTRAST)[1]


@pytest.mark.parametrize("width", [400, 900, 1400])
@pytest.mark.parametrize("name", ["large", "priced", "hostile"])
def test_nothing_runs_over_the_side(browser: Any, files: dict[str, Path], width: int, name: str) -> None:
    with Seen(browser, files[name], width) as seen:
        seen.page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints(browser: Any, files: dict[str, Path]) -> None:
    with Seen(browser, files["priced"]) as seen:
        assert len(seen.page.pdf()) > 20_000
        seen.page.emulate_media(media="print")
        assert not seen.page.locator("nav").is_visible()
        assert seen.page.locator("#proofs").is_visible()
        assert not seen.said
