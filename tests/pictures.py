"""Take the pictures of the page that the docs show, from the sample: `make pictures`."""

import tempfile
from pathlib import Path

from craftkit_archive.archive import Archive
from craftkit_archive.quickstart import choose_download, quickstart_steps
from tests.browser import Browser
from tests.worlds import ROOT, SAMPLE, live, needs

READY = "document.querySelectorAll('#rows tr').length > 0"


def main() -> None:
    """Write docs/page-*.webp."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = Archive.create(folder / "archive")
        for step in quickstart_steps(archive, SAMPLE, folder / "export"):
            for _ in step.records:
                pass
        _, key = choose_download(archive)
        with live(archive) as url, Browser(needs("chromium"), folder / "browser") as browser:
            browser.resize(1100, 700)

            def enter(plain: str | None) -> None:
                browser.goto(url)
                browser.evaluate("document.getElementById('key').focus()")
                browser.type(plain or "")
                browser.press("Enter")

            enter("ck_live_mistyped")
            browser.wait_for("!document.getElementById('entrance-problem').hidden")
            browser.screenshot(ROOT / "docs/page-key.webp")
            enter(key.key)
            browser.wait_for(READY)
            browser.screenshot(ROOT / "docs/page-list.webp")
            browser.resize(360, 740)
            browser.screenshot(ROOT / "docs/page-narrow.webp")


if __name__ == "__main__":
    main()
