"""Backups of the catalog: checks and copies them, and reads who could download from an older or damaged catalog."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from craftkit_archive.catalog import migrations
from craftkit_archive.catalog.connection import BUSY_SECONDS, sqlite_errors
from craftkit_archive.errors import CatalogDamagedError, CatalogNewerError, LockedError, RequestError, disk_errors

_NO_CATALOG = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the second: it has no table of ours


class DownloadRights(NamedTuple):
    """Who could download: keys with the time at which they were revoked, and the ids of deleted projects."""

    keys: dict[str, str | None]
    deleted_projects: set[str]


def check_backup(file: Path) -> None:
    """Make sure that a file is a whole catalog that this version can use.

    Raises:
        RequestError: It is not a catalog of this program.
        CatalogNewerError: A newer version wrote it.
        CatalogDamagedError: SQLite finds it damaged.
    """
    try:
        with closing(_open(file)) as connection:
            named = connection.execute(
                "SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (migrations.OURS,)
            )
            applied = {name for (name,) in named}
            found = [line for (line,) in connection.execute("PRAGMA quick_check(5)") if line != "ok"]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _NO_CATALOG:
            raise RequestError(
                f"{file} is not a backup of the catalog ({error}). Name a file that `craftkit-archive backup` wrote."
            ) from error
        found = [str(error)]
        applied = set()
    if found:
        raise CatalogDamagedError(f"{file} is damaged (SQLite: {found[0]}). Restore another backup, or run `rebuild`.")
    if not applied:
        raise RequestError(f"{file} is not a backup of the catalog. Name a file that `craftkit-archive backup` wrote.")
    if applied - {step.__name__ for step in migrations.STEPS}:
        raise CatalogNewerError(f"{file} was written by a newer craftkit-archive. Install that version.")


def copy_backup(file: Path, to: Path) -> None:
    """Copy a catalog, including what its log holds, to a new file that only its owner can read.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    with disk_errors(to):
        os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with sqlite_errors(to), closing(_open(file)) as connection, closing(sqlite3.connect(to)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = WAL")


def read_access(path: Path) -> DownloadRights | None:
    """Read from a catalog of any version who could download; None if it is missing or unreadable."""
    if not path.is_file():
        return None
    try:
        with closing(_open(path)) as connection:
            keys = dict(connection.execute("SELECT id, revoked_at FROM api_keys"))
            deleted = {row[0] for row in connection.execute("SELECT id FROM projects WHERE deleted_at IS NOT NULL")}
    except sqlite3.Error:
        return None
    return DownloadRights(keys, deleted)


def settle_log(path: Path) -> None:
    """Merge a catalog's log into the file, so that the file alone is complete; a damaged catalog stays as it is.

    Raises:
        LockedError: Another program has read it for `BUSY_SECONDS`.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=rw", uri=True)) as connection:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        return
    if busy:
        raise LockedError(f"Another program has read {path} for {BUSY_SECONDS} s. End it, or try again later.")


def _open(file: Path) -> sqlite3.Connection:
    log = file.with_name(f"{file.name}-wal")
    # Without a log, nothing is written beside a file that may be on read-only media.
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(os.fsencode(file))}?{how}", uri=True)
