"""Conditional requests and ranges, as a law over all of them and with a client that resumes."""

import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ranges import ByteRange, RangeNotSatisfiable, Verdict, evaluate_preconditions, select_range
from tests.worlds import LIVE_KEY, World, live, needs, pdf, render_id

ETAG = '"' + "a" * 64 + '"'
OTHER = '"' + "b" * 64 + '"'
MADE = datetime(2026, 6, 5, 10, 0, 3, 120_000, UTC)
AT, BEFORE, AFTER = (format_datetime(MADE + timedelta(days=days), usegmt=True) for days in (0, -1, 1))


def part(**headers: str) -> ByteRange | None:
    """Choose a part of a hundred bytes."""
    return select_range({f"HTTP_{name.upper()}": value for name, value in headers.items()}, 100, ETAG, MADE)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("bytes=0-", ByteRange(0, 100)),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=99-", ByteRange(99, 1)),
        ("bytes=10-19", ByteRange(10, 10)),
        ("bytes=90-1000", ByteRange(90, 10)),
        ("bytes=-1", ByteRange(99, 1)),
        ("bytes=-1000", ByteRange(0, 100)),
        ("Bytes = 1-2", ByteRange(1, 2)),
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
def test_one_range_is_a_part_and_everything_else_the_whole(asked: str, chosen: ByteRange | None) -> None:
    assert part(range=asked) == chosen


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_behind_the_end_cannot_be_satisfied(asked: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        part(range=asked)


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
    assert part(range="bytes=1-", if_range=condition) == (ByteRange(1, 99) if same else None)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200))
def test_a_part_lies_within_the_whole(first: int, last: int, size: int) -> None:
    try:
        found = select_range({"HTTP_RANGE": f"bytes={first}-{last}"}, size, ETAG, MADE)
    except RangeNotSatisfiable:
        assert first >= size
        return
    if found is None:
        assert last < first
    else:
        assert found == ByteRange(first, min(last, size - 1) - first + 1)
        assert found.length > 0


@given(
    st.dictionaries(st.sampled_from(["RANGE", "IF_RANGE", "IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE"]), st.text())
)
def test_no_header_whatever_it_holds_is_an_error(headers: dict[str, str]) -> None:
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    assert isinstance(evaluate_preconditions(environ, ETAG, MADE), Verdict)
    with suppress(RangeNotSatisfiable):
        select_range(environ, 100, ETAG, MADE)


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, Verdict.PROCEED),
        ({"IF_NONE_MATCH": ETAG}, Verdict.NOT_MODIFIED),
        ({"IF_NONE_MATCH": f"W/{ETAG}"}, Verdict.NOT_MODIFIED),
        ({"IF_NONE_MATCH": f'{OTHER}, {ETAG} , "x"'}, Verdict.NOT_MODIFIED),
        ({"IF_NONE_MATCH": "*"}, Verdict.NOT_MODIFIED),
        ({"IF_NONE_MATCH": OTHER}, Verdict.PROCEED),
        ({"IF_NONE_MATCH": ETAG.strip('"')}, Verdict.PROCEED),
        ({"IF_MODIFIED_SINCE": AT}, Verdict.NOT_MODIFIED),
        ({"IF_MODIFIED_SINCE": AFTER}, Verdict.NOT_MODIFIED),
        ({"IF_MODIFIED_SINCE": BEFORE}, Verdict.PROCEED),
        ({"IF_MODIFIED_SINCE": "yesterday"}, Verdict.PROCEED),
        # A tag says more than a date.
        ({"IF_NONE_MATCH": OTHER, "IF_MODIFIED_SINCE": AFTER}, Verdict.PROCEED),
        ({"IF_MATCH": ETAG}, Verdict.PROCEED),
        ({"IF_MATCH": "*"}, Verdict.PROCEED),
        ({"IF_MATCH": f"W/{ETAG}"}, Verdict.FAILED),
        ({"IF_MATCH": OTHER}, Verdict.FAILED),
        ({"IF_MATCH": OTHER, "IF_NONE_MATCH": ETAG}, Verdict.FAILED),
        ({"IF_UNMODIFIED_SINCE": AT}, Verdict.PROCEED),
        ({"IF_UNMODIFIED_SINCE": BEFORE}, Verdict.FAILED),
        ({"IF_MATCH": ETAG, "IF_UNMODIFIED_SINCE": BEFORE}, Verdict.PROCEED),
    ],
)
def test_preconditions_come_to_what_the_standard_says(headers: dict[str, str], verdict: Verdict) -> None:
    assert evaluate_preconditions({f"HTTP_{name}": value for name, value in headers.items()}, ETAG, MADE) is verdict


def test_curl_resumes_what_broke_off(world: World, tmp_path: Path) -> None:
    body = pdf("render 1")
    begun = tmp_path / "render.pdf"
    begun.write_bytes(body[:100])
    with world.archive, live(world.archive) as url:
        words = [needs("curl"), "--fail", "--silent", "--continue-at", "-", "--output", str(begun)]
        words += ["--header", f"Authorization: Bearer {LIVE_KEY}", f"{url}/v1/renders/{render_id(1)}/download"]
        assert subprocess.run(words, check=False).returncode == 0
        assert begun.read_bytes() == body


def test_ranges_over_the_wire(world: World) -> None:
    import requests

    body = pdf("render 1")
    with world.archive, live(world.archive) as url:

        def ask(method: str = "GET", **headers: str) -> Any:
            sent = {"Authorization": f"Bearer {LIVE_KEY}", **{k.replace("_", "-"): v for k, v in headers.items()}}
            return requests.request(method, f"{url}/v1/renders/{render_id(1)}/download", headers=sent, timeout=10)

        found = ask(Range="bytes=5-9")
        assert (found.status_code, found.content) == (206, body[5:10])
        assert found.headers["Content-Range"] == f"bytes 5-9/{len(body)}"
        assert found.headers["Repr-Digest"] == ask().headers["Repr-Digest"]
        stale = ask(Range="bytes=5-9", If_Range='"old"')
        assert (stale.status_code, stale.content) == (200, body)
        beyond = ask(Range=f"bytes={len(body)}-")
        assert (beyond.status_code, beyond.json()["error"]["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["Content-Range"] == f"bytes */{len(body)}"
        assert ask("HEAD", Range="bytes=5-9").status_code == 200
        known = ask(If_None_Match=found.headers["ETag"])
        assert (known.status_code, known.content) == (304, b"")
        assert known.headers["ETag"] == found.headers["ETag"]
        assert ask(If_Match='"old"').json()["error"]["code"] == "precondition_failed"
