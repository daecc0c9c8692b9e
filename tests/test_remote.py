"""HTTP to a remote end: kept connections, requests ahead, TLS, proxies, and heads of any kind."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive import remote
from craftkit_archive.errors import RemoteError, RequestError
from craftkit_archive.remote import Answer, Remote

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Talk:
    """A server that is scripted to the byte.

    Attributes:
        port: Where it listens on the loopback.
        asked: The head of every request, in the order in which they came.
        connections: How many there have been.
    """

    def __init__(self, reply: Callable[["Talk", socket.socket, str], bool]) -> None:
        self.asked: list[str] = []
        self.connections = 0
        self.lock = threading.Lock()
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.tls: ssl.SSLContext | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                while head := self.read(connection):
                    with self.lock:
                        self.asked.append(head)
                    if not self._reply(self, connection, head):
                        return

    @staticmethod
    def read(connection: socket.socket) -> str:
        """Read the head of a request."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return ""
            head += piece
        return head.decode("latin-1")

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


@contextmanager
def talking(reply: Callable[[Talk, socket.socket, str], bool]) -> Iterator[Talk]:
    """Run such a server; `reply` says whether the connection stays open."""
    server = Talk(reply)
    yield server
    server.close()


def always(answer: bytes, *, stay: bool = True) -> Callable[[Talk, socket.socket, str], bool]:
    """Reply the same to everything."""

    def reply(_server: Talk, connection: socket.socket, _head: str) -> bool:
        connection.sendall(answer)
        return stay

    return reply


def end(server: Talk, *, lanes: int = 4, scheme: str = "http", ca_bundle: str | None = None) -> Remote:
    """Return a remote end that is the server."""
    return Remote(f"{scheme}://127.0.0.1:{server.port}", lanes=lanes, ca_bundle=ca_bundle)


def get(place: Remote, path: str = "/x") -> bytes:
    """Get all of a body."""
    answer = place.request("GET", path, dict)
    body = rest(answer)
    answer.finish()
    return body


def rest(answer: Answer) -> bytes:
    """Read what is left of a body, in small pieces."""
    return b"".join(iter(lambda: answer.read(3), b""))


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that waits."""
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 5.0)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "")


def test_a_connection_is_used_again() -> None:
    with talking(always(OK)) as server:
        place = end(server)
        assert [get(place) for _ in range(5)] == [b"hello"] * 5
        assert server.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "pauses", lambda: iter([None]))  # a single attempt
    with talking(always(OK, stay=False)) as server:
        place = end(server)
        assert [get(place) for _ in range(3)] == [b"hello"] * 3
        assert server.connections == 3


def test_what_is_left_of_an_answer_is_read_if_it_is_little_and_left_if_it_is_much() -> None:
    for size, connections in ((1000, 1), (10_000_000, 2)):
        with talking(always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))) as server:
            place = end(server)
            for _ in range(2):
                place.request("GET", "/x", dict).finish()
            assert server.connections == connections


def test_several_requests_are_under_way_at_once_without_threads() -> None:
    together = threading.Barrier(4)

    def reply(_server: Talk, connection: socket.socket, head: str) -> bool:
        together.wait(5)  # nobody is answered before all have asked
        path = head.split()[1].encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
        return True

    with talking(reply) as server:
        place = end(server)
        asked = [place.ask("GET", f"/{number}", dict) for number in range(4)]
        for number, one in enumerate(asked):
            answer = one.answer()
            assert rest(answer) == b"/%d" % number
            answer.finish()


def test_what_nobody_waits_for_any_more_is_forgotten() -> None:
    with talking(always(OK)) as server:
        place = end(server)
        place.ask("GET", "/x", dict).close()
        assert get(place) == b"hello"


BODIES = {
    "length": b"Content-Length: 5\r\n\r\nhello",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: t\r\n\r\n",
    "both; chunks hold": b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "names in any case": b"CONTENT-length:5 \r\n\r\nhello",
    "plain line feeds": b"Content-Length: 5\n\nhello",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
)
def test_a_body_ends_where_its_head_says(body: str, before: bytes) -> None:
    with talking(always(before + b"HTTP/1.1 200 OK\r\n" + BODIES[body])) as server:
        place = end(server)
        assert [get(place), get(place)] == [b"hello", b"hello"]
        assert server.connections == 1, "what was read to its end is used again"


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    for head in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"):
        with talking(always(head + b"hello", stay=False)) as server:
            place = end(server)
            assert [get(place), get(place)] == [b"hello", b"hello"]


@pytest.mark.parametrize(
    ("status", "method"), [(b"204 No Content", "GET"), (b"304 Not Modified", "GET"), (b"200 OK", "HEAD")]
)
def test_what_has_no_body_is_not_waited_for(status: bytes, method: str) -> None:
    with talking(always(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")) as server:
        answer = end(server).request(method, "/x", dict)
        assert (answer.read(9), answer.headers["content-length"]) == (b"", "5")
        answer.finish()


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status that is none": b"HTTP/1.1 20 OK\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
    "a line without end": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000,
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    "answers before the answer": b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    "a coding that nobody asked for": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_answer_is_asked_for_again_and_then_told(kind: str) -> None:
    with talking(always(BROKEN[kind], stay=False)) as server:
        with pytest.raises(RemoteError, match="kept failing"):
            get(end(server))
        assert len(server.asked) >= remote.ATTEMPTS


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    for head in (b"Content-Length: 50\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n50\r\nhello"):
        with talking(always(b"HTTP/1.1 200 OK\r\n" + head, stay=False)) as server:
            answer = end(server).request("GET", "/x", dict)
            with pytest.raises(remote.BROKEN):
                rest(answer)
            answer.close()


@given(st.binary(max_size=200))
def test_no_bytes_whatever_are_a_bug_of_ours(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.close()
        connection = HTTPConnection("host")
        connection.sock = ours
        with suppress(*remote.BROKEN):
            rest(Answer(connection, "GET", lambda kept: kept.close()))
        connection.close()


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\n", "a\rb", "a typographic \u201cquote\u201d"])
def test_what_is_no_header_is_not_sent(value: str) -> None:
    with talking(always(OK)) as server:
        with pytest.raises(RequestError, match="no request"):
            end(server).request("GET", "/x", lambda: {"X-Token": value})
        assert server.asked == []


# --- TLS and proxies -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def encrypted(certificate: Path) -> Iterator[Talk]:
    """Run a server that speaks TLS."""
    with talking(always(OK)) as server:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(certificate)
        yield server


def test_a_certificate_is_trusted_if_it_is_named(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with encrypted(certificate) as server:
        assert get(end(server, scheme="https", ca_bundle=str(certificate))) == b"hello"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert get(end(server, scheme="https")) == b"hello"


def test_a_certificate_that_nobody_trusts_stops_it_at_once(certificate: Path) -> None:
    with encrypted(certificate) as server:
        with pytest.raises(RemoteError, match="SSL_CERT_FILE"):
            get(end(server, scheme="https"))
        assert (server.connections, server.asked) == (1, [])


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.pem"):
        Remote("https://127.0.0.1", lanes=1, ca_bundle=str(tmp_path / "none.pem"))


def test_a_plain_request_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(always(OK)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        assert get(Remote("http://bucket.example:9000", lanes=1), "/x?y=z") == b"hello"
        head = proxy.asked[0]
        assert head.startswith("GET http://bucket.example:9000/x?y=z HTTP/1.1\r\nHost: bucket.example:9000\r\n")
        assert "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head


def test_an_encrypted_request_goes_through_the_proxy_unread(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tunnel(_proxy: Talk, connection: socket.socket, _head: str) -> bool:
        connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port)) as further:
            for one, other in ((further, connection), (connection, further)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()
            threading.Event().wait(1)
        return False

    with encrypted(certificate) as server, talking(tunnel) as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert get(end(server, scheme="https")) == b"hello"
        assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.")
        assert server.asked[0].startswith("GET /x HTTP/1.1\r\n")


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)


def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://127.0.0.1:99999"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(RequestError, match="proxy"):
            Remote("http://bucket.example", lanes=1)
