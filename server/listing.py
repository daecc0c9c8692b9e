"""The list of renders: parses its parameters and builds its pages."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args
from urllib.parse import parse_qsl

import msgspec

from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import KeyRow, Listing, ServedRender
from craftkit_archive.records import Status
from craftkit_archive.values import format_time
from server.errors import Rejection

STATUSES: tuple[str, ...] = get_args(Status)
MAX_LIMIT = 100
DEFAULT_LIMIT = 50
MAX_SEARCH = 200
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)?", re.IGNORECASE | re.ASCII)


def read_query(text: str) -> Listing:
    """Parse the query of `GET /v1/renders`; unknown parameters are ignored, and an empty one counts as not given.

    Raises:
        Rejection: Parameters are invalid; it names each of them.
    """
    try:
        query = dict(parse_qsl(text, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError as error:
        raise Rejection("bad_request", "The query parameters are not UTF-8.", fields={}) from error
    problems: dict[str, str] = {}
    limit, status, search = query.get("limit", str(DEFAULT_LIMIT)), query.get("status"), query.get("search")
    if not re.fullmatch(r"[1-9][0-9]?|100", limit):
        problems["limit"] = f"Use a number from 1 to {MAX_LIMIT}."
    if status is not None and status not in STATUSES:
        problems["status"] = f"Use one of {', '.join(STATUSES)}."
    if search is not None and len(search) > MAX_SEARCH:
        problems["search"] = f"Use at most {MAX_SEARCH} characters."
    times: dict[str, str | None] = {}
    for name, days in (("since", 0), ("until", 1)):
        try:
            times[name] = _time(query.get(name), days)
        except ValueError:
            problems[name] = "Use a date, 2026-01-31, or a time, 2026-01-31T10:00:00Z."
    after = None
    if cursor := query.get("cursor"):
        try:
            after = msgspec.json.decode(urlsafe_b64decode(cursor.encode("ascii")), type=tuple[str, str])
            "".join(after).encode()
        except (ValueError, msgspec.MsgspecError):
            problems["cursor"] = "Use the nextCursor of the page before."
    if problems:
        raise Rejection("bad_request", "Invalid query parameters: see issues.", fields=problems)
    return Listing(int(limit), status, times["since"], times["until"], search or None, after)


def _time(text: str | None, days: int) -> str | None:
    """Parse a time; `days` are added to a date without a time of day."""
    if not text:
        return None
    whole = f"{text}T00:00:00Z" if len(text) == 10 else text.upper()
    if not _TIME.fullmatch(whole):
        raise ValueError(text)
    moment = datetime.fromisoformat(whole)
    try:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return format_time(moment + timedelta(days=days if len(text) == 10 else 0))
    except OverflowError:  # beyond the calendar, so the limit excludes nothing or everything
        beyond = text.startswith("9")
        return None if beyond == (days > 0) else "9999" if beyond else "0000"


def answer_listing(
    catalog: Catalog, caller: KeyRow, listing: Listing, describe: Callable[[ServedRender], dict[str, object]]
) -> dict[str, object]:
    """Return one page of the renders of a key's project, newest first, as the answer of `GET /v1/renders`."""
    found = catalog.list_renders(caller.project_id, listing)
    shown = found[: listing.limit]
    more = len(found) > len(shown)
    cursor = urlsafe_b64encode(msgspec.json.encode((shown[-1].created_at or "", shown[-1].id))) if more else None
    return {
        "renders": [
            describe(render)
            | {
                "sizeBytes": render.size_bytes if render.stored_key is not None else None,
                "disposed": bool(render.disposed),
            }
            for render in shown
        ],
        "nextCursor": cursor.decode() if cursor else None,
        "hasMore": more,
        "projectName": caller.project_name,
    }
