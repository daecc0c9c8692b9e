"""Processes that serve: their sockets, their supervisor, and what each of them does."""

import errno
import logging
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from bottle import Bottle

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, RequestError
from craftkit_archive.parallel.pool import spawn
from server.access_log import AccessLog, LogFormat
from server.app import Service, Settings
from server.http import MAX_CONNECTIONS, Server

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

log = logging.getLogger("craftkit_archive.server")

DEFAULT_THREADS = 8
GRACE_SECONDS = 5.0
PATIENCE_SECONDS = 2.0  # beyond the grace time, before a process is killed
RESTART_SECONDS = 1.0  # between the starts of a process that keeps dying
MAX_OPEN_FILES = 8192
BACKLOG = 1024
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def listen(address: str) -> socket.socket:
    """Listen on `HOST:PORT` (port 0 takes a free one), on `unix:/path`, or on a socket that was handed over, `fd:3`.

    Raises:
        RequestError: The address is malformed, is taken, or is not this machine's.
    """
    kind, _, rest = address.partition(":")
    host, _, port = address.rpartition(":")
    with _refused(address):
        if kind == "unix":
            return _listen_unix(rest)
        if not host:  # to the system, no host is every address of the machine
            raise ValueError("no host")
        if kind != "fd":
            return bind(host.strip("[]"), int(port))
        listener = socket.socket(fileno=int(rest))
        listener.listen(BACKLOG)
        return listener


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises:
        RequestError: The address is taken, or is not this machine's.
    """
    six = ":" in host
    with _refused(f"{host}:{port}"):
        family = socket.AF_INET6 if six else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=six)


def _listen_unix(path: str) -> socket.socket:
    with ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(socket.AF_UNIX))
        if Path(path).is_socket() and listener.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink()  # what a server left that was killed
        listener.bind(path)
        Path(path).chmod(0o660)  # for the proxy, by its group
        listener.listen(BACKLOG)
        on_failure.pop_all()
        return listener


@contextmanager
def _refused(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, OverflowError) as error:
        reason = "not HOST:PORT, unix:/path or fd:NUMBER"
        if isinstance(error, OSError):
            reason = (error.strerror or "").partition(" (while")[0]  # Python repeats the address
        raise RequestError(f"Cannot listen on {address} ({reason}). Choose another address with --listen.") from error


def url_of(listener: socket.socket) -> str:
    """Return the URL that a listener answers to."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"


def _notify(state: str) -> None:
    """Tell systemd, if it wants to know (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
            channel.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


class Plan(NamedTuple):
    """What each process does."""

    archive: Path
    settings: Settings
    threads: int  # for requests that take long, in each process
    access_log: str | None = None
    log_format: LogFormat = "json"
    sealed: bool = False
    quiet: bool = False
    metrics: tuple[str, int] | None = None  # where Prometheus asks, as host and port


class Supervisor:
    """Starts the processes that serve on the same sockets, restarts those that die, and ends them."""

    def __init__(self, plan: Plan, listeners: Sequence[socket.socket], count: int) -> None:
        self._plan = plan
        self._listeners = list(listeners)
        self._count = count
        self._workers: list[BaseProcess] = []
        self._started = 0.0
        self._ready, self._say_ready = socket.socketpair()
        self._ready.setblocking(False)

    def start(self) -> None:
        """Start the processes that are missing."""
        self._started = time.monotonic()
        # SIGHUP waits until a process has its handler: by default, it would end one that is just starting.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        while len(self._workers) < self._count:
            self._workers.append(spawn(serve_alone, self._plan, self._listeners, self._say_ready))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def restart_dead(self) -> None:
        """Replace the processes that have died; tell systemd as soon as the first one serves."""
        with suppress(BlockingIOError):
            if self._ready.recv(4096):
                _notify("READY=1")
        dead = [worker for worker in self._workers if not worker.is_alive()]
        if dead and time.monotonic() - self._started >= RESTART_SECONDS:
            for worker in dead:
                log.error("process %s ended with %s; starting another", worker.pid, worker.exitcode)
                self._workers.remove(worker)
                if self._plan.metrics:
                    from server.metrics import forget_process

                    forget_process(worker.pid)  # type: ignore[no-untyped-call]
            self.start()

    def send(self, number: int, _frame: object = None) -> None:
        """Send a signal to every process."""
        for worker in self._workers:
            if worker.is_alive() and worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def end(self) -> None:
        """End the processes; requests under way are finished."""
        _notify("STOPPING=1")
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS + PATIENCE_SECONDS
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))
            worker.kill()
            worker.join()
        for listener in (*self._listeners, self._ready, self._say_ready):
            if listener.family == socket.AF_UNIX and (path := listener.getsockname()):
                Path(path).unlink(missing_ok=True)
            listener.close()


@contextmanager
def supervised(plan: Plan, listeners: Sequence[socket.socket], count: int) -> Iterator[tuple[Supervisor, str | None]]:
    """Serve in several processes while the block runs; end them and close their sockets at its end.

    Yields:
        The supervisor, whose `restart_dead` is to be called again and again, and the URL of the metrics.
    """
    with ExitStack() as ending:
        supervisor, url = Supervisor(plan, listeners, count), None
        ending.callback(supervisor.end)
        if plan.metrics:
            os.environ[METRICS_FOLDER] = ending.enter_context(tempfile.TemporaryDirectory(prefix="craftkit-archive-"))
            from server.metrics import expose

            url = ending.enter_context(expose(*plan.metrics, plan.archive, sealed=plan.sealed))
        ending.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, supervisor.send))
        supervisor.start()
        yield supervisor, url


def serve_alone(plan: Plan, listeners: Sequence[socket.socket], say_ready: socket.socket) -> None:
    """Serve in this process until SIGTERM; requests under way are finished. SIGHUP opens catalog and log again."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    log_to_stderr(quiet=plan.quiet)
    with Archive(plan.archive, read_only=True, sealed=plan.sealed) as archive:
        service = Service(archive, plan.settings)
        access_log, metrics = plan.access_log and AccessLog(plan.access_log, plan.log_format), None
        if plan.metrics:
            from server.metrics import RequestMetrics

            metrics = RequestMetrics()
        observers = [observer.observe for observer in (access_log, metrics) if observer]
        limit = max_connections(plan.threads)
        server = Server(service.app, listeners, threads=plan.threads, observers=observers, max_connections=limit)

        def look_around() -> None:
            if metrics is not None:
                metrics.set_connections(len(server.connections()))
            if signal.SIGTERM in received:
                server.end(GRACE_SECONDS)
            elif received:
                received.clear()
                try:
                    service.reopen()
                    if access_log:
                        access_log.reopen()
                except ArchiveError as error:
                    log.error("%s", error)

        with suppress(OSError):
            say_ready.send(b".")
        server.run(look_around)


@contextmanager
def running(
    app: Bottle, listener: socket.socket, *, threads: int = DEFAULT_THREADS, access_log: AccessLog | None = None
) -> Iterator[Server]:
    """Serve in a thread of this process while the block runs; at its end, requests under way are finished."""
    server = Server(app, [listener], threads=threads, observers=[access_log.observe] if access_log else [])
    loop = Thread(target=server.run, name="connections")
    loop.start()
    try:
        yield server
    finally:
        server.end(GRACE_SECONDS)
        loop.join()


def max_connections(threads: int) -> int:
    """Return how many connections a process can have with the file descriptors that it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # Each may need a second one, for its PDF; and a few are for the catalog, in each thread, and the process itself.
    return max(4, min(MAX_CONNECTIONS, (max(soft, wanted) - 24 - 3 * threads) // 2))


def log_to_stderr(*, quiet: bool) -> None:
    """Log to stderr, a line for each event; with `quiet`, errors alone."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.ERROR if quiet else logging.WARNING,
    )
