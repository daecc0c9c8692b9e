"""Verify: all damage found and named, no good asset accused, nothing called good that was not compared."""

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from craftkit_archive.archive import CATALOG
from craftkit_archive.errors import StoreMismatchError, StoreOfflineError
from craftkit_archive.records import Finding, Record, Summary, Verdict
from craftkit_archive.store import FolderStore, OpenAsset, Stored
from craftkit_archive.verifying import verify_assets
from tests.worlds import ROOT, SOUTHWIND, World, fill, load, pdf, program, put, render, render_id, summary_of

NO_VERDICTS = ("checked", "orphan", "notes", "unknown")
HTML = b"<!DOCTYPE html><html><title>Sign in</title></html>"


def verify(world: World, **options: Any) -> tuple[Summary, list[Finding]]:
    records: list[Record] = list(verify_assets(world.archive, **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    assert counts["checked"] == sum(count for name, count in counts.items() if name not in NO_VERDICTS)
    return records[-1], [record for record in records if isinstance(record, Finding)]


def ledger(world: World) -> dict[str, tuple[str | None, str | None]]:
    """Return (verified_at, verdict) by render id."""
    with sqlite3.connect(world.archive.path / CATALOG) as connection:
        rows = connection.execute("SELECT render_id, verified_at, verdict FROM assets").fetchall()
    connection.close()
    return {row[0]: (row[1], row[2]) for row in rows}


def _flip(path: Path, at: int = -1) -> None:
    body = bytearray(path.read_bytes())
    at = len(body) // 2 if at < 0 else at
    body[at] ^= 1 << (at % 8)
    path.write_bytes(body)


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], Verdict]] = {
    "a flipped bit": (_flip, "wrong-digest"),
    "a flipped bit in the header": (lambda path: _flip(path, 1), "wrong-digest"),
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
    "one byte cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "wrong-size"),
    "bytes added": (lambda path: path.write_bytes(path.read_bytes() + b"x" * 100_000), "wrong-size"),
    "emptied": (lambda path: path.write_bytes(b""), "empty"),
    "an HTML page": (lambda path: path.write_bytes(HTML), "not-a-pdf"),
    "an HTML page of the same size": (lambda path: path.write_bytes(HTML.ljust(path.stat().st_size)), "not-a-pdf"),
    "another whole PDF": (lambda path: path.write_bytes(pdf("another one, longer")), "wrong-size"),
    "deleted": (Path.unlink, "missing"),
    "unreadable": (_become_folder, "unreadable"),
}


def test_a_good_archive_is_good_and_the_ledger_says_when(world: World) -> None:
    summary, findings = verify(world)
    assert (summary.outcome, summary.counts, findings) == ("ok", {"checked": 5, "ok": 5}, [])
    assert summary.bytes_read == sum(world.asset(number).stat().st_size for number in range(5))
    assert {verdict for _, verdict in ledger(world).values()} == {"ok"}
    assert all(when is not None for when, _ in ledger(world).values())


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_found_and_named(world: World, damage: str) -> None:
    harm, verdict = DAMAGE[damage]
    harm(world.asset(2))
    summary, [finding] = verify(world)
    assert (finding.verdict, finding.render_id) == (verdict, render_id(2))
    assert summary.counts == {"checked": 5, "ok": 4, verdict: 1}
    assert summary.outcome == ("incomplete" if verdict == "unreadable" else "problems")
    assert ledger(world)[render_id(2)][1] == verdict


def test_swapped_files_are_both_found(world: World) -> None:
    first, second = world.asset(1), world.asset(2)
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    assert {finding.verdict for finding in verify(world)[1]} == {"wrong-digest"}


def test_the_size_level_misses_the_flip_and_never_calls_an_asset_good(world: World) -> None:
    _flip(world.asset(2))
    assert verify(world, level="size")[0].outcome == "ok"
    assert set(ledger(world).values()) == {(None, None)}, "only a digest proves an asset good"
    assert verify(world)[0].outcome == "problems"


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "an HTML page", "deleted"])
def test_the_size_level_finds_what_changes_the_size(world: World, damage: str) -> None:
    harm, verdict = DAMAGE[damage]
    harm(world.asset(2))
    assert [finding.verdict for finding in verify(world, level="size")[1]] == [verdict]
    assert ledger(world)[render_id(2)][1] == verdict


def test_what_has_no_digest_is_unverified_and_never_ok(world: World) -> None:
    with sqlite3.connect(world.archive.path / CATALOG) as connection:
        connection.execute("UPDATE assets SET sha256 = NULL WHERE render_id = ?", (render_id(2),))
    connection.close()
    summary, [finding] = verify(world)
    assert (summary.outcome, finding.verdict) == ("incomplete", "unverified")


def test_a_fault_that_heals_is_told_and_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk gives other bytes on the first reading only."""
    real, read_once = FolderStore.measure, set()

    def flaky(store: FolderStore, key: str) -> Stored:
        if key == render(2)["asset_key"] and key not in read_once:
            read_once.add(key)
            return real(store, render(3)["asset_key"])
        return real(store, key)

    monkeypatch.setattr(FolderStore, "measure", flaky)
    summary, [finding] = verify(world)
    assert (summary.outcome, finding.verdict) == ("incomplete", "unreadable")
    assert finding.detail is not None
    assert "good on the second" in finding.detail


def test_two_different_faults_are_told_by_the_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accused is what the second reading saw."""
    real = FolderStore.open

    def flaky(store: FolderStore, key: str) -> OpenAsset:
        if key == render(2)["asset_key"]:
            world.asset(2).unlink(missing_ok=True)
        return real(store, key)

    _flip(world.asset(2))
    monkeypatch.setattr(FolderStore, "open", flaky)
    assert [finding.verdict for finding in verify(world)[1]] == ["missing"]


@pytest.mark.parametrize("level", ["size", "digest"])
def test_what_has_no_size_and_no_digest_is_unverified_at_each_level(world: World, level: Any) -> None:
    with sqlite3.connect(world.archive.path / CATALOG) as connection:
        connection.execute("UPDATE assets SET sha256 = NULL, size_bytes = NULL WHERE render_id = ?", (render_id(2),))
    connection.close()
    assert [finding.verdict for finding in verify(world, level=level)[1]] == ["unverified"]


def test_a_finding_is_written_once_however_often_is_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.verifying.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.verifying.COMMIT_SECONDS", -1.0)
    DAMAGE["emptied"][0](world.asset(0))
    _, [finding] = verify(world)
    with sqlite3.connect(world.archive.path / CATALOG) as connection:
        rows = connection.execute("SELECT verdict, found_at FROM findings").fetchall()
    connection.close()
    assert rows == [("empty", finding.found_at)]


def test_findings_are_kept_with_their_run(world: World) -> None:
    DAMAGE["emptied"][0](world.asset(2))
    summary, [finding] = verify(world)
    with sqlite3.connect(world.archive.path / CATALOG) as connection:
        row = connection.execute("SELECT run_id, render_id, verdict, expected, found FROM findings").fetchall()
    connection.close()
    assert row == [(summary.run_id, render_id(2), "empty", finding.expected, "0")]


def test_only_the_selected_project_is_read(world: World) -> None:
    row = render(20, project_id=SOUTHWIND)
    put(world.bucket, row["asset_key"], pdf("south"))
    load(world.archive, world.folder, "renders", [row])
    from craftkit_archive.fetching import fetch_assets

    summary_of(fetch_assets(world.archive, str(world.bucket)))
    assert verify(world, selection=world.archive.select(projects=("southwind",)))[0].counts == {"checked": 1, "ok": 1}


def test_a_store_that_is_not_there_is_no_thousand_deleted_files(world: World, tmp_path: Path) -> None:
    store = Path(world.archive.store.address)
    store.rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        verify(world)
    store.mkdir()
    with pytest.raises(StoreOfflineError):
        verify(world)
    FolderStore(store).mark("another")
    with pytest.raises(StoreMismatchError):
        verify(world)
    assert set(ledger(world).values()) == {(None, None)}


def test_a_store_that_goes_away_meanwhile_leaves_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.verifying.BATCH", 5)
    world = fill(tmp_path, count=40)
    records = verify_assets(world.archive)
    next(records)
    next(records)
    Path(world.archive.store.address).rename(tmp_path / "unmounted")
    with pytest.raises(StoreOfflineError):
        list(records)
    verdicts = {verdict for _, verdict in ledger(world).values()}
    assert verdicts == {"ok", None}
    assert world.archive.catalog.last_runs(1)[0].outcome == "failed"


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_of_many_damages_are_found_and_nothing_else(tmp_path: Path, jobs: int) -> None:
    count = 300
    world = fill(tmp_path, count=count, size_bytes=3000)
    chance = random.Random(7)
    expected: dict[str, str] = {}
    for number in chance.sample(range(count), 60):
        harm, verdict = DAMAGE[chance.choice(list(DAMAGE))]
        harm(world.asset(number))
        expected[render_id(number)] = verdict
    summary, findings = verify(world, jobs=jobs)
    assert {finding.render_id: finding.verdict for finding in findings} == expected
    assert summary.counts["ok"] == count - 60


def test_what_was_read_before_a_kill_counts(tmp_path: Path) -> None:
    world = fill(tmp_path, count=150)
    before = (
        "import time; from craftkit_archive import store, verifying\n"
        "verifying.BATCH = 10; verifying.COMMIT_SECONDS = 0.0; real = store.FolderStore.measure\n"
        "def slow(*given): time.sleep(0.02); return real(*given)\n"
        "store.FolderStore.measure = slow"
    )
    words = program("verify", "--jobs", "1", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as verifying:
        for _ in range(400):
            if any(when for when, _ in ledger(world).values()):
                break
            time.sleep(0.02)
        verifying.send_signal(signal.SIGKILL)
    done = sum(verdict == "ok" for _, verdict in ledger(world).values())
    assert 0 < done < 150
    assert world.archive.catalog.last_runs(1)[0].finished_at is None
    assert verify(world)[0].outcome == "ok"


def test_two_verifications_at_once_do_each_other_no_harm(tmp_path: Path) -> None:
    world = fill(tmp_path, count=200)
    words = program("verify", archive=world.archive.path)
    both = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert {verdict for _, verdict in ledger(world).values()} == {"ok"}
