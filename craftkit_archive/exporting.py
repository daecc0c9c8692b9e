"""Export: a folder of PDFs that proves itself with `sha256sum -c`, and says exactly what it lacks."""

import csv
import io
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from craftkit_archive.archive import LOCK, Archive, Run, hold_lock
from craftkit_archive.catalog import ExportRow, Selection
from craftkit_archive.errors import (
    AssetDamagedError,
    AssetError,
    AssetExistsError,
    AssetMissingError,
    RequestError,
    disk_errors,
)
from craftkit_archive.folder import INCOMING, FolderStore
from craftkit_archive.places import open_store
from craftkit_archive.records import Plan, Planned, Progress, Record, Skipped
from craftkit_archive.store import CHUNK_BYTES, OpenAsset, Store, digest
from craftkit_archive.values import defused
from craftkit_archive.work import Stop, in_batches, never, processes, spread, workers_for

BATCH = 32
MANIFEST = "manifest-sha256.txt"
INDEX = "index.csv"
MISSING = "missing.csv"
MARKER = ".craftkit-export"
_INDEX_COLUMNS = ("path", "render_id", "project_id", "project_slug", "template_id", "status", "created_at",
                  "completed_at", "size_bytes", "sha256")  # fmt: skip
_MISSING_COLUMNS = ("render_id", "project_id", "project_slug", "asset_key", "reason", "detail")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")


class _Task(NamedTuple):
    store: str
    target: str
    rows: list[ExportRow]


class _Exported(NamedTuple):
    """What became of one render: `written`, `unchanged`, `not-stored` or `failed`, and for the last two why."""

    row: ExportRow
    path: str
    outcome: str
    detail: str | None = None


def export_assets(
    archive: Archive,
    target: Path,
    *,
    selection: Selection | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Copy the PDFs of succeeded renders into a folder, each checked against its digest while it is copied.

    The folder gets `manifest-sha256.txt` (for `sha256sum -c`), `index.csv` (what each file is) and, if anything is
    lacking, `missing.csv` (what, and why). Files that are there already and right are left untouched, so that a
    repeated or interrupted export only does the rest. The archive is only read.

    Args:
        archive: May be open read-only.
        target: The folder; it must be empty, absent, or an earlier export of the same selection.
        selection: Which renders; all if not given.
        jobs: How many processes copy.
        dry_run: Whether to say only what would be written, and where.
        stop: Asked between batches.

    Yields:
        `Plan`; a `Skipped` for each render that is left out; `Progress`; at last the `Summary`, whose count selected
        is the sum of written, unchanged, not_stored and failed.

    Raises:
        RequestError: The folder holds something else, or nothing is selected.
        LockedError: Another export is writing to the folder.
        StoreOfflineError, StoreMismatchError: The store is not there, or not this archive's.
        NoSpaceError, NotWritableError: The disk refused; the next export goes on from there.
    """
    selection = selection or Selection()
    archive.store.check(archive.id)
    count, size = archive.catalog.count_export(selection)
    if not count:
        known = ", ".join(archive.catalog.project_slugs(10)) or "no project at all"
        raise RequestError(f"No succeeded render is selected: widen the selection; this archive knows {known}.")
    claim = _Claim(archive.id, selection)
    _check_target(archive, target, claim)
    yield Plan(count=count, size_bytes=size)
    run = Run(None, "export")
    run.counts.update({"selected": 0, "written": 0, "unchanged": 0, "not_stored": 0, "failed": 0})
    rows = archive.catalog.export_rows(selection)
    if dry_run:
        yield from _foresee(rows, run)
    else:
        with _claimed(archive, target, claim) as folder:
            yield from _export(archive, folder, rows, run, workers_for(count, size, jobs), stop)
    run.settle(problems=run.counts["failed"] > 0, incomplete=run.counts["not_stored"] > 0, stopped=stop())
    yield run.summary()


class _Claim(msgspec.Struct, frozen=True):
    """What an export's marker says: of which archive it is, and of which selection."""

    archive: str
    selection: Selection


def _check_target(archive: Archive, target: Path, claim: _Claim) -> None:
    """Make sure that an export may go there: a folder that is empty, absent, or the same export made earlier."""
    with disk_errors(target):
        real, store = os.path.realpath(target), archive.store.address
        if isinstance(archive.store, FolderStore) and os.path.commonpath([real, store]) == store:
            raise RequestError(f"{target} lies in the archive's store: choose a folder outside of it.")
        if not os.path.lexists(target):
            return
        # An export that was killed before it could leave its marker has left its lock.
        if {path.name for path in islice(target.iterdir(), 2)} <= {INCOMING}:
            return
        marker = target / MARKER
        found = marker.read_bytes() if marker.exists() else None
    if found is None:
        raise RequestError(f"{target} holds files that no export made: choose an empty folder.")
    with suppress(msgspec.MsgspecError):
        if msgspec.json.decode(found, type=_Claim) == claim:
            return
    raise RequestError(f"{target} holds an export of something else, as its {MARKER} says: choose an empty folder.")


@contextmanager
def _claimed(archive: Archive, target: Path, claim: _Claim) -> Iterator[FolderStore]:
    """Be the one export that writes to a folder, and leave in it what it is an export of.

    Raises:
        LockedError: Another export is writing to it.
    """
    folder, incoming = FolderStore(target, durable=False), target / INCOMING
    with disk_errors(target):
        incoming.mkdir(parents=True, exist_ok=True)
    with hold_lock(incoming, "export", archive.clock):
        folder.sweep()
        folder.write(MARKER, [msgspec.json.encode(claim)], replace=True)
        with disk_errors(target):
            # An export without its manifest is one that is not whole.
            for name in (MANIFEST, INDEX, MISSING):
                (target / name).unlink(missing_ok=True)
        yield folder
        with disk_errors(target):
            (incoming / LOCK).unlink()
    folder.sweep()


def _foresee(rows: Iterable[ExportRow], run: Run) -> Iterator[Record]:
    for row in rows:
        run.counts["selected"] += 1
        if row.sha256 is None:
            run.counts["not_stored"] += 1
            yield Skipped(render_id=row.render_id, key=row.key, reason="never stored")
        else:
            run.counts["written"] += 1
            yield Planned(render_id=row.render_id, path=path_of(row), size_bytes=row.size_bytes)
        yield Progress(count=1, size_bytes=row.size_bytes or 0)


def _export(
    archive: Archive, folder: FolderStore, rows: Iterable[ExportRow], run: Run, jobs: int, stop: Stop
) -> Iterator[Record]:
    target = Path(folder.address)
    tasks = (_Task(archive.store.address, folder.address, batch) for batch in in_batches(rows, BATCH))
    with _Papers(target) as papers, processes(jobs) as executor:
        for batch in spread(executor, _copy, tasks, jobs=jobs, stop=stop):
            size = 0
            for exported in batch:
                run.counts["selected"] += 1
                run.counts[exported.outcome.replace("-", "_")] += 1
                papers.add(exported)
                if exported.outcome in ("written", "unchanged"):
                    size += exported.row.size_bytes or 0
                else:
                    reason = exported.detail or exported.outcome
                    yield Skipped(render_id=exported.row.render_id, key=exported.row.key, reason=reason)
            run.bytes_read += size
            yield Progress(count=len(batch), size_bytes=size)
        if not stop():
            papers.store()


class _Papers:
    """The manifest and the tables of an export, kept on disk until they are whole."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._stack = ExitStack()
        self._files: dict[str, io.TextIOWrapper[BinaryIO]] = {}
        self._lacks = False

    def __enter__(self) -> "_Papers":
        with disk_errors(self._target):
            for name in (MANIFEST, INDEX, MISSING):
                raw: BinaryIO = self._stack.enter_context(tempfile.TemporaryFile(dir=self._target))
                self._files[name] = io.TextIOWrapper(raw, "utf-8", newline="")
            csv.writer(self._files[INDEX]).writerow(_INDEX_COLUMNS)
            csv.writer(self._files[MISSING]).writerow(_MISSING_COLUMNS)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def add(self, exported: _Exported) -> None:
        row = exported.row
        with disk_errors(self._target):
            if exported.outcome in ("written", "unchanged"):
                self._files[MANIFEST].write(f"{row.sha256}  {exported.path}\n")
                cells = {**row._asdict(), "path": exported.path}
                csv.writer(self._files[INDEX]).writerow(defused(cells[name]) for name in _INDEX_COLUMNS)
            else:
                self._lacks = True
                cells = {**row._asdict(), "asset_key": row.key, "reason": exported.outcome, "detail": exported.detail}
                csv.writer(self._files[MISSING]).writerow(defused(cells[name]) for name in _MISSING_COLUMNS)

    def store(self) -> None:
        """Write them; the manifest last, because its presence says that the export is whole, and on the disk."""
        os.sync()
        folder = FolderStore(self._target)
        names = (INDEX, MISSING, MANIFEST) if self._lacks else (INDEX, MANIFEST)
        for name in names:
            with disk_errors(self._target):
                self._files[name].flush()
            raw = self._files[name].buffer
            raw.seek(0)
            folder.write(name, iter(partial(raw.read, CHUNK_BYTES), b""), replace=True)


# --- names -----------------------------------------------------------------------------------------------------------


def path_of(row: ExportRow) -> str:
    """Name the file of a render: `<project slug>/<year>/<month>/<render id>.pdf`.

    The name depends on nothing but the render, and is good on Linux, macOS and Windows: parts that had to be changed,
    and ids that differ only by case, get a suffix made of the original.
    """
    created = row.created_at
    when = f"{created[:4]}/{created[5:7]}" if created else "undated"
    return f"{safe_name(row.project_slug or row.project_id)}/{when}/{safe_name(row.render_id)}.pdf"


def safe_name(text: str) -> str:
    """Make one part of a path of any text, the same one for the same text and another for another.

    Kept are letters, digits and `-_.` and spaces in between; the rest becomes `_`. The result is in NFC, at most 100
    bytes, no reserved name of Windows, and never differs from another by case alone.
    """
    name = re.sub(r"[^\w.\- ]", "_", unicodedata.normalize("NFC", text))
    name = name.strip(" .~").encode()[:100].decode("utf-8", "ignore").rstrip(" .")
    if name and name == text == name.casefold() and not _RESERVED.fullmatch(name):
        return name
    return f"{name or '_'}~{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


# --- in the workers --------------------------------------------------------------------------------------------------


def _copy(task: _Task) -> list[_Exported]:
    store, target = open_store(task.store), open_store(task.target, durable=False)
    return [_copy_one(store, target, row) for row in task.rows]


def _copy_one(store: Store, target: Store, row: ExportRow) -> _Exported:
    path = path_of(row)
    if row.sha256 is None:
        return _Exported(row, path, "not-stored", "never stored")
    try:
        with store.open(row.key) as found:
            try:
                target.write(path, _checked(found, row.sha256))
            except AssetExistsError:
                with target.open(path) as there:
                    if digest(there.chunks()).sha256 == row.sha256:
                        return _Exported(row, path, "unchanged")
                target.write(path, _checked(found, row.sha256), replace=True)
            return _Exported(row, path, "written")
    except AssetMissingError:
        return _Exported(row, path, "failed", "recorded, but gone from the store")
    except AssetError as error:
        return _Exported(row, path, "failed", str(error))


def _checked(found: OpenAsset, expected: str) -> Iterator[bytes]:
    """Pass the bytes on, and refuse them at their end if they are not the recorded ones."""
    hashed = sha256()
    for chunk in found.chunks():
        hashed.update(chunk)
        yield chunk
    if hashed.hexdigest() != expected:
        raise AssetDamagedError(f"{found.key} is damaged: its digest is {hashed.hexdigest()}, recorded is {expected}.")
