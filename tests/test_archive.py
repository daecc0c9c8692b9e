"""An archive: made whole or not at all, one writer, keys that are shown once, and a ledger of runs."""

import errno
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.catalog import Catalog, connection, migrations, rows
from craftkit_archive.doctor import examine_archive
from craftkit_archive.errors import (
    CatalogDamagedError,
    CatalogNewerError,
    LockedError,
    NoArchiveError,
    NotWritableError,
    RequestError,
    StoreMismatchError,
)
from craftkit_archive.records import Summary
from craftkit_archive.values import hash_key
from tests.worlds import NORTHWIND, ROOT, World, load, projects


def test_a_new_archive_is_private_and_in_wal_mode(archive: Archive) -> None:
    file = archive.path / CATALOG
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    load(archive, archive.path.parent, "projects", projects())
    assert {stat.S_IMODE(part.stat().st_mode) for part in archive.path.glob("archive.*")} == {0o600}


def test_an_archive_opens_in_other_sqlite_programs(world: World) -> None:
    with closing(sqlite3.connect(f"file:{world.archive.path / CATALOG}?mode=ro", uri=True)) as connection, connection:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        }
        assert {"projects", "api_keys", "renders", "assets", "runs", "findings"} <= names
        assert connection.execute("SELECT stored FROM project_summary WHERE slug = 'northwind'").fetchone() == (5,)
        assert connection.execute("SELECT COUNT(*) FROM due_for_verification").fetchone() == (5,)


def test_an_archive_can_be_moved_as_a_folder(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    moved = world.archive.path.rename(tmp_path / "moved")
    with Archive(moved) as archive:
        archive.store.check(archive.id)
        assert archive.store.address == str(moved / "assets")


def test_making_an_archive_where_one_is_changes_nothing(world: World) -> None:
    with pytest.raises(RequestError, match="already"):
        Archive.create(world.archive.path)
    assert world.archive.catalog.count_stored(world.archive.select())[0] == 5


def test_a_store_is_not_taken_from_another_archive(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(StoreMismatchError):
        Archive.create(tmp_path / "other", store_address=archive.store.address)
    assert not (tmp_path / "other" / CATALOG).exists()


def test_an_archive_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoArchiveError, match="init"):
        Archive(tmp_path)


def test_a_catalog_of_a_newer_version_is_left_alone(archive: Archive) -> None:
    archive.catalog.close()
    with closing(sqlite3.connect(archive.path / CATALOG)) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('craftkit_archive', 'm999', 'later')"
        )
    for read_only in (False, True):
        with pytest.raises(CatalogNewerError, match="Install"):
            Archive(archive.path, read_only=read_only)


def test_a_catalog_of_an_older_version_is_brought_up_to_date(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def m999_more(db: object) -> None:
        db.table("more").create({"id": int}, pk="id")  # type: ignore[attr-defined]

    archive.catalog.close()
    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, m999_more])
    with pytest.raises(RequestError, match="older version"):
        Archive(archive.path, read_only=True)
    with Archive(archive.path), Archive(archive.path, read_only=True):
        pass


@pytest.mark.parametrize("content", [b"", b"this is no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_catalog_is_told(archive: Archive, content: bytes) -> None:
    archive.catalog.close()
    for file in archive.path.glob(f"{CATALOG}*"):
        file.unlink()
    (archive.path / CATALOG).write_bytes(content)
    with pytest.raises(CatalogDamagedError, match="backup"):
        Archive(archive.path)


def test_another_database_is_no_catalog(archive: Archive) -> None:
    archive.catalog.close()
    (archive.path / CATALOG).unlink()
    with closing(sqlite3.connect(archive.path / CATALOG)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(CatalogDamagedError):
        Archive(archive.path)


def test_a_read_only_archive_refuses_writing(world: World) -> None:
    with Archive(world.archive.path, read_only=True) as archive, pytest.raises(NotWritableError):
        archive.revoke_key("key-1")


@pytest.mark.parametrize("name", ["expected_assets", "stored_assets", "export_rows"])
def test_a_page_of_a_selection_sorts_nothing(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A page that sorted its whole project would make a million renders take hours."""
    asked: list[tuple[str, Any]] = []
    real = Catalog._query

    def query(self: Catalog, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        asked.append((sql, parameters))
        return real(self, sql, parameters)

    selection = world.archive.select(projects=("northwind",), since="2026-01-01", until="2026-12-31", template_id="t")
    monkeypatch.setattr(Catalog, "_query", query)
    list(getattr(world.archive.catalog, name)(selection))
    [(sql, parameters), *_] = asked
    plan = " ".join(row[3] for row in real(world.archive.catalog, f"EXPLAIN QUERY PLAN {sql}", parameters))
    assert "TEMP B-TREE" not in plan
    assert "id>?" in plan.replace(" ", "")


@pytest.mark.parametrize("name", ["stored_assets", "export_rows"])
def test_a_list_of_ids_selects_each_once_in_the_catalogs_order(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (rows, connection):
        monkeypatch.setattr(module, "PAGE", 2)
    whole = [row.render_id for row in getattr(world.archive.catalog, name)(world.archive.select())]
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff" + "\n".join([*reversed(whole), "", f"  {whole[0]} ", "unknown"]))
    selection = world.archive.select(ids=file)
    assert [row.render_id for row in getattr(world.archive.catalog, name)(selection)] == whole
    assert world.archive.catalog.count_stored(selection) == world.archive.catalog.count_stored(world.archive.select())
    assert list(world.archive.catalog.unknown_ids(selection)) == ["unknown"]


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_list_that_names_no_id_is_refused(archive: Archive, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RequestError, match="one render id on each line"):
        archive.select(ids=file)


# --- the writer's lock -----------------------------------------------------------------------------------------------


def test_the_lock_names_its_holder_and_dies_with_it(archive: Archive) -> None:
    script = (
        "import sys, time; from pathlib import Path; from craftkit_archive.lock import hold_lock\n"
        "from craftkit_archive.values import utc_now\n"
        "with hold_lock(Path(sys.argv[1]), 'fetch', utc_now): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, archive.path], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"`fetch` \(process {holder.pid} on "), archive.lock("import"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with archive.lock("import"):
        pass


def test_to_look_at_the_lock_makes_no_other_command_fail(archive: Archive) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            archive.is_being_written()

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            with archive.lock("import"):
                assert archive.is_being_written()
    finally:
        over.set()
        for looker in lookers:
            looker.join()
    assert not archive.is_being_written()
    assert (archive.path / "archive.lock").read_bytes() == b"", "a holder that has finished is not named"


def test_an_archive_that_cannot_be_written_can_be_looked_at(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **names: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **names)

    monkeypatch.setattr(os, "open", read_only)
    assert archive.is_being_written() is False
    assert isinstance(list(examine_archive(archive))[-1], Summary)


def test_migrations_of_other_programs_are_left_alone(archive: Archive) -> None:
    archive.catalog.close()
    with closing(sqlite3.connect(archive.path / CATALOG)) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('notes', 'm001_tables2', 'now')"
        )
    with Archive(archive.path), Archive(archive.path, read_only=True):
        pass


def test_a_catalog_that_is_refused_leaks_no_connection(archive: Archive) -> None:
    archive.catalog.close()
    with closing(sqlite3.connect(archive.path / CATALOG)) as connection, connection:
        connection.execute("DELETE FROM settings")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for read_only in (False, True):
        with pytest.raises(CatalogDamagedError):
            Archive(archive.path, read_only=read_only)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_lock_file_with_nonsense_in_it_does_no_harm(archive: Archive) -> None:
    (archive.path / "archive.lock").write_bytes(b"\xff\xff nonsense" * 10)
    with archive.lock("import"):
        assert json.loads((archive.path / "archive.lock").read_bytes())["pid"] == os.getpid()
        with pytest.raises(LockedError, match="`import`"), archive.lock("fetch"):
            pass


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_given_once_and_only_its_hash_is_kept(world: World) -> None:
    made = world.archive.create_key("northwind", name="Records office", test=True)
    assert made.key is not None
    assert made.key.startswith("ck_test_")
    found = world.archive.catalog.find_key(hash_key(made.key))
    assert found is not None
    assert found[:4] == (made.id, NORTHWIND, False, False)
    assert [key.key for key in world.archive.list_keys()] == [None] * 6
    assert made.prefix == made.key[:12]
    world.archive.catalog.close()
    everything = b"".join(file.read_bytes() for file in world.archive.path.iterdir() if file.is_file())
    assert made.key.encode() not in everything


def test_a_key_is_revoked_by_id_or_prefix_and_keeps_its_date(world: World) -> None:
    made = world.archive.create_key("southwind")
    first = world.archive.revoke_key(made.prefix or "")
    assert first.revoked_at is not None
    assert world.archive.revoke_key(made.id).revoked_at == first.revoked_at
    assert [key.revoked_at for key in world.archive.list_keys("southwind")] == [None, first.revoked_at]


@pytest.mark.parametrize(
    "given", [lambda key: key, lambda key: f" {key}\n", lambda key: key[:13], lambda key: key[:30]]
)
def test_a_leaked_key_is_revoked_as_it_was_pasted(world: World, given: Callable[[str], str]) -> None:
    made = world.archive.create_key("northwind")
    world.archive.create_key("northwind")
    assert made.key is not None
    revoked = world.archive.revoke_key(given(made.key))
    assert (revoked.id, revoked.matched) == (made.id, "hash" if given(made.key).strip() == made.key else "prefix")
    found = world.archive.catalog.find_key(hash_key(made.key))
    assert found is not None
    assert found.revoked


def test_what_was_pasted_is_not_shown_again(world: World) -> None:
    with pytest.raises(RequestError) as caught:
        world.archive.revoke_key("ck_live_UNKNOWNandsecret12345678")
    assert "secret" not in str(caught.value)
    assert "the whole key" in str(caught.value)


def test_an_ambiguous_or_unknown_key_revokes_nothing(world: World) -> None:
    made = [world.archive.create_key("northwind") for _ in range(2)]
    world.archive.catalog.put(
        "keys", [(key.id, NORTHWIND, None, "ck_live_same", hash_key(key.id), None, None, None) for key in made]
    )
    for name, problem in (("ck_live_same", "Several keys"), ("ck_live_unknown", "No key")):
        with pytest.raises(RequestError, match=problem):
            world.archive.revoke_key(name)
    assert not any(key.revoked_at for key in world.archive.list_keys() if key.id in {key.id for key in made})


def test_a_key_can_be_revoked_while_another_command_writes(world: World) -> None:
    with world.archive.lock("fetch"):
        assert world.archive.revoke_key("key-1").revoked_at is not None


def test_a_project_is_found_by_id_or_slug(world: World) -> None:
    assert world.archive.find_project("northwind") == world.archive.find_project(NORTHWIND) == NORTHWIND
    with pytest.raises(RequestError, match="has gone, northwind, southwind"):
        world.archive.find_project("orchard")
    load(world.archive, world.folder, "projects", [{"id": "twin", "name": "Twin", "slug": "northwind"}])
    with pytest.raises(RequestError, match=f"{NORTHWIND}, twin"):
        world.archive.find_project("northwind")


@pytest.mark.parametrize(
    ("until", "before"), [("2026-01-31", "2026-02-01T00:00:00.000Z"), ("2026-01-31T10:00:00Z",) * 2]
)
def test_a_date_is_meant_to_its_end(archive: Archive, until: str, before: str) -> None:
    selected = archive.select(since="2026-01-31", until=until)
    assert (selected.since, (selected.before or "")[:19]) == ("2026-01-31T00:00:00.000Z", before[:19])
    with pytest.raises(RequestError, match="Invalid time"):
        archive.select(since="yesterday")


# --- runs and threads ------------------------------------------------------------------------------------------------


def test_every_change_leaves_a_run_however_it_ends(world: World) -> None:
    def fail(error: BaseException) -> None:
        with world.archive.run("verify", {}) as run:
            run.counts["checked"] = 3
            raise error

    with pytest.raises(RuntimeError):
        fail(RuntimeError())
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    runs = world.archive.catalog.last_runs(10)
    assert [(run.command, run.outcome) for run in runs] == [
        ("verify", "interrupted"),
        ("verify", "failed"),
        ("fetch", "ok"),
        ("import", "ok"),
        ("import", "ok"),
        ("import", "ok"),
    ]
    assert runs[1].counts == {"checked": 3}


def test_each_thread_has_a_connection_of_its_own(world: World) -> None:
    found: list[tuple[object, ...]] = []

    def look() -> None:
        found.append(world.archive.catalog.find_key(hash_key("ck_live_SAMPLEnorthwind0001")) or ())
        world.archive.catalog.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row[:4] for row in found] == [("key-1", NORTHWIND, False, False)] * 4


def test_a_transaction_lands_together_or_not_at_all(world: World) -> None:
    row = ("new", "New", None, None, None, None, None)

    def fail() -> None:
        with world.archive.catalog.transaction():
            world.archive.catalog.put("projects", [row])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert world.archive.catalog.known("projects", ["new"]) == {}
