"""HTTP to a remote end: patience with what may heal, and bodies that go on where they broke off."""

import io
import random
import re
import ssl
import time
import weakref
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
    LineTooLong,
    RemoteDisconnected,
)
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from craftkit_archive.errors import AssetUnreadableError, RemoteError, RequestError
from craftkit_archive.store import mask_address

ATTEMPTS = 5
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 16.0
TIMEOUT_SECONDS = 60.0
# Nothing has a size of more.
MAX_LENGTH_DIGITS = 18
# As much of an answer that nobody wants is read to keep its connection; with more, a new one is cheaper.
REST_BYTES = 64 << 10
MAX_LINE_BYTES = 64 << 10
MAX_FIELDS = 100
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})[ \r\n]")
_PATH = re.compile(r"[!-~]*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
# What a server says when it may do better later.
HEALING = frozenset({429, 500, 502, 503, 504})

# What asking, and reading an answer, raise when the connection breaks off.
BROKEN = (OSError, HTTPException)


class Remote:
    """A remote end. Every request is tried up to five times, with pauses that grow from 1 s to 16 s and are uneven.

    Redirections are not followed: a key or a signature is for the one who was asked. Connections are kept and used
    again. The environment's proxy is used, except one that is itself reached through TLS.

    Args:
        url: Any address of it.
        lanes: How many connections to keep.
        ca_bundle: Certificates to trust instead of the system's.

    Attributes:
        origin: Its scheme, host and port.

    Raises:
        RequestError: The address is none, or that of the proxy for it.
    """

    def __init__(self, url: str, *, lanes: int, ca_bundle: str | None = None) -> None:
        parts = split_url(url)
        self._parts = parts
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._lanes = lanes
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_bundle)
            except OSError as error:
                raise RequestError(f"The certificates in {ca_bundle} cannot be read ({error}): mend that.") from error
            self._tls.set_alpn_protocols(["http/1.1"])
        self._proxy = _proxy_for(parts)
        self._proxy_headers = _proxy_headers(self._proxy)
        self._prefix = self.origin if self._proxy and self._tls is None else ""

    def request(self, method: str, path: str, headers: Callable[[], Mapping[str, str]]) -> "Answer":
        """Ask, and return the answer with its body unread, whatever its status: `ask` and `Asked.answer` in one.

        Raises:
            RemoteError: It could not be reached, or kept answering that it cannot now.
        """
        return self.ask(method, path, headers).answer()

    def ask(self, method: str, path: str, headers: Callable[[], Mapping[str, str]]) -> "Asked":
        """Send a request, and do not wait for its answer.

        So one thread keeps several requests under way, each on a connection of its own. What goes wrong is told, or
        tried again, when the answer is asked for.

        Args:
            method: HTTP's.
            path: What, from the first slash on.
            headers: Makes the headers of each attempt: a signature grows old.
        """
        return Asked(self, method, path, headers)

    def send(self, method: str, path: str, headers: Mapping[str, str], *, anew: bool = False) -> HTTPConnection:
        """Send one request over a connection that is idle, or over a new one."""
        given = {"Host": self._parts.netloc, **(self._proxy_headers if self._prefix else {}), **headers}
        lines = "".join([f"{name}: {value}\r\n" for name, value in given.items()])
        try:
            head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        except UnicodeEncodeError:
            head = b""
        if head.count(b"\n") != len(given) + 2 or head.count(b"\r") != len(given) + 2:
            raise RequestError(f"What {self.origin} would be sent is no request: mend the key or the credentials.")
        connection = None
        if not anew:
            with suppress(IndexError):
                connection = self._idle.pop()
        connection = connection or self._connect()
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.sendall(head)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._proxy is None:
            if self._tls is not None:
                return HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=self._tls)
            return HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        if self._tls is None:
            return HTTPConnection(self._proxy.hostname or "", self._proxy.port, timeout=TIMEOUT_SECONDS)
        through = HTTPSConnection(
            self._proxy.hostname or "", self._proxy.port or 80, timeout=TIMEOUT_SECONDS, context=self._tls
        )
        through.set_tunnel(host, port, self._proxy_headers)
        return through

    def keep(self, connection: HTTPConnection) -> None:
        """Take a connection back that nobody uses any more."""
        if len(self._idle) < self._lanes:
            self._idle.append(connection)
        else:
            connection.close()


def _close(connections: list[HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _proxy_for(parts: SplitResult) -> SplitResult | None:
    named = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not named:
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    try:
        if proxy.scheme == "http" and proxy.hostname and proxy.port != 0:
            return proxy
    except ValueError:
        pass
    raise RequestError(
        f"{mask_address(named)}, the proxy that the environment names, cannot be used: write http://host:port."
    )


def _proxy_headers(proxy: SplitResult | None) -> dict[str, str]:
    if proxy is None or proxy.username is None:
        return {}
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(said.encode()).decode()}"}


class Asked:
    """A request that was sent, and whose answer nobody has waited for; see `Remote.ask`."""

    def __init__(self, remote: Remote, method: str, path: str, headers: Callable[[], Mapping[str, str]]) -> None:
        self._remote = remote
        self._request = method, path
        self._headers = headers
        self._sent: HTTPConnection | BaseException
        self._send()

    def _send(self, *, anew: bool = False) -> None:
        try:
            self._sent = self._remote.send(*self._request, self._headers(), anew=anew)
        except BROKEN as error:
            self._sent = error

    def answer(self) -> "Answer":
        """Wait for the answer, and return it with its body unread, whatever its status.

        Raises:
            RemoteError: The remote end could not be reached, or kept answering that it cannot now.
        """
        origin = self._remote.origin
        for pause in pauses():
            wait = 0.0
            try:
                answer = self._take()
            except ssl.SSLCertVerificationError as error:  # it heals by hand only
                said = f"{origin} has a certificate that nobody here trusts ({error.verify_message})"
                raise RemoteError(f"{said}: set SSL_CERT_FILE or AWS_CA_BUNDLE to that of its authority.") from error
            except BROKEN as error:
                problem: tuple[str, BaseException | None] = (_reason(error), error)
            else:
                if answer.status not in HEALING:
                    return answer
                problem = (f"it answers {answer.status}", None)
                asked = answer.headers.get("retry-after", "")
                wait = min(float(asked), MAX_PAUSE_SECONDS) if asked.isdecimal() else 0.0
                answer.finish()
            if pause is not None:
                time.sleep(max(pause, wait))
                self._send()
        raise RemoteError(f"{origin} kept failing ({problem[0]}): try again later.") from problem[1]

    def _take(self) -> "Answer":
        try:
            return self._receive()
        except ConnectionError:  # an idle connection may have been closed meanwhile, which is no failure
            self._send(anew=True)
            return self._receive()

    def _receive(self) -> "Answer":
        if isinstance(self._sent, BaseException):
            raise self._sent
        connection = self._sent
        try:
            return Answer(connection, self._request[0], self._remote.keep)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Forget about the answer."""
        if not isinstance(self._sent, BaseException):
            self._sent.close()


class _Response(HTTPResponse):
    """http.client's, but for the head: its parser is one for e-mail, and takes as long as hashing a PDF does."""

    def __init__(self, connection: HTTPConnection, method: str) -> None:
        super().__init__(connection.sock, method=method)
        self._bodiless = method == "HEAD"
        self.fields: dict[str, str] = {}

    def begin(self) -> None:
        """Read the head, and see how the body ends.

        Source: RFC 9112, sections 2 to 6.
        """
        for _ in range(MAX_FIELDS):
            self.version, self.status = self._read_status_line()
            self.fields = self._read_fields()
            if self.status >= 200:
                break
        else:
            raise HTTPException("answers before the answer without end")
        coding, length = self.fields.get("transfer-encoding", "").lower(), length_of(self.fields)
        if coding not in ("", "chunked") or ("content-length" in self.fields and length is None and not coding):
            raise HTTPException("an answer whose length cannot be told")
        self.chunked, self.chunk_left = bool(coding), None
        self.length = None if coding else length
        if self._bodiless or self.status in (204, 304):
            self.chunked, self.length = False, 0
        kept = self.chunked or self.length is not None
        self.will_close = not kept or self.version == 10 or self.fields.get("connection", "").lower() == "close"

    def _read_status_line(self) -> tuple[int, int]:
        line = self._read_line()
        if not line:
            raise RemoteDisconnected("it closed the connection without an answer")
        found = _STATUS.match(line)
        if not found:
            raise BadStatusLine(line[:40].decode("latin-1"))
        return 10 + int(found[1]), int(found[2])

    def _read_fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        for _ in range(MAX_FIELDS):
            line = self._read_line()
            if line in (b"\r\n", b"\n"):
                return fields
            if not line.endswith(b"\n"):
                raise RemoteDisconnected("it closed the connection in the head of an answer")
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.lower(), value.strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        raise HTTPException("an answer with a head without end")

    def _read_line(self) -> bytes:
        line = self.fp.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise LineTooLong("head")
        return line


class Answer:
    """An answer whose body is unread; whoever has it calls `finish` or `close` once.

    Attributes:
        status: HTTP's.
        headers: By name in lower case; several of one name are joined with commas.
    """

    def __init__(self, connection: HTTPConnection, method: str, keep: Callable[[HTTPConnection], None]) -> None:
        self._connection = connection
        self._keep = keep
        self._response = _Response(connection, method)
        try:
            self._response.begin()
        except BaseException:
            self._response.close()
            raise
        self.status = self._response.status
        self.headers: Mapping[str, str] = self._response.fields

    def read(self, size: int) -> bytes:
        """Read so many bytes of the body; fewer only before its end, none only at its end.

        Raises:
            OSError, HTTPException: It broke off; see `BROKEN`.
        """
        found = self._response.read(size)
        if not found and self._response.length:
            raise IncompleteRead(b"", self._response.length)
        return found

    def finish(self) -> None:
        """Give the connection back, to be used again; close it if more than a little is left to read."""
        with suppress(*BROKEN):
            if not self._response.isclosed():
                self._response.read(REST_BYTES)
            if self._response.isclosed() and not self._response.will_close:  # at its end it closes itself
                self._keep(self._connection)
                return
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()


def length_of(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes an answer says to have; None if it does not say so in a way that can be true."""
    text = headers.get("content-length", "")
    return int(text) if len(text) <= MAX_LENGTH_DIGITS and text.isascii() and text.isdecimal() else None


def split_url(url: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        RequestError: It is none of HTTP.
    """
    try:
        parts = urlsplit(url)
        right = _HOST.fullmatch(parts.hostname or "") and _PATH.fullmatch(parts.path) and parts.port != 0
        if parts.scheme in ("http", "https") and right:
            return parts
    except ValueError:
        pass
    raise RequestError(f"{mask_address(url)} is no URL: write https://host, with a port if need be.")


def pauses() -> Iterator[float | None]:
    """Yield, for each attempt, how many seconds to wait after it if it failed; None after the last."""
    for attempt in range(ATTEMPTS - 1):
        yield min(PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS) * random.uniform(0.75, 1.25)  # noqa: S311
    yield None


class Body(io.RawIOBase):
    """The bytes of a remote object as a file: read as they arrive, and asked for again from where they broke off.

    Args:
        key: What it is, for people.
        first: The answer to a request for the whole of it.
        size_bytes: How many bytes it has.
        ask: Asks for the bytes from an offset on, of the very same object.

    Raises:
        AssetUnreadableError: From any method that reads: it changed in between, or kept breaking off.
        RemoteError: From any method that reads: the remote end could not be asked for the rest.
    """

    def __init__(self, key: str, first: Answer, size_bytes: int, ask: Callable[[int], Answer]) -> None:
        super().__init__()
        self._key = key
        self._answer: Answer | None = first
        self._size = size_bytes
        self._ask = ask
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes: to read on from elsewhere is another request."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at != self._at:
            self._drop()
            self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes; fewer only at the end."""
        wanted = max(self._size - self._at, 0)
        if 0 <= size < wanted:
            wanted = size
        if not wanted:
            self._finish()
            return b""
        for pause in pauses():
            try:
                if self._answer is None:
                    self._answer = self._ask(self._at)
                found = self._answer.read(wanted)
                if found:
                    self._at += len(found)
                    return found
                problem: BaseException | None = None
            except BROKEN as error:
                problem = error
            self._drop()
            if pause is not None:
                time.sleep(pause)
        raise AssetUnreadableError(f"{self._key} kept breaking off at byte {self._at}: try again later.") from problem

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._drop() if self._at < self._size else self._finish()
        super().close()

    def _finish(self) -> None:
        """Give the connection back, to be used again."""
        if self._answer is not None:
            self._answer.finish()
            self._answer = None

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _reason(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) else None
    return str(said or type(error).__name__)


@lru_cache(maxsize=8)
def remote(url: str, lanes: int, ca_bundle: str | None = None) -> Remote:
    """Return this process's one pool of connections to a place."""
    return Remote(url, lanes=lanes, ca_bundle=ca_bundle)
