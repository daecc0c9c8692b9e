"""The page for people, in a real browser, as a person without a terminal uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from craftkit_archive.archive import Archive
from craftkit_archive.fetch.run import fetch_assets
from tests.browser import Browser
from tests.worlds import (
    GONE_KEY,
    LIVE_KEY,
    REVOKED_KEY,
    keys,
    live,
    load,
    pdf,
    projects,
    put,
    render,
    render_id,
    summary_of,
)

COUNT = 60
FAILED, QUEUED, UNSTORED, DAMAGED = 3, 4, 5, 58
ROWS = "document.querySelectorAll('#rows tr').length"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Return an archive of sixty renders, a day and a bit apart, of which a few have no PDF and one is damaged."""
    folder = tmp_path_factory.mktemp("page")
    rows = [
        render(number, created_at=f"2026-0{1 + number // 28}-{1 + number % 28:02} 10:00:00.12+00")
        for number in range(COUNT)
    ]
    rows[FAILED] |= {"status": "failed", "asset_key": None, "error_message": "The font “Söhne” is missing."}
    rows[QUEUED] |= {"status": "queued", "asset_key": None}
    for number, row in enumerate(rows):
        if row["asset_key"] and number != UNSTORED:
            put(folder / "bucket", row["asset_key"], pdf(f"render {number}", size_bytes=20_000 + 1_000 * number))
    archive = Archive.create(folder / "archive")
    load(archive, folder, "projects", projects())
    load(archive, folder, "keys", keys())
    load(archive, folder, "renders", rows)
    summary_of(fetch_assets(archive, str(folder / "bucket")))
    damaged = Path(archive.store.address, rows[DAMAGED]["asset_key"])
    body = bytearray(damaged.read_bytes())
    body[100] ^= 1
    damaged.write_bytes(body)
    return archive


@pytest.fixture
def url(archive: Archive) -> Iterator[str]:
    """Serve it."""
    with live(archive) as url:
        yield url


def enter(browser: Browser, url: str, key: str) -> None:
    """Open the page and enter a key, with the keyboard."""
    browser.goto(url)
    browser.evaluate("document.getElementById('key').focus()")
    browser.type(key)
    browser.press("Enter")


def enter_well(browser: Browser, url: str) -> None:
    """Enter a good key and wait for the list."""
    enter(browser, url, LIVE_KEY)
    browser.wait_for(f"{ROWS} === 50")


def shown(browser: Browser, number: int) -> str:
    """Return the text of a render's row."""
    return str(
        browser.evaluate(
            f"[...document.querySelectorAll('#rows tr')].filter(row => row.innerText.includes('{render_id(number)}'))"
            ".map(row => row.innerText).join('|')"
        )
    )


def press_button(browser: Browser, word: str, number: int) -> None:
    """Click on a button in a render's row."""
    browser.evaluate(
        f"[...document.querySelectorAll('#rows button')].find(it => it.textContent === '{word} {render_id(number)}')"
        f".id = '{word}-{number}'"
    )
    browser.click(f"#{word}-{number}")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("ck_live_SAMPLEunknown0000007", "not valid here"),
        (REVOKED_KEY, "revoked"),
        ("hello", "not valid here"),
        ("ck_live_ with spaces", "no spaces"),
        (GONE_KEY, "no longer exists"),
    ],
)
def test_a_wrong_key_is_explained_and_not_kept(browser: Browser, url: str, key: str, words: str) -> None:
    enter(browser, url, key)
    browser.wait_for("!document.getElementById('entrance-problem').hidden")
    assert words in browser.text("#entrance-problem")
    assert browser.evaluate("document.activeElement.id") == "key"
    assert browser.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    browser.problems.clear()  # Chromium itself notes every 401 and 403


def test_a_good_key_shows_the_renders_newest_first_page_by_page(browser: Browser, url: str) -> None:
    enter_well(browser, url)
    first = browser.text("#rows tr")
    assert render_id(COUNT - 1) in first
    assert "succeeded" in first
    assert "there are more" in browser.text("#told")
    browser.click("#more")
    browser.wait_for(f"{ROWS} === {COUNT}")
    assert browser.text("#told") == f"{COUNT} renders, newest first."
    assert "The font “Söhne” is missing." in shown(browser, FAILED)
    assert "not in this archive" in shown(browser, UNSTORED)
    for number in (FAILED, QUEUED, UNSTORED):
        assert "Download" not in shown(browser, number)


def test_status_date_and_id_narrow_the_list(browser: Browser, url: str) -> None:
    enter_well(browser, url)
    browser.evaluate(
        "document.getElementById('status').value = 'failed';"
        "document.getElementById('status').dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.wait_for(f"{ROWS} === 1")
    assert render_id(FAILED) in browser.text("#rows")
    browser.click("button[type=reset]")
    browser.wait_for(f"{ROWS} === 50")
    browser.evaluate(
        "document.getElementById('since').value = '2026-01-10'; document.getElementById('until').value = '2026-01-12';"
        "document.getElementById('until').dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.wait_for(f"{ROWS} === 3")
    browser.click("button[type=reset]")
    browser.click("#search")
    browser.type(render_id(17))
    browser.wait_for(f"{ROWS} === 1")
    assert render_id(17) in browser.text("#rows")
    browser.type("nothing")
    browser.wait_for(f"{ROWS} === 0")
    assert browser.text("#told") == "No render matches. Try another filter."


def test_a_pdf_is_downloaded_byte_for_byte_and_opened_in_a_tab(browser: Browser, url: str) -> None:
    enter_well(browser, url)
    press_button(browser, "Download", 59)
    assert browser.wait_for_download(f"{render_id(59)}.pdf") == pdf("render 59", size_bytes=20_000 + 59_000)
    press_button(browser, "Open", 57)
    browser.wait_for_tab("blob:")


def test_the_project_is_named_and_what_was_opened_is_freed_when_its_tab_is_closed(browser: Browser, url: str) -> None:
    browser.goto(url)
    browser.evaluate(
        "window.made = []; window.freed = [];"
        "const [make, free] = [URL.createObjectURL, URL.revokeObjectURL];"
        "URL.createObjectURL = (file) => { const url = make(file); made.push([url, file.name]); return url; };"
        "URL.revokeObjectURL = (url) => { freed.push(url); free(url); };"
        "window.tabs = []; const open = window.open;"
        "window.open = (...how) => { tabs.push(open(...how)); return tabs[0]; }"
    )
    browser.evaluate("document.getElementById('key').focus()")
    browser.type(LIVE_KEY)
    browser.press("Enter")
    browser.wait_for(f"{ROWS} === 50")
    assert browser.text("#archive-title") == "Renders of Northwind"
    press_button(browser, "Open", 57)
    browser.wait_for_tab("blob:")
    assert browser.evaluate("made[0][1]") == f"{render_id(57)}.pdf"
    assert browser.evaluate("freed.length") == 0
    browser.evaluate("tabs[0].close()")
    browser.wait_for("freed.length === 1 && freed[0] === made[0][0]")


def test_a_damaged_pdf_is_explained_and_not_given(browser: Browser, url: str) -> None:
    enter_well(browser, url)
    press_button(browser, "Download", DAMAGED)
    browser.wait_for("!document.getElementById('problem').hidden")
    assert "sends nothing rather than something damaged" in browser.text("#problem")
    assert list(browser.downloads.iterdir()) == []
    browser.problems.clear()  # Chromium itself notes every 500


def test_the_key_survives_a_reload_of_the_tab_and_is_forgotten_on_demand(browser: Browser, url: str) -> None:
    enter_well(browser, url)
    browser.goto(url)
    browser.wait_for(f"{ROWS} === 50")
    assert LIVE_KEY not in browser.text()
    browser.click("#forget")
    browser.wait_for("!document.getElementById('entrance').hidden")
    assert browser.evaluate("sessionStorage.length") == 0
    browser.goto(url)
    assert browser.evaluate("document.getElementById('archive').hidden")


def test_the_keyboard_alone_is_enough(browser: Browser, url: str) -> None:
    browser.goto(url)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.id") == "key"
    browser.type(LIVE_KEY)
    browser.press("Enter")
    browser.wait_for(f"{ROWS} === 50")
    reached = set()
    for _ in range(16):
        browser.press("Tab")
        reached.add(browser.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"search", "status", "since", "until", f"Open {render_id(59)}", f"Download {render_id(59)}"} <= reached


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_cut_off_whatever_the_width(browser: Browser, url: str, width: int) -> None:
    browser.resize(width, 740)
    enter_well(browser, url)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('button, input, select, td, th')].filter(it => it.offsetParent)"
        f".filter(it => it.getBoundingClientRect().right > {width}).length"
    )
    assert browser.evaluate(outside) == 0
    unlabelled = (
        "[...document.querySelectorAll('input, select')].filter(it => !it.labels.length && !it.ariaLabel)"
        ".concat([...document.querySelectorAll('button')].filter(it => !it.textContent.trim())).length"
    )
    assert browser.evaluate(unlabelled) == 0


def test_no_script_but_the_pages_own_can_run(browser: Browser, url: str) -> None:
    browser.goto(url)
    browser.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'x = 1'}))")
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"x = 1\">')")
    assert browser.evaluate("typeof x") == "undefined"
    assert any("Content Security Policy" in problem for problem in browser.problems)
    browser.problems.clear()
