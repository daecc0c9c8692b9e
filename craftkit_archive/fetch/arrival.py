"""The work of a fetch's workers: open, stage, compare, commit."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from threading import Lock
from typing import NamedTuple

from craftkit_archive.catalog.rows import Expectation
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
)
from craftkit_archive.parallel.batches import Stop
from craftkit_archive.parallel.pool import ASK_SECONDS, StoppedError, task_stop, until
from craftkit_archive.parallel.threads import map_threads, prefetch
from craftkit_archive.pdf.ends import Ends
from craftkit_archive.records import Verdict
from craftkit_archive.sources.address import open_source
from craftkit_archive.sources.base import Source
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import OpenAsset, StagedAsset, Store, Stored, digest, mask_address
from craftkit_archive.stores.reach import check_mounted
from craftkit_archive.verify.fixity import Arrival, judge_arrival

# If the first assets, this many, are all refused for the same reason, the service refuses everything.
SAME_REFUSALS = 12


class FetchTask(NamedTuple):
    """Copy some assets from a source into a store, both named by their addresses.

    Attributes:
        bytes_per_second: The share of the limit that one worker may use; None is unlimited.
        ignore_etag: Whether an ETag that looks like an MD5 may be something else.
        accept_odd: Whether to store bytes that do not look like a whole PDF even if nothing vouches for them.
        run: A text that is different for each run: workers keep a rate limit and a count of refusals for each.
    """

    source: str
    store: str
    assets: list[Expectation]
    bytes_per_second: float | None
    ignore_etag: bool
    accept_odd: bool
    run: str


class Received(NamedTuple):
    """The result for one asset: `stored` if it is in the store, else a `verdict`, or neither if the source has none.

    Attributes:
        adopted: Whether the bytes were in the store already, unrecorded.
        vouched: What vouched for the digest: a value for `digest_source` in the catalog.
        odd: What is odd about the PDF, although it is stored.
        staged: The asset, while it still has no name in the store.
        stopped: Whether it was left out because the batch had to end.
    """

    asset: Expectation
    stored: Stored | None = None
    adopted: bool = False
    vouched: str = "first-read"
    verdict: Verdict | None = None
    detail: str | None = None
    staged: StagedAsset | None = None
    stopped: bool = False
    odd: str | None = None


class _RefusedError(Exception):
    """The bytes that arrived must not be stored."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(verdict, detail)
        self.verdict = verdict
        self.detail = detail


class _SourceFailedError(Exception):
    """It is the source that kept failing, not the store."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error)
        self.error = error


def copy_assets(task: FetchTask) -> tuple[list[Received], ArchiveError | None]:
    """Copy a batch of assets.

    Returns:
        The result for each asset; if an error stopped the batch, only those before it, and the error.
    """
    source, store = open_source(task.source), open_store(task.store)
    try:
        check_mounted(store)
    except ArchiveError as failure:
        return [], failure
    stopping = _Stopping(task_stop())
    stage = partial(_stage, source, store, task, stopping)
    read = partial(_open_at_source, source, stopping)
    arrivals: list[Received]
    if store.lanes == 1 or task.source == task.store:
        arrivals = list(map(stage, prefetch(read, task.assets, source.lanes)))
    else:  # writing to a bucket waits for the network, so several threads write
        arrivals = map_threads(stage, ((asset, partial(read, asset)) for asset in task.assets), store.lanes)
    error = stopping.error
    arrivals = [arrival for arrival in arrivals if not arrival.stopped]
    try:
        store.sync([arrival.asset.key for arrival in arrivals if arrival.adopted])
        refused = store.commit([a.staged for a in arrivals if a.staged is not None])
    except ArchiveError as failure:
        return [arrival for arrival in arrivals if arrival.stored is None], failure
    return [
        a._replace(staged=None) if a.staged is None or a.staged not in refused else _late(store, a, refused[a.staged])
        for a in arrivals
    ], error


class _Stopping:
    """Tells whether a batch has to end: because of an error that concerns all assets, or because the command ends."""

    def __init__(self, asked: Stop) -> None:
        self.error: ArchiveError | None = None
        self._asked = asked

    def __call__(self) -> bool:
        return self.error is not None or self._asked()

    def stop_all(self, asset: Expectation, error: ArchiveError) -> Received:
        """End the batch because of an error that concerns more than one asset."""
        self.error = self.error or error
        return Received(asset, stopped=True)


def _open_at_source(source: Source, stopping: _Stopping, asset: Expectation) -> OpenAsset:
    try:
        if stopping():
            raise StoppedError
        return source.open(asset.render_id, asset.key)
    except RemoteError as error:
        raise _SourceFailedError(error) from error


class _Refusals:
    """Distinguishes a service that refuses everything from one that refuses some assets; one for each run."""

    def __init__(self) -> None:
        self._worked = False
        self._reasons: Counter[str] = Counter()

    def succeed(self) -> None:
        """Note that an asset has arrived."""
        self._worked = True

    def add(self, reason: str) -> bool:
        """Count a refusal; return whether the service seems to refuse everything."""
        self._reasons[reason] += 1
        return not self._worked and bool(reason) and self._reasons[reason] >= SAME_REFUSALS


# Cached by the run, so that all batches of a run in one process share a count, and the next run starts afresh.
@lru_cache(maxsize=1)
def _refusals(_run: str) -> _Refusals:
    return _Refusals()


def _stage(
    source: Source,
    store: Store,
    task: FetchTask,
    stopping: _Stopping,
    opening: tuple[Expectation, Callable[[], OpenAsset]],
) -> Received:
    """Bring one asset into the store; an error that does not concern this asset alone stops the batch."""
    asset, opened = opening
    if stopping():
        with suppress(ArchiveError, StoppedError, _SourceFailedError), opened():  # close what was prefetched
            pass
        return Received(asset, stopped=True)
    try:
        arrival = _stage_one(store, task, stopping, asset, opened)
    except StoppedError:
        return Received(asset, stopped=True)
    except AssetUnavailableError as error:
        return _unavailable(source, task, stopping, Received(asset, detail=str(error)), error.reason)
    except AssetError as error:
        return _not_fetched(asset, error)
    except _SourceFailedError as failed:
        return _unavailable(source, task, stopping, Received(asset, detail=str(failed.error)), failed.error.reason)
    except ArchiveError as error:
        return stopping.stop_all(asset, error)
    _refusals(task.run).succeed()
    return arrival


def _not_fetched(asset: Expectation, error: AssetError) -> Received:
    """Return the result for an asset that cannot be read at the source, or whose name is impossible."""
    verdict: Verdict = "unreadable"
    if isinstance(error, AssetKeyError):
        verdict = "missing"
    elif isinstance(error, AssetDamagedError):
        verdict = "not-a-file"
    return Received(asset, verdict=verdict, detail=str(error).removeprefix(f"{asset.key} "))


def _unavailable(source: Source, task: FetchTask, stopping: _Stopping, arrival: Received, reason: str) -> Received:
    """Find out whether the source refuses only this asset, or is down, or refuses everything; the latter two end it."""
    try:
        source.check()
        if not _refusals(task.run).add(reason):
            return arrival._replace(verdict="unavailable")
        # One error with the service's own words instead of a finding for each of a million assets.
        error: ArchiveError = RemoteError(
            f"{mask_address(task.source)} refused the first {SAME_REFUSALS} PDFs in the same way. {arrival.detail}"
        )
    except ArchiveError as failure:
        error = failure
    return stopping.stop_all(arrival.asset, error)


def _stage_one(
    store: Store, task: FetchTask, stop: Stop, asset: Expectation, opened: Callable[[], OpenAsset]
) -> Received:
    try:
        with opened() as found:
            if task.ignore_etag:
                found.checksums, found.ask_closer = found.checksums._replace(md5=None), None
            ends = Ends()
            checked = _checked(found, asset, task, ends, stop)
            if task.source == task.store:
                arrival = Received(asset, digest(checked), adopted=True)
            else:
                try:
                    staged = store.stage(asset.key, checked)
                    arrival = Received(asset, staged.stored, staged=staged)
                except AssetExistsError:
                    arrival = _adopt(store, asset, checked)
            return arrival._replace(vouched=_vouched(asset, found), odd=ends.oddity())
    except AssetMissingError:
        return Received(asset)
    except (RenderNotFoundError, RenderConflictError) as error:
        return Received(asset, verdict="missing", detail=str(error))
    except _RefusedError as error:
        return Received(asset, verdict=error.verdict, detail=f"at the source, {error.detail}")


def _vouched(asset: Expectation, found: OpenAsset) -> str:
    """Return what vouches for the digest of accepted bytes, as `digest_source` in the catalog has it."""
    if asset.sha256 is not None:
        return "declared"
    if found.checksums.sha256 is not None:
        return found.checksums.by
    return "etag" if found.checksums.md5 is not None else "first-read"


def _checked(found: OpenAsset, asset: Expectation, task: FetchTask, ends: Ends, stop: Stop) -> Iterator[bytes]:
    """Pass the bytes of a source on, and raise `_RefusedError` at their end if `judge_arrival` refuses them.

    At the end, `found.checksums` holds the digests that vouch for them.
    """
    md5 = hashlib.md5(usedforsecurity=False) if found.checksums.md5 is not None else None
    sha256 = hashlib.sha256() if found.checksums.sha256 is not None or asset.sha256 is not None else None
    hashes = [hashed for hashed in (md5, sha256) if hashed is not None]
    try:
        for chunk in until(stop, ends.watch(found.chunks())):
            for hashed in hashes:
                hashed.update(chunk)
            if task.bytes_per_second is not None:
                _throttle(task.run).take(len(chunk), task.bytes_per_second, stop)
            yield chunk
    except RemoteError as error:
        raise _SourceFailedError(error) from error
    wrong = []
    if md5 is not None and md5.hexdigest() != found.checksums.md5 and found.ask_closer is not None:
        # The ETag of an object that is encrypted with a key of its own looks like an MD5 and is not one. obstore does
        # not show the difference, and asking about every object would double the requests.
        found.checksums = found.ask_closer()
        if found.checksums.sha256 is not None and sha256 is None:
            found.file.seek(0)
            sha256 = hashlib.sha256()
            for chunk in found.chunks():
                sha256.update(chunk)
    if sha256 is not None and sha256.hexdigest() != (found.checksums.sha256 or sha256.hexdigest()):
        wrong.append(f"its SHA-256 is {sha256.hexdigest()}, and the source says {found.checksums.sha256}")
    if md5 is not None and md5.hexdigest() != (found.checksums.md5 or md5.hexdigest()):
        wrong.append(f"its MD5 is {md5.hexdigest()}, and its ETag says {found.checksums.md5}")
    if sha256 is not None and sha256.hexdigest() != (asset.sha256 or sha256.hexdigest()):
        wrong.append(f"its SHA-256 is {sha256.hexdigest()}, and {asset.sha256} is declared")
    arrival = Arrival(ends, found.size_bytes, asset.size_bytes, wrong, _vouched(asset, found) != "first-read")
    refused = judge_arrival(arrival, accept_odd=task.accept_odd)
    if refused is not None:
        raise _RefusedError(*refused)


def _adopt(store: Store, asset: Expectation, checked: Iterator[bytes]) -> Received:
    """Accept bytes that an interrupted fetch, or a person, has put into the store, if the source has the same."""
    with store.open(asset.key) as kept:
        here, there = digest(kept.chunks()), digest(checked)
    if here == there:
        return Received(asset, here, adopted=True)
    return _already_stored(Received(asset))


def _late(store: Store, arrival: Received, refused: AssetError) -> Received:
    """Return the result for an asset whose name was refused: taken meanwhile, perhaps by the same bytes, or invalid."""
    if not isinstance(refused, AssetExistsError):
        return _not_fetched(arrival.asset, refused)
    with suppress(AssetError):
        if store.measure(arrival.asset.key) == arrival.stored:
            return arrival._replace(adopted=True, staged=None)
    return _already_stored(arrival)


def _already_stored(arrival: Received) -> Received:
    detail = "other bytes are in the store already; nothing was replaced"
    return Received(arrival.asset, verdict="wrong-digest", detail=detail)


class _Throttle:
    """Limits the rate, in bytes a second, of all threads of a process together."""

    def __init__(self) -> None:
        self._free_at = time.monotonic()
        self._lock = Lock()

    def take(self, size_bytes: int, bytes_per_second: float, stop: Stop) -> None:
        """Wait until the allowed rate permits these bytes.

        Raises:
            StoppedError: The work is to end.
        """
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / bytes_per_second
            left = self._free_at - time.monotonic()
        while left > 0:
            if stop():
                raise StoppedError
            time.sleep(min(left, ASK_SECONDS))
            left -= ASK_SECONDS


# Cached by the run, as `_refusals`.
@lru_cache(maxsize=1)
def _throttle(_run: str) -> _Throttle:
    return _Throttle()
