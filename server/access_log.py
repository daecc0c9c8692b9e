"""The access log: one line for each answer, as JSON or in the combined format of Apache and nginx."""

import errno
import fcntl
import logging
import os
import time
from datetime import UTC, datetime
from typing import Literal

import msgspec

from craftkit_archive.errors import ArchiveError, disk_errors
from craftkit_archive.values import format_time, mask
from server.context import RequestContext

log = logging.getLogger("craftkit_archive.server")

LogFormat = Literal["json", "combined"]
MAX_PATH, MAX_AGENT = 400, 200  # in characters, so that a line fits into one atomic write to a pipe


class AccessLog:
    """A file, pipe or standard output (`-`) to which several processes can write a line for each answer.

    A line is written completely or not at all, and contains no key, hash or further header. A failure never prevents an
    answer: it is reported once, and again only after a line could be written.

    Raises:
        NoSpaceError, NotWritableError: The file cannot be opened.
    """

    def __init__(self, path: str, form: LogFormat = "json") -> None:
        self._path = "/dev/stdout" if path == "-" else path
        self._format = _json_line if form == "json" else _combined_line
        self._failed = False
        self._descriptor = self._open()

    def reopen(self) -> None:
        """Open the file by its name again, because it was moved away."""
        before, self._descriptor = self._descriptor, self._open()
        os.close(before)

    def _open(self) -> int:
        # Standard output is opened again instead of made non-blocking, which would affect others that share it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        with disk_errors(self._path):
            try:
                return os.open(self._path, flags | os.O_CREAT, 0o640)
            except OSError as error:
                if self._path == "/dev/stdout":  # a socket, as under systemd, or another user's terminal
                    return os.dup(1)
                if error.errno != errno.ENXIO:
                    raise
                log.error("Nobody reads the pipe %s. Start its reader; the pipe keeps the first lines.", self._path)
                return os.open(self._path, flags & ~os.O_WRONLY | os.O_RDWR)

    def observe(self, context: RequestContext, bytes_sent: int, *, complete: bool) -> None:
        """Append the line of an answer, without waiting; errors of the disk or the reader are logged, not raised."""
        try:
            with disk_errors(self._path):
                self._append(self._format(context, bytes_sent, complete))
            self._failed = False
        except ArchiveError as error:
            if not self._failed:
                log.error("%s", error)
            self._failed = True

    def _append(self, line: bytes) -> None:
        # The lock matters only on a full disk: a line that was cut off is removed before another process appends.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_END) - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _json_line(context: RequestContext, bytes_sent: int, complete: bool) -> bytes:
    environ = context.environ
    line = {
        "time": format_time(datetime.now(UTC)),
        "request_id": context.request_id,
        "address": context.address,
        "method": environ["REQUEST_METHOD"][:MAX_AGENT],
        "path": mask(context.path[:MAX_PATH]),
        "status": context.status,
        "bytes_sent": bytes_sent,
        "complete": complete,
        "milliseconds": round((time.monotonic() - context.began) * 1000, 1),
        "user_agent": mask(environ.get("HTTP_USER_AGENT", "")[:MAX_AGENT]),
        **{name: getattr(context, name) for name in ("key_id", "project_id", "render_id", "range", "sha256")},
    }
    return msgspec.json.encode(line) + b"\n"


def _combined_line(context: RequestContext, bytes_sent: int, _complete: bool) -> bytes:
    """Return a line in Apache's `combined` format, with the request's id as the identity and the key's as the user."""
    when = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    environ = context.environ
    asked = f"{environ['REQUEST_METHOD'][:MAX_AGENT]} {context.path[:MAX_PATH]} {environ['SERVER_PROTOCOL']}"
    user, agent = (context.key_id or "-").replace(" ", "_"), environ.get("HTTP_USER_AGENT", "")[:MAX_AGENT] or "-"
    line = f'{context.address} {context.request_id} {user} [{when}] {_quoted(asked)} {context.status} {bytes_sent} "-" '
    return mask(line + _quoted(agent)).encode("utf-8", "backslashreplace") + b"\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped if escaped.isprintable() else ascii(escaped)[1:-1]}"'
