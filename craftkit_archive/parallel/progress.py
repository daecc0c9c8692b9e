"""The progress of a bulk operation: a bar, lines, or nothing."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal, TextIO

from craftkit_archive.parallel.batches import R
from craftkit_archive.values import format_duration, format_size

PLAIN_SECONDS = 30
BAR_DELAY_SECONDS = 1.0
PLAIN_SHARE = 0.1
_PARTS = 1000  # of the bar
_BAR_COLUMNS, _FILE_COLUMNS, _LEAST_FILE_COLUMNS = 18, 44, 12
ProgressMode = Literal["auto", "bar", "plain", "none"]


def show_progress(records: Iterator[R], *, mode: ProgressMode, stream: TextIO = sys.stderr) -> Iterator[R]:
    """Pass records through and show the progress that `Plan` and `Progress` records report.

    Args:
        records: The records of a bulk operation.
        mode: `bar` redraws one line; `plain` writes a line every 30 s or 10 %, without carriage returns; `auto` takes
            the bar on a terminal and plain lines elsewhere. Work that takes less than a second shows none.
        stream: Where progress is written.
    """
    if mode == "none":
        return records
    bar = stream.isatty() if mode == "auto" else mode == "bar"
    return _with_bar(records, stream) if bar else _with_lines(records, stream)


def _with_bar(records: Iterator[R], stream: TextIO) -> Iterator[R]:
    from tqdm import tqdm

    from craftkit_archive.records import Finding, Plan, Progress, Reject, Skipped  # workers need none of it

    first = next(records, None)
    meter = _Meter(first.count, first.size_bytes) if isinstance(first, Plan) else _Meter()
    # Its own text has a fixed width, so that nothing moves but the bar.
    shape = "{percentage:3.0f}%|{bar}|{desc}" if meter.has_end else "{desc}"
    bar: tqdm[Any] = tqdm(
        total=_PARTS if meter.has_end else None,
        desc=meter.text(_columns(stream)),
        bar_format=shape,
        file=stream,
        leave=False,
        dynamic_ncols=True,
        delay=BAR_DELAY_SECONDS,
        miniters=0,
    )
    cleared_at = bar.start_t + BAR_DELAY_SECONDS  # it is not drawn before
    with bar:
        for record in records if first is None else chain([first], records):
            if isinstance(record, Progress):
                meter.add(record.count, record.size_bytes, record.file)
                bar.set_description_str(meter.text(_columns(stream)), refresh=False)
                bar.update(int(meter.share * _PARTS) - bar.n)
            elif bar.last_print_t > cleared_at:
                # A line about this record may follow, and would leave the bar above it.
                bar.clear()
                cleared_at = bar.last_print_t
            meter.problems += isinstance(record, (Finding, Reject, Skipped))
            yield record


class _Meter:
    """The state of the work: counts, bytes, rate, time left, and the file that was done last.

    Args:
        total: The number of items; 0 if unknown.
        total_bytes: The number of bytes; 0 if unknown.
    """

    def __init__(self, total: int = 0, total_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._total_bytes, self._clock = total, total_bytes, clock
        self._began = clock()
        self.done = self.size_bytes = self.problems = 0
        self._file = ""

    def add(self, count: int, size_bytes: int, file: str | None) -> None:
        """Add what was done; `file` is the last one, None if it has no name."""
        self.done, self.size_bytes = self.done + count, self.size_bytes + size_bytes
        self._file = file or self._file

    @property
    def has_end(self) -> bool:
        """Whether the total is known."""
        return bool(self._total or self._total_bytes)

    @property
    def share(self) -> float:
        """The share of the work that is done, from 0 to 1; 0 if the total is unknown."""
        done, total = (self.done, self._total) if self._total else (self.size_bytes, self._total_bytes)
        return min(done / total, 1.0) if total else 0.0

    def text(self, columns: int) -> str:
        """Return all of it as a text of constant width; with the file, if there is room for it beside the bar."""
        from craftkit_archive.columns import fitted

        seconds = max(self._clock() - self._began, 0.001)
        whole = f"/{self._total:,}" if self._total else ""
        rate = (
            f"{format_size(int(self.size_bytes / seconds))}/s" if self.size_bytes else f"{self.done / seconds:,.0f}/s"
        )
        left = f"{format_duration((1 - self.share) * seconds / self.share)} left" if self.share else ""
        text = f" {self.done:>{max(len(whole) - 1, 9)},}{whole} {format_size(self.size_bytes):>7} {rate:>10} {left:<13}"
        text += _problems(self.problems)
        room = min(columns - len(text) - _BAR_COLUMNS, _FILE_COLUMNS)
        return f"{text} {fitted(self._file, room - 1)}" if room > _LEAST_FILE_COLUMNS else text


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 80


def _with_lines(records: Iterator[R], stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[R]:
    from craftkit_archive.records import Finding, Plan, Progress, Reject, Skipped

    began = shown_at = clock()
    done = size = total = total_bytes = shown = problems = 0
    for record in records:
        if isinstance(record, Plan):
            total, total_bytes = record.count, record.size_bytes
        elif isinstance(record, Progress):
            done, size, now = done + record.count, size + record.size_bytes, clock()
            if now - shown_at >= PLAIN_SECONDS or (total and done - shown >= PLAIN_SHARE * total and now - began > 2):
                shown_at, shown = now, done
                line = _progress_line(done, total, size, now - began, total_bytes)
                at = f": {record.file}" if record.file else ""
                stream.write(f"{line}{_problems(problems)}{at}\n")
                stream.flush()
        problems += isinstance(record, (Finding, Reject, Skipped))
        yield record


def _problems(count: int) -> str:
    return f", {count:,} with problems" if count else ""


def _progress_line(done: int, total: int, size_bytes: int, seconds: float, total_bytes: int = 0) -> str:
    part = done / total if total else min(size_bytes / total_bytes, 1.0) if total_bytes else 0.0
    share = f" of {total:,} ({part:.0%})" if total else f" ({part:.0%})" if part else ""
    left = f", {format_duration((1 - part) * seconds / part)} left" if 0 < part <= 1 else ""
    return f"{done:,}{share}, {format_size(size_bytes)}, {format_size(int(size_bytes / seconds))}/s{left}"
