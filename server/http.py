"""Strict HTTP on waitress: the only file that relies on waitress's internals.

Waitress is used as intended, with the following exceptions. `tests/test_serving_waitress.py` fails by name when
something inside waitress that this file relies on is gone.

- `_Dispatcher`: waitress hands every request to a thread, and on CPython two threads that both want the interpreter's
  lock cost more than the answer: one process answered 810 to 830 downloads a second through threads, and 1,560 to
  1,990 without. Here the thread that watches the connections answers, and only slow work goes to a thread.
- `_Parser`: waitress accepts requests that RFC 9110 and 9112 refuse (Pylons/waitress#464, #465). Parsing a head once,
  strictly, takes two thirds of the time of parsing it leniently and then looking for faults.
- `_Channel.handle_read`: waitress answers all requests that arrive in one read, so a client that pipelines and does not
  read makes it hold many answers. It never answers a GET with `Expect: 100-continue` and no body (`send_continue`
  resets `completed`), and adds its headers to those of the next request.
- `_Channel.since`, `Server._close_late`: waitress measures durations with the wall clock, which jumps.
- `_Channel.handle_close`: waitress closes with unread bytes, which makes the system discard what was sent.
- `_File`: waitress waits forever for the bytes of a file that was truncated.
- `_Listener`: at its limit, waitress stops accepting, so idle clients lock everybody out (Pylons/waitress#301); without
  file descriptors, it spins with a traceback each time.
- `_Task`: waitress closes the connection after each 304 (Pylons/waitress#502), changes the case of header names, and
  refuses requests in plain text.
- `Server.run`: waitress stops at once (Pylons/waitress#198, #499); here, open requests are finished.
"""

import errno
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.rfc7230 import HEADER_FIELD_RE
from waitress.server import BaseWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error, build_http_date

from server.addresses import UNIX, is_host, parse_address
from server.context import CONTEXT, FAULT, OffloadToThread, RequestContext

log = logging.getLogger("craftkit_archive.server")

MAX_CONNECTIONS = 1000
MAX_HEADER_BYTES = 64 << 10
MAX_HEADER_LINES = 100
MAX_BODY_BYTES = 64 << 10  # for the body of a request, although none is needed
REQUEST_SECONDS = 20.0  # for a request to arrive completely
IDLE_SECONDS = 120.0  # without a byte of an answer, or without a request
TICK_SECONDS = 0.25
PAUSE_SECONDS = 0.5  # before the next connection is accepted, if there is no room for it
REPORT_SECONDS = 60.0  # with enough room, before a lack of it is reported again

_START = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Z]+) ([!-~]+)(?: HTTP/([0-9]\.[0-9]))?")
_TARGET = re.compile(r"(?:https?://([^/?#@]+))?(/[^?#]*|\*\Z)?(?:\?([^#]*))?", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")


class _Fault(Error):
    """Why a request is refused before the application sees it."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.code, self.reason = status, HTTPStatus(status).phrase


class _Parser(HTTPRequestParser):
    """Parses one request. One that is refused here never reaches the application, and ends its connection.

    Source: RFC 9112, sections 2.2, 3, 5.2, 6 and 7; RFC 9110, sections 4.2, 7.2 and 7.6.1.
    """

    body_rcv: Any = None
    error: Error | None = None
    command = path = query = request_uri = proxy_netloc = ""  # of what cannot be read
    url_scheme = "http"

    def parse_header(self, header_plus: bytes) -> None:
        start, *lines = header_plus[:-4].split(b"\r\n")
        self.error = self._read_start(start) or self._read_headers(lines) or self._read_length()
        # The header is a list, and waitress recognizes only two exact values; the other options are for proxies.
        options = {option.strip().lower() for option in self.headers.get("CONNECTION", "").split(",")}
        self.connection_close = "close" in options or (self.version == "1.0" and "keep-alive" not in options)
        # Without a body, the final answer alone would be enough. But Java's HttpClient sends `Content-Length: 0` with
        # every GET, and up to JDK 18 waits forever for the body of a final answer without a 100 before (JDK-8286171).
        waits = self.headers.get("EXPECT", "").lower() == "100-continue" and "CONTENT_LENGTH" in self.headers
        self.expect_continue = waits and self.version == "1.1"

    def _read_start(self, line: bytes) -> Error | None:
        found = _START.fullmatch(line)
        if found is None or found[3] is None:
            return _Fault(400, "the request line is not valid")
        self.command, self.request_uri, self.version = (part.decode("ascii") for part in found.groups())
        if self.version not in ("1.0", "1.1"):
            return _Fault(505, "the server speaks HTTP/1.1 and HTTP/1.0")
        target = _TARGET.fullmatch(self.request_uri)
        if target is None or not any(target.group(1, 2)) or not is_host(target[1] or "x"):
            return _Fault(400, "the request target is not valid")
        self.proxy_netloc, path, self.query = target[1] or "", target[2] or "/", target[3] or ""
        self.path = unquote_to_bytes(path).decode("latin-1")
        return None

    def _read_headers(self, lines: list[bytes]) -> Error | None:
        if len(lines) > MAX_HEADER_LINES:
            return _Fault(431, f"a request may have {MAX_HEADER_LINES} header lines")
        for line in lines:
            found = HEADER_FIELD_RE.fullmatch(line)
            if found is None:  # or a folded one
                return _Fault(400, "a header line is not valid")
            name, value = found["name"].decode("ascii").upper().replace("-", "_"), found["value"].decode("latin-1")
            if b"_" not in found["name"]:  # in WSGI, it would look like the header with a dash
                self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        # Two Host headers became a list, which is not a valid host. HTTP/1.0 needs no Host.
        if not is_host(self.headers.get("HOST", "" if self.version == "1.1" else "x")):
            return _Fault(400, "the Host header is missing or does not name one host")
        if self.proxy_netloc:
            self.headers["HOST"] = self.proxy_netloc
        return None

    def _read_length(self) -> Error | None:
        """Refuse a body that a proxy might delimit differently, which prevents request smuggling."""
        coding, length = self.headers.get("TRANSFER_ENCODING"), self.headers.get("CONTENT_LENGTH")
        if coding is not None:
            if {name.strip().lower() for name in coding.split(",")} - {"chunked", ""}:
                return _Fault(501, "the transfer coding is not known")
            return _Fault(411, "the server takes only a body whose length is given")
        if length is not None and not _LENGTH.fullmatch(length):
            return _Fault(400, "the length of the body is not a number")
        self.content_length = int(length or 0)
        if self.content_length:
            self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(MAX_BODY_BYTES))
        return None


class _Task(WSGITask):
    """The answer to one request; refused ones are answered by the application too, in its envelope for errors."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        error = self.request.error
        fault = error and (error.code, f"{error.reason}: {error.body}.")
        return environ | {CONTEXT: self.channel.context, FAULT: fault, "wsgi.file_wrapper": _File}

    def build_response_header(self) -> bytes:
        """Return the head of the answer, with the names of headers unchanged."""
        # A connection that was closed meanwhile has no context any more.
        context, server = self.channel.context or RequestContext(), self.channel.server.owner
        sends_body = self.has_body and self.request.command != "HEAD"
        context.status, context.body_bytes = int(self.status[:3]), (self.content_length or 0) if sends_body else 0
        # After a refused request, nothing more is read, because it is uncertain where the request ends.
        last = self.request.connection_close or self.request.error or server.ending
        if last or (self.has_body and self.content_length is None):
            self.set_close_on_finish()
        elif self.version == "1.0":
            self.response_headers.append(("Connection", "Keep-Alive"))
        lines = [f"{name}: {value}" for name, value in self.response_headers]
        lines += [f"X-Request-Id: {context.request_id}", f"Date: {build_http_date(self.start_time)}", "\r\n"]
        return "\r\n".join([f"HTTP/{self.version} {self.status}", *lines]).encode("latin-1")


class _File(ReadOnlyFileBasedBuffer):
    """A file that is sent; if it ends early, it raises, because waitress would wait for the missing bytes forever."""

    def get(self, numbytes: int = -1, skip: bool = False) -> bytes:
        piece: bytes = super().get(numbytes, skip)
        if not piece and self.remain:
            raise OSError(errno.EIO, "the file was cut off while it was sent")
        return piece


class _Channel(HTTPChannel):
    """One connection: answers one request at a time, in the order in which they come."""

    parser_class = _Parser
    task_class = error_task_class = _Task
    request: Any = None
    context: RequestContext | None = None  # of the request that is being answered, until the answer is sent
    has_key = False  # whether the last request had a valid key

    def __init__(self, *given: Any, **named: Any) -> None:
        self.since = time.monotonic()  # when its present wait began
        super().__init__(*given, **named)

    def handle_read(self) -> None:
        """Read a request, or a part of one; what follows it stays in the system's buffer until the answer is sent."""
        try:
            data = self.socket.recv(self.adj.recv_bytes, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the client has closed the connection
            self.handle_close()
            return
        if self.request is None:
            self.request, self.since = self.parser_class(self.adj), time.monotonic()
        request, taken = self.request, self.request.received(data)
        self.socket.recv(taken)
        completed = request.completed
        if request.expect_continue and taken == len(data) and not (request.error or request.body_bytes_received):
            self.send_continue()
        if completed:
            self.request = None
        if completed and not request.empty:
            self.context = RequestContext(on_event_loop=True)
            self.since = self.context.began
            self.requests.append(request)
            self.server.add_task(self)
            self._settle()

    def _settle(self, *, closing: bool = False) -> None:
        """Call the observers once an answer is sent, or cut off by the end of the connection."""
        context, unsent_bytes = self.context, self.total_outbufs_len
        if context is not None and (closing or not (self.requests or unsent_bytes)):
            self.context, self.has_key, self.since = None, context.key_id is not None, time.monotonic()
            if context.status:
                sent = max(context.body_bytes - unsent_bytes, 0)
                for observe in self.server.owner.observers:
                    observe(context, sent, complete=unsent_bytes == 0)

    def writable(self) -> bool:
        """Return whether there is something to send or to report."""
        return bool(super().writable() or (self.context and not self.requests))

    def handle_write(self) -> None:
        """Send as much as the client takes."""
        before = self.total_outbufs_len
        super().handle_write()
        if self.total_outbufs_len < before:
            self.since = time.monotonic()
        self._settle()

    def handle_expt(self) -> None:
        """Close the connection: HTTP has no urgent data, and the loop would spin on it because nobody reads it."""
        self.handle_close()

    def handle_close(self) -> None:
        """Close the connection; an answer that was not sent completely is reported as incomplete."""
        self._settle(closing=True)
        with suppress(OSError, AttributeError):  # it may be closed already
            # Unread bytes would make the system reset the connection and discard the answer (RFC 9112, section 9.6).
            self.socket.shutdown(socket.SHUT_WR)
            while len(self.socket.recv(1 << 18)) == 1 << 18:
                pass
        super().handle_close()


class _Dispatcher(ThreadedTaskDispatcher):
    """Answers quick requests at once, and leaves the others to waitress's threads."""

    def add_task(self, task: _Channel) -> None:
        try:
            task.service()
        except OffloadToThread:
            super().add_task(task)


class _Listener(BaseWSGIServer):
    """One listening socket."""

    channel_class = _Channel

    def __init__(self, owner: "Server", bound: socket.socket) -> None:
        self.owner = owner
        info = (bound.family, bound.type, bound.proto, bound.getsockname())
        super().__init__(
            owner.app, owner.map, True, bound, owner.dispatcher, owner.adjustments, info, bind_socket=False
        )

    def getsockname(self) -> tuple[str, int]:
        """Return the server's name and port, which WSGI requires and nothing here reads."""
        return "localhost", 80

    def readable(self) -> bool:
        """Return whether another connection may be accepted."""
        return bool(self.accepting) and time.monotonic() >= self.owner.paused_until

    def handle_accept(self) -> None:
        """Accept one connection; only one at a time, so that other processes get their share."""
        if not self.owner.make_room():
            return
        try:
            if not (accepted := self.accept()):
                return
        except OSError as error:
            self.owner.pause(error.strerror or str(error))
            return
        connection, address = accepted
        if self.family == socket.AF_UNIX:
            peer = UNIX, 0
        else:  # an IPv4 address in IPv6 form is an IPv4 address
            peer = str(parse_address(address[0]) or address[0]), address[1]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # so that small answers are sent at once
        self.channel_class(self, connection, peer, self.adj, map=self._map)

    def pull_trigger(self) -> None:
        """Wake the loop, unless the loop itself calls this."""
        if threading.get_ident() != self.owner.thread:
            super().pull_trigger()


class Server:
    """The connections of one process, on one or more listening sockets, answered by a WSGI application.

    Observers are called with the context, the bytes sent and `complete` when an answer has been sent or cut off. At
    `max_connections`, connections without a valid key are closed, those that have waited longest first.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listeners: Sequence[socket.socket],
        *,
        threads: int,
        observers: Sequence[Callable[..., None]] = (),
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        # Answers are not spooled to temporary files, and no thread waits for a client that does not read: a connection
        # has only one answer at a time, and large PDFs are sent from their open files.
        self.adjustments = Adjustments(
            ident=None,
            log_socket_errors=False,
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
            clear_untrusted_proxy_headers=False,  # the application decides which proxies to trust
            outbuf_overflow=sys.maxsize,
            outbuf_high_watermark=sys.maxsize,
        )
        self.app = app
        self.observers = observers
        self.map: dict[int, Any] = {}
        self.dispatcher = _Dispatcher()
        self.dispatcher.set_thread_count(threads)
        self.ending = False
        self.thread = 0
        self.paused_until = -REPORT_SECONDS
        self._max_connections = max_connections
        self._deadline = 0.0
        self._listeners = [_Listener(self, listener) for listener in listeners]
        # This logger warns about every request that waits for a thread.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)

    def connections(self) -> list[_Channel]:
        """Return the open connections."""
        return [found for found in self.map.values() if isinstance(found, _Channel)]

    def run(self, at_each_turn: Callable[[], None] = lambda: None) -> None:
        """Serve until `end` is called, then finish; `at_each_turn` is called at least every `TICK_SECONDS`."""
        self.thread = threading.get_ident()
        looked = time.monotonic()
        while not self.ending:
            wasyncore.poll2(TICK_SECONDS, self.map)
            at_each_turn()
            if time.monotonic() - looked >= TICK_SECONDS:
                looked = time.monotonic()
                self._close_late(looked)
        self._finish()

    def end(self, grace_s: float) -> None:
        """Ask the loop to end: it stops accepting, and finishes open requests within `grace_s` seconds."""
        self._deadline = time.monotonic() + grace_s
        if not self.ending:
            self.ending = True
            self._listeners[0].trigger.pull_trigger()

    def _finish(self) -> None:
        for listener in self._listeners:
            for _ in range(64):  # clients that have connected already are answered
                listener.handle_accept()
            listener.accepting = False
        wasyncore.poll2(0, self.map)
        while any(channel.context for channel in self.connections()) and time.monotonic() < self._deadline:
            wasyncore.poll2(0.05, self.map)
        self.dispatcher.shutdown(timeout=max(self._deadline - time.monotonic(), 0.1))
        for channel in self.connections():
            channel.handle_close()
        for listener in self._listeners:
            listener.close()

    def _close_late(self, now: float) -> None:
        """Close connections that have been silent, or whose request has been incomplete, for too long."""
        for channel in self.connections():
            limit = IDLE_SECONDS if channel.request is None else REQUEST_SECONDS
            if not channel.requests and now - channel.since > limit:
                channel.will_close = True

    def make_room(self) -> bool:
        """Return whether there is room for another connection, after closing an idle one if necessary."""
        if len(self.map) < self._max_connections:
            return True
        # A connection is not idle while a thread works for it, or while it receives an answer for a valid key.
        idle = [one for one in self.connections() if not (one.will_close or one.requests)]
        idle = [one for one in idle if not (one.context and one.context.key_id)]
        if not idle:
            self.pause("each has a download under way")
            return False
        # Closed in the next turn of the loop: in this one, its descriptor must not be reused.
        first = min(idle, key=lambda channel: (channel.has_key, bool(channel.total_outbufs_len), channel.since))
        first.will_close = True
        return True

    def pause(self, reason: str) -> None:
        """Stop accepting for a moment; one log line covers a whole period without room."""
        now = time.monotonic()
        if now >= self.paused_until + REPORT_SECONDS:
            advice = "raise the limit of open files (LimitNOFILE, ulimit -n)"
            log.error("no room for another connection beside %s (%s): %s", len(self.connections()), reason, advice)
        self.paused_until = now + PAUSE_SECONDS
