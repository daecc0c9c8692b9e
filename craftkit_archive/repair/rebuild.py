"""Rebuild: recreates a lost catalog from the store and files of metadata."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from craftkit_archive.archive import CATALOG, DEFAULT_STORE, Archive, Run
from craftkit_archive.errors import CatalogDamagedError, NoArchiveError, RequestError
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.importer.run import import_records
from craftkit_archive.parallel.batches import Stop, never
from craftkit_archive.records import KINDS, Kind, Record, Summary
from craftkit_archive.values import Clock, utc_now

# What only the lost catalog held.
LOST = (
    "when assets were stored, from where, and when they were last verified",
    "the digests they had: what is recorded now was read today, and damage before today cannot be seen",
    "keys made with `keys create`, which no longer work",
    "revocations made with `keys revoke`: a key that the files do not call revoked works again",
    "past runs and findings",
    "events of the audit log that are not in audit.ndjson",
)


def rebuild_archive(
    path: str | Path,
    files: Mapping[Kind, Sequence[str]],
    *,
    store_address: str = DEFAULT_STORE,
    jobs: int = 1,
    clock: Clock = utc_now,
    by: str | None = None,
    stop: Stop = never,
) -> Iterator[Record]:
    """Recreate the catalog of an archive.

    The new catalog is built beside the lost one and moved into place when it is complete, so that an interruption
    leaves nothing that looks like a catalog, and the next call starts over. A damaged catalog is kept. Assets are
    compared with the digests that the files declare; all other digests are computed from the store, and recorded as
    `first-read`.

    Args:
        path: The archive's directory.
        files: Paths of the metadata of each kind, as `import_records` reads them.
        store_address: The address of the store; a relative path is relative to the archive.
        jobs: How many processes read.
        clock: Returns the time, in UTC.
        by: The user, for the audit log.
        stop: Asked between batches.

    Yields:
        What `import_records` and `fetch_assets` yield, including their summaries; at last the `Summary`, whose counts
        are those of assets, and whose details say what was lost for good.

    Raises:
        RequestError: No file is named, the catalog can still be read, or the store belongs to no archive.
        StoreOfflineError, LockedError, NoSpaceError, NotWritableError: See `Archive.create`.

    Example:
        >>> import os
        >>> from craftkit_archive import rebuild_archive
        >>> os.rename("archive/archive.db", "lost.db")
        >>> files = {"projects": ["projects.ndjson"], "renders": ["renders.ndjson"]}
        >>> *_, summary = rebuild_archive("archive", files)
        >>> summary.counts["adopted"]
        5
    """
    path = Path(path)
    if not any(files.values()):
        raise RequestError(
            "A catalog is made again from files of metadata. Name them with --projects, --keys and --renders; without"
            " them, restore a backup with `craftkit-archive restore FILE`."
        )
    _refuse_good(path)
    total = Run(None, "rebuild")
    worst: list[str] = []
    with Archive.recreate(path, store_address=store_address, clock=clock, by=by) as archive:
        _refuse_good(path)  # again, now that the lock keeps others from creating one
        # The digest that vouched for an odd PDF may be lost with the catalog; but one did, or it would not be stored.
        steps = [import_records(archive, kind, files[kind], stop=stop) for kind in KINDS if files.get(kind)]
        for records in (*steps, fetch_assets(archive, jobs=jobs, accept_odd=True, stop=stop)):
            for record in records:
                yield record
                if isinstance(record, Summary):
                    worst.append(record.outcome)
                    total.counts.update(record.counts)
                    total.bytes_read += record.bytes_read
            if stop():
                break
        if not stop():
            with archive.catalog.transaction():
                archive.record_event("rebuild", total.counts)
            archive.put_in_place()
    total.settle(problems="problems" in worst, incomplete="incomplete" in worst, stopped=stop())
    yield total.summary(lost=LOST)


def _refuse_good(path: Path) -> None:
    try:
        Archive(path, read_only=True).catalog.close()
    except (CatalogDamagedError, NoArchiveError):
        return
    raise RequestError(
        f"The catalog {path / CATALOG} is there and can be read, and only a lost catalog is made again. Use"
        " `import` and `fetch`."
    )
