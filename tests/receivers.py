"""Where notices arrive in tests: an HTTP receiver with faults, and a real SMTP server."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

Answer = int | Literal["hang", "drip", "echo", "endless", "flood", "break", "continue"]


class Request(NamedTuple):
    """What arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """An HTTP server that notes what it gets.

    Attributes:
        url: Its address.
        got: What arrived, in order.
        answers: How the next requests are answered: by a status, or a fault; then all by 200.
        location: Where a redirection leads.
    """

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{server.server_port}"
        self.got: list[Request] = []
        self.answers: list[Answer] = []
        self.location = ""
        self.closing = Event()


@contextmanager
def http_receiver(certificate: Path | None = None) -> Iterator[Receiver]:
    """Run a receiver on the loopback, with TLS if there is a certificate with its key."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    Handler.owner = receiver = Receiver(server, "https" if certificate else "http")
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Receiver

    def handle(self) -> None:
        with suppress(OSError):  # a client that goes away, or does not trust the certificate
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.got.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = self.owner.answers.pop(0) if self.owner.answers else 200
        match answer:
            case int():
                self.send_response(answer)
                if self.owner.location:
                    self.send_header("Location", self.owner.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "hang":
                self.owner.closing.wait(60)
            case "drip":
                for byte in b"HTTP/1.1 200 OK\r\n" * 400:
                    self.wfile.write(bytes([byte]))
                    if self.owner.closing.wait(0.05):
                        break
            case "echo":
                self.wfile.write(f"{self.path} {self.headers}".encode() + body)
            case "endless" | "flood":
                self.wfile.write(b"HTTP/1.1 500 No\r\n\r\n" if answer == "endless" else b"HTTP/1.1 200 OK\r\n\r\n")
                while not self.owner.closing.is_set():
                    self.wfile.write(bytes(65_536))
            case "continue":
                while not self.owner.closing.wait(0.001):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            case "break":
                pass
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        pass


class MailServer:
    """A real SMTP server.

    Attributes:
        port: Where it listens on the loopback.
        got: The messages that it took, parsed.
        raw: The same as they were sent.
        recipients: For each, to whom.
        logins: For each, who had logged in, and whether that was in the clear.
        refuse: Recipients that it refuses.
    """

    def __init__(self) -> None:
        self.port = 0
        self.got: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.recipients: list[list[str]] = []
        self.logins: list[str | None] = []
        self.refuse: set[str] = set()

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:
        """Take a recipient, or refuse it with words that hold what a server knows."""
        if address in self.refuse:
            return f"550 {address} is unknown"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        """Take a message."""
        self.raw.append(envelope.original_content)
        self.got.append(message_from_bytes(envelope.original_content, policy=policy.default))
        self.recipients.append(envelope.rcpt_tos)
        login = session.auth_data.login.decode() if session.auth_data else None
        self.logins.append(login if session.ssl is not None else f"{login} in the clear")
        return "250 OK"


@contextmanager
def smtp_server(
    certificate: Path | None = None, *, tls: Literal["starttls", "tls"] = "starttls", password: str | None = None
) -> Iterator[MailServer]:
    """Run an SMTP server on the loopback; with a certificate it demands TLS, with a password that somebody logs in."""
    mail = MailServer()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def log_in(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        right = isinstance(given, LoginPassword) and given.password == (password or "").encode()
        return AuthResult(success=right, handled=False, auth_data=given if right else None)

    by_start = context is not None and tls == "starttls"
    controller = Controller(
        mail,
        hostname="127.0.0.1",
        port=0,
        ssl_context=context if tls == "tls" else None,
        tls_context=context if by_start else None,
        require_starttls=by_start,
        authenticator=log_in,
        auth_required=password is not None,
        auth_require_tls=by_start,
        enable_SMTPUTF8=True,
    )

    def connect_once() -> None:
        # Its own way connects to the port that was asked for, which is 0 here.
        assert isinstance(controller.server, asyncio.Server)
        mail.port = controller.server.sockets[0].getsockname()[1]
        socket.create_connection(("127.0.0.1", mail.port), timeout=5).close()

    controller._trigger_server = connect_once  # type: ignore[method-assign]
    controller.start()
    try:
        yield mail
    finally:
        controller.stop()


@contextmanager
def talking(*lines: bytes, pause_s: float = 0, endless: bytes = b"") -> Iterator[int]:
    """Run a server that says these lines, one after each that it gets, whatever that is; give its port."""
    closing = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                for line in lines:
                    for byte in line if pause_s else ():
                        connection.sendall(bytes([byte]))
                        closing.wait(pause_s)
                    connection.sendall(b"" if pause_s else line)
                    connection.recv(65_536)
                while endless and not closing.is_set():
                    connection.sendall(endless)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

        Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        closing.set()


def wait_until(true: Any, seconds: float = 10) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
