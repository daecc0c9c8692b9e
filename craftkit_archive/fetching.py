"""Fetch: copies of what the catalog expects and the store lacks, checked on arrival."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import COLUMNS, Catalog, Expectation, NewAsset, Selection
from craftkit_archive.craftkit_api import CraftkitApi
from craftkit_archive.decoding import read_record
from craftkit_archive.errors import (
    ArchiveError,
    AssetDamagedError,
    AssetError,
    AssetExistsError,
    AssetKeyError,
    AssetMissingError,
    AssetUnavailableError,
    RemoteError,
    RenderConflictError,
    RenderNotFoundError,
    RequestError,
)
from craftkit_archive.fixity import Arrival, judge_arrival
from craftkit_archive.pdf import Ends, odd_on_arrival
from craftkit_archive.places import open_store, worker_setup
from craftkit_archive.records import Finding, Note, Plan, Planned, Progress, Record, Render, Skipped, Verdict
from craftkit_archive.sources import Source, StoreSource, open_source
from craftkit_archive.store import OpenAsset, Piece, Store, Stored, digest, mask_address
from craftkit_archive.values import hash_key
from craftkit_archive.work import (
    ASK_SECONDS,
    Stop,
    StoppedError,
    aside,
    in_batches,
    in_lanes,
    never,
    prefetch,
    processes,
    spread,
    task_stop,
    until,
    workers_for,
)

BATCH = 256
# Nothing of a batch is recorded before all of it has arrived.
BATCH_BYTES = 64 << 20
_GUESSED_BYTES = 2 << 20
LISTING_PAGE = 50_000
UNCLAIMED_SHOWN = 20
# So many assets refused alike, and none that came, are a service that refuses.
SAME_REFUSALS = 12
# How the summary counts what a verdict kept from being stored; all others are refused bytes.
_COUNTED: dict[Verdict, str] = {"missing": "absent", "unavailable": "unavailable"}


class _Task(NamedTuple):
    source: str
    store: str
    assets: list[Expectation]
    bytes_per_second: float | None
    ignore_etag: bool
    accept_odd: bool
    run: str


class _Arrival(NamedTuple):
    """What became of one asset: `stored` if it is in the store now, otherwise a verdict, or neither if it is absent.

    Attributes:
        vouched: What vouched for its digest.
        odd: What is odd about it as a PDF, though it is stored.
        piece: What the store is still to give its name.
        stopped: Whether nothing became of it because the batch was to end.
    """

    asset: Expectation
    stored: Stored | None = None
    adopted: bool = False
    vouched: str = "first-read"
    verdict: Verdict | None = None
    detail: str | None = None
    piece: Piece | None = None
    stopped: bool = False
    odd: str | None = None


class _RefusedError(Exception):
    """The bytes that arrived are not to be stored."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(verdict, detail)
        self.verdict = verdict
        self.detail = detail


class _SourceFailedError(Exception):
    """The source, not the store, kept failing."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error)
        self.error = error


def fetch_assets(
    archive: Archive,
    source_address: str | None = None,
    *,
    selection: Selection | None = None,
    limit: int | None = None,
    jobs: int = 1,
    bytes_per_second: int | None = None,
    ignore_etag: bool = False,
    accept_odd: bool = False,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Copy from a source what succeeded renders should have stored and have not.

    Each asset is recorded only after its bytes are on the disk, so that whatever interrupts this, the next call does
    the rest. Bytes that are in the store already, unrecorded, are kept and recorded if the source has the same.

    Args:
        archive: Open for writing.
        source_address: A folder that mirrors the bucket, a bucket, or a live API (see `sources.open_source`); without
            one, what lies in the archive's own store is adopted where it lies.
        selection: Which renders; all if not given. For those of its ids that the catalog lacks, a live API is asked;
            they are of the one project that is selected, or that the catalog knows the key to be of.
        limit: How many assets at most.
        jobs: How many processes copy.
        bytes_per_second: How much may be read from the source, all processes together.
        ignore_etag: Whether an ETag that looks like an MD5 may be something else.
        accept_odd: Whether bytes that do not look like a whole PDF are stored even if nothing vouches for them.
        dry_run: Whether to say only what would be copied.
        stop: Asked between batches.

    Yields:
        `Plan`; for each asset that arrived damaged or did not come a `Finding`, for each that is stored though it is
        odd a `Note`, for each that the source lacks a `Skipped`; `Progress`; at last the `Summary` with the counts
        expected, copied, adopted, absent (not at the source), refused (bytes that are wrong), unavailable (bytes that
        the source did not give), and not_stored, the sum of these three; acknowledged (accepted as lost, and not come)
        and odd, if any is; unknown and described, for ids; and, where everything was asked of a source that
        can be listed, unclaimed: objects that no render has.

    Raises:
        StoreOfflineError, StoreMismatchError: Source or store is not there, or the store is another archive's.
        UnauthorizedError, ForbiddenError: The API refuses the key.
        RemoteError: A remote end refused as a whole, or kept failing.
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
    address = source_address or archive.store.address
    shown = mask_address(source_address or "the store itself")
    details: dict[str, Any] = {"dry_run": True} if dry_run else {}
    jobs = 0 if dry_run else workers_for(_foreseen(archive, selection, limit), 0, jobs)
    with ExitStack() as stack:
        source = open_source(address)
        source.check()
        archive.store.check(archive.id)
        executor = stack.enter_context(processes(jobs, worker_setup(archive.store.address, source.address)))
        stack.enter_context(archive.lock("fetch"))
        run = stack.enter_context(archive.run("fetch", {"source": shown, "limit": limit}, dry=dry_run))
        yield from _describe(archive, source, selection, run, stop, dry_run=dry_run)
        count = archive.catalog.count_expected(selection)
        yield Plan(count=count if limit is None else min(count, limit))
        run.counts.update({"expected": 0, "copied": 0, "adopted": 0, "absent": 0, "refused": 0, "unavailable": 0})
        listing = None
        if selection == Selection() and limit is None and isinstance(source, StoreSource):
            # To list a million objects takes minutes, in which they can be copied.
            listing = stack.enter_context(aside(partial(_unclaimed, archive.catalog.path, source.store, stop)))
        expected = islice(archive.catalog.expected_assets(selection), limit)
        if dry_run:
            yield from _foresee(archive, source, expected, run, stop)
        else:
            archive.store.sweep()
            share = bytes_per_second / max(jobs, 1) if bytes_per_second else None
            token = f"{archive.path} {run.id}"
            tasks = (
                _Task(source.address, archive.store.address, batch, share, ignore_etag, accept_odd, token)
                for batch in _batches(expected, run)
            )
            for arrivals, error in spread(executor, _copy, tasks, jobs=jobs, stop=stop):
                yield from _record(archive, shown, arrivals, run)
                if error is not None:
                    raise error
            archive.store.sweep()
        if listing is not None and not stop():
            try:
                run.counts["unclaimed"], details["unclaimed"] = listing()
            except ArchiveError as error:  # it only counts what nobody asked for, and undoes nothing that succeeded
                details["unclaimed_error"] = str(error)
        run.counts["not_stored"] = sum(run.counts[count] for count in ("absent", "refused", "unavailable"))
        incomplete = any(run.counts[count] for count in ("absent", "unavailable", "unknown"))
        run.settle(problems=run.counts["refused"] > 0, incomplete=incomplete, stopped=stop())
    yield run.summary(**details)


def _foreseen(archive: Archive, selection: Selection, limit: int | None) -> int:
    """Say how many assets there may be to copy, before the API is asked for renders that nobody knows yet."""
    count = max(archive.catalog.count_expected(selection), len(selection.render_ids or ()))
    return count if limit is None else min(count, limit)


def _batches(expected: Iterator[Expectation], run: Run) -> Iterator[list[Expectation]]:
    """Cut what is expected into batches of about `BATCH_BYTES`, going by what has arrived so far."""
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
        for asset, size, reason in in_lanes(partial(_look, source), batch, source.lanes):
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


def _look(source: Source, asset: Expectation) -> tuple[Expectation, int | None, str | None]:
    try:
        return asset, source.size(asset.render_id, asset.key), None
    except (AssetError, RenderNotFoundError, RenderConflictError) as error:
        return asset, None, str(error)
    except RemoteError as error:
        source.check()  # if it is down as a whole, that stops everything
        return asset, None, str(error)


def _unclaimed(catalog_path: Path, store: Store, stop: Stop, over: Stop) -> tuple[int, list[str]]:
    """Count what the source holds for no render, and return the first keys of it; for a thread of its own."""
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


# --- metadata from the API -------------------------------------------------------------------------------------------


def _describe(
    archive: Archive, source: Source, selection: Selection, run: Run, stop: Stop, *, dry_run: bool
) -> Iterator[Record]:
    """Ask the API for those of the selected ids that the catalog lacks."""
    row = attrgetter(*COLUMNS["renders"])
    for batch in in_batches(archive.catalog.unknown_ids(selection), BATCH):
        if stop():
            return
        if not isinstance(source, CraftkitApi) or dry_run:
            answers: list[bytes | str] = ["the catalog has no such render"] * len(batch)
        else:
            project_id = _project(archive, source, selection)
            answers = in_lanes(partial(_ask, source), batch, source.lanes)
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
        raise RequestError("The API does not say whose renders these are, nor does the key: name the --project.")
    return known.project_id


# --- into the catalog ------------------------------------------------------------------------------------------------


def _record(archive: Archive, source: str, arrivals: list[_Arrival], run: Run) -> Iterator[Record]:
    new: dict[str, NewAsset] = {}
    outcomes: list[Finding | Note | Skipped] = []
    now = archive.now()
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
    size = sum(asset.size_bytes for asset in new.values())
    run.bytes_read += size
    yield from outcomes
    yield Progress(count=len(arrivals), size_bytes=size)


# --- in the workers --------------------------------------------------------------------------------------------------


def _copy(task: _Task) -> tuple[list[_Arrival], ArchiveError | None]:
    """Copy a batch of assets; with what stopped it half-way comes what was copied until then."""
    source, store = open_source(task.source), open_store(task.store)
    stopping = _Stopping(task_stop())
    receive = partial(_receive, source, store, task, stopping)
    read = partial(_open, source, stopping)
    arrivals: list[_Arrival]
    if store.lanes == 1 or task.source == task.store:
        arrivals = list(map(receive, prefetch(read, task.assets, source.lanes)))
    else:  # a store that makes one wait for what is written takes threads
        arrivals = in_lanes(receive, ((asset, partial(read, asset)) for asset in task.assets), store.lanes)
    error = stopping.error
    arrivals = [arrival for arrival in arrivals if not arrival.stopped]
    try:
        store.sync([arrival.asset.key for arrival in arrivals if arrival.adopted])
        refused = store.place([a.piece for a in arrivals if a.piece is not None])
    except ArchiveError as failure:
        return [arrival for arrival in arrivals if arrival.stored is None], failure
    return [
        a._replace(piece=None) if a.piece is None or a.piece not in refused else _late(store, a, refused[a.piece])
        for a in arrivals
    ], error


class _Stopping:
    """Whether a batch is to end: one of its assets met what stops them all, or the command is to end."""

    def __init__(self, asked: Stop) -> None:
        self.error: ArchiveError | None = None
        self._asked = asked

    def __call__(self) -> bool:
        return self.error is not None or self._asked()

    def stop_all(self, asset: Expectation, error: ArchiveError) -> _Arrival:
        """End the batch because of what one of its assets met."""
        self.error = self.error or error
        return _Arrival(asset, stopped=True)


def _open(source: Source, stopping: _Stopping, asset: Expectation) -> OpenAsset:
    try:
        if stopping():
            raise StoppedError
        return source.open(asset.render_id, asset.key)
    except RemoteError as error:
        raise _SourceFailedError(error) from error


class _Refusals:
    """Tells a service that refuses everything from one that refuses some assets, for one run in one process."""

    def __init__(self) -> None:
        self._worked = False
        self._reasons: Counter[str] = Counter()

    def succeed(self) -> None:
        """Count an asset that came."""
        self._worked = True

    def add(self, reason: str) -> bool:
        """Count a refusal; say whether nothing else has come so far."""
        self._reasons[reason] += 1
        return not self._worked and bool(reason) and self._reasons[reason] >= SAME_REFUSALS


@lru_cache(maxsize=1)
def _refusals(_run: str) -> _Refusals:
    return _Refusals()


def _receive(
    source: Source,
    store: Store,
    task: _Task,
    stopping: _Stopping,
    opening: tuple[Expectation, Callable[[], OpenAsset]],
) -> _Arrival:
    """Bring one asset into the store; what is not a matter of this asset alone stops the batch."""
    asset, opened = opening
    if stopping():
        with suppress(ArchiveError, StoppedError, _SourceFailedError), opened():  # what was asked for already
            pass
        return _Arrival(asset, stopped=True)
    try:
        arrival = _receive_one(store, task, stopping, asset, opened)
    except StoppedError:
        return _Arrival(asset, stopped=True)
    except AssetUnavailableError as error:
        return _unavailable(source, task, stopping, _Arrival(asset, detail=str(error)), error.reason)
    except AssetError as error:
        return _failed(asset, error)
    except _SourceFailedError as failed:
        return _unavailable(source, task, stopping, _Arrival(asset, detail=str(failed.error)), failed.error.reason)
    except ArchiveError as error:
        return stopping.stop_all(asset, error)
    _refusals(task.run).succeed()
    return arrival


def _failed(asset: Expectation, error: AssetError) -> _Arrival:
    """Say of one asset what the source holds in its place, or that its name cannot be."""
    verdict: Verdict = "unreadable"
    if isinstance(error, AssetKeyError):
        verdict = "missing"
    elif isinstance(error, AssetDamagedError):
        verdict = "not-a-file"
    return _Arrival(asset, verdict=verdict, detail=str(error).removeprefix(f"{asset.key} "))


def _unavailable(source: Source, task: _Task, stopping: _Stopping, arrival: _Arrival, reason: str) -> _Arrival:
    """Say whether the source does not give this asset alone, or is down, or refuses everything."""
    try:
        source.check()
        if not _refusals(task.run).add(reason):
            return arrival._replace(verdict="unavailable")
        # Its own words, which name what to do, and not one finding for each of a million assets.
        error: ArchiveError = RemoteError(
            f"{mask_address(task.source)} refused the first {SAME_REFUSALS} PDFs in the same way. {arrival.detail}"
        )
    except ArchiveError as failure:
        error = failure
    return stopping.stop_all(arrival.asset, error)


def _receive_one(
    store: Store, task: _Task, stop: Stop, asset: Expectation, opened: Callable[[], OpenAsset]
) -> _Arrival:
    try:
        with opened() as found:
            if task.ignore_etag:
                found.claims, found.ask_closer = found.claims._replace(md5=None), None
            ends = Ends()
            checked = _checked(found, asset, task, ends, stop)
            if task.source == task.store:
                arrival = _Arrival(asset, digest(checked), adopted=True)
            else:
                try:
                    piece = store.receive(asset.key, checked)
                    arrival = _Arrival(asset, piece.stored, piece=piece)
                except AssetExistsError:
                    arrival = _adopt(store, asset, checked)
            return arrival._replace(vouched=_vouched(asset, found), odd=ends.oddity())
    except AssetMissingError:
        return _Arrival(asset)
    except (RenderNotFoundError, RenderConflictError) as error:
        return _Arrival(asset, verdict="missing", detail=str(error))
    except _RefusedError as error:
        return _Arrival(asset, verdict=error.verdict, detail=f"at the source, {error.detail}")


def _vouched(asset: Expectation, found: OpenAsset) -> str:
    """Say what vouches for the digest of bytes that are accepted."""
    if asset.sha256 is not None:
        return "declared"
    if found.claims.sha256 is not None:
        return found.claims.by
    return "etag" if found.claims.md5 is not None else "first-read"


def _checked(found: OpenAsset, asset: Expectation, task: _Task, ends: Ends, stop: Stop) -> Iterator[bytes]:
    """Pass the bytes of a source on, and refuse them at their end if `judge_arrival` does.

    What vouches for them stands in `found.claims` when they are through.
    """
    md5 = hashlib.md5(usedforsecurity=False) if found.claims.md5 is not None else None
    sha256 = hashlib.sha256() if found.claims.sha256 is not None or asset.sha256 is not None else None
    hashes = [hashed for hashed in (md5, sha256) if hashed is not None]
    try:
        for chunk in until(stop, ends.watch(found.chunks())):
            for hashed in hashes:
                hashed.update(chunk)
            if task.bytes_per_second is not None:
                _throttle(task.bytes_per_second).take(len(chunk), stop)
            yield chunk
    except RemoteError as error:
        raise _SourceFailedError(error) from error
    wrong = []
    if md5 is not None and md5.hexdigest() != found.claims.md5 and found.ask_closer is not None:
        # The ETag of an object that is encrypted with a key of its own looks like an MD5, and is none. obstore does not
        # show whether it is, and to ask about each object would double the requests.
        found.claims = found.ask_closer()
        if found.claims.sha256 is not None and sha256 is None:
            found.file.seek(0)
            sha256 = hashlib.sha256()
            for chunk in found.chunks():
                sha256.update(chunk)
    if sha256 is not None and sha256.hexdigest() != (found.claims.sha256 or sha256.hexdigest()):
        wrong.append(f"its SHA-256 is {sha256.hexdigest()}, and the source says {found.claims.sha256}")
    if md5 is not None and md5.hexdigest() != (found.claims.md5 or md5.hexdigest()):
        wrong.append(f"its MD5 is {md5.hexdigest()}, and its ETag says {found.claims.md5}")
    if sha256 is not None and sha256.hexdigest() != (asset.sha256 or sha256.hexdigest()):
        wrong.append(f"its SHA-256 is {sha256.hexdigest()}, and {asset.sha256} is declared")
    arrival = Arrival(ends, found.size_bytes, asset.size_bytes, wrong, _vouched(asset, found) != "first-read")
    refused = judge_arrival(arrival, accept_odd=task.accept_odd)
    if refused is not None:
        raise _RefusedError(*refused)


def _adopt(store: Store, asset: Expectation, checked: Iterator[bytes]) -> _Arrival:
    """Record what an interrupted fetch, or a person, has put into the store, if it is what the source has."""
    with store.open(asset.key) as kept:
        here, there = digest(kept.chunks()), digest(checked)
    if here == there:
        return _Arrival(asset, here, adopted=True)
    return _taken(_Arrival(asset))


def _late(store: Store, arrival: _Arrival, refused: AssetError) -> _Arrival:
    """Say what becomes of an asset that got no name: it was taken while the asset was on its way, or it cannot be."""
    if not isinstance(refused, AssetExistsError):
        return _failed(arrival.asset, refused)
    with suppress(AssetError):
        if store.measure(arrival.asset.key) == arrival.stored:
            return arrival._replace(adopted=True, piece=None)
    return _taken(arrival)


def _taken(arrival: _Arrival) -> _Arrival:
    detail = "other bytes are in the store already; nothing was replaced"
    return _Arrival(arrival.asset, verdict="wrong-digest", detail=detail)


class _Throttle:
    """Lets so many bytes a second pass, for all threads of a process."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()
        self._lock = Lock()

    def take(self, size_bytes: int, stop: Stop) -> None:
        """Wait until these bytes may have passed.

        Raises:
            StoppedError: The work is to end.
        """
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / self._rate
            left = self._free_at - time.monotonic()
        while left > 0:
            if stop():
                raise StoppedError
            time.sleep(min(left, ASK_SECONDS))
            left -= ASK_SECONDS


@lru_cache(maxsize=1)
def _throttle(bytes_per_second: float) -> _Throttle:
    return _Throttle(bytes_per_second)
