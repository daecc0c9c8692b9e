"""The pages on a telephone (360 px) and on a desk (1,280 px): each PDF's name, date and size whole, nothing cut."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from craftkit_archive.catalog.rows import Night
from craftkit_archive.export.index import IndexRow, Volume
from craftkit_archive.export.pages import Pages
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.nightly.page import write_night_page
from craftkit_archive.records import NightStep, Skipped
from craftkit_archive.report.gather import gather_report, write_report
from craftkit_archive.verify.run import verify_assets
from tests.browser import Browser
from tests.worlds import LIVE_KEY, NORTHWIND, World, fill, live, load, pdf, projects, put, render, summary_of

NAMES = ["x" * 200 + "-end", "請求書" * 20, "فاتورة-" * 9 + "نهاية", "Rechnung 4711 Größe", "חשבונית מס 4711"]
WIDTHS = [360, 1280]
# Text outside of the window, text that a box around it cuts off, and text of two cells in one place.
FAULTS = """(() => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
  const boxes = (it) => {
    const found = [], texts = document.createTreeWalker(it, NodeFilter.SHOW_TEXT), range = document.createRange();
    while (texts.nextNode()) {
      if (texts.currentNode.parentElement.closest(".unseen")) continue; // it is for those who listen
      range.selectNodeContents(texts.currentNode);
      found.push(...range.getClientRects());
    }
    return found.filter((box) => box.width > 1 && box.height > 1);
  };
  for (const row of document.querySelectorAll("%s")) {
    const cells = [...row.children].filter((cell) => cell.offsetParent && cell.textContent);
    cells.forEach((cell, number) => {
      for (const box of boxes(cell)) {
        const say = (what) => faults.push(`${what}: ${cell.textContent.slice(0, 40)}`);
        if (box.left < -1 || box.right > innerWidth + 1) say("outside");
        for (let around = cell; around !== document.body; around = around.parentElement) {
          const frame = around.getBoundingClientRect();
          const open = getComputedStyle(around).overflowX === "visible";
          if (!open && (box.left < frame.left - 1 || box.right > frame.right + 1)) say("cut off");
        }
        for (const other of cells.slice(number + 1).flatMap(boxes)) {
          if (box.left < other.right - 2 && other.left < box.right - 2
            && box.top < other.bottom - 4 && other.top < box.bottom - 4) say("overlaps");
        }
      }
    });
  }
  return faults;
})()"""
SCROLL = """new Promise((done) => {
  const list = document.querySelector('#list');
  list.scrollTop += list.clientHeight * 0.7;
  requestAnimationFrame(() => requestAnimationFrame(done));
})"""
TEXTS = "[...document.querySelectorAll('%s')].map((row) => row.innerText.replace(/\\s+/g, ' '))"


class Made(NamedTuple):
    """An archive with long and foreign names, an export of it and a report on it."""

    world: World
    export: Path
    report: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("widths")
    world = fill(folder, count=3)
    slug = "a-very-long-slug-" * 5
    load(world.archive, folder, "projects", [{**projects()[0], "slug": slug, "name": slug}])
    rows = [render(20 + n, id=name, asset_key=None, template_id="y" * 70) for n, name in enumerate(NAMES)]
    load(world.archive, folder, "renders", rows)
    for number, name in enumerate(NAMES):
        put(world.bucket, f"renders/{NORTHWIND}/{name}.pdf", pdf(name, size_bytes=100_000 + 1000 * number))
    assert summary_of(fetch_assets(world.archive, str(world.bucket))).counts["copied"] == len(NAMES)
    summary_of(export_assets(world.archive, folder / "out"))
    for name in NAMES:
        Path(world.archive.store.address, f"renders/{NORTHWIND}/{name}.pdf").write_bytes(b"%PDF-")
    summary_of(verify_assets(world.archive))
    write_report(gather_report(world.archive), "html", folder / "report.html")
    return Made(world, folder / "out", folder / "report.html")


def flat(text: str) -> str:
    return "".join(text.split())


def check(browser: Browser, rows: str, expected: list[list[str]]) -> None:
    assert browser.evaluate(FAULTS % rows) == []
    texts = [flat(text) for text in browser.evaluate(TEXTS % rows)]
    for words in expected:
        assert [text for text in texts if all(flat(word) in text for word in words)], (words, texts)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_export_shows_each_pdf_whole(browser: Browser, made: Made, width: int) -> None:
    browser.resize(width, 4000)
    browser.goto((made.export / "index.html").as_uri())
    browser.wait_for(f"document.querySelectorAll('#rows a').length === {len(NAMES) + 3}")
    shown = browser.evaluate("[...document.querySelectorAll('#rows a')].map((link) => link.textContent)")
    files = {file.name for file in made.export.rglob("*.pdf")}
    assert set(shown) == files
    check(browser, "#rows tr:not(.pad)", [[name, "2026-06-05 10:00:00", "B"] for name in files])
    assert browser.evaluate(FAULTS % "header, .projects li, .list thead tr") == []
    browser.click("#rows a")
    browser.wait_for("getComputedStyle(document.querySelector('#viewer')).display !== 'none'")
    assert browser.evaluate(FAULTS % ".viewer div") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_an_export_without_scripts_shows_each_pdf_whole(browser: Browser, made: Made, width: int) -> None:
    browser.resize(width, 4000)
    browser.goto((made.export / "index.html").as_uri())
    browser.evaluate(
        "document.body.classList.remove('live'); document.querySelector('main').innerHTML ="
        " document.querySelector('noscript').textContent"  # as the browser itself would without scripts
    )
    files = {file.name for file in made.export.rglob("*.pdf")}
    check(browser, ".plain tbody tr", [[name, "2026-06-05"] for name in files])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_shows_each_finding_whole(browser: Browser, made: Made, width: int) -> None:
    browser.resize(width, 6000)
    browser.goto(made.report.as_uri())
    keys = [f"renders/{NORTHWIND}/{name}.pdf" for name in NAMES]
    check(browser, "#findings tbody tr", [[key, "truncated", "UTC"] for key in keys])
    assert browser.evaluate(FAULTS % ".scroll tbody tr, dl, header, .hero") == []
    wider = "[...document.querySelectorAll('.scroll')].filter((it) => it.scrollWidth > it.clientWidth).length"
    assert browser.evaluate(wider) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_the_night_shows_each_step_whole(browser: Browser, tmp_path: Path, width: int) -> None:
    times = "2026-11-26T01:30:00.000Z", "2026-11-26T01:31:00.000Z"
    steps = [NightStep(f"import renders {name}"[:200], "x " * 90, "incomplete", 3, name, *times) for name in NAMES]
    steps.append(NightStep("verify", "craftkit-archive verify", "failed", 14, "<script>alert(1)</script>" * 20, *times))
    nights = [Night(run, *times, 14, "; ".join(NAMES), steps) for run in range(30)]
    file = tmp_path / "night.html"
    write_night_page(file, "/srv/" + "a" * 150, nights, [Skipped(render_id=None, key="k" * 300, reason="not stored")])
    browser.resize(width, 900)
    browser.goto(file.as_uri())
    assert browser.evaluate(FAULTS % ".steps tbody tr, .hero") == []
    assert browser.evaluate("document.querySelectorAll('.steps tbody tr').length") == len(steps)
    assert "verify" in browser.text(".steps")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_server_shows_each_pdf_whole(browser: Browser, made: Made, width: int) -> None:
    with live(made.world.archive) as url:
        browser.resize(width, 4000)
        browser.goto(url)
        browser.evaluate("document.getElementById('key').focus()")
        browser.type(LIVE_KEY)
        browser.press("Enter")
        browser.wait_for(f"document.querySelectorAll('#rows tr').length === {len(NAMES) + 3}")
        check(browser, "#rows tr", [[name, "2026-06-05", "kB"] for name in NAMES])


@pytest.mark.long
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_any_height_follow_each_other_without_a_gap(browser: Browser, tmp_path: Path, width: int) -> None:
    pages = Pages(BytesIO, "many", Volume())
    names = [f"{number:04}-{'long' * (number * 7 % 40)}.pdf" for number in range(700)]
    for name in names:
        made_at = "2026-01-05T10:00:00.000Z"
        where = (f"p/{name}", name, NORTHWIND, "p", "t", "succeeded", made_at, made_at)
        pages.add(IndexRow(*where, "1", "0" * 64, f"renders/{name}"), 1)
    [(_, file)] = pages.finish(0)
    file.seek(0)
    (tmp_path / "index.html").write_bytes(file.read())
    browser.resize(width, 740)
    browser.goto((tmp_path / "index.html").as_uri())
    browser.click("th.name button")
    step: Any = """(() => {
      const list = document.querySelector('#list'), frame = list.getBoundingClientRect();
      const seen = [...document.querySelectorAll('#rows tr:not(.pad)')].filter((row) => {
        const box = row.getBoundingClientRect();
        return box.bottom > frame.top && box.top < frame.bottom;
      });
      const boxes = seen.map((row) => row.getBoundingClientRect());
      const gaps = boxes.slice(1).filter((box, n) => box.top - boxes[n].bottom > 1);
      return [seen.map((row) => row.querySelector('a').textContent), gaps.length,
        list.scrollTop + list.clientHeight >= list.scrollHeight - 1];
    })()"""
    found: list[str] = []
    for _ in range(700):
        seen, gaps, over = browser.evaluate(step)
        assert gaps == 0
        assert seen
        new = [name for name in seen if name not in found]
        assert new == names[len(found) : len(found) + len(new)], json.dumps([found[-1:], seen])
        found += new
        if over:
            break
        browser.evaluate(SCROLL)
    assert found == names
