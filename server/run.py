"""One process that serves: the listening socket, and a thread that runs the loop."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from bottle import Bottle

from craftkit_archive.errors import RequestError
from server.exchange import AccessLog
from server.loop import Server

DEFAULT_THREADS = 8
GRACE_SECONDS = 5.0


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
    except (OSError, UnicodeError) as error:  # the latter of a name that is none
        if listener is not None:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise RequestError(f"{host}:{port} cannot be listened on ({reason}): name another address.") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL that a listener answers to."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def running(
    app: Bottle,
    listener: socket.socket,
    *,
    threads: int = DEFAULT_THREADS,
    access_log: AccessLog | None = None,
) -> Iterator[None]:
    """Serve while the block runs; at its end, requests under way are finished.

    Args:
        app: The application.
        listener: Bound and listening; closed at the end.
        threads: How many requests that take long are worked on at a time.
        access_log: Takes a line for each answer.
    """
    server = Server(app, listener, threads=threads, access_log=access_log)
    loop = Thread(target=server.run, name="connections")
    loop.start()
    try:
        yield
    finally:
        server.end(GRACE_SECONDS)
        loop.join()
