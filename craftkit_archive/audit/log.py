"""Lists and verifies the audit log."""

import fcntl
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from craftkit_archive.archive import Archive, Run, read_time
from craftkit_archive.audit.access import check_access_logs
from craftkit_archive.errors import CatalogDamagedError, RequestError
from craftkit_archive.proof.audit_file import read_lines
from craftkit_archive.proof.chain import Fault, compare_logs
from craftkit_archive.proof.events import ACCESS_LOG, Event, Head, read_event
from craftkit_archive.records import AuditEvent, AuditFault, Note, Progress, Record, Summary

# How long `audit verify` waits for a writer that has committed its row and not yet written its line.
WRITER_SECONDS = 2.0
PROGRESS_EVENTS = 10_000
_HEAD = re.compile(r"(?:(\d{1,16})[\s:]+)?([0-9a-f]{64})")
_BLOCK_BYTES = 1 << 20


def list_events(archive: Archive, *, since: str | None = None, merge: bool = False) -> Iterator[Record]:
    """List the audit log.

    Args:
        archive: May be open read-only.
        since: Only events from this time on; a date means its beginning, in UTC.
        merge: Whether to merge consecutive events of one run into one, with the sums of their counts.

    Yields:
        `AuditEvent`, in the order of their numbers; at last the `Summary` with the count of events.

    Raises:
        RequestError: The time is not valid.
        CatalogDamagedError: A row is no longer a valid event.

    Example:
        >>> from craftkit_archive import Archive, list_events
        >>> with Archive("archive", read_only=True) as archive:
        ...     first, *_ = list_events(archive)
        >>> first.number, first.what
        (1, 'init')
    """
    run = Run(None, "audit log")
    run.counts["events"] = 0
    pending: AuditEvent | None = None
    try:
        for event in archive.catalog.events(read_time(since) or ""):
            run.counts["events"] += 1
            info = AuditEvent(**msgspec.structs.asdict(event))
            if pending is not None and merge and _is_same_run(pending, info):
                pending = _merged_events(pending, info)
                continue
            if pending is not None:
                yield pending
            pending = info
    except ValueError as error:
        raise CatalogDamagedError(f"A row of the audit log was changed ({error}): run `audit verify`.") from error
    if pending is not None:
        yield pending
    yield run.summary()


def _is_same_run(one: AuditEvent, other: AuditEvent) -> bool:
    same = (one.what, one.who) == (other.what, other.who) and one.details == other.details
    return same and one.details.get("run") is not None


def _merged_events(one: AuditEvent, other: AuditEvent) -> AuditEvent:
    counts = dict(Counter(one.counts) + Counter(other.counts))
    return msgspec.structs.replace(one, counts=counts, last=other.number, hash=other.hash)


def read_head(archive: Archive) -> Summary:
    """Return the number and hash of the last event, as details of a `Summary`, to be kept on paper or elsewhere.

    Raises:
        RequestError: The log is still empty.
    """
    head = archive.catalog.audit_head()
    if not head.number:
        raise RequestError("The audit log has no events yet: it begins with the next command that changes something.")
    run = Run(None, "audit head")
    run.counts["events"] = head.number
    return run.summary(number=head.number, hash=head.hash)


def verify_log(archive: Archive, *, head: str | None = None, access_logs: str | Path | None = None) -> Iterator[Record]:
    """Verify that the audit log is as it was written, in the file and in the table.

    Each event must match its hash, continue the event before, and be the same in both places.

    Args:
        archive: May be open read-only.
        head: A head that was noted earlier, as `audit head` prints it, or its hash alone: it must still be in the log.
            A fork before that event is only noted, because whoever noted the head could see it.
        access_logs: A folder in which every recorded access log must be found unchanged.

    Yields:
        An `AuditFault` for each event, or range of events, that is not as it was written; `Note`; `Progress`; at last
        the `Summary`, which is `problems` if there are faults, and `incomplete` if the file merely ends early, as after
        a kill. Its details have the head.

    Raises:
        RequestError: The head is not valid, or a file cannot be read.

    Example:
        >>> from craftkit_archive import Archive, verify_log
        >>> with Archive("archive", read_only=True) as archive:
        ...     noted = archive.catalog.audit_head()
        ...     *_, summary = verify_log(archive, head=noted.hash)
        >>> summary.outcome, summary.counts["faults"]
        ('ok', 0)
    """
    wanted = _parse_head(head)
    run = Run(None, "audit verify")
    run.counts.update({"events": 0, "faults": 0})
    logs: dict[str, Event] = {}
    forks: list[Fault] = []
    seen_at = None
    with ExitStack() as stack:
        lines, last = _settled(archive, stack)
        rows = archive.catalog.event_lines(until=last)
        for found in compare_logs(lines, rows, last=last, flushed=archive.catalog.flushed_events()):
            if isinstance(found, Event):
                run.counts["events"] += 1
                if wanted is not None and found.hash == wanted.hash and wanted.number in (0, found.number):
                    seen_at = found.number
                if found.what == ACCESS_LOG and access_logs is not None:
                    logs[str(found.details.get("sha256"))] = found
                if run.counts["events"] % PROGRESS_EVENTS == 0:
                    yield Progress(count=PROGRESS_EVENTS)
            elif found.problem == "forked":
                forks.append(found)
            else:
                yield _count_fault(run, found)
    yield from _judge_forks(archive, run, forks, seen_at)
    if wanted is not None and seen_at is None:
        detail = f"No event has the hash {wanted.hash}: the log was cut or rewritten since that head was noted."
        yield _count_fault(run, Fault("both", "head", wanted.number, wanted.number, detail))
    if access_logs is not None:
        for one in check_access_logs(archive, run, logs, Path(access_logs)):
            yield _count_fault(run, one) if isinstance(one, Fault) else one
    run.settle(problems=run.counts["faults"] > 0, incomplete=run.counts["behind"] > 0)
    yield run.summary(**archive.catalog.audit_head()._asdict())


def _parse_head(head: str | None) -> Head | None:
    if head is None:
        return None
    found = _HEAD.fullmatch(head.strip().lower())
    if found is None:
        raise RequestError(f"{head!r} is not a head: give the 64 hex digits that `audit head` printed.")
    return Head(int(found[1] or 0), found[2])


def _count_fault(run: Run, fault: Fault) -> AuditFault:
    run.counts["behind" if fault.problem == "behind" else "faults"] += 1
    return AuditFault(*fault)


def _judge_forks(archive: Archive, run: Run, forks: list[Fault], seen_at: int | None) -> Iterator[Record]:
    for fork in forks:
        if seen_at is not None and fork.number <= seen_at:
            run.counts["notes"] += 1
            yield Note(0, None, "audit.ndjson", f"{fork.detail} The head that you gave is later.", archive.now())
        else:
            yield _count_fault(run, fork)


def _settled(archive: Archive, stack: ExitStack) -> tuple[Iterator[bytes], int]:
    """Return the lines of the file and the last number of the table, at a moment when the two agree.

    A writer commits the row before it writes the line, and is waited for.
    """
    path = archive.catalog.audit_file.path
    try:
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return iter(()), archive.catalog.audit_head().number
    except OSError as error:
        raise RequestError(f"Cannot read {path} ({error.strerror}). Fix that, then run the command again.") from error
    deadline = time.monotonic() + WRITER_SECONDS
    # Whatever is committed now will soon be in the file. Events that others add after that are left out.
    head = archive.catalog.audit_head().number
    while True:
        fcntl.flock(file, fcntl.LOCK_SH)
        size = file.seek(0, os.SEEK_END)
        last = _last_number(file, size)
        fcntl.flock(file, fcntl.LOCK_UN)
        if last is None or last >= head or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    file.seek(0)
    now = archive.catalog.audit_head().number
    return read_lines(file, size), now if last is None else max(head, min(last, now))


def _last_number(file: BinaryIO, size: int) -> int | None:
    """Return the event number on the last complete line: 0 if no line is complete, None if it is not an event."""
    file.seek(max(0, size - _BLOCK_BYTES))
    line = file.read(_BLOCK_BYTES).rpartition(b"\n")[0].rpartition(b"\n")[2]
    try:
        return read_event(line + b"\n").number if line else 0
    except ValueError:
        return None
