"""The catalog for people who query it: keys that link tables, indexes, and views as answers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from craftkit_archive.archive import CATALOG, Archive
from craftkit_archive.catalog import Catalog, migrations
from craftkit_archive.catalog.rows import Choice, Selection
from craftkit_archive.repair.run import repair_assets
from craftkit_archive.values import format_time
from craftkit_archive.verify.run import Scope, verify_assets
from tests.worlds import World, fill, load, put, render, render_id, summary_of

TABLES = ("settings", "projects", "api_keys", "renders", "assets", "runs", "findings")


@pytest.fixture
def reader(world: World) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(world.archive.path / CATALOG, isolation_level=None)) as connection:
        yield connection


def rows(connection: sqlite3.Connection) -> dict[str, list[dict[str, object]]]:
    connection.row_factory = sqlite3.Row
    return {table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in TABLES}


@pytest.mark.parametrize("steps", range(1, len(migrations.STEPS)))
def test_a_catalog_of_any_older_version_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:steps])
        (tmp_path / "a").mkdir()
        Catalog.create(tmp_path / "a" / CATALOG, {"archive_id": "1", "store": "assets"})
    with closing(sqlite3.connect(tmp_path / "a" / CATALOG)) as connection, connection:
        connection.execute("INSERT INTO projects (id, name, slug) VALUES ('p', 'P', 'p')")
        connection.execute("INSERT INTO api_keys (id, project_id, key_hash) VALUES ('k', 'gone', 'h')")
        connection.executemany(
            "INSERT INTO renders (id, project_id, status) VALUES (?, 'p', 'succeeded')", [("r1",), ("r2",)]
        )
        connection.executemany(
            "INSERT INTO assets (render_id, key, sha256, stored_at, verdict) VALUES (?, ?, ?, '2026', ?)",
            [("r1", "renders/p/r1.pdf", "a" * 64, "ok"), ("nobody", "renders/p/nobody.pdf", None, "missing")],
        )
        connection.execute("INSERT INTO runs (id, command, started_at) VALUES (1, 'verify', '2026')")
        connection.executemany(
            "INSERT INTO findings (run_id, render_id, key, verdict) VALUES (1, ?, ?, ?)",
            [("nobody", "renders/p/nobody.pdf", "missing"), (None, "x.pdf", "orphan")],
        )
        before = rows(connection)
    Archive(tmp_path / "a").catalog.close()
    with closing(sqlite3.connect(tmp_path / "a" / CATALOG)) as connection:
        after = rows(connection)
        views = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        for view in views:
            connection.execute(f"SELECT * FROM {view}").fetchall()
        dangling = {(table, parent) for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")}
    # The log of changes begins with this one, and notes how far its file is.
    after["settings"] = [row for row in after["settings"] if row["name"] != "audit_flushed"]
    for table in TABLES:
        assert [{name: row[name] for name in old} for row, old in zip(after[table], before[table], strict=True)] == (
            before[table]
        ), table
    assert dangling == {("assets", "renders"), ("findings", "renders")}
    assert len(views) > 6


def test_no_view_shows_the_hash_of_a_key(world: World, reader: sqlite3.Connection) -> None:
    views = [name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
    for view in views:
        found = reader.execute(f"SELECT * FROM {view}")
        assert "key_hash" not in [column[0] for column in found.description], view
    assert reader.execute("SELECT COUNT(*) FROM project_keys").fetchone() == (
        reader.execute("SELECT COUNT(*) FROM api_keys").fetchone()
    )


def test_tables_are_linked_where_rows_must_exist(world: World, reader: sqlite3.Connection) -> None:
    links = {
        (table, column, parent)
        for table in ("assets", "findings")
        for _, _, parent, column, *_ in reader.execute(f"PRAGMA foreign_key_list({table})")
    }
    assert links == {
        ("assets", "render_id", "renders"),
        ("findings", "render_id", "renders"),
        ("findings", "run_id", "runs"),
    }


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ("SELECT * FROM assets WHERE verdict = 'missing'", "idx_assets_verdict"),
        ("SELECT * FROM findings WHERE render_id = 'x'", "idx_findings_render"),
        ("SELECT * FROM findings WHERE run_id = 1", "idx_findings_run_id"),
    ],
)
def test_the_usual_questions_have_an_index(reader: sqlite3.Connection, question: str, index: str) -> None:
    assert index in " ".join(row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {question}"))


def test_what_is_not_stored_is_listed_with_what_people_know_it_by(
    world: World, tmp_path: Path, reader: sqlite3.Connection
) -> None:
    load(world.archive, tmp_path, "renders", [render(20), render(21, status="failed")])
    found = reader.execute("SELECT render_id, project_slug, state FROM renders_not_stored").fetchall()
    assert found == [(render_id(20), "northwind", "not-stored")]


def test_latest_findings_are_what_is_wrong_now(world: World, reader: sqlite3.Connection) -> None:
    def latest() -> dict[str | None, str]:
        return dict(reader.execute("SELECT render_id, verdict FROM latest_findings").fetchall())

    assert latest() == {}
    world.asset(1).write_bytes(b"other")
    world.asset(2).unlink()
    stray = put(Path(world.archive.store.address), "renders/nobody's.pdf", b"x")
    for _ in range(2):  # found twice, listed once
        summary_of(verify_assets(world.archive))
    assert latest() == {render_id(1): "not-a-pdf", render_id(2): "missing", None: "orphan"}
    by_template = reader.execute("SELECT SUM(findings) FROM findings_by_template").fetchone()
    assert by_template == (2,)
    summary_of(repair_assets(world.archive, str(world.bucket)))
    stray.unlink()
    summary_of(verify_assets(world.archive))
    assert latest() == {}


def test_what_is_due_is_what_a_verification_would_choose(tmp_path: Path) -> None:
    world = fill(tmp_path, count=8)
    summary_of(verify_assets(world.archive, scope=Scope(due_seconds=10 * 86_400)))
    now = datetime.now(UTC)
    with closing(sqlite3.connect(world.archive.path / CATALOG)) as connection, connection:
        for number, days in enumerate((1, 9, 11, 40, -2, None, 2, 3)):
            when = None if days is None else format_time(now - timedelta(days=days))
            connection.execute("UPDATE assets SET verified_at = ? WHERE render_id = ?", (when, render_id(number)))
        connection.execute("UPDATE assets SET verdict = 'missing' WHERE render_id = ?", (render_id(6),))
        due = [name for (name,) in connection.execute("SELECT render_id FROM due_for_verification")]
    choice = Choice(due_before=format_time(now - timedelta(days=10)), now=format_time(now))
    world.archive.catalog.choose(Selection(), choice)
    assert set(due) == {asset.render_id for asset in world.archive.catalog.chosen_assets()}
    assert set(due) == {render_id(number) for number in (2, 3, 4, 5, 6)}
    assert due[0] == render_id(5), "never checked first"
