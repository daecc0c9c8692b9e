"""The tables of the catalog, and the migrations that bring older catalogs up to date."""

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from craftkit_archive.catalog.rows import ELSEWHERE
from craftkit_archive.catalog.totals import make_totals
from craftkit_archive.coverage import COVERAGE_DAYS

if TYPE_CHECKING:
    from sqlite_utils import Database


def m001_tables(db: "Database") -> None:
    """Make the first tables, their indexes and the views."""
    db.table("settings").create({"name": str, "value": str}, pk="name")
    db.table("projects").create(
        {
            "id": str,
            "name": str,
            "slug": str,
            "created_at": str,
            "updated_at": str,
            "deleted_at": str,
            "extra": str,
        },
        pk="id",
        not_null={"name"},
    )
    db.table("projects").create_index(["slug"])
    db.table("api_keys").create(
        {
            "id": str,
            "project_id": str,
            "name": str,
            "prefix": str,
            "key_hash": str,
            "created_at": str,
            "revoked_at": str,
            "extra": str,
        },
        pk="id",
        not_null={"project_id", "key_hash"},
    )
    db.table("api_keys").create_index(["key_hash"], unique=True)
    db.table("renders").create(
        {
            "id": str,
            "project_id": str,
            "template_id": str,
            "status": str,
            "error_message": str,
            "asset_key": str,
            "created_at": str,
            "completed_at": str,
            "duration_ms": int,
            "extra": str,
        },
        pk="id",
        not_null={"project_id", "status"},
    )
    db.table("assets").create(
        {
            "render_id": str,
            "key": str,
            "size_bytes": int,
            "sha256": str,
            "digest_source": str,
            "source": str,
            "stored_at": str,
            "verified_at": str,
            "verdict": str,
        },
        pk="render_id",
        not_null={"key"},
    )
    db.table("assets").create_index(["key"], unique=True)
    db.table("runs").create(
        {
            "id": int,
            "command": str,
            "arguments": str,
            "started_at": str,
            "finished_at": str,
            "outcome": str,
            "counts": str,
            "bytes_read": int,
        },
        pk="id",
        not_null={"command", "started_at"},
    )
    db.table("findings").create(
        {
            "run_id": int,
            "render_id": str,
            "key": str,
            "verdict": str,
            "expected": str,
            "found": str,
            "detail": str,
            "found_at": str,
        },
        foreign_keys=[("run_id", "runs", "id")],
        not_null={"run_id", "key", "verdict"},
    )
    db.table("findings").create_index(["run_id"])
    db.create_view(
        "project_summary",
        """
        WITH held AS (
            SELECT r.project_id,
                   COUNT(*) AS renders,
                   SUM(r.status = 'succeeded') AS succeeded,
                   COUNT(a.stored_at) AS stored,
                   SUM(r.status = 'succeeded' AND a.stored_at IS NULL) AS not_stored,
                   COALESCE(SUM(a.size_bytes) FILTER (WHERE a.stored_at IS NOT NULL), 0) AS stored_bytes,
                   COALESCE(SUM(a.verdict = 'ok'), 0) AS verified_ok,
                   COALESCE(SUM(a.verdict <> 'ok'), 0) AS damaged,
                   MIN(a.verified_at) AS oldest_verified_at
            FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id
            GROUP BY r.project_id
        ), ids AS (SELECT id FROM projects UNION SELECT project_id FROM held)
        SELECT ids.id, p.slug, COALESCE(p.name, ids.id) AS name, p.deleted_at,
               COALESCE(h.renders, 0) AS renders, COALESCE(h.succeeded, 0) AS succeeded,
               COALESCE(h.stored, 0) AS stored, COALESCE(h.not_stored, 0) AS not_stored,
               COALESCE(h.stored_bytes, 0) AS stored_bytes, COALESCE(h.verified_ok, 0) AS verified_ok,
               COALESCE(h.damaged, 0) AS damaged, h.oldest_verified_at
        FROM ids LEFT JOIN projects AS p ON p.id = ids.id LEFT JOIN held AS h ON h.project_id = ids.id
        """,
    )
    db.create_view(
        "due_for_verification",
        """
        SELECT a.render_id, a.key, r.project_id, a.size_bytes, a.verified_at, a.verdict
        FROM assets AS a JOIN renders AS r ON r.id = a.render_id
        WHERE a.stored_at IS NOT NULL
        ORDER BY a.verified_at IS NOT NULL, a.verdict = 'ok', a.verified_at
        """,
    )


def m002_newest_first(db: "Database") -> None:
    """Index the renders of a project by time, for lists that begin with the newest."""
    # COALESCE sorts renders without a time last, in the order of their ids, so the query needs no case for them.
    db.execute("CREATE INDEX idx_renders_newest ON renders (project_id, COALESCE(created_at, ''), id)")


def m003_coverage(db: "Database") -> None:
    """Keep with each verification how much was covered when it ended: days, and bytes stored and covered."""
    for column in ("coverage_days", "stored_bytes", "covered_bytes"):
        db.table("runs").add_column(column, int)


def m004_odd_on_arrival(db: "Database") -> None:
    """Keep with each asset what was odd about it as a PDF when it came."""
    db.table("assets").add_column("odd", str)
    # Partial, because few assets have one: finding them takes no scan, and an import pays for few entries.
    db.execute("CREATE INDEX idx_assets_odd ON assets (render_id) WHERE odd IS NOT NULL")


def _unless_acknowledged(state: str) -> str:
    """Return SQL over `renders AS r` for a state, or for `acknowledged` if that state was accepted."""
    return (
        "COALESCE((SELECT 'acknowledged' FROM acknowledgements AS k"
        f" WHERE k.render_id = r.id AND k.state = '{state}'), '{state}')"
    )


def m005_states(db: "Database") -> None:
    """Add a view that gives each PDF's state, and a table of the losses that people have accepted."""
    db.execute(
        "CREATE TABLE acknowledgements (render_id TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL,"
        " accepted_at TEXT NOT NULL) WITHOUT ROWID"
    )
    db.table("findings").add_column("acknowledged", str)
    # The same as `states.STATES` says about a verdict; a test compares them.
    db.create_view(
        "asset_states",
        f"""
        SELECT r.id AS render_id, r.project_id, r.status, COALESCE(a.key, r.asset_key) AS key, a.size_bytes,
               a.stored_at, a.verified_at, a.verdict,
               CASE WHEN a.stored_at IS NULL
                        THEN CASE WHEN r.status = 'succeeded' THEN {_unless_acknowledged("not-stored")} END
                    WHEN a.verdict = 'ok' THEN 'ok'
                    WHEN a.verified_at IS NULL
                        THEN CASE WHEN a.sha256 IS NULL THEN {_unless_acknowledged("unverified")} ELSE 'unchecked' END
                    WHEN a.verdict IN ('unreadable', 'unavailable') THEN {_unless_acknowledged("unreadable")}
                    WHEN a.verdict = 'unverified' THEN {_unless_acknowledged("unverified")}
                    ELSE {_unless_acknowledged("damaged")} END AS state
        FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id
        """,
    )
    # Only a verification of everything looks for extra files; such a run has one argument, its level.
    db.create_view(
        "extra_files",
        """
        SELECT f.key, f.found_at, f.run_id, 'extra' AS state
        FROM findings AS f
        WHERE f.verdict = 'orphan'
          AND f.run_id = (SELECT MAX(id) FROM runs WHERE command = 'verify'
                          AND outcome IN ('ok', 'problems', 'incomplete')
                          AND (SELECT COUNT(*) FROM json_each(arguments)) = 1)
          AND NOT EXISTS (SELECT 1 FROM assets AS a WHERE a.key = f.key AND a.stored_at IS NOT NULL)
        """,
    )
    db.create_view(
        "project_summary",
        """
        WITH held AS (
            SELECT project_id,
                   COUNT(*) AS renders,
                   SUM(status = 'succeeded') AS succeeded,
                   COUNT(stored_at) AS stored,
                   COALESCE(SUM(state = 'not-stored'), 0) AS not_stored,
                   COALESCE(SUM(size_bytes) FILTER (WHERE stored_at IS NOT NULL), 0) AS stored_bytes,
                   COALESCE(SUM(state = 'ok'), 0) AS verified_ok,
                   COALESCE(SUM(state = 'damaged'), 0) AS damaged,
                   COALESCE(SUM(state = 'unreadable'), 0) AS unreadable,
                   COALESCE(SUM(state = 'unverified'), 0) AS unverified,
                   COALESCE(SUM(state = 'acknowledged'), 0) AS acknowledged,
                   MIN(verified_at) AS oldest_verified_at
            FROM asset_states GROUP BY project_id
        ), ids AS (SELECT id FROM projects UNION SELECT project_id FROM held)
        SELECT ids.id, p.slug, COALESCE(p.name, ids.id) AS name, p.deleted_at,
               COALESCE(h.renders, 0) AS renders, COALESCE(h.succeeded, 0) AS succeeded,
               COALESCE(h.stored, 0) AS stored, COALESCE(h.not_stored, 0) AS not_stored,
               COALESCE(h.stored_bytes, 0) AS stored_bytes, COALESCE(h.verified_ok, 0) AS verified_ok,
               COALESCE(h.damaged, 0) AS damaged, COALESCE(h.unreadable, 0) AS unreadable,
               COALESCE(h.unverified, 0) AS unverified, COALESCE(h.acknowledged, 0) AS acknowledged,
               h.oldest_verified_at
        FROM ids LEFT JOIN projects AS p ON p.id = ids.id LEFT JOIN held AS h ON h.project_id = ids.id
        """,
        replace=True,
    )


def m006_for_people_who_query(db: "Database") -> None:
    """Add foreign keys, indexes and views for people who query the catalog with tools such as Datasette."""
    # SQLite can add a foreign key only by copying the table: some three seconds for a million assets, once. Rows that
    # point nowhere are kept: SQLite does not enforce the keys, and `PRAGMA foreign_key_check` lists them. The views are
    # dropped meanwhile, because SQLite refuses to rename a table that a view refers to.
    views = {view.name: view.schema for view in db.views}
    for name in views:
        db.execute(f"DROP VIEW [{name}]")
    for table in ("assets", "findings"):
        db.table(table).transform(add_foreign_keys=[("render_id", "renders", "id")])
    for name, schema in views.items():
        if name != "due_for_verification":
            db.execute(schema)
    db.execute("CREATE INDEX idx_assets_verdict ON assets (verdict) WHERE verdict IS NOT NULL")
    db.execute("CREATE INDEX idx_findings_render ON findings (render_id)")
    # No index on the template of a render: it would cost an import a tenth of its time. Findings are so few that
    # `findings_by_template` looks their renders up one by one.
    db.create_view(
        "renders_not_stored",
        """
        SELECT s.render_id, s.project_id, p.slug AS project_slug, r.template_id, s.key, r.created_at, r.completed_at,
               s.state
        FROM asset_states AS s JOIN renders AS r ON r.id = s.render_id LEFT JOIN projects AS p ON p.id = s.project_id
        WHERE s.stored_at IS NULL AND s.status = 'succeeded'
        """,
    )
    # What was seen last of each key, as long as that is how things are: what was repaired since is not in it.
    db.create_view(
        "latest_findings",
        """
        SELECT f.run_id, f.render_id, r.project_id, r.template_id, f.key, f.verdict,
               COALESCE(s.state, 'extra') AS state, f.expected, f.found, f.detail, f.found_at
        FROM (SELECT MAX(rowid) AS last FROM findings WHERE verdict <> 'ok' GROUP BY key) AS l
        JOIN findings AS f ON f.rowid = l.last
        LEFT JOIN renders AS r ON r.id = f.render_id
        LEFT JOIN asset_states AS s ON s.render_id = f.render_id
        WHERE s.state NOT IN ('ok', 'unchecked')
           OR (f.render_id IS NULL AND f.key IN (SELECT key FROM extra_files))
        """,
    )
    db.create_view(
        "findings_by_template",
        """
        SELECT project_id, template_id, state, verdict, COUNT(*) AS findings, MIN(found_at) AS first_found_at,
               MAX(found_at) AS last_found_at
        FROM latest_findings WHERE render_id IS NOT NULL
        GROUP BY project_id, template_id, state, verdict
        """,
    )
    # What `verify --due` would choose, with the age that the last verification was given.
    db.create_view(
        "due_for_verification",
        f"""
        WITH age AS (
            SELECT COALESCE((SELECT coverage_days FROM runs WHERE command = 'verify' AND coverage_days IS NOT NULL
                             ORDER BY id DESC LIMIT 1), {COVERAGE_DAYS}) AS days
        ), limits AS (
            SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || days || ' days') AS due_before,
                   strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS now
            FROM age
        )
        SELECT a.render_id, a.key, r.project_id, a.size_bytes, a.verified_at, a.verdict
        FROM limits JOIN assets AS a JOIN renders AS r ON r.id = a.render_id
        WHERE a.stored_at IS NOT NULL
          AND (a.verified_at IS NULL OR a.verdict <> 'ok' OR a.verified_at < due_before OR a.verified_at > now)
        ORDER BY a.verified_at IS NOT NULL, a.verdict = 'ok', a.verified_at
        """,
    )
    db.create_view(
        "project_keys",
        """
        SELECT k.id, k.project_id, p.slug AS project_slug, k.name, k.prefix, k.created_at, k.revoked_at
        FROM api_keys AS k LEFT JOIN projects AS p ON p.id = k.project_id
        """,
    )


def m007_events(db: "Database") -> None:
    """Keep the audit log: each event bound to the one before by its hash."""
    db.execute(
        "CREATE TABLE events (number INTEGER PRIMARY KEY, time TEXT NOT NULL, what TEXT NOT NULL, who TEXT NOT NULL,"
        " counts TEXT NOT NULL, details TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL)"
    )


def m008_retention(db: "Database") -> None:
    """Keep retention rules and legal holds."""
    db.execute(
        "CREATE TABLE retention (scope TEXT NOT NULL, name TEXT NOT NULL, keep TEXT NOT NULL,"
        " counted_from TEXT NOT NULL, set_at TEXT NOT NULL, PRIMARY KEY (scope, name))"
    )
    db.execute(
        "CREATE TABLE holds (name TEXT PRIMARY KEY, by_ids INTEGER NOT NULL, project_id TEXT, template_id TEXT,"
        " since TEXT, before TEXT, placed_at TEXT NOT NULL, released_at TEXT)"
    )
    db.execute("CREATE TABLE hold_ids (hold TEXT NOT NULL, render_id TEXT NOT NULL, PRIMARY KEY (render_id, hold))")


def m009_nights(db: "Database") -> None:
    """Keep what each night did."""
    db.execute(
        "CREATE TABLE nights (run_id INTEGER PRIMARY KEY REFERENCES runs(id), exit_code INTEGER NOT NULL,"
        " sentence TEXT NOT NULL, state TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0)"
    )
    db.execute(
        "CREATE TABLE night_steps (run_id INTEGER NOT NULL REFERENCES runs(id), position INTEGER NOT NULL,"
        " name TEXT NOT NULL, command TEXT NOT NULL, outcome TEXT NOT NULL, exit_code INTEGER NOT NULL,"
        " sentence TEXT NOT NULL, started_at TEXT NOT NULL, finished_at TEXT NOT NULL, PRIMARY KEY (run_id, position))"
    )


def m010_disposal(db: "Database") -> None:
    """Keep a tombstone of each disposed render, and a row of each export that was made."""
    db.execute(
        "CREATE TABLE tombstones (number INTEGER PRIMARY KEY, render_id TEXT NOT NULL UNIQUE, project_id TEXT NOT NULL,"
        " size_bytes INTEGER, sha256 TEXT, created_at TEXT, disposed_at TEXT NOT NULL, policy TEXT NOT NULL,"
        " disposed_by TEXT NOT NULL, finished_at TEXT, remains TEXT, run_id INTEGER, key TEXT)"
    )
    db.execute("CREATE INDEX idx_tombstones_run ON tombstones (run_id, render_id)")
    # Every disposal looks for unfinished ones, which are few.
    db.execute("CREATE INDEX idx_tombstones_begun ON tombstones (render_id) WHERE finished_at IS NULL")
    # `members` holds eight bytes of a hash for each render of the export: a row for each would make this table larger
    # than all others together.
    db.execute(
        "CREATE TABLE exports (id INTEGER PRIMARY KEY, target TEXT NOT NULL, made_at TEXT NOT NULL,"
        " pdfs INTEGER NOT NULL, size_bytes INTEGER NOT NULL, seal TEXT NOT NULL, members BLOB)"
    )
    db.execute("CREATE INDEX idx_exports_target ON exports (target)")
    # The same as `states.STATES` says about a verdict; a test compares them.
    db.create_view(
        "asset_states",
        f"""
        SELECT r.id AS render_id, r.project_id, r.status, COALESCE(a.key, r.asset_key) AS key, a.size_bytes,
               a.stored_at, a.verified_at, a.verdict,
               CASE WHEN a.stored_at IS NULL
                        THEN CASE WHEN EXISTS (SELECT 1 FROM tombstones AS t WHERE t.render_id = r.id) THEN 'disposed'
                              WHEN r.status = 'succeeded' THEN {_unless_acknowledged("not-stored")} END
                    WHEN a.verdict = 'ok' THEN 'ok'
                    WHEN a.verified_at IS NULL
                        THEN CASE WHEN a.sha256 IS NULL THEN {_unless_acknowledged("unverified")} ELSE 'unchecked' END
                    WHEN a.verdict IN ('unreadable', 'unavailable') THEN {_unless_acknowledged("unreadable")}
                    WHEN a.verdict = 'unverified' THEN {_unless_acknowledged("unverified")}
                    ELSE {_unless_acknowledged("damaged")} END AS state
        FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id
        """,
        replace=True,
    )
    db.create_view(
        "project_summary",
        """
        WITH held AS (
            SELECT project_id,
                   COUNT(*) AS renders,
                   SUM(status = 'succeeded') AS succeeded,
                   COUNT(stored_at) AS stored,
                   COALESCE(SUM(state = 'not-stored'), 0) AS not_stored,
                   COALESCE(SUM(size_bytes) FILTER (WHERE stored_at IS NOT NULL), 0) AS stored_bytes,
                   COALESCE(SUM(state = 'ok'), 0) AS verified_ok,
                   COALESCE(SUM(state = 'damaged'), 0) AS damaged,
                   COALESCE(SUM(state = 'unreadable'), 0) AS unreadable,
                   COALESCE(SUM(state = 'unverified'), 0) AS unverified,
                   COALESCE(SUM(state = 'acknowledged'), 0) AS acknowledged,
                   COALESCE(SUM(state = 'disposed'), 0) AS disposed,
                   MIN(verified_at) AS oldest_verified_at
            FROM asset_states GROUP BY project_id
        ), ids AS (SELECT id FROM projects UNION SELECT project_id FROM held)
        SELECT ids.id, p.slug, COALESCE(p.name, ids.id) AS name, p.deleted_at,
               COALESCE(h.renders, 0) AS renders, COALESCE(h.succeeded, 0) AS succeeded,
               COALESCE(h.stored, 0) AS stored, COALESCE(h.not_stored, 0) AS not_stored,
               COALESCE(h.stored_bytes, 0) AS stored_bytes, COALESCE(h.verified_ok, 0) AS verified_ok,
               COALESCE(h.damaged, 0) AS damaged, COALESCE(h.unreadable, 0) AS unreadable,
               COALESCE(h.unverified, 0) AS unverified, COALESCE(h.acknowledged, 0) AS acknowledged,
               COALESCE(h.disposed, 0) AS disposed,
               h.oldest_verified_at
        FROM ids LEFT JOIN projects AS p ON p.id = ids.id LEFT JOIN held AS h ON h.project_id = ids.id
        """,
        replace=True,
    )
    db.create_view(
        "renders_not_stored",
        """
        SELECT s.render_id, s.project_id, p.slug AS project_slug, r.template_id, s.key, r.created_at, r.completed_at,
               s.state
        FROM asset_states AS s JOIN renders AS r ON r.id = s.render_id LEFT JOIN projects AS p ON p.id = s.project_id
        WHERE s.stored_at IS NULL AND s.status = 'succeeded' AND s.state <> 'disposed'
        """,
        replace=True,
    )
    # What was seen last of each key, as long as that is how things are: what was repaired since is not in it.
    db.create_view(
        "latest_findings",
        """
        SELECT f.run_id, f.render_id, r.project_id, r.template_id, f.key, f.verdict,
               COALESCE(s.state, 'extra') AS state, f.expected, f.found, f.detail, f.found_at
        FROM (SELECT MAX(rowid) AS last FROM findings WHERE verdict <> 'ok' GROUP BY key) AS l
        JOIN findings AS f ON f.rowid = l.last
        LEFT JOIN renders AS r ON r.id = f.render_id
        LEFT JOIN asset_states AS s ON s.render_id = f.render_id
        WHERE s.state NOT IN ('ok', 'unchecked', 'disposed')
           OR (f.render_id IS NULL AND f.key IN (SELECT key FROM extra_files))
        """,
        replace=True,
    )


def m011_totals(db: "Database") -> None:
    """Keep running totals of the states of PDFs, so that counting them needs no scan."""
    make_totals(db)


def m012_elsewhere(db: "Database") -> None:
    """Index the asset keys that differ from the ones Craftkit gives."""
    db.execute(f"CREATE INDEX idx_renders_elsewhere ON renders (asset_key) WHERE {ELSEWHERE}")


STEPS: list[Callable[["Database"], None]] = [
    m001_tables,
    m002_newest_first,
    m003_coverage,
    m004_odd_on_arrival,
    m005_states,
    m006_for_people_who_query,
    m007_events,
    m008_retention,
    m009_nights,
    m010_disposal,
    m011_totals,
    m012_elsewhere,
]
OURS = "craftkit_archive"


def migrate(connection: sqlite3.Connection) -> None:
    """Create the tables, or apply the migrations that a catalog has not had yet."""
    from sqlite_utils import Database, Migrations

    migrations = Migrations(OURS)
    for step in STEPS:
        migrations(name=step.__name__)(step)
    migrations.apply(Database(connection, execute_plugins=False))
