"""Run the application on waitress."""

import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import waitress
from bottle import Bottle
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from craftkit_archive.errors import RequestError
from server.errors import BAD_REQUEST, INTERNAL, envelope

DEFAULT_THREADS = 8
GRACE_SECONDS = 5.0
MAX_CONNECTIONS = 1000
MAX_BODY_BYTES = 64 << 10  # of requests, which have none


class _ErrorTask(ErrorTask):
    """What waitress itself refuses (no HTTP, too large), in the one envelope."""

    def execute(self) -> None:
        error = self.request.error
        code = BAD_REQUEST.code if error.code < 500 else INTERNAL.code
        body = envelope(code, f"The request cannot be answered: {error.reason}.")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    error_task_class = _ErrorTask


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises:
        RequestError: The address is taken, or is not this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise RequestError(f"{host}:{port} cannot be listened on ({error.strerror}): name another address.") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL that a listener answers to."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def running(app: Bottle, listener: socket.socket, *, threads: int = DEFAULT_THREADS) -> Iterator[None]:
    """Serve while the block runs; at its end, requests under way are finished.

    Args:
        app: The application.
        listener: Bound and listening; closed at the end.
        threads: How many requests are worked on at a time.
    """
    # It warns of every request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    channels: dict[int, Any] = {}
    server = waitress.create_server(
        app,
        map=channels,
        sockets=[listener],
        threads=threads,
        ident=None,
        connection_limit=MAX_CONNECTIONS,
        max_request_body_size=MAX_BODY_BYTES,
        # Nothing is spooled to temporary files, and no thread waits for a client that asks for much and reads nothing:
        # large PDFs are sent from their open files.
        outbuf_overflow=sys.maxsize,
        outbuf_high_watermark=sys.maxsize,
        asyncore_use_poll=True,
    )
    server.channel_class = _Channel
    loop = Thread(target=server.run, name="waitress")
    loop.start()
    try:
        yield
    finally:
        deadline = time.monotonic() + GRACE_SECONDS
        server.task_dispatcher.shutdown(timeout=GRACE_SECONDS)
        while time.monotonic() < deadline and any(
            getattr(channel, "total_outbufs_len", 0) for channel in list(channels.values())
        ):
            time.sleep(0.01)
        server.trigger.pull_trigger(lambda: wasyncore.close_all(channels))
        loop.join()
