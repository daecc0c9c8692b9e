"""The site of the documentation: whole without a network, and its commands do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.worlds import NORTHWIND, ROOT, keys, pdf, projects, put, render, write_json, write_ndjson

PROGRAM = f"""#!/bin/sh
export PYTHONPATH={shlex.quote(str(ROOT))}
exec {shlex.quote(sys.executable)} -c 'import cli; cli.main()' "$@"
"""
COUNT = 4

# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words: list[str | Path] = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="?([^" >]+)', page.read_text())
        loaded += re.findall(r'<link\b(?![^>]*rel="?canonical)[^>]*\bhref="?([^" >]+)', page.read_text())
        assert [one for one in loaded if re.match(r"(https?:)?//", one)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_every_page_is_in_the_navigation(site: Path) -> None:
    front = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs").with_suffix(""))
        assert re.search(rf'href="?(\./)?{name}\.html', front), page.name


def test_the_pages_open_from_a_folder_and_the_search_finds_things(site: Path, browser: Browser) -> None:
    browser.goto((site / "index.html").as_uri())
    browser.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
    browser.type("quarantine")
    browser.press(" ")  # the search begins when a key is let go
    assert browser.wait_for("document.querySelectorAll('.md-search-result__item').length")
    browser.goto((site / "api.html").as_uri())
    assert "verify_assets" in browser.text()


# --- the commands ----------------------------------------------------------------------------------------------------


class Place:
    """A machine as the pages have it: an archive, a mirror, files of metadata, a backup, an export."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").symlink_to(ROOT / "data")
        program = folder / "bin/craftkit-archive"
        program.parent.mkdir()
        program.write_text(PROGRAM)
        program.chmod(0o755)
        known = [{**one, "slug": "acme"} if one["id"] == NORTHWIND else one for one in projects()]
        rows = [render(number) for number in range(COUNT)]
        for row in rows:
            put(folder / "mnt/mirror", row["asset_key"], pdf(row["id"]))
        write_json(folder / "projects.json", known)
        write_json(folder / "keys.json", keys())
        write_ndjson(folder / "renders.ndjson", rows)

    def sh(self, script: str, *, code: int = 0) -> str:
        """Run a block of a page in the place of its paths, and return all that it wrote."""
        script = re.sub(r"(?<![\w.])/(srv|mnt|backups|tmp|var)/", rf"{self.folder}/\1/", script)
        script = re.sub(r"(?<![\w.])/(backups)\b(?!/)", rf"{self.folder}/\1", script)
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "CRAFTKIT_ARCHIVE": f"{self.folder}/srv/archive"}
        done = subprocess.run(
            ["sh", "-ec", script], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place")


def blocks(page: str) -> list[str]:
    """Return the commands of a page that are to be run: those of `sh`; what `bash` has needs a network, or goes on."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_first_hour_goes_as_the_page_says(place: Place) -> None:
    said = place.sh("\n".join(blocks("first-hour.md")))
    assert "verify ends with 1" in said
    assert "1 repaired" in said
    assert re.search(r"^[0-9a-f]{64}$", said, re.MULTILINE)
    assert (place.folder / "srv/archive/night.html").exists()
    assert list((place.folder / "backups").glob("archive-*.db"))


def test_a_folder_of_aws_s3_sync_becomes_an_archive_as_the_page_says(place: Place) -> None:
    mirror = place.folder / "mnt/mirror"
    put(mirror, f"renders/{NORTHWIND}/nobody.pdf", pdf("nobody"))
    (mirror / render(1)["asset_key"]).unlink()
    take_over, look = blocks("from-s3-sync.md")
    before = {file: file.stat().st_ino for file in mirror.rglob("*.pdf")}
    place.sh(f"set +e\n{take_over}\ntrue")
    found = place.sh(f"set +e\n{look}\ntrue")
    assert render(1)["id"] in found
    assert "nobody.pdf" in found
    assert {file: file.stat().st_ino for file in mirror.rglob("*.pdf")} == before, "no byte is copied"


@pytest.mark.long
def test_a_hand_over_goes_as_the_page_says(place: Place) -> None:
    place.sh(blocks("first-hour.md")[2] + blocks("first-hour.md")[3] + blocks("first-hour.md")[4])
    said = place.sh("\n".join(blocks("hand-over.md")))
    assert "hold place" in said
    assert re.search(r"^[0-9a-f]{64}$", said, re.MULTILINE)
    (bag,) = (place.folder / "mnt/usb").iterdir()
    assert len(list(bag.rglob("*.pdf"))) == COUNT


def _damage(place: Place) -> None:
    first, second, *_ = sorted((place.folder / "srv/archive/assets/renders").rglob("*.pdf"))
    first.unlink()
    second.chmod(0o644)
    second.write_bytes(b"rust")


def _lose_store(place: Place) -> None:
    shutil.rmtree(place.folder / "srv/archive/assets")


def _lose_catalog(place: Place) -> None:
    for file in (place.folder / "srv/archive").glob("archive.db*"):
        file.unlink()


def _lose_catalog_and_backup(place: Place) -> None:
    _lose_catalog(place)
    (place.folder / "backups/archive.db").unlink()


def _damage_catalog(place: Place) -> None:
    _lose_catalog(place)
    (place.folder / "srv/archive/archive.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 50_000)


def _lose_log(place: Place) -> None:
    (place.folder / "srv/archive/audit.ndjson").unlink()


def _cut_log(place: Place) -> None:
    file = place.folder / "srv/archive/audit.ndjson"
    os.truncate(file, file.stat().st_size - 40)


def _replace_log(place: Place) -> None:
    file = place.folder / "srv/archive/audit.ndjson"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))


def _lose_disposed(place: Place) -> None:
    (place.folder / "srv/archive/disposed.ndjson").unlink()


def _lose_catalog_and_disposed(place: Place) -> None:
    """The backup that is left knows nothing of the disposal."""
    _lose_catalog(place)
    _lose_disposed(place)
    (place.folder / "backups/older.db").replace(place.folder / "backups/archive.db")


def _lose_access_log(place: Place) -> None:
    (place.folder / "var/log/craftkit-archive/access.ndjson.1").unlink()


def _lose_configuration(place: Place) -> None:
    (place.folder / "srv/archive/craftkit-archive.toml").unlink()


def _kill_night(place: Place) -> None:
    words: list[str | Path] = [
        place.folder / "bin/craftkit-archive",
        "--archive",
        place.folder / "srv/archive",
        "nightly",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as night:
        assert night.stderr is not None
        assert b"fetch mirror" in night.stderr.readline()  # its first step has ended, and others are to come
        night.kill()


def _lose_machine(place: Place) -> None:
    shutil.rmtree(place.folder / "srv")


def _nothing(_place: Place) -> None:
    pass


LOSSES: dict[str, Callable[[Place], None]] = {
    "PDFs are damaged or deleted": _damage,
    "PDFs are damaged, and only an export has them": _damage,
    "All PDFs are lost": _lose_store,
    "The catalog is deleted": _lose_catalog,
    "The catalog is damaged": _damage_catalog,
    "The catalog is deleted, and there is no backup": _lose_catalog_and_backup,
    "The audit log is deleted": _lose_log,
    "The audit log is cut off in the middle of a line": _cut_log,
    "The audit log was replaced by an older copy": _replace_log,
    "The list of disposed renders is deleted": _lose_disposed,
    "The catalog and the list of disposed renders are deleted": _lose_catalog_and_disposed,
    "An access log is deleted": _lose_access_log,
    "The configuration is deleted": _lose_configuration,
    "A night was killed half-way": _kill_night,
    "The machine is lost": _lose_machine,
    "The archive was restored over by mistake": _nothing,
    "The bucket is lost": _nothing,
}


def _recoveries() -> dict[str, str]:
    text = (ROOT / "docs/recovery.md").read_text().partition("## Each loss, with the commands\n")[2]
    return dict(re.findall(r"^### (.+?)\n.*?^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def test_every_loss_of_the_page_is_tried() -> None:
    assert set(_recoveries()) == set(LOSSES)


def _settle(place: Place, *, disposed: bool) -> str:
    """Make an archive as the pages say, with the copies that they advise, and return its seal."""
    place.sh("".join(blocks("first-hour.md")[2:5]))
    place.sh(blocks("first-hour.md")[5].partition("craftkit-archive nightly")[0])  # the configuration
    log = place.folder / "var/log/craftkit-archive/access.ndjson.1"
    log.parent.mkdir(parents=True)
    log.write_text('{"time":"2026-11-25T10:00:00.000Z"}\n')
    os.utime(log, (0, 0))
    place.sh("craftkit-archive audit access-log /var/log/craftkit-archive/access.ndjson.1")
    if disposed:
        place.sh(
            "craftkit-archive backup /backups/older.db; craftkit-archive renders list --format ids | head -n 1 > ids"
        )
        place.sh("craftkit-archive dispose --ids ids --reason 'a request'")
    place.sh(blocks("recovery.md")[0])
    place.sh("craftkit-archive export /backups/export.zip")
    return place.sh("craftkit-archive seal").splitlines()[0]


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], tuple[Place, str]]:
    """Return what gives a place with an archive that lost nothing yet, and its seal; made once, and copied back."""
    folder = tmp_path_factory.mktemp("settled")
    kept: dict[bool, tuple[Place, str]] = {}

    def settle(disposed: bool) -> tuple[Place, str]:
        shutil.rmtree(folder / "place", ignore_errors=True)
        copy = folder / f"disposed-{disposed}"
        if disposed in kept:
            shutil.copytree(copy, folder / "place", symlinks=True)
        else:
            (folder / "place").mkdir()
            place = Place(folder / "place")
            kept[disposed] = (place, _settle(place, disposed=disposed))
            shutil.copytree(folder / "place", copy, symlinks=True)
        return kept[disposed]

    return settle


@pytest.mark.long
@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_lost_comes_back_as_the_page_says(settled: Callable[[bool], tuple[Place, str]], loss: str) -> None:
    place, before = settled("disposed" in loss)
    LOSSES[loss](place)
    script = _recoveries()[loss]
    # A restored catalog says what it does not know, with 3, and the page goes on.
    place.sh(re.sub(r"^(craftkit-archive restore .*)$", r"\1 || [ $? = 3 ]", script, flags=re.MULTILINE))
    place.sh("craftkit-archive verify")
    place.sh("craftkit-archive audit verify")
    assert place.sh("craftkit-archive seal").splitlines()[0] == before
    if "disposed" in loss:
        gone = (place.folder / "ids").read_text().strip()
        assert gone in place.sh("craftkit-archive renders list --disposed --format ids")
        assert gone in (place.folder / "srv/archive/disposed.ndjson").read_text()
    if loss == "The bucket is lost":
        new, old = (place.folder / "mnt" / name for name in ("new-bucket", "mirror"))
        assert {f.relative_to(new) for f in new.rglob("renders/**/*.pdf")} == {
            f.relative_to(old) for f in old.rglob("*.pdf")
        }
