"""Lines that are shown again and again: in one place on a terminal, below each other elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from craftkit_archive.columns import clipped
from craftkit_archive.commands.console import standard_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Nobody sees a shorter delay before a signal ends the wait.
LOOK_SECONDS = 0.1


class Frames:
    """Shows lines in place of those that it showed before.

    The screen is never cleared: a frame is written over the one before in one piece, so that nothing flickers, and what
    stood above it stays. A window that changes its size gets a new frame below.

    Args:
        stop: Says whether a signal asks for the end.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._in_place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = 0
        self._size: os.terminal_size | None = None

    def show(self, lines: Iterable[str]) -> None:
        """Write the lines; on a terminal as many as there is room for.

        Raises:
            OutputError: Standard output cannot be written.
        """
        if not self._in_place:
            with standard_output() as out:
                out.write("\n".join([*([""] if self._shown else ()), *lines, ""]))
            self._shown = 1
            return
        size = os.get_terminal_size(sys.stdout.fileno())
        # A line that the terminal breaks, or one more than it has, would move the place.
        kept = [clipped(line, size.columns - 1) for line in lines][: max(size.lines - 1, 1)]
        back = f"\x1b[{self._shown}F" if self._shown and size == self._size else ""
        with standard_output() as out:
            out.write(back + "".join(f"{line}\x1b[K\n" for line in kept) + "\x1b[J")
        self._shown, self._size = len(kept), size

    def wait(self, seconds: float) -> bool:
        """Wait, and say whether to draw another frame."""
        deadline = time.monotonic() + seconds
        while not self._stop():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, LOOK_SECONDS))
        return False
