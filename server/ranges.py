"""Conditional requests and byte ranges.

Source: RFC 9110, sections 8.8 (validators), 13 (conditional requests) and 14 (ranges).
"""

import re
from collections.abc import Mapping
from datetime import datetime

from bottle import parse_date

from server.errors import Rejection

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|\Z)')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)


def is_unchanged(environ: Mapping[str, str], etag: str | None, modified: datetime | None) -> bool:
    """Return whether the client of a GET or HEAD has the current version already, so that the answer is 304.

    The preconditions are evaluated in the order of RFC 9110, section 13.2.2. Headers are looked up by their WSGI names;
    `etag` is strong and quoted, `modified` in UTC.

    Raises:
        Rejection: The client asks for another version.
    """
    second = int(modified.timestamp()) if modified else None
    if (wanted := environ.get("HTTP_IF_MATCH")) is not None:
        failed = not _matches(wanted, etag, weak=False)
    else:
        limit = parse_date(environ.get("HTTP_IF_UNMODIFIED_SINCE", ""))
        failed = second is not None and limit is not None and second > limit
    if failed:
        raise Rejection("precondition_failed", "The PDF is not the version that was asked for.")
    if (known := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return _matches(known, etag, weak=True)
    limit = parse_date(environ.get("HTTP_IF_MODIFIED_SINCE", ""))
    return second is not None and limit is not None and second <= limit


def select_range(
    environ: Mapping[str, str], size_bytes: int, etag: str | None, modified: datetime | None
) -> range | None:
    """Return the offsets of the one range that a GET asks for, or None for the whole body.

    Several ranges, other units and malformed ranges are ignored, as the standard allows; so is a range whose
    `If-Range` names another version: a client never gets parts of two versions.

    Raises:
        Rejection: The range begins behind the end.
    """
    asked = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
    if environ["REQUEST_METHOD"] != "GET" or asked is None or not _is_same(environ, etag, modified):
        return None
    first, last = (int(digits) if digits else None for digits in asked.groups())
    if first is None:
        if last is None:
            return None
        first, last = max(size_bytes - last, 0), None
    if last is not None and last < first:
        return None
    if first >= size_bytes:
        message = f"The range begins behind the end: the PDF has {size_bytes} bytes."
        raise Rejection("range_not_satisfiable", message, {"Content-Range": f"bytes */{size_bytes}"})
    return range(first, size_bytes if last is None else min(last + 1, size_bytes))


def _is_same(environ: Mapping[str, str], etag: str | None, modified: datetime | None) -> bool:
    condition = environ.get("HTTP_IF_RANGE")
    if condition is None:
        return True
    if condition.strip().startswith(('"', "W/")):
        return condition.strip() == etag
    # A date counts like a tag only if it matches exactly.
    return modified is not None and parse_date(environ.get("HTTP_IF_RANGE", "")) == int(modified.timestamp())


def _matches(given: str, etag: str | None, *, weak: bool) -> bool:
    """Return whether a list of tags contains the tag, or is `*`."""
    place = 0
    while tag := _TAG.match(given, place):
        if tag[2] == etag and (weak or not tag[1]):
            return True
        place = tag.end()
    return given.strip() == "*"
