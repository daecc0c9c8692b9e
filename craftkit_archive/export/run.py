"""Export of selected PDFs to a folder, zip, tar or bag that proves itself and lists exactly what is missing."""

import os
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import ArchiveError, RequestError
from craftkit_archive.export.destination import STDOUT, Destination, Options, read_destination
from craftkit_archive.export.index import Volume, csv_line, read_cells
from craftkit_archive.export.manifests import Manifests
from craftkit_archive.export.names import mark
from craftkit_archive.export.plan import (
    DISPOSED,
    NOT_STORED,
    ExportPlan,
    PlannedFile,
    PlannedVolume,
    accepted_reason,
    gap_of,
)
from craftkit_archive.export.reader import SIGNATURE, TIMESTAMP
from craftkit_archive.export.targets import Target
from craftkit_archive.export.volumes import CollectedFiles, VolumePlaces, VolumeTask, run_volume
from craftkit_archive.export.workers import Done, prove_target, run
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import Cluster, clustered, details_of, workers
from craftkit_archive.parallel.pool import map_ordered, workers_for
from craftkit_archive.pdf.ends import odd_on_arrival
from craftkit_archive.proof.signatures import sign_text
from craftkit_archive.proof.timestamps import fetch_timestamp
from craftkit_archive.records import ExportMade, Plan, Planned, Progress, Record, Skipped, Summary
from craftkit_archive.retention.policy import refusals
from craftkit_archive.stores.address import worker_setup
from craftkit_archive.stores.base import mask_address
from craftkit_archive.stores.reach import shown_folder
from craftkit_archive.values import sorted_marks, valid_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

# The PDFs, or their bytes, of one task. With a million tiny PDFs, the parent is the bottleneck, and each task wakes a
# thread that it then waits for: 256 instead of 64, with two other changes, took a tenth off its time.
BATCH = 256
BATCH_BYTES = 8 << 20


def export_assets(
    archive: Archive,
    target: str | Path,
    *,
    selection: Selection | None = None,
    options: Options | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
    stop: Stop = never,
) -> Iterator[Record]:
    """Copy the PDFs of renders to an export; each is compared with its digest while it is written.

    An export contains a manifest (for `sha256sum -c`), `index.csv` (what each file is), `missing.csv` (what is missing,
    and why; absent if nothing is), `index.html` (for browsing) and `seal.txt`. In a folder, files that are there with
    the right bytes are left alone, so repeating an interrupted export does the rest. The archive is only read, except
    that an event records the export's place and seal.

    Args:
        archive: May be open read-only.
        target: A folder, a file, `-` for standard output (zip and tar), or a store's address.
        selection: Which renders; without it, or if it has neither ids nor statuses, those that succeeded.
        options: How the export is made.
        jobs: How many processes copy, one if not given; with a cluster, how many tasks are in flight.
        cluster: Address of a Dask scheduler whose workers copy instead (see `docs/scale.md`), to a folder that each of
            them sees, or to a bucket. A zip or tar must be split into volumes; each worker writes one at a time.
        dry_run: Whether only to report what would be written, and where.
        stop: Asked between batches.

    Yields:
        `Plan`; `Skipped` for each render that is left out; `Progress`; last the `Summary`. Its count selected is the
        sum of written, unchanged, not_stored (no PDF to export; until 1.0 also as excluded), failed (the PDF cannot be
        copied), acknowledged (not stored or failed, but accepted as lost) and disposed (deleted for good).

    Raises:
        RequestError: Nothing is selected, the options contradict each other, or the target holds something else.
        LockedError: Another export is writing to the target.
        StoreOfflineError, StoreMismatchError: The store is not there, or not this archive's; or a worker of the cluster
            does not see store or target.
        NoSpaceError, NotWritableError: The disk is full, has too little room from the start, or refuses to write.
        RemoteError: A bucket kept failing, or the cluster was lost.

    Example:
        >>> from craftkit_archive import Archive, ExportOptions, export_assets
        >>> with Archive("archive") as archive:
        ...     since = archive.select(since="2026-01-01")
        ...     *_, summary = export_assets(archive, "out.zip", selection=since, options=ExportOptions(form="bagit"))
        >>> summary.counts["written"]
        5
    """
    selection, options = selection or Selection(), options or Options()
    if selection.render_ids is None and not selection.statuses:
        selection = msgspec.structs.replace(selection, statuses=("succeeded",))
    destination = read_destination(os.fspath(target), options)
    packed = destination.kind in ("zip", "tar")
    if cluster is not None and packed and options.split_bytes is None:
        raise RequestError(
            f"A cluster cannot write one {destination.kind}. Add --split-size, so that each worker writes a volume."
            " Export to a folder that every worker sees or to a bucket, or leave --cluster out."
        )
    archive.store.check(archive.id)
    for vouch in _vouchers(options).values() if not dry_run else ():
        vouch(b"?")  # so that a key or authority that does not work is found before the first byte, not after the last
    team: Cluster | None = None
    export = _Export(archive, destination, selection, options, stop)
    try:
        with archive.catalog.snapshot(), ExitStack() as stack:
            if dry_run:
                yield export.plan()
                yield from export.foresee()
            else:
                if cluster is not None:  # `plan` checks the destination, which workers are then asked to see
                    yield export.plan()
                    team = stack.enter_context(clustered(cluster, jobs, partial(_proof, archive, destination)))
                jobs = 0 if team is not None else workers_for(*archive.catalog.count_stored(selection), jobs or 1)
                stores = [archive.store.address, *([destination.store] if destination.store is not None else [])]
                executor = stack.enter_context(workers(team, jobs, partial(worker_setup, *stores)))
                if cluster is None:  # while the processes start
                    yield export.plan()
                if packed and (cluster is not None or destination.in_bucket):
                    yield from export.write_volumes(executor, jobs)
                else:
                    yield from export.write(executor, jobs)
    except ArchiveError:
        # The volumes that are complete stay. A disposal has to know of them, as of any export.
        yield from export.record()
        raise
    yield from export.record()
    yield export.summary(dry_run=dry_run, **details_of(team))


@contextmanager
def _proof(archive: Archive, destination: Destination) -> Iterator[Callable[[], object]]:
    """Yield the function by which a worker proves that it sees store and destination."""
    store = archive.store.address
    if destination.store is not None:
        yield partial(prove_target, store, archive.id, destination.store, None)
        return
    with shown_folder(Path(destination.address)) as seen:
        yield partial(prove_target, store, archive.id, None, seen)


_VOUCHED = {SIGNATURE: "signed", TIMESTAMP: "stamped"}


def _vouchers(options: Options) -> dict[str, Callable[[bytes], bytes]]:
    """Return the functions that make the signature and the timestamp of a seal, by the names of their files."""
    made: dict[str, Callable[[bytes], bytes]] = {}
    key, authority = options.sign_with, options.authority
    if key is not None:
        made[SIGNATURE] = lambda text: sign_text(text, key)
    if authority is not None:
        made[TIMESTAMP] = lambda text: fetch_timestamp(text, authority)[0]
    return made


# --- the work --------------------------------------------------------------------------------------------------------


class _VolumeWork:
    """A packed volume that a worker writes as a whole.

    Attributes:
        planned: Which renders it covers.
        left_out: By path, the PDFs that a worker could not copy.
        counts: Its share of the summary's counts.
        has_gaps: Whether a render is left out of it.
        made: Its path, seal and totals.
        members: Its renders, by `member_of`.
        size_bytes: The bytes of its PDFs.
    """

    def __init__(self, planned: PlannedVolume) -> None:
        self.planned = planned
        self.left_out: dict[str, Done] = {}
        self.counts: Counter[str] = Counter()
        self.has_gaps = False
        self.made: dict[str, Any] = {}
        self.members = array("Q")
        self.size_bytes = 0


_GOOD = Done("written")


class _Export:
    """One export: planned as a whole, then written volume by volume."""

    def __init__(
        self, archive: Archive, destination: Destination, selection: Selection, options: Options, stop: Stop
    ) -> None:
        self._archive, self._catalog = archive, archive.catalog
        self._destination = destination
        self._selection = selection
        self._plan = ExportPlan(archive, destination, selection, options)
        self._options = options
        self._vouchers = _vouchers(options)
        self._stop = stop
        self._run = Run(None, "export")
        self._run.counts.update(dict.fromkeys(("selected", "written", "unchanged", "excluded", "failed"), 0))
        self._exports: list[dict[str, Any]] = []
        self._members: list[array[int]] = []
        self._marks = array("Q")  # hashes of the paths: 8 bytes each, so that memory stays small with millions
        self._to_fetch = False  # whether a fetch would bring more of what is selected

    def plan(self) -> Plan:
        """Plan the export; see `ExportPlan.make`."""
        return self._plan.make()

    def foresee(self) -> Iterator[Record]:
        """Report what would be written."""
        counts = self._run.counts
        yield from self._unknown(counts)
        seen, size = 0, 0
        for number, entry in self._plan.entries(lined=False):
            counts["selected"] += 1
            if entry.item is None:
                gap = gap_of(entry.row, (entry.lack or ("",))[0], "excluded")
                counts[gap] += 1
                if gap == "excluded":
                    self._to_fetch = self._to_fetch or entry.lack == NOT_STORED
                    yield _skipped(entry, entry.lack)
            else:
                counts["written"] += 1
                volume = self._plan.volume(number)
                path = entry.item.path if volume is None else f"{self._destination.named(volume)}/{entry.item.path}"
                yield Planned(render_id=entry.row.render_id, path=path, size_bytes=entry.item.size_bytes)
            seen, size = seen + 1, size + entry.size_bytes
            if seen == BATCH:  # one record for each render would take a tenth of the time
                yield Progress(count=seen, size_bytes=size)
                seen, size = 0, 0
        if seen:
            yield Progress(count=seen, size_bytes=size)

    def _unknown(self, counts: Counter[str], papers: Manifests | None = None) -> Iterator[Record]:
        """Report the selected ids that no render has."""
        for render_id in self._catalog.unknown_ids(self._selection):
            counts["selected"] += 1
            counts["excluded"] += 1
            if papers is not None:
                papers.lack((render_id, "", "", "", "unknown", "no render has this id", ""))
            yield Skipped(render_id=render_id, key="", reason=f"no render has the id {render_id}")

    def write(self, executor: "Executor", jobs: int) -> Iterator[Record]:
        """Write every volume."""
        for number, numbered in groupby(self._plan.entries(), key=lambda pair: pair[0]):
            if self._stop():
                return
            yield from self._write_volume(number, (entry for _, entry in numbered), executor, jobs)
        if self._options.sync:
            os.sync()

    def _write_volume(
        self, number: int, entries: Iterable[PlannedFile], executor: "Executor", jobs: int
    ) -> Iterator[Record]:
        volume = self._plan.volume(number)
        target = self._destination.open(self._archive, self._options, volume)
        papers = self._manifests(volume)
        with target, papers:
            if number == 1:
                yield from self._unknown(self._run.counts, papers)
            yield from self._copy(target, papers, entries, executor, jobs)
            if self._stop():
                return
            yield from self._settle_earlier(target, papers)
            made = self._made(volume, papers, papers.store(target))
            target.close()
        self._exports.append(made)
        self._members.append(papers.members)

    def _manifests(self, volume: Volume | None) -> Manifests:
        address = self._destination.named(volume)
        folder = Path(address) if self._destination.kind == "dir" else Path(address).absolute().parent
        return Manifests(
            self._archive.id,
            title=self._plan.title,
            bag_info=self._options.bag_info if self._destination.bag else None,
            folder=None if address == STDOUT or self._destination.in_bucket else folder,
            volume=volume or Volume(),
            today=self._archive.now()[:10],
            vouchers=self._vouchers,
        )

    def _made(self, volume: Volume | None, papers: Manifests, seal: str) -> dict[str, Any]:
        address = self._destination.named(volume)
        return {"path": address, "pdfs": papers.count, "size_bytes": papers.size_bytes, "seal": seal}

    # --- volumes that workers write as a whole

    def write_volumes(self, executor: "Executor", jobs: int) -> Iterator[Record]:
        """Write packed volumes, each as a task for one worker."""
        # And that of the volume after them.
        addresses = [self._plan.address(number) for number in range(1, len(self._plan.volumes) + 2)]
        under_way: deque[_VolumeWork] = deque()
        again: deque[_VolumeWork] = deque()
        written: list[_VolumeWork] = []
        with VolumePlaces(self._archive, self._destination, addresses) as places:
            drawn = self._draw_volumes(places)

            def tasks() -> Iterator[VolumeTask]:
                while True:
                    if again:
                        task = self._volume_task(places, again[0], self._entries_of(again[0]))
                        under_way.append(again.popleft())
                    else:
                        try:
                            work, task = next(drawn)
                        except StopIteration:
                            return
                        under_way.append(work)
                    places.begin(task.address)
                    yield task

            more = True
            try:
                while more:
                    for done in map_ordered(executor, run_volume, tasks(), jobs=jobs, stop=self._stop):
                        work = under_way.popleft()
                        if done.is_written:
                            places.settle(addresses[work.planned.number - 1])
                            written.append(work)
                            yield from self._settle_volume(work)
                        elif done.left_out:
                            found = {one.path: self._explained(one.done, one.render_id) for one in done.left_out}
                            work.left_out |= found
                            again.append(work)
                    more = bool(again) and not self._stop()
            finally:
                written.sort(key=lambda work: work.planned.number)
                self._exports = [work.made for work in written]
                self._members = [work.members for work in written]
        if self._options.sync:
            os.sync()

    def _draw_volumes(self, places: VolumePlaces) -> Iterator[tuple[_VolumeWork, VolumeTask]]:
        entries = (entry for _, entry in self._plan.entries())
        for work in map(_VolumeWork, self._plan.volumes):
            yield work, self._volume_task(places, work, islice(entries, work.planned.entries))

    def _entries_of(self, work: _VolumeWork) -> Iterator[PlannedFile]:
        return (entry for _, entry in islice(self._plan.entries(after=work.planned.after), work.planned.entries))

    def _volume_task(self, places: VolumePlaces, work: _VolumeWork, entries: Iterable[PlannedFile]) -> VolumeTask:
        """Make the task and own files of a volume, on the assumption that all PDFs not in `left_out` are good."""
        volume, own = self._plan.volume(work.planned.number), CollectedFiles()
        work.counts, work.has_gaps = Counter(), False
        with self._manifests(volume) as papers:
            for _ in self._report_volume(work, entries, work.counts, papers):  # reported once the volume is written
                work.has_gaps = True
            work.made = self._made(volume, papers, papers.store(own))
            work.members, work.size_bytes = papers.members, papers.size_bytes
        address, store = self._plan.address(work.planned.number), self._archive.store.address
        prefix, kind = self._destination.prefix(address), self._destination.kind
        return VolumeTask(store, kind, address, prefix, own.files, self._options.sync, places.lock)

    def _report_volume(
        self, work: _VolumeWork, entries: Iterable[PlannedFile], counts: Counter[str], papers: Manifests | None
    ) -> Iterator[Record]:
        if work.planned.number == 1:
            yield from self._unknown(counts, papers)
        for batch in in_batches(entries, BATCH):
            done = (work.left_out.get(entry.item.path, _GOOD) for entry in batch if entry.item is not None)
            yield from self._count_batch(batch, done, counts, papers)

    def _settle_volume(self, work: _VolumeWork) -> Iterator[Record]:
        """Count and report a volume that is written."""
        self._run.counts.update(work.counts)
        self._run.bytes_read += work.size_bytes
        if work.has_gaps:
            yield from self._report_volume(work, self._entries_of(work), Counter(), None)
        yield Progress(
            count=work.planned.entries, size_bytes=work.size_bytes, file=self._destination.file_name(work.made["path"])
        )

    # --- PDF by PDF

    def _copy(
        self, target: Target, papers: Manifests, entries: Iterable[PlannedFile], executor: "Executor", jobs: int
    ) -> Iterator[Record]:
        under_way: deque[tuple[Any, list[PlannedFile]]] = deque()
        self._marks = array("Q")

        def tasks() -> Iterator[Any]:
            for batch in in_batches(entries, BATCH, weigh=lambda entry: entry.size_bytes, limit=BATCH_BYTES):
                items = [entry.item for entry in batch if entry.item is not None]
                task = target.task(items, "".join(entry.line for entry in batch))
                if target.has_earlier:
                    self._marks.extend(mark(item.path) for item in items)
                under_way.append((task, batch))
                yield task

        for done in map_ordered(executor, run, tasks(), jobs=jobs, stop=self._stop):
            task, batch = under_way.popleft()
            target.settle(task, done)
            explained = map(self._explained, done, (entry.row.render_id for entry in batch if entry.item is not None))
            size = yield from self._count_batch(batch, explained, self._run.counts, papers)
            self._run.bytes_read += size
            last = batch[-1].item
            yield Progress(count=len(batch), size_bytes=size, file=last.path if last else None)

    def _count_batch(
        self, batch: list[PlannedFile], done: Iterator[Done], counts: Counter[str], papers: Manifests | None
    ) -> Generator[Record, None, int]:
        size, held = 0, []
        counts["selected"] += len(batch)
        for entry in batch:
            one = next(done) if entry.item is not None else None
            if one is not None and entry.item is not None and one.outcome in ("written", "unchanged"):
                counts[one.outcome] += 1
                size += entry.item.size_bytes
                held.append((entry.cells, entry.line, entry.item.modified))
                if entry.row.odd is not None and papers is not None:
                    papers.note_odd(entry.cells, odd_on_arrival(entry.row.odd))
                continue
            lack = (one.outcome, one.detail or "") if one is not None else entry.lack or ("", "")
            accepted = accepted_reason(entry.row, lack[0])
            # A PDF that the store cannot deliver now is not damaged: the export is incomplete.
            gap = gap_of(entry.row, lack[0], "excluded" if one is None or one.outcome == "unavailable" else "failed")
            counts[gap] += 1
            self._to_fetch = self._to_fetch or (gap == "excluded" and entry.lack == NOT_STORED)
            cells = entry.cells
            if papers is not None:
                named = (cells.render_id, cells.project_id, cells.project_slug, cells.asset_key)
                papers.lack((*named, *lack, accepted or ""))
            if gap in ("excluded", "failed"):
                yield _skipped(entry, lack)
        if papers is not None:
            papers.add(held)
        return size

    def _explained(self, one: Done, render_id: str) -> Done:
        """Return the result for a PDF; one that is gone may have been disposed since the export began.

        Raises:
            StoreOfflineError, StoreMismatchError: The whole store is gone.
        """
        if one.outcome != "gone":
            return one
        self._archive.store.check(self._archive.id)
        return Done(*DISPOSED) if self._was_disposed(render_id) else one

    def _was_disposed(self, render_id: str) -> bool:
        """Return whether a render was disposed since this export began, which its catalog snapshot cannot show."""
        now = Catalog(self._catalog.path, read_only=True)
        try:
            return bool(now.disposed([render_id]))
        finally:
            now.close()

    def _settle_earlier(self, target: Target, papers: Manifests) -> Iterator[Record]:
        """Handle files of earlier exports that are not selected now: remove them if asked to, or else keep them listed.

        Files that a person has changed since stay, but are not listed. Files that must not be deleted stay even if they
        are to be pruned; files of disposed renders are reported as long as they stay.
        """
        planned = sorted_marks(self._marks)
        self._marks = array("Q")
        seen: set[int] = set()
        for batch in in_batches(read_cells(target.earlier()), BATCH):
            ids = [cells.render_id for cells in batch]
            refused, disposed = refusals(self._catalog, ids), self._catalog.disposed(ids)
            for cells in batch:
                one = mark(cells.path)
                place = bisect_left(planned, one)
                if one in seen or (place < len(planned) and planned[place] == one):
                    continue
                if not target.holds(cells.path, int(cells.size_bytes), cells.sha256):
                    continue
                seen.add(one)
                if self._options.prune and cells.render_id not in refused:
                    target.remove(cells.path)
                    self._run.counts["pruned"] += 1
                    continue
                papers.add([(cells, csv_line(cells), 0)])
                self._run.counts["kept"] += 1
                if self._options.prune:
                    yield Skipped(cells.render_id, cells.path, f"not pruned, because it is {refused[cells.render_id]}")
                elif cells.render_id in disposed:
                    self._run.counts["kept_disposed"] += 1
                    reason = "disposed, and still in this export: run it again with --prune, or delete the export"
                    yield Skipped(cells.render_id, cells.path, reason)

    def record(self) -> Iterator[Record]:
        """Record in the audit log what was written: its place, its totals and its seal."""
        counts = {name: count for name, count in self._run.counts.items() if name != "excluded"}
        kind = self._destination.kind
        for volume, members in zip(self._exports, self._members, strict=True):
            target = mask_address(volume["path"])
            what = {name: volume[name] for name in ("pdfs", "size_bytes", "seal")}
            elsewhere = self._destination.in_bucket or volume["path"] == STDOUT
            place = target if elsewhere else str(Path(volume["path"]).absolute())
            made = ExportMade(valid_text(place), self._archive.now(), **what)
            # An export to a bucket removes no PDF of an earlier one, and one to standard output may be kept anywhere.
            replaces = kind != "store" and volume["path"] != STDOUT
            keep = partial(_keep_row, made=made, members=members, replaces=replaces)
            what |= {word: True for name, word in _VOUCHED.items() if name in self._vouchers}
            yield from self._archive.record_apart("export", counts, also=keep, target=target, **what)

    def summary(self, *, dry_run: bool, **details: Any) -> Summary:
        """Return the summary."""
        counts = self._run.counts
        counts["not_stored"] = counts["excluded"]
        self._run.settle(
            problems=counts["failed"] > 0,
            incomplete=counts["excluded"] + counts["kept_disposed"] > 0,
            stopped=self._stop(),
        )
        more = {"dry_run": True} if dry_run else {}
        return self._run.summary(exports=self._exports, to_fetch=self._to_fetch, **more, **details)


def _keep_row(catalog: Catalog, *, made: ExportMade, members: "array[int]", replaces: bool) -> None:
    catalog.add_export(made, members, replaces=replaces)


def _skipped(entry: PlannedFile, lack: tuple[str, str] | None) -> Skipped:
    word, detail = lack or ("", "")
    return Skipped(render_id=entry.row.render_id, key=entry.row.key, reason=detail or word)
