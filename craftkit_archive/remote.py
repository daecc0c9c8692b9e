"""HTTP to a remote end: patience with what may heal, and bodies that go on where they broke off."""

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from craftkit_archive.errors import AssetUnreadableError, RemoteError, RequestError
from craftkit_archive.store import mask_address

ATTEMPTS = 5
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 16.0
TIMEOUT_SECONDS = 60.0
# Nothing has a size of more.
MAX_LENGTH_DIGITS = 18
# As much of an answer that nobody wants is read to keep its connection; with more, a new one is cheaper.
REST_BYTES = 64 << 10
# What a server says when it may do better later.
HEALING = frozenset({429, 500, 502, 503, 504})

Response = urllib3.BaseHTTPResponse
# What reading a body raises when it breaks off.
BROKEN = (urllib3.exceptions.HTTPError,)


class Remote:
    """A remote end. Every request is tried up to five times, with pauses that grow from 1 s to 16 s and are uneven.

    Redirections are not followed: a key or a signature is for the one who was asked.

    Args:
        url: Any address of it.
        lanes: How many connections to keep.
        ca_bundle: Certificates to trust instead of the system's.

    Raises:
        RequestError: The address is none, or that of the proxy for it.
    """

    def __init__(self, url: str, *, lanes: int, ca_bundle: str | None = None) -> None:
        parts = split_url(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        options: dict[str, Any] = {"maxsize": lanes, "block": False, "ca_certs": ca_bundle}
        try:
            manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            self._pool = manager.connection_from_url(url)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            what = "the proxy that the environment names for it" if proxy else "it"
            raise RequestError(f"{self._origin} cannot be asked ({_reason(error)}): mend {what}.") from error
        self._prefix = self._origin if proxy and parts.scheme == "http" else ""

    def request(self, method: str, path: str, headers: Callable[[], Mapping[str, str]]) -> Response:
        """Ask, and return the answer with its body unread, whatever its status.

        Args:
            method: HTTP's.
            path: What, from the first slash on.
            headers: Makes the headers of each attempt: a signature grows old.

        Raises:
            RemoteError: It could not be reached, or kept answering that it cannot now.
        """
        for pause in pauses():
            wait = 0.0
            try:
                answer = self._pool.urlopen(
                    method,
                    self._prefix + path,
                    headers=headers(),
                    preload_content=False,
                    decode_content=False,
                    retries=False,
                    redirect=False,
                    timeout=TIMEOUT_SECONDS,
                )
            except urllib3.exceptions.HTTPError as error:
                problem: tuple[str, BaseException | None] = (_reason(error), error)
            else:
                if answer.status not in HEALING:
                    return answer
                problem = (f"it answers {answer.status}", None)
                asked = answer.headers.get("Retry-After", "")
                wait = min(float(asked), MAX_PAUSE_SECONDS) if asked.isdecimal() else 0.0
                finish(answer)
            if pause is not None:
                time.sleep(max(pause, wait))
        raise RemoteError(f"{self._origin} kept failing ({problem[0]}): try again later.") from problem[1]


def finish(answer: Response) -> None:
    """Give an answer's connection back, or close it if more than a little is left to read."""
    try:
        rest = answer.read(REST_BYTES, decode_content=False)
    except urllib3.exceptions.HTTPError:
        rest = None
    if rest is None or len(rest) == REST_BYTES:
        answer.close()
    answer.release_conn()


def length_of(answer: Response) -> int | None:
    """Return how many bytes an answer says to have; None if it does not say so in a way that can be true."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if len(text) <= MAX_LENGTH_DIGITS and text.isascii() and text.isdecimal() else None


def split_url(url: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        RequestError: It is none of HTTP.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise RequestError(f"{mask_address(url)} is no URL: write https://host, with a port if need be.")


def pauses() -> Iterator[float | None]:
    """Yield, for each attempt, how many seconds to wait after it if it failed; None after the last."""
    for attempt in range(ATTEMPTS - 1):
        yield min(PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS) * random.uniform(0.75, 1.25)  # noqa: S311
    yield None


class Body(io.RawIOBase):
    """The bytes of a remote object as a file: read as they arrive, and asked for again from where they broke off.

    Args:
        key: What it is, for people.
        first: The answer to a request for the whole of it.
        size_bytes: How many bytes it has.
        ask: Asks for the bytes from an offset on, of the very same object.

    Raises:
        AssetUnreadableError: From any method that reads: it changed in between, or kept breaking off.
        RemoteError: From any method that reads: the remote end could not be asked for the rest.
    """

    def __init__(self, key: str, first: Response, size_bytes: int, ask: Callable[[int], Response]) -> None:
        super().__init__()
        self._key = key
        self._answer: Response | None = first
        self._size = size_bytes
        self._ask = ask
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes: to read on from elsewhere is another request."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at != self._at:
            self._drop()
            self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes; fewer only at the end."""
        wanted = max(self._size - self._at, 0)
        if 0 <= size < wanted:
            wanted = size
        if not wanted:
            self._finish()
            return b""
        for pause in pauses():
            try:
                if self._answer is None:
                    self._answer = self._ask(self._at)
                found = self._answer.read(wanted)
                if found:
                    self._at += len(found)
                    return found
                problem: BaseException | None = None
            except BROKEN as error:
                problem = error
            self._drop()
            if pause is not None:
                time.sleep(pause)
        raise AssetUnreadableError(f"{self._key} kept breaking off at byte {self._at}: try again later.") from problem

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._drop() if self._at < self._size else self._finish()
        super().close()

    def _finish(self) -> None:
        """Give the connection back, to be used again."""
        if self._answer is not None:
            self._answer.release_conn()
            self._answer = None

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _reason(error: BaseException) -> str:
    while (cause := getattr(error, "reason", None)) is not None and isinstance(cause, BaseException):
        error = cause
    return type(error).__name__.removesuffix("Error")


@lru_cache(maxsize=8)
def remote(url: str, lanes: int, ca_bundle: str | None = None) -> Remote:
    """Return this process's one pool of connections to a place."""
    return Remote(url, lanes=lanes, ca_bundle=ca_bundle)
