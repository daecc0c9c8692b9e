"""What an export contains: which PDFs, under which names, in which volumes, and why others are left out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import ExportRow, Selection
from craftkit_archive.errors import NoSpaceError, RequestError
from craftkit_archive.export import bagit as bag
from craftkit_archive.export.destination import Destination, Options
from craftkit_archive.export.index import IndexRow, Volume, csv_line, index_cells
from craftkit_archive.export.names import NamePlan
from craftkit_archive.export.targets import check_outside
from craftkit_archive.export.workers import ExportItem, modified_at
from craftkit_archive.records import Plan
from craftkit_archive.states import State
from craftkit_archive.stores.address import absolute_address, open_store
from craftkit_archive.values import format_size

# Estimates of the space for headers, tables and pages: for each PDF, and for the whole export.
ENTRY_BYTES = 4096
PAPER_BYTES = 256 << 10
NO_CELLS = IndexRow(*[""] * len(IndexRow._fields))


class PlannedFile(NamedTuple):
    """A selected render. If it has no PDF to export, `item` is None, and `lack` says why, in a word and a sentence."""

    row: ExportRow
    cells: IndexRow
    line: str
    item: ExportItem | None
    lack: tuple[str, str] | None

    @property
    def size_bytes(self) -> int:
        """The size of the PDF; 0 without one."""
        return self.item.size_bytes if self.item is not None else 0


class PlannedVolume:
    """A volume of an export.

    Attributes:
        number: Its number, from 1 on.
        after: The id of the last render before it; empty for the first volume.
        entries: How many renders it covers, including those left out.
    """

    def __init__(self, number: int, after: str) -> None:
        self.number = number
        self.after = after
        self.entries = 0


class ExportPlan:
    """The plan of an export; `make` comes first.

    Attributes:
        volumes: Its volumes; one if it is not split.
        title: The names of its projects, or how many there are.
    """

    def __init__(self, archive: Archive, destination: Destination, selection: Selection, options: Options) -> None:
        self._archive = archive
        self._destination = destination
        self._selection = selection
        self._options = options
        self._names = NamePlan(options.name)
        self.volumes: list[PlannedVolume] = []
        self.title = ""

    def make(self) -> Plan:
        """Plan names, volumes and room: one pass over all renders, before the first byte is written.

        Raises:
            RequestError: Nothing is selected, or something else is at the destination.
            NoSpaceError: There is too little room.
        """
        splitter = _Splitter(self._options.split_bytes)
        count = size = pdfs = 0
        last, volumes = "", [PlannedVolume(1, "")]
        projects: dict[str, str] = {}
        for row in self._archive.catalog.export_rows(self._selection):
            count += 1
            projects.setdefault(row.project_id, row.project_name or row.project_id)
            if _lack_of(row) is None:
                self._names.add(row)
                if splitter.put(row) > volumes[-1].number:
                    volumes.append(PlannedVolume(splitter.number, last))
                pdfs, size = pdfs + 1, size + (row.size_bytes or 0)
            volumes[-1].entries += 1
            last = row.render_id
        if not count:
            raise self._nothing_selected()
        if self._names.must_compare:
            for row in self._archive.catalog.export_rows(self._selection):
                if _lack_of(row) is None:
                    self._names.compare(row)
        self.volumes = volumes
        names = sorted(set(projects.values()))
        self.title = ", ".join(names) if len(names) <= 3 else f"{len(names)} projects"
        # Check that nothing is in the way before anything is written; for a bucket, entering the target checks it.
        if self._destination.store is not None:
            open_store(self._destination.store)  # raises for an address without a bucket
            check_outside(self._archive.store, self._destination.store)
        else:
            for volume in volumes:
                self._destination.open(self._archive, self._options, self.volume(volume.number))
            self._refuse_more_volumes()
        self._need_room(0 if self._options.link else size + pdfs * ENTRY_BYTES + PAPER_BYTES)
        return Plan(count=count, size_bytes=size)

    def _nothing_selected(self) -> RequestError:
        catalog = self._archive.catalog
        if not catalog.has_renders():
            return RequestError("The archive has no renders to export. Run `import renders FILE` first.")
        known = ", ".join(catalog.project_slugs(10)) or "none"
        return RequestError(f"No render is selected. Widen the selection; the archive's projects are {known}.")

    def _refuse_more_volumes(self) -> None:
        """Check that no volume of an earlier export would be taken for a part of this one."""
        if self._options.split_bytes is None:
            return
        following = self._destination.named(self.volume(len(self.volumes) + 1))
        if os.path.lexists(following):
            raise RequestError(
                f"{following} is a volume too many, this export has only {len(self.volumes)}. Remove it and those after"
                " it, or name another place."
            )

    def _need_room(self, needed: int) -> None:
        free = self._destination.room()
        if free is None or needed <= free:
            return
        there = sum(self._present(volume.number) for volume in self.volumes)
        if needed - there > free:
            raise NoSpaceError(
                f"{self._destination.address} needs {format_size(needed - there)} and has {format_size(free)} free."
                " Make room, or narrow the selection."
            )

    def _present(self, number: int) -> int:
        """Return how many bytes of PDFs earlier exports have left in a folder; 0 for other forms."""
        if self._destination.kind != "dir":
            return 0
        folder = Path(self._destination.named(self.volume(number)))
        return sum(file.stat().st_size for file in folder.rglob("*.pdf")) if folder.is_dir() else 0

    def volume(self, number: int) -> Volume | None:
        """Return which part of the export a volume is; None if the export is not split."""
        return Volume(number, len(self.volumes)) if self._options.split_bytes is not None else None

    def address(self, number: int) -> str:
        """Return the address of a volume, for a process with another working directory."""
        return absolute_address(self._destination.named(self.volume(number)))

    def entries(self, *, lined: bool = True, after: str = "") -> Iterator[tuple[int, PlannedFile]]:
        """Yield the renders, each with the number of its volume, counted from 1 at the first one yielded.

        Args:
            lined: Whether their lines of the index are made.
            after: Only renders after the one with this id.
        """
        splitter, prefix = _Splitter(self._options.split_bytes), bag.PAYLOAD if self._destination.bag else ""
        for row in self._archive.catalog.export_rows(self._selection, after=after):
            lack = _lack_of(row)
            if lack is not None:
                yield splitter.number, PlannedFile(row, index_cells(row, ""), "", None, lack)
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
            yield splitter.put(row), PlannedFile(row, cells, csv_line(cells) if lined else "", item, None)


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


# --- why a PDF is left out -------------------------------------------------------------------------------------------

NOT_STORED = ("not-stored", "not stored")
DISPOSED: tuple[Literal["disposed"], str] = ("disposed", "its PDF was disposed")
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


def _lack_of(row: ExportRow) -> tuple[str, str] | None:
    """Return why a render has no PDF to export, as a word and as a sentence; None if it has one."""
    if row.stored and row.sha256 is not None and row.size_bytes is not None:
        return None
    if row.stored:
        return "no-digest", "stored, but with no digest to compare it with"
    if row.disposed:
        return DISPOSED
    if row.status != "succeeded":
        return "not-succeeded", f"its status is {row.status}"
    return NOT_STORED


def accepted_reason(row: ExportRow, lack: str) -> str | None:
    """Return the reason for which a PDF's loss was accepted, if the accepted state is the one that keeps it out."""
    return row.accepted_reason if row.accepted_state is not None and _STATES.get(lack) == row.accepted_state else None


def gap_of(row: ExportRow, lack: str, otherwise: str) -> str:
    """Return the count for a PDF that is left out; disposed ones and accepted losses are counted apart."""
    if lack == "disposed":
        return "disposed"
    return "acknowledged" if accepted_reason(row, lack) else otherwise
