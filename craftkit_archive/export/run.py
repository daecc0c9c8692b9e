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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import ExportRow, Selection
from craftkit_archive.errors import ArchiveError, NoSpaceError, RequestError
from craftkit_archive.export import bagit as bag
from craftkit_archive.export.destination import STDOUT, Destination, Options, read_destination
from craftkit_archive.export.index import IndexRow, Volume, csv_line, index_cells, read_cells
from craftkit_archive.export.manifests import Manifests
from craftkit_archive.export.names import NamePlan, mark
from craftkit_archive.export.reader import SIGNATURE, TIMESTAMP
from craftkit_archive.export.targets import Target, check_outside
from craftkit_archive.export.volumes import CollectedFiles, VolumePlaces, VolumeTask, run_volume
from craftkit_archive.export.workers import Done, ExportItem, modified_at, prove_target, run
from craftkit_archive.parallel.batches import Stop, in_batches, never
from craftkit_archive.parallel.cluster import Cluster, clustered, details_of, workers
from craftkit_archive.parallel.pool import map_ordered, workers_for
from craftkit_archive.pdf.ends import odd_on_arrival
from craftkit_archive.proof.signatures import sign_text
from craftkit_archive.proof.timestamps import fetch_timestamp
from craftkit_archive.records import ExportMade, Plan, Planned, Progress, Record, Skipped, Summary
from craftkit_archive.retention.policy import refusals
from craftkit_archive.states import State
from craftkit_archive.stores.address import absolute_address, open_store, worker_setup
from craftkit_archive.stores.base import mask_address
from craftkit_archive.stores.reach import shown_folder
from craftkit_archive.values import format_size, sorted_marks, valid_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

# The PDFs, or their bytes, of one task. With a million tiny PDFs, the parent is the bottleneck, and each task wakes a
# thread that it then waits for: 256 instead of 64, with two other changes, took a tenth off its time.
BATCH = 256
BATCH_BYTES = 8 << 20
# Estimates of the space for headers, tables and pages: for each PDF, and for the whole export.
ENTRY_BYTES = 4096
PAPER_BYTES = 256 << 10
NO_CELLS = IndexRow(*[""] * len(IndexRow._fields))


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


NOT_STORED = ("not-stored", "not stored")


class _PlannedFile(NamedTuple):
    """A render of an export; if there is no PDF to export, `item` is None and `lack` is the reason (word, sentence)."""

    row: ExportRow
    cells: IndexRow
    line: str
    item: ExportItem | None
    lack: tuple[str, str] | None


class _VolumePlan:
    """A packed volume that a worker writes as a whole.

    Attributes:
        number: Its number, from 1 on.
        after: The id of the last render before it; empty for the first volume.
        entries: How many renders it covers, including those left out.
        left_out: By path, the PDFs that a worker could not copy.
        counts: Its share of the summary's counts.
        has_gaps: Whether a render is left out of it.
        made: Its path, seal and totals.
        members: Its renders, by `member_of`.
        size_bytes: The bytes of its PDFs.
    """

    def __init__(self, number: int, after: str) -> None:
        self.number = number
        self.after = after
        self.entries = 0
        self.left_out: dict[str, Done] = {}
        self.counts: Counter[str] = Counter()
        self.has_gaps = False
        self.made: dict[str, Any] = {}
        self.members = array("Q")
        self.size_bytes = 0


_GOOD = Done("written")


class _Splitter:
    """Fills numbered volumes with PDFs in order, each up to `limit` bytes; None makes one volume."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._filled = PAPER_BYTES
        self.number = 1

    def put(self, row: ExportRow) -> int:
        size = (row.size_bytes or 0) + ENTRY_BYTES
        if self._limit is not None:
            if size + PAPER_BYTES > self._limit:
                what = f"{row.key} alone has {format_size(row.size_bytes or 0)}"
                raise RequestError(f"{what}, more than fits into --split-size. Give a larger one.")
            if self._filled + size > self._limit:
                self.number += 1
                self._filled = PAPER_BYTES
        self._filled += size
        return self.number


class _Export:
    """One export: planned as a whole, then written volume by volume."""

    def __init__(
        self, archive: Archive, destination: Destination, selection: Selection, options: Options, stop: Stop
    ) -> None:
        self._archive, self._catalog = archive, archive.catalog
        self._destination = destination
        self._selection = selection
        self._options = options
        self._vouchers = _vouchers(options)
        self._stop = stop
        self._names = NamePlan(options.name)
        self._run = Run(None, "export")
        self._run.counts.update(dict.fromkeys(("selected", "written", "unchanged", "excluded", "failed"), 0))
        self._plans: list[_VolumePlan] = []
        self._exports: list[dict[str, Any]] = []
        self._members: list[array[int]] = []
        self._projects: dict[str, str] = {}
        self._marks = array("Q")  # hashes of the paths: 8 bytes each, so that memory stays small with millions
        self._to_fetch = False  # whether a fetch would bring more of what is selected

    def plan(self) -> Plan:
        """Plan names, volumes and room: one pass over all renders, before the first byte is written.

        Raises:
            RequestError: Nothing is selected, or something else is at the destination.
            NoSpaceError: There is too little room.
        """
        splitter = _Splitter(self._options.split_bytes)
        count = size = pdfs = 0
        last, plans = "", [_VolumePlan(1, "")]
        for row in self._catalog.export_rows(self._selection):
            count += 1
            self._projects.setdefault(row.project_id, row.project_name or row.project_id)
            if _lack(row) is None:
                self._names.add(row)
                if splitter.put(row) > plans[-1].number:
                    plans.append(_VolumePlan(splitter.number, last))
                pdfs, size = pdfs + 1, size + (row.size_bytes or 0)
            plans[-1].entries += 1
            last = row.render_id
        if not count:
            if not self._catalog.has_renders():
                raise RequestError("The archive has no renders to export. Run `import renders FILE` first.")
            known = ", ".join(self._catalog.project_slugs(10)) or "none"
            raise RequestError(f"No render is selected. Widen the selection; the archive's projects are {known}.")
        self._plans, self._volumes = plans, splitter.number
        # Check that nothing is in the way before anything is written; for a bucket, entering the target checks it.
        if self._destination.store is not None:
            open_store(self._destination.store)  # raises for an address without a bucket
            check_outside(self._archive.store, self._destination.store)
        else:
            for number in range(1, self._volumes + 1):
                self._destination.open(self._archive, self._options, self._volume(number))
            self._refuse_more_volumes()
        self._need_room(0 if self._options.link else size + pdfs * ENTRY_BYTES + PAPER_BYTES)
        return Plan(count=count, size_bytes=size)

    def _refuse_more_volumes(self) -> None:
        """Check that no volume of an earlier export would be taken for a part of this one."""
        if self._options.split_bytes is None:
            return
        following = self._destination.named(Volume(self._volumes + 1, self._volumes + 1))
        if os.path.lexists(following):
            raise RequestError(
                f"{following} is a volume too many, this export has only {self._volumes}. Remove it and those after it,"
                " or name another place."
            )

    def _need_room(self, needed: int) -> None:
        free = self._destination.room()
        if free is None or needed <= free:
            return
        there = sum(self._present(number) for number in range(1, self._volumes + 1))
        if needed - there > free:
            raise NoSpaceError(
                f"{self._destination.address} needs {format_size(needed - there)} and has {format_size(free)} free."
                " Make room, or narrow the selection."
            )

    def _present(self, number: int) -> int:
        """Return how many bytes of PDFs earlier exports have left in a folder; 0 for other forms."""
        if self._destination.kind != "dir":
            return 0
        folder = Path(self._destination.named(self._volume(number)))
        return sum(file.stat().st_size for file in folder.rglob("*.pdf")) if folder.is_dir() else 0

    def _volume(self, number: int) -> Volume | None:
        return Volume(number, self._volumes) if self._options.split_bytes is not None else None

    def _entries(self, *, lined: bool = True, after: str = "") -> Iterator[tuple[int, _PlannedFile]]:
        """Yield the renders, each with the number of its volume, counted from 1 at the first one yielded.

        Args:
            lined: Whether their lines of the index are made.
            after: Only renders after the one with this id.
        """
        splitter, prefix = _Splitter(self._options.split_bytes), bag.PAYLOAD if self._destination.bag else ""
        for row in self._catalog.export_rows(self._selection, after=after):
            lack = _lack(row)
            if lack is not None:
                yield splitter.number, _PlannedFile(row, index_cells(row, ""), "", None, lack)
                continue
            path = prefix + self._names.path(row)
            item = ExportItem(
                row.key,
                row.sha256 or "",
                row.size_bytes or 0,
                path,
                modified_at(row.completed_at, row.created_at) if lined else 0,
            )
            cells = index_cells(row, path) if lined else NO_CELLS
            yield splitter.put(row), _PlannedFile(row, cells, csv_line(cells) if lined else "", item, None)

    def foresee(self) -> Iterator[Record]:
        """Report what would be written."""
        counts = self._run.counts
        yield from self._unknown(counts)
        seen, size = 0, 0
        for number, entry in self._entries(lined=False):
            counts["selected"] += 1
            if entry.item is None:
                gap = _gap(entry.row, (entry.lack or ("",))[0], "excluded")
                counts[gap] += 1
                if gap == "excluded":
                    self._to_fetch = self._to_fetch or entry.lack == NOT_STORED
                    yield _skipped(entry, entry.lack)
            else:
                counts["written"] += 1
                volume = self._volume(number)
                path = entry.item.path if volume is None else f"{self._destination.named(volume)}/{entry.item.path}"
                yield Planned(render_id=entry.row.render_id, path=path, size_bytes=entry.item.size_bytes)
            seen, size = seen + 1, size + (entry.item.size_bytes if entry.item else 0)
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
        for number, numbered in groupby(self._entries(), key=lambda pair: pair[0]):
            if self._stop():
                return
            yield from self._write_volume(number, (entry for _, entry in numbered), executor, jobs)
        if self._options.sync:
            os.sync()

    def _write_volume(
        self, number: int, entries: Iterable[_PlannedFile], executor: "Executor", jobs: int
    ) -> Iterator[Record]:
        volume = self._volume(number)
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
            title=self._title(),
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
        addresses = [
            absolute_address(self._destination.named(Volume(number, self._volumes)))
            for number in range(1, self._volumes + 2)  # and the one after them
        ]
        under_way: deque[_VolumePlan] = deque()
        again: deque[_VolumePlan] = deque()
        written: list[_VolumePlan] = []
        with VolumePlaces(self._archive, self._destination, addresses) as places:
            drawn = self._draw_volumes(places)

            def tasks() -> Iterator[VolumeTask]:
                while True:
                    if again:
                        task = self._volume_task(places, again[0], self._entries_of(again[0]))
                        under_way.append(again.popleft())
                    else:
                        try:
                            plan, task = next(drawn)
                        except StopIteration:
                            return
                        under_way.append(plan)
                    places.begin(task.address)
                    yield task

            more = True
            try:
                while more:
                    for done in map_ordered(executor, run_volume, tasks(), jobs=jobs, stop=self._stop):
                        plan = under_way.popleft()
                        if done.is_written:
                            places.settle(addresses[plan.number - 1])
                            written.append(plan)
                            yield from self._settle_volume(plan)
                        elif done.left_out:
                            found = {one.path: self._explained(one.done, one.render_id) for one in done.left_out}
                            plan.left_out |= found
                            again.append(plan)
                    more = bool(again) and not self._stop()
            finally:
                written.sort(key=lambda plan: plan.number)
                self._exports = [plan.made for plan in written]
                self._members = [plan.members for plan in written]
        if self._options.sync:
            os.sync()

    def _draw_volumes(self, places: VolumePlaces) -> Iterator[tuple[_VolumePlan, VolumeTask]]:
        entries = (entry for _, entry in self._entries())
        for plan in self._plans:
            yield plan, self._volume_task(places, plan, islice(entries, plan.entries))

    def _entries_of(self, plan: _VolumePlan) -> Iterator[_PlannedFile]:
        return (entry for _, entry in islice(self._entries(after=plan.after), plan.entries))

    def _volume_task(self, places: VolumePlaces, plan: _VolumePlan, entries: Iterable[_PlannedFile]) -> VolumeTask:
        """Make the task and own files of a volume, on the assumption that all PDFs not in `left_out` are good."""
        volume, own = self._volume(plan.number), CollectedFiles()
        plan.counts, plan.has_gaps = Counter(), False
        with self._manifests(volume) as papers:
            for _ in self._report_volume(plan, entries, plan.counts, papers):  # reported once the volume is written
                plan.has_gaps = True
            plan.made = self._made(volume, papers, papers.store(own))
            plan.members, plan.size_bytes = papers.members, papers.size_bytes
        address, store = absolute_address(self._destination.named(volume)), self._archive.store.address
        prefix, kind = self._destination.prefix(address), self._destination.kind
        return VolumeTask(store, kind, address, prefix, own.files, self._options.sync, places.lock)

    def _report_volume(
        self, plan: _VolumePlan, entries: Iterable[_PlannedFile], counts: Counter[str], papers: Manifests | None
    ) -> Iterator[Record]:
        if plan.number == 1:
            yield from self._unknown(counts, papers)
        for batch in in_batches(entries, BATCH):
            done = (plan.left_out.get(entry.item.path, _GOOD) for entry in batch if entry.item is not None)
            yield from self._count_batch(batch, done, counts, papers)

    def _settle_volume(self, plan: _VolumePlan) -> Iterator[Record]:
        """Count and report a volume that is written."""
        self._run.counts.update(plan.counts)
        self._run.bytes_read += plan.size_bytes
        if plan.has_gaps:
            yield from self._report_volume(plan, self._entries_of(plan), Counter(), None)
        yield Progress(
            count=plan.entries, size_bytes=plan.size_bytes, file=self._destination.file_name(plan.made["path"])
        )

    # --- PDF by PDF

    def _copy(
        self, target: Target, papers: Manifests, entries: Iterable[_PlannedFile], executor: "Executor", jobs: int
    ) -> Iterator[Record]:
        under_way: deque[tuple[Any, list[_PlannedFile]]] = deque()
        self._marks = array("Q")

        def tasks() -> Iterator[Any]:
            for batch in in_batches(entries, BATCH, weigh=_entry_bytes, limit=BATCH_BYTES):
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
        self, batch: list[_PlannedFile], done: Iterator[Done], counts: Counter[str], papers: Manifests | None
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
            accepted = _accepted_reason(entry.row, lack[0])
            # A PDF that the store cannot deliver now is not damaged: the export is incomplete.
            gap = _gap(entry.row, lack[0], "excluded" if one is None or one.outcome == "unavailable" else "failed")
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
        return Done(*_DISPOSED) if self._was_disposed(render_id) else one

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

    def _title(self) -> str:
        names = sorted(set(self._projects.values()))
        return ", ".join(names) if len(names) <= 3 else f"{len(names)} projects"

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


_DISPOSED: tuple[Literal["disposed"], str] = ("disposed", "its PDF was disposed")


def _lack(row: ExportRow) -> tuple[str, str] | None:
    """Return why a render has no PDF to export, as a word and as a sentence; None if it has one."""
    if row.stored and row.sha256 is not None and row.size_bytes is not None:
        return None
    if row.stored:
        return "no-digest", "stored, but with no digest to compare it with"
    if row.disposed:
        return _DISPOSED
    if row.status != "succeeded":
        return "not-succeeded", f"its status is {row.status}"
    return NOT_STORED


# The state of a PDF for each reason to leave it out. Reasons without a state, such as a name that the folder refuses,
# cannot be accepted.
_STATES: dict[str, State] = {
    "not-stored": "not-stored",
    "no-digest": "unverified",
    "damaged": "damaged",
    "gone": "damaged",
    "unreadable": "unreadable",
    "unavailable": "unreadable",
}


def _accepted_reason(row: ExportRow, lack: str) -> str | None:
    """Return the reason for which a PDF's loss was accepted, if the accepted state is the one that keeps it out."""
    return row.accepted_reason if row.accepted_state is not None and _STATES.get(lack) == row.accepted_state else None


def _gap(row: ExportRow, lack: str, otherwise: str) -> str:
    """Return the count for a PDF that is left out; disposed ones and accepted losses are counted apart."""
    if lack == "disposed":
        return "disposed"
    return "acknowledged" if _accepted_reason(row, lack) else otherwise


def _skipped(entry: _PlannedFile, lack: tuple[str, str] | None) -> Skipped:
    word, detail = lack or ("", "")
    return Skipped(render_id=entry.row.render_id, key=entry.row.key, reason=detail or word)


def _entry_bytes(entry: _PlannedFile) -> int:
    return entry.item.size_bytes if entry.item is not None else 0
