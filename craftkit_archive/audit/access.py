"""Records access logs in the audit log, so that changes to them are noticed too, and rotates the server's log."""

import bz2
import fcntl
import gzip
import logging
import lzma
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Event as Signal
from threading import Thread
from typing import IO, Any, NamedTuple, Self, cast

import msgspec

from craftkit_archive.archive import Archive, Run
from craftkit_archive.errors import ArchiveError, RequestError, disk_errors
from craftkit_archive.proof.chain import Fault
from craftkit_archive.proof.events import ACCESS_LOG, Event
from craftkit_archive.records import Note, Record
from craftkit_archive.values import format_time, timestamp

log = logging.getLogger("craftkit_archive.audit")

# If the system cannot tell whether a log is still open, it counts as finished after this long without a write.
SETTLE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0
_BLOCK_BYTES = 1 << 20
# An event is one line, which is read whole. If the keys take more bytes than this, only those used last are named.
MAX_KEYS_BYTES = 1 << 19
_COMBINED = re.compile(rb"\[(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\]")
_COMBINED_KEY = re.compile(rb"\S+ \S+ (\S+) \[")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class _KeyUse:
    """How often a key was used, and the last line that names it."""

    __slots__ = ("answers", "last")

    def __init__(self) -> None:
        self.answers, self.last = 0, b""


class _LogContent(NamedTuple):
    """A summary of a finished access log: its digest, its number of lines, and its first and last time."""

    sha256: str
    lines: int
    first: str | None
    last: str | None


def record_access_log(
    archive: Archive,
    path: str | os.PathLike[str],
    *,
    settle_seconds: float = SETTLE_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[Record]:
    """Record a finished access log in the audit log: its digest, first and last time, and number of lines.

    For `keys list`, the event also has the ids of the keys that were used, how often each was, and the last time.

    Args:
        archive: Open for writing.
        path: The log, plain or compressed, after it was moved away and the server has opened a new one.
        settle_seconds: How long the log must have been without a write if the system cannot tell whether it has a
            writer, or if it still has one after `patience_seconds`.
        patience_seconds: How long to wait for its writers to close it.

    Yields:
        The `Summary` with the count of lines; `unchanged` is 1 if this log was recorded before.

    Raises:
        RequestError: The file cannot be read, or is still written to.

    Example:
        >>> from pathlib import Path
        >>> from craftkit_archive import Archive, record_access_log
        >>> _ = Path("access.ndjson.1").write_text('{"time":"2026-11-25T10:00:00.000Z"}')
        >>> with Archive("archive") as archive:
        ...     *_, summary = record_access_log(archive, "access.ndjson.1")
        >>> summary.counts["lines"], summary.details["first"]
        (1, '2026-11-25T10:00:00.000Z')
    """
    path = Path(path)
    run = Run(None, ACCESS_LOG)
    _wait_until_finished(path, settle_seconds, patience_seconds)
    uses: dict[str, _KeyUse] = {}
    content = _read_log(path, uses)
    run.counts["lines"] = content.lines
    if content.lines:
        with archive.catalog.transaction():
            if archive.catalog.has_event(ACCESS_LOG, content.sha256):
                run.counts["unchanged"] = 1
            else:
                details = {name: value for name, value in content._asdict().items() if name != "lines"}
                archive.record_event(
                    ACCESS_LOG, {"lines": content.lines}, file=path.name, **details, **_named_keys(uses)
                )
    yield run.summary(file=str(path), **content._asdict())


def _wait_until_finished(path: Path, settle_seconds: float, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    try:
        while (written_to := _is_open_for_writing(path)) is not False:
            idle, is_late = time.time() - path.stat().st_mtime, time.monotonic() > deadline
            if idle >= settle_seconds and (written_to is None or is_late):
                return
            if is_late:
                raise RequestError(f"{path} is still written to: move it away and send the server SIGHUP first.")
            time.sleep(min(max(settle_seconds - idle, 0.01), 0.1))
    except OSError as error:
        raise RequestError(f"Cannot read {path} ({error.strerror}). Name a finished access log.") from error


def _is_open_for_writing(path: Path) -> bool | None:
    """Return whether any program has a file open for writing; None if the system cannot tell."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Linux refuses a read lease on a file that has a writer. Looking into /proc would miss the processes of other
        # users.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):  # another's file, a file system without leases, or not Linux
        return None
    finally:
        os.close(descriptor)
    return False


def _named_keys(uses: dict[str, _KeyUse]) -> dict[str, Any]:
    """Return the details of an event that say which keys were used, the most recently used first."""
    found = [{"key": key, "answers": use.answers, "last": _when(use.last) or ""} for key, use in uses.items()]
    found.sort(key=lambda one: str(one["last"]), reverse=True)
    left, kept = MAX_KEYS_BYTES, 0
    for one in found:
        left -= len(msgspec.json.encode(one)) + 1
        if left < 0:
            break
        kept += 1
    return {"keys": found[:kept], "keys_left_out": len(found) - kept or None}


def _read_log(path: Path, uses: dict[str, _KeyUse] | None = None) -> _LogContent:
    """Read a log. Its digest is that of the uncompressed lines, so compressing or renaming it later does no harm.

    Args:
        path: The log, plain or compressed.
        uses: If given, the keys that were used are added to it.
    """
    digest, lines, first, last = sha256(), 0, b"", b""
    try:
        with cast("IO[bytes]", _OPENERS.get(path.suffix, open)(path, "rb")) as file:
            for line in iter(lambda: file.readline(_BLOCK_BYTES), b""):
                digest.update(line)
                lines += line.endswith(b"\n")
                first, last = first or line, line
                if uses is not None and (key := _key_of(line)):
                    use = uses.setdefault(key, _KeyUse())
                    use.answers, use.last = use.answers + 1, line
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RequestError(f"Cannot read {path} ({error}). Name a finished access log.") from error
    return _LogContent(digest.hexdigest(), lines + (not last.endswith(b"\n") and bool(last)), _when(first), _when(last))


class _Line(msgspec.Struct):
    time: str


class _KeyLine(msgspec.Struct):
    key_id: str | None = None


_decode_key = msgspec.json.Decoder(_KeyLine).decode


def _key_of(line: bytes) -> str | None:
    """Return the id of the key in a line, in JSON or in the combined log format; None if it names none."""
    try:
        return _decode_key(line).key_id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = _COMBINED_KEY.match(line)
    # The combined format writes a blank in an id as an underscore; such a key is not recognised.
    return found[1].decode(errors="replace") if found and found[1] != b"-" else None


def _when(line: bytes) -> str | None:
    """Return the time of a line, in JSON or in the combined log format; None if it has none."""
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


def check_access_logs(archive: Archive, run: Run, recorded: dict[str, Event], folder: Path) -> Iterator[Fault | Note]:
    """Look for recorded access logs in a folder; a log is identified by its digest, whatever its name.

    Args:
        archive: The archive, for its clock.
        run: Counts the logs that are there, and the notes.
        recorded: The events of the recorded logs, by digest.
        folder: The folder that holds the logs, plain or compressed.

    Yields:
        A `Fault` for each log that is missing or was changed, and a `Note` for each file without an event.

    Raises:
        RequestError: The folder cannot be read.
    """
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
            run.counts["notes"] += 1
            yield Note(0, None, path.name, str(error), archive.now())
            continue
        if left.pop(content.sha256, None) is not None:
            run.counts["access_logs"] += 1
        elif content.sha256 not in recorded and content.lines:
            run.counts["notes"] += 1
            detail = f"no event has this file ({_span(content.lines, content.first, content.last)}): it is not"
            yield Note(0, None, path.name, f"{detail} finished, is another program's, or was changed", archive.now())
    for event in left.values():
        span = _span(event.counts.get("lines", 0), event.details.get("first"), event.details.get("last"))
        name = event.details.get("file")
        detail = f"Access log {name} of event {event.number} ({span}) is not in {folder}, or was changed."
        yield Fault("both", "access-log", event.number, event.number, detail)


def _span(lines: int, first: object, last: object) -> str:
    return f"{lines:,} {'line' if lines == 1 else 'lines'} from {first} to {last}"


# --- rotation --------------------------------------------------------------------------------------------------------


class Rotation:
    """Rotates a server's access log and records each finished one, in its own thread; a context manager.

    If a server is killed after it has moved a log away and before it has recorded it, the next server records it.

    Args:
        archive: The archive's directory.
        path: The access log.
        size_bytes: The size at which to rotate; None rotates at the end of each day, in UTC.
        reopen: Called to make the server open its log again by name.
        by: The user who runs the server, for the audit log.
    """

    def __init__(
        self, archive: Path, path: Path, *, size_bytes: int | None, reopen: Callable[[], object], by: str | None
    ) -> None:
        self._archive, self._path, self._size, self._reopen, self._by = archive, path, size_bytes, reopen, by
        self._end = Signal()
        self._thread = Thread(target=self._run, name="access log")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                for finished in self._left_over():
                    self._record(finished)
                while not self._end.wait(LOOK_SECONDS):
                    if self._is_due():
                        self._record(self._rotate())
                return
            except (ArchiveError, OSError) as error:
                log.error("%s", error)  # tried again after a while, when `_left_over` finds what was moved away
                if self._end.wait(PATIENCE_SECONDS):
                    return

    def _left_over(self) -> list[Path]:
        """Find logs that were moved away and not recorded."""
        with Archive(self._archive, read_only=True) as archive:
            recorded = archive.catalog.recorded_files(ACCESS_LOG)
        found = self._path.parent.glob(f"{self._path.name}-[0-9]*Z")
        return sorted(path for path in found if path.name not in recorded)

    def _is_due(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        if not status.st_size:
            return False
        if self._size is not None:
            return status.st_size >= self._size
        return _began(self._path) < format_time(datetime.now(UTC))[:10]

    def _rotate(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        finished = self._path.with_name(f"{self._path.name}-{stamp}")
        with disk_errors(finished):
            self._path.rename(finished)
        self._reopen()
        return finished

    def _record(self, finished: Path) -> None:
        with Archive(self._archive, by=self._by) as archive:
            for notice in archive.notices:
                log.warning("%s", notice)
            for _ in record_access_log(archive, finished):
                pass


def _began(path: Path) -> str:
    """Return the day on which a log begins, in UTC."""
    with disk_errors(path), path.open("rb") as file:
        first = _when(file.readline(_BLOCK_BYTES))
        # If the line has no time, the file's time of modification is taken.
        moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return (first or format_time(moment))[:10]
