"""Rebuild: a lost catalog comes back from the store and the files of metadata."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.errors import RequestError
from craftkit_archive.records import Kind
from craftkit_archive.repair.rebuild import LOST, rebuild_archive
from craftkit_archive.verify.run import verify_assets
from tests.worlds import LIVE_KEY, World, command, keys, live, projects, render, summary_of, write_ndjson


@pytest.fixture
def files(world: World) -> dict[Kind, list[str]]:
    """Return the files that the archive was filled from."""
    rows = {"projects": projects(), "keys": keys(), "renders": [render(number) for number in range(5)]}
    return {kind: [str(write_ndjson(world.folder / f"{kind}.ndjson", row))] for kind, row in rows.items()}  # type: ignore[misc]


def _rows(archive: Archive, table: str, columns: str) -> list[tuple[object, ...]]:
    return archive.catalog._query(f"SELECT {columns} FROM {table} ORDER BY 1")


def test_a_lost_catalog_comes_back(world: World, files: dict[Kind, list[str]]) -> None:
    path, archive_id = world.archive.path, world.archive.id
    assets = _rows(world.archive, "assets", "render_id, key, size_bytes, sha256")
    renders = _rows(world.archive, "renders", "*")
    world.archive.catalog.close()
    (path / CATALOG).unlink()
    summary = summary_of(rebuild_archive(path, files))
    assert (summary.outcome, summary.counts["adopted"], summary.details["lost"]) == ("ok", 5, LOST)
    with Archive(path) as archive:
        assert archive.id == archive_id
        assert _rows(archive, "assets", "render_id, key, size_bytes, sha256") == assets
        assert _rows(archive, "renders", "*") == renders
        assert {row[0] for row in _rows(archive, "assets", "digest_source")} == {"first-read"}
        assert summary_of(verify_assets(archive)).outcome == "ok"
        with live(archive) as url:
            assert url
    assert command("keys", "list", archive=path).out.count("\n") == 6  # with the heads
    assert LIVE_KEY not in (path / CATALOG).read_bytes().decode("latin-1")


def test_a_damaged_catalog_is_kept_and_a_good_one_refused(world: World, files: dict[Kind, list[str]]) -> None:
    path = world.archive.path
    with pytest.raises(RequestError, match="only a lost catalog"):
        summary_of(rebuild_archive(path, files))
    world.archive.catalog.close()
    (path / CATALOG).write_bytes(b"this was a catalog")
    summary_of(rebuild_archive(path, files))
    assert (path / f"{CATALOG}.damaged-1").read_bytes() == b"this was a catalog"
    assert summary_of(verify_assets(Archive(path))).counts == {"checked": 5, "ok": 5}


def test_the_log_of_a_lost_catalog_is_not_played_into_the_new_one(world: World, files: dict[Kind, list[str]]) -> None:
    path, log = world.archive.path, world.archive.path / f"{CATALOG}-wal"
    world.archive.catalog._query("PRAGMA wal_checkpoint(TRUNCATE)")
    summary_of(verify_assets(world.archive))
    left = log.read_bytes()
    assert left
    world.archive.catalog.close()
    (path / CATALOG).unlink()
    log.write_bytes(left)  # as a killed command leaves it
    assert summary_of(rebuild_archive(path, files)).counts["adopted"] == 5
    with Archive(path) as archive:
        assert _rows(archive, "pragma_integrity_check", "*") == [("ok",)]
        assert "verify" not in {row[0] for row in _rows(archive, "runs", "command")}
    assert (path / f"{CATALOG}.damaged-1-wal").read_bytes() == left


def test_what_the_store_has_and_the_files_do_not_is_told(world: World, files: dict[Kind, list[str]]) -> None:
    world.archive.catalog.close()
    (world.archive.path / CATALOG).unlink()
    world.asset(0).unlink()
    write_ndjson(world.folder / "renders.ndjson", [render(number) for number in range(4)])
    summary = summary_of(rebuild_archive(world.archive.path, files))
    assert summary.outcome == "incomplete"
    assert (summary.counts["adopted"], summary.counts["absent"], summary.counts["unclaimed"]) == (3, 1, 1)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_rebuild_that_is_interrupted_can_be_run_again(world: World, files: dict[Kind, list[str]], after: int) -> None:
    path = world.archive.path
    world.archive.catalog.close()
    (path / CATALOG).write_bytes(b"this was a catalog")
    records = rebuild_archive(path, files)
    for _ in range(after):
        next(records)
    records.close()  # type: ignore[attr-defined]
    assert (path / CATALOG).read_bytes() == b"this was a catalog", "nothing is moved before the new one is whole"
    assert summary_of(rebuild_archive(path, files)).counts["adopted"] == 5
    assert not list(path.glob("*.rebuilt*"))
    assert summary_of(verify_assets(Archive(path))).counts == {"checked": 5, "ok": 5}


def test_what_a_reader_kept_in_the_log_comes_along(world: World, files: dict[Kind, list[str]]) -> None:
    """SQLite leaves the log beside the catalog as long as anybody reads: renaming the catalog alone would lose it."""
    path = world.archive.path
    world.archive.catalog.close()
    (path / CATALOG).unlink()
    records = rebuild_archive(path, files)
    next(records)
    with closing(sqlite3.connect(f"file:{path / CATALOG}.rebuilt?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM assets").fetchone() == (0,)
        assert summary_of(records).counts["adopted"] == 5
    assert not list(path.glob("*.rebuilt*"))
    with Archive(path) as archive:
        assert summary_of(verify_assets(archive)).counts == {"checked": 5, "ok": 5}


def test_a_store_that_is_nobodys_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "p.ndjson", projects())
    for archive in (tmp_path / "archive", tmp_path / "none"):
        with pytest.raises(RequestError, match="init --store"):
            summary_of(rebuild_archive(archive, {"projects": [str(file)]}))
    assert [path.name for path in tmp_path.iterdir()] == ["p.ndjson"]


def test_without_files_of_metadata_nothing_is_made(world: World, tmp_path: Path) -> None:
    path = world.archive.path
    world.archive.catalog.close()
    for file in path.glob(f"{CATALOG}*"):
        file.unlink()
    before = sorted(path.rglob("*"))
    for archive in (path, tmp_path / "none"):
        done = command("rebuild", archive=archive)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "Name them with --projects, --keys and --renders" in done.err
        assert "craftkit-archive restore FILE" in done.err
    assert sorted(path.rglob("*")) == before
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_cannot_be_known(world: World, files: dict[Kind, list[str]]) -> None:
    path = world.archive.path
    world.archive.catalog.close()
    for file in path.glob(f"{CATALOG}*"):
        file.unlink()
    words = [word for kind in files for word in (f"--{kind}", files[kind][0])]
    done = command("rebuild", *words, archive=path)
    assert (done.code, "works again" in done.err) == (0, True)
    shutil.rmtree(path / "assets")
    assert command("rebuild", *words, archive=path).code == 2
