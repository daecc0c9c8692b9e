"""Real services for tests: PostgreSQL; an S3 server that is a mock, one that is none, and one that has faults."""

import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from tests.worlds import ROOT, needs

BUCKET = "craftkit"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDFORTESTS",
    "AWS_SECRET_ACCESS_KEY": "secretfortests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's S3 in a thread of this process, with one empty bucket, and give its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        make_bucket(url)
        yield url
    finally:
        server.stop()


class Database(NamedTuple):
    """A real PostgreSQL: its programs, its socket's folder, its port on the loopback, and the password there."""

    programs: Path
    folder: Path
    port: int
    password: str
    name: str = "postgres"

    @property
    def url(self) -> str:
        """Return an address that needs no password: that of the socket."""
        return f"postgresql://postgres@/{self.name}?host={self.folder}&port={self.port}"

    @property
    def network_url(self) -> str:
        """Return an address that needs one, and does not hold it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{self.name}"

    def run(self, program: str, *words: str, stdin: bytes = b"") -> bytes:
        """Run one of its programs, such as psql or pg_dump, and return what it writes."""
        command = [str(self.programs / program), "-h", str(self.folder), "-p", str(self.port), "-U", "postgres", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, "PGDATABASE": self.name})
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def sql(self, text: str) -> bytes:
        """Run statements with psql and return what it writes."""
        return self.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=text.encode())


@contextmanager
def postgres_server() -> Iterator[Database]:
    """Run a PostgreSQL of the system with a cluster of its own; it does not run as root."""
    # Debian has the programs of each version in a folder of their own, outside of PATH.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    programs = found[-1].parent if found else Path(needs("initdb")).parent
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder, password, port = Path(name), "s3cret/p@ss:w?rd", free_port()
        (folder / "password").write_text(password)
        as_other = []
        if os.geteuid() == 0:
            other = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
            as_other = [needs("setpriv"), f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
            for path in (folder, folder / "password"):
                os.chown(path, other.pw_uid, other.pw_gid)

        def run(program: str, *words: str) -> None:
            # Not into a pipe, which the server would keep open.
            with (folder / "out").open("ab") as out:
                subprocess.run([*as_other, programs / program, *words], check=True, stdout=out, stderr=out, cwd=folder)

        data = f"{folder}/data"
        run("initdb", "-D", data, "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--auth-local=trust",
            "--auth-host=scram-sha-256", f"--pwfile={folder}/password")  # fmt: skip
        settings = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB"
        run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", settings, "start")
        try:
            yield Database(programs, folder, port, password)
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


def make_bucket(url: str, name: str = BUCKET) -> None:
    """Make a bucket at a service that asks for no signature."""
    request = urllib.request.Request(f"{url}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def s3_client(url: str) -> Any:
    """Return botocore's own client of a service, to look at what ours has done."""
    from botocore.session import Session

    return Session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


class RealService(NamedTuple):
    """A real S3 server, and the folder whose files are the objects of its bucket."""

    url: str
    bucket: Path
    process: "subprocess.Popen[bytes]"

    def look_again(self) -> None:
        """Let it forget which files it has seen in its folder."""
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)


@contextmanager
def rclone_server(folder: Path, *extra: str) -> Iterator[RealService]:
    """Run `rclone serve s3`, which checks signatures, over a folder with one empty bucket.

    It lists a folder anew for each request, and hangs at times when many write to one: `--dir-cache-time` cures that.
    """
    rclone = Path(sys.executable).with_name("rclone")
    program = str(rclone) if rclone.exists() else needs("rclone")
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = free_port()
    keys = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']},{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
    words = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", os.devnull]
    with subprocess.Popen([*words, "--dir-cache-time", "0s", *extra, str(folder)], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield RealService(f"http://127.0.0.1:{port}", folder / BUCKET, server)
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.025)
        else:
            return
    raise TimeoutError(f"Nothing listens on port {port}.")


@contextmanager
def answering(answer: bytes, *, endless: bytes = b"") -> Iterator[str]:
    """Run a server that answers everything with these bytes, and then with more of them without end; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65_536)
                connection.sendall(answer)
                while endless:
                    connection.sendall(endless)

        Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Fault:
    """What goes wrong with the next so many GETs of objects whose path contains `where`."""

    kind: Literal["reset", "break", "stall", "503", "500", "lengthen", "flip", "denied", "change"]
    where: str = ".pdf"
    times: int = 1
    method: str = "GET"


class FaultyProxy:
    """A proxy in front of a service, which breaks what goes through it as it is told.

    Attributes:
        url: Its address.
        faults: What is still to go wrong.
        asked: Method and path of every request.
        change: What is done to the service when a `change` breaks an object off.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.closed = False
        self.change: Callable[[], None] = lambda: None
        self._lock = Lock()
        proxy = self

        class Handler(_ProxyHandler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Go away: connections are refused, and those that are open are not answered."""
        self.closed = True
        self._server.shutdown()
        self._server.server_close()

    def take(self, method: str, path: str) -> Fault | None:
        """Return what is to go wrong with a request."""
        with self._lock:
            self.asked.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times and fault.where in path and fault.method == method:
                    fault.times -= 1
                    return fault
        return None


class _ProxyHandler(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its own headers

    def do_GET(self) -> None:
        if self.owner.closed:
            self.close_connection = True
            return None
        fault = self.owner.take(self.command, self.path)
        kind = fault.kind if fault else None
        if kind in ("503", "500", "denied"):
            return self._answer(
                403 if kind == "denied" else int(kind), {"Retry-After": "0"}, b"<Code>AccessDenied</Code>"
            )
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        if kind == "stall":
            time.sleep(3)
        status, headers, body = self._forward()
        if kind == "flip":
            body = body[:100] + bytes([body[100] ^ 1]) + body[101:]
        if kind == "change":
            self.owner.change()
        if kind in ("break", "change", "lengthen"):
            length = len(body) + (10 if kind == "lengthen" else 0)
            self._answer(status, {**headers, "Content-Length": str(length)}, body if kind == "lengthen" else body[:60])
            self.close_connection = True
            return None
        return self._answer(status, headers, body)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def _forward(self) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self.owner.upstream.netloc, timeout=30)
        length = int(self.headers.get("Content-Length") or 0)
        connection.request(self.command, self.path, self.rfile.read(length) or None, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_THE_HOP}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.headers.get("Content-Length", "0")
        connection.close()
        return answer.status, headers, body

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


_OF_THE_HOP = {"connection", "content-length", "transfer-encoding", "date", "server"}


class DaskCluster:
    """A Dask scheduler and its workers, as an operator starts them.

    Attributes:
        address: The scheduler's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # It knows nothing of this package: what it passes on, it does not look into.
        words = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        self._start("scheduler", words, cwd="/", PYTHONPATH="")
        _wait_for(port)

    def _start(self, name: str, words: list[str], *, cwd: str | Path, before: tuple[str, ...] = (), **env: str) -> None:
        dask = Path(sys.executable).with_name("dask")
        program = str(dask) if dask.exists() else needs("dask")
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*before, program, *words], stdout=log, stderr=log, cwd=cwd, env={**os.environ, **env},
                start_new_session=True,
            )  # fmt: skip

    def start_worker(self, name: str, *, before: tuple[str, ...] = (), wait: bool = True, **env: str) -> None:
        """Start a worker with one thread."""
        words = ["worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--name", name]
        words += ["--local-directory", str(self._folder / name)]
        self._start(name, words, cwd=self._folder, before=before, **{"PYTHONPATH": str(ROOT), **env})
        if wait:
            self.wait_for(name)

    def wait_for(self, name: str) -> None:
        """Wait until a worker is registered with the scheduler."""
        for _ in range(1200):
            if b"Registered to" in (self._folder / f"{name}.log").read_bytes():
                return
            time.sleep(0.025)
        raise TimeoutError((self._folder / f"{name}.log").read_text())

    def worker_process(self, name: str) -> int:
        """Return the number of the process that does a worker's tasks, a child of the one that was started."""
        for thread in Path(f"/proc/{self._processes[name].pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        raise LookupError(f"{name} has no process that works.")

    def kill(self, name: str) -> None:
        """Kill the scheduler, or a worker and what looks after it."""
        with suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, signal.SIGKILL)
        self._processes.pop(name).wait()

    def close(self) -> None:
        """End everything."""
        for name in reversed(list(self._processes)):
            self.kill(name)


@contextmanager
def dask_cluster(folder: Path, *, workers: int = 2, python_path: str = str(ROOT)) -> Iterator[DaskCluster]:
    """Run a scheduler and some workers, each with one thread."""
    cluster = DaskCluster(folder)
    try:
        for number in range(workers):
            cluster.start_worker(f"worker-{number}", wait=False, PYTHONPATH=python_path)
        for number in range(workers):
            cluster.wait_for(f"worker-{number}")
        yield cluster
    finally:
        cluster.close()
