"""One request and its answer: what becomes known of it on the way, and the line that it leaves in the access log."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from craftkit_archive.errors import disk_errors
from craftkit_archive.values import format_time

EXCHANGE = "craftkit_archive.exchange"  # its name in the WSGI environment


class TakesLong(BaseException):
    """The answer takes long, and is asked for by the thread that all connections share: ask again in another."""


@dataclass(slots=True)
class Exchange:
    """What the application and the server tell each other of a request.

    Attributes:
        hurry: Whether all connections wait for this answer; what takes long then raises `TakesLong`.
        hold_seconds: For how long the answer is to be held back.
        address: Where the request comes from.
        key_id: Of the key that was accepted.
        project_id: Of that key.
        render_id: Of the render that was asked for and found.
        digest: Of the PDF that is sent.
        part: The range that is sent, as in `Content-Range`.
    """

    hurry: bool = False
    hold_seconds: float = 0.0
    address: str = ""
    key_id: str | None = None
    project_id: str | None = None
    render_id: str | None = None
    digest: str | None = None
    part: str | None = None


class AccessLine(msgspec.Struct):
    """A line of the access log: an answer that was sent or broken off. No key, hash or header is ever in it."""

    time: str
    address: str
    method: str
    path: str
    status: int
    bytes_sent: int
    complete: bool
    milliseconds: float
    key_id: str | None = None
    project_id: str | None = None
    render_id: str | None = None
    range: str | None = None
    sha256: str | None = None


class AccessLog:
    """A file that takes one JSON object a line; several processes may write to the same one.

    Raises:
        NoSpaceError, NotWritableError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self.reopen()

    def reopen(self) -> None:
        """Open the file by its name again, after it was moved away."""
        before = self._descriptor
        with disk_errors(self._path):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if before >= 0:
            os.close(before)

    def write(self, line: AccessLine) -> None:
        """Append a line, whole.

        Raises:
            NoSpaceError, NotWritableError: The disk refused.
        """
        with disk_errors(self._path):
            os.write(self._descriptor, msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def now() -> str:
    """Tell the time as the log writes it: UTC, with milliseconds."""
    return format_time(datetime.now(UTC))
