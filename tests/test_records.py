"""What a project, a key and a render are, and how a wrong one is told."""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.decoding import LineReader, read_record
from craftkit_archive.records import ApiKey, Incoming, Project, Render
from craftkit_archive.values import (
    escape_formula,
    format_time,
    mask,
    parse_duration,
    parse_size,
    timestamp,
    unescape_formula,
)

RENDER = {"id": "r", "project_id": "p", "status": "succeeded"}
KEY = {"id": "k", "project_id": "p"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-06-05T10:00:03.120Z", "2026-06-05T10:00:03.120Z"),
        ("2026-06-05 10:00:00.12+00", "2026-06-05T10:00:00.120Z"),
        ("2026-06-05T12:00:00.1239+02:00", "2026-06-05T10:00:00.123Z"),
        ("2026-06-05 10:00:00", "2026-06-05T10:00:00.000Z"),
        ("2026-06-05", "2026-06-05T00:00:00.000Z"),
        ("2026-W23-5T10:00:03.120Z", "2026-06-05T10:00:03.120Z"),
    ],
)
def test_times_have_one_form(text: str, canonical: str) -> None:
    assert timestamp(text) == canonical


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("512", 512), ("8M", 8_000_000), ("8 MB", 8_000_000), ("1.5GB", 1_500_000_000), ("4GiB", 4 << 30)],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["2026-06-05T10:00:03.120z", "2026-06-05t10:00:03.12z", "2026-06-05 10:00:03.120z"])
def test_the_zone_of_a_time_may_be_small(text: str) -> None:
    assert timestamp(text) == "2026-06-05T10:00:03.120Z"


@pytest.mark.parametrize(
    "text",
    [
        "06/05/2026 10:00:00 UTC",
        "05/06/2026 10:00:00.12 CEST",
        "Fri Jun 05 10:00:00.12 2026 UTC",
        "Fri 05 Jun 10:00:00 2026",
        "05.06.2026 10:00:00.12 UTC",
        "05-06-2026",
        "2026-06-05 10:00:00 CEST",
        "0044-03-15 BC",
        "10000-01-01 00:00:00+00",
        "-infinity",
    ],
)
def test_a_time_in_another_style_than_iso_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        timestamp(text)


def test_what_never_happens_is_no_time() -> None:
    assert read_record(ApiKey, {**KEY, "key_hash": "0" * 64, "revoked_at": "infinity"}).revoked_at is None
    with pytest.raises(ValueError, match="created_at: expected a time"):
        read_record(Render, {**RENDER, "created_at": "infinity"})


def test_a_hash_may_be_written_as_postgres_writes_bytes() -> None:
    assert read_record(ApiKey, {**KEY, "key_hash": "\\x" + "aB" * 32}).key_hash == "ab" * 32


OWN = "renders/p/r.pdf"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"https://bucket.s3.eu-west-1.amazonaws.com/{OWN}", OWN),
        (f"https://bucket.s3.amazonaws.com/{OWN}?X-Amz-Signature=a/b#x", OWN),
        (f"https://s3.eu-west-1.amazonaws.com/bucket/{OWN}", OWN),
        (f"https://s3.amazonaws.com/bucket/prefix/{OWN}", OWN),
        (f"https://cdn.example.com/{OWN}", OWN),
        (f"https://cdn.example.com/some/prefix/{OWN}", OWN),
        (f"https://pub-0123.r2.dev/{OWN}", OWN),
        (f"https://0123abc.r2.cloudflarestorage.com/bucket/{OWN}", OWN),
        (f"http://localhost:9000/bucket/{OWN}", OWN),
        (f"s3://bucket/{OWN}", OWN),
        (f"gs://bucket/prefix/{OWN}", OWN),
        (f"/{OWN}", OWN),
        (OWN, OWN),
        ("https://cdn.example.com/renders/p/a%20b%C3%A9+c.pdf", "renders/p/a bé+c.pdf"),
        ("https://bucket.s3.amazonaws.com/2026/x.pdf", "2026/x.pdf"),
        ("https://s3.eu-west-1.amazonaws.com/bucket/2026/x.pdf", "2026/x.pdf"),
        ("https://0123abc.r2.cloudflarestorage.com/bucket/2026/x.pdf", "2026/x.pdf"),
        ("https://storage.googleapis.com/bucket/2026/x.pdf", "2026/x.pdf"),
        ("s3://bucket/2026/x.pdf", "2026/x.pdf"),
        ("https://api.craftkit.dev/v1/renders/r/download", OWN),
    ],
)
@pytest.mark.parametrize("name", ["asset_url", "assetUrl"])
def test_an_address_says_the_asset_key(url: str, key: str, name: str) -> None:
    given: dict[str, Any] = {**RENDER, name: url, "note": 1}
    record = read_record(Render, given)
    assert (record.asset_key, msgspec.json.decode(record.extra or "")) == (key, {"asset_url": url, "note": 1})
    reader = LineReader(Render, None)
    reader.learn(given)
    fast = reader.read(msgspec.json.encode(given))
    assert fast is not None
    assert (getattr(fast, "asset_key"), fast.extra) == (key, record.extra)  # noqa: B009 - no field of every record


@pytest.mark.parametrize(
    "url", ["https://files.example.com/bucket/x.pdf", "https://h/renders/q/r.pdf", "s3://b/../x", ""]
)
def test_an_address_that_does_not_say_the_key_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"asset_(url: expected an address|key: expected)"):
        read_record(Render, {**RENDER, "asset_url": url})
    assert read_record(Render, {**RENDER, "asset_url": url, "asset_key": OWN}).asset_key == OWN


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": "r" * 252}, "id: expected at most 251 bytes: no store can hold a longer file name"),
        ({"id": "é" * 126}, "id: expected at most 251 bytes"),
        ({"project_id": "é" * 128}, "asset_key: expected names of at most 255 bytes"),
        ({"asset_key": f"a/{'b' * 256}/c.pdf"}, "asset_key: expected names of at most 255 bytes"),
        ({"asset_key": "renders"}, "asset_key: expected one below renders/p/"),
        ({"asset_key": "renders/p"}, "asset_key: expected one below renders/p/"),
        ({"asset_key": "a/" * 600}, "asset_key: expected a relative path"),
    ],
)
def test_a_name_that_no_store_can_hold_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_record(Render, RENDER | fields)


@pytest.mark.parametrize(
    "fields", [{"id": "r" * 251}, {"asset_key": f"a/{'b' * 255}"}, {"id": "r" * 256, "status": "failed"}]
)
def test_the_longest_names_are_taken(fields: dict[str, Any]) -> None:
    read_record(Render, RENDER | fields)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("30d", 2_592_000), ("1w", 604_800)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("read", [parse_size, parse_duration])
@pytest.mark.parametrize("text", ["", "-1", "many", "1x", "1e9", "٣d", "8MM", "h2"])
def test_what_is_neither_size_nor_duration_is_refused(text: str, read: Callable[[str], int]) -> None:
    with pytest.raises(ValueError, match="Use a number and a unit"):
        read(text)


@pytest.mark.parametrize(
    "text", ["", "now", "2026-02-30T10:00:00Z", "0001-01-01T00:00:00+10:00", "1765432100", "infinity"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        timestamp(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_canonical_time_stays_as_it_is(moment: datetime) -> None:
    assert timestamp(format_time(moment)) == format_time(moment)


def test_both_spellings_mean_the_same() -> None:
    snake = {**RENDER, "template_id": "t", "created_at": "2026-01-01", "duration_ms": 3, "input_data": {"aB": 1}}
    camel = {"id": "r", "projectId": "p", "status": "succeeded", "templateId": "t", "createdAt": "2026-01-01"}
    assert read_record(Render, snake) == read_record(Render, {**camel, "durationMs": 3, "inputData": {"aB": 1}})


def test_a_field_given_in_both_spellings_must_agree() -> None:
    assert read_record(Render, {**RENDER, "projectId": "p"}).project_id == "p"
    with pytest.raises(ValueError, match="project_id: given twice"):
        read_record(Render, {**RENDER, "projectId": "q"})


def test_unknown_fields_are_kept() -> None:
    extra = read_record(Render, {**RENDER, "pollUrl": "u", "inputData": {"b": 1, "a": None}, "started_at": None}).extra
    assert extra == '{"input_data":{"a":null,"b":1},"poll_url":"u"}', "in one order, without what is nothing"


def test_a_succeeded_render_has_the_key_that_upstream_uses() -> None:
    assert read_record(Render, RENDER).asset_key == "renders/p/r.pdf"
    assert read_record(Render, {**RENDER, "asset_key": "elsewhere/x.pdf"}).asset_key == "elsewhere/x.pdf"
    assert read_record(Render, {**RENDER, "status": "queued"}).asset_key is None


def test_a_project_can_be_named_for_records_that_name_none() -> None:
    assert read_record(Render, {"id": "r", "status": "queued"}, project_id="p").project_id == "p"
    assert read_record(Render, {**RENDER, "project_id": "own"}, project_id="p").project_id == "own"


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        (Render, [], "expected a JSON object, got list"),
        (Render, "x", "expected a JSON object, got str"),
        (Render, {}, "id: expected text of 1 to 256 printable characters, got nothing"),
        (Render, {"project_id": "p", "status": "queued"}, "id: expected text"),
        (Render, {**RENDER, "id": 7}, "id: expected text of 1 to 256 printable characters, got '7'"),
        (Render, {**RENDER, "id": ""}, "id: expected"),
        (Render, {**RENDER, "id": "a\nb"}, "id: expected"),
        (Render, {"id": "r", "status": "queued"}, "--project"),
        (
            Render,
            {**RENDER, "status": "done"},
            "status: expected one of queued, rendering, succeeded, failed, cancelled",
        ),
        (Render, {**RENDER, "asset_key": "../../etc/passwd"}, "asset_key: expected a relative path that stays inside"),
        (Render, {**RENDER, "asset_key": "/etc/passwd"}, "asset_key: expected"),
        (Render, {**RENDER, "asset_key": "renders/other/r.pdf"}, "asset_key: expected one below renders/p/"),
        (ApiKey, {**KEY, "key": "ck_live_"}, "key: expected the whole key"),
        (ApiKey, {**KEY, "key": "ck_live_abcd…"}, "key: expected the whole key"),
        (
            ApiKey,
            {**KEY, "key": "hunter2hunter2hunter2"},
            "key: expected a project key, ck_live_… or ck_test_…, got 'hunt…'",
        ),
        (Render, {**RENDER, "created_at": "2026-02-30T00:00:00Z"}, "created_at: expected a time such as 2026-"),
        (Render, {**RENDER, "created_at": 1765432100}, "created_at: expected"),
        (Render, {**RENDER, "duration_ms": -1}, "duration_ms: expected a whole number of milliseconds, 0 or more"),
        (Render, {**RENDER, "duration_ms": 1.5}, "duration_ms: expected"),
        (Project, {"id": "p"}, "name: expected text, got nothing"),
        (ApiKey, KEY, "key_hash: expected 64 hex digits of SHA-256, or the plain key, got nothing"),
        (ApiKey, {**KEY, "key_hash": "$2b$10$abcdefgh"}, "key_hash: expected 64 hex digits"),
        (ApiKey, {**KEY, "key": "ck_acct_abcdefgh12345678"}, "key: expected a project key, ck_live_… or ck_test_…"),
        (
            ApiKey,
            {**KEY, "key": "ck_live_abcdefgh12345678", "key_hash": "0" * 64},
            "key_hash: expected the SHA-256 of the key",
        ),
        (ApiKey, {**KEY, "key_hash": "0" * 64, "prefix": "ck_acct_abcd"}, "prefix: expected that of a project key"),
    ],
)
def test_a_wrong_record_is_refused_with_the_field_and_what_was_expected(
    kind: type[Incoming], given: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        read_record(kind, given)
    assert reason in str(caught.value)


@pytest.mark.parametrize("render_id", ["0193c2c3", "..", "a b", "é", "x" * 251, "9e107d9d-372b-1826-81d8-3542a419d6ff"])
def test_an_id_is_never_refused_for_its_form(render_id: str) -> None:
    assert read_record(Render, {**RENDER, "id": render_id}).id == render_id


def test_a_plain_key_is_hashed_and_forgotten() -> None:
    plain = "ck_live_abcd1234efgh5678"
    key = read_record(ApiKey, {**KEY, "key": plain, "copy": f"see {plain}."})
    assert key.key_hash == sha256(plain.encode()).hexdigest()
    assert key.prefix == "ck_live_abcd"
    assert plain not in repr(key)


def test_a_key_in_the_place_of_another_field_is_cut() -> None:
    plain = "ck_live_abcd1234efgh5678"
    key = read_record(ApiKey, {**KEY, "key_hash": "0" * 64, "name": f"my {plain}"})
    assert key.name == "my ck_live_abcd…"
    render = read_record(Render, {**RENDER, "error_message": f"refused {plain}", "input_data": {"a": [plain]}})
    assert plain not in repr(render)
    reader = LineReader(Render, None)
    reader.learn({**RENDER, "error_message": None})
    line = msgspec.json.encode({**RENDER, "error_message": f"refused {plain}"})
    assert reader.read(line) is None, "takes a closer look"


def test_a_given_hash_is_taken_in_either_case() -> None:
    assert read_record(ApiKey, {**KEY, "key_hash": "AB" * 32}).key_hash == "ab" * 32


def test_a_key_in_the_place_of_the_prefix_is_cut() -> None:
    key = read_record(ApiKey, {**KEY, "key_hash": "0" * 64, "prefix": "ck_live_abcd1234efgh5678"})
    assert key.prefix == "ck_live_abcd…"


def test_a_refused_key_is_not_told() -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        read_record(ApiKey, {**KEY, "key": "ck_acct_abcd1234efgh5678"})
    assert "1234" not in str(caught.value)


@given(st.sampled_from(["live", "test", "acct"]), st.text("abcXYZ019_-", min_size=5, max_size=50), st.text(max_size=9))
def test_masking_leaves_no_key(kind: str, random: str, around: str) -> None:
    secret = f"ck_{kind}_{random}"
    assert secret not in mask(f"{around} {secret} {around}")
    assert mask(mask(secret)) == mask(secret)


@given(st.text() | st.text("'=+-@\t\rx", max_size=4))
def test_a_defused_cell_is_no_formula_and_can_be_restored(text: str) -> None:
    assert not escape_formula(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_formula(escape_formula(text)) == text
