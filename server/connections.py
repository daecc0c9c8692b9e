"""One connection, on waitress: its parser, tasks and buffers, one request at a time, and a line in the access log."""

import time
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import build_http_date

from server.errors import BAD_REQUEST, INTERNAL, envelope
from server.exchange import EXCHANGE, AccessLine, AccessLog, Exchange, TakesLong, now


class _Parser(HTTPRequestParser):
    """Waitress's, which lets some malformed addresses through as errors of its own, and bodies of unclear length.

    Source: RFC 9112, section 6.1: a message with both lengths, or with a transfer coding in HTTP/1.0, may be an attempt
    to smuggle a request past a proxy that reads the other one.
    """

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("Bad URI") from error
        if (self.chunked and "CONTENT_LENGTH" in self.headers) or "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("Unclear length")


class _Sending:
    """How a task of either kind sends: the head in the names that it was given, and the body together with it."""

    def __init__(self: Any, channel: "Channel", request: Any) -> None:
        super().__init__(channel, request)  # type: ignore[call-arg]
        channel.task = self

    def build_response_header(self: Any) -> bytes:
        if self.has_body and self.content_length is None:
            head: bytes = super().build_response_header()  # type: ignore[misc]
            return head
        connection = self.request.headers.get("CONNECTION", "").lower()
        if self.version == "1.0" and connection == "keep-alive":
            self.response_headers.append(("Connection", "Keep-Alive"))
        elif self.version == "1.0" or connection == "close":
            self.set_close_on_finish()
        lines = [f"{name}: {value}" for name, value in self.response_headers]
        date = _http_date(int(self.start_time))
        return "\r\n".join([f"HTTP/{self.version} {self.status}", *lines, f"Date: {date}\r\n\r\n"]).encode("latin-1")

    def write(self: Any, data: bytes) -> None:
        if self.wrote_header or not self.complete:
            super().write(data)  # type: ignore[misc]
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.channel.head_bytes = len(head)
        if self.chunked_response:
            self.channel.send_soon(head, b"")
            super().write(data)  # type: ignore[misc]
            return
        self.content_bytes_written += len(data)
        self.channel.send_soon(head, data if self.has_body else b"")


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return str(build_http_date(second))


class _Task(_Sending, WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[EXCHANGE] = self.channel.exchange
        return environ


class _ErrorTask(_Sending, ErrorTask):
    """What waitress itself refuses (no HTTP, too large), in the one envelope."""

    def execute(self) -> None:
        error = self.request.error
        code = BAD_REQUEST.code if error.code < 500 else INTERNAL.code
        body = envelope(code, f"The request cannot be answered: {error.reason}.")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.response_headers.append(("Content-Length", str(len(body))))
        self.content_length = len(body)
        self.write(body)


class Channel(HTTPChannel):
    """One connection: reads one request at a time, and goes on to the next when the answer is sent."""

    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask

    def __init__(self, *given: Any, **named: Any) -> None:
        self.since = self.began = time.monotonic()
        self.rest = b""  # of what was received: the next requests
        self.exchange = Exchange()
        self.head_bytes = self.queued_bytes = 0
        self.held_until = 0.0
        self.task: Any = None
        self.request: _Parser | None = None
        self.sent_continue = False
        self.watched = 0
        super().__init__(*given, **named)
        self.server.watch(self)

    # --- in

    def received(self, data: bytes) -> bool:
        """Take in what came, and answer if a request is whole."""
        self.rest += data
        answered = False
        while not answered and self.may_go_on():
            if self.request is None:
                self.request, self.since = self.parser_class(self.adj), time.monotonic()
            self.rest = self.rest[self.request.received(self.rest) :]
            if self.request.expect_continue and self.request.headers_finished and not self.sent_continue:
                self.send_continue()
            if self.request.completed:
                request, self.request, self.sent_continue = self.request, None, False
                if not request.empty:
                    self.requests.append(request)
                    self.answer()
                    answered = True  # it is for the others now
        return True

    def may_go_on(self) -> bool:
        """Say whether something came that can be read now, the answer before it being out."""
        waits = self.requests or self.total_outbufs_len or self.will_close or self.close_when_flushed
        return bool(self.rest and self.connected and not waits)

    def readable(self) -> bool:
        """Say whether there is room for more; see waitress."""
        return bool(super().readable()) and not self.rest

    def answer(self) -> None:
        """Answer a request at once, or leave it to a thread if that takes long."""
        self.began = self.since = time.monotonic()
        self.head_bytes = self.queued_bytes = 0
        self.exchange = Exchange(hurry=True, address=self.addr[0])
        try:
            self.service()
        except TakesLong:
            self.exchange = Exchange(address=self.addr[0])
            self.server.leave_to_thread(self)
        else:
            self.settle()

    # --- out

    def send_soon(self, head: bytes, body: bytes) -> None:
        """Send head and body; what the client does not take now is kept."""
        if not self.connected:
            raise ClientDisconnected
        self.queued_bytes += len(head) + len(body)
        sent = 0
        with self.outbuf_lock:
            hold = self.exchange.hold_seconds
            if hold:
                self.server.holding.add(self)
                self.held_until = time.monotonic() + hold
            elif not self.total_outbufs_len:
                with suppress(OSError):  # it is full, or gone: the loop will find out
                    sent = self.socket.sendmsg([head, body])
                    self.last_activity = time.time()
            if sent < len(head):
                self._keep(head[sent:])
            if sent < len(head) + len(body) and body:
                self._keep(body if sent <= len(head) else memoryview(body)[sent - len(head) :])

    def _keep(self, data: bytes | memoryview) -> None:
        if len(data) < 8192:
            self.outbufs[-1].append(bytes(data))
        else:
            kept = ReadOnlyFileBasedBuffer(BytesIO(data))
            kept.prepare()
            self.outbufs += [kept, type(self.outbufs[-1])(self.adj.outbuf_overflow)]
        self.total_outbufs_len += len(data)

    def write_soon(self, data: Any) -> int:
        """See waitress; counts."""
        written: int = super().write_soon(data)
        self.queued_bytes += written
        return written

    def writable(self) -> bool:
        """Say whether there is something to send, and it is time for it."""
        return bool(super().writable()) and (self.held_until == 0.0 or time.monotonic() >= self.held_until)

    def settle(self) -> None:
        """Send what is left of an answer, and log it once it is out."""
        if self.requests:
            return  # a thread is at it
        if self.connected and self.writable():
            self.handle_write()
        if self.task is not None and not (self.connected and self.total_outbufs_len):
            self._note(complete=self.connected)

    def handle_close(self) -> None:
        """See waitress; an answer that was not sent to its end is logged as such."""
        if self.task is not None and not self.requests:
            self._note(complete=not self.total_outbufs_len)
        super().handle_close()

    def del_channel(self, map: Any = None) -> None:
        """See waitress; nobody waits for it any more."""
        self.server.forget(self)
        super().del_channel(map)

    def busy(self) -> bool:
        """Say whether a request is being answered, or an answer sent."""
        return bool(self.requests or self.total_outbufs_len)

    def _note(self, *, complete: bool) -> None:
        task, self.task = self.task, None
        self.held_until = 0.0
        self.since = time.monotonic()
        access_log: AccessLog | None = self.server.access_log
        if access_log is None:
            return
        seen, request = self.exchange, task.request
        sent = max(self.queued_bytes - self.total_outbufs_len - self.head_bytes, 0)
        line = AccessLine(
            time=now(),
            address=seen.address,
            method=getattr(request, "command", ""),
            path=getattr(request, "path", "").encode("latin-1").decode("utf-8", "replace"),
            status=int(task.status[:3]),
            bytes_sent=sent,
            complete=complete,
            milliseconds=round((time.monotonic() - self.began) * 1000, 1),
            key_id=seen.key_id,
            project_id=seen.project_id,
            render_id=seen.render_id,
            range=seen.part,
            sha256=seen.digest,
        )
        self.server.log_access(access_log, line)
