"""The access log: one line for each answer, as JSON or in the combined format of Apache and nginx."""

import errno
import fcntl
import logging
import os
import select
import stat
import time
from datetime import UTC, datetime
from typing import Literal

import msgspec

from craftkit_archive.errors import ArchiveError, NotWritableError, disk_errors
from craftkit_archive.values import format_time, mask
from server.context import RequestContext

log = logging.getLogger("craftkit_archive.server")

LogFormat = Literal["json", "combined"]
STANDARD_OUTPUT = "-"
MAX_PATH, MAX_AGENT = 1000, 250  # characters: a line then fits into a pipe's atomic write
RETRY_SECONDS = 1.0


class AccessLog:
    """A file, pipe or standard output (`-`) that takes a line for each answer, also from several processes.

    A line lands whole or not at all, and has no key, hash or other header. Nothing that goes wrong keeps an answer from
    being sent: it is reported once, until a line can be written again. A pipe is opened when it has a reader.

    Raises:
        NoSpaceError, NotWritableError: The file cannot be opened.
    """

    def __init__(self, path: str, form: LogFormat = "json") -> None:
        self._path = path
        self._form = form
        self._descriptor = -1
        self._regular = False
        self._failed = False
        self._retry_at = 0.0
        self.reopen()

    def reopen(self) -> None:
        """Open the file by its name again, after it was moved away."""
        before, self._descriptor = self._descriptor, self._open()
        if before >= 0:
            os.close(before)
        if self._descriptor >= 0:
            self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        if self._path == STANDARD_OUTPUT:
            try:
                # Opened anew: not blocking must not spread to whoever else has this terminal or pipe.
                return os.open("/dev/stdout", flags)
            except OSError:  # a socket, as under systemd
                return os.dup(1)
        with disk_errors(self._path):
            try:
                return os.open(self._path, flags | os.O_CREAT, 0o640)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                self._report(NotWritableError(f"Nobody reads the pipe {self._path}. Start its reader."))
                return -1

    def write(self, context: RequestContext, bytes_sent: int, *, complete: bool) -> None:
        """Append the line of an answer; never waits, and never raises because the disk or the reader refuses."""
        line = _json(context, bytes_sent, complete) if self._form == "json" else _combined(context, bytes_sent)
        try:
            if self._descriptor < 0:
                if time.monotonic() < self._retry_at:
                    return
                self._retry_at = time.monotonic() + RETRY_SECONDS
                self.reopen()
            if self._descriptor >= 0:
                with disk_errors(self._path):
                    self._append(line)
                self._failed = False
        except ArchiveError as error:
            self._report(error)

    def _append(self, line: bytes) -> None:
        if not self._regular:
            # Up to PIPE_BUF the system writes all or nothing.
            if len(line) <= select.PIPE_BUF:
                os.write(self._descriptor, line)
            return
        # The lock is for the rare line that a full disk cuts off: it is taken back before another process appends.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_END) - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _report(self, error: ArchiveError) -> None:
        if not self._failed:
            log.error("%s", error)
        self._failed = True

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _json(context: RequestContext, bytes_sent: int, complete: bool) -> bytes:
    line = {
        "time": format_time(datetime.now(UTC)),
        "request_id": context.request_id,
        "address": context.address,
        "method": context.method[:MAX_AGENT],
        "path": mask(context.path[:MAX_PATH]),
        "status": context.status,
        "bytes_sent": bytes_sent,
        "complete": complete,
        "milliseconds": round((time.monotonic() - context.began) * 1000, 1),
        "user_agent": mask(context.user_agent[:MAX_AGENT]),
        **{name: getattr(context, name) for name in ("key_id", "project_id", "render_id", "range", "sha256")},
    }
    return msgspec.json.encode(line) + b"\n"


def _combined(context: RequestContext, bytes_sent: int) -> bytes:
    """Write a line as Apache's `combined`, with the request's id as the identity and the key's id as the user."""
    when = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    asked = _quoted(f"{context.method[:MAX_AGENT]} {context.path[:MAX_PATH]} HTTP/{context.version}")
    user, agent = (context.key_id or "-").replace(" ", "_"), _quoted(context.user_agent[:MAX_AGENT] or "-")
    line = f'{context.address} {context.request_id} {user} [{when}] {asked} {context.status} {bytes_sent} "-" {agent}'
    return mask(line).encode("utf-8", "backslashreplace") + b"\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped if escaped.isprintable() else ascii(escaped)[1:-1]}"'
