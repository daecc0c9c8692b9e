"""Several processes on one listening socket: started, watched, started again when they die, ended together."""

import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError
from craftkit_archive.work import spawn
from server.app import Settings, create_app
from server.exchange import AccessLog
from server.loop import Server
from server.run import GRACE_SECONDS

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

log = logging.getLogger("craftkit_archive.server")

PATIENCE_SECONDS = 2.0  # beyond the grace time, before a process is killed
AGAIN_SECONDS = 1.0  # between the starts of one that keeps dying
MAX_OPEN_FILES = 8192


class Plan(NamedTuple):
    """What each process does.

    Attributes:
        archive: The archive's directory.
        settings: Of the application.
        threads: How many requests that take long each process works on at a time.
        access_log: The file that takes a line for each answer.
        sealed: Whether the archive never changes.
        quiet: Whether only errors are told.
    """

    archive: Path
    settings: Settings
    threads: int
    access_log: Path | None = None
    sealed: bool = False
    quiet: bool = False


@contextmanager
def crew(plan: Plan, listener: socket.socket, count: int) -> Iterator[Callable[[], None]]:
    """Serve in several processes while the block runs, and end them at its end.

    Args:
        plan: What each does.
        listener: Bound and listening; shared by all, and closed at the end.
        count: How many.

    Yields:
        What is to be called again and again: it starts anew what has died.
    """
    with ExitStack() as ending:
        members = _Crew(plan, listener, count)
        ending.callback(listener.close)
        ending.callback(members.end)
        with _signals({signal.SIGHUP: lambda *_: members.send(signal.SIGHUP)}):
            members.start()
            yield members.mend


@contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Crew:
    def __init__(self, plan: Plan, listener: socket.socket, count: int) -> None:
        self._plan = plan
        self._listener = listener
        self._count = count
        self._members: list[BaseProcess] = []
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        while len(self._members) < self._count:
            self._members.append(spawn(serve_alone, self._plan, self._listener))

    def mend(self) -> None:
        dead = [member for member in self._members if not member.is_alive()]
        if dead and time.monotonic() - self._began >= AGAIN_SECONDS:
            for member in dead:
                log.error("process %s ended with %s; another takes its place", member.pid, member.exitcode)
                self._members.remove(member)
            self.start()

    def send(self, number: signal.Signals) -> None:
        for member in self._members:
            if member.is_alive() and member.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(member.pid, number)

    def end(self) -> None:
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS + PATIENCE_SECONDS
        for member in self._members:
            member.join(max(deadline - time.monotonic(), 0))
            if member.is_alive():
                member.kill()
                member.join()


def serve_alone(plan: Plan, listener: socket.socket) -> None:
    """Serve in this process until SIGTERM; requests under way are finished. SIGHUP opens the access log anew."""
    tell(quiet=plan.quiet)
    _allow_many_files()
    ending: list[int] = []
    hung_up: list[int] = []
    # A Ctrl-C in a terminal reaches every process; the parent decides what becomes of it.
    handlers = {
        signal.SIGINT: lambda *_: None,
        signal.SIGTERM: lambda number, _: ending.append(number),
        signal.SIGHUP: lambda number, _: hung_up.append(number),
    }
    with _signals(handlers), Archive(plan.archive, read_only=True, sealed=plan.sealed) as archive:
        access_log = AccessLog(plan.access_log) if plan.access_log else None
        server = Server(create_app(archive, plan.settings), listener, threads=plan.threads, access_log=access_log)

        def look_at_signals() -> None:
            if ending:
                server.end(GRACE_SECONDS)
            if hung_up and access_log is not None:
                hung_up.clear()
                try:
                    access_log.reopen()
                except ArchiveError as error:
                    log.error("%s", error)

        server.run(look_at_signals)


def tell(*, quiet: bool) -> None:
    """Bring what the server has to say to stderr, a line each; with `quiet`, errors alone."""
    handler = logging.StreamHandler(sys.stderr)
    form = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.ERROR if quiet else logging.WARNING)


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(MAX_OPEN_FILES, hard) if hard != resource.RLIM_INFINITY else MAX_OPEN_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
