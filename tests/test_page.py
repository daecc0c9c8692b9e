"""The page of an export, in a real browser, opened from the disk."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pytest

from craftkit_archive.export.index import IndexRow, Volume
from craftkit_archive.export.pages import Pages, page_name
from craftkit_archive.export.reader import CATALOGUE
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from tests.browser import Browser
from tests.worlds import NORTHWIND, fill, load, needs, pdf, projects, put, render, render_id, summary_of

HOSTILE = (
    "</noscript></script><script>document.title='owned'</script><img src=x onerror=document.title='owned'> & \"q\" 'r'"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(needs("chromium"), tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export 12 renders of two projects, the first of which has a hostile name, and one that is lacking."""
    folder = tmp_path_factory.mktemp("page")
    world = fill(folder, count=6)
    other = projects()[1]["id"]
    rows = [
        render(number, project_id=other, template_id=HOSTILE, created_at=f"2026-0{number - 9}-05T10:00:00Z")
        for number in range(10, 16)
    ]
    for row in rows:
        put(world.bucket, row["asset_key"], pdf(row["id"], size_bytes=1000 * int(row["id"][-2:])))
    load(world.archive, folder, "projects", [{**projects()[0], "slug": HOSTILE, "name": HOSTILE}])
    load(world.archive, folder, "renders", rows)
    summary_of(fetch_assets(world.archive, str(world.bucket)))
    load(world.archive, folder, "renders", [render(20)])
    summary_of(export_assets(world.archive, folder / "out"))
    return folder / "out"


def names(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate("[...document.querySelectorAll('#rows a')].map((link) => link.textContent)")
    return found


def test_it_searches_sorts_filters_and_opens_in_place(browser: Browser, exported: Path) -> None:
    browser.problems.clear()
    browser.goto((exported / CATALOGUE).as_uri())
    browser.wait_for("document.querySelectorAll('#rows a').length === 12")
    assert browser.text("h1").startswith("</noscript>"), "a name is text"
    assert "1 PDF is missing" in browser.text(".lacking")
    assert browser.evaluate("document.querySelector('th.created').getAttribute('aria-sort')") == "descending"
    browser.click("th.size button")
    assert names(browser)[0] == f"{render_id(15)}.pdf"
    browser.click("th.size button")
    assert names(browser)[-1] == f"{render_id(15)}.pdf"
    browser.click("#search")
    browser.type("SOUTHwind 000011")
    browser.wait_for("document.querySelectorAll('#rows a').length === 1")
    assert names(browser) == [f"{render_id(11)}.pdf"]
    assert browser.text("#shown") == "1 of 12"
    browser.click("#clear")
    browser.wait_for("document.querySelectorAll('#rows a').length === 12")
    browser.click("[data-project=southwind]")
    browser.wait_for("document.querySelectorAll('#rows a').length === 6")
    browser.click("#clear")
    browser.click("[data-month='2026-01'] rect")
    browser.wait_for("document.querySelectorAll('#rows a').length === 1")
    href = browser.evaluate("document.querySelector('#rows a').getAttribute('href')")
    assert (exported / unquote(href)).is_file()
    browser.click("#rows a")
    browser.wait_for("getComputedStyle(document.querySelector('#viewer')).display !== 'none'")
    assert browser.text("#opened") == f"{render_id(10)}.pdf"
    assert browser.evaluate("document.querySelector('#alone').href") == (exported / unquote(href)).as_uri()
    assert unquote(browser.wait_for_frame()).rpartition("/")[2] == f"{render_id(10)}.pdf"
    browser.press("Escape")
    browser.wait_for("getComputedStyle(document.querySelector('#viewer')).display === 'none'")
    assert browser.evaluate("document.title").startswith("</noscript>")
    assert browser.problems == []


def test_it_is_a_plain_list_without_scripts(browser: Browser, exported: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.goto((exported / CATALOGUE).as_uri())
        document = browser.call("DOM.getDocument", depth=-1)["root"]
        links = browser.call("DOM.querySelectorAll", nodeId=document["nodeId"], selector="noscript td a")["nodeIds"]
        assert len(links) == 12
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_it_asks_nobody(exported: Path) -> None:
    page = (exported / CATALOGUE).read_text()
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    rows = [line for line in page.splitlines() if line.startswith('<tr><td><a href="')]
    assert len(rows) == 12
    for row in rows:
        assert (exported / unquote(row.split('"')[1])).is_file()


def cells(number: int) -> IndexRow:
    made = f"20{number % 20 + 10}-{number % 12 + 1:02}-05T10:00:00.000Z"
    path = f"p{number % 7}/{made[:4]}/{render_id(number)}.pdf"
    where = (path, render_id(number), NORTHWIND, f"p{number % 7}", f"t{number % 30}", "succeeded", made, made)
    return IndexRow(*where, str(number), "0" * 64, f"renders/{number}.pdf")


def write_page(folder: Path, count: int) -> list[Path]:
    pages = Pages(BytesIO, "many", Volume())
    for number in range(count):
        pages.add(cells(number), number)
    files = []
    for name, file in pages.finish(0):
        file.seek(0)
        files.append(folder / name)
        files[-1].write_bytes(file.read())
    return files


def test_fifty_thousand_rows_are_quick(browser: Browser, tmp_path: Path) -> None:
    (file,) = write_page(tmp_path, 50_000)
    assert file.stat().st_size < 16_000_000
    browser.goto(file.as_uri())
    browser.wait_for("document.querySelectorAll('#rows a').length > 10")
    assert browser.evaluate("document.querySelectorAll('#rows tr').length") < 200, "only what is seen is drawn"
    browser.evaluate("document.querySelector('#list').scrollTop = 1e9")
    browser.click("#search")
    browser.type(render_id(31_415)[-8:])
    browser.wait_for("document.querySelectorAll('#rows a').length === 1")
    assert names(browser) == [f"{render_id(31_415)}.pdf"]
    assert browser.text("#shown") == "1 of 50,000"


def test_what_is_too_much_for_one_page_goes_on_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.export.pages.PAGE_ROWS", 10)
    files = write_page(tmp_path, 25)
    assert [file.name for file in files] == ["index.html", "index-002.html", "index-003.html"]
    rows = [file.read_text().count('<tr><td><a href="') for file in files]
    assert [count - 1 for count in rows] == [10, 10, 5], "and one in the script"
    assert all(f'href="{page_name(1)}"' in file.read_text() for file in (files[0], files[2]))
    assert "25 PDFs" in files[0].read_text()
