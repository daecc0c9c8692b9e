"""The file `audit.ndjson`: the audit log beside the catalog, readable without SQLite."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from craftkit_archive.errors import disk_errors
from craftkit_archive.proof.events import MAX_LINE_BYTES, read_event

AUDIT_FILE = "audit.ndjson"
# How often the file is flushed to the disk while a command writes many lines; it is flushed once more at the end.
FLUSH_SECONDS = 1.0
_BLOCK_BYTES = 1 << 16


def read_lines(file: BinaryIO, size_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a log with their newlines; a line that is too long is cut into pieces.

    Args:
        file: The log.
        size_bytes: How much of it to read, so that lines appended meanwhile are left out; all if not given.
    """
    left = -1 if size_bytes is None else size_bytes
    while left and (line := file.readline(MAX_LINE_BYTES)):
        left -= len(line)
        yield line


def read_last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last complete lines of a log, at most `count`; an empty list if the file does not exist.

    Raises:
        NotWritableError: The disk refused.
    """
    with disk_errors(path):
        try:
            with path.open("rb") as file:
                at = file.seek(0, os.SEEK_END)
                tail = b""
                while at > 0 and tail.count(b"\n") <= count:
                    at -= (length := min(_BLOCK_BYTES, at))
                    file.seek(at)
                    tail = file.read(length) + tail
        except FileNotFoundError:
            return []
    whole = tail[: tail.rfind(b"\n") + 1]
    return whole.splitlines(keepends=True)[-count:]


class AuditFile:
    """The audit log's file, to which several processes append whole lines.

    A line is written after its row in the catalog's table was committed. Every writer appends all lines that the file
    is missing, not only its own, and so completes what a killed command left out.

    Args:
        path: The file; created with the first line, readable only by its owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flushed = 0  # the number of the last line that is on the disk
        self._descriptor: int | None = None
        self._last, self._size = 0, -1
        self._flushed_at, self._dirty = 0.0, False
        self._own = threading.Lock()  # a file lock does not keep threads of one process apart

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file's lock for writing.

        Never take it inside a transaction: another process may hold the lock and wait for that transaction.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with self._own:
            with disk_errors(self.path):
                descriptor = self._lock()
            try:
                yield
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _lock(self) -> int:
        while True:
            if self._descriptor is None:
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o600)
                self._last, self._size = 0, -1
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            # The previous holder of the lock may have replaced the file.
            with suppress(FileNotFoundError):
                here, there = os.fstat(self._descriptor), self.path.stat()
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return self._descriptor
            self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def append_missing(self, rows_after: Callable[[int], Iterator[tuple[int, bytes]]]) -> None:
        """Append the lines that the file is missing, from its last line on.

        Args:
            rows_after: Given a number, yields the number and the line of each later row of the table.
        """
        with self.locked(), disk_errors(self.path):
            last, torn = self._last, b""
            if os.fstat(self._held()).st_size != self._size:  # others have written to it since
                line, torn = self.tail()
                # If the last line is not an event, continue from the known number; `audit verify` reports the line.
                with suppress(ValueError):
                    last = read_event(line).number if line else 0
            self.write(last, rows_after(last), torn=torn)

    def tail(self) -> tuple[bytes, bytes]:
        """Return the last complete line, and what follows it. Only the holder of the lock may call it."""
        descriptor = self._held()
        end = os.fstat(descriptor).st_size
        tail = b""
        at = end
        while at > 0 and tail.count(b"\n") < 2 and len(tail) < 2 * MAX_LINE_BYTES:
            length = min(_BLOCK_BYTES, at)
            at -= length
            tail = os.pread(descriptor, length, at) + tail
        whole, newline, torn = tail.rpartition(b"\n")
        return (whole.rpartition(b"\n")[2] + newline, torn) if newline else (b"", torn)

    def write(self, after: int, rows: Iterator[tuple[int, bytes]], *, torn: bytes = b"") -> None:
        """Append lines. Only the holder of the lock may call it.

        Args:
            after: The number of the last complete line.
            rows: The numbers and lines that follow it.
            torn: What an interrupted write has left after that line. It is cut off if the next line begins with it, and
                otherwise ended with a newline, for the verification to find.
        """
        descriptor = self._held()
        self._last = after
        for number, line in rows:
            if torn:
                size = os.fstat(descriptor).st_size
                if line.startswith(torn):
                    os.ftruncate(descriptor, size - len(torn))
                else:
                    os.write(descriptor, b"\n")
                torn = b""
            self._write_whole(descriptor, line)
            self._last, self._dirty = number, True
        self._size = os.fstat(descriptor).st_size
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def _write_whole(self, descriptor: int, line: bytes) -> None:
        written = os.write(descriptor, line)
        if written < len(line):  # the disk is full
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, size - written)
            self._size = -1
            os.write(descriptor, line)  # raises the error that the short write did not

    def flush(self) -> None:
        """Flush the file to the disk, and note up to which event. Only the holder of the lock may call it."""
        os.fsync(self._held())
        self._flushed_at = time.monotonic()
        self.flushed, self._dirty = self._last, False

    def _held(self) -> int:
        if self._descriptor is None:
            raise RuntimeError("The audit file is used without its lock.")
        return self._descriptor

    def close(self) -> None:
        """Flush the file to the disk and close it; the next write opens it again.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with self._own:
            if self._descriptor is None:
                return
            try:
                with disk_errors(self.path):
                    if self._dirty:
                        self.flush()
            finally:
                self._let_go()
