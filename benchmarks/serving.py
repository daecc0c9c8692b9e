"""Downloads a second, measured with wrk: our server beside those that people would put in its place.

Every server has the same PDFs on the same disk, on the loopback, and is asked in turn with the others.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from getpass import getuser
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any
from wsgiref.util import FileWrapper

from benchmarks.corpus import BEGAN, pdf, render_row, uuid7
from benchmarks.peers import ours, program, version_of

PDF_BYTES = 86_000
CONNECTIONS = 16
SLOW = 200  # clients that read a little at a time
PROJECT = uuid7(BEGAN, 1)
KEY = "ck_live_benchmark0000000001"
# Each of wrk's threads goes through all the paths, from a place of its own.
SCRIPT = """
local requests, at, threads = {}, 0, 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", line, {["Authorization"] = args[2]})
  end
  at = number * 997
end
function request() at = at % #requests + 1; return requests[at] end
"""
NGINX = """
user {user}; worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 512; }}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {root}; }}
        client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi; }}
"""


@dataclass
class Served:
    """A server, how it is asked, and what was found: rates a second, p99 in ms, processor time in µs, peaks in MB."""

    name: str
    command: list[str] | None
    url: str
    paths: Path
    authorization: str = "none"
    version: str = ""
    rates: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


ARCHIVE_VARIABLE = "BENCHMARKED_ARCHIVE"
# As many processes as the others have, on one port.
BJOERN = """
import os, sys, benchmarks.serving, bjoern
app = benchmarks.serving.wsgi_app(sys.argv[1])
os.fork()
bjoern.run(app, "127.0.0.1", int(sys.argv[2]), reuse_port=True)
"""


def wsgi_app(archive: str | None = None) -> Callable[..., Iterable[bytes]]:
    """Make our application for another server."""
    from craftkit_archive.archive import Archive
    from server.app import Service

    app = Service(Archive(Path(archive or os.environ[ARCHIVE_VARIABLE]), read_only=True)).app

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        environ.setdefault("wsgi.file_wrapper", FileWrapper)  # which granian does not offer
        return app(environ, start_response)  # type: ignore[no-any-return]

    return answer


def fill(folder: Path, count: int) -> tuple[Path, list[str], list[str]]:
    """Make an archive of PDFs, and return it with their ids and asset keys."""
    archive, bucket, chance = folder / "served", folder / "served-bucket", random.Random(1)
    rows = [render_row(number, chance) | {"project_id": PROJECT, "status": "succeeded"} for number in range(count)]
    for row in rows:
        row["asset_key"] = f"renders/{PROJECT}/{row['id']}.pdf"
        path = bucket / str(row["asset_key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pdf(str(row["id"]), PDF_BYTES))
    records: dict[str, list[dict[str, object]]] = {
        "projects": [{"id": PROJECT, "name": "Benchmark", "slug": "benchmark"}],
        "keys": [{"id": "k", "project_id": PROJECT, "key_hash": sha256(KEY.encode()).hexdigest(), "prefix": KEY[:12]}],
        "renders": rows,
    }
    shutil.rmtree(archive, ignore_errors=True)
    subprocess.run(ours(archive, "init"), check=True)
    for kind, found in records.items():
        file = folder / f"served-{kind}.ndjson"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in found))
        subprocess.run(ours(archive, "import", kind, file), check=True)
    subprocess.run(ours(archive, "fetch", bucket), check=True)
    return archive, [str(row["id"]) for row in rows], [str(row["asset_key"]) for row in rows]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def servers(folder: Path, count: int) -> list[Served]:
    """Fill an archive, and say how each server serves it."""
    archive, ids, keys = fill(folder, count)
    downloads, files = folder / "downloads.txt", folder / "files.txt"
    downloads.write_text("".join(f"/v1/renders/{found}/download\n" for found in ids))
    files.write_text("".join(f"/{key}\n" for key in keys))
    ports = [free_port() for _ in range(7)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    listen = [url.removeprefix("http://") for url in urls]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(user=getuser(), folder=folder, port=ports[3], root=archive / "assets"))
    gunicorn, rclone, nginx = program("gunicorn"), program("rclone"), shutil.which("nginx", path="/usr/sbin:/usr/bin")
    app = f'benchmarks.serving:wsgi_app("{archive}")'
    plain = (
        "import benchmarks.serving as s, logging, waitress; logging.disable();"
        f" waitress.serve(s.wsgi_app({str(archive)!r}), listen={listen[4]!r})"
    )
    granian = program("granian")
    os.environ[ARCHIVE_VARIABLE] = str(archive)
    workers = ["--interface", "wsgi", "--workers", "2", "--log-level", "error", "--factory"]
    at = ["--host", "127.0.0.1", "--port", str(ports[5]), "benchmarks.serving:wsgi_app"]
    http = [rclone or "", "serve", "http", str(archive / "assets"), "--addr", listen[2]]
    bearer, basic = f"Bearer {KEY}", f"Basic {b64encode(b'user:secret').decode()}"
    return [
        Served("craftkit-archive serve", ours(archive, "serve", "--listen", listen[0]), urls[0], downloads, bearer),
        Served(
            "gunicorn, 2 sync workers, the same application",
            [gunicorn, "--workers", "2", "--log-level", "error", "--bind", listen[1], app] if gunicorn else None,
            urls[1],
            downloads,
            bearer,
            version_of(gunicorn, "--version") if gunicorn else "",
        ),
        Served(
            "waitress as it comes, 1 process, the same application",
            [sys.executable, "-c", plain],
            urls[4],
            downloads,
            bearer,
            metadata.version("waitress"),
        ),
        Served(
            "granian, 2 workers, the same application (for orientation)",
            [granian, *workers, *at] if granian else None,
            urls[5],
            downloads,
            bearer,
            version_of(granian, "--version") if granian else "",
        ),
        Served(
            "bjoern, 2 processes, the same application (for orientation)",
            [sys.executable, "-c", BJOERN, str(archive), str(ports[6])] if find_spec("bjoern") else None,
            urls[6],
            downloads,
            bearer,
            metadata.version("bjoern") if find_spec("bjoern") else "",
        ),
        Served(
            "rclone serve http, with a password; nothing compared",
            [*http, "--user", "user", "--pass", "secret", "--log-level", "ERROR"] if rclone else None,
            urls[2],
            files,
            basic,
            version_of(rclone, "--version") if rclone else "",
        ),
        Served(
            "nginx, bare files: no key, nothing compared",
            [nginx, "-c", str(config)] if nginx else None,
            urls[3],
            files,
            version=version_of(nginx, "-v") if nginx else "",
        ),
    ]


@contextmanager
def running(served: Served) -> Iterator[int]:
    """Run a server, and give the id of its process once it answers."""
    assert served.command is not None
    process = subprocess.Popen(served.command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        port = int(served.url.rpartition(":")[2])
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # bjoern, which waits for connections to end
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def peak_mb(pid: int) -> float:
    """Return the peak memory of the largest of a process and its children, in MB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    peaks = [
        int(found[1])
        for one in (str(pid), *children)
        if (found := re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text()))
    ]
    return max(peaks) / 1000


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in (str(pid), *children)]
    return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")


def ask(served: Served, folder: Path, seconds: int, connections: int = CONNECTIONS) -> tuple[float, float]:
    """Ask a running server, and return requests a second and p99 in ms.

    Raises:
        SystemExit: It answered something else than 2xx.
    """
    script = folder / "downloads.lua"
    script.write_text(SCRIPT)
    words = ["wrk", "--threads", "2", "--connections", str(connections), "--duration", f"{seconds}s", "--latency"]
    words += ["--script", str(script), served.url, "--", str(served.paths), served.authorization]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{served.name}: {said}")
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None, said
    assert p99 is not None, said
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]


def measure(folder: Path, count: int, *, rounds: int, seconds: int) -> str:
    """Ask each server in turn, several times after a first one that does not count, and return the table."""
    found = servers(folder, count)
    for number in range(rounds + 1):
        for served in found:
            if served.command is None or shutil.which("wrk") is None:
                continue
            with running(served) as pid:
                ask(served, folder, 2)  # warm
                before = cpu_seconds(pid)
                rate, p99 = ask(served, folder, seconds)
                if number:
                    served.rates.append(rate)
                    served.p99_ms.append(p99)
                    served.cpu_us.append((cpu_seconds(pid) - before) / (rate * seconds) * 1e6)
                served.peak_mb = max(served.peak_mb, peak_mb(pid))
    return f"{table(found, count)}\n{measure_beside_slow_clients(found[0], folder, seconds)}"


def measure_beside_slow_clients(served: Served, folder: Path, seconds: int) -> str:
    """Ask our server beside clients that read a few bytes at a time, and return how long healthy ones wait, as text."""
    assert served.command is not None
    with running(served) as pid, ExitStack() as slow:
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        readers, stopping = [slow.enter_context(socket.create_connection(address)) for _ in range(SLOW)], Event()
        path = served.paths.read_text().split()[0]
        for reader in readers:
            # More answers than the system buffers, so that the server has some left to send to each.
            sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {served.authorization}\r\n\r\n" * 50
            reader.sendall(sent.encode())

        def dawdle() -> None:
            while not stopping.wait(0.1):
                for reader in readers:
                    reader.recv(1000)

        thread = Thread(target=dawdle)
        thread.start()
        try:
            # Filling the buffers is some 9,000 answers, 800 MB: that burst is not what is measured.
            before = -1.0
            while cpu_seconds(pid) - before > 0.1:
                before = cpu_seconds(pid)
                time.sleep(1)
            ask(served, folder, 2)
            rate, p99 = ask(served, folder, seconds)
        finally:
            stopping.set()
            thread.join()
    return f"Beside {SLOW} clients that read 10 kB a second: {rate:,.0f} downloads a second, p99 {p99:.1f} ms.\n"


def table(found: list[Served], count: int) -> str:
    """Write what was measured as a table; the ratios are those of what ran next to each other."""
    lines = [
        f"### Serve {count:,} PDFs of {PDF_BYTES // 1000} kB, {CONNECTIONS} connections",
        "",
        "| server | version | downloads/s | p99 ms | we are × as fast | µs of processor | its × ours | peak MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    own = found[0]
    for served in found:
        if not served.rates:
            lines.append(f"| {served.name} | not installed | | | | | | |")
            continue
        ratio = median(a / b for a, b in zip(own.rates, served.rates, strict=True)) if own.rates else 0
        shown = "" if served is own else f"{ratio:.2f}"
        costs = median(a / b for a, b in zip(served.cpu_us, own.cpu_us, strict=True)) if own.cpu_us else 0
        more = "" if served is own else f"{costs:.2f}"
        lines.append(
            f"| {served.name} | {served.version} | {median(served.rates):,.0f} | {median(served.p99_ms):.1f} | {shown}"
            f" | {median(served.cpu_us):,.0f} | {more} | {served.peak_mb:.0f} |"
        )
    return "\n".join(lines) + "\n"
