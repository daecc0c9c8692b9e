"""A live Craftkit API, or a server of ours, to take renders and their PDFs from."""

import base64
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import SpooledTemporaryFile, gettempdir
from typing import NoReturn
from urllib.parse import quote, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, SSLError
from urllib3.util import Timeout

from craftkit_archive.connections import UnreadRetry, open_pool
from craftkit_archive.errors import (
    AssetUnavailableError,
    ForbiddenError,
    RemoteError,
    RenderConflictError,
    RenderNotFoundError,
    RequestError,
    StoreOfflineError,
    UnauthorizedError,
    disk_errors,
)
from craftkit_archive.overriding import override
from craftkit_archive.secrets import read_secret
from craftkit_archive.sources.base import Source
from craftkit_archive.stores.base import CHUNK_BYTES, OpenAsset, SourceChecksums, mask_address
from craftkit_archive.values import mask

KEY_VARIABLE = "CRAFTKIT_API_KEY"
LANES = 8
# A larger PDF is received in a temporary file before it is used: if it breaks off, the API may not be able to continue
# in the middle, and it is received again from the start.
SPOOL_BYTES = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
MAX_SAID = 300
ATTEMPTS = 5
PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 16
CONNECT_SECONDS = 10.0
TIMEOUT_SECONDS = 60.0
# A body that brings fewer bytes than this in such a span of seconds is given up; a modem of 1996 was faster.
LEAST_BYTES = 64 << 10
LEAST_SECONDS = 30.0
HEALING = (408, 425, 429, 500, 502, 503, 504, *range(520, 525))
_NOBODY = "00000000-0000-0000-0000-000000000000"
_DIGEST = re.compile(r"(?:\A|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):")


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Envelope(msgspec.Struct):
    error: _Problem


class CraftkitApi(Source):
    """The API at an address, asked with the key in `CRAFTKIT_API_KEY` (see `read_secret`).

    Args:
        address: `https://host`, with a path if the API has one.

    Raises:
        RequestError: The address is not valid, or there is no key, or its file cannot be read.
    """

    lanes = LANES

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address)
            right = parts.hostname and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:
            right = False
        if not right or " " in address or not address.isascii() or not address.isprintable():
            raise RequestError(f"{mask_address(address)} is not the address of an API. Write https://host.")
        if parts.username is not None:
            raise RequestError(f"A key does not belong in an address. Set {KEY_VARIABLE}.")
        key = (read_secret(KEY_VARIABLE) or "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise RequestError(f"Set {KEY_VARIABLE} to a key of the project whose renders {address} is to give.")
        self.address = address.rstrip("/")
        self.key = key
        self._pool = _api_pool(self.address)

    @override
    def check(self) -> None:
        """Make sure that the address is that of a Craftkit API, and that the API accepts the key.

        Raises:
            StoreOfflineError: It cannot be reached, keeps failing, or is not a Craftkit API.
            UnauthorizedError, ForbiddenError: It refuses the key.
        """
        try:
            self.describe(_NOBODY)
        except RenderNotFoundError:
            pass
        except RemoteError as error:
            raise StoreOfflineError(str(error)) from error

    def describe(self, render_id: str) -> bytes:
        """Return the metadata of a render, as JSON.

        Raises:
            RenderNotFoundError: The key's project has no such render.
            UnauthorizedError, ForbiddenError: The API refuses the key.
            RemoteError: The API keeps failing, or does not answer as one.
        """
        found = b""
        try:
            with self._answer(render_id) as answer:
                while len(found) <= MAX_ANSWER_BYTES and (piece := answer.read(MAX_ANSWER_BYTES + 1 - len(found))):
                    found += piece
        except HTTPError as error:
            raise RemoteError(f"{self.address} broke off in its answer. Try again later.") from error
        if len(found) > MAX_ANSWER_BYTES:
            raise RemoteError(
                f"{self.address} answers more than the metadata of {render_id}. Check that it is a Craftkit API."
            )
        return found

    @override
    def size(self, render_id: str, _key: str) -> int | None:
        """Return the size of a render's PDF in bytes; None if the API does not say it without sending the PDF.

        Raises:
            RenderNotFoundError, RenderConflictError, UnauthorizedError, ForbiddenError, RemoteError: See `open`.
        """
        with self._answer(render_id, "/download", method="HEAD") as answer:
            return length_of(answer)

    @override
    def open(self, render_id: str, key: str, _sha256: str | None = None) -> OpenAsset:
        """Open a render's PDF for reading, after all of it has arrived.

        Raises:
            RenderNotFoundError: The key's project has no such render.
            RenderConflictError: The render has no PDF.
            UnauthorizedError, ForbiddenError: The API refuses the key.
            AssetUnavailableError: The PDF kept breaking off, or came too slowly.
            RemoteError: The API kept failing.
            NoSpaceError, NotWritableError: The temporary folder has no space for the PDF, or is not writable.
        """
        for attempt in range(ATTEMPTS):
            with self._answer(render_id, "/download") as answer:
                spool = self._new_spool()
                try:
                    size = 0
                    for chunk in _body_chunks(answer):
                        with disk_errors(gettempdir()):
                            spool.write(chunk)
                        size += len(chunk)
                    with disk_errors(gettempdir()):
                        spool.seek(0)
                    length = length_of(answer)
                    return OpenAsset(key, spool, size if length is None else length, _checksums(answer))  # type: ignore[arg-type]
                except BaseException as error:
                    spool.close()
                    if not isinstance(error, HTTPError):
                        raise
                    broken = error
            if isinstance(broken, _TooSlowError):
                break
            time.sleep(0 if attempt + 1 == ATTEMPTS else min(PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS))
        raise AssetUnavailableError(
            f"{self.address} kept breaking off in the PDF of {render_id} ({broken}). Run fetch again later."
        ) from broken

    def _new_spool(self) -> "SpooledTemporaryFile[bytes]":
        with disk_errors(gettempdir()):
            return SpooledTemporaryFile(SPOOL_BYTES)

    @contextmanager
    def _answer(self, render_id: str, what: str = "", *, method: str = "GET") -> Iterator[urllib3.BaseHTTPResponse]:
        """Make a request, and yield the answer with its body unread; a refusal is raised as an error."""
        url = f"{self.address}/v1/renders/{quote(render_id, safe='')}{what}"
        headers = {"Authorization": f"Bearer {self.key}", "Accept-Encoding": "identity"}
        try:
            answer = self._pool.request(method, url, headers=headers, preload_content=False, redirect=False)
        except MaxRetryError as error:
            if isinstance(error.reason, SSLError):
                raise RemoteError(
                    f"The certificate of {self.address} is not trusted ({_failure_reason(error)}). "
                    "Set SSL_CERT_FILE to that of its authority."
                ) from error
            raise RemoteError(f"Cannot reach {self.address} ({_failure_reason(error)}). Try again later.") from error
        except (HTTPError, LocationValueError, ValueError) as error:
            raise RemoteError(
                f"{self.address} does not answer as HTTP ({_failure_reason(error)}). Check the address."
            ) from error
        try:
            if answer.status != 200:
                self._refuse(render_id, answer, silent=method == "HEAD")
            yield answer
        finally:
            answer.close()  # does nothing to a connection whose answer was read to its end: it is in the pool again

    def _refuse(self, render_id: str, answer: urllib3.BaseHTTPResponse, *, silent: bool) -> NoReturn:
        status = answer.status
        try:
            problem = msgspec.json.decode(b"" if silent else answer.read(65_536), type=_Envelope).error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, HTTPError):
            problem = _Problem()
        # The message ends up on screens and in the catalog, so the key is cut out of it, should the API repeat it.
        message = mask(problem.message.replace(self.key, "…"))[:MAX_SAID]
        said = f" ({message})" if message else ""
        if status == 401:
            raise UnauthorizedError(f"{self.address} refuses the key{said}. Set {KEY_VARIABLE} to a valid key.")
        if status == 403:
            raise ForbiddenError(f"{self.address} refuses the key's project{said}: it was deleted.")
        if status == 404 and (problem.code == "not_found" or silent):
            raise RenderNotFoundError(f"{self.address} has no render {render_id} in the key's project.")
        if status == 409:
            raise RenderConflictError(f"{self.address} has no PDF of {render_id}{said}.")
        heals = status in HEALING
        said = f"{status} {problem.code}".strip() + said
        what = "kept failing" if heals else "does not answer as a Craftkit API does"
        advice = "Try again later." if heals else "Check the address."
        raise RemoteError(f"{self.address} {what} ({said}). {advice}", reason=said, status=status)


class _TooSlowError(HTTPError):
    """A body arrives too slowly to wait for."""


def _body_chunks(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Read a body as it arrives; give up one that trickles, which a read time-out alone never ends."""
    began, got = time.monotonic(), 0
    while chunk := answer.read1(CHUNK_BYTES):
        yield chunk
        got += len(chunk)
        now = time.monotonic()
        if now - began >= LEAST_SECONDS:
            if got < LEAST_BYTES:
                raise _TooSlowError(f"only {got:,} bytes came in {now - began:.0f} s")
            began, got = now, 0


def _api_pool(address: str) -> urllib3.PoolManager:
    """Make the connections to an API."""
    retries = UnreadRetry(
        total=ATTEMPTS - 1,
        redirect=False,  # the key must not be sent to another host
        backoff_factor=PAUSE_SECONDS,
        backoff_max=MAX_PAUSE_SECONDS,
        backoff_jitter=PAUSE_SECONDS / 4,
        status_forcelist=HEALING,
        allowed_methods=("GET", "HEAD"),
        raise_on_status=False,
        retry_after_max=MAX_PAUSE_SECONDS,
    )
    timeout = Timeout(connect=min(CONNECT_SECONDS, TIMEOUT_SECONDS), read=TIMEOUT_SECONDS)
    return open_pool(address, maxsize=LANES, block=False, retries=retries, timeout=timeout)


def _failure_reason(error: BaseException) -> str:
    """Return in a few words why a request was not answered."""
    inner = getattr(error, "reason", None) or error
    said = str(inner.args[-1] if getattr(inner, "args", None) else inner)
    return (said.rpartition("] ")[2] or type(inner).__name__)[:MAX_SAID]


def length_of(answer: urllib3.BaseHTTPResponse) -> int | None:
    """Return the length that an answer declares for its body, in bytes; None if it declares none."""
    text = answer.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _checksums(answer: urllib3.BaseHTTPResponse) -> SourceChecksums:
    """Return the digest that an answer declares for its body (Repr-Digest: RFC 9530, section 3)."""
    found = _DIGEST.search(answer.headers.get("repr-digest", ""))
    with suppress(ValueError):
        if found:
            return SourceChecksums(sha256=base64.b64decode(found[1], validate=True).hex(), by="repr-digest")
    return SourceChecksums()
