"""Dispose: deletes the bytes of renders for good and scrubs their rows, leaving a tombstone of each.

A disposal has three steps, in this order: it writes the tombstone, in the catalog and in `disposed.ndjson`; deletes the
bytes; and scrubs the row. If it is killed in between, the tombstone shows that the disposal has begun, and the next one
finishes it. So the catalog never claims bytes that are gone, and restoring an older catalog cannot bring back a render
whose disposal has begun.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec

from craftkit_archive.archive import CATALOG, Archive, Run
from craftkit_archive.catalog.disposal import Striking
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import AssetKeyError, NotWritableError, RemoteError, RequestError
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.threads import map_threads
from craftkit_archive.records import Note, Planned, Progress, Record, Skipped, Tombstone
from craftkit_archive.repair.quarantine import Quarantine
from craftkit_archive.retention.policy import refusals
from craftkit_archive.retention.rules import Schedule, due_pages, one_line_of
from craftkit_archive.stores.base import Store

# A batch is two transactions, and one flush of `disposed.ndjson` before the first of its bytes is deleted.
BATCH = 256
# The policy of a tombstone for a render that was named, instead of being due by a rule.
BY_IDS = "ids"


class _Candidate(NamedTuple):
    """A render to dispose of: by which rule, and whether its retention period is not over yet."""

    render_id: str
    policy: str
    size_bytes: int
    early: bool = False


class _Removal(NamedTuple):
    """The result for the bytes of a render: what remains of them, or why they could not be deleted."""

    tombstone: Tombstone
    remains: str | None = None
    problem: str | None = None


def dispose_renders(
    archive: Archive, reason: str, *, selection: Selection | None = None, dry_run: bool = False, stop: Stop = never
) -> Iterator[Record]:
    """Delete the PDFs of renders that are due or named for good, and the personal data in their rows.

    Unfinished disposals are finished first. Held renders are left alone.

    Args:
        archive: Open for writing.
        reason: The reason. It is kept only in the audit log, which is never changed, so it must not name a person.
        selection: The ids of the renders; all whose retention period is over if not given.
        dry_run: Whether to report only what would be deleted.
        stop: Asked between batches.

    Yields:
        `Plan`; a `Tombstone` for each render whose bytes are gone; a `Skipped` for each that is held, unknown, or
        could not be deleted; `Progress`; an `ExportMade` for each export that still contains any of them; at last the
        `Summary` with the counts disposed, of which finished were begun earlier, and, if there are any, early (before
        the end of the period), remains (bytes that the store still keeps), already (disposed before), held, failed and
        unknown.

    Raises:
        RequestError: The reason is missing, or the selection is not a list of ids.
        LockedError: Another command is writing.
        StoreOfflineError, StoreMismatchError: The store is missing, or belongs to another archive.
        NoSpaceError, NotWritableError: The disk refused.

    Example:
        >>> from craftkit_archive import Archive, dispose_renders
        >>> with Archive("archive") as archive:
        ...     *_, summary = dispose_renders(archive, "end of retention", dry_run=True)
        >>> summary.counts["disposed"]
        0
    """
    reason = one_line_of(reason, "reason", "--reason TEXT")
    if selection is not None and selection != Selection(render_ids=selection.render_ids or ()):
        raise RequestError("Name the renders to dispose by their ids alone, or dispose all that are due.")
    archive.store.check(archive.id)
    asked = {"due": True} if selection is None else {"ids": len(selection.render_ids or ())}
    with archive.lock("dispose"), archive.run("dispose", asked, dry=dry_run) as run:
        run.counts["disposed"] = 0
        disposal = _Disposal(archive, reason, run)
        if dry_run:
            yield from disposal.foresee(selection)
        else:
            yield from disposal.finish_begun(stop)
            yield from disposal.dispose(selection, stop)
            yield from disposal.close()
        gaps = any(run.counts[name] for name in ("held", "failed", "unknown", "remains"))
        run.settle(incomplete=gaps, stopped=stop())
    yield run.summary(dry_run=True) if dry_run else run.summary()


class _Disposal:
    """One disposal. The archive's lock is held from the check whether bytes may be deleted until they are."""

    def __init__(self, archive: Archive, reason: str, run: Run) -> None:
        self._archive, self._catalog, self._reason, self._run = archive, archive.catalog, reason, run
        self._quarantine = Quarantine(archive.path)
        self._kept: Mapping[str, Sequence[str]] = {}
        self._again: list[str] = []

    # --- the choice

    def _candidates(self, selection: Selection | None) -> Iterator[list[_Candidate] | Skipped]:
        today = self._archive.clock().date()
        if selection is None:
            for page in due_pages(self._archive, today):
                for due in in_batches(page, BATCH):
                    yield [_Candidate(one.render_id, f"{one.rule}: {one.keep}", one.size_bytes) for one in due]
            return
        schedule = Schedule(self._catalog.retention_rules())
        for ids in in_batches(sorted(set(selection.render_ids or ()), key=str.encode), BATCH):
            renders = self._catalog.renders_to_dispose(ids)
            for unknown in set(ids) - {render.id for render in renders}:
                self._run.counts["unknown"] += 1
                yield Skipped(unknown, "", "no render has this id")
            batch = []
            for render in renders:
                end = schedule.end_of(render)
                batch.append(_Candidate(render.id, BY_IDS, render.size_bytes, end is not None and end[0] > today))
            yield batch

    def _allowed(self, batch: Sequence[_Candidate]) -> Iterator[_Candidate | Skipped]:
        """Leave out renders that are disposed already, and those that must not be deleted."""
        ids = [one.render_id for one in batch]
        refused, disposed = refusals(self._catalog, ids), self._catalog.disposed(ids)
        for one in batch:
            if one.render_id in disposed:
                self._run.counts["already"] += 1
                self._again.append(one.render_id)
            elif one.render_id in refused:
                self._run.counts["held"] += 1
                yield Skipped(one.render_id, "", f"kept, because it is {refused[one.render_id]}")
            else:
                yield one

    def foresee(self, selection: Selection | None) -> Iterator[Record]:
        """Report what would be deleted."""
        self._run.counts["begun"] = self._catalog.count_disposed()[1]
        for batch in self._candidates(selection):
            for one in [batch] if isinstance(batch, Skipped) else self._allowed(batch):
                if isinstance(one, Skipped):
                    yield one
                else:
                    self._run.counts["disposed"] += 1
                    self._run.counts["early"] += one.early
                    yield Planned(one.render_id, one.render_id, one.size_bytes)

    # --- the work

    def finish_begun(self, stop: Stop) -> Iterator[Record]:
        """Finish the disposals that earlier runs began."""
        self._archive.store.remove_stale()
        self._quarantine.tidy()
        self._kept = self._quarantine.names_by_owner()
        after, before = "", self._run.counts["disposed"]
        while not stop() and (begun := self._catalog.unfinished(after, BATCH)):
            after = begun[-1][0].render_id
            yield from self._delete(begun)
        self._run.counts["finished"] = self._run.counts["disposed"] - before

    def dispose(self, selection: Selection | None, stop: Stop) -> Iterator[Record]:
        """Dispose of the chosen renders, batch by batch."""
        for batch in self._candidates(selection):
            if stop():
                return
            if isinstance(batch, Skipped):
                yield batch
                continue
            going = []
            for one in self._allowed(batch):
                if isinstance(one, Skipped):
                    yield one
                else:
                    going.append(one)
            if going:
                yield from self._delete(self._strike(going))
            if self._again:  # disposed before, but somebody may have put their bytes back
                yield from self._delete(self._catalog.reopen_disposal(self._again))
                self._again = []
            yield Progress(count=len(batch), size_bytes=sum(one.size_bytes for one in going))

    def _strike(self, going: Sequence[_Candidate]) -> list[tuple[Tombstone, str | None]]:
        now, by, ids = self._archive.now(), self._archive.by, [one.render_id for one in going]
        with self._catalog.transaction():
            self._catalog.strike([Striking(one.render_id, now, one.policy, by) for one in going])
            self._archive.record_event(
                "dispose", {"begun": len(going)}, run=self._run.id, reason=self._reason, renders=ids
            )
        # The tombstones are on the disk before the first byte is deleted, so that not even an older catalog, if it is
        # restored after this, counts these renders as stored.
        self._catalog.follow_disposed(_nothing_to_note)
        self._run.counts["early"] += sum(one.early for one in going)
        return self._catalog.begun(ids)

    def _delete(self, begun: Sequence[tuple[Tombstone, str | None]]) -> Iterator[Record]:
        """Delete the bytes of disposals that have begun, and scrub the rows."""
        # If a render was held since its disposal began, what is left of its bytes stays until the hold is released.
        refused = refusals(self._catalog, [tombstone.render_id for tombstone, _ in begun])
        others = self._catalog.claimed_by([key for _, key in begun if key is not None])
        going = [(one, None if key in others else key) for one, key in begun if one.render_id not in refused]
        remove = partial(_remove, self._archive.store, self._quarantine, self._kept)
        removals = map_threads(remove, going, self._archive.store.lanes)
        gone = [removal for removal in removals if removal.problem is None]
        if gone:
            with self._catalog.transaction():
                now = self._archive.now()
                ends = [(removal.tombstone.render_id, removal.remains) for removal in gone]
                self._catalog.finish_disposal(ends, now, self._run.id)
                remaining = sum(removal.remains is not None for removal in gone)
                counts = {"disposed": len(gone), "remains": remaining}
                renders = [removal.tombstone.render_id for removal in gone]
                self._archive.record_event("dispose", counts, run=self._run.id, renders=renders)
            self._run.counts.update({"disposed": len(gone), "remains": remaining})
        for render_id, why in refused.items():
            self._run.counts["held"] += 1
            yield Skipped(render_id, "", f"its disposal has begun and is not finished, because it is {why}")
        for tombstone, remains, problem in removals:
            if problem is None:
                yield msgspec.structs.replace(tombstone, finished_at=now, remains=remains)
            else:
                self._run.counts["failed"] += 1
                yield Skipped(tombstone.render_id, "", f"its disposal has begun and is not finished: {problem}")

    def close(self) -> Iterator[Record]:
        """Clean up, and yield the exports that still contain disposed renders."""
        self._quarantine.tidy()
        if self._run.counts["disposed"] and not self._catalog.empty_log():
            text = "another program keeps archive.db-wal open, which may hold parts of deleted rows until it ends"
            yield Note(self._run.id or 0, None, "", text, self._archive.now())
        for left in sorted(self._archive.path.glob(f"{CATALOG}.*")) if self._run.counts["disposed"] else ():
            text = f"{left.name} is an older catalog, which still has the rows as they were. Delete it once you can"
            yield Note(self._run.id or 0, None, "", text, self._archive.now())
        if self._run.id is not None and self._run.counts["disposed"]:
            yield from self._catalog.exports_holding(self._run.id)


def _nothing_to_note(_count: int) -> None:
    """Do nothing: the table and the file were reconciled when the catalog was opened."""


def _remove(
    store: Store, quarantine: Quarantine, kept: Mapping[str, Sequence[str]], one: tuple[Tombstone, str | None]
) -> _Removal:
    """Delete the bytes of one render, first in the quarantine, so that an interruption never leaves them only there."""
    tombstone, key = one
    try:
        names = dict.fromkeys([*kept.get(tombstone.render_id, ()), *(kept.get(key, ()) if key else ())])
        said = [quarantine.remove(name) for name in names]
        if key is not None:
            with suppress(AssetKeyError):  # the store cannot hold this key, so there is nothing to delete
                said.append(store.remove(key))
    except (NotWritableError, RemoteError) as error:
        return _Removal(tombstone, problem=str(error))
    return _Removal(tombstone, "; ".join(filter(None, said)) or None)
