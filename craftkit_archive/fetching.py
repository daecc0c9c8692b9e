"""Fetch: copies of what the catalog expects and the store lacks, checked on arrival."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import Expectation, NewAsset, Selection
from craftkit_archive.errors import ArchiveError, AssetError, AssetExistsError, AssetMissingError
from craftkit_archive.pdf import Ends, opens
from craftkit_archive.records import Finding, Plan, Planned, Progress, Record, Skipped, Verdict
from craftkit_archive.store import OpenAsset, Store, Stored, digest, mask_address, open_store
from craftkit_archive.work import Stop, in_batches, never, processes, spread, workers_for

BATCH = 32


class _Task(NamedTuple):
    source: str
    store: str
    assets: list[Expectation]


class _Arrival(NamedTuple):
    """What became of one asset: `stored` if it is in the store now, otherwise a verdict, or neither if it is absent."""

    asset: Expectation
    stored: Stored | None = None
    adopted: bool = False
    verdict: Verdict | None = None
    detail: str | None = None


class _RefusedError(Exception):
    """The bytes that arrived are not to be stored."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(verdict, detail)
        self.verdict = verdict
        self.detail = detail


def fetch_assets(
    archive: Archive,
    source_address: str,
    *,
    selection: Selection | None = None,
    limit: int | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Copy from a source what succeeded renders should have stored and have not.

    Each asset is recorded only after its bytes are on the disk, so that whatever interrupts this, the next call does
    the rest. Bytes that are in the store already, unrecorded, are kept and recorded if the source has the same.

    Args:
        archive: Open for writing.
        source_address: A folder that mirrors the bucket.
        selection: Which renders; all if not given.
        limit: How many assets at most.
        jobs: How many processes copy.
        dry_run: Whether to say only what would be copied.
        stop: Asked between batches.

    Yields:
        `Plan`; for each asset that arrived damaged a `Finding`, for each that the source lacks a `Skipped`; `Progress`;
        at last the `Summary` with the counts expected, copied, adopted, absent and refused.

    Raises:
        StoreOfflineError, StoreMismatchError: Source or store is not there, or the store is another archive's.
        NoSpaceError, NotWritableError: The disk refused; what was recorded until then stays.
        LockedError: Another command is writing.
    """
    selection = selection or Selection()
    source = open_store(source_address)
    source.check()
    archive.store.check(archive.id)
    arguments = {"source": mask_address(source_address), "limit": limit}
    with archive.lock("fetch"), archive.run("fetch", arguments, dry=dry_run) as run:
        count = archive.catalog.count_expected(selection)
        yield Plan(count=count if limit is None else min(count, limit))
        run.counts.update({"expected": 0, "copied": 0, "adopted": 0, "absent": 0, "refused": 0})
        expected = islice(archive.catalog.expected_assets(selection), limit)
        if dry_run:
            yield from _foresee(source, expected, run)
        else:
            archive.store.sweep()
            jobs = workers_for(count, 0, jobs)
            tasks = (_Task(source.address, archive.store.address, batch) for batch in in_batches(expected, BATCH))
            with processes(jobs) as executor:
                for arrivals, error in spread(executor, _copy, tasks, jobs=jobs, stop=stop):
                    yield from _record(archive, mask_address(source_address), arrivals, run)
                    if error is not None:
                        raise error
            archive.store.sweep()
        run.settle(problems=run.counts["refused"] > 0, incomplete=run.counts["absent"] > 0, stopped=stop())
    yield run.summary()


def _foresee(source: Store, expected: Iterable[Expectation], run: Run) -> Iterator[Record]:
    for asset in expected:
        run.counts["expected"] += 1
        try:
            with source.open(asset.key) as found:
                yield Planned(render_id=asset.render_id, path=asset.key, size_bytes=found.size_bytes)
                yield Progress(count=1, size_bytes=found.size_bytes)
        except AssetError as error:
            run.counts["absent"] += 1
            yield Skipped(render_id=asset.render_id, key=asset.key, reason=str(error))


def _record(archive: Archive, source: str, arrivals: list[_Arrival], run: Run) -> Iterator[Record]:
    new: dict[str, NewAsset] = {}
    outcomes: list[Finding | Skipped] = []
    now = archive.now()
    with archive.catalog.transaction():
        taken = archive.catalog.claimed_by([arrival.asset.key for arrival in arrivals])
        for asset, stored, adopted, verdict, detail in arrivals:
            run.counts["expected"] += 1
            owner = taken.get(asset.key, asset.render_id)
            if stored is not None and owner == asset.render_id:
                taken[asset.key] = asset.render_id
                run.counts["adopted" if adopted else "copied"] += 1
                vouched = "declared" if asset.sha256 is not None else "first-read"
                new[asset.key] = NewAsset(asset.render_id, asset.key, *stored, vouched, source, now)
            elif verdict is not None:
                run.counts["refused"] += 1
                finding = Finding(
                    run_id=run.id or 0,
                    render_id=asset.render_id,
                    key=asset.key,
                    verdict=verdict,
                    detail=detail,
                    found_at=now,
                )
                outcomes.append(finding)
            else:
                run.counts["absent"] += 1
                reason = "the source lacks it" if owner == asset.render_id else f"render {owner} has this asset key"
                outcomes.append(Skipped(render_id=asset.render_id, key=asset.key, reason=reason))
        archive.catalog.add_assets(new.values())
        archive.catalog.add_findings(outcome for outcome in outcomes if isinstance(outcome, Finding))
    size = sum(asset.size_bytes for asset in new.values())
    run.bytes_read += size
    yield from outcomes
    yield Progress(count=len(arrivals), size_bytes=size)


# --- in the workers --------------------------------------------------------------------------------------------------


def _copy(task: _Task) -> tuple[list[_Arrival], ArchiveError | None]:
    """Copy assets one by one; with what stopped it half-way comes what was copied until then."""
    source, store = open_store(task.source), open_store(task.store)
    arrivals: list[_Arrival] = []
    try:
        for asset in task.assets:
            arrivals.append(_copy_one(source, store, asset))
    except ArchiveError as error:
        return arrivals, error
    return arrivals, None


def _copy_one(source: Store, store: Store, asset: Expectation) -> _Arrival:
    try:
        with source.open(asset.key) as found:
            try:
                return _Arrival(asset, store.write(asset.key, _checked(found, asset)))
            except AssetExistsError:
                return _adopt(store, found, asset)
    except AssetMissingError:
        return _Arrival(asset)
    except _RefusedError as error:
        return _Arrival(asset, verdict=error.verdict, detail=f"at the source, {error.detail}")
    except AssetError as error:
        return _Arrival(asset, verdict="unreadable", detail=str(error))


def _checked(found: OpenAsset, asset: Expectation) -> Iterator[bytes]:
    """Pass the bytes of a source on, and refuse them at their end if they are not what they should be."""
    ends, hashed = Ends(), sha256()
    for chunk in ends.watch(found.chunks()):
        if asset.sha256 is not None:
            hashed.update(chunk)
        yield chunk
    if ends.size_bytes != found.size_bytes:
        raise _RefusedError("wrong-size", f"it has {found.size_bytes} bytes, and {ends.size_bytes} arrived")
    symptom = ends.symptom()
    if symptom and not (symptom[0] == "not-a-pdf" and opens(found.file)):
        raise _RefusedError(*symptom)
    if asset.size_bytes not in (None, ends.size_bytes):
        raise _RefusedError("wrong-size", f"it has {ends.size_bytes} bytes, and {asset.size_bytes} are declared")
    if asset.sha256 not in (None, hashed.hexdigest()):
        raise _RefusedError("wrong-digest", f"its digest is {hashed.hexdigest()}, and {asset.sha256} is declared")


def _adopt(store: Store, found: OpenAsset, asset: Expectation) -> _Arrival:
    """Record what an interrupted fetch, or a person, has put into the store, if it is what the source has."""
    store.sync(asset.key)
    with store.open(asset.key) as kept:
        here, there = digest(kept.chunks()), digest(_checked(found, asset))
    if here == there:
        return _Arrival(asset, here, adopted=True)
    return _Arrival(asset, verdict="wrong-digest", detail="other bytes are in the store already; nothing was replaced")
