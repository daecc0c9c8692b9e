"""Reconciles the audit log's table and file when a catalog is opened for writing and the two end differently.

An event has a row in the table and a line in the file, and no disk writes both at once. The row is committed first,
with the change itself; the line follows. After a kill, the file may therefore lack its last lines, which the next
command appends. If the file continues past the end of the table, an older catalog was restored: its later events are
copied into the table, holds and retention rules among them take effect again, and renders that they disposed are
disposed again. If each has events that the other does not, the histories have forked: the file is renamed and kept as
evidence, and a new one is written from the table. Only the holds of the renamed file take effect, because a hold never
deletes anything. Whatever a kill cannot explain is recorded as an event itself.

The table of tombstones has a file too. A render that either of the two names is disposed.
"""

from collections.abc import Iterator
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.retention import REPLAYED
from craftkit_archive.errors import disk_errors
from craftkit_archive.proof.audit_file import read_lines
from craftkit_archive.proof.events import (
    CATALOG_RESTORED,
    DISPOSED_AGAIN,
    FILE_RESTORED,
    FORKED,
    Event,
    Head,
    read_event,
)

DISPOSED = "dispose"  # what the event of a disposal is called
HOLDS = frozenset({"hold place", "hold keep", "hold release"})


class _PartedError(Exception):
    """The file and the table do not share one history."""


class _Tail(NamedTuple):
    """The end of the file.

    Attributes:
        line: Its last complete line.
        torn: What follows it, left by a write that broke off.
        event: The line as an event; None if it is not a valid one.
    """

    line: bytes
    torn: bytes
    event: Event | None

    @property
    def head(self) -> Head:
        return self.event.head if self.event else Head()


def catch_up(catalog: Catalog, *, who: str, time: str) -> list[str]:
    """Bring a catalog and the files beside it to the same state, and return notices for the user.

    Args:
        catalog: Open for writing, outside of a transaction.
        who: Who gave the command.
        time: Now, in UTC.

    Raises:
        NoSpaceError, NotWritableError: The disk refused.
    """
    notices = _catch_up_events(catalog, who=who, time=time)

    def note(count: int) -> None:
        catalog.record_event(DISPOSED_AGAIN, who=who, time=time, counts={"renders": count})

    struck = catalog.follow_disposed(note)
    if struck:
        notices.append(
            f"The catalog is older than {catalog.disposed_file.path.name}: {struck:,} renders that it did not know to"
            " be disposed are disposed again. If their PDFs were put back too, the next `dispose` deletes them."
        )
    return notices


def _catch_up_events(catalog: Catalog, *, who: str, time: str) -> list[str]:
    file = catalog.audit_file
    with file.locked():
        tail = _read_tail(catalog)
        # Read after the file: a writer commits the row before the line, so the table is never behind.
        head, flushed = catalog.audit_head(), catalog.flushed_events()
        lost = min(flushed, head.number) - tail.head.number
        is_of_table = _is_of_table(catalog, tail, head)
        if is_of_table and lost <= 0:
            with disk_errors(file.path):
                file.write(tail.head.number, catalog.event_lines(tail.head.number), torn=tail.torn)
                if head.number > flushed:
                    file.flush()
            return []
    if not is_of_table:
        return _rejoin(catalog, tail, head, who=who, time=time)
    # Committing the event also writes the missing lines, so a kill cannot leave the file restored and unrecorded.
    with catalog.transaction():
        catalog.record_event(FILE_RESTORED, who=who, time=time, counts={"lines": lost})
    return [
        f"{file.path} had lost its last {lost:,} lines: they were written again from the catalog, and the log says so."
    ]


def take_later_events(catalog: Catalog, *, who: str, time: str) -> int:
    """Copy the events that only the file has into a catalog that has not been moved into place (`Catalog.apart`).

    The file is only read: events recorded here reach it when the catalog is in place and opened. A file with a forked
    history is left to `catch_up` as well.

    Args:
        catalog: Open for writing, outside of a transaction.
        who: Who gave the command.
        time: Now, in UTC.

    Returns:
        How many events there were.
    """
    path, head = catalog.audit_file.path, catalog.audit_head()
    if not path.exists():
        return 0
    try:
        with catalog.transaction():
            _take_events(path, catalog, head)
            file_head = catalog.audit_head()
            count = file_head.number - head.number
            if count:
                heads = {"file_head": file_head._asdict(), "table_head": head._asdict()}
                catalog.record_event(CATALOG_RESTORED, who=who, time=time, counts={"events": count}, details=heads)
    except _PartedError:
        return 0
    return count


def _read_tail(catalog: Catalog) -> _Tail:
    line, torn = catalog.audit_file.tail()
    try:
        return _Tail(line, torn, read_event(line) if line else None)
    except ValueError:
        return _Tail(line, torn, None)


def _is_of_table(catalog: Catalog, tail: _Tail, head: Head) -> bool:
    """Return whether the table has the file's last line, so that only later lines can be missing."""
    if tail.event is None:
        return not tail.line
    return tail.event.number <= head.number and catalog.event_line(tail.event.number) == tail.line


def _rejoin(catalog: Catalog, tail: _Tail, head: Head, *, who: str, time: str) -> list[str]:
    heads = {"file_head": tail.head._asdict(), "table_head": head._asdict()}
    path = catalog.audit_file.path
    try:
        with catalog.transaction():
            if catalog.audit_head() != head:
                return []  # another command has done it
            disposed = _take_events(path, catalog, head)
            counts = {"events": catalog.audit_head().number - head.number, "disposed": disposed}
            catalog.record_event(CATALOG_RESTORED, who=who, time=time, counts=counts, details=heads)
    except _PartedError:
        return [_part(catalog, heads, who=who, time=time)]
    return [
        f"The catalog is older than {path.name}: {counts['events']:,} events that it did not know were taken from the"
        " file. Holds and retention rules among them are in force again; import and fetch again what else they name."
    ]


def _take_events(path: Path, catalog: Catalog, head: Head) -> int:
    """Copy the file's events after the table's last one, and apply their holds, retention rules and disposals.

    Returns:
        The number of disposed renders that not even the file of tombstones names.
    """
    replayed: list[Event] = []
    disposals: list[int] = []
    catalog.add_events(_noting(_later_events(path, catalog, head), replayed, disposals))
    for event in replayed:
        catalog.replay(event)
    # Only the numbers are kept, and the events read again one by one: each names its renders, which may be a million.
    lines = map(catalog.event_line, disposals)
    return catalog.strike_logged(read_event(line) for line in lines if line is not None)


def _noting(events: Iterator[Event], replayed: list[Event], disposals: list[int]) -> Iterator[Event]:
    """Pass events on; collect those to replay, and the numbers of those that disposed something."""
    for event in events:
        if event.what in REPLAYED:
            replayed.append(event)
        elif event.what == DISPOSED:
            disposals.append(event.number)
        yield event


def _later_events(path: Path, catalog: Catalog, head: Head) -> Iterator[Event]:
    """Yield the events of the file that follow the table's last one.

    Raises:
        _PartedError: The file does not have the table's last event, or is not in order after it.
    """
    after = head.number
    known = catalog.event_line(head.number) if head.number else None
    found = known is None
    with disk_errors(path), path.open("rb") as file:
        for line in read_lines(file):
            if not found:
                found = line == known
                continue
            if not line.endswith(b"\n"):
                return  # a write was cut short
            try:
                event = read_event(line)
            except ValueError as error:
                raise _PartedError from error
            if event.number != after + 1:
                raise _PartedError
            after += 1
            yield event
    if not found:
        raise _PartedError


def _part(catalog: Catalog, heads: dict[str, dict[str, object]], *, who: str, time: str) -> str:
    file = catalog.audit_file
    number = 1 + sum(1 for _ in file.path.parent.glob(f"{file.path.name}.parted-*[0-9]"))
    kept = file.path.with_name(f"{file.path.name}.parted-{number}")
    with disk_errors(file.path):
        with file.path.open("rb") as parted:
            digest = file_digest(parted, "sha256").hexdigest()
        # Renamed before the event is recorded: after a kill in between, the missing file is written from the table.
        file.path.rename(kept)
    with catalog.transaction():
        _keep_holds(kept, catalog)
        catalog.record_event(FORKED, who=who, time=time, details={**heads, "kept": kept.name, "sha256": digest})
    return (
        f"{file.path.name} and the catalog do not tell the same history: the file is kept as {kept.name}, and a new one"
        " was written from the catalog. Holds that only the file has are in force. Run `craftkit-archive audit verify`,"
        " and keep both until you know why."
    )


def _keep_holds(path: Path, catalog: Catalog) -> None:
    """Apply the holds that only a forked file has; a hold that this catalog knows is not released by that file."""
    known = {hold.name for hold in catalog.hold_terms()}
    with disk_errors(path), path.open("rb") as file:
        for line in read_lines(file):
            with suppress(ValueError):
                event = read_event(line)
                if event.what in HOLDS and (event.what != "hold release" or event.details.get("name") not in known):
                    catalog.replay(event)
