"""What a request may ask of an answer: only if it is new, only if it is still the same, only a part of it.

Source: RFC 9110, sections 8.8 (validators), 13 (conditional requests) and 14 (ranges).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import NamedTuple

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|\Z)')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)


class Verdict(Enum):
    """What the preconditions of a request come to."""

    GO_ON = 200
    NOT_MODIFIED = 304
    FAILED = 412


class Part(NamedTuple):
    """A part of the bytes: its first one, and how many."""

    start: int
    length: int


class Unsatisfiable(Exception):
    """The range begins behind the end."""


def judge(environ: Mapping[str, str], etag: str | None, modified: datetime | None) -> Verdict:
    """Compare the preconditions of a GET or HEAD with what there is, in the order that the standard gives.

    Args:
        environ: The headers, by their WSGI names.
        etag: The strong, quoted tag of what there is.
        modified: Its time of change, in UTC.
    """
    second = modified.replace(microsecond=0) if modified else None
    if (wanted := environ.get("HTTP_IF_MATCH")) is not None:
        if not _matches(wanted, etag, weak=False):
            return Verdict.FAILED
    elif (limit := _date(environ.get("HTTP_IF_UNMODIFIED_SINCE"))) and second and second > limit:
        return Verdict.FAILED
    if (known := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return Verdict.NOT_MODIFIED if _matches(known, etag, weak=True) else Verdict.GO_ON
    if (limit := _date(environ.get("HTTP_IF_MODIFIED_SINCE"))) and second and second <= limit:
        return Verdict.NOT_MODIFIED
    return Verdict.GO_ON


def choose_part(
    environ: Mapping[str, str], size_bytes: int, etag: str | None, modified: datetime | None
) -> Part | None:
    """Return the one part that a GET asks for, or None if the whole is to be sent.

    Several ranges, other units and what is no range are passed over, as the standard allows; so is a range whose
    `If-Range` names another version: two versions are never mixed.

    Raises:
        Unsatisfiable: The range begins behind the end.
    """
    asked = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
    if asked is None or not _still_same(environ.get("HTTP_IF_RANGE"), etag, modified):
        return None
    first, last = asked.groups()
    if not first and not last:
        return None
    if not first:
        length = min(int(last), size_bytes)
        if length == 0:
            raise Unsatisfiable
        return Part(size_bytes - length, length)
    start, end = int(first), min(int(last) if last else size_bytes - 1, size_bytes - 1)
    if last and int(last) < start:
        return None
    if start >= size_bytes:
        raise Unsatisfiable
    return Part(start, end - start + 1)


def _still_same(condition: str | None, etag: str | None, modified: datetime | None) -> bool:
    if condition is None:
        return True
    condition = condition.strip()
    if condition.startswith(('"', "W/")):
        return condition == etag
    # A date is as good as a tag only if it is the very one.
    given = _date(condition)
    return given is not None and modified is not None and given == modified.replace(microsecond=0)


def _matches(given: str, etag: str | None, *, weak: bool) -> bool:
    """Say whether a list of tags, or `*`, has the tag."""
    if given.strip() == "*":
        return True
    place = 0
    while tag := _TAG.match(given, place):
        if tag[2] == etag and (weak or not tag[1]):
            return True
        place = tag.end()
    return False


def _date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
