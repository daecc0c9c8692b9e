"""A terminal for the program: what is on its screen, at every moment."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pyte

from tests.worlds import ROOT, program


class Terminal:
    """Runs craftkit-archive on a terminal of its own; a context manager that ends it.

    Attributes:
        screens: What was to be seen after each write of the program: lines without the blanks at their ends.
        raw: All that it wrote.
    """

    def __init__(
        self,
        *words: str | Path,
        archive: Path,
        columns: int = 100,
        lines: int = 24,
        before: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        self.screens: list[list[str]] = []
        self.raw = b""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            program(*words, archive=archive, before=before),
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**known, "TERM": "xterm-256color", **(env or {})},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    @property
    def shown(self) -> list[str]:
        """The lines of the screen, without the empty ones at its end."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def read(self, until: Callable[[], bool], seconds: float = 30.0) -> None:
        """Read what the program writes until something holds, or it has ended."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.shown
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the program has closed its end
                return
            self.raw += data
            self._stream.feed(data)
            self.screens.append(self.shown)

    def finish(self) -> int:
        """Read to the end, and return the exit code."""
        with contextlib.suppress(AssertionError):
            self.read(lambda: False, seconds=60.0)
        return self.process.wait(timeout=60)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
