"""Reports: one run, told in every form, from the ledger alone; and what monitors ask."""

import csv
import io
import json
import re
import sqlite3
import stat
import subprocess
import xml.etree.ElementTree as ElementTree
from contextlib import closing
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.audit.sealing import seal_archive
from craftkit_archive.doctor import examine_archive
from craftkit_archive.errors import NotWritableError, RequestError
from craftkit_archive.records import Diagnosis, Finding
from craftkit_archive.report.gather import (
    WRITERS,
    describe_archive,
    form_of,
    gather_report,
    nagios_status,
    write_report,
)
from craftkit_archive.report.page import MOST_FINDINGS
from craftkit_archive.verify.run import Limits, verify_assets
from tests.browser import Browser
from tests.worlds import (
    ROOT,
    Done,
    World,
    command,
    fill,
    load,
    needs,
    pdf,
    program,
    put,
    render,
    render_id,
    summary_of,
)

HOSTILE = '=cmd|"/c calc"!A1<script>document.title="taken"</script>\u202egnp.exe'


@pytest.fixture
def damaged(world: World) -> World:
    """Return an archive with three findings, one of which has a hostile name, and an orphan, verified."""
    world.asset(0).unlink()
    world.asset(1).write_bytes(b"")
    row = render(9, asset_key=f"{HOSTILE}.pdf")
    load(world.archive, world.folder, "renders", [row])
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        given = (row["id"], row["asset_key"], 10, "0" * 64, "2026-06-01T00:00:00.000Z")
        sql = "INSERT INTO assets (render_id, key, size_bytes, sha256, stored_at) VALUES (?, ?, ?, ?, ?)"
        connection.execute(sql, given)
    world.archive.catalog.count_anew()  # the totals do not see what another program inserts
    put(Path(world.archive.store.address), "renders/left over.pdf", b"x")
    assert summary_of(verify_assets(world.archive)).outcome == "problems"
    return world


def written(world: World, form: Any, run_id: int | None = None) -> str:
    out = io.StringIO()
    WRITERS[form](gather_report(world.archive, run_id), out)
    return out.getvalue()


# --- every form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_names_every_finding_and_reads_no_asset(damaged: World, form: Any, tmp_path: Path) -> None:
    Path(damaged.archive.store.address).rename(tmp_path / "unmounted")
    text = written(damaged, form)
    if form == "prometheus":
        assert 'verdict="missing"} 2' in text
        assert 'verdict="empty"} 1' in text
    else:
        for word in (render_id(0), render_id(1), "left over.pdf", "missing", "empty"):
            assert word in text
        # People read another word than programs.
        assert ("extra" if form in ("text", "html") else "orphan") in text


def test_a_table_holds_no_formula(damaged: World) -> None:
    rows = list(csv.DictReader(io.StringIO(written(damaged, "csv"))))
    assert {row["verdict"] for row in rows} == {"missing", "empty", "orphan"}
    assert f"'{HOSTILE}.pdf" in {row["key"] for row in rows}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_lines_of_json_are_the_findings_and_at_last_the_run(damaged: World) -> None:
    lines = [json.loads(line) for line in written(damaged, "ndjson").splitlines()]
    assert [line["type"] for line in lines] == ["finding"] * 4 + ["run"]
    assert lines[-1]["counts"]["missing"] == 2
    assert len(lines[-1]["seal"]) == 64


def test_junit_counts_what_it_lists(damaged: World) -> None:
    [suite] = ElementTree.fromstring(written(damaged, "junit"))
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) == 5
    for kind, count in (("failure", 3), ("skipped", 1), ("error", 0)):
        assert len(suite.findall(f"testcase/{kind}")) == count
    assert (suite.attrib["failures"], suite.attrib["skipped"], suite.attrib["errors"]) == ("3", "1", "0")
    assert any("document.title" in case.attrib["name"] for case in cases)


def test_metrics_are_in_prometheus_form(damaged: World) -> None:
    text = written(damaged, "prometheus")
    sample = re.compile(r'craftkit_archive_[a-z_]+\{archive="[0-9a-f-]{36}"(,[a-z]+="[a-z0-9-]+")?\} [0-9.e+-]+')
    for line in text.splitlines():
        assert line.startswith(("# HELP craftkit_archive_", "# TYPE craftkit_archive_")) or sample.fullmatch(line)
    metrics = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if not line.startswith("#")}
    assert metrics["craftkit_archive_last_verify_success"] == 0
    assert metrics["craftkit_archive_bad_assets"] == 3


def test_an_older_run_is_told_as_it_was(damaged: World) -> None:
    first = gather_report(damaged.archive).run.id
    summary_of(verify_assets(damaged.archive, selection=damaged.archive.select(projects=("southwind",))))
    assert gather_report(damaged.archive).headline == (
        "Nothing was due: no PDF was checked. The whole archive: 3 damaged"
    )
    assert gather_report(damaged.archive, first).headline == "3 of 6 PDFs are not what was stored"
    with pytest.raises(RequestError):
        gather_report(damaged.archive, 99)


def test_a_run_that_was_killed_is_not_told_as_good(world: World) -> None:
    world.archive.catalog.begin_run("verify", {}, world.archive.now())
    report = gather_report(world.archive)
    assert "did not finish" in report.headline
    assert 'class="card hero warn"' in written(world, "html")


def test_a_report_is_whole_or_as_it_was(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary_of(verify_assets(world.archive))
    file = tmp_path / "metrics.prom"
    file.write_text("old")

    def broken(*_given: object) -> None:
        raise RuntimeError("half-way")

    monkeypatch.setitem(WRITERS, "prometheus", broken)
    with pytest.raises(RuntimeError):
        write_report(gather_report(world.archive), "prometheus", file)
    assert file.read_text() == "old"
    assert list(tmp_path.glob(".metrics*")) == []
    with pytest.raises(NotWritableError):
        write_report(gather_report(world.archive), "text", tmp_path / "no/such/folder.txt")


def test_the_suffix_says_the_form() -> None:
    assert [form_of(Path(f"r{suffix}")) for suffix in (".HTML", ".xml", ".prom", ".txt")] == [
        "html",
        "junit",
        "prometheus",
        "text",
    ]
    with pytest.raises(RequestError):
        form_of(Path("report.pdf"))


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(damaged: World, browser: Browser, tmp_path: Path) -> Browser:
    """Open the report of a damaged archive in a browser."""
    write_report(gather_report(damaged.archive), "html", tmp_path / "report.html")
    browser.goto((tmp_path / "report.html").as_uri())
    return browser


def test_the_page_needs_nothing_else(damaged: World) -> None:
    html = written(damaged, "html")
    assert not re.search(r"(?:src|href)=|url\(|@import|fetch\(|https?://", html)
    assert "default-src 'none'" in html


def test_foreign_names_stay_text(page: Browser) -> None:
    assert page.evaluate("document.title") != "taken"
    shown = page.evaluate("document.querySelector('#findings').textContent")
    assert '<script>document.title="taken"</script>' in shown
    assert "\u202e" not in shown, "what turns the direction of writing is shown as an escape"


def test_the_table_filters_and_sorts(page: Browser) -> None:
    visible = "[...document.querySelectorAll('#findings tbody tr')].filter(r => !r.hidden).map(r => r.dataset.verdict)"
    change = (
        "(() => {{ const it = document.querySelector('{}'); it.value = '{}'; it.dispatchEvent(new Event('{}')) }})()"
    )
    assert sorted(page.evaluate(visible)) == ["empty", "extra", "missing", "missing"]
    page.click("#words")
    page.type("LEFT over")
    assert page.evaluate(visible) == ["extra"]
    assert page.text("#shown") == "1 of 4 shown"
    page.evaluate(change.format("#words", "", "input"))
    page.evaluate(change.format("#verdict", "missing", "change"))
    assert page.evaluate(visible) == ["missing", "missing"]
    page.evaluate(change.format("#verdict", "", "change"))
    page.click("#findings th button")
    assert page.evaluate(visible) == ["empty", "extra", "missing", "missing"]
    page.click("#findings th button")
    assert page.evaluate(visible) == ["missing", "missing", "extra", "empty"]
    assert page.evaluate("document.querySelector('#findings th').getAttribute('aria-sort')") == "descending"


def test_the_page_is_as_wide_as_the_screen(page: Browser) -> None:
    for width in (360, 820, 1400):
        page.resize(width, 900)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.long
def test_thousands_of_findings_are_quick_and_the_rest_is_said(world: World, browser: Browser, tmp_path: Path) -> None:
    summary = summary_of(verify_assets(world.archive))
    findings = [
        Finding(summary.run_id or 0, f"r{n}", f"renders/p/r{n}.pdf", "missing", world.archive.now())
        for n in range(MOST_FINDINGS + 50)
    ]
    world.archive.catalog.add_findings(findings)
    write_report(gather_report(world.archive), "html", tmp_path / "report.html")
    browser.goto((tmp_path / "report.html").as_uri())
    assert browser.evaluate("document.querySelectorAll('#findings tbody tr').length") == MOST_FINDINGS
    assert "These are the first 5,000" in browser.evaluate("document.body.textContent")
    browser.evaluate(
        "const w = document.querySelector('#words'); w.value = 'r4999'; w.dispatchEvent(new Event('input'))"
    )
    assert browser.evaluate("document.querySelector('#shown').textContent") == "1 of 5,000 shown"


# --- coverage and monitors -------------------------------------------------------------------------------------------


def test_status_says_how_much_was_read_of_late(world: World) -> None:
    def coverage() -> dict[str, Any]:
        details: dict[str, Any] = summary_of(describe_archive(world.archive)).details["coverage"]
        return details

    assert coverage()["text"].startswith("0 % of")
    summary_of(verify_assets(world.archive, limits=Limits(size_bytes=1)))
    assert 0 < coverage()["covered_bytes"] < coverage()["stored_bytes"]
    summary_of(verify_assets(world.archive))
    assert coverage() | {"text": ""} == {
        "days": 30,
        "stored_bytes": coverage()["stored_bytes"],
        "covered_bytes": coverage()["stored_bytes"],
        "due_bytes": 0,
        "text": "",
    }


def test_coverage_over_time_is_kept_with_the_runs(world: World) -> None:
    summary_of(verify_assets(world.archive, limits=Limits(size_bytes=1)))
    summary_of(verify_assets(world.archive))
    first, second = world.archive.catalog.covering_runs(9)
    assert 0 < (first.covered_bytes or 0) < (second.covered_bytes or 0) == second.stored_bytes


def later(world: World, **much: float) -> Archive:
    """Open the archive at a later time."""
    clock = world.archive.clock
    return Archive(world.archive.path, clock=lambda: clock() + timedelta(**much))


def test_an_archive_of_nothing_is_not_well(tmp_path: Path) -> None:
    world = fill(tmp_path, count=0)
    put(Path(world.archive.store.address), "renders/a.pdf", pdf("anybody's"))
    for level in ("digest", "size"):
        summary_of(verify_assets(world.archive, level=level))
        code, line = nagios_status(world.archive)
        assert (code, "%" in line.partition("|")[0]) == (1, False)
        headline = gather_report(world.archive).headline
        assert "No PDF was checked" in headline
    assert "%" not in summary_of(describe_archive(world.archive)).details["coverage"]["text"]


def test_the_report_of_sizes_calls_nothing_good(world: World) -> None:
    summary_of(verify_assets(world.archive, level="size"))
    report = gather_report(world.archive)
    assert (report.bad, report.headline) == (0, "5 of 5 PDFs have the recorded size; their bytes were not read")


def test_nagios_hears_ok_warning_and_critical(world: World) -> None:
    assert nagios_status(world.archive)[0] == 1, "never verified"
    summary_of(verify_assets(world.archive))
    code, line = nagios_status(world.archive)
    assert (code, line.split(" - ")[0]) == (0, "CRAFTKIT-ARCHIVE OK")
    assert "| bad=0;;0 coverage=100.0%;95: due=0B assets=5" in line
    assert nagios_status(later(world, days=3))[0] == 1, "no verification for some nights"
    assert "not enough was read" in nagios_status(later(world, days=40))[1]
    world.asset(0).unlink()
    summary_of(verify_assets(world.archive))
    code, line = nagios_status(world.archive)
    assert (code, "1 damaged" in line) == (2, True)


def at(world: World, *words: str | Path) -> Done:
    return command(*words, archive=world.archive.path)


def test_nagios_as_a_process(world: World, tmp_path: Path) -> None:
    done = at(world, "status", "--nagios")
    assert (done.code, len(done.out.splitlines())) == (1, 1)
    lost = command("status", "--nagios", archive=tmp_path / "nowhere")
    assert (lost.code, lost.out.split(" - ")[0]) == (3, "CRAFTKIT-ARCHIVE UNKNOWN")


def test_verify_writes_a_report_and_report_writes_it_again(world: World, tmp_path: Path) -> None:
    world.asset(0).unlink()
    done = at(world, "--json", "verify", "--report", tmp_path / "r.csv")
    assert done.code == 1
    assert at(world, "report", "--format", "csv").out.replace("\r", "") == (tmp_path / "r.csv").read_text()
    assert at(world, "report", "-o", tmp_path / "r.html").code == 0
    assert "<h1>1 of 5 PDFs is not what was stored</h1>" in (tmp_path / "r.html").read_text()
    assert at(world, "report").out.startswith("1 of 5 PDFs is not what was stored.\n")
    wrong = at(world, "verify", "--report", tmp_path / "r.docx")
    assert (wrong.code, "suffix" in wrong.err) == (2, True)


def test_a_report_into_a_closed_pipe_is_141(world: World) -> None:
    at(world, "verify")
    words = program("report", archive=world.archive.path)
    with subprocess.Popen(["sh", "-c", 'sleep 2; exec "$@"', "sh", *words], cwd=ROOT, stdout=subprocess.PIPE) as report:
        assert report.stdout is not None
        report.stdout.close()
        assert report.wait(30) == 141


def test_a_report_without_a_folder_is_refused_before_the_work(world: World, tmp_path: Path) -> None:
    done = at(world, "verify", "--report", tmp_path / "nowhere/r.html")
    assert (done.code, "Create it first" in done.err) == (2, True)
    assert world.archive.catalog.find_run(None, "verify") is None


def test_notes_are_told_to_people_as_findings_are(world: World) -> None:
    body = world.asset(2).read_bytes().replace(b"/Length", b"/Lengch")
    world.asset(2).write_bytes(body)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        given = (sha256(body).hexdigest(), render_id(2))
        connection.execute("UPDATE assets SET sha256 = ? WHERE render_id = ?", given)
    done = at(world, "verify", "--level", "pdf")
    assert (done.code, done.out) == (0, "")
    assert f"  note  {render(2)['asset_key']}: " in done.err
    assert "/Length" in done.err
    assert "/Length" in at(world, "report", "--format", "html").out


def test_limits_have_their_own_exit_code(world: World) -> None:
    done = at(world, "--json", "verify", "--due", "30d", "--max-bytes", "1k", "--time-limit", "2h")
    assert (done.code, done.lines[-1]["outcome"], done.lines[-1]["exit_code"]) == (101, "limited", 101)
    assert at(world, "verify", "--sample", "140%").code == 2
    assert at(world, "verify", "--due", "soon").code == 2


# --- seal ------------------------------------------------------------------------------------------------------------


def test_the_seal_is_what_sort_and_sha256sum_make_of_the_store(world: World) -> None:
    needs("sha256sum")
    script = "find renders -type f -print0 | xargs -0 sha256sum | LC_ALL=C sort | sha256sum"
    told = subprocess.run(
        ["sh", "-c", script], cwd=world.archive.store.address, capture_output=True, text=True, check=True
    )
    seal = told.stdout.split()[0]
    done = at(world, "seal")
    assert (done.code, done.out) == (0, f"{seal}\n")
    assert at(world, "seal", "--check", seal.upper()).code == 0
    assert at(world, "seal", "--check", "0" * 64).code == 1
    assert at(world, "seal", "--check", "0" * 63).code == 2


def test_the_seal_of_a_project_is_its_own(world: World) -> None:
    whole = summary_of(seal_archive(world.archive)).details["seal"]
    assert summary_of(seal_archive(world.archive, project="northwind")).details["seal"] == whole
    empty = summary_of(seal_archive(world.archive, project="southwind"))
    assert (empty.details["seal"] != whole, empty.counts) == (True, {"sealed": 0})


def test_what_has_no_digest_is_told_by_the_seal(world: World) -> None:
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET sha256 = NULL WHERE render_id = ?", (render_id(2),))
    summary = summary_of(seal_archive(world.archive))
    assert (summary.outcome, summary.counts) == ("incomplete", {"sealed": 4, "without_digest": 1})


# --- doctor and backup -----------------------------------------------------------------------------------------------


def to_mend(done: Done) -> list[str]:
    return [line["name"] for line in done.lines if line["type"] == "diagnosis" and line["fix"]]


def test_the_doctor_finds_a_sound_archive_sound_and_changes_nothing(world: World) -> None:
    before = sorted(path.name for path in Path(world.archive.store.address).rglob("*"))
    done = at(world, "--json", "doctor")
    assert (done.code, to_mend(done)) == (0, [])
    names = {line.get("name") for line in done.lines}
    assert {"versions", "catalog", "file modes", "store", "names", "free space", "clock"} <= names
    assert sorted(path.name for path in Path(world.archive.store.address).rglob("*")) == before
    assert "good  catalog:" in at(world, "doctor").out


@pytest.mark.parametrize(("installed", "words"), [(True, "is installed"), (False, "is not installed")])
def test_the_doctor_names_the_decoder_of_jbig2_images(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, words: str
) -> None:
    (tmp_path / "bin").mkdir()
    if installed:
        (tmp_path / "bin" / "jbig2dec").write_text("#!/bin/sh\necho jbig2dec 0.19\n")
        (tmp_path / "bin" / "jbig2dec").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    [seen] = [record for record in examine_archive(world.archive) if getattr(record, "name", "") == "decoders"]
    assert isinstance(seen, Diagnosis)
    assert f"jbig2dec {words}" in seen.seen
    assert seen.fix is None, "without it a check says less, and nothing is wrong"


def test_the_doctor_says_what_is_wrong_and_what_mends_it(world: World, tmp_path: Path) -> None:
    (world.archive.path / CATALOG).chmod(0o644)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET verified_at = '2199-01-01T00:00:00.000Z', verdict = 'ok'")
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    done = at(world, "--json", "doctor")
    assert (done.code, to_mend(done)) == (1, ["file modes", "store", "clock"])
    assert "chmod 600" in at(world, "doctor").out


def test_the_doctor_sees_a_damaged_catalog(world: World) -> None:
    world.archive.catalog.close()
    file = world.archive.path / CATALOG
    body = bytearray(file.read_bytes())
    for page in range(3, len(body) // 16384):
        body[page * 16384] ^= 0x55
    file.write_bytes(body)
    assert at(world, "doctor").code in (1, 13)


def test_a_backup_is_a_catalog_and_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    done = at(world, "backup", tmp_path / "copy.db")
    assert done.code == 0
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert at(world, "backup", tmp_path / "copy.db").code == 2
    seal = at(world, "seal").out
    world.archive.catalog.close()
    for file in world.archive.path.glob("archive.db*"):
        file.unlink()
    (tmp_path / "copy.db").rename(world.archive.path / CATALOG)
    assert at(world, "verify").code == 0
    assert at(world, "seal").out == seal
    assert at(world, "backup", tmp_path / "no/such/copy.db").code == 15
