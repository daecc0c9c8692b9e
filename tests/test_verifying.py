"""Verify: all damage found and named, no good asset accused, nothing called good that was not compared."""

import errno
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import CATALOG
from craftkit_archive.catalog.rows import Choice, Selection
from craftkit_archive.coverage import Coverage
from craftkit_archive.errors import NoSpaceError, NotWritableError, StoreMismatchError, StoreOfflineError
from craftkit_archive.parallel.isolated import IsolatedProcess
from craftkit_archive.pdf.readers import READERS, Structure
from craftkit_archive.records import Finding, Note, Record, Skipped, Summary, Verdict
from craftkit_archive.stores.base import OpenAsset, Stored
from craftkit_archive.stores.folder import FolderStore
from craftkit_archive.values import format_size, format_time
from craftkit_archive.verify.run import Limits, Scope, verify_assets
from tests.worlds import (
    LIVE_KEY,
    ROOT,
    SOUTHWIND,
    World,
    fill,
    live,
    load,
    pdf,
    program,
    put,
    render,
    render_id,
    summary_of,
)

NO_VERDICTS = ("checked", "orphan", "unrecorded", "notes", "unknown")
HTML = b"<!DOCTYPE html><html><title>Sign in</title></html>"


def verify(world: World, **options: Any) -> tuple[Summary, list[Finding]]:
    records: list[Record] = list(verify_assets(world.archive, **options))
    assert isinstance(records[-1], Summary)
    counts = records[-1].counts
    assert counts["checked"] == sum(count for name, count in counts.items() if name not in NO_VERDICTS)
    return records[-1], [record for record in records if isinstance(record, Finding)]


def ledger(world: World) -> dict[str, tuple[str | None, str | None]]:
    """Return (verified_at, verdict) by render id."""
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        rows = connection.execute("SELECT render_id, verified_at, verdict FROM assets").fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


def _flip(path: Path, at: int = -1) -> None:
    body = bytearray(path.read_bytes())
    at = len(body) // 2 if at < 0 else at
    body[at] ^= 1 << (at % 8)
    path.write_bytes(body)


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


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
    "a folder": (_become_folder, "not-a-file"),
    "a pipe": (_become_pipe, "not-a-file"),
    "a dangling link": (partial(_become_link, to="nowhere"), "not-a-file"),
    "a link out": (partial(_become_link, to="/etc/hosts"), "not-a-file"),
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
    summary, _ = verify(world, level="size")
    assert (summary.outcome, summary.counts) == ("ok", {"checked": 5, "ok": 0, "same_size": 5})
    assert set(ledger(world).values()) == {(None, None)}, "only a digest proves an asset good"
    assert verify(world)[0].outcome == "problems"


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "an HTML page", "deleted"])
def test_the_size_level_finds_what_changes_the_size(world: World, damage: str) -> None:
    harm, verdict = DAMAGE[damage]
    harm(world.asset(2))
    assert [finding.verdict for finding in verify(world, level="size")[1]] == [verdict]
    assert ledger(world)[render_id(2)][1] == verdict


def test_what_has_no_digest_is_unverified_and_never_ok(world: World) -> None:
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET sha256 = NULL WHERE render_id = ?", (render_id(2),))
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
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET sha256 = NULL, size_bytes = NULL WHERE render_id = ?", (render_id(2),))
    assert [finding.verdict for finding in verify(world, level=level)[1]] == ["unverified"]


def test_a_finding_is_written_once_however_often_is_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.verify.run.BATCH", 1)
    monkeypatch.setattr("craftkit_archive.verify.run.COMMIT_SECONDS", -1.0)
    DAMAGE["emptied"][0](world.asset(0))
    _, [finding] = verify(world)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        rows = connection.execute("SELECT verdict, found_at FROM findings").fetchall()
    assert rows == [("empty", finding.found_at)]


def test_findings_are_kept_with_their_run(world: World) -> None:
    DAMAGE["emptied"][0](world.asset(2))
    summary, [finding] = verify(world)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        row = connection.execute("SELECT run_id, render_id, verdict, expected, found FROM findings").fetchall()
    assert row == [(summary.run_id, render_id(2), "empty", finding.expected, "0")]


def test_only_the_selected_project_is_read(world: World) -> None:
    row = render(20, project_id=SOUTHWIND)
    put(world.bucket, row["asset_key"], pdf("south"))
    load(world.archive, world.folder, "renders", [row])
    from craftkit_archive.fetch.run import fetch_assets

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
    monkeypatch.setattr("craftkit_archive.verify.run.BATCH", 5)
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


def kill_halfway(world: World, *options: str) -> None:
    """Run a slow verification as a process of its own, and kill it once something is in the ledger."""
    before = (
        "import time; from craftkit_archive.stores import folder; from craftkit_archive.verify import run\n"
        "run.BATCH = 10; run.COMMIT_SECONDS = 0.0; real = folder.FolderStore.measure\n"
        "def slow(*given): time.sleep(0.02); return real(*given)\n"
        "folder.FolderStore.measure = slow"
    )
    words = program("verify", *options, "--jobs", "1", archive=world.archive.path, before=before)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as verifying:
        for _ in range(400):
            if any(when for when, _ in ledger(world).values()):
                break
            time.sleep(0.02)
        verifying.send_signal(signal.SIGKILL)


def test_what_was_read_before_a_kill_counts(tmp_path: Path) -> None:
    world = fill(tmp_path, count=150)
    kill_halfway(world)
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


def test_a_verification_beside_a_running_server_does_no_harm(tmp_path: Path) -> None:
    world = fill(tmp_path, count=120)
    words = program("verify", archive=world.archive.path)
    with live(world.archive) as url, subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as verifying:
        answers = set()
        while verifying.poll() is None:
            for number in range(20):
                address = f"{url}/v1/renders/{render_id(number)}/download"
                asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {LIVE_KEY}"})
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    answers.add((answer.status, answer.read() == world.asset(number).read_bytes()))
    assert (verifying.returncode, answers) == (0, {(200, True)})


# --- the ledger, and a budget ----------------------------------------------------------------------------------------


def age(world: World, *days: float | None, verdict: str = "ok") -> None:
    """Say of the renders in turn that they were checked so many days ago; None is never."""
    now = world.archive.clock()
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        for number, ago in enumerate(days):
            when = None if ago is None else format_time(now - timedelta(days=ago))
            connection.execute(
                "UPDATE assets SET verified_at = ?, verdict = ? WHERE render_id = ?",
                (when, None if ago is None else verdict, render_id(number)),
            )


def checked(world: World, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """Return the numbers of the renders that a verification read, in its order."""
    real, read = FolderStore.measure, []

    def noting(store: FolderStore, key: str) -> Stored:
        read.append(int(key[-16:-4]))
        return real(store, key)

    with monkeypatch.context() as patched:
        patched.setattr(FolderStore, "measure", noting)
        verify(world, **options)
    return read


def test_due_takes_what_was_never_checked_then_what_was_bad_then_the_oldest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(world, 40, 50, 2, None, 60)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET verdict = 'missing' WHERE render_id = ?", (render_id(2),))
    assert checked(world, monkeypatch, scope=Scope(due_seconds=30 * 86400)) == [3, 2, 4, 1, 0]
    assert checked(world, monkeypatch, scope=Scope(due_seconds=30 * 86400)) == []


def test_what_was_verified_in_the_future_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    age(world, 1, -100, 1, 1, 1)
    assert world.archive.coverage(30).due_assets == 1
    assert checked(world, monkeypatch, scope=Scope(due_seconds=30 * 86400)) == [1]


def test_new_and_failed_are_what_they_say_and_together_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    age(world, 1, 1, None, None, 1)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        connection.execute("UPDATE assets SET verdict = 'empty' WHERE render_id = ?", (render_id(4),))
    assert checked(world, monkeypatch, scope=Scope(new=True), limits=Limits(size_bytes=1)) == [2]
    assert checked(world, monkeypatch, scope=Scope(new=True, failed=True)) == [3, 4]
    assert checked(world, monkeypatch, scope=Scope(failed=True)) == []


def test_a_sample_is_a_part_and_another_one_in_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fill(tmp_path, count=60)
    drawn = [set(checked(world, monkeypatch, scope=Scope(share=0.1))) for _ in range(3)]
    assert [len(sample) for sample in drawn] == [6, 6, 6]
    assert len({frozenset(sample) for sample in drawn}) > 1
    seen = []
    for _ in range(2):
        world.archive.catalog.choose(Selection(), Choice(share=0.1, seed=7))
        seen.append([asset.render_id for asset in world.archive.catalog.chosen_assets()])
    assert seen[0] == seen[1], "the same seed draws the same"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.none() | st.integers(-40, 90), min_size=5, max_size=5),
    verdicts=st.lists(st.sampled_from(["ok", "missing", "unreadable"]), min_size=5, max_size=5),
    days=st.integers(1, 60),
)
def test_what_is_due_is_due_once_and_in_order(
    world: World, ages: list[int | None], verdicts: list[str], days: int
) -> None:
    """The law of the ledger, against the same said in Python."""
    now = datetime(2026, 6, 1, tzinfo=UTC)
    since = format_time(now - timedelta(days=days))
    expected = []
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        for number, (ago, verdict) in enumerate(zip(ages, verdicts, strict=True)):
            when = None if ago is None else format_time(now - timedelta(days=ago))
            given = (when, None if when is None else verdict, render_id(number))
            connection.execute("UPDATE assets SET verified_at = ?, verdict = ? WHERE render_id = ?", given)
            rank = 0 if when is None else 1 if verdict != "ok" else 2 if when > format_time(now) else 3
            if rank < 3 or (when is not None and when < since):
                expected.append((rank, when or "", render_id(number)))
    choice = Choice(due_before=since, now=format_time(now))
    count, _ = world.archive.catalog.choose(Selection(), choice)
    assert [asset.render_id for asset in world.archive.catalog.chosen_assets()] == [row[2] for row in sorted(expected)]
    assert count == len(expected)


def test_a_limit_of_bytes_ends_it_cleanly_and_the_next_run_goes_on(tmp_path: Path) -> None:
    world = fill(tmp_path, count=40, size_bytes=5000)
    size = world.asset(0).stat().st_size
    done = 0
    for night in range(4):
        summary, _ = verify(world, scope=Scope(due_seconds=30 * 86400), limits=Limits(size_bytes=10 * size))
        done += summary.counts["checked"]
        # The assets differ by a byte or two, and the one that crosses the limit is read.
        assert 9 <= summary.counts["checked"] <= 11
        assert summary.outcome == ("limited" if done < 40 else "ok")
        coverage = summary.details["coverage"]
        assert coverage["covered_assets"] == done
        if night == 0:
            assert re.search(r"; at this rate complete in [34] nights$", coverage["text"])
    assert coverage["text"] == f"100 % of {format_size(coverage['stored_bytes'])} read and good within 30 days"


def test_a_limit_of_time_ends_it_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.verify.run.BATCH", 5)
    world = fill(tmp_path, count=60)
    clock = iter(range(1000))
    summary, _ = verify(world, limits=Limits(seconds=20), monotonic=lambda: float(next(clock)))
    assert summary.outcome == "limited"
    assert 0 < summary.counts["checked"] < 60
    assert sum(verdict == "ok" for _, verdict in ledger(world).values()) == summary.counts["checked"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_without_room_for_a_temporary_file_nothing_is_said_of_the_pdf(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_given: Any, **_names: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("craftkit_archive.verify.fixity.IN_MEMORY_BYTES", 10)
    monkeypatch.setattr("craftkit_archive.verify.fixity.tempfile.NamedTemporaryFile", refuse)
    with pytest.raises((NoSpaceError, NotWritableError), match="TMPDIR"):
        verify(world, level="pdf")
    assert {verdict for _, verdict in ledger(world).values()} <= {None}


def test_nothing_beside_files_of_nobody_is_not_good(tmp_path: Path) -> None:
    world = fill(tmp_path, count=0)
    summary, _ = verify(world)
    assert (summary.outcome, summary.details["coverage"]["text"]) == ("ok", "nothing is stored")
    for number in range(3):
        put(Path(world.archive.store.address), f"renders/{number}.pdf", pdf("anybody's"))
    for level in ("size", "digest"):
        summary, _ = verify(world, level=level)
        assert (summary.outcome, summary.counts["orphan"]) == ("incomplete", 3)
        assert "%" not in summary.details["coverage"]["text"]


def test_problems_outrank_a_limit(world: World) -> None:
    world.asset(0).unlink()
    assert verify(world, limits=Limits(size_bytes=1000))[0].outcome == "problems"


def test_a_rate_that_is_too_low_is_told() -> None:
    coverage = Coverage(30, 1000, 1_000_000, 100, 100_000, 900, 900_000)
    assert coverage.details(10_000)["text"].endswith("at this rate never complete: it takes 33.3 kB a night")
    assert coverage.details(300_000)["nights"] == 3
    assert "rate" not in coverage.details()["text"]


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_coverage_is_rounded_down(covered: int, due: int) -> None:
    coverage = Coverage(30, 1, covered + due, int(not due), covered, 0, due)
    assert coverage.details()["text"].startswith("100 %") == (due == 0)


def test_ids_that_nobody_knows_are_told_and_make_it_incomplete(world: World) -> None:
    summary = list(verify_assets(world.archive, selection=Selection(render_ids=(render_id(1), "nobody"))))
    assert [record.render_id for record in summary if isinstance(record, Skipped)] == ["nobody"]
    assert isinstance(summary[-1], Summary)
    assert (summary[-1].outcome, summary[-1].counts) == ("incomplete", {"checked": 1, "ok": 1, "unknown": 1})


def test_a_list_of_ids_can_be_narrowed_by_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("rows", "connection", "ledger"):
        monkeypatch.setattr(f"craftkit_archive.catalog.{user}.PAGE", 3)
    world = fill(tmp_path, count=10)
    age(world, 50, 1, 40, 1, 60, 1, None, 1, 70, 1)
    ids = tuple(render_id(number) for number in range(8))
    read = checked(world, monkeypatch, selection=Selection(render_ids=ids), scope=Scope(due_seconds=30 * 86400))
    assert read == [6, 4, 0, 2], "one order over all parts of the list"


def test_what_was_committed_before_a_kill_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fill(tmp_path, count=150)
    kill_halfway(world, "--due", "30d")
    done = {key for key, (when, _) in ledger(world).items() if when}
    assert 0 < len(done) < 150
    read = checked(world, monkeypatch, scope=Scope(due_seconds=30 * 86400))
    assert {render_id(number) for number in read}.isdisjoint(done)
    assert len(read) + len(done) == 150


# --- files that no render claims -------------------------------------------------------------------------------------


def strays(world: World, **options: Any) -> list[str]:
    return [finding.key for finding in verify(world, **options)[1] if finding.verdict == "orphan"]


def test_a_file_that_no_render_claims_is_a_warning(world: World) -> None:
    put(Path(world.archive.store.address), "renders/left over.pdf", b"x")
    summary, [finding] = verify(world)
    assert (summary.outcome, summary.counts["orphan"], finding.verdict) == ("ok", 1, "orphan")
    assert (finding.key, finding.render_id) == ("renders/left over.pdf", None)


@pytest.mark.parametrize(
    "name", [".DS_Store", "renders/.nfs0001", "renders/Thumbs.db", "renders/desktop.ini", ".incoming/x", ".git/config"]
)
def test_what_is_plainly_not_ours_is_no_orphan(world: World, name: str) -> None:
    put(Path(world.archive.store.address), name, b"x")
    assert strays(world) == []


def test_what_a_render_claims_but_nobody_recorded_is_told_and_is_no_orphan(world: World) -> None:
    """A crash between bytes and row leaves it so, or a mirror that was never fetched; the next fetch takes it up."""
    odd = render(31, asset_key="elsewhere/odd name.pdf")
    load(world.archive, world.folder, "renders", [render(30), odd, render(32, status="failed")])
    for row in (render(30), odd, render(32)):
        put(Path(world.archive.store.address), row["asset_key"], pdf(row["id"]))
    summary, findings = verify(world)
    assert (summary.outcome, summary.counts["unrecorded"]) == ("incomplete", 2), "not all that is there was checked"
    told = {(finding.verdict, finding.render_id, finding.key) for finding in findings}
    assert told == {("unrecorded", row["id"], row["asset_key"]) for row in (render(30), odd)}
    from craftkit_archive.fetch.run import fetch_assets

    assert summary_of(fetch_assets(world.archive)).counts["adopted"] == 2
    assert verify(world)[0].counts == {"checked": 7, "ok": 7}


def test_while_another_command_writes_no_orphan_is_told(world: World) -> None:
    put(Path(world.archive.store.address), "renders/left over.pdf", b"x")
    with world.archive.lock("fetch"):
        assert strays(world) == []
    assert strays(world) == ["renders/left over.pdf"]


def test_only_a_whole_verification_looks_for_orphans(world: World) -> None:
    put(Path(world.archive.store.address), "renders/left over.pdf", b"x")
    assert strays(world, selection=world.archive.select(projects=("northwind",))) == []
    assert strays(world, scope=Scope(due_seconds=1)) == []
    assert strays(world, limits=Limits(size_bytes=1)) == []


# --- the level pdf ---------------------------------------------------------------------------------------------------


def replace_both(world: World, number: int, body: bytes) -> None:
    """Let an asset be these bytes, and have been them when it came."""
    world.asset(number).write_bytes(body)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        given = (sha256(body).hexdigest(), len(body), render_id(number))
        connection.execute("UPDATE assets SET sha256 = ?, size_bytes = ? WHERE render_id = ?", given)


WHOLE = pdf("a whole one")
ODD = {
    "no table": (WHOLE.replace(b"xref", b"yref"), "startxref"),
    "no length": (WHOLE.replace(b"/Length", b"/Lengch"), "/Length"),
    "no header": (WHOLE.replace(b"%PDF-1.4", b"%XYZ-1.4"), "it begins with"),
    "no pages": (WHOLE.replace(b"/Kids [3 0 R] /Count 1", b"/Kids []      /Count 0"), "no pages"),
}
MALFORMED = {
    "no root": WHOLE.replace(b"/Root", b"/Toot"),
    "an HTML page": HTML,
    "nothing": b"",
    "cut in half": WHOLE[: len(WHOLE) // 2],
}


def test_good_pdfs_are_good_at_the_level_pdf(world: World) -> None:
    summary, findings = verify(world, level="pdf")
    assert (summary.counts, findings) == ({"checked": 5, "ok": 5}, [])
    assert {verdict for _, verdict in ledger(world).values()} == {"ok"}


@pytest.mark.parametrize("oddity", ODD)
def test_what_is_odd_but_opens_is_a_note_in_qpdfs_words(world: World, oddity: str) -> None:
    body, word = ODD[oddity]
    replace_both(world, 2, body)
    records = list(verify_assets(world.archive, level="pdf"))
    [note] = [record for record in records if isinstance(record, Note)]
    assert isinstance(records[-1], Summary)
    assert (records[-1].outcome, records[-1].counts) == ("ok", {"checked": 5, "ok": 5, "notes": 1})
    assert note.render_id == render_id(2)
    assert word in note.detail
    assert "BytesIO" not in note.detail
    assert list(world.archive.catalog.findings_of(records[-1].run_id or 0)) == [note]


def test_a_pdf_that_asks_for_a_password_is_a_note(world: World, tmp_path: Path) -> None:
    import pikepdf

    with pikepdf.open(world.asset(2)) as plain:
        plain.save(tmp_path / "locked.pdf", encryption=pikepdf.Encryption(user="u", owner="o"))
    replace_both(world, 2, (tmp_path / "locked.pdf").read_bytes())
    [note] = [record for record in verify_assets(world.archive, level="pdf") if isinstance(record, Note)]
    assert note.detail == "neither pikepdf nor PDFium can look into it: it asks for a password"


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_was_malformed_when_it_came_is_told_apart_from_what_changed(world: World, kind: str) -> None:
    replace_both(world, 2, MALFORMED[kind])
    assert verify(world)[0].outcome == "ok", "its digest is right"
    summary, [finding] = verify(world, level="pdf")
    assert (summary.outcome, finding.verdict) == ("problems", "malformed")
    assert "it is what was stored" in (finding.detail or "")
    world.asset(2).write_bytes(MALFORMED[kind] + b" and more")
    assert verify(world, level="pdf")[1][0].verdict != "malformed"


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_has_the_same_name_at_the_level_pdf(world: World, damage: str) -> None:
    harm, verdict = DAMAGE[damage]
    harm(world.asset(2))
    assert [finding.verdict for finding in verify(world, level="pdf")[1]] == [verdict]


def test_a_large_pdf_is_checked_through_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craftkit_archive.verify.fixity.IN_MEMORY_BYTES", 10)
    replace_both(world, 2, ODD["no length"][0])
    records = list(verify_assets(world.archive, level="pdf"))
    [note] = [record for record in records if isinstance(record, Note)]
    assert "/Length" in note.detail
    assert "/tmp" not in note.detail


def slow_or_dead(body: bytes) -> Structure:
    if b"hang" in body:
        time.sleep(60)
    if b"crash" in body:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"gorge" in body:
        bytearray(8 << 30)
    return Structure(True, 1)


@pytest.mark.long
@pytest.mark.parametrize("dying", [("pikepdf",), ("PDFium",), ("pikepdf", "PDFium")])
@pytest.mark.parametrize(("word", "told"), [("hang", "longer than"), ("crash", "died (-11)"), ("gorge", "MemoryError")])
def test_a_reader_that_dies_of_a_pdf_is_a_note_and_harms_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, word: str, told: str, dying: tuple[str, ...]
) -> None:
    hostile = IsolatedProcess(slow_or_dead, seconds=1.0, memory_bytes=4 << 30)
    real = {name: IsolatedProcess(READERS[name], seconds=60.0, memory_bytes=4 << 30) for name in READERS}
    monkeypatch.setattr("craftkit_archive.verify.fixity._reader", lambda name: hostile if name in dying else real[name])
    replace_both(world, 2, pdf(word))
    records = list(verify_assets(world.archive, level="pdf"))
    summary, [note] = records[-1], [record for record in records if isinstance(record, Note)]
    assert isinstance(summary, Summary)
    assert (summary.outcome, summary.counts) == ("ok", {"checked": 5, "ok": 5, "notes": 1})
    assert note.render_id == render_id(2)
    assert told in note.detail
    assert all(name in note.detail for name in dying), "who could not look into it is said"


def test_a_reader_that_dies_hides_no_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = IsolatedProcess(slow_or_dead, seconds=1.0, memory_bytes=4 << 30)
    monkeypatch.setattr("craftkit_archive.verify.fixity._reader", lambda _: hostile)
    world.asset(2).write_bytes(pdf("crash"))
    [finding] = verify(world, level="pdf")[1]
    assert finding.verdict in ("wrong-digest", "wrong-size")


def test_a_worker_that_is_killed_ends_it_with_a_clear_sentence(tmp_path: Path) -> None:
    world = fill(tmp_path, count=300)
    (tmp_path / "sitecustomize.py").write_text(
        "import multiprocessing, os, signal\n"
        "if multiprocessing.parent_process(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "import sys\n"
        "if '--multiprocessing-fork' in sys.argv or 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = program("verify", "--jobs", "2", archive=world.archive.path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 15
    assert "A worker process was killed" in done.stderr
    assert "Traceback" not in done.stderr


# --- at size ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_damages_in_twenty_thousand_are_all_found_and_named(tmp_path: Path) -> None:
    count, bad = 20_000, 1000
    world = bulk(tmp_path, count)
    chance = random.Random(42)
    expected: dict[str, str] = {}
    numbers = chance.sample(range(count), bad)
    for number in numbers[:900]:
        harm, verdict = DAMAGE[chance.choice(list(DAMAGE))]
        harm(world.asset(number))
        expected[render_id(number)] = verdict
    for one, other in zip(numbers[900::2], numbers[901::2], strict=True):
        first, second = world.asset(one), world.asset(other)
        first.rename(first.with_suffix(".x"))
        second.rename(first)
        first.with_suffix(".x").rename(second)
        expected |= dict.fromkeys((render_id(one), render_id(other)), "wrong-digest")
    summary, findings = verify(world, jobs=2)
    assert {finding.render_id: finding.verdict for finding in findings} == expected
    assert (summary.counts["checked"], summary.counts["ok"]) == (count, count - bad)


def bulk(folder: Path, count: int) -> World:
    """Make an archive with many stored PDFs of one size, without the work of fetching them."""
    world = fill(folder, count=1)
    rows = [render(number) for number in range(count)]
    load(world.archive, folder, "renders", rows)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        for number, row in enumerate(rows):
            body = pdf(f"{number:08}")
            put(Path(world.archive.store.address), row["asset_key"], body)
            given = (row["id"], row["asset_key"], len(body), sha256(body).hexdigest(), format_time(datetime.now(UTC)))
            connection.execute(
                "INSERT OR REPLACE INTO assets (render_id, key, size_bytes, sha256, stored_at) VALUES (?, ?, ?, ?, ?)",
                given,
            )
    return world
