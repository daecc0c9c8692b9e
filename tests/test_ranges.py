"""Conditional requests and ranges, as a law over all of them and with a client that resumes."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import STATUSES, Rejection
from server.ranges import is_unchanged, select_range

ETAG = '"' + "a" * 64 + '"'
OTHER = '"' + "b" * 64 + '"'
MADE = datetime(2026, 6, 5, 10, 0, 3, 120_000, UTC)
AT, BEFORE, AFTER = (format_datetime(MADE + timedelta(days=days), usegmt=True) for days in (0, -1, 1))


def asking(headers: dict[str, str], method: str = "GET") -> dict[str, str]:
    """Return a WSGI environment of these headers."""
    return {f"HTTP_{name.upper()}": value for name, value in headers.items()} | {"REQUEST_METHOD": method}


def part(**headers: str) -> range | None:
    """Choose a part of a hundred bytes."""
    return select_range(asking(headers), 100, ETAG, MADE)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("bytes=0-", range(0, 100)),
        ("bytes=0-0", range(0, 1)),
        ("bytes=99-", range(99, 100)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-1", range(99, 100)),
        ("bytes=-1000", range(0, 100)),
        ("Bytes = 1-2", range(1, 3)),
        # No single range: the whole.
        ("bytes=0-0,-1", None),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(1000)), None),
        ("bytes=2-1", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes=٠-١", None),
        ("bytes=1-" + "9" * 5000, None),
        ("lines=1-2", None),
        ("0-1", None),
    ],
)
def test_one_range_is_a_part_and_everything_else_the_whole(asked: str, chosen: range | None) -> None:
    assert part(range=asked) == chosen


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_behind_the_end_cannot_be_satisfied(asked: str) -> None:
    with pytest.raises(Rejection) as refused:
        part(range=asked)
    assert (refused.value.code, refused.value.headers) == ("range_not_satisfiable", {"Content-Range": "bytes */100"})


def test_only_a_get_has_a_range() -> None:
    assert select_range(asking({"range": "bytes=100-"}, "HEAD"), 100, ETAG, MADE) is None


@pytest.mark.parametrize(
    ("condition", "same"),
    [
        (ETAG, True),
        (OTHER, False),
        (f"W/{ETAG}", False),
        ("a" * 64, False),
        (AT, True),
        (BEFORE, False),
        (AFTER, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_two_versions_are_never_mixed(condition: str, same: bool) -> None:
    assert part(range="bytes=1-", if_range=condition) == (range(1, 100) if same else None)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200))
def test_a_part_lies_within_the_whole(first: int, last: int, size: int) -> None:
    try:
        found = select_range(asking({"range": f"bytes={first}-{last}"}), size, ETAG, MADE)
    except Rejection:
        assert first >= size
        return
    if found is None:
        assert last < first
    else:
        assert found == range(first, min(last, size - 1) + 1)
        assert len(found) > 0


@given(
    st.dictionaries(st.sampled_from(["RANGE", "IF_RANGE", "IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE"]), st.text())
)
def test_no_header_whatever_it_holds_is_an_error(headers: dict[str, str]) -> None:
    with suppress(Rejection):
        is_unchanged(asking(headers), ETAG, MADE)
    with suppress(Rejection):
        select_range(asking(headers), 100, ETAG, MADE)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"IF_NONE_MATCH": ETAG}, 304),
        ({"IF_NONE_MATCH": f"W/{ETAG}"}, 304),
        ({"IF_NONE_MATCH": f'{OTHER}, {ETAG} , "x"'}, 304),
        ({"IF_NONE_MATCH": "*"}, 304),
        ({"IF_NONE_MATCH": OTHER}, 200),
        ({"IF_NONE_MATCH": ETAG.strip('"')}, 200),
        ({"IF_MODIFIED_SINCE": AT}, 304),
        ({"IF_MODIFIED_SINCE": AFTER}, 304),
        ({"IF_MODIFIED_SINCE": BEFORE}, 200),
        ({"IF_MODIFIED_SINCE": "yesterday"}, 200),
        # A tag says more than a date.
        ({"IF_NONE_MATCH": OTHER, "IF_MODIFIED_SINCE": AFTER}, 200),
        ({"IF_MATCH": ETAG}, 200),
        ({"IF_MATCH": "*"}, 200),
        ({"IF_MATCH": f"W/{ETAG}"}, 412),
        ({"IF_MATCH": OTHER}, 412),
        ({"IF_MATCH": OTHER, "IF_NONE_MATCH": ETAG}, 412),
        ({"IF_UNMODIFIED_SINCE": AT}, 200),
        ({"IF_UNMODIFIED_SINCE": BEFORE}, 412),
        ({"IF_MATCH": ETAG, "IF_UNMODIFIED_SINCE": BEFORE}, 200),
    ],
)
def test_preconditions_come_to_what_the_standard_says(headers: dict[str, str], status: int) -> None:
    try:
        found = 304 if is_unchanged(asking(headers), ETAG, MADE) else 200
    except Rejection as refusal:
        found = STATUSES[refusal.code]
    assert found == status
