"""An archive: a catalog and a store, opened together, with the writer's lock and the ledger of runs."""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_urlsafe
from types import TracebackType
from typing import Any, Self, TypedDict
from uuid import uuid4

import msgspec

from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.catch_up import catch_up
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.coverage import Coverage
from craftkit_archive.decoding import read_record
from craftkit_archive.errors import (
    RECOVER,
    ArchiveError,
    DiskError,
    LockedError,
    NoArchiveError,
    NotWritableError,
    RequestError,
    disk_errors,
)
from craftkit_archive.lock import LOCK, hold_lock, try_lock
from craftkit_archive.proof.audit_file import AUDIT_FILE
from craftkit_archive.proof.events import check_who, user_and_host
from craftkit_archive.records import ApiKey, KeyInfo, Note, Outcome, Summary
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import MARKER, Store, mask_address
from craftkit_archive.stores.folder import FolderStore
from craftkit_archive.tombstones import DISPOSED_FILE
from craftkit_archive.values import STDIN, Clock, format_time, hash_key, hide, timestamp, utc_now

CATALOG = "archive.db"
NEW = f"{CATALOG}.new"
REBUILT = f"{CATALOG}.rebuilt"
PREFIX_BYTES = 12  # how many bytes of a key Craftkit shows
DEFAULT_STORE = "assets"


class Run:
    """A run in progress. Its counts end up in its row of the catalog and in its summary."""

    def __init__(self, run_id: int | None, command: str) -> None:
        self.id = run_id
        self.command = command
        self.counts: Counter[str] = Counter()
        self.bytes_read = 0
        self.outcome: Outcome = "ok"
        self.coverage: Coverage | None = None

    def settle(
        self, *, problems: bool = False, incomplete: bool = False, stopped: bool = False, limited: bool = False
    ) -> None:
        """Set the outcome of the run: that of the first argument that is true, in this order of severity, or `ok`.

        The order is `stopped`, `problems`, `incomplete`, `limited`.
        """
        named: list[tuple[bool, Outcome]] = [
            (stopped, "interrupted"),
            (problems, "problems"),
            (incomplete, "incomplete"),
            (limited, "limited"),
        ]
        self.outcome = next((outcome for holds, outcome in named if holds), "ok")

    def summary(self, **details: Any) -> Summary:
        """Return the summary of the run, with these details."""
        return Summary(
            command=self.command,
            outcome=self.outcome,
            counts=dict(self.counts),
            bytes_read=self.bytes_read,
            run_id=self.id,
            details=details,
        )


def _several(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return an argument as a tuple; a string counts as one item, not as a sequence of letters."""
    return (given,) if isinstance(given, str) else tuple(given)


class _How(TypedDict):
    read_only: bool
    sealed: bool
    by: str


def _actor(by: str | None) -> str:
    try:
        return user_and_host() if by is None else check_who(by)
    except ValueError as error:
        raise RequestError(str(error)) from error


class Archive:
    """An open archive; a context manager.

    Args:
        path: The archive's directory.
        read_only: Whether to open the catalog read-only.
        sealed: Whether the archive can never change, as on read-only media, so that nothing is written beside it.
        clock: Returns the time, in UTC.
        by: The user, for the audit log; the user and host of this process if not given.
        catalog: The catalog's file name.
        apart: Whether that catalog will be moved into place later; its events reach the audit file only then.
        locked: Whether this process holds the writer's lock already, as a night does for all its steps.

    Attributes:
        notices: Sentences for the user about the audit log, such as that an older catalog was restored.

    Raises:
        NoArchiveError: There is no archive in this directory.
        CatalogError: The catalog cannot be used.
        RequestError: `by` is not a name.

    Example:
        >>> from craftkit_archive import Archive
        >>> with Archive("archive") as archive:
        ...     len(archive.select(projects="northwind").project_ids)
        1
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        sealed: bool = False,
        clock: Clock = utc_now,
        by: str | None = None,
        catalog: str = CATALOG,
        apart: bool = False,
        locked: bool = False,
    ) -> None:
        path = Path(path)
        if not os.path.isfile(path / catalog):  # noqa: PTH113 - Path raises for a name that no file can have
            raise NoArchiveError(
                describe_loss(path)
                or f"There is no archive in {path}. Make one with `init`, or name one with --archive."
            )
        self.path = path
        self.clock = clock
        self.by = _actor(by)
        self._how: _How = {"read_only": read_only, "sealed": sealed, "by": self.by}
        self._locked = locked
        # Noted before the catalog is opened: if it is replaced in between, `is_current` will notice.
        self._catalog_path = str(path / catalog)
        self._catalog_file = _identity(self._catalog_path)
        self.catalog = Catalog(path / catalog, read_only=read_only, sealed=sealed)
        self.catalog.apart = apart
        try:
            self.id = self.catalog.setting("archive_id")
            self.store: Store = open_store(self.catalog.setting("store"), path)
            if read_only or sealed:
                self.notices: list[str] = []
                self._refuse_older_catalog()
            else:
                self.notices = [] if apart else self._catch_up()
        except BaseException:
            self.catalog.close()
            raise
        self._folder = self.store.address if isinstance(self.store, FolderStore) else None
        self._store_folder = _identity(self._folder)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        store_address: str = DEFAULT_STORE,
        clock: Clock = utc_now,
        by: str | None = None,
    ) -> Self:
        """Create an empty archive and open it.

        Args:
            path: Its directory; created if it does not exist.
            store_address: The address of its store; a relative path is relative to the archive.
            clock: Returns the time, in UTC.
            by: The user, for the audit log.

        Raises:
            RequestError: There is an archive already, or the store's address cannot be used.
            StoreMismatchError: The store belongs to another archive.
            NoSpaceError, NotWritableError: The disk refused.
        """
        path = Path(path)
        # If an earlier `init` was interrupted, what it left belongs to this archive, and is completed below.
        lost = None if (path / NEW).exists() else describe_loss(path)
        if lost:
            raise RequestError(f"{lost} For a new archive, name another directory with --archive.")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, "init", clock):
            if (path / CATALOG).exists():
                raise RequestError(f"There is an archive in {path} already. Use it, or name another with --archive.")
            store = _open_own_store(path, store_address)
            if isinstance(store, FolderStore):
                _refuse_other_level(store)
            # First the catalog, under another name, then the store's marker: after an interruption, the next call
            # finds the id in that catalog and continues with it.
            new = path / NEW
            archive_id = _left_over(new, store_address)
            if archive_id is None:
                archive_id = str(uuid4())
                Catalog.create(new, {"archive_id": archive_id, "store": store_address})
            store.mark(archive_id)
            with cls(path, clock=clock, by=by, catalog=new.name) as archive, archive.catalog.transaction():
                archive.record_event("init", archive=archive_id, store=mask_address(store_address))
            with disk_errors(path):
                new.rename(path / CATALOG)
        return cls(path, clock=clock, by=by)

    @classmethod
    @contextmanager
    def recreate(
        cls, path: Path, *, store_address: str = DEFAULT_STORE, clock: Clock = utc_now, by: str | None = None
    ) -> Iterator[Self]:
        """Give an archive that has lost its catalog an empty one, to be filled in the block under the writer's lock.

        It is kept beside the lost one until `put_in_place`. After an interruption, the next call starts over.

        Args:
            path: The archive's directory.
            store_address: The address of its store, whose marker gives the new catalog its archive id.
            clock: Returns the time, in UTC.
            by: The user, for the audit log.

        Raises:
            RequestError: The store has no marker, so it is unknown which archive it belongs to.
            LockedError: Another command is writing.
            NoSpaceError, NotWritableError: The disk refused.
        """
        new = path / REBUILT
        store = _open_own_store(path, store_address)
        owner = store.owner()
        if owner is None:  # checked before anything is created
            raise RequestError(
                f"{store.address} is not the store of an archive (no {MARKER} file). Name the archive's own with"
                " --store, or make a new archive with `init --store`."
            )
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, "rebuild", clock):
            with disk_errors(path):
                for left in path.glob(f"{REBUILT}*"):
                    left.unlink()
            Catalog.create(new, {"archive_id": owner, "store": store_address})
            with cls(path, clock=clock, by=by, catalog=REBUILT) as archive:
                archive._locked = True
                yield archive

    def put_in_place(self) -> None:
        """Move a catalog that `recreate` made into place, and close it; a damaged one is renamed and kept.

        The log of a lost catalog is renamed too: SQLite would apply it to the new one.

        Raises:
            NotWritableError: The disk refused.
        """
        self.catalog.close()
        with disk_errors(self.path):
            number = 1 + sum(1 for _ in self.path.glob(f"{CATALOG}.damaged-*[0-9]"))
            # The log first, so that an interruption never leaves it beside the new catalog.
            for suffix in ("-wal", "-shm", ""):
                old = self.path / f"{CATALOG}{suffix}"
                if old.exists():
                    old.rename(self.path / f"{CATALOG}.damaged-{number}{suffix}")
            # If another program reads the new catalog, SQLite keeps its log: it is moved too, and first.
            for suffix in ("-wal", "-shm", ""):
                new = self.path / f"{REBUILT}{suffix}"
                if not suffix or new.exists():
                    new.rename(self.path / f"{CATALOG}{suffix}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.catalog.close()

    def is_current(self) -> bool:
        """Return whether catalog and store are still the files that were opened, and were not replaced."""
        # Paths as text: the server asks at each request, and making a Path takes longer than the system's answer.
        return self._catalog_file == _identity(self._catalog_path) and self._store_folder == _identity(self._folder)

    def reopened(self) -> "Archive":
        """Open the archive that is at this path now, with the same arguments.

        Raises:
            NoArchiveError, CatalogError: See `Archive`.
        """
        return Archive(self.path, clock=self.clock, **self._how)

    def now(self) -> str:
        """Return the present time in the catalog's form."""
        return format_time(self.clock())

    def _refuse_older_catalog(self) -> None:
        """Refuse a restored older catalog that would bring disposed renders back."""
        if self.catalog.lags_behind_disposed():
            raise RequestError(
                f"{self.catalog.path} is older than {DISPOSED_FILE} beside it, which names renders that were disposed"
                " since: bring it up to date with `craftkit-archive verify`."
            )

    def _catch_up(self) -> list[str]:
        notices = catch_up(self.catalog, who=self.by, time=self.now())
        if self.catalog.migrated:
            with self.catalog.transaction():
                self.record_event("migrate", archive=self.id, steps=self.catalog.migrated)
        return notices

    def record_event(self, what: str, counts: Mapping[str, int] | None = None, **details: Any) -> None:
        """Add an event to the audit log, inside the transaction (`catalog.transaction`) of the change that it records.

        Args:
            what: The command that made the change.
            counts: Named counts; zeros are left out.
            details: Anything else: text, integers, lists and objects; None is left out. The log is never changed, so
                it must hold no secret, no hash of one, and nothing that must be deleted one day.

        Raises:
            RuntimeError: No transaction is open.
        """
        self.catalog.record_event(what, who=self.by, time=self.now(), counts=counts, details=details)

    def record_apart(
        self,
        what: str,
        counts: Mapping[str, int] | None = None,
        *,
        also: Callable[[Catalog], object] = lambda _: None,
        **details: Any,
    ) -> Iterator[Note]:
        """Add an event for a command that changes nothing in the catalog, such as an export, even if opened read-only.

        Args:
            what: The command.
            counts: See `record_event`.
            also: Called with the catalog to write something else in the same transaction.
            details: See `record_event`.

        Yields:
            A `Note` if the archive cannot be written, as on read-only media.
        """
        try:
            if self._how["sealed"]:
                raise NotWritableError("A sealed archive never changes.")
            with ExitStack() as stack:
                writer = self
                if self._how["read_only"]:
                    writer = stack.enter_context(Archive(self.path, clock=self.clock, by=self.by))
                stack.enter_context(writer.catalog.transaction())
                writer.record_event(what, counts, **details)
                also(writer.catalog)
        except (DiskError, LockedError) as error:
            yield Note(0, None, what, f"this is not in the audit log: {error}", self.now())

    def select(
        self,
        *,
        projects: str | Iterable[str] = (),
        since: str | None = None,
        until: str | None = None,
        template_id: str | None = None,
        ids: str | os.PathLike[str] | None = None,
        statuses: str | Iterable[str] = (),
    ) -> Selection:
        """Return a selection from what users type.

        Args:
            projects: Ids or slugs, or a single one.
            since: Only renders created at this time or later; a date means its beginning, in UTC.
            until: Only renders created before this time; a date means its end.
            template_id: Only renders of this template.
            ids: A file with a render id on each line; white space around an id is ignored, unless a render has that id.
            statuses: Statuses, or a single one.

        Raises:
            RequestError: A project or status is unknown, a slug is not unique, a time is not valid, or the file
                cannot be read or is empty.
        """
        return Selection(
            project_ids=tuple(self.find_project(name) for name in _several(projects)),
            since=read_time(since),
            before=read_time(until, days=1),
            template_id=None if template_id is None else _argument_text(template_id),
            render_ids=None if ids is None else self._read_ids(Path(ids)),
            statuses=_several(statuses),
        )

    def _read_ids(self, file: Path) -> tuple[str, ...]:
        try:
            # Not `splitlines`, because an id may contain its other line separators.
            lines = [line.removesuffix("\r") for line in file.read_bytes().decode("utf-8-sig").split("\n")]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise RequestError(
                f"Cannot read {file} ({why}). Name a text file with one render id on each line."
            ) from error
        spaced = [line for line in lines if line != line.strip()]
        as_they_are = self.catalog.known("renders", spaced) if spaced else {}
        ids = tuple(line if line in as_they_are else line.strip() for line in lines if line.strip())
        # A pipe may be empty on purpose; an empty file is a mistake.
        if not ids and file != STDIN:
            raise RequestError(f"{file} names no render. Write one render id on each line.")
        return ids

    def find_project(self, name: str) -> str:
        """Return the id of the project with this id or slug.

        Raises:
            RequestError: No project has this id or slug, or several projects have the slug.
        """
        name = _argument_text(name)
        found = self.catalog.find_projects(name)
        if not found:
            alike = self.catalog.projects_like(name)
            if alike:
                meant = " or ".join(map(repr, alike))
                raise RequestError(f"There is no project {name!r}. Did you mean {meant}?")
            known = ", ".join(self.catalog.project_slugs(10))
            has = f"This archive has {known}." if known else "This archive has no projects: import them first."
            raise RequestError(f"There is no project {name!r}. {has}")
        if len(found) > 1:
            raise RequestError(f"Several projects have the slug {name!r}. Name one by its id: {', '.join(found)}.")
        return found[0]

    @contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Hold the writer's lock of this archive.

        Raises:
            LockedError: Another command is writing; the message names it.
        """
        if self._locked:  # by `recreate`
            yield
            return
        with hold_lock(self.path, command, self.clock):
            self.catalog.index_renders()
            yield

    def coverage(self, days: int) -> Coverage:
        """Return how much of what is stored was read and found good within a number of days."""
        now = self.clock()
        return self.catalog.coverage(format_time(now - timedelta(days=days)), format_time(now), days)

    def is_being_written(self) -> bool:
        """Return whether a command holds the writer's lock; True also if that cannot be determined."""
        try:
            # Opened for reading, because the archive may be on read-only media.
            descriptor = os.open(self.path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            return not try_lock(descriptor, fcntl.LOCK_SH)
        except OSError:
            return True
        finally:
            os.close(descriptor)

    @contextmanager
    def run(self, command: str, arguments: dict[str, Any], *, dry: bool = False) -> Iterator[Run]:
        """Record what is done inside as a run, however it ends; a dry run is not recorded."""
        if dry:
            yield Run(None, command)
            return
        run = Run(self.catalog.begin_run(command, arguments, self.now()), command)
        try:
            yield run
        except BaseException as error:
            # If the row cannot be written either, the first error is the one to report.
            with suppress(ArchiveError):
                self._finish(run, "failed" if isinstance(error, Exception) else "interrupted")
            raise
        self._finish(run, run.outcome)

    def _finish(self, run: Run, outcome: str) -> None:
        if run.id is not None:
            self.catalog.finish_run(
                run.id,
                finished_at=self.now(),
                outcome=outcome,
                counts=dict(run.counts),
                bytes_read=run.bytes_read,
                coverage=run.coverage,
            )

    def create_key(self, project: str, *, name: str | None = None, test: bool = False) -> KeyInfo:
        """Create a local API key; the returned record is the only place that ever holds the plain key.

        Args:
            project: Id or slug.
            name: A name for people.
            test: Whether to create a test key (`ck_test_…`).

        Raises:
            RequestError: There is no such project, or it is deleted.
        """
        project_id = self.find_project(project)
        if not self.catalog.accepts_keys(project_id):
            raise RequestError(f"The project {project!r} is deleted or was never imported: its keys would be refused.")
        plain = f"ck_{'test' if test else 'live'}_{token_urlsafe(32)}"
        given = {"id": str(uuid4()), "project_id": project_id, "name": name, "key": plain, "created_at": self.now()}
        key = read_record(ApiKey, given)
        with self.run("keys create", {"project": project_id, "key": key.id}) as run, self.catalog.transaction():
            self.catalog.put("keys", [(key.id, project_id, name, key.prefix, key.key_hash, key.created_at, None, None)])
            run.counts["created"] = 1
            self.record_event("keys create", run.counts, key=key.id, project=project_id)
        return KeyInfo(
            id=key.id,
            project_id=project_id,
            name=name,
            prefix=key.prefix,
            created_at=key.created_at,
            revoked_at=None,
            key=plain,
        )

    def list_keys(self, project: str | None = None) -> list[KeyInfo]:
        """Return information on the keys of a project (id or slug) or of all projects, never the keys themselves.

        The time of last use comes from recorded access logs (`record_access_log`).

        Raises:
            RequestError: There is no such project.
        """
        found = self.catalog.list_keys([self.find_project(project)] if project is not None else [])
        uses = self.catalog.key_uses()
        return [msgspec.structs.replace(key, last_used_at=uses.get(key.id)) for key in found]

    def unused_keys(self, seconds: int, project: str | None = None) -> list[KeyInfo]:
        """Return the valid keys that are older than this and were not used for as long.

        Args:
            seconds: The age. Uses are known only as far back as the recorded access logs reach.
            project: Only keys of this project (id or slug).

        Raises:
            RequestError: There is no such project.
        """
        before = format_time(self.clock() - timedelta(seconds=seconds))
        return [
            key
            for key in self.list_keys(project)
            if key.revoked_at is None and max(key.created_at or "", key.last_used_at or "") < before
        ]

    def revoke_key(self, name: str) -> KeyInfo:
        """Revoke a key; it stops working with the next request.

        Args:
            name: Its id, the whole key, or a part of the key that begins with its public prefix.

        Returns:
            The key; its `matched` tells how it was found: `id`, `hash` or `prefix`.

        Raises:
            RequestError: No key matches, or several have this prefix.
        """
        found, matched = self._find_keys(name.strip())
        if len(found) != 1:
            raise RequestError(_no_such_key(name.strip(), found))
        with self.run("keys revoke", {"key": found[0].id}) as run, self.catalog.transaction():
            revoked_at = self.catalog.revoke_key(found[0].id, self.now())
            run.counts["revoked"] = 1
            self.record_event("keys revoke", run.counts, key=found[0].id, project=found[0].project_id)
        return msgspec.structs.replace(found[0], revoked_at=revoked_at, matched=matched)

    def _find_keys(self, name: str) -> tuple[list[KeyInfo], str]:
        keys = self.catalog.list_keys([])
        hashed = self.catalog.find_key(hash_key(name))
        by_id = [key for key in keys if key.id == name]
        by_hash = [key for key in keys if hashed is not None and key.id == hashed.key_id]
        by_prefix = [key for key in keys if key.prefix and (name == key.prefix or _begins(name, key.prefix))]
        for found, matched in ((by_id, "id"), (by_hash, "hash"), (by_prefix, "prefix")):
            if found:
                return found, matched
        return [], ""


def _begins(name: str, prefix: str) -> bool:
    """Return whether a key begins with a prefix that is long enough to be its own: `ck_live_` alone would fit all."""
    return len(prefix) >= PREFIX_BYTES and name.startswith(prefix)


def _no_such_key(name: str, alike: list[KeyInfo]) -> str:
    """Return the message for a key that was not found; of what was given, it shows only the public part."""
    if alike:
        ids = ", ".join(key.id for key in alike[:10])
        return f"Several keys begin with {alike[0].prefix!r}. Give the id of the one you mean: {ids}."
    return f"No key matches {hide(name)!r}. Give its id, its beginning or the whole key. See `keys list`."


def describe_loss(path: Path) -> str | None:
    """Return a message if an archive's catalog is missing and other parts of the archive are there; None otherwise."""
    if os.path.lexists(path / CATALOG):
        return None
    traces = {
        f"{DEFAULT_STORE}/{MARKER}": "its store",
        AUDIT_FILE: "its audit log",
        "quarantine": "its quarantine",
        f"{CATALOG}*": "what was beside it",
    }
    found = next((words for name, words in traces.items() if any(path.glob(name))), None)
    return f"The catalog {path / CATALOG} is missing, but {found} is there. {RECOVER}" if found else None


def _refuse_other_level(store: FolderStore) -> None:
    """Refuse a store one level above or below the folder that mirrors the bucket, where no asset key would match.

    Raises:
        RequestError: It is such a folder; the message names the right one.
    """
    root = Path(store.address)
    if not root.is_dir() or store.owner() is not None or (root / "renders").is_dir():
        return
    if root.name == "renders" and any(root.glob("*/*.pdf")):
        raise RequestError(
            f"The keys of PDFs begin with renders/, so the store is above it. Did you mean {root.parent}?"
        )
    if any(root.glob("*.pdf")):
        return
    meant = next((found.parent for found in sorted([*root.glob("*/renders"), *root.glob("*/*/renders")])), None)
    if meant is not None:
        raise RequestError(f"{root} has no folder renders/, and {meant} has one. Did you mean {meant}?")


def _open_own_store(path: Path, address: str) -> Store:
    try:
        address.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The store {mask_address(address)!r} is not UTF-8, and the catalog cannot keep that. Use another name."
        ) from error
    store = open_store(address, path)
    if not address or (isinstance(store, FolderStore) and _contains(store.address, path)):
        raise RequestError(f"The store {address!r} would hold the archive itself. Name another folder.")
    return store


def _identity(path: str | None) -> tuple[int, int] | None:
    """Return device and inode of a file or folder; None if it does not exist."""
    try:
        status = os.stat(path) if path is not None else None  # noqa: PTH116
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None


def _contains(folder: str, path: Path) -> bool:
    inner = os.path.realpath(path)
    return os.path.commonpath([folder, inner]) == folder


def _left_over(new: Path, store_address: str) -> str | None:
    """Return the archive id in a catalog that an interrupted `init` left behind, or None."""
    try:
        catalog = Catalog(new)
    except ArchiveError:
        return None
    try:
        return catalog.setting("archive_id") if catalog.setting("store") == store_address else None
    except ArchiveError:
        return None
    finally:
        catalog.close()


def _argument_text(given: str) -> str:
    """Return an argument of the command line as valid text: bytes that are not UTF-8 are escaped, and match nothing."""
    return given.encode(errors="backslashreplace").decode()


def read_time(text: str | None, *, days: int = 0) -> str | None:
    """Parse a time as users write it, and return it in the catalog's form; None stays None.

    Args:
        text: A date or a time.
        days: Days to add to a date without a time of day: 1 to mean its end.

    Raises:
        RequestError: It is not a valid time.
    """
    if text is None:
        return None
    try:
        date = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) if len(text) == 10 else None
        return format_time(date + timedelta(days=days)) if date else timestamp(text)
    except (ValueError, OverflowError) as error:
        raise RequestError(f"Invalid time {text!r}. Use 2026-01-31 or 2026-01-31T10:00:00Z.") from error
