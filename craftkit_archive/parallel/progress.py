"""How far a bulk operation is: a bar, lines, or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal, TextIO

from craftkit_archive.parallel.pool import R

PLAIN_SECONDS = 30
BAR_DELAY_SECONDS = 1.0
PLAIN_SHARE = 0.1
ProgressMode = Literal["auto", "bar", "plain", "none"]


def show_progress(records: Iterator[R], *, mode: ProgressMode, stream: TextIO = sys.stderr) -> Iterator[R]:
    """Pass records through and show how far they have come, as they say in `Plan` and `Progress`.

    Args:
        records: What a bulk operation yields.
        mode: `bar` redraws one line; `plain` writes a line every 30 s or 10 %, without carriage returns; `auto` takes
            the bar on a terminal and plain lines elsewhere. Work that takes less than a second shows none.
        stream: Where it is shown.
    """
    if mode == "none":
        return records
    bar = stream.isatty() if mode == "auto" else mode == "bar"
    return _with_bar(records, stream) if bar else _with_lines(records, stream)


def _with_bar(records: Iterator[R], stream: TextIO) -> Iterator[R]:
    from tqdm import tqdm

    from craftkit_archive.records import Finding, Plan, Progress, Reject, Skipped  # workers need none of it

    first = next(records, None)
    total = first.count if isinstance(first, Plan) else None
    size = problems = 0
    bar: tqdm[Any] = tqdm(total=total, file=stream, unit="", leave=False, dynamic_ncols=True, delay=BAR_DELAY_SECONDS)
    cleared_at = bar.start_t + BAR_DELAY_SECONDS  # it is not drawn before
    with bar:
        for record in records if first is None else chain([first], records):
            if isinstance(record, Progress):
                size += record.size_bytes
                bar.set_postfix_str(f"{format_size(size)}{_problems(problems)}", refresh=False)
                bar.update(record.count)
            elif bar.last_print_t > cleared_at:
                # A line about this record may follow, and would leave the bar above it.
                bar.clear()
                cleared_at = bar.last_print_t
            problems += isinstance(record, (Finding, Reject, Skipped))
            yield record


def _with_lines(records: Iterator[R], stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[R]:
    from craftkit_archive.records import Finding, Plan, Progress, Reject, Skipped

    began = shown_at = clock()
    done = size = total = shown = problems = 0
    for record in records:
        if isinstance(record, Plan):
            total = record.count
        elif isinstance(record, Progress):
            done, size, now = done + record.count, size + record.size_bytes, clock()
            if now - shown_at >= PLAIN_SECONDS or (total and done - shown >= PLAIN_SHARE * total and now - began > 2):
                shown_at, shown = now, done
                stream.write(f"{_progress_line(done, total, size, now - began)}{_problems(problems)}\n")
                stream.flush()
        problems += isinstance(record, (Finding, Reject, Skipped))
        yield record


def _problems(count: int) -> str:
    return f", {count:,} with problems" if count else ""


def _progress_line(done: int, total: int, size_bytes: int, seconds: float) -> str:
    share = f" of {total:,} ({done / total:.0%})" if total else ""
    left = f", {format_duration((total - done) * seconds / done)} left" if 0 < done <= total else ""
    return f"{done:,}{share}, {format_size(size_bytes)}, {format_size(int(size_bytes / seconds))}/s{left}"


def format_size(size_bytes: int) -> str:
    """Write a size as people read it: `412 B`, `1.80 GB`; powers of 1,000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """Write a duration as people read it: `12 s`, `4 min`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
