"""Fetch: copies the assets that the catalog expects and the store does not have, and checks them on arrival."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.imports import COLUMNS
from craftkit_archive.catalog.rows import Expectation, NewAsset, Selection
from craftkit_archive.decoding import read_record
from craftkit_archive.errors import (
    ArchiveError,
    AssetError,
    RemoteError,
    RenderConflictError,
    RenderNotFoundError,
    RequestError,
)
from craftkit_archive.fetch.arrival import FetchTask, Received, copy_assets
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import clustered, details_of, prove_by, workers
from craftkit_archive.parallel.pool import map_ordered, workers_for
from craftkit_archive.parallel.threads import background, map_threads
from craftkit_archive.pdf.ends import odd_on_arrival
from craftkit_archive.records import Finding, Note, Plan, Planned, Progress, Record, Render, Skipped, Verdict
from craftkit_archive.sources.address import names_at, open_source, prove_source
from craftkit_archive.sources.api import CraftkitApi
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.nearby import TRIED, suggest_address
from craftkit_archive.sources.store import StoreSource
from craftkit_archive.stores.address import worker_setup
from craftkit_archive.stores.base import Store, mask_address
from craftkit_archive.values import hash_key

# Each batch is one task, one flush to the disk and one transaction: flushing a batch takes 0.07 ms a file, flushing
# each file 1.2 ms. Nothing of a batch is recorded before all of it has arrived, so it is limited in bytes as well.
BATCH = 256
BATCH_BYTES = 64 << 20
_GUESSED_BYTES = 2 << 20
LISTING_PAGE = 50_000
UNCLAIMED_SHOWN = 20

# Under which count an asset with this verdict goes; all other verdicts count as refused.
_COUNTED: dict[Verdict, str] = {"missing": "absent", "unavailable": "unavailable"}


def fetch_assets(
    archive: Archive,
    source_address: str | None = None,
    *,
    selection: Selection | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    bytes_per_second: int | None = None,
    ignore_etag: bool = False,
    accept_odd: bool = False,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Copy the PDFs of succeeded renders that are not stored yet from a source into the store.

    Each asset is recorded only after its bytes are on the disk, so that after an interruption the next call does the
    rest. Unrecorded bytes that are in the store already are kept and recorded if the source has the same.

    Args:
        archive: Open for writing.
        source_address: A folder that mirrors the bucket, a bucket, or a live API (see `sources.address.open_source`).
            Without one, unrecorded files in the archive's own store are recorded.
        selection: The renders whose PDFs to fetch; all if not given. Ids that are not in the catalog are looked up at
            a live API; they belong to the one selected project, or else to the project of the API key.
        limit: The most assets to fetch.
        jobs: How many processes copy, one if not given; with a cluster, how many batches are in flight.
        cluster: Address of a Dask scheduler whose workers copy instead (see `docs/scale.md`).
        bytes_per_second: The rate at which all processes or workers together may read from the source.
        ignore_etag: Whether an ETag that looks like an MD5 may be something else.
        accept_odd: Whether bytes that do not look like a whole PDF are stored even if nothing vouches for them.
        dry_run: Whether to report only what would be copied.
        stop: Asked between batches.

    Yields:
        `Plan`; a `Finding` for each asset that arrived damaged or could not be read, a `Note` for each that is stored
        although it is odd, a `Skipped` for each that the source does not have; `Progress`; at last the `Summary` with
        the counts expected, copied, adopted, absent (not at the source), refused (wrong bytes), unavailable (the source
        did not give them), and not_stored, the sum of the last three; acknowledged (accepted as lost, and still
        missing) and odd, if there are any; unknown and described, for ids; and, if everything was fetched from a source
        that can be listed, unclaimed: objects that no render claims. If none of the assets was at the source,
        `did_you_mean` in its details is the address, one or two levels up or down, where some are.

    Raises:
        StoreOfflineError, StoreMismatchError: The source or the store is missing, or the store belongs to another
            archive; or a worker of the cluster does not see one of them.
        UnauthorizedError, ForbiddenError: The API refuses the key.
        RemoteError: A remote end refused everything, or kept failing; or the cluster is gone.
        NoSpaceError, NotWritableError: The disk refused; what was recorded until then stays.
        LockedError: Another command is writing.

    Example:
        >>> from craftkit_archive import Archive, fetch_assets, import_records
        >>> with Archive("archive") as archive:
        ...     *_, imported = import_records(archive, "renders", ["renders.ndjson"])
        ...     *_, fetched = fetch_assets(archive, "bucket", selection=archive.select(projects="northwind"))
        >>> fetched.outcome, fetched.counts["copied"]
        ('ok', 1)
    """
    selection = selection or Selection()
    address = archive.store.address if source_address is None else source_address
    shown = "the store itself" if source_address is None else mask_address(source_address)
    details: dict[str, Any] = {"dry_run": True} if dry_run else {}
    with ExitStack() as stack:
        source = open_source(address)
        source.check()
        archive.store.check(archive.id)
        if dry_run:
            cluster = None
        names = None if cluster is None else names_at(source)
        proof = prove_by(partial(prove_source, archive.store.address, archive.id, source.address, names))
        team = stack.enter_context(clustered(cluster, jobs, proof))
        processes = 0 if dry_run else workers_for(_foreseen(archive, selection, limit), 0, jobs or 1)
        setup = partial(worker_setup, archive.store.address, source.address)
        executor = stack.enter_context(workers(team, processes, setup))
        stack.enter_context(archive.lock("fetch"))
        run = stack.enter_context(archive.run("fetch", {"source": shown, "limit": limit}, dry=dry_run))
        yield from _describe(archive, source, selection, run, stop, dry_run=dry_run)
        count = archive.catalog.count_expected(selection)
        yield Plan(count=count if limit is None else min(count, limit))
        run.counts.update({"expected": 0, "copied": 0, "adopted": 0, "absent": 0, "refused": 0, "unavailable": 0})
        listing = None
        if selection == Selection() and limit is None and isinstance(source, StoreSource):
            # In the background, because listing a million objects takes minutes.
            listing = stack.enter_context(background(partial(_unclaimed, archive.catalog.path, source.store, stop)))
        expected = islice(archive.catalog.expected_assets(selection), limit)
        if dry_run:
            yield from _foresee(archive, source, expected, run, stop)
        else:
            archive.store.remove_stale()
            token = f"{archive.id} {run.id}"

            def tasks() -> Iterator[FetchTask]:
                for batch in _batches(expected, run):
                    # Computed for each batch, because the workers of a cluster come and go.
                    among = max(processes, 1) if team is None else team.size
                    share = bytes_per_second / among if bytes_per_second else None
                    yield FetchTask(source.address, archive.store.address, batch, share, ignore_etag, accept_odd, token)

            for arrivals, error in map_ordered(executor, copy_assets, tasks(), jobs=processes, stop=stop):
                yield from _record_arrivals(archive, shown, arrivals, run)
                if error is not None:
                    raise error
            archive.store.remove_stale()
        if listing is not None and not stop():
            try:
                run.counts["unclaimed"], details["unclaimed"] = listing()
            except ArchiveError as error:  # the list only adds a count, and its failure undoes nothing
                details["unclaimed_error"] = str(error)
        if source_address is not None and 0 < run.counts["expected"] == run.counts["absent"]:
            wanted = [asset.key for asset in islice(archive.catalog.expected_assets(selection), TRIED)]
            if meant := suggest_address(archive, source, source_address, wanted):
                details["did_you_mean"] = meant
        if not run.counts["expected"]:
            details["renders"] = archive.catalog.has_renders()
        if selection != Selection():
            details["selected"] = True
        run.counts["not_stored"] = sum(run.counts[count] for count in ("absent", "refused", "unavailable"))
        incomplete = any(run.counts[count] for count in ("absent", "unavailable", "unknown"))
        run.settle(problems=run.counts["refused"] > 0, incomplete=incomplete, stopped=stop())
    yield run.summary(**details, **details_of(team))


def _foreseen(archive: Archive, selection: Selection, limit: int | None) -> int:
    """Estimate how many assets there are to copy, before the API is asked for renders that are not in the catalog."""
    count = max(archive.catalog.count_expected(selection), len(selection.render_ids or ()))
    return count if limit is None else min(count, limit)


def _batches(expected: Iterator[Expectation], run: Run) -> Iterator[list[Expectation]]:
    """Cut the expected assets into batches of about `BATCH_BYTES`, by the mean size of what has arrived so far."""
    while True:
        arrived = run.counts["copied"] + run.counts["adopted"]
        usual = run.bytes_read // arrived if arrived else _GUESSED_BYTES
        batch = list(islice(expected, max(1, min(BATCH, BATCH_BYTES // max(usual, 1)))))
        if not batch:
            return
        yield batch


def _foresee(
    archive: Archive, source: Source, expected: Iterable[Expectation], run: Run, stop: Stop
) -> Iterator[Record]:
    for batch in in_batches(expected, BATCH):
        if stop():
            return
        accepted = archive.catalog.accepted([asset.render_id for asset in batch])
        for asset, size, reason in map_threads(partial(_look_up_size, source), batch, source.lanes):
            run.counts["expected"] += 1
            if reason is None:
                yield Planned(render_id=asset.render_id, path=asset.key, size_bytes=size)
                run.bytes_read += size or 0
            elif (asset.render_id, "not-stored") in accepted:
                run.counts["acknowledged"] += 1
            else:
                run.counts["absent"] += 1
                yield Skipped(render_id=asset.render_id, key=asset.key, reason=f"not stored: {reason}")
            yield Progress(count=1, size_bytes=size or 0)


def _look_up_size(source: Source, asset: Expectation) -> tuple[Expectation, int | None, str | None]:
    try:
        return asset, source.size(asset.render_id, asset.key), None
    except (AssetError, RenderNotFoundError, RenderConflictError) as error:
        return asset, None, str(error)
    except RemoteError as error:
        source.check()  # raises if the whole source is down
        return asset, None, str(error)


def _unclaimed(catalog_path: Path, store: Store, stop: Stop, over: Stop) -> tuple[int, list[str]]:
    """Count the objects at the source that no render claims, and return the first keys; runs in its own thread."""
    catalog = Catalog(catalog_path, read_only=True)
    try:
        count = 0
        examples: list[str] = []
        for page in in_batches(store.keys(), LISTING_PAGE):
            unclaimed = catalog.unclaimed(page)
            count += len(unclaimed)
            examples += unclaimed[: UNCLAIMED_SHOWN - len(examples)]
            if stop() or over():
                break
        return count, examples
    finally:
        catalog.close()


def _describe(
    archive: Archive, source: Source, selection: Selection, run: Run, stop: Stop, *, dry_run: bool
) -> Iterator[Record]:
    """Look up the selected ids that are not in the catalog at the API, and record their renders."""
    row = attrgetter(*COLUMNS["renders"])
    for batch in in_batches(archive.catalog.unknown_ids(selection), BATCH):
        if stop():
            return
        if not isinstance(source, CraftkitApi) or dry_run:
            answers: list[bytes | str] = ["the catalog has no such render"] * len(batch)
        else:
            project_id = _project(archive, source, selection)
            answers = map_threads(partial(_ask, source), batch, source.lanes)
        rows = []
        for render_id, answer in zip(batch, answers, strict=True):
            try:
                if isinstance(answer, str):
                    raise ValueError(answer)
                record = read_record(Render, msgspec.json.decode(answer), project_id=project_id)
                if record.id != render_id:
                    raise ValueError(f"the API answers with another render, {record.id!r}")
                rows.append(row(record))
            except (ValueError, RecursionError) as error:
                run.counts["unknown"] += 1
                yield Skipped(render_id=render_id, key="", reason=str(error))
        with archive.catalog.transaction():
            archive.catalog.put("renders", rows)
            if rows:
                archive.record_event("fetch", {"described": len(rows)}, run=run.id, source=mask_address(source.address))
        run.counts["described"] += len(rows)


def _ask(source: CraftkitApi, render_id: str) -> bytes | str:
    try:
        return source.describe(render_id)
    except RenderNotFoundError as error:
        return str(error)


def _project(archive: Archive, source: CraftkitApi, selection: Selection) -> str:
    """Find the project of the API's answers, which do not name it."""
    if len(selection.project_ids) == 1:
        return selection.project_ids[0]
    known = archive.catalog.find_key(hash_key(source.key))
    if known is None:
        raise RequestError("The API does not say whose renders these are, nor does the key. Name the --project.")
    return known.project_id


def _record_arrivals(archive: Archive, source: str, arrivals: list[Received], run: Run) -> Iterator[Record]:
    new: dict[str, NewAsset] = {}
    outcomes: list[Finding | Note | Skipped] = []
    now, before = archive.now(), run.counts.copy()
    with archive.catalog.transaction():
        taken = archive.catalog.claimed_by([arrival.asset.key for arrival in arrivals])
        accepted = archive.catalog.accepted([arrival.asset.render_id for arrival in arrivals])
        for arrival in arrivals:
            asset = arrival.asset
            run.counts["expected"] += 1
            owner = taken.get(asset.key, asset.render_id)
            if arrival.stored is not None and owner == asset.render_id:
                taken[asset.key] = asset.render_id
                run.counts["adopted" if arrival.adopted else "copied"] += 1
                known = (*arrival.stored, arrival.vouched, source, now, arrival.odd)
                new[asset.key] = NewAsset(asset.render_id, asset.key, *known)
                if arrival.odd is not None:
                    run.counts["odd"] += 1
                    outcomes.append(Note(run.id or 0, asset.render_id, asset.key, odd_on_arrival(arrival.odd), now))
            elif (asset.render_id, "not-stored") in accepted:
                run.counts["acknowledged"] += 1
            elif arrival.verdict is not None:
                run.counts[_COUNTED.get(arrival.verdict, "refused")] += 1
                finding = Finding(
                    run_id=run.id or 0,
                    render_id=asset.render_id,
                    key=asset.key,
                    verdict=arrival.verdict,
                    detail=arrival.detail,
                    found_at=now,
                )
                outcomes.append(finding)
            else:
                run.counts["absent"] += 1
                why = "the source does not have it"
                if owner != asset.render_id:
                    why = f"render {owner} has this asset key"
                outcomes.append(Skipped(render_id=asset.render_id, key=asset.key, reason=f"not stored: {why}"))
        archive.catalog.add_assets(new.values())
        archive.catalog.add_findings(outcome for outcome in outcomes if not isinstance(outcome, Skipped))
        if new:
            archive.record_event("fetch", run.counts - before, run=run.id, source=source)
    size = sum(asset.size_bytes for asset in new.values())
    run.bytes_read += size
    yield from outcomes
    yield Progress(count=len(arrivals), size_bytes=size, file=arrivals[-1].asset.key if arrivals else None)
