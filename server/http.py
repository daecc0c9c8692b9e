"""Strict HTTP on waitress: the one file that knows waitress from inside.

Waitress is used as it means to be used, except for what follows. `tests/test_serving_waitress.py` fails by name when
something inside waitress that this file relies on is gone.

- `_Dispatcher`: waitress hands every request to a thread, and on CPython two threads that both want the interpreter
  cost more than the answer. Here the thread that watches the connections answers, and only slow work goes to a thread.
- `_Parser`, `_Chunks`: waitress accepts requests that RFC 9110 and 9112 refuse (Pylons/waitress#464, #465).
- `_Channel.received`: waitress answers all requests that one read brought, so a client that pipelines and does not read
  makes it hold many answers. It never answers a GET with `Expect: 100-continue` and no body (`send_continue` sets
  `completed` back), whose headers it adds to those of the next request.
  Java's HttpClient waits for 100 even before a body of `Content-Length: 0` (see `_expects_continue`).
- `_Channel.last_activity`, `Server._close_late`: waitress measures durations with the wall clock, which jumps.
- `_Listener`: at its limit waitress accepts nobody, so idle clients lock everybody out (Pylons/waitress#301); out of
  file descriptors it spins, with a traceback each time.
- `_Head`: waitress closes the connection after each 304 (Pylons/waitress#502) and changes the case of header names.
- `Server.run`: waitress stops at once (Pylons/waitress#198, #499); here what is under way is finished.
"""

import errno
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.receiver import ChunkedReceiver
from waitress.rfc7230 import CHUNK_EXT_RE, HEADER_FIELD_RE
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
    build_http_date,
)

from server.addresses import UNIX, is_host, plain_address
from server.context import CONTEXT, OffloadToThread, RequestContext, choose_request_id
from server.errors import BAD_REQUEST, INTERNAL, envelope

log = logging.getLogger("craftkit_archive.server")

MAX_CONNECTIONS = 1000
MAX_HEADER_BYTES = 64 << 10
MAX_HEADER_LINES = 100
MAX_BODY_BYTES = 64 << 10  # of requests, which need none
REQUEST_SECONDS = 20.0  # for a request to come in whole
IDLE_SECONDS = 120.0  # without a byte in either direction
TICK_SECONDS = 0.25
PAUSE_SECONDS = 0.5  # before the next connection is accepted, when there is no room for it
OnAnswer = Callable[..., None]

_TARGET = re.compile(r"(?:/|\*\Z|https?://[^/?@]+(?:/|\Z|(?=\?)))[!-\"$-~]*", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(.*)", re.DOTALL)
_NOT_IN_TRAILERS = {b"authorization", b"content-length", b"host", b"transfer-encoding"}
_CODING = re.compile(rb"\r\ntransfer-encoding:([^\r]*)")


# --- requests --------------------------------------------------------------------------------------------------------


class _VersionNotSupported(Error):
    code = 505
    reason = "HTTP Version Not Supported"


class _Refused(Exception):
    """A request is refused, with an error of waitress, before the application sees it."""


def _refuse_if(condition: bool, kind: Callable[[str], Error], reason: str) -> None:
    if condition:
        raise _Refused(kind(reason))


class _Chunks(ChunkedReceiver):
    """A body in chunks, read to its end and thrown away, because no route takes one.

    Waitress's own accepts empty lines in place of sizes and anything as a trailer, and learns the size too late.

    Source: RFC 9112, section 7.1; RFC 9110, section 6.5.1.
    """

    error: Any = None
    chunk_remainder: int = 0
    all_chunks_received: bool = False

    def __init__(self, buf: Any) -> None:
        super().__init__(buf)
        self._held = bytearray()

    def received(self, data: bytes) -> int:
        self._held += data
        while not (self.completed or self.error) and (length := self._take()):
            del self._held[:length]
        return len(data) - (len(self._held) if self.completed else 0)

    def _take(self) -> int:
        """Take in what comes next, and return its length; 0 if it is not there to its end."""
        if self.chunk_remainder:
            end = self.chunk_remainder
            if len(self._held) < end + 2:
                return 0
            self.chunk_remainder = 0
            if self._held[end : end + 2] != b"\r\n":
                self.error = BadRequest("a chunk has another length than its size says")
        elif (end := self._held.find(b"\r\n")) >= 0:
            self._take_line(bytes(self._held[:end]))
        return end + 2 if end >= 0 else 0

    def _take_line(self, line: bytes) -> None:
        if self.all_chunks_received:
            self.completed = not line
            if line and (not (found := HEADER_FIELD_RE.fullmatch(line)) or found["name"].lower() in _NOT_IN_TRAILERS):
                self.error = BadRequest("a trailer is not valid")
        elif (found := _CHUNK_SIZE.fullmatch(line)) and CHUNK_EXT_RE.fullmatch(found[2]):
            self.chunk_remainder = int(found[1], 16)
            self.all_chunks_received = not self.chunk_remainder
            if self.chunk_remainder > MAX_BODY_BYTES:
                self.error = RequestEntityTooLarge(f"a body may have {MAX_BODY_BYTES} bytes")
        else:
            self.error = BadRequest("the size of a chunk is not valid")


class _Parser(HTTPRequestParser):
    """One request. What is refused here never reaches the application, and ends its connection.

    Source: RFC 9112, sections 2.2, 3, 5.2, 6 and 7; RFC 9110, sections 4.2, 7.2 and 7.6.1.
    """

    body_rcv: Any = None
    error: Any = None

    def parse_header(self, header_plus: bytes) -> None:
        try:
            many = header_plus.count(b"\n") > MAX_HEADER_LINES + 1
            _refuse_if(many, RequestHeaderFieldsTooLarge, f"a request may have {MAX_HEADER_LINES} header lines")
            _refuse_if(b"\r\n " in header_plus or b"\r\n\t" in header_plus, BadRequest, "a header line is folded")
            super().parse_header(header_plus)
            self._check_start()
            self._check_length(header_plus.lower())
            self._check_host()
        except _Refused as refused:
            self._refuse(refused.args[0])
        except TransferEncodingNotImplemented:
            self._refuse(ServerNotImplemented("the only transfer coding is chunked"))
        except (ParsingError, ValueError):  # its text may repeat a header, and with it a key
            self._refuse(BadRequest("it is not valid HTTP"))

    def _refuse(self, error: Error) -> None:
        # What follows it on the connection is not read: where it ends is uncertain.
        self.error, self.body_rcv, self.content_length, self.chunked = error, None, 0, False

    def _check_start(self) -> None:
        _refuse_if(not self.version, BadRequest, "the request line names no HTTP version")
        _refuse_if(self.version not in ("1.0", "1.1"), _VersionNotSupported, "the server speaks HTTP/1.1 and HTTP/1.0")
        _refuse_if(self.command == "CONNECT", ServerNotImplemented, "the server is not a proxy")
        _refuse_if(not _TARGET.fullmatch(self.request_uri), BadRequest, "the request target is not valid")
        # A list, of which waitress knows only the first two forms; everything else in it is for proxies.
        options = {option.strip().lower() for option in self.headers.get("CONNECTION", "").split(",")}
        self.headers["CONNECTION"] = "close" if "close" in options else "keep-alive" if "keep-alive" in options else ""

    def _check_length(self, header_plus: bytes) -> None:
        """Refuse a body whose end a proxy might see elsewhere, and with it requests smuggled past it."""
        codings = [coding.strip() for coding in _CODING.findall(header_plus)]
        if codings:
            unsure = "CONTENT_LENGTH" in self.headers or self.version == "1.0" or codings != [b"chunked"]
            _refuse_if(unsure, BadRequest, "the length of the body is ambiguous")
            self.body_rcv = _Chunks(self.body_rcv.getbuf())

    def _check_host(self) -> None:
        given = self.headers.get("HOST")
        _refuse_if(given is None and self.version == "1.1", BadRequest, "the Host header is missing")
        # Of two headers waitress makes a list, which is not a host.
        for host in (given, self.proxy_netloc or None):
            _refuse_if(host is not None and not is_host(host), BadRequest, "the Host header does not name one host")
        if self.proxy_netloc:
            self.headers["HOST"] = self.proxy_netloc


# --- answers ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return str(build_http_date(second))


class _Head:
    """The head of an answer, with its headers in the names that they were given."""

    def build_response_header(self: Any) -> bytes:
        context, server = self.channel.context, self.channel.server.owner
        sends_body = self.has_body and self.request.command != "HEAD" if hasattr(self.request, "command") else True
        context.status, context.body_bytes = int(self.status[:3]), (self.content_length or 0) if sends_body else 0
        connection = self.request.headers.get("CONNECTION", "")
        lasting = connection != "close" if self.version == "1.1" else connection == "keep-alive"
        if not lasting or server.ending or (self.has_body and self.content_length is None):
            self.set_close_on_finish()
        elif self.version == "1.0":
            self.response_headers.append(("Connection", "Keep-Alive"))
        lines = [f"{name}: {value}" for name, value in self.response_headers]
        lines += [f"X-Request-Id: {context.request_id}", f"Date: {_http_date(int(self.start_time))}", "\r\n"]
        return "\r\n".join([f"HTTP/{self.version} {self.status}", *lines]).encode("latin-1")


class _Task(_Head, WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[CONTEXT] = self.channel.context
        return environ


class _ErrorTask(_Head, ErrorTask):
    """What the parser refuses, in the one envelope."""

    def execute(self) -> None:
        error = self.request.error
        code = BAD_REQUEST.code if error.code < 500 else INTERNAL.code
        body = envelope(code, f"{error.reason}: {error.body}.")
        self.status = f"{error.code} {error.reason}"
        self.content_length = len(body)
        self.response_headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self.response_headers += [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
        self.set_close_on_finish()
        self.write(body)


# --- connections -----------------------------------------------------------------------------------------------------


class _Channel(HTTPChannel):
    """One connection: answers one request at a time, in the order in which they come."""

    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask
    request: Any = None

    def __init__(self, *given: Any, **named: Any) -> None:
        self.context: RequestContext | None = None  # of the request that is being answered, until the answer is out
        self.has_key = False  # its last request had a valid one
        self.since = time.monotonic()  # since when it has waited for what it waits for
        self._unsent_bytes = 0  # when it was closed
        self._unread = b""  # what came after the request that is being answered
        super().__init__(*given, **named)

    # When a byte last went in either direction, in monotonic seconds, whatever time waitress sets.
    last_activity = property(
        lambda self: self._last_activity, lambda self, _: setattr(self, "_last_activity", time.monotonic())
    )

    @property
    def protected(self) -> bool:
        """Whether it may not be closed to make room: it is being sent what a valid key asked for, or a thread works."""
        return bool(self.requests or (self.context and self.context.key_id))

    @property
    def busy(self) -> bool:
        """Whether there is something left to answer or to send."""
        return bool(self.requests or self.total_outbufs_len or self._unread or self.context)

    def received(self, data: bytes) -> bool:
        """Take in what came, and answer the first request that is complete."""
        self._unread += data
        while self._unread and self._may_read():
            if self.request is None:
                self.request, self.since = self.parser_class(self.adj), time.monotonic()
            self._unread = self._unread[self.request.received(self._unread) :]
            completed = self.request.completed
            if self._expects_continue(self.request):
                self.send_continue()
            if completed:
                request, self.request, self.sent_continue = self.request, None, False
                if not request.empty:
                    self._answer(request)
                    break  # the other connections have their turn before the next one
        return True

    def _expects_continue(self, request: Any) -> bool:
        """Say whether a client waits for `100 Continue` before it sends its body, even one of `Content-Length: 0`.

        Without a body a final answer alone would do, but Java's HttpClient sends that length with every GET, and up to
        JDK 18 waits forever for the body of a final answer that no 100 came before (JDK-8286171).
        """
        begun = self.sent_continue or self._unread or request.body_bytes_received or request.error
        return request.expect_continue and not begun and (request.chunked or "CONTENT_LENGTH" in request.headers)

    def _may_read(self) -> bool:
        closing = self.will_close or self.close_when_flushed or not self.connected
        return not (self.requests or self.total_outbufs_len or closing)

    def _answer(self, request: Any) -> None:
        headers = request.headers
        self.context = RequestContext(
            self.addr[0],
            choose_request_id(headers.get("X_REQUEST_ID")),
            getattr(request, "command", ""),
            getattr(request, "path", "").encode("latin-1").decode("utf-8", "replace"),
            headers.get("USER_AGENT", ""),
            request.version,
            on_event_loop=True,
        )
        self.since = self.context.began
        self.requests.append(request)
        self.server.add_task(self)
        self._settle()

    def _settle(self) -> None:
        """Report an answer once it is out."""
        if self.context is not None and not self.requests and not self.total_outbufs_len:
            self._report(0)

    def _report(self, unsent_bytes: int) -> None:
        with self.outbuf_lock:  # a thread that has just answered may be at the same
            context, self.context = self.context, None
        if context is not None:
            self.has_key, self.since = context.key_id is not None, time.monotonic()
            if context.status:
                sent = max(context.body_bytes - unsent_bytes, 0)
                self.server.owner.on_answer(context, sent, complete=unsent_bytes == 0)

    def readable(self) -> bool:
        """Say whether there is room for more."""
        return not self._unread and bool(super().readable())

    def writable(self) -> bool:
        """Say whether there is something to send, to report, or to go on with."""
        if self.context is None and not self._unread:
            return bool(super().writable())  # asked of every connection in every turn
        going_on = not self.requests and (self.context is not None or self._may_read())
        return going_on or bool(super().writable())

    def handle_write(self) -> None:
        """Send what the client takes, then go on with what it asked for meanwhile."""
        super().handle_write()
        self._settle()
        if self._unread and self.connected:
            self.received(b"")

    def service(self) -> None:
        """Answer a request; if the client has gone while a thread was at work, report that."""
        super().service()
        if self.context is not None and not self.connected and not self.requests:
            self._report(self._unsent_bytes or self.context.body_bytes)

    def handle_close(self) -> None:
        """Close the connection; an answer that was not sent to its end is reported as such."""
        self._unsent_bytes = self.total_outbufs_len
        if self.context is not None and not self.requests:
            self._report(self._unsent_bytes)
        super().handle_close()


class _Dispatcher(ThreadedTaskDispatcher):
    """Answers at once what is quick, and leaves the rest to waitress's threads."""

    def add_task(self, task: _Channel) -> None:
        try:
            task.service()
        except OffloadToThread:
            if task.context is not None:
                task.context.on_event_loop = False
            super().add_task(task)


class _Listener(BaseWSGIServer):
    """One listening socket."""

    channel_class = _Channel

    def __init__(self, owner: "Server", bound: socket.socket) -> None:
        self.owner = owner
        info = (bound.family, bound.type, bound.proto, bound.getsockname())
        shared = {"dispatcher": owner.dispatcher, "adj": owner.adjustments}
        super().__init__(owner.app, owner.map, True, bound, sockinfo=info, bind_socket=False, **shared)

    def getsockname(self) -> tuple[str, int]:
        """Return what a WSGI environment must have and nobody here reads: the server's name and port."""
        return "localhost", 80

    def readable(self) -> bool:
        """Say whether another connection may be accepted."""
        return bool(self.accepting) and time.monotonic() >= self.owner.paused_until

    def handle_accept(self) -> None:
        """Take one connection; one at a time, so that other processes get theirs."""
        if self.owner.make_room():
            super().handle_accept()

    def accept(self) -> Any:
        """Accept a connection, or pause if the system has no room for it."""
        try:
            accepted = super().accept()
            self.owner.short_of_room = False
            return accepted
        except OSError as error:
            self.owner.pause(f"{errno.errorcode.get(error.errno or 0, '')} {error.strerror}".strip())
            return None

    def set_socket_options(self, conn: socket.socket) -> None:
        """Send small answers at once."""
        if self.family != socket.AF_UNIX:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fix_addr(self, addr: Any) -> tuple[str, int]:
        """Return the address of a peer; an IPv4 address in IPv6 form is an IPv4 address."""
        return (UNIX, 0) if self.family == socket.AF_UNIX else (plain_address(addr[0]), addr[1])

    def pull_trigger(self) -> None:
        """Wake the loop, unless it is the loop itself that asks."""
        if threading.get_ident() != self.owner.thread:
            super().pull_trigger()

    def stop(self) -> None:
        """Accept nobody any more."""
        self.accepting = False
        self.del_channel()
        self.socket.close()


# --- the server ------------------------------------------------------------------------------------------------------


class Server:
    """The connections of one process, on one or more listening sockets, answered by a WSGI application.

    `on_answer` is called with the context, the bytes sent and `complete` when an answer has left or is broken off. At
    `max_connections`, those without a valid key are closed, those that wait longest first.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        listeners: Sequence[socket.socket],
        *,
        threads: int,
        on_answer: OnAnswer = lambda *_, **__: None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        # Nothing is spooled to temporary files, and nobody waits for a client that asks for much and reads nothing: a
        # connection has one answer at a time, and large PDFs are sent from their open files.
        self.adjustments = Adjustments(
            ident=None,
            log_socket_errors=False,
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
            clear_untrusted_proxy_headers=False,  # the application knows whom it trusts
            outbuf_overflow=sys.maxsize,
            outbuf_high_watermark=sys.maxsize,
        )
        self.app = app
        self.on_answer = on_answer
        self.map: dict[int, Any] = {}
        self.dispatcher = _Dispatcher()
        self.dispatcher.set_thread_count(threads)
        self.ending = False
        self.thread = 0
        self.paused_until = 0.0
        self.short_of_room = False
        self._max_connections = max_connections
        self._deadline = 0.0
        self._listeners = [_Listener(self, listener) for listener in listeners]
        # It warns of every request that waits for a thread.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)

    def connections(self) -> list[_Channel]:
        """Return the open connections."""
        return [found for found in self.map.values() if isinstance(found, _Channel)]

    def run(self, at_each_turn: Callable[[], None] = lambda: None) -> None:
        """Serve until `end` is called, then finish; `at_each_turn` is called at least every quarter of a second."""
        self.thread = threading.get_ident()
        looked = time.monotonic()
        while not self.ending:
            self._turn(TICK_SECONDS)
            at_each_turn()
            if time.monotonic() - looked >= TICK_SECONDS:
                looked = time.monotonic()
                self._close_late(looked)
        self._finish()

    def _turn(self, timeout_s: float) -> None:
        wasyncore.loop(timeout=timeout_s, use_poll=True, map=self.map, count=1)

    def end(self, grace_s: float) -> None:
        """Ask the loop to end: it accepts nobody any more, and finishes what is under way within a time."""
        self._deadline = time.monotonic() + grace_s
        self.ending = True
        self._listeners[0].trigger.pull_trigger()

    def _finish(self) -> None:
        for listener in self._listeners:  # who has connected already is answered
            count = -1
            while count < len(self.map) < self._max_connections:
                count = len(self.map)
                listener.handle_accept()
        self._turn(0)
        for listener in self._listeners:
            listener.stop()
        while any(channel.busy for channel in self.connections()) and time.monotonic() < self._deadline:
            self._turn(0.05)
        self.dispatcher.shutdown(timeout=max(self._deadline - time.monotonic(), 0.1))
        for channel in self.connections():
            channel.handle_close()
        for listener in self._listeners:
            listener.trigger.close()

    def _close_late(self, now: float) -> None:
        """Close what has been silent or incomplete for too long."""
        for channel in self.connections():
            late = channel.request is not None and now - channel.since > REQUEST_SECONDS
            if late or (not channel.requests and now - channel.last_activity > IDLE_SECONDS):
                channel.will_close = True

    def make_room(self) -> bool:
        """Say whether one more connection has room, if need be by closing one that waits in vain."""
        if len(self.map) < self._max_connections:
            return True
        idle = [channel for channel in self.connections() if not channel.will_close and not channel.protected]
        if not idle:
            self.pause("each has a download under way")
            return False
        # Closed in the next turn: in this one its descriptor must not become another's.
        first = min(idle, key=lambda channel: (channel.has_key, bool(channel.total_outbufs_len), channel.since))
        first.will_close = True
        return True

    def pause(self, reason: str) -> None:
        """Accept nobody for a moment; reported once, until there is room again."""
        self.paused_until = time.monotonic() + PAUSE_SECONDS
        if not self.short_of_room:
            advice = "raise the limit of open files (LimitNOFILE, ulimit -n)"
            log.error("no room for another connection beside %s (%s): %s", len(self.connections()), reason, advice)
        self.short_of_room = True
