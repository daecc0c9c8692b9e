"""`serve` as operators run it: several processes, logs, read-only media; and what attackers and accidents do to it."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests

from craftkit_archive.archive import Archive
from server.access_log import AccessLog
from server.addresses import TrustedProxies, client_address
from server.app import Service, Settings
from server.http import Server
from server.serve import listen, url_of
from tests.worlds import LIVE_KEY, NORTHWIND, ROOT, TEST_KEY, World, fill, pdf, program, render, render_id, running

TIMEOUT_S = 20
BEARER = {"Authorization": f"Bearer {LIVE_KEY}"}
UNKNOWN_KEY = "ck_live_SAMPLEunknown0000007"


class Serving:
    """A running `serve`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, err: Path) -> None:
        self.process = process
        self.url = url
        self._err = err

    @property
    def workers(self) -> list[int]:
        """The ids of its processes that answer."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    @property
    def err(self) -> str:
        """What it said on stderr."""
        return self._err.read_text()

    def get(self, path: str, **more: Any) -> requests.Response:
        """Ask it."""
        return requests.get(self.url + path, headers=more.pop("headers", BEARER), timeout=TIMEOUT_S, **more)


@contextmanager
def serving(archive: Path, *words: str | Path, quiet: bool = False) -> Iterator[Serving]:
    """Run `serve` as a process of its own, on a free port."""
    before = ["--json", *(["--quiet"] if quiet else [])]
    command = program(*before, "serve", "--listen", "127.0.0.1:0", *words, archive=archive)
    err = archive.parent / "serve.err"
    with (
        err.open("wb") as stderr,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            found = Serving(process, url, err)
            assert found.get("/health").status_code == 200
            yield found
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def download(number: int) -> str:
    """Return the path of a PDF."""
    return f"/v1/renders/{render_id(number)}/download"


def good_request(number: int) -> bytes:
    """Return a request for a PDF as it goes over the wire."""
    return f"GET {download(number)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {LIVE_KEY}\r\n\r\n".encode()


def eventually(condition: Any) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of an access log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


# --- several processes -----------------------------------------------------------------------------------------------


def test_several_processes_answer_and_end_with_their_parent_cleanly(world: World) -> None:
    world.archive.catalog.close()
    with serving(world.archive.path, "--workers", "3") as served:
        workers = eventually(lambda: len(served.workers) == 3 and served.workers)
        with ThreadPoolExecutor(8) as threads:
            bodies = list(threads.map(lambda n: served.get(download(n % 5)).content, range(60)))
        assert bodies == [pdf(f"render {n % 5}") for n in range(60)]
    assert served.process.returncode == 143
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in served.err


def test_a_process_that_dies_is_replaced(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served:
        first = eventually(lambda: len(served.workers) == 2 and served.workers)
        time.sleep(1)
        os.kill(first[0], signal.SIGKILL)
        second = eventually(lambda: len(served.workers) == 2 and first[0] not in served.workers and served.workers)
        assert first[1] in second
        for number in range(5):
            assert served.get(download(number)).content == pdf(f"render {number}")
        eventually(lambda: "starting another" in served.err)


def test_the_processes_die_with_a_parent_that_is_killed(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served:
        workers = eventually(lambda: len(served.workers) == 2 and served.workers)
        served.process.kill()
        served.process.wait(TIMEOUT_S)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_download_under_way_is_finished_before_the_end(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=20_000_000)
    with serving(world.archive.path, "--workers", "2") as served:
        with requests.get(served.url + download(0), headers=BEARER, stream=True, timeout=TIMEOUT_S) as answer:
            pieces = answer.iter_content(65536)
            hashed = sha256(next(pieces))
            served.process.terminate()
            time.sleep(0.3)
            for piece in pieces:
                hashed.update(piece)
        assert hashed.hexdigest() == sha256(world.asset(0).read_bytes()).hexdigest()
        assert served.process.wait(TIMEOUT_S) == 143


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_revoked_between_two_requests_is_200_then_401_in_every_process(world: World) -> None:
    with world.archive, serving(world.archive.path, "--workers", "2") as served:
        eventually(lambda: len(served.workers) == 2)
        with requests.Session() as session:
            assert session.get(served.url + download(0), headers=BEARER, timeout=TIMEOUT_S).status_code == 200
            world.archive.revoke_key("key-1")
            assert session.get(served.url + download(0), headers=BEARER, timeout=TIMEOUT_S).status_code == 401
        assert {served.get(download(0)).status_code for _ in range(4)} == {401}


def test_a_wrong_key_is_answered_at_once_however_often_it_is_tried(world: World) -> None:
    listener = listen("127.0.0.1:0")
    bad = {"Authorization": f"Bearer {UNKNOWN_KEY}"}
    with world.archive, running(Service(world.archive).app, listener), requests.Session() as session:
        began = time.monotonic()
        for _ in range(100):
            assert session.get(url_of(listener) + download(0), headers=bad, timeout=TIMEOUT_S).status_code == 401
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"REMOTE_ADDR": "192.0.2.9", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}, "192.0.2.9"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}, "198.51.100.1"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.5, 198.51.100.1"}, "198.51.100.1"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "x\n1.2.3.4 failed"}, "127.0.0.1"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "fe80::1%x failed login from 192.0.2.1"}, "fe80::1"),
        ({"REMOTE_ADDR": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_only_a_trusted_proxy_says_who_asks(environ: dict[str, str], address: str) -> None:
    assert client_address(environ, TrustedProxies({"127.0.0.1"})) == address


def test_behind_a_trusted_proxy_the_client_is_logged_and_links_are_https(world: World, tmp_path: Path) -> None:
    log = tmp_path / "access.ndjson"
    forwarded = BEARER | {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Host": "pdfs.example.org"}
    with serving(world.archive.path, "--trusted-proxy", "127.0.0.1", "--access-log", log) as served:
        shown = served.get(f"/v1/renders/{render_id(0)}", headers=forwarded).json()
        assert shown["pollUrl"] == f"https://pdfs.example.org/v1/renders/{render_id(0)}"
        served.get(download(0), headers=forwarded | {"Authorization": f"Bearer {UNKNOWN_KEY}"})
        assert "failed login from 203.0.113.7" in served.err
    assert [line["address"] for line in lines(log)] == ["127.0.0.1", "203.0.113.7", "203.0.113.7"]
    with serving(world.archive.path) as served:
        shown = served.get(f"/v1/renders/{render_id(0)}", headers=forwarded).json()
        assert shown["pollUrl"].startswith("http://")
        served.get(download(0), headers=forwarded | {"Authorization": f"Bearer {UNKNOWN_KEY}"})
        assert "failed login from 127.0.0.1" in served.err


# --- logs ------------------------------------------------------------------------------------------------------------


def test_the_access_log_tells_of_every_answer_and_never_a_key(tmp_path: Path) -> None:
    world, log = fill(tmp_path, count=2, size_bytes=15_000_000), tmp_path / "access.ndjson"
    size = world.asset(0).stat().st_size
    with serving(world.archive.path, "--workers", "2", "--access-log", log) as served:

        def next_line(count: int) -> dict[str, Any]:
            # A line is written when the answer is out, which may be a moment after the client has it.
            return eventually(lambda: len(lines(log)) == count and lines(log)[-1])  # type: ignore[no-any-return]

        served.get(download(0))
        whole = next_line(2)
        served.get(download(0), headers=BEARER | {"Range": "bytes=10-19"})
        part = next_line(3)
        served.get(download(1), headers={"Authorization": f"Bearer {UNKNOWN_KEY}"})
        refused = next_line(4)
        served.get(f"/v1/renders/{render_id(7)}?key={LIVE_KEY}")
        unknown = next_line(5)
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as broken:
            broken.sendall(good_request(1))
            broken.recv(1000)
        aborted = next_line(6)
        text = log.read_text() + served.err
    digest = sha256(world.asset(0).read_bytes()).hexdigest()
    assert (whole["status"], whole["bytes_sent"], whole["complete"], whole["sha256"]) == (200, size, True, digest)
    assert (whole["key_id"], whole["project_id"], whole["render_id"]) == ("key-1", NORTHWIND, render_id(0))
    assert (whole["address"], whole["method"], whole["path"]) == ("127.0.0.1", "GET", download(0))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", whole["time"])
    assert (part["status"], part["bytes_sent"], part["range"]) == (206, 10, f"bytes 10-19/{size}")
    assert (refused["status"], refused["key_id"], refused["project_id"]) == (401, None, None)
    assert (unknown["status"], unknown["path"]) == (404, f"/v1/renders/{render_id(7)}")
    assert (aborted["status"], aborted["complete"]) == (200, False)
    assert 0 < aborted["bytes_sent"] < size
    for key in (LIVE_KEY, UNKNOWN_KEY, TEST_KEY):
        assert key not in text
        assert sha256(key.encode()).hexdigest() not in text


def test_the_access_log_is_opened_anew_on_sighup(world: World, tmp_path: Path) -> None:
    log, moved = tmp_path / "access.ndjson", tmp_path / "access.1"
    with serving(world.archive.path, "--workers", "2", "--access-log", log) as served:
        log.rename(moved)
        served.process.send_signal(signal.SIGHUP)
        eventually(log.exists)
        time.sleep(0.4)  # every process has its own turn
        for number in range(5):
            served.get(download(number))
        assert len(eventually(lambda: len(lines(log)) == 5 and lines(log))) == 5
        assert len(lines(moved)) == 1


def test_failed_logins_are_logged_as_the_shipped_filter_reads_them(world: World, tmp_path: Path) -> None:
    bad = {"Authorization": f"Bearer {UNKNOWN_KEY}", "User-Agent": 'an "agent"\\'}
    told = []
    for form in ("json", "combined"):
        log = tmp_path / f"access.{form}"
        words = ("--workers", "1", "--access-log", log, "--access-log-format", form)
        with serving(world.archive.path, *words) as served:
            for _ in range(3):
                served.get(download(0), headers=bad)
            served.get(download(0))
        told += [served.err, log.read_text()]
    filter_text = (ROOT / "docs/operations/fail2ban-filter.conf").read_text()
    rules = [rule.strip() for rule in re.findall(r"^(?:failregex =|  +)(.*<HOST>.*)$", filter_text, re.MULTILINE)]
    assert len(rules) == 3
    for rule, text in zip(rules, (told[0], told[1], told[3]), strict=True):
        # fail2ban takes the time out of a line before it looks at it.
        matches = [re.search(rule.replace("<HOST>", r"(?P<host>[\d.]+)"), line) for line in text.splitlines()]
        assert [match["host"] for match in matches if match] == ["127.0.0.1"] * 3


def test_quiet_tells_errors_alone(world: World) -> None:
    with serving(world.archive.path, quiet=True) as served:
        served.get(download(0), headers={"Authorization": f"Bearer {UNKNOWN_KEY}"})
        body = bytearray(world.asset(1).read_bytes())
        body[-1] ^= 1
        world.asset(1).write_bytes(body)
        assert served.get(download(1)).status_code == 500
    assert served.err.count("\n") == 1
    assert render(1)["asset_key"] in served.err


# --- verified bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 2_000_000])
@pytest.mark.parametrize(("mode", "status"), [("always", 500), ("size", 200), ("never", 200)])
def test_a_flipped_bit_is_told_from_what_is_compared(tmp_path: Path, size_bytes: int, mode: Any, status: int) -> None:
    world = fill(tmp_path, count=1, size_bytes=size_bytes)
    body = bytearray(world.asset(0).read_bytes())
    body[-1] ^= 1
    world.asset(0).write_bytes(body)
    listener = listen("127.0.0.1:0")
    settings = Settings(verify_reads=mode)
    with world.archive, running(Service(world.archive, settings).app, listener):
        answer = requests.get(url_of(listener) + download(0), headers=BEARER, timeout=TIMEOUT_S)
        assert answer.status_code == status
        assert (b"%PDF" in answer.content) == (status == 200)
        world.asset(0).write_bytes(body[:-1])
        short = requests.get(url_of(listener) + download(0), headers=BEARER, timeout=TIMEOUT_S)
        assert short.status_code == (200 if mode == "never" else 500)


@pytest.mark.parametrize("max_buffer", [0, 3_000_000, 64 << 20])
def test_the_same_bytes_come_whatever_memory_they_may_take(tmp_path: Path, max_buffer: int) -> None:
    world = fill(tmp_path, count=3, size_bytes=2_000_000)
    listener = listen("127.0.0.1:0")
    with world.archive, running(Service(world.archive, Settings(max_buffer_bytes=max_buffer)).app, listener):

        def ask(number: int) -> bool:
            ranged = BEARER | {"Range": "bytes=1000-1999999"}
            url = url_of(listener) + download(number % 3)
            body = world.asset(number % 3).read_bytes()
            return (
                requests.get(url, headers=BEARER, timeout=TIMEOUT_S).content == body
                and requests.get(url, headers=ranged, timeout=TIMEOUT_S).content == body[1000:2000000]
            )

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(ask, range(18)))


# --- read-only media -------------------------------------------------------------------------------------------------


def test_a_sealed_archive_is_served_from_a_read_only_file_system(world: World, tmp_path: Path) -> None:
    world.archive.catalog.close()
    media, log = tmp_path / "media", tmp_path / "access.ndjson"
    shutil.copytree(world.archive.path, media)
    before = sorted(path.name for path in media.iterdir())
    words = program("--json", "serve", "--listen", "127.0.0.1:0", "--sealed", "--access-log", log, archive=media)
    # A mount of its own, which ends with the process; without the right to make one, at least without its rights.
    script = f'mount --bind "{media}" "{media}" && mount -o remount,bind,ro "{media}" && exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        mounted = ["sh", "-c", f'chmod -R a-w "{media}" && exec "$@"', "sh"]
    unshared = [*mounted, *words]
    with subprocess.Popen(unshared, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        answers = [requests.get(url + download(number), headers=BEARER, timeout=TIMEOUT_S) for number in range(5)]
        process.terminate()
    assert [answer.content for answer in answers] == [pdf(f"render {number}") for number in range(5)]
    assert sorted(path.name for path in media.iterdir()) == before
    assert len(lines(log)) == 5


def test_sealed_writes_nothing_beside_the_catalog_and_refuses_one_with_a_log(world: World) -> None:
    path = world.archive.path
    world.archive.catalog.close()
    with Archive(path, sealed=True) as sealed:
        assert sealed.catalog.find_render(NORTHWIND, render_id(0)) is not None
        assert not list(path.glob("archive.db-*"))
    with Archive(path) as writing:
        writing.revoke_key("key-1")
        with pytest.raises(Exception, match="has a log beside it"):
            Archive(path, sealed=True)


# --- abuse -----------------------------------------------------------------------------------------------------------


def exchange(url: str, sent: bytes, *, wait_s: float = 5.0) -> bytes:
    """Send bytes, say that no more will come, and return what comes back until the server closes or falls silent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait_s) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
        except TimeoutError:
            raise  # a hang
        except OSError:
            pass  # closed before it had heard all
        return answer


ODD = {
    "an address that is none": (b"GET http://[::1/x HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a path out": (b"GET /v1/renders/..%2f..%2farchive.db/download HTTP/1.1\r\nHost: x\r\n{auth}\r\n", {404}),
    "a plain path out": (b"GET /../../archive.db HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "a NUL": (b"GET /v1/renders/a%00b/download HTTP/1.1\r\nHost: x\r\n{auth}\r\n", {404}),
    "an overlong slash": (b"GET /v1/renders/..%c0%af/download HTTP/1.1\r\nHost: x\r\n{auth}\r\n", {404}),
    "a very long id": (b"GET /v1/renders/" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n{auth}\r\n", {404}),
    "a header without end": (b"GET /health HTTP/1.1\r\nX: " + b"a" * 600_000, {431}),
    "headers by the thousand": (b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 40_000 + b"\r\n", {431}),
    "a length that is none": (b"GET /health HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", {400, 413}),
    "a body without end": (
        b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"a" * 65535 + b"\r\nffff\r\n",
        {400},  # without a host
    ),
    "two lengths": (b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", {400}),
    "two kinds of length": (
        b"POST /health HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /health HTTP/1.1\r\n\r\n",
        {400},
    ),
    "a transfer coding of a version that has none": (
        b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {411},
    ),
    "a search that is no UTF-8": (b"GET /v1/renders?search=%ff HTTP/1.1\r\nHost: x\r\n{auth}\r\n", {400}),
    "a method of its own": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    "ranges by the hundred": (
        f"GET {download(0)} HTTP/1.1\r\nHost: x\r\nRange: bytes={','.join(f'{n}-{n}' for n in range(500))}\r\n".encode()
        + b"{auth}\r\n",
        {200},
    ),
}


@pytest.mark.parametrize(("sent", "statuses"), ODD.values(), ids=ODD.keys())
def test_odd_requests_get_clean_answers_in_the_one_envelope(world: World, sent: bytes, statuses: set[int]) -> None:
    sent = sent.replace(b"{auth}", f"Authorization: Bearer {LIVE_KEY}\r\n".encode())
    listener = listen("127.0.0.1:0")
    with world.archive, running(Service(world.archive).app, listener):
        answer = exchange(url_of(listener), sent)
        # A client that still sends may see the closed connection before the answer.
        if answer or len(sent) < 100_000:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert int(head.split()[1]) in statuses
            if statuses != {200}:
                assert json.loads(body)["error"]["code"] in ("bad_request", "not_found", "method_not_allowed")
        assert requests.get(f"{url_of(listener)}/health", timeout=TIMEOUT_S).status_code == 200


def test_many_requests_on_one_connection_are_answered_in_their_order(world: World) -> None:
    count = 300
    listener = listen("127.0.0.1:0")
    sent = b"".join(good_request(number % 5) for number in range(count))
    with world.archive, running(Service(world.archive).app, listener):
        answer = exchange(url_of(listener), sent)
    texts = [int(found) for found in re.findall(rb"\(render (\d)\) Tj", answer)]
    assert texts == [number % 5 for number in range(count)]


def test_who_asks_for_much_at_once_waits_for_the_others(world: World, tmp_path: Path) -> None:
    listener, log = listen("127.0.0.1:0"), AccessLog(str(tmp_path / "access.log"))
    address = listener.getsockname()
    with socket.create_connection(address) as greedy, socket.create_connection(address) as modest:
        greedy.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 150)
        modest.sendall(b"GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n")
        with world.archive, running(Service(world.archive).app, listener, access_log=log):
            modest.settimeout(TIMEOUT_S)
            assert modest.recv(100)
    log.close()
    paths = [json.loads(line)["path"] for line in (tmp_path / "access.log").read_text().splitlines()]
    assert paths.index("/openapi.yaml") < 10


def test_a_connection_that_makes_room_while_it_asks_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    listener = listen("127.0.0.1:0")
    address = listener.getsockname()
    server = Server(Service(world.archive).app, [listener], threads=2, max_connections=8)
    with ExitStack() as stack:
        early = [stack.enter_context(socket.create_connection(address)) for _ in range(5)]
        loop = threading.Thread(target=server.run, args=(lambda: time.sleep(0.05),))
        loop.start()
        time.sleep(0.5)
        try:
            for _ in range(5):
                newcomer = stack.enter_context(socket.create_connection(address))
                for connection in early:
                    with suppress(OSError):
                        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                early = [*early[1:], newcomer]
                time.sleep(0.2)
        finally:
            server.end(1)
            loop.join()
    assert "internal error" not in caplog.text


def test_an_urgent_byte_ends_its_connection_and_keeps_nobody_busy(world: World) -> None:
    listener = listen("127.0.0.1:0")
    turns: list[None] = []
    server = Server(Service(world.archive).app, [listener], threads=2)
    loop = threading.Thread(target=server.run, args=(lambda: turns.append(None),))
    loop.start()
    try:
        with socket.create_connection(listener.getsockname()) as urgent:
            urgent.send(b"!", socket.MSG_OOB)
            urgent.settimeout(TIMEOUT_S)
            with suppress(ConnectionResetError):
                assert urgent.recv(100) == b""
            before = len(turns)
            time.sleep(1)
            assert len(turns) - before < 20
        assert requests.get(url_of(listener) + "/health", timeout=TIMEOUT_S).status_code == 200
    finally:
        server.end(1)
        loop.join()


def test_more_idle_connections_than_there_is_room_for_lock_nobody_out(world: World) -> None:
    listener = listen("127.0.0.1:0")
    server = Server(Service(world.archive).app, [listener], threads=2, max_connections=50)
    loop = threading.Thread(target=server.run)
    loop.start()
    try:
        with ExitStack() as idle:
            for _ in range(200):
                idle.enter_context(socket.create_connection(listener.getsockname()))
            for number in range(5):
                answer = requests.get(url_of(listener) + download(number), headers=BEARER, timeout=TIMEOUT_S)
                assert answer.content == pdf(f"render {number}")
            assert len(server.connections()) <= 50
    finally:
        server.end(1)
        loop.join()
        world.archive.catalog.close()


def test_two_hundred_slow_clients_do_not_slow_a_healthy_one_down(tmp_path: Path) -> None:
    world = fill(tmp_path, count=2, size_bytes=4_000_000)
    small = f"/v1/renders/{render_id(0)}"
    ending = threading.Event()
    with serving(world.archive.path, "--workers", "2") as served, ExitStack() as slow:
        port = int(served.url.rpartition(":")[2])
        readers, writers = [], []
        for number in range(100):
            reader = slow.enter_context(socket.create_connection(("127.0.0.1", port)))
            request = f"GET {download(number % 2)} HTTP/1.1\r\nHost: x\r\nRange: bytes={number}-\r\n"
            reader.sendall(f"{request}Authorization: Bearer {LIVE_KEY}\r\n\r\n".encode())
            readers.append(reader)
            writer = slow.enter_context(socket.create_connection(("127.0.0.1", port)))
            writer.sendall(b"GET /health HTTP/1.1\r\nX: ")
            writers.append(writer)

        def dawdle() -> None:
            while not ending.wait(0.1):
                for reader in readers:
                    reader.recv(100)
                for writer in writers:
                    with suppress(OSError):
                        writer.sendall(b"a")

        dawdling = threading.Thread(target=dawdle)
        dawdling.start()
        try:
            seconds = []
            with requests.Session() as healthy:
                for _ in range(200):
                    began = time.monotonic()
                    assert healthy.get(served.url + small, headers=BEARER, timeout=TIMEOUT_S).status_code == 200
                    seconds.append(time.monotonic() - began)
        finally:
            ending.set()
            dawdling.join()
    # What a freeze would cost is tens of seconds; the time itself is measured in the benchmarks.
    assert sorted(seconds)[-2] < 5


PIECES = [
    *(b"GET ", b"HEAD ", b"POST ", b"/", b"/v1/renders/", b"/download", b"/v1/renders?limit=", b"/health"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"Host: x\r\n", b"Content-Length: ", b"\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Range: bytes=", b"If-Range: ", b"Authorization: Bearer "),
    *(LIVE_KEY.encode(), b"http://[", b"%00", b"%ff", b"..%2f", b"Expect: 100-continue\r\n", b"\n", b"\r", b" "),
    *(b":", b"-1", b"0", b"99999999999999999999", b"\x00", b"\xff\xfe", b"Connection: keep-alive\r\n", b"?", b"#"),
    *(b"//", b"cursor=", b"&", b"5\r\nhello\r\n0\r\n\r\n"),
]


def _fuzz(chance: random.Random) -> bytes:
    """Make something between noise and a request."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(1, 400))
    whole = [
        f"GET {download(chance.randrange(6))} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {LIVE_KEY}\r\n\r\n".encode()
    ]
    sent = bytearray(b"".join(chance.choices(PIECES, k=chance.randrange(1, 15)) + chance.choice([[], whole])))
    for _ in range(chance.randrange(4)):
        if sent:
            sent[chance.randrange(len(sent))] = chance.randrange(256)
    return bytes(sent) + chance.choice([b"", b"\r\n\r\n", b" HTTP/1.1\r\n\r\n"])


@pytest.mark.long
def test_ten_thousand_odd_requests_never_hang_and_never_make_a_bug_show(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served:

        def attack(seed: int) -> set[int]:
            chance, statuses = random.Random(seed), set()
            for _ in range(1250):
                sent = _fuzz(chance)
                answer = exchange(served.url, sent, wait_s=TIMEOUT_S)
                statuses |= {int(found) for found in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", answer, re.MULTILINE)}
            return statuses

        with ThreadPoolExecutor(8) as threads:
            statuses = set().union(*threads.map(attack, range(8)))
        assert served.get("/health").status_code == 200
        assert "Traceback" not in served.err
        assert "internal error" not in served.err
    assert {200, 400, 401, 404, 405} <= statuses
    assert {status for status in statuses if status >= 500} <= {501, 505}


def test_the_access_log_of_a_full_disk_stops_no_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    listener = listen("127.0.0.1:0")
    log = AccessLog("/dev/full")
    with world.archive, running(Service(world.archive).app, listener, access_log=log):
        for number in range(5):
            answer = requests.get(url_of(listener) + download(number), headers=BEARER, timeout=TIMEOUT_S)
            assert answer.status_code == 200
    log.close()
    assert caplog.text.count("No space is left to write /dev/full") == 1
