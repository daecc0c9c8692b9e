"""Rebuild: a catalog that was lost, made again from the store and the files of metadata."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from craftkit_archive.archive import CATALOG, DEFAULT_STORE, Archive, Clock, Run, utc_now
from craftkit_archive.errors import CatalogDamagedError, NoArchiveError, RequestError, disk_errors
from craftkit_archive.fetching import fetch_assets
from craftkit_archive.importing import import_records
from craftkit_archive.records import KINDS, Kind, Record, Summary
from craftkit_archive.work import Stop, never

# What only the lost catalog knew.
LOST = (
    "when assets were stored, from where, and when they were last verified",
    "the digests they had: what is recorded now was read today, and damage before today cannot be told",
    "keys made with `keys create`, which no longer work",
    "revocations made with `keys revoke`: a key that the files do not call revoked works again",
    "past runs and findings",
)


def rebuild_archive(
    path: Path,
    files: Mapping[Kind, Sequence[str]],
    *,
    store_address: str = DEFAULT_STORE,
    jobs: int = 1,
    clock: Clock = utc_now,
    stop: Stop = never,
) -> Iterator[Record]:
    """Make the catalog of an archive again.

    A catalog that cannot be read is kept beside the new one. Digests that the files declare are what assets are held
    against; all others are read from the store, and recorded as `first-read`.

    Args:
        path: The archive's directory.
        files: Paths of the metadata of each kind, as `import_records` reads them.
        store_address: Where the assets are; a relative path is relative to the archive.
        jobs: How many processes read.
        clock: Tells the time, in UTC.
        stop: Asked between batches.

    Yields:
        What `import_records` and `fetch_assets` yield, their summaries too; at last the `Summary`, whose counts are
        those of assets and whose details tell what cannot be known any more.

    Raises:
        RequestError: The catalog is there and good, or the store is no archive's.
        StoreOfflineError, LockedError, NoSpaceError, NotWritableError: As `Archive.create`.
    """
    _set_aside(path)
    total = Run(None, "rebuild")
    worst: list[str] = []
    with Archive.create(path, store_address=store_address, again=True, clock=clock) as archive:
        # What vouched for an odd PDF may be lost with the catalog; that it is in the store says that something did.
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
    total.settle(problems="problems" in worst, incomplete="incomplete" in worst, stopped=stop())
    yield total.summary(lost=LOST)


def _set_aside(path: Path) -> None:
    """Move a catalog that cannot be read out of the way, with its log; refuse one that can.

    A log without its catalog goes too: SQLite would play it into the new one.
    """
    try:
        Archive(path, read_only=True).catalog.close()
    except (CatalogDamagedError, NoArchiveError):
        with disk_errors(path):
            number = 1 + sum(1 for _ in path.glob(f"{CATALOG}.damaged-*[0-9]"))
            for suffix in ("", "-wal", "-shm"):
                old = path / f"{CATALOG}{suffix}"
                if old.exists():
                    old.rename(path / f"{CATALOG}.damaged-{number}{suffix}")
        return
    raise RequestError(
        f"{path / CATALOG} is there and can be read, and only a lost catalog is made again: go on with `import` and"
        " `fetch`."
    )
