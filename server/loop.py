"""The loop of one process: which connection can go on, who waits for a thread, who has to go.

Waitress hands every request to a thread. Here the thread that watches the connections answers most requests itself,
which is two to three times as fast; only what takes long (see `TakesLong`) goes to the others. A connection that says
nothing costs nothing, and when there are too many, the one that has kept its place for longest gives it up.
"""

import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from craftkit_archive.errors import ArchiveError
from server.connections import Channel
from server.exchange import AccessLine, AccessLog

log = logging.getLogger("craftkit_archive.server")

MAX_CONNECTIONS = 1000
MAX_BODY_BYTES = 64 << 10  # of requests, which have none
REQUEST_SECONDS = 20.0  # for a request to come in whole
IDLE_SECONDS = 120.0  # without a byte in either direction
TICK_SECONDS = 0.25


class Server(TcpWSGIServer):
    """Watches the connections of one listening socket, and answers them with a WSGI application.

    Args:
        app: The application.
        listener: Bound; others may listen on it as well.
        threads: How many requests that take long are worked on at a time.
        access_log: Takes a line for each answer.
        max_connections: How many there may be; for one more, the one that kept its place for longest is closed.
    """

    channel_class = Channel

    def __init__(
        self,
        app: Callable[..., Any],
        listener: socket.socket,
        *,
        threads: int,
        access_log: AccessLog | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        # Nothing is spooled to temporary files, and no thread waits for a client that asks for much and reads nothing:
        # large PDFs are sent from their open files.
        adjustments = Adjustments(
            sockets=[listener],
            threads=threads,
            ident=None,
            max_request_body_size=MAX_BODY_BYTES,
            clear_untrusted_proxy_headers=False,  # the application knows whom it trusts
            outbuf_overflow=sys.maxsize,
            outbuf_high_watermark=sys.maxsize,
        )
        self.access_log = access_log
        self.holding: set[Channel] = set()
        self._log_fails = False
        self._max_connections = max_connections
        self._selector = selectors.DefaultSelector()
        self._in_threads: set[Channel] = set()
        self._in_turn: dict[Channel, None] = {}  # who asked again before the answer, in their order
        self._deadline: float | None = None
        self._loop_thread = 0
        # It warns of every request that waits for a thread.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        sockinfo = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            app, {}, True, listener, dispatcher=dispatcher, adj=adjustments, sockinfo=sockinfo, bind_socket=False
        )

    # --- the loop

    def run(self, at_each_turn: Callable[[], None] = lambda: None) -> None:
        """Serve until `end` is called, then finish what is under way.

        Args:
            at_each_turn: Called at least every quarter of a second, by the thread that runs the loop.
        """
        self._loop_thread = threading.get_ident()
        self._selector.register(self.socket, selectors.EVENT_READ, self)
        self._selector.register(self.trigger._fileno, selectors.EVENT_READ, self.trigger)
        looked = time.monotonic()
        while self._deadline is None:
            self._turn(TICK_SECONDS)
            at_each_turn()
            if time.monotonic() - looked >= TICK_SECONDS:
                looked = time.monotonic()
                self._look_around(looked)
        self._finish(self._deadline)

    def _turn(self, timeout_s: float) -> bool:
        """Do what there is to do, waiting for it up to a time, and say whether there was something."""
        in_turn, self._in_turn = self._in_turn, {}
        found = self._selector.select(0 if in_turn else timeout_s)
        for key, events in found:
            if key.data is self:
                self.handle_accept()
            elif key.data is self.trigger:
                self.trigger.handle_read()
            else:
                self._attend(key.data, events)
        for channel in [channel for channel in self._in_threads if not channel.requests]:
            self._in_threads.discard(channel)
            self._attend(channel, 0)
        for channel in in_turn:
            self._attend(channel, 0)
        return bool(found or in_turn)

    def _attend(self, channel: Channel, events: int) -> None:
        if events and channel.socket is None:
            return  # closed in this very turn, to make room for another
        try:
            if events & selectors.EVENT_READ:
                channel.handle_read()
            if events & selectors.EVENT_WRITE and channel.connected:
                channel.handle_write()
            channel.settle()
            if channel.rest and channel.connected and not events & selectors.EVENT_READ:
                channel.received(b"")
            if channel.may_go_on():
                self._in_turn[channel] = None
        except Exception:  # whatever it is, the other connections live on
            log.exception("internal error on a connection")
            channel.handle_close()
        self.watch(channel)

    def watch(self, channel: Channel) -> None:
        """Wait for what a connection can do next."""
        wanted = 0
        if channel.connected and channel.socket is not None:
            wanted = selectors.EVENT_READ * channel.readable() | selectors.EVENT_WRITE * channel.writable()
        if wanted == channel.watched:
            return
        if channel.watched and wanted:
            self._selector.modify(channel.socket, wanted, channel)
        elif wanted:
            self._selector.register(channel.socket, wanted, channel)
        else:
            self._selector.unregister(channel.socket)
        channel.watched = wanted

    def forget(self, channel: Channel) -> None:
        """Wait for nothing from a connection that is about to be closed."""
        if channel.watched:
            self._selector.unregister(channel.socket)
            channel.watched = 0
        self.holding.discard(channel)

    def leave_to_thread(self, channel: Channel) -> None:
        """Let a thread answer, so that the other connections need not wait."""
        self._in_threads.add(channel)
        self.add_task(channel)

    def pull_trigger(self) -> None:
        """Wake the loop, unless it is the loop itself that says so."""
        if threading.get_ident() != self._loop_thread:
            super().pull_trigger()

    # --- limits

    def handle_accept(self) -> None:
        """Take one connection; one at a time, so that other processes get theirs."""
        if len(self.active_channels) >= self._max_connections:
            idle = [channel for channel in self.active_channels.values() if not channel.requests]
            if idle:
                min(idle, key=lambda channel: (bool(channel.total_outbufs_len), channel.since)).handle_close()
        super().handle_accept()

    def _look_around(self, moment: float) -> None:
        """Close what has been silent or incomplete for too long; send what was held back for long enough."""
        for channel in [channel for channel in self.holding if moment >= channel.held_until]:
            self.holding.discard(channel)
            self._attend(channel, 0)
        silent = time.time() - IDLE_SECONDS
        for channel in list(self.active_channels.values()):
            late = channel.request is not None and moment - channel.since > REQUEST_SECONDS
            if late or (not channel.requests and channel.last_activity < silent):
                channel.handle_close()

    # --- the end

    def end(self, grace_s: float) -> None:
        """Ask the loop to end: it accepts no more, and finishes what is under way within a time."""
        self._deadline = time.monotonic() + grace_s
        super().pull_trigger()

    def _finish(self, deadline: float) -> None:
        for _ in range(self._max_connections):
            if not self._turn(0):
                break  # who had asked already is answered
        self._selector.unregister(self.socket)
        self.socket.close()
        while any(channel.busy() for channel in self.active_channels.values()) and time.monotonic() < deadline:
            self._turn(0.05)
            self._look_around(time.monotonic())
        self.task_dispatcher.shutdown(timeout=max(deadline - time.monotonic(), 0))
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        self.trigger.close()
        self._selector.close()

    def log_access(self, access_log: AccessLog, line: AccessLine) -> None:
        """Write a line; a disk that refuses is told once, and stops no answer."""
        try:
            access_log.write(line)
            self._log_fails = False
        except ArchiveError as error:
            if not self._log_fails:
                log.error("%s", error)
            self._log_fails = True
