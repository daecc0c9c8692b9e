"""What operators look for in a service, and what happens to it on their machines."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from craftkit_archive.archive import Archive
from server.access_log import AccessLog
from server.addresses import TrustedProxies, base_url, client_address, parse_address
from server.app import Service, Settings
from server.context import RequestContext
from server.http import Server
from server.serve import listen, url_of
from tests.test_serving import BEARER, TIMEOUT_S, UNKNOWN_KEY, download, eventually, good_request, lines, serving
from tests.worlds import LIVE_KEY, NORTHWIND, ROOT, World, fill, live, pdf, program, render_id, running

# --- the archive is replaced under the server ------------------------------------------------------------------------


def test_a_restored_backup_counts_from_the_next_request_on_and_so_does_a_key_revoked_in_it(world: World) -> None:
    path = world.archive.path
    world.archive.catalog.back_up(path / "backup.db")
    world.archive.catalog.close()
    with serving(path, "--workers", "2") as served, requests.Session() as session:

        def ask() -> set[int]:
            return {session.get(served.url + download(0), headers=BEARER).status_code for _ in range(10)}

        assert ask() == {200}
        (path / "backup.db").rename(path / "archive.db")
        assert ask() == {200}
        with Archive(path) as restored:
            restored.revoke_key("key-1")
        assert ask() == {401}
        (path / "archive.db").rename(path / "gone.db")
        assert ask() == {500}
        (path / "gone.db").rename(path / "archive.db")
        assert ask() == {401}


def test_a_store_that_is_replaced_is_noticed_and_one_of_another_archive_is_refused(tmp_path: Path) -> None:
    world, other = fill(tmp_path / "a"), fill(tmp_path / "b")
    store = Path(world.archive.store.address)
    with world.archive, other.archive, live(world.archive) as url:

        def status(path: str) -> int:
            return requests.get(url + path, headers=BEARER, timeout=TIMEOUT_S).status_code

        assert status(download(0)) == 200
        store.rename(tmp_path / "unmounted")
        assert (status(download(0)), status(f"/v1/renders/{render_id(0)}"), status("/ready")) == (500, 200, 503)
        shutil.copytree(other.archive.store.address, store)
        assert (status(download(0)), status("/ready")) == (500, 503)
        shutil.rmtree(store)
        (tmp_path / "unmounted").rename(store)
        assert (status(download(0)), status("/ready")) == (200, 200)


# --- limits and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_out_of_file_descriptors_it_neither_spins_nor_floods_the_log(world: World) -> None:
    words = program("--json", "serve", "--listen", "127.0.0.1:0", "--workers", "1", archive=world.archive.path)
    world.archive.catalog.close()
    err = world.folder / "err"
    with err.open("wb") as stderr, ExitStack() as silent:
        limited = ["sh", "-c", 'ulimit -n 60 && exec "$@"', "sh", *words]
        process = silent.enter_context(subprocess.Popen(limited, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr))
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert requests.get(f"{url}/health", timeout=TIMEOUT_S).status_code == 200
        for _ in range(120):
            silent.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))))
        [worker] = [
            pid
            for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        before = sum(map(int, Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13]))
        time.sleep(2)
        after = sum(map(int, Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13]))
        assert (after - before) / os.sysconf("SC_CLK_TCK") < 0.7
        assert requests.get(url + download(0), headers=BEARER, timeout=TIMEOUT_S).status_code == 200
        process.terminate()
    assert len(err.read_bytes()) < 2000


def test_accepting_pauses_when_the_system_refuses_with_one_line_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listen("127.0.0.1:0")
    url = url_of(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with world.archive, running(Service(world.archive).app, listener), ExitStack() as idle:
        assert requests.get(f"{url}/health", timeout=TIMEOUT_S).status_code == 200
        client = idle.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            client.connect(listener.getsockname())
            time.sleep(1.6)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert requests.get(f"{url}/health", timeout=TIMEOUT_S).status_code == 200
    assert caplog.text.count("no room for another connection") == 1
    assert "Traceback" not in caplog.text


def test_a_clock_that_jumps_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = fill(tmp_path, count=1, size_bytes=8_000_000)
    with world.archive, live(world.archive) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=5) as slow, socket.create_connection(address, timeout=5) as idle:
            slow.sendall(good_request(0))
            got = slow.recv(100)
            now = time.time
            for jump in (600, -600):
                monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
                time.sleep(0.6)
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
            while len(got) < 8_000_000:
                piece = slow.recv(1 << 20)
                assert piece
                got += piece


def test_when_all_places_are_taken_strangers_go_and_an_honest_download_does_not(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=8_000_000)
    listener = listen("127.0.0.1:0")
    server = Server(Service(world.archive).app, [listener], threads=2, max_connections=10)
    loop = threading.Thread(target=server.run)
    loop.start()
    try:
        with ExitStack() as open_:
            honest = open_.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
            honest.sendall(good_request(0))
            got = honest.recv(100)
            strangers = [open_.enter_context(socket.create_connection(listener.getsockname())) for _ in range(50)]
            for stranger in strangers[-3:]:
                stranger.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.5)
            while len(got) < 8_000_000:
                piece = honest.recv(1 << 20)
                assert piece
                got += piece
    finally:
        server.end(1)
        loop.join()
        world.archive.catalog.close()


def test_a_worker_that_is_just_starting_survives_sighup(world: World) -> None:
    world.archive.catalog.close()
    words = program("--json", "serve", "--listen", "127.0.0.1:0", "--workers", "2", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        for _ in range(40):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        assert requests.get(f"{url}/health", timeout=TIMEOUT_S).status_code == 200
        process.terminate()
        assert process.stderr is not None
        assert b"ended with" not in process.stderr.read()


# --- the access log --------------------------------------------------------------------------------------------------


def test_a_pipe_without_a_reader_stops_nothing_and_is_written_when_there_is_one(world: World, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with serving(world.archive.path, "--workers", "1", "--access-log", pipe) as served:
        assert served.get(download(0)).status_code == 200
        assert served.err.count("Nobody reads the pipe") >= 1
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        eventually(lambda: served.get(download(1)).ok and _read(reader))
        os.close(reader)
        assert served.get(download(0)).status_code == 200
    assert served.err.count("\n") <= 4


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def test_a_line_that_a_full_disk_cuts_off_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AccessLog(str(tmp_path / "log"))
    context = RequestContext(environ={"REQUEST_METHOD": "GET"}, request_id="abc", path="/health", status=200)
    log.observe(context, 1, complete=True)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    log.observe(context, 1, complete=True)
    monkeypatch.undo()
    log.observe(context, 1, complete=True)
    log.close()
    assert [line["request_id"] for line in lines(tmp_path / "log")] == ["abc", "abc"]


def test_standard_output_takes_the_access_log(world: World) -> None:
    world.archive.catalog.close()
    words = program("--json", "serve", "--listen", "127.0.0.1:0", "--access-log", "-", archive=world.archive.path)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        requests.get(f"{url}/health", headers={"User-Agent": "me/1"}, timeout=TIMEOUT_S)
        line = json.loads(process.stdout.readline())
        process.terminate()
    assert (line["path"], line["status"], line["user_agent"]) == ("/health", 200, "me/1")


@pytest.mark.parametrize(("given", "kept"), [("req-1.A_b", True), ("a b", False), ("x" * 65, False), ("é", False)])
def test_a_request_id_is_taken_if_it_is_sane_and_made_otherwise(world: World, given: str, kept: bool) -> None:
    with world.archive, live(world.archive) as url:
        headers = {"X-Request-Id": given.encode()}
        answer = requests.get(f"{url}/v1/renders", headers=headers, timeout=TIMEOUT_S)
        assert answer.status_code == 401
        assert (answer.headers["X-Request-Id"] == given) == kept
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["X-Request-Id"])


# --- where it listens, and who asks ----------------------------------------------------------------------------------


def test_it_listens_at_several_addresses_and_on_a_unix_socket_and_tells_systemd(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, notified = tmp_path / "socket", tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notified))
        systemd.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(notified))
        with serving(world.archive.path, "--listen", f"unix:{path}", "--listen", "[::1]:0") as served:
            assert systemd.recv(100) == b"READY=1"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(good_request(0))
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            assert served.get("/health").status_code == 200
        assert systemd.recv(100) == b"STOPPING=1"
    assert not path.exists()


def test_it_takes_a_socket_that_was_handed_over(world: World) -> None:
    world.archive.catalog.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = program("serve", "--listen", f"fd:{listener.fileno()}", archive=world.archive.path)
        with subprocess.Popen(words, cwd=ROOT, pass_fds=[listener.fileno()]) as process:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert requests.get(url + download(0), headers=BEARER, timeout=TIMEOUT_S).content == pdf("render 0")
            process.terminate()


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("10.1.2.3", {"X_FORWARDED_FOR": "203.0.113.5"}, "203.0.113.5"),
        ("10.1.2.3", {"X_FORWARDED_FOR": "198.51.100.9, 203.0.113.5, 10.9.9.9"}, "203.0.113.5"),
        ("10.1.2.3", {"X_FORWARDED_FOR": "203.0.113.5:4711"}, "203.0.113.5"),
        ("10.1.2.3", {"X_FORWARDED_FOR": "[2001:db8::1]:4711"}, "2001:db8::1"),
        ("10.1.2.3", {"X_FORWARDED_FOR": "::ffff:203.0.113.5"}, "203.0.113.5"),
        ("10.1.2.3", {"FORWARDED": 'for=198.51.100.9, for="[2001:db8::1]:80";proto=https'}, "2001:db8::1"),
        ("10.1.2.3", {"FORWARDED": "for=_hidden"}, "10.1.2.3"),
        ("10.1.2.3", {"FORWARDED": "nonsense"}, "10.1.2.3"),
        ("unix", {"X_FORWARDED_FOR": "203.0.113.5"}, "203.0.113.5"),
        ("192.0.2.1", {"X_FORWARDED_FOR": "203.0.113.5", "FORWARDED": "for=203.0.113.6"}, "192.0.2.1"),
    ],
)
def test_networks_of_proxies_are_trusted(peer: str, headers: dict[str, str], address: str) -> None:
    environ = {"REMOTE_ADDR": peer} | {f"HTTP_{name}": value for name, value in headers.items()}
    assert client_address(environ, TrustedProxies({"10.0.0.0/8", "unix"})) == address


def test_ipv4_in_ipv6_clothes_is_ipv4() -> None:
    assert str(parse_address("::ffff:192.0.2.1")) == "192.0.2.1"
    assert "::ffff:10.0.0.1" in TrustedProxies({"10.0.0.0/8"})
    assert "10.0.0.1" in TrustedProxies({"::ffff:10.0.0.0/104"})


@pytest.mark.parametrize(
    ("host", "fixed", "allowed", "expected"),
    [
        ("x.example", None, [], "http://x.example"),
        ("evil.example", "https://pdfs.example", [], "https://pdfs.example"),
        ("two.example:81", "https://pdfs.example", ["two.example"], "http://two.example:81"),
        ("evil.example", None, ["two.example"], "http://fallback"),
        ("", None, [], "http://fallback"),
        ("a b", None, [], "http://fallback"),
    ],
)
def test_only_an_allowed_host_is_copied(host: str, fixed: str | None, allowed: list[str], expected: str) -> None:
    environ = {"wsgi.url_scheme": "http", "HTTP_HOST": host}
    given: dict[str, Any] = {"fixed": fixed, "allowed_hosts": frozenset(allowed), "fallback": "http://fallback"}
    assert base_url(environ, trusted=False, **given) == expected


# --- monitoring, browsers --------------------------------------------------------------------------------------------


def test_prometheus_is_told_what_the_processes_did_and_what_the_archive_holds(world: World) -> None:
    words = program(
        "--json", "serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", archive=world.archive.path
    )
    world.archive.catalog.close()
    body = bytearray(world.asset(1).read_bytes())
    body[-1] ^= 1
    world.asset(1).write_bytes(body)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        bad = {"Authorization": f"Bearer {UNKNOWN_KEY}"}
        for path, headers in ((download(0), BEARER), (download(0), BEARER), (download(1), BEARER), (download(0), bad)):
            requests.get(told["url"] + path, headers=headers, timeout=TIMEOUT_S)
        assert requests.get(f"{told['url']}/metrics", timeout=TIMEOUT_S).status_code == 404
        time.sleep(0.5)
        text = requests.get(told["metrics"], timeout=TIMEOUT_S).text
        process.terminate()
    route = 'route="/v1/renders/<render_id>/download"'
    for line in (
        f'craftkit_archive_http_requests_total{{{route},status="200"}} 2.0',
        f'craftkit_archive_http_requests_total{{{route},status="500"}} 1.0',
        "craftkit_archive_refused_damaged_total 1.0",
        "craftkit_archive_failed_logins_total 1.0",
        "craftkit_archive_stored_assets 5.0",
        f"craftkit_archive_http_request_seconds_count{{{route}}} 4.0",
        "craftkit_archive_catalog_up 1.0",
    ):
        assert line in text, text
    for name in ("connections", "verified_assets", "damaged_assets", "oldest_check_timestamp_seconds", "build_info"):
        assert f"# TYPE craftkit_archive_{name} gauge" in text
    assert LIVE_KEY not in text


def test_scripts_of_allowed_origins_may_read_and_others_may_not(world: World) -> None:
    origin, preflight = "https://app.example", {"Access-Control-Request-Method": "GET"}
    with world.archive, live(world.archive, Settings(cors_origins=frozenset({origin}))) as url:
        for path, status in ((download(0), 200), (download(9), 404), ("/v1/nothing", 404)):
            answer = requests.get(url + path, headers=BEARER | {"Origin": origin}, timeout=TIMEOUT_S)
            assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, origin)
        asked = requests.options(url + download(0), headers={"Origin": origin, **preflight}, timeout=TIMEOUT_S)
        assert asked.status_code == 204
        assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
        other = requests.get(url + download(0), headers=BEARER | {"Origin": "https://evil.example"}, timeout=TIMEOUT_S)
        assert "Access-Control-Allow-Origin" not in other.headers
    with world.archive, live(world.archive) as url:
        assert (
            requests.options(url + download(0), headers={"Origin": origin, **preflight}, timeout=5).status_code == 405
        )


@pytest.mark.parametrize("path", ["/", "/page.js", "/openapi.yaml"])
def test_the_page_and_the_description_are_revalidated(world: World, path: str) -> None:
    with world.archive, live(world.archive) as url, requests.Session() as session:
        first = session.get(url + path, timeout=TIMEOUT_S)
        again = session.get(url + path, headers={"If-None-Match": first.headers["ETag"]}, timeout=TIMEOUT_S)
        assert (again.status_code, again.content) == (304, b"")


def test_the_list_names_the_project(world: World) -> None:
    with world.archive, live(world.archive) as url:
        page = requests.get(f"{url}/v1/renders", headers=BEARER, timeout=TIMEOUT_S).json()
    assert page["projectName"] == "Northwind"
    assert NORTHWIND not in json.dumps(page["projectName"])


@pytest.mark.parametrize("unit", ["craftkit-archive.service", "craftkit-archive-nightly.service"])
def test_the_units_are_hardened_and_name_one_user(unit: str) -> None:
    text = (ROOT / "docs/operations" / unit).read_text()
    assert re.findall(r"^User=(.*)$", text, re.MULTILINE) == ["craftkit-archive"]
    if tool := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [tool, "security", "--offline=true", str(ROOT / "docs/operations" / unit)], capture_output=True, text=True
        )
        level = re.search(r"Overall exposure level.*: ([\d.]+)", done.stdout)
        assert level is not None
        assert float(level[1]) <= 2.0
