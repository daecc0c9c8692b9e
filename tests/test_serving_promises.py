"""What `serve` promises its clients under pressure, whatever it is built on: asked from outside, over raw sockets."""

import os
import re
import resource
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.test_serving import BEARER, TIMEOUT_S, Serving, download, eventually, good_request, serving
from tests.worlds import LIVE_KEY, World, fill, pdf, render_id

SHOWN = f"/v1/renders/{render_id(0)}"


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(served: Serving) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=TIMEOUT_S)


def waits(served: Serving, count: int, path: str = SHOWN) -> list[float]:
    """Ask for something small so many times on one connection, and return for how long each answer took, in seconds."""
    seconds = []
    client = HTTPConnection(served.url.removeprefix("http://"), timeout=TIMEOUT_S)
    for _ in range(count):
        began = time.monotonic()
        client.request("GET", path, headers=BEARER)
        answer = client.getresponse()
        answer.read()
        seconds.append(time.monotonic() - began)
        assert answer.status == 200
    client.close()
    return seconds


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something over and over in a thread while the block runs."""
    ending = threading.Event()

    def repeat() -> None:
        while not ending.wait(0.05):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def memory_kb(served: Serving) -> int:
    """Return the peak memory of the largest of its processes."""
    peaks = [
        re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        for pid in (served.process.pid, *served.workers)
    ]
    return max(int(peak[1]) for peak in peaks if peak)


@pytest.mark.long
def test_two_hundred_slow_readers_and_two_hundred_slow_writers_keep_nobody_waiting(tmp_path: Path) -> None:
    world = fill(tmp_path, count=2, size_bytes=4_000_000)
    with serving(world.archive.path, "--workers", "2") as served, ExitStack() as slow:
        readers = [slow.enter_context(connect(served)) for _ in range(200)]
        writers = [slow.enter_context(connect(served)) for _ in range(200)]
        for number, reader in enumerate(readers):
            reader.sendall(good_request(number % 2))
        for writer in writers:
            writer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")

        def dawdle() -> None:
            for reader in readers:
                reader.recv(100)
            for writer in writers:
                with suppress(OSError):  # after twenty seconds it is closed
                    writer.sendall(b"a")

        with meanwhile(dawdle):
            seconds = waits(served, 300)
        # A freeze would cost tens of seconds; the time itself stands in the benchmarks.
        assert sorted(seconds)[-3] < 2
        assert memory_kb(served) < 250_000


def test_a_thousand_silent_connections_cost_a_healthy_one_nothing(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served, ExitStack() as silent:
        for _ in range(1000):
            silent.enter_context(connect(served))
        assert statistics.median(waits(served, 200)) < 0.1
        for number in range(5):
            assert served.get(download(number)).content == pdf(f"render {number}")


def test_who_pipelines_and_reads_nothing_makes_the_server_hold_one_answer(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=250_000)
    with serving(world.archive.path, "--workers", "1") as served, ExitStack() as greedy:
        before = memory_kb(served)
        for _ in range(50):
            client = greedy.enter_context(connect(served))
            client.sendall(good_request(0) * 200)
        assert statistics.median(waits(served, 50)) < 1
        # Fifty answers, and not ten thousand: 250 kB each.
        assert memory_kb(served) - before < 60_000


def test_pipelined_requests_are_answered_in_order_and_in_turn_with_those_of_others(world: World) -> None:
    with serving(world.archive.path, "--workers", "1") as served, connect(served) as client:
        client.sendall(b"".join(good_request(number % 5) for number in range(500)))
        assert max(waits(served, 20)) < 2
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
    texts = [int(found) for found in re.findall(rb"\(render (\d)\) Tj", answer)]
    assert texts == [number % 5 for number in range(500)]


def load(served: Serving, ending: threading.Event) -> tuple[int, int, list[str]]:
    """Download with one connection until the end, and return how often that was good, broken off, and what was wrong.

    A connection may be closed between two answers, and never within one.
    """
    good, closed, wrong = 0, 0, []
    client = HTTPConnection(served.url.removeprefix("http://"), timeout=TIMEOUT_S)
    while not ending.is_set():
        number = good % 5
        try:
            client.request("GET", download(number), headers=BEARER)
            answer = client.getresponse()
        except OSError:
            closed += 1
            client.close()
            time.sleep(0.01)
            continue
        try:
            if (answer.status, answer.read()) != (200, pdf(f"render {number}")):
                wrong.append(f"{answer.status}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the whole answer
            wrong.append(repr(error))
        good += 1
    client.close()
    return good, closed, wrong


@contextmanager
def under_load(served: Serving, clients: int = 8) -> Iterator[list[tuple[int, int, list[str]]]]:
    """Keep a server busy while the block runs; what became of it is in the list afterwards."""
    found: list[tuple[int, int, list[str]]] = []
    ending = threading.Event()
    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(load, served, ending) for _ in range(clients)]
        try:
            eventually(lambda: waits(served, 1))
            time.sleep(0.5)
            yield found
        finally:
            ending.set()
        found += [one.result() for one in running]


@pytest.mark.long
def test_a_worker_killed_under_load_costs_its_own_connections_and_no_others(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served:
        workers = eventually(lambda: len(served.workers) == 2 and served.workers)
        time.sleep(1)
        with under_load(served) as found:
            os.kill(workers[0], signal.SIGKILL)
            eventually(lambda: len(served.workers) == 2 and workers[0] not in served.workers)
            time.sleep(1)
        assert sum(good for good, _, _ in found) > 100
        # Each client had at most one answer under way in the process that died.
        assert all(len(wrong) <= 1 for _, _, wrong in found)
        assert min(closed for _, closed, _ in found) == 0
        assert served.get("/health").status_code == 200


def test_sigterm_under_load_breaks_no_answer_off(world: World) -> None:
    with serving(world.archive.path, "--workers", "2") as served:
        with under_load(served) as found:
            served.process.terminate()
            assert served.process.wait(TIMEOUT_S) == 143
        assert sum(good for good, _, _ in found) > 50
        assert [wrong for _, _, wrong in found] == [[]] * len(found)
        assert "Traceback" not in served.err


@pytest.mark.long
def test_a_key_stays_good_while_strangers_fill_every_place(tmp_path: Path) -> None:
    world = fill(tmp_path, count=1, size_bytes=20_000_000)
    with ExitStack() as strangers, serving(world.archive.path, "--workers", "1") as served, connect(served) as honest:
        honest.sendall(good_request(0).replace(b"Host: x", b"Host: x\r\nConnection: close"))
        got = honest.recv(1000)
        for _ in range(1500):
            strangers.enter_context(connect(served))
        assert waits(served, 3)
        while piece := honest.recv(1 << 20):
            got += piece
    assert got.partition(b"\r\n\r\n")[2] == world.asset(0).read_bytes()
    assert LIVE_KEY not in served.err
