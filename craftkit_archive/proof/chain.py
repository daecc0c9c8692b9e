"""Verifies a log: each event against its hash, each against the one before, and the two copies against each other."""

from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple

import msgspec

from craftkit_archive.proof.events import FORKED, Event, Head, is_intact, read_event

Where = Literal["file", "table", "both"]
Problem = Literal[
    "malformed",  # not an event at all
    "changed",  # not what was hashed
    "missing",  # gone from the middle
    "cut",  # gone from the end
    "misplaced",  # not where its number belongs
    "unchained",  # it does not continue the one before
    "differs",  # the two copies disagree
    "added",  # only one copy has it
    "forked",  # an event records that the two copies had forked
    "behind",  # a killed command had no time to write it
    "head",  # a head that was noted earlier is not in the log
    "access-log",  # a recorded access log is gone or changed
]
_Row = tuple[int, bytes | None]  # number and line of a row; no line after the last one
NAMES: dict[Where, str] = {"file": "audit.ndjson", "table": "the table", "both": "the log"}


class Fault(NamedTuple):
    """A fault of a log, at one event or at a range of events from `number` to `last`."""

    where: Where
    problem: Problem
    number: int
    last: int
    detail: str


class Chain:
    """Follows one copy of a log line by line, and keeps only a number and a hash, however long the log is.

    Args:
        where: Which copy it is.
        head: The event that the first line continues.
    """

    def __init__(self, where: Where, head: Head | None = None) -> None:
        self.where: Where = where
        self.number, self.hash = head or Head()
        self._known = True  # whether the next line has to continue `hash`

    @property
    def state(self) -> tuple[int, str, bool]:
        """What the next line is compared with."""
        return self.number, self.hash, self._known

    def follow(self, other: "Chain") -> None:
        """Continue from where another chain is."""
        self.number, self.hash, self._known = other.state

    def place(self, line: bytes) -> int:
        """Return the number that a line counts as: its own if its hash matches, and the expected one if not."""
        try:
            event = read_event(line)
        except ValueError:
            return self.number + 1
        return event.number if is_intact(event, line) else self.number + 1

    def take(self, line: bytes) -> tuple[Event | None, list[Fault]]:
        """Check the next line; return its event, or None if it was changed, and its faults."""
        expected = self.number + 1
        try:
            event = read_event(line)
        except ValueError as error:
            self.number, self._known = expected, False
            return None, [self._fault("malformed", expected, f"the line of event {expected} is damaged: {error}")]
        intact = is_intact(event, line)
        if intact and self._known and event.number == expected and event.prev == self.hash:
            self.number, self.hash = event.head
            return event, self._forks(event) if event.what == FORKED else []
        return event if intact else None, self._faults(event, expected, intact)

    def _faults(self, event: Event, expected: int, intact: bool) -> list[Fault]:
        faults: list[Fault] = []
        number = event.number if intact else expected
        if not intact:
            detail = f"event {expected} was changed: its hash is not that of its text"
            faults.append(self._fault("changed", expected, detail))
        elif number > expected:
            detail = f"{_events(expected, number - 1)} missing before event {number}"
            faults.append(self._fault("missing", expected, detail, number - 1))
        elif number < expected:
            faults.append(self._fault("misplaced", number, f"event {number} stands after event {self.number}"))
        # If a line is missing, moved or changed, its neighbours do not fit either: that is reported once.
        elif self._known and event.prev != self.hash:
            detail = f"event {number} does not continue event {self.number} as it is here: one of them was replaced"
            faults.append(self._fault("unchained", number, detail))
        if intact and event.what == FORKED:
            faults += self._forks(event)
        self.number, self.hash, self._known = max(number, self.number), event.hash, True
        return faults

    def _forks(self, event: Event) -> list[Fault]:
        detail = f"event {event.number} says that the file and the table had parted"
        return [self._fault("forked", event.number, detail)]

    def _fault(self, problem: Problem, number: int, detail: str, last: int | None = None) -> Fault:
        return Fault(
            self.where, problem, number, number if last is None else last, f"In {NAMES[self.where]}, {detail}."
        )


def _events(first: int, last: int) -> str:
    return f"event {first} is" if first == last else f"events {first} to {last} are"


def compare_logs(
    file: Iterator[bytes], table: Iterator[tuple[int, bytes]], *, last: int, flushed: int
) -> Iterator[Fault | Event]:
    """Check the lines of the file and of the table, each copy by itself and both side by side.

    Args:
        file: The lines of `audit.ndjson`, each with its newline.
        table: Numbers and lines of the table, in the order of numbers.
        last: The last number of the table.
        flushed: The number of the last event that is known to have been on the disk in the file. Later lines may be
            missing because a command was killed before it wrote them.

    Yields:
        Each `Fault`, and each `Event` of the file whose hash matches.
    """
    return _Comparison(file, table, last, flushed).results()


class _Comparison:
    """Two copies of a log, merged by the numbers of their events."""

    def __init__(self, file: Iterator[bytes], table: Iterator[tuple[int, bytes]], last: int, flushed: int) -> None:
        self._lines, self._rows = file, table
        self._file, self._table = Chain("file"), Chain("table")
        self._last, self._flushed = last, flushed
        self._gap: tuple[Where, int, int] | None = None

    def results(self) -> Iterator[Fault | Event]:
        """Yield faults and intact events."""
        line, (number, row) = self._next_line(), self._next_row()
        while line is not None or row is not None:
            if line is not None and line == row and self._file.state == self._table.state:
                yield from self._close_gap()
                line, (number, row) = yield from self._take_same(line)
                continue
            if line is not None and row is not None and not line.endswith(b"\n") and row.startswith(line):
                line = self._next_line()  # an interrupted write: the event counts as missing, and nothing more
                continue
            at = self._file.place(line) if line is not None else None
            if line is not None and at is not None and (row is None or at < number or at > self._last):
                yield from self._note_gap("file", at)
                yield from self._take(self._file, line)
                line = self._next_line()
            elif row is not None and (line is None or at is None or at > number):
                yield from self._note_gap("table", number)
                yield from self._take(self._table, row)
                number, row = self._next_row()
            elif line is not None and row is not None:
                yield from self._close_gap()
                if line != row:
                    yield Fault("both", "differs", number, number, _difference(number, line, row))
                yield from self._take(self._file, line)
                yield from self._take(self._table, row)
                line, (number, row) = self._next_line(), self._next_row()
        yield from self._close_gap(at_end=True)

    def _next_line(self) -> bytes | None:
        return next(self._lines, None)

    def _next_row(self) -> _Row:
        return next(self._rows, (0, None))

    def _take_same(self, line: bytes | None) -> Generator[Fault | Event, None, tuple[bytes | None, _Row]]:
        """Check lines for as long as both copies have the same ones; return the next line and the next row."""
        number, row = 0, line
        while line is not None and line == row:
            event, faults = self._file.take(line)
            for fault in faults:
                yield fault._replace(where="both", detail=fault.detail.replace(NAMES["file"], NAMES["both"], 1))
            if event is not None:
                yield event
            line, (number, row) = next(self._lines, None), next(self._rows, (0, None))
        self._table.follow(self._file)
        return line, (number, row)

    def _take(self, chain: Chain, line: bytes) -> Iterator[Fault | Event]:
        event, faults = chain.take(line)
        yield from faults
        if event is not None and chain is self._file:
            yield event

    def _note_gap(self, only_in: Where, number: int) -> Iterator[Fault]:
        """Note an event that only one copy has; consecutive ones become one fault."""
        if self._gap and self._gap[0] == only_in and self._gap[2] + 1 == number:
            self._gap = (only_in, self._gap[1], number)
            return
        yield from self._close_gap()
        self._gap = (only_in, number, number)

    def _close_gap(self, *, at_end: bool = False) -> Iterator[Fault]:
        if self._gap is None:
            return
        (only_in, first, last), self._gap = self._gap, None
        if only_in == "file":
            why = " An older archive.db was put back, or rows were deleted." if at_end else ""
            yield Fault("table", "added", first, last, f"Only audit.ndjson has {_range(first, last)}.{why}")
        elif not at_end:
            yield Fault("file", "missing", first, last, f"Only the table has {_range(first, last)}.")
        else:
            yield from self._end_of_file(first, last)

    def _end_of_file(self, first: int, last: int) -> Iterator[Fault]:
        cut, late = min(last, self._flushed), max(first, self._flushed + 1)
        if first <= cut:
            detail = f"audit.ndjson was cut: {_range(first, cut)} stood in it. The table still has what is missing."
            yield Fault("file", "cut", first, cut, detail)
        if late <= last:
            detail = (
                f"audit.ndjson ends before {_range(late, last)}: a killed command did not write it, or it was cut off."
            )
            yield Fault("file", "behind", late, last, detail)


def _range(first: int, last: int) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"


def _difference(number: int, line: bytes, row: bytes) -> str:
    """Name the fields in which two versions of an event differ."""
    text = f"Event {number} is not the same in audit.ndjson and in the table"
    try:
        ours, theirs = (msgspec.structs.asdict(read_event(one)) for one in (line, row))
    except ValueError:
        return f"{text}."
    return f"{text}: {', '.join(name for name in ours if ours[name] != theirs[name])}."
