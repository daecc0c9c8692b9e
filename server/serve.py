"""The processes of the server: their sockets, their supervisor, and their main loop."""

import errno
import logging
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, RequestError
from craftkit_archive.parallel.pool import spawn
from server.access_log import AccessLog, LogFormat
from server.app import Service, Settings
from server.http import MAX_CONNECTIONS, Server
from server.metrics import RequestMetrics, expose, mark_process_dead

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

log = logging.getLogger("craftkit_archive.server")

DEFAULT_THREADS = 8
GRACE_SECONDS = 5.0
PATIENCE_SECONDS = 2.0  # after the grace time, before a process is killed
RESTART_SECONDS = 1.0  # between two starts of a process that keeps dying
MAX_OPEN_FILES = 8192
BACKLOG = 1024


def listen(address: str) -> socket.socket:
    """Listen on `HOST:PORT` (port 0 takes a free one), on `unix:/path`, or on an inherited socket such as `fd:3`.

    Raises:
        RequestError: The address is malformed, in use, or not an address of this machine.
    """
    kind, _, rest = address.partition(":")
    host, _, port = address.rpartition(":")
    try:
        if kind == "unix":
            return _listen_unix(rest)
        if kind == "fd":
            listener = socket.socket(fileno=int(rest))
            listener.listen(BACKLOG)
            return listener
        if not host:  # the system would listen on every address of the machine
            raise ValueError("no host")
        six = ":" in host
        family = socket.AF_INET6 if six else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG, dualstack_ipv6=six)
    except (OSError, ValueError, OverflowError) as error:
        reason = "not HOST:PORT, unix:/path or fd:NUMBER"
        if isinstance(error, OSError):
            reason = (error.strerror or "").partition(" (while")[0]  # Python repeats the address
        raise RequestError(f"Cannot listen on {address} ({reason}). Choose another address with --listen.") from error


def _listen_unix(path: str) -> socket.socket:
    with ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(socket.AF_UNIX))
        if Path(path).is_socket() and listener.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink()  # left by a server that was killed
        listener.bind(path)
        Path(path).chmod(0o660)  # so that the proxy can connect through its group
        listener.listen(BACKLOG)
        on_failure.pop_all()
        return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL that a listener answers to."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"


def _notify(state: str) -> None:
    """Notify systemd, if it asked for it (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
            channel.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


class ServePlan(NamedTuple):
    """The settings of each process."""

    archive: Path
    settings: Settings
    threads: int = DEFAULT_THREADS  # for slow requests, in each process
    access_log: str | None = None
    log_format: LogFormat = "json"
    sealed: bool = False
    quiet: bool = False
    metrics: tuple[str, int] | None = None  # host and port for Prometheus


class Supervisor:
    """Starts processes that serve on the same sockets, restarts those that die, and ends them; a context manager."""

    metrics_url: str | None = None

    def __init__(self, plan: ServePlan, listeners: Sequence[socket.socket], count: int) -> None:
        self._plan = plan
        self._listeners = list(listeners)
        self._count = count
        self._workers: list[BaseProcess] = []
        self._started = -RESTART_SECONDS

    def __enter__(self) -> Self:
        """Serve until the block ends; call `tend` repeatedly meanwhile."""
        with ExitStack() as ending:
            ending.callback(self.end)
            if self._plan.metrics:
                folder = tempfile.TemporaryDirectory(prefix="craftkit-archive-")
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = ending.enter_context(folder)
                self.metrics_url = expose(*self._plan.metrics, self._plan.archive, sealed=self._plan.sealed)
            ending.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, self.send))
            self.tend()
            _notify("READY=1")  # the sockets are open, so clients that connect now wait until a process is up
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        """End the processes and close their sockets."""
        self._ending.close()

    def tend(self) -> None:
        """Start processes that are missing; call it repeatedly."""
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            log.error("process %s ended with %s; starting another", worker.pid, worker.exitcode)
            self._workers.remove(worker)
            if self._plan.metrics:
                mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        if len(self._workers) < self._count and time.monotonic() - self._started >= RESTART_SECONDS:
            self._started = time.monotonic()
            # SIGHUP is blocked until a process has its handler: by default, it would end one that is just starting.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            while len(self._workers) < self._count:
                self._workers.append(spawn(serve_alone, self._plan, self._listeners))
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, number: int, _frame: object = None) -> None:
        """Send a signal to every process."""
        for worker in self._workers:
            if worker.is_alive() and worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def end(self) -> None:
        """End the processes, which finish their open requests."""
        _notify("STOPPING=1")
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS + PATIENCE_SECONDS
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))
            worker.kill()
            worker.join()
        for listener in self._listeners:
            # systemd owns the path of a socket that it passed; only such a socket is inheritable (PEP 446).
            if listener.family == socket.AF_UNIX and not listener.get_inheritable():
                Path(listener.getsockname()).unlink(missing_ok=True)
            listener.close()


def serve_alone(plan: ServePlan, listeners: Sequence[socket.socket]) -> None:
    """Serve in this process until SIGTERM, then finish the open requests. SIGHUP reopens the catalog and the log."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.ERROR if plan.quiet else logging.WARNING,
    )
    with Archive(plan.archive, read_only=True, sealed=plan.sealed) as archive:
        service = Service(archive, plan.settings)
        access_log = AccessLog(plan.access_log, plan.log_format) if plan.access_log else None
        metrics = RequestMetrics() if plan.metrics else None
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

        server.run(look_around)


def max_connections(threads: int) -> int:
    """Return how many connections a process can have within its limit of file descriptors, which is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # A connection may need a second descriptor, for its PDF; and the process and the catalog in each thread need a few.
    return max(4, min(MAX_CONNECTIONS, (max(soft, wanted) - 24 - 3 * threads) // 2))
