"""The browser that other tests use: a real one, whose complaints are heard."""

from pathlib import Path

import pytest

from tests.browser import Browser, BrowserError

PAGE = """<!doctype html><title>A page</title><label>Name <input id="name"></label>
<button onclick="document.title = document.getElementById('name').value">Go</button>
<a id="get" download="it.txt" href="data:text/plain,hello">Get it</a>"""


def test_a_page_from_a_file_is_typed_into_clicked_downloaded_from_and_pictured(
    browser: Browser, tmp_path: Path
) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(PAGE)
    browser.goto(page.as_uri())
    browser.press("Tab")
    browser.type("Ünïcode")
    browser.click("button")
    assert browser.wait_for("document.title !== 'A page' && document.title") == "Ünïcode"
    browser.click("#get")
    assert browser.wait_for_download("it.txt") == b"hello"
    browser.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_a_page_complains_of_is_heard(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><script>missing()</script>")
    browser.goto(page.as_uri())
    assert "missing is not defined" in browser.problems.pop()
    with pytest.raises(BrowserError, match="nothing"):
        browser.evaluate("nothing")
    browser.problems.clear()


def test_nothing_is_left_of_the_test_before(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE)
    browser.goto(page.as_uri())
    browser.evaluate("localStorage.setItem('kept', 'yes')")
    browser.renew()
    browser.goto(page.as_uri())
    assert browser.evaluate("localStorage.length") == 0
