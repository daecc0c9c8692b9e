"""The list of renders: what may be asked for, and its pages."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec

from craftkit_archive.catalog import Catalog, Listing
from craftkit_archive.records import Status
from craftkit_archive.values import format_time, timestamp
from server.bodies import describe_render
from server.errors import QueryError

STATUSES: tuple[str, ...] = get_args(Status)
MAX_LIMIT = 100
DEFAULT_LIMIT = 50
MAX_SEARCH = 200


def read_query(query: Mapping[str, str]) -> Listing:
    """Make a selection of the parameters of `GET /v1/renders`; others are passed over.

    Raises:
        QueryError: Some make no sense; it names each.
    """
    problems: dict[str, str] = {}
    limit, status, search = query.get("limit", str(DEFAULT_LIMIT)), query.get("status"), query.get("search")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LIMIT):
        problems["limit"] = f"Give a number from 1 to {MAX_LIMIT}."
    if status is not None and status not in STATUSES:
        problems["status"] = f"Give one of {', '.join(STATUSES)}."
    if search is not None and len(search) > MAX_SEARCH:
        problems["search"] = f"Give at most {MAX_SEARCH} characters."
    times: dict[str, str | None] = {}
    for name, days in (("since", 0), ("until", 1)):
        try:
            times[name] = _time(query.get(name), days)
        except (ValueError, OverflowError):
            problems[name] = "Give a date, 2026-01-31, or a time, 2026-01-31T10:00:00Z."
    after = None
    if (cursor := query.get("cursor")) is not None:
        try:
            after = msgspec.json.decode(urlsafe_b64decode(cursor.encode("ascii")), type=tuple[str, str])
            "".join(after).encode()
        except (ValueError, msgspec.MsgspecError):
            problems["cursor"] = "Give the nextCursor of the page before."
    if problems:
        raise QueryError(problems)
    return Listing(int(limit), status, times["since"], times["until"], search or None, after)


def _time(text: str | None, days: int) -> str | None:
    """Read a time; to a date without a time of day, `days` are added."""
    if not text:
        return None
    if len(text) == 10:
        return format_time(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=days))
    return timestamp(text)


def list_renders(
    catalog: Catalog, project_id: str, listing: Listing, *, api_url: str, s3_public_url: str | None
) -> dict[str, object]:
    """Return one page of a project's renders, newest first, as `GET /v1/renders` answers it."""
    found = catalog.list_renders(project_id, listing)
    shown = found[: listing.limit]
    more = len(found) > len(shown)
    return {
        "renders": [
            {
                **describe_render(render, api_url=api_url, s3_public_url=s3_public_url),
                "sizeBytes": render.size_bytes if render.stored_key is not None else None,
            }
            for render in shown
        ],
        "nextCursor": _cursor(shown[-1].created_at or "", shown[-1].id) if more else None,
        "hasMore": more,
    }


def _cursor(created_at: str, render_id: str) -> str:
    return urlsafe_b64encode(msgspec.json.encode((created_at, render_id))).decode()
