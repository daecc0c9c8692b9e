"""Restore: a backup takes the catalog's place in one step, and what it does not know is said."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.catalog import Catalog, backups, migrations
from craftkit_archive.errors import (
    CatalogDamagedError,
    CatalogNewerError,
    LockedError,
    RequestError,
    StoreMismatchError,
    StoreOfflineError,
)
from craftkit_archive.records import Caution, Summary
from craftkit_archive.repair.restore import restore_catalog
from tests.test_killing import DIE
from tests.worlds import (
    LIVE_KEY,
    ROOT,
    TEST_KEY,
    Done,
    World,
    command,
    fill,
    keys,
    live,
    load,
    pdf,
    program,
    projects,
    put,
    render,
    summary_of,
    write_ndjson,
)


@pytest.fixture
def backup(world: World) -> Path:
    """Return a backup of the world's catalog."""
    file = world.folder / "backup.db"
    world.archive.catalog.back_up(file)
    return file


def _later(world: World) -> None:
    """Do what a backup does not know: a key revoked, one made, a PDF more, a file of nobody."""
    world.archive.revoke_key("key-1")
    world.archive.create_key("northwind", name="new")
    put(world.bucket, render(9)["asset_key"], pdf("nine"))
    load(world.archive, world.folder, "renders", [render(9)])
    assert command("fetch", world.bucket, archive=world.archive.path).code == 0


def _restore(world: World, file: Path, **more: Any) -> tuple[dict[str, Caution], Summary]:
    world.archive.catalog.close()
    *records, summary = restore_catalog(world.archive.path, file, **more)
    assert isinstance(summary, Summary)
    return {one.warning: one for one in records if isinstance(one, Caution)}, summary


def _tables(path: Path) -> dict[str, list[str]]:
    """Return the rows of all tables, in the order of their text."""
    with closing(sqlite3.connect(path)) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [name for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(repr, catalog.execute(f"SELECT * FROM {name}"))) for name in names}


def _audit_is_good(path: Path) -> None:
    done = command("audit", "verify", archive=path)
    assert (done.code, "no faults" in done.err) == (0, True), done.err


def test_a_reader_of_the_copy_stops_it_before_the_step(
    world: World, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the restore itself wrote would stay in a log that the rename leaves behind."""
    monkeypatch.setattr(backups, "BUSY_SECONDS", 1)
    _later(world)
    world.archive.catalog.close()
    before = _tables(world.archive.path / CATALOG)
    records = restore_catalog(world.archive.path, backup)
    next(records)
    copy = f"file:{world.archive.path / CATALOG}.restored?mode=ro"
    with closing(sqlite3.connect(copy, uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM assets").fetchone() == (5,)
        with pytest.raises(LockedError, match="Another program has read"):
            list(records)
    assert _tables(world.archive.path / CATALOG) == before
    _, summary = _restore(world, backup)
    assert summary.outcome == "incomplete"
    _audit_is_good(world.archive.path)


def test_what_the_backup_does_not_know_is_counted_and_named(world: World, backup: Path) -> None:
    _later(world)
    before = _tables(world.archive.path / CATALOG)
    warnings, summary = _restore(world, backup)
    assert (summary.outcome, summary.exit_code) == ("incomplete", 3)
    counts = {"recorded": 5, "unrecorded": 0, "extra": 1, "alive_again": 1, "gone": 1}
    assert {name: summary.counts[name] for name in counts} == counts
    assert {name: one.count for name, one in warnings.items()} == {
        "render-not-in-backup": 1,
        "key-alive-again": 1,
        "key-gone": 1,
    }
    assert warnings["key-alive-again"].names == summary.details["alive_again"] == ["key-1"]
    assert warnings["render-not-in-backup"].names == [render(9)["asset_key"]]
    kept = world.archive.path / summary.details["kept"]
    assert _tables(kept) == before
    _audit_is_good(world.archive.path)
    with Archive(world.archive.path, read_only=True) as archive:
        assert [event.what for event in archive.catalog.events()][-2:] == ["audit catalog-restored", "restore"]
        assert archive.catalog.find_run(None, "restore") is not None
    # And back again.
    warnings, summary = _restore(world, kept)
    assert (warnings, summary.outcome, summary.counts["recorded"]) == ({}, "ok", 6)
    _audit_is_good(world.archive.path)
    assert len(list(world.archive.path.glob(f"{CATALOG}.replaced-*"))) == 2


def test_following_what_it_says_next_mends_everything(world: World, backup: Path) -> None:
    _later(world)
    world.archive.catalog.close()
    path = world.archive.path
    start = f"Next: craftkit-archive --archive {path} "

    def run(*words: str | Path) -> str:
        done = command(*words, archive=path)
        line = done.err.splitlines()[-1]
        return line.removeprefix(start) if line.startswith(start) else ""

    assert run("restore", backup) == "keys revoke key-1"
    assert run("keys", "revoke", "key-1") == ""
    assert run("restore", backup).startswith("keys revoke key-1")
    assert run("keys", "revoke", "key-1") == ""
    assert run("import", "renders", write_ndjson(world.folder / "r.ndjson", [render(9)])) == "fetch"
    assert run("fetch") == "verify"
    assert run("verify") == ""


def test_a_render_of_the_backup_whose_pdf_came_later(world: World) -> None:
    put(world.bucket, render(9)["asset_key"], pdf("nine"))
    load(world.archive, world.folder, "renders", [render(9)])
    put(Path(world.archive.store.address), "renders/old.pdf", b"x")
    assert command("verify", archive=world.archive.path).code == 0
    world.archive.catalog.back_up(world.folder / "b.db")
    assert command("fetch", world.bucket, archive=world.archive.path).code == 0
    warnings, summary = _restore(world, world.folder / "b.db")
    # What was extra before is not newer.
    assert (summary.counts["unrecorded"], summary.counts["extra"], set(warnings)) == (1, 0, {"pdf-not-in-backup"})
    done = command("restore", world.folder / "b.db", archive=world.archive.path)
    assert (done.code, done.err.splitlines()[-1].endswith(" fetch")) == (3, True)
    assert command("fetch", archive=world.archive.path).code == 0


def test_what_the_three_voices_say(world: World, backup: Path) -> None:
    _later(world)
    world.archive.catalog.close()
    path = world.archive.path
    plain = command("restore", backup, archive=path)
    words = "1 key that was revoked since the backup works again: key-1. Revoke it again."
    sentence = (
        "restore: 1 revoked key works again; 1 newer key is gone; 1 PDF in the store is newer than the backup; the"
        " catalog of 20"
    )
    assert plain.code == 3
    assert f"  warning: {words}\n" in plain.err
    *_, said, last = plain.err.splitlines()
    assert (said.startswith(sentence), last) == (
        True,
        f"Next: craftkit-archive --archive {path} keys revoke key-1",
    )
    quiet = command("-q", "restore", backup, archive=path)
    assert (quiet.code, quiet.out, words in quiet.err) == (3, "", True)
    spoken = command("--json", "restore", backup, archive=path)
    assert spoken.lines[-1]["details"]["alive_again"] == ["key-1"]
    assert "key-alive-again" in {line.get("warning") for line in spoken.lines}
    assert spoken.err == ""


def test_nothing_newer_is_silence(world: World, backup: Path) -> None:
    world.archive.catalog.close()
    done = command("-q", "restore", backup, archive=world.archive.path)
    assert (done.code, done.out, done.err) == (0, "", "")
    done = command("restore", backup, archive=world.archive.path)
    assert done.err.splitlines()[-1] == f"Next: craftkit-archive --archive {world.archive.path} verify"


def _delete(path: Path) -> None:
    for file in path.glob(f"{CATALOG}*"):
        file.unlink()


def _overwrite(path: Path) -> None:
    (path / CATALOG).write_bytes(b"this was a catalog")


def _truncate(path: Path) -> None:
    os.truncate(path / CATALOG, 40_000)


def _scribble(path: Path) -> None:
    with (path / CATALOG).open("r+b") as file:
        for at in range(16_384, (path / CATALOG).stat().st_size, 16_384):
            file.seek(at)
            file.write(os.urandom(4_096))


def _leave_log(path: Path) -> None:
    """Leave the log of another catalog where there is none, as after a disk that lost one of two files."""
    other = fill(path.parent / "other", count=2)
    other.archive.catalog._query("PRAGMA wal_checkpoint(TRUNCATE)")
    other.archive.revoke_key("key-1")
    log = (other.archive.path / f"{CATALOG}-wal").read_bytes()
    assert log
    other.archive.catalog.close()
    _delete(path)
    (path / f"{CATALOG}-wal").write_bytes(log)


def _empty(path: Path) -> None:
    (path / CATALOG).write_bytes(b"")


HARM: list[Callable[[Path], None]] = [_delete, _overwrite, _truncate, _scribble, _leave_log, _empty]


@pytest.mark.parametrize("harm", HARM)
def test_whatever_became_of_the_catalog_a_backup_takes_its_place(
    world: World, backup: Path, harm: Callable[[Path], None]
) -> None:
    path = world.archive.path
    world.archive.revoke_key("key-1")
    world.archive.catalog.close()
    harm(path)
    lost = {file.name: file.read_bytes() for file in path.glob(f"{CATALOG}*") if file.stat().st_size}
    warnings, summary = _restore(world, backup)
    # The audit file alone says that the key was revoked.
    assert summary.details["alive_again"] == ["key-1"]
    assert warnings["key-alive-again"].count == 1
    assert command("verify", archive=path).code == 0
    _audit_is_good(path)
    kept = {file.read_bytes() for file in path.glob(f"{CATALOG}.replaced-*")}
    assert set(lost.values()) <= kept
    with Archive(path) as archive, live(archive) as url:
        assert url


def test_without_the_audit_file_the_old_catalog_tells_and_without_both_nobody_does(world: World, backup: Path) -> None:
    path = world.archive.path
    world.archive.revoke_key("key-1")
    load(world.archive, world.folder, "projects", [projects()[1] | {"deleted_at": "2026-11-01T00:00:00Z"}])
    world.archive.catalog.close()
    (path / "audit.ndjson").unlink()
    warnings, summary = _restore(world, backup)
    assert summary.details["alive_again"] == ["key-1"]
    assert warnings["project-alive-again"].count == 1
    _audit_is_good(path)
    _delete(path)
    (path / "audit.ndjson").unlink()
    warnings, summary = _restore(world, backup)
    assert "had lost its last" in warnings.pop("audit-log").text
    assert set(warnings) == {"not-compared"}
    assert summary.exit_code == 3


def test_an_audit_file_that_tells_another_history_is_kept(world: World, backup: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", count=1)
    other.archive.catalog.close()
    path = world.archive.path
    world.archive.catalog.close()
    shutil.copy(other.archive.path / "audit.ndjson", path / "audit.ndjson")
    warnings, _ = _restore(world, backup)
    assert "kept as audit.ndjson.parted-1" in warnings["audit-log"].text
    assert (path / "audit.ndjson.parted-1").read_bytes() == (other.archive.path / "audit.ndjson").read_bytes()


# --- what is refused, before anything is changed ---------------------------------------------------------------------


def _newer(world: World, file: Path) -> None:
    with closing(sqlite3.connect(file)) as catalog:
        catalog.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, 'm999_later', '')",
            (migrations.OURS,),
        )
        catalog.commit()


def _cut(world: World, file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _of_another(world: World, file: Path) -> None:
    other = fill(world.folder / "another", count=1)
    file.unlink()
    other.archive.catalog.back_up(file)


def _foreign_database(world: World, file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as catalog:
        catalog.execute("CREATE TABLE t (a)")


def _unmounted(world: World, file: Path) -> None:
    Path(world.archive.store.address).rename(world.folder / "elsewhere")


REFUSED: dict[str, tuple[Callable[[World, Path], object], type[Exception], int, str]] = {
    "newer": (_newer, CatalogNewerError, 13, "Install that version"),
    "cut": (_cut, CatalogDamagedError, 13, "Restore another backup, or run `rebuild`"),
    "another archive": (_of_another, StoreMismatchError, 14, "Name a backup of that archive"),
    "a database": (_foreign_database, RequestError, 2, "Name a file that `craftkit-archive backup` wrote"),
    "a pdf": (lambda _, file: file.write_bytes(pdf("x")), RequestError, 2, "is not a backup of the catalog"),
    "empty": (lambda _, file: file.write_bytes(b""), RequestError, 2, "is not a backup of the catalog"),
    "unmounted": (
        _unmounted,
        StoreOfflineError,
        14,
        "Mount it. If it is lost too, run `craftkit-archive restore --new",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_restored_changes_nothing(world: World, backup: Path, name: str) -> None:
    spoil, error, code, words = REFUSED[name]
    _later(world)
    world.archive.catalog.close()
    spoil(world, backup)
    path = world.archive.path

    def held() -> dict[str, bytes]:
        return {
            file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != "archive.lock"
        }

    before = held()
    with pytest.raises(error) as caught:
        summary_of(restore_catalog(path, backup))
    assert words in str(caught.value)
    assert held() == before
    done = command("restore", backup, archive=path)
    assert (done.code, words in done.err, done.err.count("\n")) == (code, True, 1)


def test_the_catalog_itself_is_no_backup_of_it(world: World) -> None:
    with pytest.raises(RequestError, match="is the catalog itself"):
        summary_of(restore_catalog(world.archive.path, world.archive.path / CATALOG))


def test_one_writer_at_a_time(world: World, backup: Path) -> None:
    with world.archive.lock("fetch"), pytest.raises(LockedError, match="fetch"):
        summary_of(restore_catalog(world.archive.path, backup))


def test_a_machine_that_is_gone_comes_back_from_backup_and_bucket(world: World, backup: Path, tmp_path: Path) -> None:
    path = tmp_path / "a new machine"
    refused = command("restore", backup, archive=path)
    assert (refused.code, "--new-store" in refused.err) == (14, True)
    assert command("restore", "--new-store", backup, archive=path).code == 3  # there was nothing to compare with
    assert command("verify", archive=path).code == 1
    assert command("repair", world.bucket, archive=path).code == 0
    assert command("verify", archive=path).code == 0


def test_a_backup_of_an_older_version_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive.create(tmp_path / "a") as archive:
        settings = {name: archive.catalog.setting(name) for name in ("archive_id", "store")}
    # The library that brings it up to date expects every table: an older catalog is one that an older version made.
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:-1])
        Catalog.create(tmp_path / "b.db", settings)
    summary_of(restore_catalog(tmp_path / "a", tmp_path / "b.db"))
    assert command("status", archive=tmp_path / "a").code == 0
    assert command("retention", "list", archive=tmp_path / "a").code == 0


# --- a crash at any moment -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_kill_leaves_the_old_catalog_or_the_new_one_whole(world: World, backup: Path, tmp_path: Path) -> None:
    _later(world)
    # As a killed command leaves it: the last changes are in the log alone.
    catalog = world.archive.path / CATALOG
    before, restored = _tables(catalog), _tables(backup)
    world.archive.catalog.close()
    seen = set()
    for number in range(1, 40):
        path = tmp_path / "worlds" / str(number) / "archive"
        shutil.copytree(world.archive.path, path, symlinks=True)
        line = program("restore", backup, archive=path, before=DIE.format(number=number))
        died = subprocess.run(line, cwd=ROOT, capture_output=True, check=False)
        assert died.returncode in (3, -signal.SIGKILL), died.stderr
        found = _tables(path / CATALOG)
        is_old, is_new = found == before, found["renders"] == restored["renders"]
        assert is_old != is_new
        seen.add("old" if is_old else "new")
        if is_new:
            assert "'restore'" in "".join(found["events"])
            kept = max(path.glob(f"{CATALOG}.replaced-*"))
            assert _tables(kept) == before
        # The log is caught up with by the next command that writes, without an alarm.
        done = command("keys", "revoke", "key-2", archive=path)
        assert (done.code, "audit" in done.err) == (0, False), done.err
        _audit_is_good(path)
        again = command("restore", backup, archive=path)
        assert again.code == 3
        assert not list(path.glob("*.restored*"))
        shutil.rmtree(path)
        if died.returncode == 3:
            break
    else:
        pytest.fail("it was killed each time")
    assert seen == {"old", "new"}


@pytest.mark.long
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seconds=st.floats(0.05, 1.5))
def test_killed_at_any_time(tmp_path_factory: pytest.TempPathFactory, seconds: float) -> None:
    folder = tmp_path_factory.mktemp("timed")
    world = fill(folder, count=30)
    backup = folder / "backup.db"
    world.archive.catalog.back_up(backup)
    _later(world)
    path = world.archive.path
    before, restored = _tables(path / CATALOG), _tables(backup)
    world.archive.catalog.close()
    with subprocess.Popen(program("restore", backup, archive=path), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    found = _tables(path / CATALOG)
    assert (found == before) != (found["api_keys"] == restored["api_keys"])
    assert command("keys", "revoke", "key-2", archive=path).code == 0
    _audit_is_good(path)


def test_a_log_that_a_killed_command_left_is_part_of_what_is_kept(world: World, backup: Path, tmp_path: Path) -> None:
    world.archive.revoke_key("key-2")
    copied = tmp_path / "copied"
    shutil.copytree(world.archive.path, copied, symlinks=True)  # with the log, as it is now
    assert (copied / f"{CATALOG}-wal").stat().st_size
    world.archive.catalog.close()
    *_, summary = restore_catalog(copied, backup)
    assert isinstance(summary, Summary)
    assert summary.details["alive_again"] == ["key-2"]
    with closing(sqlite3.connect(copied / summary.details["kept"])) as kept:
        assert kept.execute("SELECT revoked_at IS NOT NULL FROM api_keys WHERE id = 'key-2'").fetchall() == [(1,)]


def test_a_server_sees_the_restored_catalog_with_the_next_request(world: World, backup: Path) -> None:
    world.archive.revoke_key("key-1")
    world.archive.catalog.close()

    def ask(url: str, key: str) -> Done:
        done = subprocess.run(
            [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                f"Authorization: Bearer {key}",
                f"{url}/v1/renders",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return Done(int(done.stdout), "", "")

    with Archive(world.archive.path, read_only=True) as archive, live(archive) as url:
        assert (ask(url, LIVE_KEY).code, ask(url, TEST_KEY).code) == (401, 200)
        assert command("restore", backup, archive=world.archive.path).code == 3
        assert (ask(url, LIVE_KEY).code, ask(url, TEST_KEY).code) == (200, 200)


def test_several_keys_are_revoked_at_once(world: World) -> None:
    world.archive.catalog.close()
    done = command("--json", "keys", "revoke", "key-1", "key-2", archive=world.archive.path)
    assert (done.code, [line.get("id") for line in done.lines[:-1]]) == (0, ["key-1", "key-2"])
    assert json.loads(done.out.splitlines()[-1])["counts"] == {"keys": 2}
    assert keys()[0]["id"] == "key-1"
