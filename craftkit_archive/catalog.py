"""The catalog: its migrations and every SQL statement.

Queries go through `sqlite3` itself; sqlite-utils, which takes a tenth of a second to import, is loaded when there is a
table to make or to migrate.
"""

import os
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import groupby
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from craftkit_archive.coverage import COVERAGE_DAYS, Coverage
from craftkit_archive.errors import (
    CatalogDamagedError,
    CatalogNewerError,
    LockedError,
    NoArchiveError,
    NoSpaceError,
    NotWritableError,
    RequestError,
    disk_errors,
)
from craftkit_archive.records import (
    Acknowledgement,
    Finding,
    KeyInfo,
    Kind,
    Note,
    ProjectInfo,
    RunInfo,
    Status,
    Verdict,
    one_of,
)
from craftkit_archive.states import Standing

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_SECONDS = 30
PAGE = 2000
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "projects": ("id", "name", "slug", "created_at", "updated_at", "deleted_at", "extra"),
    "keys": ("id", "project_id", "name", "prefix", "key_hash", "created_at", "revoked_at", "extra"),
    "renders": (
        "id",
        "project_id",
        "template_id",
        "status",
        "error_message",
        "asset_key",
        "created_at",
        "completed_at",
        "duration_ms",
        "extra",
    ),
}
# What a repair may replace: a digest says what is right.
_REPAIRABLE = "a.stored_at IS NOT NULL AND a.sha256 IS NOT NULL AND a.verdict NOT IN ('ok', 'unverified')"
_TABLES: dict[Kind, str] = {"projects": "projects", "keys": "api_keys", "renders": "renders"}


class Selection(msgspec.Struct, frozen=True):
    """Which renders to work on; all of them unless narrowed. Times are as the catalog writes them.

    Raises a `RequestError` if a status is unknown.

    Attributes:
        project_ids: Ids of projects, any of which will do.
        since: Earliest creation time.
        before: Creation time from which on they are left out.
        template_id: The template they were made from.
        render_ids: Their own ids; None is no limit.
        statuses: Statuses, any of which will do.
    """

    project_ids: tuple[str, ...] = ()
    since: str | None = None
    before: str | None = None
    template_id: str | None = None
    render_ids: tuple[str, ...] | None = None
    statuses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for status in self.statuses:
            one_of("status", status, Status)

    def where(self) -> tuple[str, list[Any]]:
        """Express it in SQL over `renders AS r`, for use after another condition."""
        terms: list[tuple[str, str | None]] = [
            # The plus keeps SQLite from the index by time, after which it would have to sort by id.
            (" AND +r.project_id IN (SELECT value FROM json_each(?))", _json(self.project_ids or None)),
            (" AND r.created_at >= ?", self.since),
            (" AND r.created_at < ?", self.before),
            (" AND r.template_id = ?", self.template_id),
            (" AND r.id IN (SELECT value FROM json_each(?))", _json(self.render_ids)),
            (" AND r.status IN (SELECT value FROM json_each(?))", _json(self.statuses or None)),
        ]
        given = [(sql, value) for sql, value in terms if value is not None]
        return "".join(sql for sql, _ in given), [value for _, value in given]

    def parts(self) -> Iterator["Selection"]:
        """Cut a list of ids into such as one query takes, in the catalog's order and each id once."""
        if self.render_ids is None:
            yield self
            return
        ids = sorted(set(self.render_ids), key=str.encode)
        for start in range(0, len(ids), PAGE):
            yield msgspec.structs.replace(self, render_ids=tuple(ids[start : start + PAGE]))


class Choice(msgspec.Struct, frozen=True):
    """Which of the stored assets to check, by what the ledger says of them: all, unless one of the first three is set.

    Attributes:
        new: Those that were never checked.
        failed: Those whose last verdict is not `ok`.
        due_before: Those of both kinds, those last checked before this time, and those whose date is yet to come.
        now: The time; later dates are in the future.
        share: A part of them, above 0 and up to 1, drawn at random; None is all.
        seed: What the draw depends on, besides the ids.
    """

    new: bool = False
    failed: bool = False
    due_before: str | None = None
    now: str = ""
    share: float | None = None
    seed: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is all of them."""
        return not (self.new or self.failed or self.due_before or self.share)

    def where(self) -> tuple[str, list[Any]]:
        """Express it in SQL over `assets AS a`, for use after another condition."""
        terms: list[str] = []
        values: list[Any] = []
        if self.new or self.due_before:
            terms.append("a.verified_at IS NULL")
        if self.failed or self.due_before:
            terms.append("a.verdict <> 'ok'")
        if self.due_before:
            terms.append("a.verified_at < ? OR a.verified_at > ?")
            values += [self.due_before, self.now]
        return (f" AND ({' OR '.join(terms)})" if terms else ""), values


class Expectation(NamedTuple):
    """What an asset should be; None where nothing is known. `stored` says whether it is in the store already."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None
    stored: bool


class Asset(NamedTuple):
    """A stored asset, as recorded. Size in bytes, digest as 64 hex digits; None where nothing is known."""

    render_id: str
    key: str
    size_bytes: int | None
    sha256: str | None


class DamagedAsset(NamedTuple):
    """A stored asset whose last check was bad; otherwise as `Asset`."""

    render_id: str
    key: str
    size_bytes: int
    sha256: str
    verdict: Verdict


class NewAsset(NamedTuple):
    """An asset that has just been stored; `odd` is what was odd about it as a PDF when it came."""

    render_id: str
    key: str
    size_bytes: int
    sha256: str
    digest_source: str
    source: str
    stored_at: str
    odd: str | None = None


class ExportRow(NamedTuple):
    """A render with what an export says of it; `key` is empty if it has none, `sha256` None if none is recorded.

    `odd` is what was odd about its PDF on arrival. The last two say in which state its loss was accepted, and why.
    """

    render_id: str
    project_id: str
    project_slug: str | None
    project_name: str | None
    template_id: str | None
    status: str
    created_at: str | None
    completed_at: str | None
    key: str
    size_bytes: int | None
    sha256: str | None
    stored: bool
    odd: str | None = None
    accepted_state: str | None = None
    accepted_reason: str | None = None


class Totals(NamedTuple):
    """What an archive holds, for its monitoring.

    Attributes:
        stored: Stored PDFs.
        stored_bytes: Their bytes.
        oldest_check: The time of the check that is longest ago; None before the first.
        standing: How many of the stored PDFs are in which state.
    """

    stored: int
    stored_bytes: int
    oldest_check: str | None
    standing: Standing


class KeyRow(NamedTuple):
    """What a request's key is: its project, and whether key and project are still good."""

    key_id: str
    project_id: str
    revoked: bool
    project_gone: bool
    project_name: str | None = None


class ServedRender(NamedTuple):
    """A render as the server needs it; the last three are None without a stored asset."""

    id: str
    status: str
    error_message: str | None
    asset_key: str | None
    created_at: str | None
    completed_at: str | None
    duration_ms: int | None
    stored_key: str | None
    size_bytes: int | None
    sha256: str | None


_SERVED = (
    "r.id, r.status, r.error_message, r.asset_key, r.created_at, r.completed_at, r.duration_ms, a.key, a.size_bytes,"
    " a.sha256 FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id AND a.stored_at IS NOT NULL"
)


class Listing(NamedTuple):
    """Which renders of a project a page of their list shows. Times are as the catalog writes them.

    Attributes:
        limit: How many.
        status: Only those that have it.
        since: Earliest creation time.
        before: Creation time from which on they are left out.
        search: A part of their ids.
        after: Creation time and id of the last one that was shown.
    """

    limit: int
    status: str | None = None
    since: str | None = None
    before: str | None = None
    search: str | None = None
    after: tuple[str, str] | None = None


# --- migrations ------------------------------------------------------------------------------------------------------


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
    # Those without a time come last, in the order of their ids, and need no condition of their own.
    db.execute("CREATE INDEX idx_renders_newest ON renders (project_id, COALESCE(created_at, ''), id)")


def m003_coverage(db: "Database") -> None:
    """Keep with each verification how much was covered when it ended: days, and bytes stored and covered."""
    for column in ("coverage_days", "stored_bytes", "covered_bytes"):
        db.table("runs").add_column(column, int)


def m004_odd_on_arrival(db: "Database") -> None:
    """Keep with each asset what was odd about it as a PDF when it came."""
    db.table("assets").add_column("odd", str)
    # Few have any, and to look for them must not cost a walk through all.
    db.execute("CREATE INDEX idx_assets_odd ON assets (render_id) WHERE odd IS NOT NULL")


def _unless_acknowledged(state: str) -> str:
    """Express a state, or `acknowledged`, in SQL over `renders AS r`; only what is bad is looked up."""
    return (
        "COALESCE((SELECT 'acknowledged' FROM acknowledgements AS k"
        f" WHERE k.render_id = r.id AND k.state = '{state}'), '{state}')"
    )


def m005_states(db: "Database") -> None:
    """Say in one place what state each PDF is in, and keep which losses people have accepted."""
    db.execute(
        "CREATE TABLE acknowledgements (render_id TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL,"
        " accepted_at TEXT NOT NULL) WITHOUT ROWID"
    )
    db.table("findings").add_column("acknowledged", str)
    # The same as `states.STATES` says of a verdict; a test compares them.
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
    # Only a verification of everything looks for them; it has no argument but its level.
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
    """Give tools such as Datasette the keys that link tables, indexes for the usual questions, and views as answers."""
    # SQLite can add a foreign key only by copying the table: some three seconds for a million assets, once. Rows that
    # point nowhere are kept: SQLite does not look at them, and `PRAGMA foreign_key_check` lists them. The views go
    # meanwhile, because SQLite refuses to rename a table while a view does not find it.
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
    # None on the template of a render: it would cost an import a tenth of its time, and findings are few enough to be
    # looked up one by one, as `findings_by_template` does.
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
    # As `verify --due` chooses, with the age that the last verification was asked for.
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


_STEPS: list[Callable[["Database"], None]] = [
    m001_tables,
    m002_newest_first,
    m003_coverage,
    m004_odd_on_arrival,
    m005_states,
    m006_for_people_who_query,
]
_OURS = "craftkit_archive"


def _migrate(connection: sqlite3.Connection) -> None:
    from sqlite_utils import Database, Migrations

    migrations = Migrations(_OURS)
    for step in _STEPS:
        migrations(name=step.__name__)(step)
    migrations.apply(Database(connection, execute_plugins=False))


# --- the catalog -----------------------------------------------------------------------------------------------------


class _ThreadConnection(sqlite3.Connection):
    """A thread's own connection, closed when the thread or the catalog is gone: a server's threads end unannounced."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was never opened
            self.close()


class Catalog:
    """An open catalog. Each thread that uses it gets a connection of its own.

    Args:
        path: The SQLite file.
        read_only: Whether writing is refused by SQLite itself.
        sealed: Whether the file never changes, as on read-only media: then nothing is locked and nothing written
            beside it.

    Raises:
        CatalogNewerError: A newer version of this program wrote it.
        CatalogDamagedError: SQLite cannot read it, or it is no catalog.
        NoArchiveError: There is no such file.
        RequestError: It is to be read as sealed, and has a log that was never brought into it.
    """

    def __init__(self, path: Path, *, read_only: bool = False, sealed: bool = False) -> None:
        self.path = path
        self._read_only = read_only or sealed
        self._sealed = sealed
        self._local = threading.local()
        if not path.exists():
            raise NoArchiveError(f"There is no catalog {path}: make one with `craftkit-archive init`.")
        if sealed and self._has_log():
            raise RequestError(
                f"{path} has a log beside it, which a sealed archive cannot: run `craftkit-archive verify` where it can"
                " be written, or serve without --sealed."
            )
        try:
            self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    def _bring_up_to_date(self) -> None:
        # Other programs may keep their own migrations in the same table.
        applied = {
            name for (name,) in self._query("SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (_OURS,))
        }
        known = {step.__name__ for step in _STEPS}
        if applied - known:
            raise CatalogNewerError(f"{self.path} was written by a newer craftkit-archive: install that version.")
        if not applied:
            raise CatalogDamagedError(f"{self.path} is not a catalog of this program: put back a backup of it.")
        if known - applied:
            if self._read_only:
                raise RequestError(
                    f"{self.path} is from an older version: bring it up to date with `craftkit-archive verify`."
                )
            with self._errors():
                _migrate(self._connection)

    @classmethod
    def create(cls, path: Path, settings: dict[str, str]) -> None:
        """Make an empty catalog, readable by its owner alone, in place of what may be there.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with disk_errors(path):
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with _sqlite_errors(path):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                # A row of renders has some 500 bytes: with 4 KiB a page, inserting takes a fifth longer.
                connection.execute("PRAGMA page_size = 16384")
                connection.execute("PRAGMA journal_mode = WAL")
                _migrate(connection)
                connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
            finally:
                connection.close()

    def close(self) -> None:
        """Close this thread's connection, and bring what was written from the log into the file itself."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            if not self._read_only:
                # A copy of the file alone must not bring a revoked key back to life. Readers may keep it from being
                # done, and then the last of them does it.
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA busy_timeout = 1000")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            del self._local.connection

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            how = "mode=ro&immutable=1" if self._sealed else "mode=ro" if self._read_only else "mode=rw"
            connection = self._local.connection = self._connect(how)
            if self._read_only:
                try:
                    connection.execute("SELECT 1 FROM sqlite_master")
                except sqlite3.OperationalError:
                    # SQLite reads a log beside the file, and cannot make one on a full or read-only disk. Without
                    # one there is nothing to miss.
                    connection.close()
                    del self._local.connection
                    if self._has_log():
                        raise
                    connection = self._local.connection = self._connect("mode=ro&immutable=1")
        return connection

    def _has_log(self) -> bool:
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.exists() and log.stat().st_size > 0

    def _connect(self, how: str) -> sqlite3.Connection:
        address = f"file:{quote(os.fsencode(self.path))}?{how}"
        return sqlite3.connect(
            address,
            uri=True,
            isolation_level=None,
            timeout=BUSY_SECONDS,
            factory=_ThreadConnection,
            check_same_thread=False,  # so that whoever drops the last reference may close it
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside land together or not at all.

        It takes SQLite's write lock at once, so that it never fails half-way for having read before another wrote.
        """
        if self._connection.in_transaction:
            yield  # the outer one decides
            return
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _errors(self) -> Any:
        return _sqlite_errors(self.path)

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def _write(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._errors():
            self._connection.executemany(sql, rows)

    def quick_check(self) -> list[str]:
        """Return what SQLite finds wrong with its own file; nothing if it is sound."""
        return [row[0] for row in self._query("PRAGMA quick_check(5)") if row[0] != "ok"]

    @property
    def sqlite_version(self) -> str:
        """The version of SQLite itself."""
        return sqlite3.sqlite_version

    def latest_time(self) -> str | None:
        """Return the latest time at which something is said to have been done."""
        sql = (
            "SELECT MAX(at) FROM (SELECT MAX(started_at) AS at FROM runs UNION ALL SELECT MAX(verified_at) FROM assets)"
        )
        return self._query(sql)[0][0]  # type: ignore[no-any-return]

    def back_up(self, file: Path) -> int:
        """Copy the catalog as it is at one moment, and return the copy's size in bytes; readable by its owner alone.

        Raises:
            RequestError: The file is there already.
            NoSpaceError, NotWritableError: The disk refused; nothing is left behind.
        """
        if file.exists():
            raise RequestError(f"{file} is there already, and nothing is overwritten: name another file.")
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        _remove_stale(file)
        try:
            with disk_errors(file):
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with _sqlite_errors(temporary):
                copy = sqlite3.connect(temporary)
                try:
                    # All at one go: in steps, each write of others would begin it anew.
                    self._connection.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")
                finally:
                    copy.close()
            with disk_errors(file):
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
                temporary.rename(file)
                return file.stat().st_size
        finally:
            temporary.unlink(missing_ok=True)

    # --- settings and runs

    def setting(self, name: str) -> str:
        """Return a setting of the archive: `archive_id` or `store`.

        Raises:
            CatalogDamagedError: It is not there.
        """
        found = self._query("SELECT value FROM settings WHERE name = ?", (name,))
        if not found:
            raise CatalogDamagedError(f"{self.path} lacks its setting {name!r}: put back a backup of it.")
        return str(found[0][0])

    def begin_run(self, command: str, arguments: dict[str, Any], started_at: str) -> int:
        """Leave the row of a run that has begun, and return its number."""
        rows = self._query(
            "INSERT INTO runs (command, arguments, started_at) VALUES (?, ?, ?) RETURNING id",
            (command, _json(arguments), started_at),
        )
        return int(rows[0][0])

    def finish_run(
        self,
        run_id: int,
        *,
        finished_at: str,
        outcome: str,
        counts: dict[str, int],
        bytes_read: int,
        coverage: Coverage | None = None,
    ) -> None:
        """Write down how a run ended."""
        covered = (coverage.days, coverage.stored_bytes, coverage.covered_bytes) if coverage else (None, None, None)
        self._query(
            "UPDATE runs SET finished_at = ?, outcome = ?, counts = ?, bytes_read = ?,"
            " coverage_days = ?, stored_bytes = ?, covered_bytes = ? WHERE id = ?",
            (finished_at, outcome, _json(counts), bytes_read, *covered, run_id),
        )

    def last_runs(self, limit: int) -> list[RunInfo]:
        """Return the latest runs, newest first."""
        return self._runs("ORDER BY id DESC LIMIT ?", (limit,))

    def find_run(self, run_id: int | None, command: str | None = None) -> RunInfo | None:
        """Return a run of a command, or of any, by its number or the latest."""
        found = self._runs(
            "WHERE command = COALESCE(?, command) AND id = COALESCE(?, id) ORDER BY id DESC LIMIT 1", (command, run_id)
        )
        return found[0] if found else None

    def covering_runs(self, limit: int) -> list[RunInfo]:
        """Return the latest runs that wrote down their coverage, oldest first."""
        return self._runs("WHERE coverage_days IS NOT NULL ORDER BY id DESC LIMIT ?", (limit,))[::-1]

    def _runs(self, which: str, parameters: Sequence[Any]) -> list[RunInfo]:
        rows = self._query(
            "SELECT id, command, started_at, finished_at, outcome, COALESCE(counts, '{}'), COALESCE(bytes_read, 0),"
            f" arguments, coverage_days, stored_bytes, covered_bytes FROM runs {which}",
            parameters,
        )
        try:
            return [
                RunInfo(
                    run_id,
                    command,
                    started_at,
                    finished_at,
                    outcome,
                    msgspec.json.decode(counts, type=dict[str, int]),
                    bytes_read,
                    msgspec.json.decode(arguments or "{}", type=dict[str, Any]),
                    *covered,
                )
                for run_id, command, started_at, finished_at, outcome, counts, bytes_read, arguments, *covered in rows
            ]
        except msgspec.DecodeError as error:
            raise CatalogDamagedError(f"{self.path} has a run whose counts are damaged: put back a backup.") from error

    def findings_of(self, run_id: int) -> Iterator[Finding | Note]:
        """Yield what a run found, in the order in which it was found."""
        after = 0
        while page := self._query(
            "SELECT rowid, run_id, render_id, key, verdict, expected, found, detail, found_at, acknowledged"
            " FROM findings WHERE run_id = ? AND rowid > ? ORDER BY rowid LIMIT ?",
            (run_id, after, PAGE),
        ):
            after = page[-1][0]
            for _, run, render_id, key, verdict, expected, found, detail, at, accepted in page:
                if verdict == "ok":
                    yield Note(run, render_id, key, detail or "", at)
                else:
                    yield Finding(run, render_id, key, verdict, at, expected, found, detail, accepted)

    # --- projects, keys, renders

    def known(self, kind: Kind, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the rows of those ids that are there, by id, in the order of `COLUMNS`."""
        rows = self._query(
            f"SELECT {', '.join(COLUMNS[kind])} FROM {_TABLES[kind]} WHERE id IN (SELECT value FROM json_each(?))",
            (_json(ids),),
        )
        return {row[0]: row for row in rows}

    def last_id(self, kind: Kind) -> str:
        """Return the greatest id that is there; empty if none is. A first import in the order of ids needs no more."""
        return self._query(f"SELECT COALESCE(MAX(id), '') FROM {_TABLES[kind]}")[0][0]  # type: ignore[no-any-return]

    def put(self, kind: Kind, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows in the order of `COLUMNS`, or replace what has the same id."""
        columns = COLUMNS[kind]
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        self._write(
            f"INSERT INTO {_TABLES[kind]} ({', '.join(columns)})"
            f" VALUES ({', '.join('?' * len(columns))}) ON CONFLICT (id) DO UPDATE SET {changes}",
            rows,
        )

    def key_owners(self, hashes: Sequence[str]) -> dict[str, str]:
        """Map those hashes that are known to the ids of their keys."""
        sql = "SELECT key_hash, id FROM api_keys WHERE key_hash IN (SELECT value FROM json_each(?))"
        return {key_hash: key_id for key_hash, key_id in self._query(sql, (_json(hashes),))}

    def find_projects(self, name: str) -> list[str]:
        """Return the ids of the projects that have this id or, failing that, this slug."""
        by_id = self._query(
            "SELECT id FROM projects WHERE id = ?1 UNION"
            " SELECT ?1 WHERE EXISTS (SELECT 1 FROM renders WHERE project_id = ?1)",
            (name,),
        )
        return [row[0] for row in by_id or self._query("SELECT id FROM projects WHERE slug = ?", (name,))]

    def project_slugs(self, limit: int) -> list[str]:
        """Return slugs (or ids) of projects, for a person who mistyped one."""
        rows = self._query("SELECT COALESCE(slug, id) FROM projects ORDER BY 1 LIMIT ?", (limit,))
        return [row[0] for row in rows]

    def project_summaries(self, since: str | None = None, now: str | None = None) -> list[ProjectInfo]:
        """Count what is held of each project, in the order of slugs.

        Args:
            since: What was read from then on and found good is covered; without it nothing is.
            now: Until when; later dates are in the future and do not count.
        """
        rows = self._query(
            """
            WITH each AS (
                SELECT project_id, state, status = 'succeeded' AS succeeded, stored_at IS NOT NULL AS stored,
                       CASE WHEN stored_at IS NOT NULL THEN size_bytes END AS size, verified_at,
                       COALESCE(verified_at BETWEEN ?1 AND ?2, 0) AS recent
                FROM asset_states
                LIMIT -1 -- so that it is not merged into the query around it, which would sort three times the bytes
            ), held AS (
                SELECT project_id, state, COUNT(*) AS renders, SUM(succeeded) AS succeeded, SUM(stored) AS stored,
                       SUM(size) AS stored_bytes, MIN(verified_at) AS oldest_verified_at,
                       SUM(size) FILTER (WHERE recent) AS read_bytes
                FROM each GROUP BY project_id, state
            ), ids AS (SELECT id FROM projects UNION SELECT project_id FROM held)
            SELECT ids.id, p.slug, COALESCE(p.name, ids.id), p.deleted_at, state, COALESCE(renders, 0),
                   COALESCE(succeeded, 0), COALESCE(stored, 0), COALESCE(stored_bytes, 0), oldest_verified_at,
                   COALESCE(read_bytes, 0)
            FROM ids LEFT JOIN projects AS p ON p.id = ids.id LEFT JOIN held AS h ON h.project_id = ids.id
            ORDER BY p.slug, ids.id
            """,
            (since, now),
        )
        return [_project_info(list(parts)) for _, parts in groupby(rows, key=itemgetter(0))]

    def reading_days(self) -> list[tuple[str | None, int, int]]:
        """Return, for each day on which assets were last read and found good, their number and bytes; None is never."""
        return self._query(  # type: ignore[return-value,unused-ignore]
            "SELECT CASE WHEN verdict = 'ok' THEN substr(verified_at, 1, 10) END AS day, COUNT(*),"
            " COALESCE(SUM(size_bytes), 0) FROM assets WHERE stored_at IS NOT NULL GROUP BY day ORDER BY day"
        )

    def list_keys(self, project_ids: Sequence[str]) -> list[KeyInfo]:
        """Return the keys of these projects, or of all; never their hashes."""
        rows = self._query(
            "SELECT id, project_id, name, prefix, created_at, revoked_at FROM api_keys"
            " WHERE ?1 = '[]' OR project_id IN (SELECT value FROM json_each(?1)) ORDER BY project_id, created_at, id",
            (_json(project_ids),),
        )
        return [
            KeyInfo(id=i, project_id=p, name=name, prefix=prefix, created_at=created, revoked_at=revoked)
            for i, p, name, prefix, created, revoked in rows
        ]

    def revoke_key(self, key_id: str, revoked_at: str) -> str:
        """Revoke a key and return since when it is; one that is revoked already keeps its date."""
        sql = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? RETURNING revoked_at"
        return str(self._query(sql, (revoked_at, key_id))[0][0])

    def accepts_keys(self, project_id: str) -> bool:
        """Say whether a project is there and not deleted; the keys of others are refused."""
        return bool(self._query("SELECT 1 FROM projects WHERE id = ? AND deleted_at IS NULL", (project_id,)))

    # --- assets

    def expectations(self, render_ids: Sequence[str]) -> list[Expectation]:
        """Return what is recorded of the assets of these renders, stored or only declared."""
        rows = self._query(
            "SELECT render_id, key, size_bytes, sha256, stored_at IS NOT NULL FROM assets"
            " WHERE render_id IN (SELECT value FROM json_each(?))",
            (_json(render_ids),),
        )
        return [Expectation(*row) for row in rows]

    def expect(self, rows: Iterable[Expectation]) -> None:
        """Record what assets should be before any byte of them has been seen; what is stored stays as it is."""
        self._write(
            "INSERT INTO assets (render_id, key, size_bytes, sha256, digest_source)"
            " VALUES (?1, ?2, ?3, ?4, CASE WHEN ?4 IS NOT NULL THEN 'declared' END)"
            " ON CONFLICT (render_id) DO UPDATE SET key = excluded.key, size_bytes = excluded.size_bytes,"
            " sha256 = excluded.sha256, digest_source = excluded.digest_source WHERE stored_at IS NULL",
            (row[:4] for row in rows),
        )

    def expected_assets(self, selection: Selection) -> Iterator[Expectation]:
        """Yield, in the order of render ids, what succeeded renders should have stored and have not."""
        yield from self._pages(
            "SELECT r.id, r.asset_key, a.size_bytes, a.sha256, 0"
            " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            " WHERE r.id > ? AND r.status = 'succeeded' AND r.asset_key IS NOT NULL AND a.stored_at IS NULL{where}"
            " ORDER BY r.id LIMIT ?",
            selection,
            Expectation,
        )

    def count_expected(self, selection: Selection) -> int:
        """Count what `expected_assets` would yield."""
        count, _ = self._count(
            "SELECT COUNT(*), 0 FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            " WHERE r.status = 'succeeded' AND r.asset_key IS NOT NULL AND a.stored_at IS NULL{where}",
            selection,
        )
        return count

    def stored_assets(self, selection: Selection) -> Iterator[Asset]:
        """Yield the recorded assets in the order of render ids."""
        yield from self._pages(
            f"SELECT a.render_id, a.key, a.size_bytes, a.sha256 FROM assets AS a{_joined(selection)}"
            " WHERE a.render_id > ? AND a.stored_at IS NOT NULL{where} ORDER BY a.render_id LIMIT ?",
            selection,
            Asset,
        )

    def count_stored(self, selection: Selection) -> tuple[int, int]:
        """Count the recorded assets and add up their bytes."""
        return self._count(
            f"SELECT COUNT(*), COALESCE(SUM(a.size_bytes), 0) FROM assets AS a{_joined(selection)}"
            " WHERE a.stored_at IS NOT NULL{where}",
            selection,
        )

    def damaged_assets(self, selection: Selection) -> Iterator[DamagedAsset]:
        """Yield, in the order of render ids, the recorded assets whose last verdict was damage or missing."""
        yield from self._pages(
            "SELECT a.render_id, a.key, a.size_bytes, a.sha256, a.verdict FROM assets AS a"
            f" JOIN renders AS r ON r.id = a.render_id WHERE a.render_id > ? AND {_REPAIRABLE}{{where}}"
            " ORDER BY a.render_id LIMIT ?",
            selection,
            DamagedAsset,
        )

    def count_damaged(self, selection: Selection) -> int:
        """Count what `damaged_assets` would yield."""
        count, _ = self._count(
            f"SELECT COUNT(*), 0 FROM assets AS a JOIN renders AS r ON r.id = a.render_id WHERE {_REPAIRABLE}{{where}}",
            selection,
        )
        return count

    def choose(self, selection: Selection, choice: Choice) -> tuple[int, int]:
        """Draw up the list of assets that `chosen_assets` yields, and return their count and bytes.

        It is drawn up once, in a temporary table, so that what is checked meanwhile does not change it. Its order:
        never checked, last bad, dated in the future, then the oldest; a random draw is in random order.
        """
        where, values = choice.where()
        order = "rank, verified_at, render_id"
        if choice.share is not None:
            order = "drawn(render_id)"
            seed = choice.seed
            self._connection.create_function(
                "drawn", 1, lambda render_id: sha256(f"{seed} {render_id}".encode()).digest(), deterministic=True
            )
        for table in ("found", "chosen"):
            self._query(f"DROP TABLE IF EXISTS temp.{table}")
        self._query("CREATE TEMP TABLE found (render_id, rank, verified_at)")
        for part in selection.parts():
            selected, parameters = part.where()
            self._query(
                "INSERT INTO temp.found SELECT a.render_id, CASE WHEN a.verified_at IS NULL THEN 0"
                " WHEN a.verdict <> 'ok' THEN 1 WHEN a.verified_at > ? THEN 2 ELSE 3 END, a.verified_at"
                f" FROM assets AS a{_joined(selection)} WHERE a.stored_at IS NOT NULL{where}{selected}",
                (choice.now, *values, *parameters),
            )
        found = self._query("SELECT COUNT(*) FROM temp.found")[0][0]
        limit = found if choice.share is None else ceil(found * choice.share)
        self._query("CREATE TEMP TABLE chosen (position INTEGER PRIMARY KEY, render_id)")
        self._query(
            f"INSERT INTO temp.chosen (render_id) SELECT render_id FROM temp.found ORDER BY {order} LIMIT ?", (limit,)
        )
        self._query("DROP TABLE temp.found")
        rows = self._query(
            "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0) FROM temp.chosen JOIN assets USING (render_id)"
        )
        return int(rows[0][0]), int(rows[0][1])

    def chosen_assets(self) -> Iterator[Asset]:
        """Yield what `choose` drew up, in its order."""
        after = 0
        while page := self._query(
            "SELECT c.position, a.render_id, a.key, a.size_bytes, a.sha256 FROM temp.chosen AS c"
            " JOIN assets AS a ON a.render_id = c.render_id WHERE c.position > ? ORDER BY c.position LIMIT ?",
            (after, PAGE),
        ):
            after = page[-1][0]
            yield from (Asset(*row[1:]) for row in page)

    def coverage(self, since: str, now: str, days: int) -> Coverage:
        """Add up what was read and found good since a time, and what is due; dates in the future do not count."""
        rows = self._query(
            """
            SELECT COUNT(*), COALESCE(SUM(size_bytes), 0),
                   COALESCE(SUM(recent AND verdict = 'ok'), 0),
                   COALESCE(SUM(size_bytes) FILTER (WHERE recent AND verdict = 'ok'), 0),
                   COALESCE(SUM(NOT recent), 0), COALESCE(SUM(size_bytes) FILTER (WHERE NOT recent), 0)
            FROM (SELECT size_bytes, verdict, COALESCE(verified_at BETWEEN ? AND ?, 0) AS recent
                  FROM assets WHERE stored_at IS NOT NULL)
            """,
            (since, now),
        )
        return Coverage(days, *rows[0])

    def standing(self) -> Standing:
        """Count everything by state, and the files that no render claims."""
        counts = self._query("SELECT state, COUNT(*), COUNT(stored_at) FROM asset_states GROUP BY state")
        return _standing(counts, self.count_extra())

    def stored_standing(self) -> Standing:
        """Count what is stored by state. What was found good is not looked at one by one, so this takes a tenth."""
        counts = self._query(
            "SELECT state, COUNT(*), COUNT(*) FROM asset_states WHERE stored_at IS NOT NULL AND verdict <> 'ok'"
            " GROUP BY state UNION ALL"
            " SELECT state, COUNT(*), COUNT(*) FROM asset_states WHERE stored_at IS NOT NULL AND verdict IS NULL"
            " GROUP BY state UNION ALL"
            " SELECT 'ok', COUNT(*), COUNT(*) FROM assets WHERE stored_at IS NOT NULL AND verdict = 'ok'"
        )
        return _standing(counts, self.count_extra())

    def count_extra(self) -> int:
        """Count the files that no render claims, as the last verification of everything found them."""
        return int(self._query("SELECT COUNT(*) FROM extra_files")[0][0])

    def held(self, project_id: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield digest and key of every stored asset whose digest is known, in the order of their bytes."""
        selection = Selection(project_ids=(project_id,) if project_id else ())
        where, parameters = selection.where()
        with self._errors():
            # One open cursor: what it yields is one state of the catalog, whatever is written meanwhile.
            yield from self._connection.execute(
                f"SELECT a.sha256, a.key FROM assets AS a{_joined(selection)}"
                f" WHERE a.stored_at IS NOT NULL AND a.sha256 IS NOT NULL{where} ORDER BY a.sha256, a.key",
                parameters,
            )

    def claimed_by(self, keys: Sequence[str]) -> dict[str, str]:
        """Map those asset keys that are taken to the ids of the renders that have them."""
        sql = "SELECT key, render_id FROM assets WHERE key IN (SELECT value FROM json_each(?))"
        return {key: render_id for key, render_id in self._query(sql, (_json(keys),))}

    def holders(self, keys: Sequence[str]) -> dict[str, str]:
        """Map asset keys to the ids of the renders that have them, if they are stored or lie where Craftkit puts them.

        Others are not found: there is no index of them, and an import would pay for it.
        """
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        sql = "SELECT asset_key, id FROM renders WHERE id IN (SELECT value FROM json_each(?))"
        found = {key: render_id for key, render_id in self._query(sql, (_json(named),)) if key in set(keys)}
        return found | self.claimed_by(keys)

    def holds_below(self, key: str) -> bool:
        """Say whether any asset is recorded whose key has this one as a folder."""
        # 0 is the character after the slash.
        return bool(self._query("SELECT 1 FROM assets WHERE key > ? AND key < ? LIMIT 1", (f"{key}/", f"{key}0")))

    def unclaimed(self, keys: Sequence[str]) -> list[str]:
        """Return those asset keys that no render has, whatever its status, in their order."""
        left = dict.fromkeys(keys)
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        # What is stored, and what lies where Craftkit puts it, is found by an index; the rest, which is little, is not.
        for sql, values in (
            ("SELECT key FROM assets WHERE key IN (SELECT value FROM json_each(?))", keys),
            ("SELECT asset_key FROM renders WHERE id IN (SELECT value FROM json_each(?))", named),
            ("SELECT asset_key FROM renders WHERE asset_key IN (SELECT value FROM json_each(?))", None),
        ):
            wanted = list(left) if values is None else values
            for (key,) in self._query(sql, (_json(wanted),)) if left else ():
                left.pop(key, None)
        return list(left)

    def unrecorded(self, keys: Sequence[str]) -> list[str]:
        """Return those asset keys under which nothing is recorded as stored, in their order."""
        sql = "SELECT key FROM assets WHERE stored_at IS NOT NULL AND key IN (SELECT value FROM json_each(?))"
        stored = {key for (key,) in self._query(sql, (_json(keys),))}
        return [key for key in keys if key not in stored]

    def expecting(self, keys: Sequence[str]) -> dict[str, str]:
        """Map those asset keys that succeeded renders should have stored, and have not, to the ids of the renders."""
        sql = (
            "SELECT r.asset_key, r.id FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            " WHERE r.status = 'succeeded' AND a.stored_at IS NULL"
            " AND r.asset_key IN (SELECT value FROM json_each(?))"
        )
        # By the id that Craftkit's names have, which an index finds; the rest, which is little, by the key itself.
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        by_id = self._query(f"{sql} AND r.id IN (SELECT value FROM json_each(?))", (_json(keys), _json(named)))
        found = {key: render_id for key, render_id in by_id}
        left = [key for key in keys if key not in found]
        if left:
            found |= {key: render_id for key, render_id in self._query(sql, (_json(left),))}
        return found

    def oddities(self, render_ids: Sequence[str] | None = None) -> dict[str, str]:
        """Map render ids to what was odd about their PDFs on arrival, for those of which anything was.

        Args:
            render_ids: Of which renders; one that has any if not given.
        """
        if render_ids is None:
            rows = self._query("SELECT render_id, odd FROM assets WHERE odd IS NOT NULL LIMIT 1")
        else:
            rows = self._query(
                "SELECT render_id, odd FROM assets"
                " WHERE odd IS NOT NULL AND render_id IN (SELECT value FROM json_each(?))",
                (_json(render_ids),),
            )
        return {render_id: odd for render_id, odd in rows}

    def add_assets(self, rows: Iterable[NewAsset]) -> None:
        """Record assets whose bytes are in the store; that they were lost is over."""
        rows = list(rows)
        self._write(
            "INSERT INTO assets (render_id, key, size_bytes, sha256, digest_source, source, stored_at, odd)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (render_id) DO UPDATE SET key = excluded.key,"
            " size_bytes = excluded.size_bytes, sha256 = excluded.sha256, digest_source = excluded.digest_source,"
            " source = excluded.source, stored_at = excluded.stored_at, odd = excluded.odd",
            rows,
        )
        self.end_acknowledgements([row.render_id for row in rows])

    def record_checks(self, verified_at: str, verdict: str, render_ids: Sequence[str]) -> None:
        """Write one verdict on these assets into the ledger."""
        self._query(
            "UPDATE assets SET verified_at = ?, verdict = ? WHERE render_id IN (SELECT value FROM json_each(?))",
            (verified_at, verdict, _json(render_ids)),
        )
        if verdict == "ok":
            self.end_acknowledgements(render_ids)

    # --- accepted losses

    def states_of(self, render_ids: Sequence[str]) -> dict[str, str | None]:
        """Map those of these render ids that are known to the states of their PDFs; None owes none."""
        sql = "SELECT render_id, state FROM asset_states WHERE render_id IN (SELECT value FROM json_each(?))"
        return {render_id: state for render_id, state in self._query(sql, (_json(render_ids),))}

    def acknowledge(self, render_ids: Sequence[str], reason: str, accepted_at: str) -> None:
        """Accept the states that these renders' PDFs are in; one that was accepted before gets the new reason."""
        # Without the old acceptance, the view says the state itself.
        self.end_acknowledgements(render_ids)
        states = self.states_of(render_ids)
        self._write(
            "INSERT INTO acknowledgements (render_id, state, reason, accepted_at) VALUES (?, ?, ?, ?)",
            [(render_id, states[render_id], reason, accepted_at) for render_id in render_ids],
        )

    def acknowledgements(self, render_ids: Sequence[str] | None) -> list[Acknowledgement]:
        """Return the accepted losses of these renders, or all, in the order of render ids."""
        rows = self._query(
            "SELECT k.render_id, COALESCE(s.key, ''), k.state, k.reason, k.accepted_at,"
            " COALESCE(s.state = 'acknowledged', 0) FROM acknowledgements AS k"
            " LEFT JOIN asset_states AS s ON s.render_id = k.render_id"
            " WHERE ?1 IS NULL OR k.render_id IN (SELECT value FROM json_each(?1)) ORDER BY k.render_id",
            (_json(render_ids),),
        )
        return [
            Acknowledgement(render_id, key, state, reason, accepted_at, bool(in_force))
            for render_id, key, state, reason, accepted_at, in_force in rows
        ]

    def accepted(self, render_ids: Sequence[str]) -> dict[tuple[str, str], str]:
        """Map render ids and the states that were accepted of them to the reasons."""
        if not render_ids:
            return {}
        sql = (
            "SELECT render_id, state, reason FROM acknowledgements WHERE render_id IN (SELECT value FROM json_each(?))"
        )
        return {(render_id, state): reason for render_id, state, reason in self._query(sql, (_json(render_ids),))}

    def end_acknowledgements(self, render_ids: Sequence[str]) -> None:
        """Forget that the loss of these renders' PDFs was accepted."""
        self._query(
            "DELETE FROM acknowledgements WHERE render_id IN (SELECT value FROM json_each(?))", (_json(render_ids),)
        )

    def add_findings(self, findings: Iterable[Finding | Note]) -> None:
        """Keep what a run found; a note is a row whose verdict is `ok`."""
        self._write(
            "INSERT INTO findings (run_id, render_id, key, verdict, expected, found, detail, found_at, acknowledged)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (f.run_id, f.render_id, f.key, "ok", None, None, f.detail, f.found_at, None)
                if isinstance(f, Note)
                else (
                    f.run_id,
                    f.render_id,
                    f.key,
                    f.verdict,
                    f.expected,
                    f.found,
                    f.detail,
                    f.found_at,
                    f.acknowledged,
                )
                for f in findings
            ),
        )

    def export_rows(self, selection: Selection) -> Iterator[ExportRow]:
        """Yield renders, whether their assets are stored or not, in the order of their ids."""
        yield from self._pages(
            "SELECT r.id, r.project_id, p.slug, p.name, r.template_id, r.status, r.created_at, r.completed_at,"
            " COALESCE(a.key, r.asset_key, ''), a.size_bytes, a.sha256, a.stored_at IS NOT NULL, a.odd, k.state,"
            " k.reason FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id LEFT JOIN projects AS p"
            " ON p.id = r.project_id LEFT JOIN acknowledgements AS k ON k.render_id = r.id"
            " WHERE r.id > ?{where} ORDER BY r.id LIMIT ?",
            selection,
            ExportRow,
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See the catalog, in this thread, as it is at the first query inside, whatever others write meanwhile."""
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def unknown_ids(self, selection: Selection) -> Iterator[str]:
        """Yield those of the selection's own ids that no render has."""
        for part in selection.parts():
            ids = part.render_ids or ()
            known = self._query("SELECT id FROM renders WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),))
            found = {row[0] for row in known}
            yield from (render_id for render_id in ids if render_id not in found)

    def _pages(self, sql: str, selection: Selection, row: Callable[..., Any]) -> Iterator[Any]:
        # Page by page instead of an open cursor: others may write in between, and memory stays flat.
        for part in selection.parts():
            where, parameters = part.where()
            after, full = "", True
            while full:
                page = self._query(sql.format(where=where), (after, *parameters, PAGE))
                yield from (row(*found) for found in page)
                full = len(page) == PAGE
                after = page[-1][0] if page else ""

    def _count(self, sql: str, selection: Selection) -> tuple[int, int]:
        count = size = 0
        for part in selection.parts():
            where, parameters = part.where()
            row = self._query(sql.format(where=where), parameters)[0]
            count, size = count + int(row[0]), size + int(row[1])
        return count, size

    # --- for the server

    def totals(self) -> Totals:
        """Add up what is stored and what the last checks said of it."""
        return Totals(*self.stored_totals(), self.stored_standing())

    def stored_totals(self) -> tuple[int, int, str | None]:
        """Return the number of stored PDFs, their bytes, and the time of the check that is longest ago."""
        [totals] = self._query(
            "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0), MIN(verified_at) FROM assets WHERE stored_at IS NOT NULL"
        )
        return totals

    def find_key(self, key_hash: str) -> KeyRow | None:
        """Look a key up by its hash."""
        found = self._query(
            "SELECT k.id, k.project_id, k.revoked_at IS NOT NULL, p.id IS NULL OR p.deleted_at IS NOT NULL, p.name"
            " FROM api_keys AS k LEFT JOIN projects AS p ON p.id = k.project_id WHERE k.key_hash = ?",
            (key_hash,),
        )
        return KeyRow(*found[0]) if found else None

    def find_render(self, project_id: str, render_id: str) -> ServedRender | None:
        """Look a render up within one project; another project's is not found."""
        found = self._query(
            f"SELECT {_SERVED} WHERE r.id = ? AND r.project_id = ?",
            (render_id, project_id),
        )
        return ServedRender(*found[0]) if found else None

    def list_renders(self, project_id: str, listing: Listing) -> list[ServedRender]:
        """Return renders of a project, newest first: one more than asked for, if there are more."""
        made, after = "COALESCE(r.created_at, '')", listing.after
        terms: list[tuple[str, tuple[Any, ...] | None]] = [
            # The first half is for SQLite, which does not find a place in the index by the second.
            (f" AND {made} <= ? AND ({made}, r.id) < (?, ?)", (after[0], *after) if after else None),
            (f" AND {made} >= ?", (listing.since,) if listing.since else None),
            (f" AND {made} < ?", (listing.before,) if listing.before else None),
            (" AND r.status = ?", (listing.status,) if listing.status else None),
            (" AND instr(lower(r.id), lower(?))", (listing.search,) if listing.search else None),
        ]
        given = [(sql, values) for sql, values in terms if values is not None]
        rows = self._query(
            f"SELECT {_SERVED} WHERE r.project_id = ?{''.join(sql for sql, _ in given)}"
            f" ORDER BY {made} DESC, r.id DESC LIMIT ?",
            (project_id, *(value for _, values in given for value in values), listing.limit + 1),
        )
        return [ServedRender(*row) for row in rows]


def _project_info(parts: list[tuple[Any, ...]]) -> ProjectInfo:
    """Put together what is held of one project from a row for each state."""
    by_state: Counter[str] = Counter()
    for part in parts:
        by_state[part[4] or ""] += part[5]
    sums = [sum(part[at] for part in parts) for at in (5, 6, 7, 8, 10)]
    project_id, slug, name, deleted_at = parts[0][:4]
    return ProjectInfo(
        id=project_id,
        slug=slug,
        name=name,
        deleted_at=deleted_at,
        renders=sums[0],
        succeeded=sums[1],
        stored=sums[2],
        not_stored=by_state["not-stored"],
        stored_bytes=sums[3],
        verified_ok=by_state["ok"],
        damaged=by_state["damaged"],
        oldest_verified_at=min((part[9] for part in parts if part[9]), default=None),
        covered_bytes=sum(part[10] for part in parts if part[4] == "ok"),
        due_bytes=sums[3] - sums[4],
        unchecked=by_state["unchecked"],
        unreadable=by_state["unreadable"],
        unverified=by_state["unverified"],
        acknowledged=by_state["acknowledged"],
    )


def _standing(counts: Iterable[tuple[Any, ...]], extra: int) -> Standing:
    sums: Counter[str] = Counter(extra=extra)
    for state, count, stored in counts:
        sums["stored"] += stored
        if state is not None:  # a render that owes no PDF
            sums[state.replace("-", "_")] += count
    return Standing(**sums)


def _joined(selection: Selection) -> str:
    """Join what a selection asks about to `assets AS a`; nothing where it asks nothing."""
    return " JOIN renders AS r ON r.id = a.render_id" if selection.where()[0] else ""


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


_NO_SUCH = re.compile("no such (?:table|column)")


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _remove_stale(file: Path) -> None:
    """Remove what backups to this file that were killed have left: their copies and SQLite's journals of them."""
    own = re.compile(rf"\.{re.escape(file.name)}\.([0-9]+)(-journal)?")
    for left in file.parent.glob(".*"):
        found = own.fullmatch(left.name)
        if found and not _is_running(int(found[1])):
            left.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LockedError(f"Another program has held {path} for {BUSY_SECONDS} s: end it, or try later.") from error
        if code == sqlite3.SQLITE_FULL:
            raise NoSpaceError(f"No space is left to write {path}: free some, then run the command again.") from error
        if code == sqlite3.SQLITE_IOERR and _is_full(path):
            raise NoSpaceError(f"No space is left beside {path}: free some, then run the command again.") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            raise NotWritableError(f"{path} cannot be used ({error}): check its rights and the disk.") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _NO_SUCH.match(str(error)):
            raise CatalogDamagedError(
                f"{path} is no catalog, or damaged ({error}): put back a backup of it."
            ) from error
        raise
