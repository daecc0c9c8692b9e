"""The connection to the catalog: transactions, backups, and how SQLite's errors map to ours."""

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from craftkit_archive.catalog import migrations
from craftkit_archive.catalog.rows import PAGE, Selection
from craftkit_archive.durable import flush
from craftkit_archive.errors import (
    RECOVER,
    CatalogDamagedError,
    CatalogNewerError,
    LockedError,
    NoArchiveError,
    NoSpaceError,
    NotWritableError,
    RequestError,
    disk_errors,
)

BUSY_SECONDS = 30
READER_SECONDS = 3
_NO_SUCH = re.compile("no such (?:table|column)")


class Connection:
    """An open catalog. Each thread that uses it gets a connection of its own.

    Args:
        path: The SQLite file.
        read_only: Whether writing is refused by SQLite itself.
        sealed: Whether the file can never change, as on read-only media. SQLite then takes no locks and writes nothing
            beside it.

    Attributes:
        migrated: The steps by which an older catalog was brought up to date.

    Raises:
        CatalogNewerError: A newer version of this program wrote it.
        CatalogDamagedError: SQLite cannot read it, or it is not a catalog.
        NoArchiveError: The file does not exist.
        RequestError: `sealed` is set, but the file has a write-ahead log that was never merged into it.
    """

    def __init__(self, path: Path, *, read_only: bool = False, sealed: bool = False) -> None:
        self.path = path
        self._read_only = read_only or sealed
        self._sealed = sealed
        self._local = threading.local()
        self.migrated: list[str] = []
        if not path.exists():
            raise NoArchiveError(f"There is no catalog {path}. {RECOVER}")
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
            name
            for (name,) in self._query(
                "SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (migrations.OURS,)
            )
        }
        known = {step.__name__ for step in migrations.STEPS}
        if applied - known:
            raise CatalogNewerError(f"{self.path} was written by a newer craftkit-archive. Install that version.")
        if not applied:
            raise CatalogDamagedError(f"{self.path} is not a catalog of this program. {RECOVER}")
        if known - applied:
            if self._read_only:
                raise RequestError(
                    f"{self.path} is from an older version: bring it up to date with `craftkit-archive verify`."
                )
            with self._errors():
                migrations.migrate(self._connection)
            self.migrated = sorted(known - applied)

    @classmethod
    def create(cls, path: Path, settings: dict[str, str]) -> None:
        """Create an empty catalog that only its owner can read, replacing any file at the path.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with disk_errors(path):
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with sqlite_errors(path):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                # A row of `renders` takes some 500 bytes. With SQLite's default of 4 KiB a page, few fit on each, and
                # inserting takes a fifth longer.
                connection.execute("PRAGMA page_size = 16384")
                connection.execute("PRAGMA journal_mode = WAL")
                migrations.migrate(connection)
                connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
            finally:
                connection.close()

    def close(self) -> None:
        """Close this thread's connection and merge SQLite's log into the file."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            if not self._read_only:
                # A copy of the file without its log must not bring a revoked key back to life. If readers are in the
                # way, the last of them to close merges the log.
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA busy_timeout = 1000")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            del self._local.connection

    def empty_log(self) -> bool:
        """Merge SQLite's log into the file and truncate it; return False if a reader prevented that."""
        # Most readers end within a moment. An export reads for as long as it lasts, and is not waited for.
        self._query(f"PRAGMA busy_timeout = {READER_SECONDS * 1000}")
        [found] = self._query("PRAGMA wal_checkpoint(TRUNCATE)")
        self._query(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        return not found[0]

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            how = "mode=ro&immutable=1" if self._sealed else "mode=ro" if self._read_only else "mode=rw"
            connection = self._local.connection = self._connect(how)
            # SQLite overwrites deleted values instead of only marking their space as free, so that nothing of a
            # disposed render stays in the file. It is on for every command, not only for disposals: values that an
            # import replaced earlier would stay otherwise. That costs a first import of 100,000 renders 0.4 % of its
            # processor time, less than can be measured (median of ten pairs), and an import that changes every row
            # 2.2 % (median of five pairs).
            connection.execute("PRAGMA secure_delete = ON")
            if self._read_only:
                try:
                    connection.execute("SELECT 1 FROM sqlite_master")
                except sqlite3.OperationalError:
                    # SQLite needs a log beside the file even to read it, and cannot create one on a full or read-only
                    # disk. If the log is missing, everything is in the file, which can be opened as immutable.
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
            check_same_thread=False,  # the thread that drops the last reference may be another one, and closes it
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything that is written inside together, or nothing of it.

        The write lock is taken at the start (`BEGIN IMMEDIATE`). A transaction that begins by reading fails at its
        first write if another program has written in between.
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
                self._rolled_back()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self._committed()

    def _committed(self) -> None:
        """Called after a transaction was committed."""

    def _rolled_back(self) -> None:
        """Called before a transaction is rolled back."""

    def _errors(self) -> Any:
        return sqlite_errors(self.path)

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def _write(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._errors():
            self._connection.executemany(sql, rows)

    def index_renders(self) -> None:
        """Create the index for the server's list if it is missing, as after a first import that was killed."""
        if not self._read_only:
            # As `migrations.m002_newest_first` made it.
            self._query(
                "CREATE INDEX IF NOT EXISTS idx_renders_newest ON renders (project_id, COALESCE(created_at, ''), id)"
            )

    def quick_check(self) -> list[str]:
        """Return up to five faults that SQLite finds in the file, as sentences; an empty list if it is sound."""
        return [row[0] for row in self._query("PRAGMA quick_check(5)") if row[0] != "ok"]

    @property
    def sqlite_version(self) -> str:
        """The version of SQLite itself."""
        return sqlite3.sqlite_version

    def latest_time(self) -> str | None:
        """Return the latest time at which a run began or an asset was verified; None if neither ever happened."""
        sql = (
            "SELECT MAX(at) FROM (SELECT MAX(started_at) AS at FROM runs UNION ALL SELECT MAX(verified_at) FROM assets)"
        )
        return self._query(sql)[0][0]  # type: ignore[no-any-return]

    def back_up(self, file: Path) -> int:
        """Copy a consistent snapshot of the catalog to a file that only its owner can read; return its size in bytes.

        Raises:
            RequestError: The file exists already.
            NoSpaceError, NotWritableError: The disk refused; nothing is left behind.
        """
        if file.exists():
            raise RequestError(f"{file} is there already, and nothing is overwritten: name another file.")
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        _remove_stale(file)
        try:
            with disk_errors(file):
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with sqlite_errors(temporary):
                copy = sqlite3.connect(temporary)
                try:
                    # All pages in one step: between two steps, a write by another program would restart the copy.
                    self._connection.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")
                finally:
                    copy.close()
            with disk_errors(file):
                flush(temporary)
                temporary.rename(file)
                return file.stat().st_size
        finally:
            temporary.unlink(missing_ok=True)

    def setting(self, name: str) -> str:
        """Return a setting of the archive: `archive_id` or `store`.

        Raises:
            CatalogDamagedError: It is missing.
        """
        found = self._query("SELECT value FROM settings WHERE name = ?", (name,))
        if not found:
            raise CatalogDamagedError(f"The catalog {self.path} has lost its setting {name!r}. {RECOVER}")
        return str(found[0][0])

    def _pages(
        self, sql: str, selection: Selection, row: Callable[..., Any], values: Sequence[Any] = (), *, begin: str = ""
    ) -> Iterator[Any]:
        # Page by page instead of an open cursor: others may write in between, and memory stays flat.
        for part in selection.parts():
            where, parameters = part.where()
            after, full = begin, True
            while full:
                page = self._query(sql.format(where=where), (after, *values, *parameters, PAGE))
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


class _ThreadConnection(sqlite3.Connection):
    """The connection of one thread; closes itself, because a server's threads end without a call to `close`."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was never opened
            self.close()


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _remove_stale(file: Path) -> None:
    """Remove the temporary copies, and SQLite's journals of them, that killed backups to this file left behind."""
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
def sqlite_errors(path: Path) -> Iterator[None]:
    """Map the errors that SQLite raises about a catalog to ours.

    Raises:
        LockedError: Another program holds it.
        NoSpaceError, NotWritableError: The disk refused.
        CatalogDamagedError: It is not a catalog, or is damaged.
    """
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
            raise CatalogDamagedError(f"The catalog {path} is damaged (SQLite: {error}). {RECOVER}") from error
        raise
