"""SIGINT and SIGTERM: the first one asks the work to end, a later one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


# A second signal within this time, in seconds, counts as the same request. `timeout` sends SIGTERM to the command and
# then to its whole process group. People send SIGINT, and may mean it if they press Ctrl-C twice in a second.
MERGE_SECONDS = {signal.SIGTERM: 1.0, signal.SIGINT: 0.1}


# How many seconds the work has to end by itself after the first signal, and after the second.
END_SECONDS = 8.0
LAST_SECONDS = 1.5


class Signals:
    """The first SIGINT or SIGTERM asks the work to end cleanly, a later one ends it at once.

    Work that has not ended some seconds after the first signal is ended as if by a second one.
    """

    def __init__(self) -> None:
        self.first = 0
        self.at_last: Callable[[], object] = lambda: None
        self._noted_at = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Signals:
        # Python runs a handler only when the main thread returns from a library, where it may be waiting for a network.
        # The number of a signal is written to this pipe at once, and another thread reads it.
        numbers, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._bell_before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, args=(numbers,), daemon=True)
        self._watcher.start()
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._bell_before)
        self._over.set()
        os.close(self._bell)  # ends the thread that reads the other end
        # A thread that still runs when Python exits is ended by `pthread_exit`, which loads a library, and aborts the
        # process if there is too little memory for that.
        self._watcher.join(LAST_SECONDS)

    def settle(self) -> None:
        """If a signal has ended the work, ignore all further ones, so that they do not change the exit code."""
        if self.first:
            self._before = dict.fromkeys(self._before, signal.SIG_IGN)
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)

    def __call__(self) -> bool:
        """Return whether the work is to end."""
        return self.first != 0

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.first:
            if time.monotonic() - self._noted_at >= MERGE_SECONDS.get(signal.Signals(number), 0.0):
                raise KeyboardInterrupt
            return
        self.first = number
        self._noted_at = time.monotonic()
        if os.isatty(2):
            os.write(2, _fresh_line() + b"Stopping after the work under way. Press Ctrl-C again to stop at once.\n")

    def _watch(self, numbers: int) -> None:
        """Read the numbers of signals from a pipe, and end the work if it does not end by itself after the first."""
        try:
            while came := os.read(numbers, 1):
                if came[0] in (signal.SIGINT, signal.SIGTERM):
                    self._end(came[0])
                    return
        finally:
            os.close(numbers)

    def _end(self, number: int) -> None:
        """End work that does not notice the request to end, such as one long SQLite statement."""
        if self._over.wait(END_SECONDS):
            return
        if not self.first:  # the main thread has not run its handler yet, so it can only be ended at once
            self.first, self._noted_at = number, float("-inf")
        # A real signal, because it also interrupts the system call that the main thread waits in.
        signal.pthread_kill(threading.main_thread().ident or 0, self.first)
        if not self._over.wait(LAST_SECONDS):
            if os.isatty(2):
                os.write(2, _fresh_line())
            self.at_last()
            leave(self.exit_code)

    @property
    def exit_code(self) -> int:
        """The exit code of work that a signal has ended."""
        return 128 + (self.first or signal.SIGINT)


def _fresh_line() -> bytes:
    """Return what wipes a progress bar and the terminal's own ^C from the line, if the terminal can do that."""
    return b"\n" if os.environ.get("TERM", "dumb") == "dumb" else b"\r\x1b[K"


def leave(code: int) -> NoReturn:
    """End the process now; a normal exit would wait for every thread that is still working."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
