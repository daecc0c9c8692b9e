"""Shows lines that are updated repeatedly: in place on a terminal, one below the other elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from craftkit_archive.columns import clipped
from craftkit_archive.commands.console import standard_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# How often a wait looks for a signal, in seconds; nobody notices a shorter delay.
LOOK_SECONDS = 0.1


class Frames:
    """Shows lines in place of the previous ones.

    The screen is never cleared: each frame overwrites the one before in a single write, so that nothing flickers, and
    the text above stays. When the window changes its size, a new frame begins below.

    Args:
        stop: Returns whether a signal asks to end.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._in_place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = 0
        self._size: os.terminal_size | None = None

    def show(self, lines: Iterable[str]) -> None:
        """Write the lines; on a terminal, as many as fit.

        Raises:
            OutputError: Standard output cannot be written.
        """
        if not self._in_place:
            with standard_output() as out:
                out.write("\n".join([*([""] if self._shown else ()), *lines, ""]))
            self._shown = 1
            return
        size = os.get_terminal_size(sys.stdout.fileno())
        # A line that wraps, or one line too many, would shift the frame.
        kept = [clipped(line, size.columns - 1) for line in lines][: max(size.lines - 1, 1)]
        back = f"\x1b[{self._shown}F" if self._shown and size == self._size else ""
        with standard_output() as out:
            out.write(back + "".join(f"{line}\x1b[K\n" for line in kept) + "\x1b[J")
        self._shown, self._size = len(kept), size

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether to draw another frame."""
        deadline = time.monotonic() + seconds
        while not self._stop():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, LOOK_SECONDS))
        return False
