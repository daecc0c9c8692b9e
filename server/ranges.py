"""Conditional requests and byte ranges.

Source: RFC 9110, sections 8.8 (validators), 13 (conditional requests) and 14 (ranges).
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from bottle import parse_date

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|\Z)')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)


class Verdict(Enum):
    """What the preconditions of a request come to."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


class ByteRange(NamedTuple):
    """A range of bytes: the offset of the first, and how many."""

    start: int
    length: int


class RangeNotSatisfiable(Exception):
    """The range begins behind the end."""


def evaluate_preconditions(environ: Mapping[str, str], etag: str | None, modified: datetime | None) -> Verdict:
    """Evaluate the preconditions of a GET or HEAD in the order that RFC 9110, section 13.2.2, gives.

    The headers come by their WSGI names; `etag` is strong and quoted, `modified` in UTC.
    """
    second = int(modified.timestamp()) if modified else None
    if (wanted := environ.get("HTTP_IF_MATCH")) is not None:
        if not _matches(wanted, etag, weak=False):
            return Verdict.FAILED
    elif second is not None and (limit := _date(environ, "HTTP_IF_UNMODIFIED_SINCE")) is not None and second > limit:
        return Verdict.FAILED
    if (known := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return Verdict.NOT_MODIFIED if _matches(known, etag, weak=True) else Verdict.PROCEED
    if second is not None and (limit := _date(environ, "HTTP_IF_MODIFIED_SINCE")) is not None and second <= limit:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def select_range(
    environ: Mapping[str, str], size_bytes: int, etag: str | None, modified: datetime | None
) -> ByteRange | None:
    """Return the one range that a GET asks for, or None if the whole representation is to be sent.

    Several ranges, other units and malformed ranges are ignored, as the standard allows; so is a range whose
    `If-Range` names another version: a client never gets parts of two versions.

    Raises:
        RangeNotSatisfiable: The range begins behind the end.
    """
    asked = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
    if asked is None or asked.groups() == ("", "") or not _is_same(environ, etag, modified):
        return None
    first, last = (int(digits) if digits else None for digits in asked.groups())
    if first is None:
        first, last = max(size_bytes - (last or 0), 0), None
    if last is not None and last < first:
        return None
    if first >= size_bytes:
        raise RangeNotSatisfiable
    end = size_bytes if last is None else min(last + 1, size_bytes)
    return ByteRange(first, end - first)


def _is_same(environ: Mapping[str, str], etag: str | None, modified: datetime | None) -> bool:
    condition = environ.get("HTTP_IF_RANGE")
    if condition is None:
        return True
    if condition.strip().startswith(('"', "W/")):
        return condition.strip() == etag
    # A date is as good as a tag only if it is the very one.
    return modified is not None and _date(environ, "HTTP_IF_RANGE") == int(modified.timestamp())


def _matches(given: str, etag: str | None, *, weak: bool) -> bool:
    """Say whether a list of tags, or `*`, has the tag."""
    place = 0
    while tag := _TAG.match(given, place):
        if tag[2] == etag and (weak or not tag[1]):
            return True
        place = tag.end()
    return given.strip() == "*"


def _date(environ: Mapping[str, str], header: str) -> int | None:
    """Return a header's date in seconds since 1970; None if it has none."""
    return parse_date(environ.get(header, ""))  # type: ignore[no-any-return]
