"""Auditing: the audit log shown and proved, and the server's access logs bound to it."""

import bz2
import fcntl
import gzip
import lzma
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import msgspec

from craftkit_archive.archive import Archive, Run, read_time
from craftkit_archive.audit.chain import Fault, compare_logs
from craftkit_archive.audit.events import Event, Head, read_event
from craftkit_archive.audit.file import read_lines
from craftkit_archive.errors import CatalogDamagedError, RequestError
from craftkit_archive.records import AuditEvent, AuditFault, Note, Progress, Record, Summary
from craftkit_archive.values import format_time, timestamp

ACCESS_LOG = "audit access-log"
# How long `audit verify` waits for a writer that is between its row and its line.
WRITER_SECONDS = 2.0
PROGRESS_EVENTS = 10_000
_HEAD = re.compile(r"(?:(\d{1,16})[\s:]+)?([0-9a-f]{64})")
_BLOCK_BYTES = 1 << 20


def list_events(archive: Archive, *, since: str | None = None, merge: bool = False) -> Iterator[Record]:
    """Show the audit log.

    Args:
        archive: May be open read-only.
        since: Only events from this time on; a date is its beginning, in UTC.
        merge: Whether the batches of one run, which follow each other, become one event with the sums of their counts.

    Yields:
        `AuditEvent`, in the order of their numbers; at last the `Summary` with the count of events.

    Raises:
        RequestError: The time is not valid.
        CatalogDamagedError: A row is no event any more.
    """
    run = Run(None, "audit log")
    run.counts["events"] = 0
    pending: AuditEvent | None = None
    try:
        for event in archive.catalog.events(read_time(since) or ""):
            run.counts["events"] += 1
            info = AuditEvent(**msgspec.structs.asdict(event))
            if pending is not None and merge and _is_same_run(pending, info):
                pending = _merged(pending, info)
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


def _merged(one: AuditEvent, other: AuditEvent) -> AuditEvent:
    counts = dict(Counter(one.counts) + Counter(other.counts))
    return msgspec.structs.replace(one, counts=counts, last=other.number, hash=other.hash)


def read_head(archive: Archive) -> Summary:
    """Return, as the details of a `Summary`, number and hash of the last event: to be kept on paper or elsewhere.

    Raises:
        RequestError: There is no event yet.
    """
    head = archive.catalog.audit_head()
    if not head.number:
        raise RequestError("The audit log has no events yet: it begins with the next command that changes something.")
    run = Run(None, "audit head")
    run.counts["events"] = head.number
    return run.summary(number=head.number, hash=head.hash)


def verify_log(archive: Archive, *, head: str | None = None, access_logs: Path | None = None) -> Iterator[Record]:
    """Prove that the audit log is as it was written, in the file and in the table.

    Each line must be what was hashed, continue the one before, and be the same in both places.

    Args:
        archive: May be open read-only.
        head: A head that was written down, as `audit head` prints it, or its hash alone: it must still be in the log.
            A fork before it was known to whoever wrote it down, and counts as a note.
        access_logs: A folder in which every access log that was recorded must be found whole.

    Yields:
        `AuditFault` for each event, or range of events, that is not as it was; `Note`; `Progress`; at last the
        `Summary`, which is `problems` if there are faults, and `incomplete` if the file merely ends early, as after a
        kill. Its details have the head.

    Raises:
        RequestError: The head is not one, or a file cannot be read.
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
                yield _counted(run, found)
    yield from _judge_forks(archive, run, forks, seen_at)
    if wanted is not None and seen_at is None:
        detail = f"No event has the hash {wanted.hash}: the log was cut or written anew since that head was noted."
        yield _counted(run, Fault("both", "head", wanted.number, wanted.number, detail))
    if access_logs is not None:
        yield from _check_access_logs(archive, run, logs, access_logs)
    run.settle(problems=run.counts["faults"] > 0, incomplete=run.counts["behind"] > 0)
    yield run.summary(**archive.catalog.audit_head()._asdict())


def _parse_head(head: str | None) -> Head | None:
    if head is None:
        return None
    found = _HEAD.fullmatch(head.strip().lower())
    if found is None:
        raise RequestError(f"{head!r} is not a head: give the 64 hex digits that `audit head` printed.")
    return Head(int(found[1] or 0), found[2])


def _counted(run: Run, fault: Fault) -> AuditFault:
    run.counts["behind" if fault.problem == "behind" else "faults"] += 1
    return AuditFault(*fault)


def _judge_forks(archive: Archive, run: Run, forks: list[Fault], seen_at: int | None) -> Iterator[Record]:
    for fork in forks:
        if seen_at is not None and fork.number <= seen_at:
            run.counts["notes"] += 1
            yield Note(0, None, "audit.ndjson", f"{fork.detail} The head that you gave is later.", archive.now())
        else:
            yield _counted(run, fork)


def _settled(archive: Archive, stack: ExitStack) -> tuple[Iterator[bytes], int]:
    """Return the lines of the file, and the last number of the table, at a moment when no writer is between the two."""
    path = archive.catalog.audit_file.path
    try:
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return iter(()), archive.catalog.audit_head().number
    except OSError as error:
        raise RequestError(f"Cannot read {path} ({error.strerror}). Fix that, then run the command again.") from error
    deadline = time.monotonic() + WRITER_SECONDS
    while True:
        fcntl.flock(file, fcntl.LOCK_SH)
        size = file.seek(0, 2)
        last_line = _last_line(file, size)
        fcntl.flock(file, fcntl.LOCK_UN)
        head = archive.catalog.audit_head()
        try:
            is_behind = (read_event(last_line).number if last_line else 0) < head.number
        except ValueError:
            is_behind = False
        if not is_behind or time.monotonic() > deadline:
            file.seek(0)
            return read_lines(file, size), head.number
        time.sleep(0.05)


def _last_line(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - _BLOCK_BYTES))
    return file.read(_BLOCK_BYTES).rstrip(b"\n").rpartition(b"\n")[2] + b"\n" if size else b""


# --- access logs -----------------------------------------------------------------------------------------------------


class _Content(NamedTuple):
    """What a finished access log holds: its digest, and how many lines from when to when."""

    sha256: str
    lines: int
    first: str | None
    last: str | None


_COMBINED = re.compile(rb"\[(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\]")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def record_access_log(
    archive: Archive, path: Path, *, settle_seconds: float = 2.0, patience_seconds: float = 60.0
) -> Iterator[Record]:
    """Bind a finished access log to the audit log: its digest, its first and last time, and its number of lines.

    Args:
        archive: Open for writing.
        path: The log, after it was moved away and the server has opened a new one; also compressed.
        settle_seconds: For how long nobody may have written to it.
        patience_seconds: How long that is waited for.

    Yields:
        The `Summary` with the count of lines; `unchanged` is 1 if this log was recorded before.

    Raises:
        RequestError: The file cannot be read, or is still written to.
    """
    run = Run(None, ACCESS_LOG)
    _wait_until_still(path, settle_seconds, patience_seconds)
    content = _read_log(path)
    run.counts["lines"] = content.lines
    if content.lines:
        with archive.catalog.transaction():
            if archive.catalog.has_event(ACCESS_LOG, content.sha256):
                run.counts["unchanged"] = 1
            else:
                details = {name: value for name, value in content._asdict().items() if name != "lines"}
                archive.record_event(ACCESS_LOG, {"lines": content.lines}, file=path.name, **details)
    yield run.summary(file=str(path), **content._asdict())


def _wait_until_still(path: Path, settle_seconds: float, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while True:
        before = _state(path)
        idle = time.time() - before[1]
        if idle >= settle_seconds:
            return
        if time.monotonic() > deadline:
            raise RequestError(f"{path} is still written to: move it away and send the server SIGHUP first.")
        time.sleep(min(max(settle_seconds - idle, 0.01), 1.0))


def _state(path: Path) -> tuple[int, float]:
    try:
        status = path.stat()
    except OSError as error:
        raise RequestError(f"Cannot read {path} ({error.strerror}). Name a finished access log.") from error
    return status.st_size, status.st_mtime


def _read_log(path: Path) -> _Content:
    """Read a log, compressed or not: what counts is what was written, whatever was done to the file since."""
    digest, lines, first, last = sha256(), 0, b"", b""
    try:
        with cast("IO[bytes]", _OPENERS.get(path.suffix, open)(path, "rb")) as file:
            for line in iter(lambda: file.readline(_BLOCK_BYTES), b""):
                digest.update(line)
                lines += line.endswith(b"\n")
                first, last = first or line, line
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RequestError(f"Cannot read {path} ({error}). Name a finished access log.") from error
    return _Content(digest.hexdigest(), lines + (not last.endswith(b"\n") and bool(last)), _when(first), _when(last))


class _Line(msgspec.Struct):
    time: str


def _when(line: bytes) -> str | None:
    """Return the time of a line of either form; None if it has none."""
    try:
        return timestamp(msgspec.json.decode(line, type=_Line).time)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        pass
    found = _COMBINED.search(line)
    try:
        moment = datetime.strptime(found[1].decode(), "%d/%b/%Y:%H:%M:%S %z") if found else None
    except ValueError:
        return None
    return format_time(moment.astimezone(UTC)) if moment else None


def _check_access_logs(archive: Archive, run: Run, recorded: dict[str, Event], folder: Path) -> Iterator[Record]:
    run.counts["access_logs"] = 0
    left = dict(recorded)
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise RequestError(f"Cannot read {folder} ({error.strerror}). Name the folder of the access logs.") from error
    for path in files:
        try:
            content = _read_log(path)
        except RequestError as error:
            yield Note(0, None, path.name, str(error), archive.now())
            continue
        if left.pop(content.sha256, None) is not None:
            run.counts["access_logs"] += 1
        elif content.sha256 not in recorded and content.lines:
            run.counts["notes"] += 1
            span = f"{content.lines:,} lines from {content.first} to {content.last}"
            yield Note(
                0,
                None,
                path.name,
                f"no event has this file ({span}): it is not finished, or was changed",
                archive.now(),
            )
    for event in islice(left.values(), None):
        name, lines = event.details.get("file"), event.counts.get("lines", 0)
        span = f"{lines:,} lines from {event.details.get('first')} to {event.details.get('last')}"
        detail = f"Access log {name} of event {event.number} ({span}) is not in {folder}, or was changed."
        yield _counted(run, Fault("both", "access-log", event.number, event.number, detail))
