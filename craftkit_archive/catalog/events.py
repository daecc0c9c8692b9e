"""The queries of the audit log: its table, and the file beside the catalog that repeats it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import PAGE
from craftkit_archive.errors import ArchiveError
from craftkit_archive.proof.audit_file import AUDIT_FILE, AuditFile
from craftkit_archive.proof.events import ACCESS_LOG, MAX_NUMBER, Event, Head, canonical, make_event, read_event

# A row as the line of the file, byte for byte. It is a blob because a row that was tampered with may hold something
# other than text, which then gives an empty line.
_LINE = (
    "CASE WHEN typeof(time) = 'text' AND typeof(what) = 'text' AND typeof(who) = 'text' AND typeof(prev) = 'text'"
    """ AND typeof(hash) = 'text' THEN CAST('{"counts":' || counts || ',"details":' || details || ',"hash":"' || hash"""
    """ || '","number":' || number || ',"prev":"' || prev || '","time":"' || time || '","what":' || json_quote(what)"""
    """ || ',"who":' || json_quote(who) || '}' || char(10) AS BLOB) ELSE x'' END"""
)
# Setting: the number of the last event that is known to be on the disk in the file.
_FLUSHED = "audit_flushed"


class EventQueries(Connection):
    """Queries on events, as rows and as lines.

    Attributes:
        apart: Whether the catalog has yet to be moved into place; until then, `catch_up` leaves its events out of the
            file.
    """

    apart = False

    @cached_property
    def audit_file(self) -> AuditFile:
        """The file that repeats the table."""
        return AuditFile(self.path.with_name(AUDIT_FILE))

    def record_event(
        self,
        what: str,
        *,
        who: str,
        time: str,
        counts: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Event:
        """Add an event to the audit log, inside the transaction of the change that it records.

        The event's line is written to the file when the transaction is committed, and never if it is rolled back.

        Args:
            what: The command that made the change.
            who: The user who gave it.
            time: Now, in UTC.
            counts: Named counts; zeros are left out.
            details: Anything else; no secrets, no hashes of keys, and nothing that must be deleted one day.

        Raises:
            RuntimeError: No transaction is open.
        """
        if not self._connection.in_transaction:
            raise RuntimeError("An event is recorded in the transaction of its change.")
        event = make_event(self.audit_head(), what, who=who, time=time, counts=counts, details=details)
        self.add_events([event])
        if self.audit_file.flushed:
            self.note_flushed(self.audit_file.flushed)
        return event

    def add_events(self, events: Iterable[Event]) -> None:
        """Add finished events unchanged, such as those that only the file has."""
        self._write(
            "INSERT INTO events (number, time, what, who, counts, details, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            map(_row, events),
        )
        self._local.recorded = True

    def audit_head(self) -> Head:
        """Return the number and the hash of the last event; zero and the empty hash before the first."""
        found = self._query("SELECT number, hash FROM events ORDER BY number DESC LIMIT 1")
        return Head(*found[0]) if found else Head()

    def event_line(self, number: int) -> bytes | None:
        """Return an event as its line in the file; None if no event has that number."""
        found = self._query(f"SELECT {_LINE} FROM events WHERE number = ?", (number,))
        return found[0][0] if found else None

    def event_lines(self, after: int = 0, until: int = MAX_NUMBER) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the line of each event after one number, up to another."""
        while page := self._query(
            f"SELECT number, {_LINE} FROM events WHERE number > ? AND number <= ? ORDER BY number LIMIT ?",
            (after, until, PAGE),
        ):
            yield from page
            after = page[-1][0]

    def events(self, since: str = "") -> Iterator[Event]:
        """Yield the events from a time on, in the order of their numbers.

        Raises:
            ValueError: A row is not a valid event.
        """
        found = (
            self._query("SELECT COALESCE(MIN(number), 0) FROM events WHERE time >= ?", (since,)) if since else [(1,)]
        )
        if found[0][0]:
            for _, line in self.event_lines(found[0][0] - 1):
                yield read_event(line)

    def has_event(self, what: str, sha256: str) -> bool:
        """Return whether an event of this kind with this digest is recorded."""
        sql = f"SELECT 1 FROM events WHERE what = ? AND {_detail('sha256')} = ? LIMIT 1"
        return bool(self._query(sql, (what, sha256)))

    def first_event_of(self, run_id: int, what: str) -> int | None:
        """Return the number of the first event that a run left; None if it left none of this kind."""
        sql = f"SELECT MIN(number) FROM events WHERE what = ? AND {_detail('run')} = ?"
        found = self._query(sql, (what, run_id))[0][0]
        return None if found is None else int(found)

    def recorded_files(self, what: str) -> set[str]:
        """Return the names of the files that events of one kind recorded."""
        sql = f"SELECT {_detail('file')} FROM events WHERE what = ?"
        return {str(name) for (name,) in self._query(sql, (what,))}

    def key_uses(self) -> dict[str, str]:
        """Map key ids to the times of their last use, as far as recorded access logs show it."""
        rows = self._query(
            "SELECT used.value ->> 'key', MAX(used.value ->> 'last') FROM events,"
            " json_each(CASE WHEN json_valid(details) THEN details ELSE '{}' END, '$.keys') AS used"
            " WHERE what = ? GROUP BY 1",
            (ACCESS_LOG,),
        )
        return {str(key): str(last) for key, last in rows}

    def key_use_span(self) -> tuple[str, str] | None:
        """Return the first and the last time between which access logs show which keys were used; None if none does."""
        keys = f"json_type({_detail('keys', '->')}) = 'array'"
        # A log that left keys out proves nothing about keys that it does not name: only later logs count.
        sql = (
            f"SELECT MIN({_detail('first')}), MAX({_detail('last')}) FROM events WHERE what = ?1 AND {keys}"
            f" AND number > (SELECT COALESCE(MAX(number), 0) FROM events WHERE what = ?1"
            f" AND {_detail('keys_left_out')} > 0)"
        )
        first, last = self._query(sql, (ACCESS_LOG,))[0]
        return (str(first), str(last)) if first and last else None

    def flushed_events(self) -> int:
        """Return the number of the last event that the file is known to have had on the disk."""
        found = self._query("SELECT value FROM settings WHERE name = ?", (_FLUSHED,))
        return int(found[0][0]) if found and str(found[0][0]).isdecimal() else 0

    def note_flushed(self, number: int) -> None:
        """Record the number of the last event that the file has on the disk; a lower number changes nothing."""
        self._query(
            "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            " WHERE CAST(value AS INTEGER) < CAST(excluded.value AS INTEGER)",
            (_FLUSHED, str(number)),
        )

    def _committed(self) -> None:
        if getattr(self._local, "recorded", False):
            self._local.recorded = False
            if not self.apart:
                self.audit_file.append_missing(self.event_lines)

    def _rolled_back(self) -> None:
        self._local.recorded = False

    def close(self) -> None:
        """Close this thread's connection and the audit file; see `Connection.close`."""
        try:
            if "audit_file" in vars(self):
                self.audit_file.close()
                # If another command's long transaction is in the way, that command's next event records it.
                with suppress(ArchiveError):
                    self._query("PRAGMA busy_timeout = 1000")
                    if self.audit_file.flushed > self.flushed_events():
                        self.note_flushed(self.audit_file.flushed)
        finally:
            super().close()


def _detail(name: str, operator: str = "->>") -> str:
    """Return SQL for a detail of an event; null where the row no longer holds valid JSON."""
    return f"CASE WHEN json_valid(details) THEN details {operator} '{name}' END"


def _row(event: Event) -> tuple[Any, ...]:
    counts, details = canonical(event.counts).decode(), canonical(event.details).decode()
    return event.number, event.time, event.what, event.who, counts, details, event.prev, event.hash
