"""Repair: replaces damaged and missing assets with copies that have the recorded digest."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import DamagedAsset, Selection
from craftkit_archive.errors import AssetError, AssetKeyError, AssetMissingError, RequestError
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import Cluster, clustered, details_of, prove_by
from craftkit_archive.parallel.pool import map_ordered, task_stop
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.records import Finding, Held, Plan, Planned, Progress, Record, Skipped, Verdict
from craftkit_archive.repair.copies import Attempt, RepairTask, attempt, bring_copies, is_good, look_at, unlike
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.retention.policy import refusals
from craftkit_archive.sources.address import names_at, open_source, prove_source
from craftkit_archive.sources.base import Source
from craftkit_archive.sources.export import ExportSource
from craftkit_archive.sources.nearby import TRIED, suggest_address
from craftkit_archive.states import STATES
from craftkit_archive.stores.base import StagedAsset, Store, mask_address
from craftkit_archive.stores.base import digest as read_digest
from craftkit_archive.stores.folder import FolderStore

# How many assets are looked up in an export at a time.
PAGE = 10_000
# The assets of one transaction. With 256, a repair of 2,917 PDFs takes as long, and a stop waits for more copies.
BATCH = 32


def repair_assets(
    archive: Archive,
    source_address: str,
    *,
    selection: Selection | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Replace the assets that the last check found damaged or missing with copies from a source.

    An asset that is good now is left alone. A copy is used only if it has the recorded digest; the damaged file is then
    kept in the quarantine, the copy takes its place, and is read back.

    Args:
        archive: Open for writing.
        source_address: A folder that mirrors the bucket, a bucket, a live API, or an export (a folder, zip, tar, or
            bag), in which files are found by their digests.
        selection: The renders whose assets to repair; all if not given.
        jobs: With a cluster, how many batches are in flight.
        cluster: Address of a Dask scheduler whose workers read and copy (see `docs/scale.md`); the source cannot be an
            export then.
        dry_run: Whether to report only what would be done; the copies are read, and their places examined.
        stop: Asked between batches.

    Yields:
        `Plan`; for each asset that is still bad a `Finding` or, if the source does not have it, a `Skipped`;
        `Progress`; at last the `Summary` with the counts damaged, repaired, healed (good without a repair), absent and
        refused; and acknowledged, if the loss of any that is still bad was accepted. `did_you_mean` in its details is
        as for `fetch_assets`.

    Raises:
        StoreOfflineError, StoreMismatchError: The source or the store is missing, or the store belongs to another
            archive; or a worker of the cluster does not see one of them.
        RequestError: The source is the store itself, or it is an export and `cluster` is given.
        UnauthorizedError, ForbiddenError, RemoteError, NoSpaceError, NotWritableError: See `fetch_assets`.
        LockedError: Another command is writing.

    Example:
        >>> from craftkit_archive import Archive, repair_assets, verify_assets
        >>> with Archive("archive") as archive:
        ...     *_, verified = verify_assets(archive)
        ...     *_, repaired = repair_assets(archive, "bucket")
        >>> repaired.outcome, repaired.counts.get("repaired", 0)
        ('ok', 0)
    """
    selection = selection or Selection()
    source = open_source(source_address, exports=True)
    if source.address == archive.store.address:
        raise RequestError("The source is the archive's own store. Name another place that has the same assets.")
    if cluster is not None and isinstance(source, ExportSource):
        raise RequestError("A repair from an export runs on one machine. Leave --cluster out.")
    source.check()
    archive.store.check(archive.id)
    shown = mask_address(source_address)
    names = None if cluster is None else names_at(source)
    proof = prove_by(partial(prove_source, archive.store.address, archive.id, source.address, names))
    with (
        clustered(cluster, jobs, proof) as team,
        archive.lock("repair"),
        archive.run("repair", {"source": shown}, dry=dry_run) as run,
    ):
        yield Plan(count=archive.catalog.count_damaged(selection))
        run.counts.update({"damaged": 0, "repaired": 0, "healed": 0, "absent": 0, "refused": 0})
        if not dry_run:
            archive.store.remove_stale()
            Quarantine(archive.path).tidy()
        repair = partial(_repair_one, archive, source, run, dry_run)
        for page in in_batches(archive.catalog.damaged_assets(selection), PAGE):
            if isinstance(source, ExportSource):
                source.look_for(asset.sha256 for asset in page)
            if team is not None:
                for attempts in _repair_afar(archive, team, source.address, page, run, stop, dry_run=dry_run):
                    yield from _record_attempts(archive, attempts, run, dry_run=dry_run)
                continue
            for batch in in_batches(page, BATCH):
                if stop():
                    break
                attempts = map_threads(repair, batch, max(source.lanes, archive.store.lanes), stop=stop)
                yield from _record_attempts(archive, attempts, run, dry_run=dry_run)
        if not dry_run:
            archive.store.remove_stale()
            Quarantine(archive.path).tidy()
        run.settle(problems=run.counts["absent"] + run.counts["refused"] > 0, stopped=stop())
    details: dict[str, Any] = {"last_verified": archive.catalog.last_verified(), **details_of(team)}
    if 0 < run.counts["damaged"] == run.counts["absent"]:
        wanted = [asset.key for asset in islice(archive.catalog.damaged_assets(selection), TRIED)]
        if meant := suggest_address(archive, source, source_address, wanted):
            details["did_you_mean"] = meant
    yield run.summary(**details, dry_run=True) if dry_run else run.summary(**details)


def _repair_afar(
    archive: Archive, team: Cluster, source: str, page: list[DamagedAsset], run: Run, stop: Stop, *, dry_run: bool
) -> Iterator[list[Attempt]]:
    """Let the workers of a cluster check and copy; the quarantine needs the archive's directory, and is filled here."""
    store = archive.store

    def tasks(assets: Iterable[DamagedAsset]) -> Iterator[RepairTask]:
        return (RepairTask(store.address, source, batch, dry_run) for batch in in_batches(assets, BATCH))

    bad: list[DamagedAsset] = []
    for task, good in zip(tasks(page), map_ordered(team, look_at, tasks(page), jobs=0, stop=stop), strict=False):
        yield [_healed(asset) for asset, is_well in zip(task.assets, good, strict=False) if is_well]
        bad += [asset for asset, is_well in zip(task.assets, good, strict=False) if not is_well]
    held: dict[str, Held] = {}

    def kept() -> Iterator[RepairTask]:
        for task in tasks(bad):
            # In a bucket, a copy replaces the asset at once, so the damaged one is kept before.
            if not dry_run and not isinstance(store, FolderStore):
                for asset in task.assets:
                    if _is_there(store, asset):
                        held[asset.key] = Quarantine(archive.path).keep(store, _kept_as(archive, run, asset))
            yield task

    for brought in map_ordered(team, bring_copies, kept(), jobs=0, stop=stop):
        attempts = [_settled(archive, run, one, dry_run=dry_run) for one in brought]
        for one in attempts:
            if one.counted != "repaired" and one.asset.key in held and one.verdict == one.asset.verdict:
                Quarantine(archive.path).drop(held[one.asset.key])  # it still lies in the store
        yield attempts


def _settled(archive: Archive, run: Run, brought: Attempt, *, dry_run: bool) -> Attempt:
    """Put a copy that a worker has staged in a folder into its place."""
    store, asset, staged = archive.store, brought.asset, brought.staged
    if brought.counted != "repaired" or not isinstance(store, FolderStore):
        return brought
    try:
        if dry_run:
            _rehearse(archive, asset)
        elif staged is not None:
            _take_place(archive, store, run, asset, staged)
            return brought if is_good(store, asset, never) else unlike(asset)
    except AssetError as error:
        return Attempt(asset, "refused", asset.verdict, str(error))
    return brought


def _take_place(archive: Archive, store: FolderStore, run: Run, asset: DamagedAsset, staged: StagedAsset) -> None:
    if store.describe(asset.key) is not None:
        _keep_others(archive, store, asset)
    if store.describe(asset.key) is not None or _is_there(store, asset):
        Quarantine(archive.path).keep(store, _kept_as(archive, run, asset))
    for error in store.commit([staged]).values():
        raise error


def _kept_as(archive: Archive, run: Run, asset: DamagedAsset) -> Finding:
    """Return the finding for a copy that goes into the quarantine."""
    # If the last check found nothing there, somebody has put other bytes there since.
    verdict = "wrong-digest" if asset.verdict == "missing" else asset.verdict
    return _finding(asset, run, verdict, None, archive.now())


def _record_attempts(archive: Archive, attempts: list[Attempt], run: Run, *, dry_run: bool) -> Iterator[Record]:
    now, before = archive.now(), run.counts.copy()
    shown: list[Record] = []
    accepted = archive.catalog.accepted([attempt.asset.render_id for attempt in attempts])
    for asset, counted, verdict, detail, size, _ in attempts:
        run.counts["damaged"] += 1
        if counted in ("absent", "refused") and (asset.render_id, STATES[verdict]) in accepted:
            run.counts["acknowledged"] += 1
            continue
        run.counts[counted] += 1
        run.bytes_read += size
        if counted == "repaired" and dry_run:
            shown.append(Planned(render_id=asset.render_id, path=asset.key, size_bytes=asset.size_bytes))
        elif counted == "absent":
            shown.append(Skipped(render_id=asset.render_id, key=asset.key, reason=f"still {verdict}: {detail}"))
        elif verdict != "ok":
            shown.append(_finding(asset, run, verdict, detail, now))
    if not dry_run:
        with archive.catalog.transaction():
            for asset, counted, verdict, *_ in attempts:
                if counted != "absent":
                    archive.catalog.record_checks(now, verdict, [asset.render_id])
            archive.catalog.add_findings(record for record in shown if isinstance(record, Finding))
            if any(counted != "absent" for _, counted, *_ in attempts):
                archive.record_event(run.command, run.counts - before, run=run.id)
    yield from shown
    last = attempts[-1].asset.key if attempts else None
    yield Progress(count=len(attempts), size_bytes=sum(attempt.size_bytes for attempt in attempts), file=last)


def _finding(asset: DamagedAsset, run: Run, verdict: Verdict, detail: str | None, now: str) -> Finding:
    return Finding(
        run_id=run.id or 0,
        render_id=asset.render_id,
        key=asset.key,
        verdict=verdict,
        expected=asset.sha256,
        detail=detail,
        found_at=now,
    )


def _repair_one(archive: Archive, source: Source, run: Run, dry_run: bool, asset: DamagedAsset) -> Attempt:
    """Try to repair one asset."""
    if is_good(archive.store, asset, task_stop()):
        return _healed(asset)
    take = partial(_foresee_one, archive, asset) if dry_run else partial(_replace_copy, archive, run, asset)
    return attempt(source, asset, take)


def _healed(asset: DamagedAsset) -> Attempt:
    return Attempt(asset, "healed", "ok", size_bytes=asset.size_bytes)


def _foresee_one(archive: Archive, asset: DamagedAsset, proved: Iterator[bytes]) -> Attempt:
    read_digest(proved)
    _rehearse(archive, asset)
    return Attempt(asset, "repaired", asset.verdict, size_bytes=asset.size_bytes)


def _rehearse(archive: Archive, asset: DamagedAsset) -> None:
    """Check whether a copy could replace an asset; a bucket shows that only when it is written to."""
    store = archive.store
    if isinstance(store, FolderStore):
        _keep_others(archive, store, asset)
        store.rehearse(asset.key)


def _keep_others(archive: Archive, store: FolderStore, asset: DamagedAsset) -> None:
    if store.describe(asset.key) is not None and archive.catalog.holds_below(asset.key):
        raise AssetKeyError(f"{asset.key} is a folder that holds other assets. Rename one of them at the source.")


def _replace_copy(archive: Archive, run: Run, asset: DamagedAsset, proved: Iterator[bytes]) -> Attempt:
    store, quarantine, finding = archive.store, Quarantine(archive.path), _kept_as(archive, run, asset)
    held: Held | None = None
    if isinstance(store, FolderStore) and store.describe(asset.key) is not None:
        _keep_others(archive, store, asset)
        # A folder or link is moved, not copied, so only once a copy is there to take its place.
        staged = store.stage(asset.key, proved, replace=True)
        quarantine.keep(store, finding)
    else:
        if _is_there(store, asset):
            held = quarantine.keep(store, finding)
        try:
            staged = store.stage(asset.key, proved, replace=True)
        except BaseException:
            if held is not None:
                quarantine.drop(held)
            raise
    for error in store.commit([staged]).values():
        raise error
    # The copy is in place and must be recorded, so a stop is ignored from here on.
    if not is_good(store, asset, never):
        return unlike(asset)
    return Attempt(asset, "repaired", "ok", size_bytes=asset.size_bytes)


# --- the quarantine --------------------------------------------------------------------------------------------------


def list_quarantine(archive: Archive) -> Iterator[Record]:
    """Yield a `Held` for each copy in the quarantine, and at last the `Summary`."""
    run = Run(None, "quarantine list")
    for held in Quarantine(archive.path).list():
        run.counts["held"] += 1
        run.bytes_read += held.size_bytes or 0
        yield held
    yield run.summary()


def restore_quarantined(archive: Archive, names: Iterable[str]) -> Iterator[Record]:
    """Put copies back into the store: good ones to replace bad ones, bad ones only if nothing is there.

    A replaced file goes into the quarantine.

    Yields:
        A `Finding` for each restored copy that is not the recorded one; at last the `Summary` with the count restored.

    Raises:
        RequestError: There is no copy of that name, or the file in the store is at least as good.
        LockedError: Another command is writing.
    """
    quarantine = Quarantine(archive.path)
    archive.store.check(archive.id)
    with archive.lock("quarantine restore"), archive.run("quarantine restore", {"names": list(names)}) as run:
        for held in _chosen(quarantine, names):
            asset = _recorded(archive, held)
            if asset is None or held.sha256 is None:
                raise RequestError(
                    f"Cannot restore {held.name}: the copy has no bytes, or the catalog has no render for it."
                )
            right = held.sha256 == asset.sha256
            there = _is_there(archive.store, asset)
            if is_good(archive.store, asset, never) or (there and not right):
                raise RequestError(
                    f"Cannot restore {held.name}: the file at {held.key} is at least as good, and stays."
                )
            with quarantine.open(held) as copy:
                if read_digest(copy.chunks()).sha256 != held.sha256:
                    raise RequestError(f"{held.name} has changed since it was kept: it stays where it is.")
            if there:
                if archive.catalog.holds_below(asset.key):
                    raise RequestError(f"{asset.key} is a folder that holds other assets: {held.name} stays.")
                quarantine.keep(archive.store, _finding(asset, run, "wrong-digest", None, archive.now()))
            with quarantine.open(held) as copy:
                archive.store.write(held.key, copy.chunks(), replace=True)
            quarantine.drop(held)
            run.counts["restored"] += 1
            attempt = Attempt(asset, "restored", "ok" if right else held.verdict, held.detail)
            yield from _record_attempts(archive, [attempt], Run(run.id, run.command), dry_run=False)
        quarantine.tidy()
    yield run.summary()


def drop_quarantined(archive: Archive, names: Iterable[str] | None, *, force: bool = False) -> Iterator[Record]:
    """Delete copies whose assets are good again; with `force`, any copies.

    Args:
        archive: Open for writing.
        names: Names of copies, or render ids for all copies of their PDFs; None for everything that is held.
        force: Whether to delete copies even if their assets are still bad.

    Yields:
        A `Skipped` for each copy that stays; at last the `Summary` with the count dropped and, without `names`, kept.
        It is `incomplete` if any stays.

    Raises:
        RequestError: A named copy does not exist, or its asset is still bad; nothing is deleted then.
        LockedError: Another command is writing.
    """
    quarantine = Quarantine(archive.path)
    asked = {"all": True} if names is None else {"names": list(names)}
    with archive.lock("quarantine drop"), archive.run("quarantine drop", asked) as run:
        run.counts["dropped"] = 0
        if names is None:
            run.counts["kept"] = 0
        chosen = quarantine.list() if names is None else iter(_droppable(archive, quarantine, names, force=force))
        # Batch by batch, because a list of everything that is held may not fit into memory.
        for batch in in_batches(chosen, BATCH):
            going = list(batch)
            if names is None and not force:
                going = [held for held in going if _is_good_again(archive, held)]
                for held in batch:
                    if held not in going:
                        run.counts["kept"] += 1
                        reason = "kept, because its PDF is still bad. Repair it first, or pass --force"
                        yield Skipped(held.render_id or None, held.name, reason)
            # By name as well as with --all and --force: see `retention/policy.py`.
            refused = refusals(archive.catalog, [held.render_id for held in going if held.render_id])
            if refused and names is not None:
                stays = next(held for held in going if held.render_id in refused)
                raise RequestError(f"Cannot drop {stays.name}: its render is {refused[stays.render_id]}.")
            for held in going:
                if held.render_id in refused:
                    run.counts["kept"] += 1
                    yield Skipped(held.render_id, held.name, f"kept, because its render is {refused[held.render_id]}")
            going = [held for held in going if held.render_id not in refused]
            if not going:
                continue
            # The event is recorded first, so that nothing is deleted without a trace of who did it.
            with archive.catalog.transaction():
                renders = [held.render_id for held in going]
                archive.record_event("quarantine drop", {"dropped": len(going)}, run=run.id, renders=renders)
            for held in going:
                quarantine.drop(held)
                run.counts["dropped"] += 1
        quarantine.tidy()
        run.settle(incomplete=run.counts.get("kept", 0) > 0)
    yield run.summary()


def _droppable(archive: Archive, quarantine: Quarantine, names: Iterable[str], *, force: bool) -> list[Held]:
    chosen = _chosen(quarantine, names)
    for held in chosen:
        if not force and not _is_good_again(archive, held):
            raise RequestError(
                f"The PDF {held.key} is still bad. Repair it first, or pass --force to drop its copy all the same."
            )
    return chosen


def _is_good_again(archive: Archive, held: Held) -> bool:
    asset = _recorded(archive, held)
    return asset is not None and is_good(archive.store, asset, never)


def _chosen(quarantine: Quarantine, names: Iterable[str]) -> list[Held]:
    """Find copies by name, or all copies of a render by its id; each once, in the order of `names`.

    Raises:
        RequestError: There is no copy of a name.
    """
    chosen: dict[str, Held] = {}
    for name in names:
        of_render = [held for held in quarantine.list() if held.render_id == name] if "/" not in name else []
        for held in of_render or [quarantine.find(name)]:
            chosen[held.name] = held
    return list(chosen.values())


def _recorded(archive: Archive, held: Held) -> DamagedAsset | None:
    found = archive.catalog.stored_assets(Selection(render_ids=(held.render_id,)))
    for render_id, key, size, digest in found:
        if key == held.key and size is not None and digest is not None:
            return DamagedAsset(render_id, key, size, digest, held.verdict)
    return None


def _is_there(store: Store, asset: DamagedAsset) -> bool:
    try:
        store.find(asset.key)
    except (AssetMissingError, AssetKeyError):
        return False
    except AssetError:
        return True
    return True
