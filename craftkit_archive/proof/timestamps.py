"""Timestamps, by which an authority certifies that a text existed at a certain time.

Source: RFC 3161; its section 3.4 for HTTP.
"""

from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from craftkit_archive.errors import RemoteError, RequestError, install_hint

if TYPE_CHECKING:
    from rfc3161_client import TimeStampRequest, TimeStampResponse

SUFFIX = ".tsr"
MAX_REPLY_BYTES = 1 << 20
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_SHA256_OID = "2.16.840.1.101.3.4.2.1"
_GRANTED = (0, 1)


def make_request(text: bytes) -> bytes:
    """Return a request for a timestamp of a text (DER); it contains only the text's digest.

    Raises:
        RequestError: rfc3161-client is not installed.
    """
    return _request(text).as_bytes()


def fetch_timestamp(text: bytes, url: str) -> tuple[bytes, datetime]:
    """Ask an authority for a timestamp of a text, and return its reply (DER) and the time in it.

    Raises:
        RequestError: The URL is not valid, or rfc3161-client is not installed.
        RemoteError: The authority cannot be reached, refuses, or answers something else.
    """
    request = _request(text)
    reply = _post(url, request.as_bytes())
    answer = _decode(reply, url)
    time = _check_reply(answer, text, url)
    if answer.tst_info.nonce != request.nonce:
        raise RemoteError(f"{url} answered another request than ours. Try again, or use another authority.")
    return reply, time


def read_reply(reply: bytes, text: bytes, source: str) -> datetime:
    """Return the time in an authority's reply about a text.

    Whether the authority can be trusted is not checked; `openssl ts -verify` does that by its certificates.

    Args:
        reply: The authority's reply (DER).
        text: The text that was stamped.
        source: Where the reply comes from, for messages.

    Raises:
        RemoteError: The authority refused or stamped something else, or this is not a reply.
        RequestError: rfc3161-client is not installed.
    """
    return _check_reply(_decode(reply, source), text, source)


def _request(text: bytes) -> "TimeStampRequest":
    with _Library():
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

        return TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).build()


def _decode(reply: bytes, source: str) -> "TimeStampResponse":
    with _Library():
        from rfc3161_client import decode_timestamp_response

        try:
            return decode_timestamp_response(reply)
        except ValueError as error:
            raise RemoteError(f"{source} is not a timestamp authority's reply. Request the timestamp again.") from error


class _Library:
    """Raises a `RequestError` that says how to install the library if it is missing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ImportError):
            raise RequestError(
                f"Timestamps need rfc3161-client, which is not installed. {install_hint('timestamp')}"
            ) from error


def _check_reply(answer: "TimeStampResponse", text: bytes, source: str) -> datetime:
    if answer.status not in _GRANTED:
        said = "; ".join(answer.status_string) or f"status {answer.status}"
        raise RemoteError(f"{source}: the authority gave no timestamp ({said}). Ask again, or another authority.")
    imprint = answer.tst_info.message_imprint
    if (imprint.hash_algorithm.dotted_string, imprint.message) != (_SHA256_OID, sha256(text).digest()):
        raise RemoteError(f"{source} is a timestamp of something else. Ask for one of this file.")
    return answer.tst_info.gen_time


def _post(url: str, request: bytes) -> bytes:
    from urllib3.exceptions import HTTPError  # here, because every `seal` would pay 80 ms for it
    from urllib3.util import Timeout

    from craftkit_archive.connections import open_pool

    timeout = Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise RequestError(f"{url!r} is not the URL of a timestamp authority: write http://tsa.example.org/tsr.")
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        with open_pool(url) as pool:
            answer = pool.request(
                "POST", url, body=request, headers=headers, timeout=timeout, retries=False, preload_content=False
            )
            reply = answer.read(MAX_REPLY_BYTES)
            answer.close()
    except (HTTPError, ValueError) as error:
        raise RemoteError(
            f"{url} cannot be asked for a timestamp ({error}). Try again, or another authority."
        ) from error
    if answer.status != 200:
        raise RemoteError(
            f"{url} answered {answer.status} instead of a timestamp. Look at the URL, or use another authority.",
            status=answer.status,
        )
    return reply
