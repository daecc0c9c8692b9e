"""The work of a repair's workers: check whether an asset is good now, and fetch a copy with the recorded digest."""

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from craftkit_archive.catalog.rows import DamagedAsset
from craftkit_archive.errors import (
    AssetError,
    AssetMissingError,
    RemoteError,
    RenderConflictError,
    RenderNotFoundError,
)
from craftkit_archive.parallel.batches import Stop, never
from craftkit_archive.parallel.pool import task_stop, until
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.records import Verdict
from craftkit_archive.sources.address import open_source
from craftkit_archive.sources.base import Source
from craftkit_archive.stores.address import open_store
from craftkit_archive.stores.base import OpenAsset, StagedAsset, Store, digest
from craftkit_archive.stores.reach import check_mounted


class Attempt(NamedTuple):
    """The result for one asset.

    Attributes:
        counted: The count of the summary that it belongs to.
        verdict: Its verdict now.
        staged: The copy that a worker of a cluster has staged, for the command to put in place.
    """

    asset: DamagedAsset
    counted: str
    verdict: Verdict
    detail: str | None = None
    size_bytes: int = 0
    staged: StagedAsset | None = None


class _OtherBytesError(Exception):
    """The copy at the source is not the recorded one either."""


class _SourceFailedError(Exception):
    """It is the source that kept failing, not the store."""


def is_good(store: Store, asset: DamagedAsset, stop: Stop) -> bool:
    """Read an asset, and return whether it has the recorded size and digest.

    Raises:
        StoppedError: The work is to end.
        RemoteError, StoreOfflineError: The store is gone.
    """
    try:
        with store.open(asset.key) as found:
            return digest(until(stop, found.chunks())) == (asset.size_bytes, asset.sha256)
    except AssetError:
        return False


def attempt(source: Source, asset: DamagedAsset, take: Callable[[Iterator[bytes]], Attempt]) -> Attempt:
    """Read the copy at a source, pass its bytes to a function, and return the result.

    Args:
        source: Where the copy is.
        asset: What it must be.
        take: Called with the bytes, which raise at their end if they are not the recorded ones; it must let that pass.

    Raises:
        ArchiveError: An error that concerns more than this asset.
    """
    try:
        with _opened(source, asset) as found:
            return take(_proved(found, asset))
    except (AssetMissingError, RenderNotFoundError, RenderConflictError) as error:
        return Attempt(asset, "absent", asset.verdict, str(error))
    except _OtherBytesError as error:
        return Attempt(
            asset, "refused", asset.verdict, f"the copy at the source is not the recorded one either: {error}"
        )
    except _SourceFailedError as error:
        source.check()  # raises if the whole source is down
        return Attempt(asset, "refused", asset.verdict, str(error))
    except AssetError as error:
        return Attempt(asset, "refused", asset.verdict, str(error))


def _opened(source: Source, asset: DamagedAsset) -> OpenAsset:
    try:
        return source.open(asset.render_id, asset.key, asset.sha256)
    except RemoteError as error:
        raise _SourceFailedError(str(error)) from error


def _proved(found: OpenAsset, asset: DamagedAsset) -> Iterator[bytes]:
    """Pass bytes on, and raise `_OtherBytesError` at their end if they are not the recorded ones."""
    hashed, size = sha256(), 0
    try:
        for chunk in until(task_stop(), found.chunks()):
            hashed.update(chunk)
            size += len(chunk)
            yield chunk
    except RemoteError as error:
        raise _SourceFailedError(str(error)) from error
    if (size, hashed.hexdigest()) != (asset.size_bytes, asset.sha256):
        raise _OtherBytesError(f"{size} bytes, SHA-256 {hashed.hexdigest()}")


# --- tasks of a cluster ----------------------------------------------------------------------------------------------


class RepairTask(NamedTuple):
    """Check some assets of a store, or fetch copies of them from a source, both named by their addresses."""

    store: str
    source: str
    assets: list[DamagedAsset]
    dry_run: bool


def look_at(task: RepairTask) -> list[bool]:
    """Return for each asset whether it is good now; only for the first ones if the work was stopped."""
    store = open_store(task.store)
    return map_threads(lambda asset: is_good(store, asset, task_stop()), task.assets, store.lanes, stop=task_stop())


def bring_copies(task: RepairTask) -> list[Attempt]:
    """Fetch a copy of each asset; only of the first ones if the work was stopped.

    In a bucket, a copy replaces the asset at once and is read back; in a folder, it waits for `Store.commit`.
    """
    store, source = open_store(task.store), open_source(task.source)
    check_mounted(store)
    bring = partial(_bring_one, store, source, task.dry_run)
    return map_threads(bring, task.assets, max(store.lanes, source.lanes), stop=task_stop())


def _bring_one(store: Store, source: Source, dry_run: bool, asset: DamagedAsset) -> Attempt:
    return attempt(source, asset, partial(_take, store, asset, dry_run))


def _take(store: Store, asset: DamagedAsset, dry_run: bool, proved: Iterator[bytes]) -> Attempt:
    if dry_run:
        digest(proved)
        return Attempt(asset, "repaired", asset.verdict, size_bytes=asset.size_bytes)
    staged = store.stage(asset.key, proved, replace=True)
    if staged.path is None and not is_good(store, asset, never):
        return unlike(asset)
    return Attempt(asset, "repaired", "ok", size_bytes=asset.size_bytes, staged=staged)


def unlike(asset: DamagedAsset) -> Attempt:
    """Return the result for a copy that reads back as something else than was written."""
    return Attempt(asset, "refused", "wrong-digest", "the copy was good, and reads back as something else")
