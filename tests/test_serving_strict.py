"""What RFC 9110 and RFC 9112 demand of a server, as raw requests: what is sent, what must come back, what came back."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds import LIVE_KEY, fill, live, render_id

AUTH = f"Authorization: Bearer {LIVE_KEY}\r\n".encode()
SHOW = f"/v1/renders/{render_id(0)}".encode()
GET = b"GET /health HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
END = b"\r\n"


def host(value: bytes) -> bytes:
    """Write a request whose host is this."""
    return GET + b"Host: " + value + END + END


def line(value: bytes) -> bytes:
    """Write a good request with one more header line."""
    return GET + HOST + value + END + END


def chunked(body: bytes, coding: bytes = b"chunked") -> bytes:
    """Write a request with a body in chunks."""
    return b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + coding + END + END + body


# Name: what is sent, the statuses that must come back, in order, and whether the connection stays open.
TABLE: dict[str, tuple[bytes, list[int], bool]] = {
    # RFC 9112, section 2: messages
    "9112-2.2 an empty line before the request": (END + line(b"A: b"), [200], True),
    "9112-2.2 several empty lines before it": (END * 3 + line(b"A: b"), [200], True),
    "9112-2.2 a bare LF ends no line": (b"GET /health HTTP/1.1\nHost: x\n\n\r\n\r\n", [400], False),
    "9112-2.2 a bare CR in a line": (line(b"A: b\rc"), [400], False),
    "9112-2.2 a bare LF in a line": (line(b"A: b\nX: c"), [400], False),
    "9112-2.2 whitespace before the first header": (GET + b" Host: x\r\n\r\n", [400], False),
    "9112-2.3 no version": (b"GET /health\r\n\r\n", [400], False),
    "9112-2.3 HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", [200], False),
    "9112-2.3 HTTP/2.0": (b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", [505], False),
    "9112-2.3 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505], False),
    "9112-2.3 HTTP/3.0": (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", [505], False),
    "9112-2.3 HTTP/1.2": (b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", [505], False),
    "9112-2.3 HTTP/0.9": (b"GET /health HTTP/0.9\r\nHost: x\r\n\r\n", [505], False),
    "9112-2.3 HTTP/9.9": (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", [505], False),
    "9112-2.3 two digits": (b"GET /health HTTP/1.10\r\nHost: x\r\n\r\n", [400], False),
    "9112-2.3 lower case": (b"GET /health http/1.1\r\nHost: x\r\n\r\n", [400], False),
    # section 3: the request line
    "9112-3 two spaces": (b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3 a tab": (b"GET\t/health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3 no method": (b"/health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3 a method that is no token": (b"G@T /health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2 a space in the target": (b"GET /hea lth HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2 a control character": (b"GET /health\x01 HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2 a raw byte": (b"GET /health\xff HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2 a fragment": (b"GET /health#a HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2 no slash": (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2.2 the absolute form": (b"GET http://y/health HTTP/1.1\r\nHost: x\r\n\r\n", [200], True),
    "9112-3.2.2 with a user": (b"GET http://u@y/health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2.2 without a Host": (b"GET http://y/health HTTP/1.1\r\n\r\n", [400], False),
    "9112-3.2.2 of another scheme": (b"GET ftp://y/health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9112-3.2.3 the authority form": (b"CONNECT y:443 HTTP/1.1\r\nHost: y\r\n\r\n", [400], False),
    "9112-3.2.4 the asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404], True),
    # section 3.2 and RFC 9110, section 7.2: the host
    "9112-3.2 no Host": (GET + END, [400], False),
    "9112-3.2 no Host, HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", [200], False),
    "9112-3.2 two Hosts": (GET + HOST + b"Host: y\r\n\r\n", [400], False),
    "9112-3.2 the same Host twice": (GET + HOST + HOST + END, [400], False),
    "9112-3.2 an empty Host": (host(b""), [400], False),
    "9112-3.2 a name": (host(b"pdfs.example.org"), [200], True),
    "9112-3.2 a name and a port": (host(b"pdfs.example.org:8080"), [200], True),
    "9112-3.2 an IPv6 address": (host(b"[::1]:8080"), [200], True),
    "9112-3.2 an IPv6 address that is none": (host(b"[::1::2]"), [400], False),
    "9112-3.2 a user": (host(b"user@x"), [400], False),
    "9112-3.2 a path": (host(b"x/y"), [400], False),
    "9112-3.2 a query": (host(b"x?y"), [400], False),
    "9112-3.2 a space": (host(b"x y"), [400], False),
    "9112-3.2 markup": (host(b"<script>"), [400], False),
    "9112-3.2 a quote": (host(b'x"y'), [400], False),
    "9112-3.2 a raw byte as host": (host(b"\xff"), [400], False),
    "9112-3.2 a port that is none": (host(b"x:http"), [400], False),
    "9112-3.2 a port beyond the last": (host(b"x:70000"), [400], False),
    # section 5: header lines
    "9112-5.1 a space before the colon": (line(b"Content-Length : 0"), [400], False),
    "9112-5.1 no name": (line(b": b"), [400], False),
    "9112-5.1 no colon": (line(b"nonsense"), [400], False),
    "9112-5.1 whitespace around a value": (line(b"A:   b\t "), [200], True),
    "9112-5.2 a folded line": (line(b"A: b\r\n c"), [400], False),
    "9112-5.2 a line folded with a tab": (line(b"A: b\r\n\tc"), [400], False),
    "9110-5.5 a NUL in a value": (line(b"A: b\x00c"), [400], False),
    "9110-5.4 too many lines": (GET + HOST + b"A: b\r\n" * 101 + END, [431], False),
    "9110-5.4 too long a line": (line(b"A: " + b"b" * 70_000), [431], False),
    # section 6: the body's length
    "9112-6.1 an unknown coding": (chunked(b"", b"gzip"), [501], False),
    "9112-6.1 another before chunked": (chunked(b"", b"gzip, chunked"), [501], False),
    "9112-6.1 another after chunked": (chunked(b"0\r\n\r\n", b"chunked, gzip"), [501], False),
    "9112-6.1 chunked with a byte before it": (chunked(b"0\r\n\r\n", b"\x0bchunked"), [400], False),
    "9112-6.1 chunked with a parameter": (chunked(b"0\r\n\r\n", b"chunked;a=b"), [501], False),
    "9112-6.1 chunked twice": (chunked(b"0\r\n\r\n", b"chunked, chunked"), [411], False),
    "9112-6.1 chunked in two lines": (chunked(b"0\r\n\r\n", b"chunked\r\nTransfer-Encoding: chunked"), [411], False),
    "9112-6.1 an empty coding": (chunked(b"", b""), [411], False),
    "9112-6.1 in HTTP/1.0": (b"GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [411], False),
    "9112-6.1 both lengths": (line(b"Content-Length: 5\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n", [411], False),
    "9112-6.1 both, the other way": (
        line(b"Transfer-Encoding: chunked\r\nContent-Length: 0") + line(b"A: b"),
        [411],
        False,
    ),
    # A body without a length may be refused; then nothing that follows it is taken for a request.
    "9112-6.3 a body in chunks": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), [411], False),
    "9112-6.3 in upper case": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Chunked"), [411], False),
    "9112-6.3 a request after it": (chunked(b"0\r\n\r\n") + line(b"A: b"), [411], False),
    "9112-6.3 a request within it": (chunked(b"30\r\n" + line(b"A: b") + b"\r\n0\r\n\r\n"), [411], False),
    "9112-6.3 a body of 5,000 digits": (chunked(b"f" * 5000 + b"\r\nhello"), [411], False),
    "9112-6.3 a body without end": (chunked(b"1\r\na\r\n" * 20_000), [411], False),
    "9112-6.3 two lengths": (line(b"Content-Length: 0\r\nContent-Length: 1"), [400], False),
    "9112-6.3 a list of lengths": (line(b"Content-Length: 0, 0"), [400], False),
    "9112-6.3 a negative length": (line(b"Content-Length: -1"), [400], False),
    "9112-6.3 a signed length": (line(b"Content-Length: +1"), [400], False),
    "9112-6.3 a length of 5,000 digits": (line(b"Content-Length: " + b"9" * 5000), [400], False),
    "9112-6.3 a body that is too long": (line(b"Content-Length: 70000"), [413], False),
    "9112-6.3 a body is read and left": (line(b"Content-Length: 5") + b"hello" + line(b"A: b"), [200, 200], True),
    "9112-6.3 a request within a body": (
        line(b"Content-Length: %d" % len(line(b"A: b"))) + line(b"A: b") + line(b"A: b"),
        [200, 200],
        True,
    ),
    "9112-6.3 a body of 60 kB": (line(b"Content-Length: 60000") + b"a" * 60_000 + line(b"A: b"), [200, 200], True),
    # section 9 and RFC 9110, section 7.6.1: connections
    "9112-9.3 open by default": (line(b"A: b") * 2, [200, 200], True),
    "9112-9.3 close": (line(b"Connection: close") * 2, [200], False),
    "9110-7.6.1 a list with close": (line(b"Connection: TE, close") * 2, [200], False),
    "9110-7.6.1 in any case": (line(b"Connection: x , CLOSE") * 2, [200], False),
    "9110-7.6.1 in two lines": (line(b"Connection: TE\r\nConnection: close") * 2, [200], False),
    "9112-9.3 HTTP/1.0 stays open if asked": (
        b"GET /health HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n" * 2,
        [200, 200],
        True,
    ),
    # RFC 9110, section 10.1.1: expectations
    "9110-10.1.1 no body": (line(b"Expect: 100-continue"), [200], True),
    "9110-10.1.1 no body, and the next": (line(b"Expect: 100-continue") + line(b"A: b"), [200, 200], True),
    "9110-10.1.1 with a body": (
        line(b"Expect: 100-continue\r\nContent-Length: 5"),
        [100],
        True,
    ),
    "9110-10.1.1 the body came along": (line(b"Expect: 100-continue\r\nContent-Length: 5") + b"hello", [200], True),
    "9110-10.1.1 a body of no bytes": (line(b"Expect: 100-continue\r\nContent-Length: 0"), [100, 200], True),
    "9110-10.1.1 a body in chunks": (line(b"Expect: 100-continue\r\nTransfer-Encoding: chunked"), [411], False),
    "9110-10.1.1 the body comes later": (
        line(b"Expect: 100-continue\r\nContent-Length: 0") + line(b"A: b"),
        [200, 200],
        True,
    ),
    "9110-10.1.1 not for what is refused": (line(b"Expect: 100-continue\r\nContent-Length: 70000"), [413], False),
    "9110-10.1.1 HTTP/1.0": (b"GET /health HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", [200], False),
    # RFC 9110, section 9: methods
    "9110-9.1 an unknown method": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", [405], True),
    "9110-9.1 the case counts": (b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", [400], False),
    "9110-9.3.2 HEAD has no body": (b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n" + line(b"A: b"), [200, 200], True),
    "9110-15.4.5 304 has no body": (
        b"GET " + SHOW + b"/download HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n" + AUTH + END + line(b"A: b"),
        [304, 200],
        True,
    ),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a filled archive."""
    world = fill(tmp_path_factory.mktemp("strict"))
    with world.archive, live(world.archive) as url:
        yield url


def test_requests_and_bodies_are_read_alike_however_they_are_cut(url: str) -> None:
    name, port = url.removeprefix("http://").split(":")
    sent = END + line(b"Content-Length: 9") + b"\r\n\r\nGET /" + line(b"A: b") + line(b"Connection: close")
    for cut in range(1, len(sent)):
        with socket.create_connection((name, int(port)), timeout=5) as connection:
            connection.sendall(sent[:cut])
            time.sleep(0.002)
            connection.sendall(sent[cut:])
            got = b""
            while piece := connection.recv(1 << 16):
                got += piece
        assert statuses(got) == [200, 200, 200], cut


def talk(url: str, sent: bytes, *, silence_s: float = 0.4) -> tuple[bytes, bool]:
    """Send bytes, and return what came back until the server closed or fell silent, and whether it is still open."""
    name, port = url.removeprefix("http://").split(":")
    with socket.create_connection((name, int(port)), timeout=5) as connection:
        got = b""
        try:
            connection.sendall(sent)
            connection.settimeout(silence_s)
            while piece := connection.recv(1 << 16):
                got += piece
        except TimeoutError:
            return got, True
        except ConnectionResetError:
            pass
        return got, False


def statuses(got: bytes) -> list[int]:
    """Return the statuses of the answers in a stream."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)]


@pytest.mark.parametrize(("sent", "expected", "stays"), TABLE.values(), ids=TABLE.keys())
def test_what_the_standards_demand(url: str, sent: bytes, expected: list[int], stays: bool) -> None:
    got, still_open = talk(url, sent)
    assert (statuses(got), still_open) == (expected, stays), got[:300]
    if expected[-1] >= 400:
        head, _, body = got.partition(b"\r\n\r\n")
        assert json.loads(body)["error"]["code"] in ("bad_request", "internal", "not_found", "method_not_allowed")
        assert b"X-Request-Id: " in head
        assert (b"Connection: close" in head) == (not stays)


def test_no_header_of_a_request_outlives_it(url: str) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Expect: 100-continue\r\n\r\n"
    got, _ = talk(url, first + b"GET " + SHOW + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert statuses(got) == [200, 401]


def test_the_host_of_the_absolute_form_counts_and_that_of_the_header_does_not(url: str) -> None:
    request = b"GET http://y.example" + SHOW + b" HTTP/1.1\r\nHost: x.example\r\n" + AUTH + END
    got, _ = talk(url, request)
    assert json.loads(got.partition(b"\r\n\r\n")[2])["pollUrl"].startswith("http://y.example/")


def test_headers_by_the_thousand_are_refused_before_they_cost_time(url: str) -> None:
    sent = GET + HOST + b"X-A: b\r\n" * 8000 + END
    talk(url, sent, silence_s=5)
    began = time.monotonic()
    got, _ = talk(url, sent, silence_s=5)
    assert time.monotonic() - began < 0.15
    assert statuses(got) in ([431], [])  # a client that still sends may miss the answer


def test_the_table_is_long_enough_and_names_what_it_is_about() -> None:
    assert len(TABLE) >= 60
    assert all(re.match(r"911[02]-\d", name) for name in TABLE)


def test_a_file_that_is_cut_off_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=30_000_000)
    with world.archive, live(world.archive, None) as url:
        name, port = url.removeprefix("http://").split(":")
        slow = socket.create_connection((name, int(port)), timeout=10)
        second = socket.create_connection((name, int(port)), timeout=10)
        third = socket.create_connection((name, int(port)), timeout=10)
        request = b"GET " + SHOW + b"/download HTTP/1.1\r\nHost: x\r\n" + AUTH + END
        for connection in (slow, second, third):  # the third finds no room in memory
            connection.sendall(request)
            assert connection.recv(100)
        world.asset(0).write_bytes(b"%PDF")
        received = 100
        while piece := third.recv(1 << 20):
            received += len(piece)
        assert received < 30_000_000
        for connection in (slow, second, third):
            connection.close()
