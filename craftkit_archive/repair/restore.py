"""Restore: replaces a lost, damaged or newer catalog with a backup."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from craftkit_archive.archive import CATALOG, Archive, Run
from craftkit_archive.catalog.backups import DownloadRights, check_backup, copy_backup, read_access, settle_log
from craftkit_archive.catalog.catch_up import take_later_events
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.durable import flush
from craftkit_archive.errors import RemoteError, RequestError, StoreMismatchError, StoreOfflineError, disk_errors
from craftkit_archive.lock import hold_lock
from craftkit_archive.parallel.batches import Stop, never
from craftkit_archive.proof.audit_file import AUDIT_FILE, read_lines
from craftkit_archive.proof.events import DISPOSED_AGAIN, read_event
from craftkit_archive.records import Caution, Progress, Record
from craftkit_archive.stores.base import MARKER
from craftkit_archive.values import Clock, utc_now
from craftkit_archive.verify.run import LISTED, NOT_OURS

RESTORED = f"{CATALOG}.restored"
NAMED = 5


class _Newer(NamedTuple):
    """Asset keys in the store that a backup does not record: those that a render expects, and those of no render."""

    unrecorded: list[str]
    unclaimed: list[str]


def restore_catalog(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    new_store: bool = False,
    clock: Clock = utc_now,
    by: str | None = None,
    stop: Stop = never,
) -> Iterator[Record]:
    """Replace an archive's catalog with a backup, and report what has changed since the backup.

    The copy is checked, migrated and brought up to date beside the catalog, and then replaces it in one step, so that
    an interruption leaves either the old catalog or the new one. The replaced catalog is kept under a dated name.

    Args:
        path: The archive's directory; created if it does not exist.
        file: The backup.
        new_store: Whether to accept a store without a marker as this archive's, because the old one was lost too.
        clock: Returns the time, in UTC.
        by: The user, for the audit log.
        stop: Asked while the store is listed; nothing is changed before the list is complete.

    Yields:
        `Progress`; a `Caution` for each sort of thing that is newer than the backup; at last the `Summary` with the
        counts recorded (PDFs), unrecorded and extra (in the store, and newer than the backup), events (that only the
        audit file had), disposed (renders, since the backup), alive_again and gone (keys); its details name the keys
        and the catalog that is kept. It is `incomplete` if anything is newer than the backup.

    Raises:
        RequestError: The file is not a backup, or is the catalog itself.
        CatalogNewerError, CatalogDamagedError: The backup cannot be used.
        StoreOfflineError, StoreMismatchError: Its store is missing, or belongs to another archive.
        LockedError: Another command is writing, or a program keeps reading one of the catalogs.
        NoSpaceError, NotWritableError: The disk refused; the old catalog stays.

    Example:
        >>> from pathlib import Path
        >>> from craftkit_archive import Archive, restore_catalog
        >>> with Archive("archive", read_only=True) as archive:
        ...     _size_bytes = archive.catalog.back_up(Path("backup.db"))
        >>> *_, summary = restore_catalog("archive", "backup.db")
        >>> summary.outcome, summary.counts["recorded"]
        ('ok', 5)
    """
    path, file = Path(path), Path(file)
    catalog, new = path / CATALOG, path / RESTORED
    if catalog.exists() and catalog.samefile(file):
        raise RequestError(f"{file} is the catalog itself. Name a backup of it.")
    check_backup(file)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with hold_lock(path, "restore", clock):
        _remove(path)
        try:
            copy_backup(file, new)
            with Archive(path, clock=clock, by=by, catalog=RESTORED, apart=True) as archive:
                _check_store(archive, file, new_store=new_store)
                as_of = archive.catalog.latest_time()
                newer = _Newer([], [])
                yield from _list_newer(archive, newer, stop)
                if stop():
                    yield _interrupted(file)
                    return
                settle_log(catalog)
                kept = _kept_name(path, archive.now())
                warnings = [*_newer_pdfs(newer), *_changed_access(archive, path, read_access(catalog))]
                details: dict[str, Any] = {
                    "backup": str(file),
                    "as_of": as_of,
                    "kept": kept.name if catalog.exists() else None,
                    "alive_again": _names(warnings, "key-alive-again"),
                    "gone": _names(warnings, "key-gone"),
                }
                with archive.run("restore", {"file": str(file)}) as run:
                    run.counts["recorded"], _ = archive.catalog.count_stored(Selection())
                    run.counts["unrecorded"], run.counts["extra"] = len(newer.unrecorded), len(newer.unclaimed)
                    run.counts["alive_again"], run.counts["gone"] = len(details["alive_again"]), len(details["gone"])
                    _bring_up_to_date(archive, run)
                    run.settle(incomplete=bool(warnings))
                    with archive.catalog.transaction():
                        archive.record_event("restore", run.counts, run=run.id, backup=file.name, kept=details["kept"])
            settle_log(
                new
            )  # a program that reads the copy makes SQLite keep a log beside it, which a rename would lose
            _put_in_place(path, kept)
        finally:
            _remove(path)
        with Archive(path, clock=clock, by=by) as archive:  # opening it reconciles the audit file
            notices = [Caution("audit-log", 1, [], notice) for notice in archive.notices]
    yield from (*warnings, *notices)
    for warning in warnings:
        details.setdefault("warnings", []).append({"warning": warning.warning, "count": warning.count})
    yield run.summary(**details)


def _bring_up_to_date(archive: Archive, run: Run) -> None:
    """Apply to a restored catalog whatever must survive the restoration of an older one, before any command reads it.

    This is the only place for that.
    """
    run.counts["events"] = take_later_events(archive.catalog, who=archive.by, time=archive.now())

    def note(count: int) -> None:
        run.counts["disposed"] = count
        archive.record_event(DISPOSED_AGAIN, {"renders": count})

    archive.catalog.follow_disposed(note)


def _interrupted(file: Path) -> Record:
    run = Run(None, "restore")
    run.settle(stopped=True)
    return run.summary(backup=str(file))


def _check_store(archive: Archive, file: Path, *, new_store: bool) -> None:
    owner, address = archive.store.owner(), archive.store.address
    if owner is None and new_store:
        archive.store.mark(archive.id)
    elif owner is None:
        raise StoreOfflineError(
            f"The store of this backup is not at {address} (no {MARKER} file). Mount it. If it is lost too, run"
            f" `craftkit-archive restore --new-store {file}`, then `verify` and `repair SOURCE`."
        )
    elif owner != archive.id:
        raise StoreMismatchError(
            f"{file} is a backup of archive {archive.id}, and the store at {address} belongs to archive {owner}."
            " Name a backup of that archive, or the right --archive."
        )


# --- what is newer than the backup -----------------------------------------------------------------------------------


def _list_newer(archive: Archive, newer: _Newer, stop: Stop) -> Iterator[Progress | Caution]:
    """Collect what the store holds and the backup does not record, except for files that were extra already."""
    listing = archive.store.keys()
    while not stop():
        try:
            listed = list(islice(listing, LISTED))
        except RemoteError as error:  # the catalog can be restored all the same
            yield Caution("not-listed", 1, [], f"The store could not be listed, so what is newer is not known: {error}")
            return
        if not listed:
            return
        found = [key for key in archive.catalog.unrecorded(listed) if not NOT_OURS.search(key)]
        unclaimed = set(archive.catalog.unclaimed(found)) if found else set()
        newer.unrecorded.extend(archive.catalog.expecting([key for key in found if key not in unclaimed]))
        known = archive.catalog.known_extra(list(unclaimed))
        newer.unclaimed.extend(key for key in found if key in unclaimed and key not in known)
        yield Progress(count=len(listed))


def _newer_pdfs(newer: _Newer) -> Iterator[Caution]:
    if newer.unclaimed:
        yield _caution(
            "render-not-in-backup",
            newer.unclaimed,
            ("file in the store belongs", "files in the store belong"),
            "to no render of the backup",
            "Import the renders since the backup, then run fetch without a source.",
        )
    if newer.unrecorded:
        yield _caution(
            "pdf-not-in-backup",
            newer.unrecorded,
            ("PDF in the store is", "PDFs in the store are"),
            "not recorded in the backup",
            "Run fetch without a source.",
        )


def _changed_access(archive: Archive, path: Path, replaced: DownloadRights | None) -> Iterator[Caution]:
    """Report keys and projects whose access differs from what the replaced catalog and the audit file say."""
    deeds = _key_deeds(path / AUDIT_FILE, archive.catalog.audit_head().number)
    restored = {key.id: key.revoked_at for key in archive.list_keys()}
    revoked = deeds.revoked | {key for key, at in (replaced.keys.items() if replaced else ()) if at}
    made = deeds.made | (replaced.keys.keys() if replaced else set())
    alive = sorted(key for key in revoked if key in restored and restored[key] is None)
    gone = sorted(key for key in made - revoked if key not in restored)
    if alive:
        yield _caution(
            "key-alive-again",
            alive,
            ("key that was revoked since the backup works", "keys that were revoked since the backup work"),
            "again",
            "Revoke them again." if len(alive) > 1 else "Revoke it again.",
        )
    deleted = replaced.deleted_projects if replaced else set()
    back = sorted(name for name in deleted if archive.catalog.accepts_keys(name))
    if back:
        yield _caution(
            "project-alive-again",
            back,
            ("project that was deleted since the backup is", "projects that were deleted since the backup are"),
            "there again, with working keys",
            "Import the projects again.",
        )
    if gone:
        yield _caution(
            "key-gone",
            gone,
            ("key that was made since the backup does", "keys that were made since the backup do"),
            "not work any more",
            "Make new ones with keys create." if len(gone) > 1 else "Make a new one with keys create.",
        )
    if replaced is None and deeds.imported:
        yield Caution(
            "not-compared",
            1,
            [],
            "Keys that an import revoked since the backup may work again: there was no catalog to compare with. Import"
            " the keys again.",
        )


class _KeyDeeds(NamedTuple):
    """Keys that commands created and revoked, and whether an import since the backup may have changed others."""

    made: set[str]
    revoked: set[str]
    imported: bool


def _key_deeds(file: Path, head: int) -> _KeyDeeds:
    """Read from the audit file which keys were created and revoked; `head` is the number of the backup's last event."""
    if not file.is_file():
        return _KeyDeeds(set(), set(), imported=True)
    ids: dict[str, set[str]] = {"keys create": set(), "keys revoke": set()}
    imported = False
    with disk_errors(file), file.open("rb") as lines:
        for line in read_lines(lines):
            if b"keys" not in line:  # true of most lines, and far cheaper than decoding them
                continue
            with suppress(ValueError):
                event = read_event(line)
                imported = imported or (event.what == "import keys" and event.number > head)
                if event.what in ids:
                    ids[event.what].add(str(event.details.get("key")))
    return _KeyDeeds(ids["keys create"], ids["keys revoke"], imported)


def _caution(warning: str, names: Sequence[str], what: tuple[str, str], how: str, then: str) -> Caution:
    count = len(names)
    more = f", and {count - NAMED:,} more" if count > NAMED else ""
    text = f"{count:,} {what[count != 1]} {how}: {', '.join(names[:NAMED])}{more}. {then}"
    return Caution(warning, count, list(names), text)


def _names(warnings: Sequence[Caution], kind: str) -> list[str]:
    return [name for one in warnings if one.warning == kind for name in one.names]


# --- in its place ----------------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    """Remove the files of an interrupted restore."""
    with disk_errors(path):
        for left in path.glob(f"{RESTORED}*"):
            left.unlink()


def _kept_name(path: Path, now: str) -> Path:
    """Return a free name that contains the time."""
    stem = f"{CATALOG}.replaced-{now[:19].replace('-', '').replace(':', '')}Z"
    names = (path / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(name for name in names if not os.path.lexists(name))


def _put_in_place(path: Path, kept: Path) -> None:
    """Replace the catalog with the copy in one step, and keep the old one.

    If the old catalog still has a log, the log could not be merged into it. It is kept too, and removed before the
    step, because SQLite would apply it to the new catalog.
    """
    catalog, new = path / CATALOG, path / RESTORED
    with disk_errors(path):
        flush(new)
        log = catalog.with_name(f"{CATALOG}-wal")
        if log.exists() and log.stat().st_size:
            _keep(log, kept.with_name(f"{kept.name}-wal"))
        if catalog.exists():
            _keep(catalog, kept)
        flush(path)
        for suffix in ("-wal", "-shm"):
            catalog.with_name(f"{CATALOG}{suffix}").unlink(missing_ok=True)
        new.rename(catalog)
        flush(path)


def _keep(file: Path, name: Path) -> None:
    try:
        name.hardlink_to(file)
    except PermissionError:  # a file system without hard links
        shutil.copy2(file, name)
        flush(name)
